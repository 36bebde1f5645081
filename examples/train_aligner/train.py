"""Train an aligner; stopped at any time, it goes on where it was.

    python train.py --model whisper --data data --test test --start whisper-tiny-encoder --out run --seconds 900

``run/`` then has checkpoint.pt (to go on), log.jsonl (the curve), last/ and best/ with the running mean of the
weights: best is where the real recordings that were held out of training are spelt best. ``--until`` ends this
call, ``--seconds`` is the whole schedule. Shards may grow while it runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from augment import augment, resampled
from data import Corpus, Planner, clean_audio
from evaluate import error_rate, report, sound, time_words
from loss import BORDER, prices, restricted_ctc
from models import MODELS, RATE, STRIDE, WhisperCTC, save, start
from torch import Tensor, nn
from words import trimmed_words

RATES = {"mini": (6e-4, 6e-4), "whisper": (1.2e-4, 1.5e-3)}  # encoder, head
FALLS = {"mini": 1.0, "whisper": 0.7}  # of the encoder's rate, from each layer to the next below
GROWN = 1.15  # times the bytes of the shards, at which they are read again


def learning_rate(share: float, step: int, warm: int = 400) -> float:
    """Of the peak: linear up, cosine down to 1 %."""
    return min((step + 1) / warm, 1.0) * max(0.5 * (1 + math.cos(math.pi * min(share, 1.0))), 0.01)


def rate(name: str, rates: tuple[float, float], fall: float, theirs: int) -> float:
    """A parameter's: the head's; less by ``fall`` for each layer of the encoder on the way down; between on top."""
    low, high = rates
    if "lm_head" in name:
        return high
    if "encoder.layers." not in name or fall == 1:
        return low * (fall**theirs if "conv" in name else 1)
    layer = int(name.split("layers.")[1].split(".")[0])
    return low * fall ** (theirs - 1 - layer) if layer < theirs else math.sqrt(low * high)


class Trainer:
    """A model, its optimiser, and the running mean of its weights."""

    def __init__(self, a: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(9)
        self.model = (WhisperCTC(a.tiny, a.layers) if a.model == "whisper" else MODELS[a.model](a.tiny)).to(
            device
        )
        self.device, self.folder, self.low = device, a.out, math.inf
        self.step, self.elapsed = 0, 0.0
        if a.start:
            start(self.model, a.start)
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False) if a.keep else None
        rates, theirs = tuple(a.rates or RATES[a.model]), getattr(self.model, "theirs", 0)
        fall = a.fall or FALLS[a.model]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                key = (rate(name, rates, fall, theirs), 0.02 if p.dim() > 1 else 0.0)
                groups.setdefault(key, []).append(p)
        self.optimizer = torch.optim.AdamW(
            [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()],
            betas=(0.9, 0.98), fused=device.type == "cuda",
        )  # fmt: skip
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.mean = [p.detach().clone() for p in self.parameters]
        self.file = self.folder / "checkpoint.pt"
        if self.file.exists():
            self._resume()

    def _resume(self) -> None:
        kept = torch.load(self.file, map_location=self.device, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.mean = [m.to(self.device) for m in kept["mean"]]
        self.step, self.elapsed, self.low = kept["step"], kept["elapsed"], kept["low"]

    def keep(self, wrong: float) -> None:
        """Write the checkpoint beside, then rename; and the mean weights in float16, as best if they are."""
        best, self.low = wrong < self.low, min(wrong, self.low)
        kept = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "mean": self.mean,
            "step": self.step, "elapsed": self.elapsed, "low": self.low,
        }  # fmt: skip
        torch.save(kept, self.file.with_suffix(".part"))
        os.replace(self.file.with_suffix(".part"), self.file)
        self.swap()
        for name in ("last", "best")[: 1 + best]:
            save(self.model, self.folder / name, {"steps": str(self.step)})
        self.swap()

    def swap(self) -> None:
        """The mean weights for the weights, and back."""
        for p, m in zip(self.parameters, self.mean, strict=True):
            now = p.data.clone()
            p.data.copy_(m)
            m.copy_(now)

    def away(self, early: Tensor, clean: Tensor) -> Tensor:
        """How far Whisper's own layers have moved from what they said of the speech without noise, 0 to about 1."""
        with torch.no_grad():
            wanted = self.teacher.heard(clean)[1].float()
        return (early.float() - wanted).pow(2).mean() / wanted.pow(2).mean()

    def update(self, loss: Tensor, share: float) -> Tensor:
        """A step; the norm of the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(share, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        decay = min(0.999, (1 + self.step) / (20 + self.step))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.parameters], 1 - decay)
        return norm


def retime(trainer: Trainer, corpus: Corpus) -> str:
    """The real recordings' words, timed anew by the mean weights; those that fit badly are left out."""
    trainer.swap()
    trainer.model.eval()
    items = np.flatnonzero(corpus.source == "real").tolist()
    kept, moved = 0, []
    for n, (words, score) in time_words(trainer.model, corpus, items).items():
        whole = len(words) == (corpus.text[n] == BORDER).sum() + 1
        old, new = corpus.words[n], words if whole and score > -0.5 else None
        if new is None:
            continue  # keep what there was
        if old is not None:
            moved.append((new - old).mean())
        corpus.words[n], kept = trimmed_words(new, sound(corpus, n)), kept + 1
    trainer.model.train()
    trainer.swap()
    return f"retimed {kept} of {len(items)}, moved by {1000 * np.mean(moved or [0]):+.1f} ms"


class Supply:
    """Batches from the shards of a folder, which may grow."""

    def __init__(self, a: argparse.Namespace, trainer: Trainer) -> None:
        self.folder, self.trainer, self.seconds = a.data, trainer, a.batch
        self.shares = {k: float(v) for k, v in (s.split("=") for s in a.shares.split(","))}
        self.planner: Planner | None = None
        self.read()

    def read(self) -> None:
        """Take what there is."""
        if self.planner:
            self.planner.over.set()
        self.bytes = self.weight()
        self.corpus = Corpus.read(self.folder, self.trainer.device)
        self.held = np.flatnonzero(self.corpus.held).tolist()
        self.planner = Planner(self.corpus, self.shares, self.seconds, self.trainer.model.frames)
        self.plans = self.planner.stream(self.trainer.step + 1)

    def weight(self) -> int:
        """Bytes of the shards."""
        return sum(p.stat().st_size for p in self.folder.glob("*.pcm"))

    def grown(self) -> bool:
        """Whether much has been spoken since."""
        return self.weight() > GROWN * self.bytes


def lesson(trainer: Trainer, supply: Supply, a: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's loss a frame, how far Whisper's layers have moved, and the share of rows with a path."""
    plan, device = next(supply.plans), trainer.device
    clean = resampled(clean_audio(plan, supply.corpus), plan.samples)
    audio = augment(clean)
    give = lambda x: torch.from_numpy(x).to(device, non_blocking=True)  # noqa: E731
    centres = (torch.arange(plan.mask.shape[1], device=device) * STRIDE + trainer.model.centre) / RATE
    price = prices(give(plan.times), give(plan.letters), give(plan.slack), centres, a.blank, a.beside)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        if a.keep:
            scores, early = trainer.model.heard(audio, give(plan.mask))
            moved = trainer.away(early, clean)
        else:
            scores, moved = trainer.model(audio, give(plan.mask)), torch.zeros((), device=device)
    loss, good = restricted_ctc(scores, price, give(plan.targets), torch.from_numpy(plan.lengths))
    return loss, moved, good


def arguments() -> argparse.Namespace:
    """Of the command line."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--model", choices=MODELS, required=True)
    for name in ("data", "test", "out"):
        args.add_argument(f"--{name}", type=Path, required=True)
    args.add_argument("--start", type=Path, help="a checkpoint to begin from; without it, from scratch")
    args.add_argument("--seconds", type=float, required=True, help="of the whole schedule")
    args.add_argument("--until", type=float, default=1e9, help="seconds that this call may take")
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args.add_argument("--batch", type=float, default=480.0, help="seconds of audio")
    args.add_argument("--shares", default="kokoro=.62,real=.38")
    args.add_argument("--blank", type=float, default=1.5, help="price of a blank inside a word; 0: peaky")
    args.add_argument("--beside", type=float, default=1.0, help="price of a letter beside its word")
    args.add_argument("--retime", type=float, nargs="*", default=[0.35], help="shares of the schedule")
    args.add_argument("--layers", type=int, default=5, help="of Whisper's encoder; those above its 4 are new")
    args.add_argument("--rates", type=float, nargs=2, help="learning rates of the encoder and of the head")
    args.add_argument("--fall", type=float, help="of the encoder's rate, from each layer to the next below")
    args.add_argument("--keep", type=float, default=0.0, help="weight of what Whisper's encoder said")
    args.add_argument("--every", type=float, default=60.0, help="seconds between evaluations")
    args.add_argument("--tiny", action="store_true")
    a = args.parse_args()
    if a.keep and a.model != "whisper":
        args.error("--keep is of what Whisper's encoder says: take --model whisper")
    return a


def main() -> None:
    """Train until the time is up."""
    a, began = arguments(), time.time()
    device = torch.device(a.device)
    torch.set_float32_matmul_precision("high")
    a.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(a, device)
    supply, tests = Supply(a, trainer), Corpus.read(a.test, device, held_out=0)
    hours = f"{supply.corpus.hours()} h, {len(supply.held)} held out, test {tests.hours()} h"
    print(f"{hours}, from step {trainer.step}", flush=True)
    retimes, retimed = [r for r in a.retime if r * a.seconds > trainer.elapsed], False
    log = (a.out / "log.jsonl").open("a", encoding="utf-8")
    losses: list[Tensor] = []
    last = time.time()
    evaluated, before, at_start = last, trainer.elapsed, trainer.step
    while True:
        now = time.time()
        trainer.elapsed = before + now - last
        share = trainer.elapsed / a.seconds
        if now - began > a.until or share >= 1:
            break
        if retimes and share > retimes[0]:
            retimes.pop(0)
            retimed = True
            print(retime(trainer, supply.corpus), flush=True)
        loss, moved, good = lesson(trainer, supply, a)
        norm = trainer.update(loss + a.keep * moved, share)
        losses.append(torch.stack([loss.detach(), moved.detach()]))
        if trainer.step % 200 == 0 or trainer.step - at_start in (1, 50):
            pace = (trainer.elapsed - before) / (trainer.step - at_start)
            row = {"step": trainer.step, "seconds": round(trainer.elapsed)}
            row |= dict(zip(("loss", "moved"), torch.stack(losses).mean(0).tolist(), strict=True))
            row |= {"norm": float(norm), "good": float(good), "seconds_a_step": round(pace, 4)}
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            losses = []
        if time.time() - evaluated > a.every:
            watch(trainer, tests, supply, log)
            if not retimed and supply.grown():
                supply.read()
                print(f"{supply.corpus.hours()} h", flush=True)
            evaluated = time.time()
    watch(trainer, tests, supply, log)
    print(f"kept step {trainer.step}, {time.time() - began:.0f} s", flush=True)
    os._exit(0)  # the planners' threads never end


def watch(trainer: Trainer, tests: Corpus, supply: Supply, log: object) -> None:
    """The test sets by the mean weights, into the log; and a checkpoint."""
    trainer.swap()
    lines = report(trainer.model, tests, 40)
    trainer.model.eval()
    wrong = error_rate(trainer.model, supply.corpus, supply.held)
    trainer.model.train()
    lines.append(f"real, held out: CER {100 * wrong:.2f} %")
    trainer.swap()
    row = {"step": trainer.step, "seconds": round(trainer.elapsed), "report": lines}
    print(json.dumps(row), flush=True)
    log.write(json.dumps(row) + "\n")  # type: ignore[attr-defined]
    log.flush()  # type: ignore[attr-defined]
    trainer.keep(wrong)


if __name__ == "__main__":
    main()

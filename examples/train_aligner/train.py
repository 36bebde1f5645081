"""Train an aligner; stopped at any time, it goes on where it was.

    python train.py --model whisper --data data --test test --start whisper-tiny-encoder --out run --seconds 900

``run/`` then has checkpoint.pt (to go on), log.jsonl (the curve) and best/…safetensors, the running mean of the
weights. ``--until`` ends this call, ``--seconds`` is the whole schedule.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from augment import augment, resampled
from data import Corpus, Planner, clean_audio
from evaluate import report, time_words
from loss import BORDER, prices, restricted_ctc
from models import MODELS, RATE, STRIDE, save, start
from torch import Tensor, nn

RATES = {"mini": (6e-4, 6e-4), "whisper": (2.5e-4, 1.5e-3)}  # encoder, head


def learning_rate(share: float, step: int, warm: int = 400) -> float:
    """Of the peak: linear up, cosine down to 1 %."""
    return min((step + 1) / warm, 1.0) * max(0.5 * (1 + math.cos(math.pi * min(share, 1.0))), 0.01)


class Trainer:
    """A model, its optimiser, and the running mean of its weights."""

    def __init__(self, kind: str, device: torch.device, folder: Path, first: Path | None, tiny: bool) -> None:
        torch.manual_seed(9)
        self.model = MODELS[kind](tiny).to(device)
        self.device, self.folder = device, folder
        self.step, self.elapsed = 0, 0.0
        if first:
            start(self.model, first)
        low, high = RATES[kind]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                key = (high if "lm_head" in name else low, 0.02 if p.dim() > 1 else 0.0)
                groups.setdefault(key, []).append(p)
        self.optimizer = torch.optim.AdamW(
            [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()],
            betas=(0.9, 0.98), fused=device.type == "cuda",
        )  # fmt: skip
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.mean = [p.detach().clone() for p in self.parameters]
        self.file = folder / "checkpoint.pt"
        if self.file.exists():
            self._resume()

    def _resume(self) -> None:
        kept = torch.load(self.file, map_location=self.device, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.mean = [m.to(self.device) for m in kept["mean"]]
        self.step, self.elapsed = kept["step"], kept["elapsed"]

    def keep(self) -> None:
        """Write the checkpoint beside, then rename; and the mean weights in float16."""
        kept = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "mean": self.mean,
            "step": self.step, "elapsed": self.elapsed,
        }  # fmt: skip
        torch.save(kept, self.file.with_suffix(".part"))
        os.replace(self.file.with_suffix(".part"), self.file)
        self.swap()
        save(self.model, self.folder / "best", {"steps": str(self.step)})
        self.swap()

    def swap(self) -> None:
        """The mean weights for the weights, and back."""
        for p, m in zip(self.parameters, self.mean, strict=True):
            now = p.data.clone()
            p.data.copy_(m)
            m.copy_(now)

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
        corpus.words[n], kept = new, kept + 1
    trainer.model.train()
    trainer.swap()
    return f"retimed {kept} of {len(items)}, moved by {1000 * np.mean(moved or [0]):+.1f} ms"


def main() -> None:
    """Train until the time is up."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--model", choices=MODELS, required=True)
    for name in ("data", "test", "out"):
        args.add_argument(f"--{name}", type=Path, required=True)
    args.add_argument("--start", type=Path, help="a checkpoint to begin from; without it, from scratch")
    args.add_argument("--seconds", type=float, required=True, help="of the whole schedule")
    args.add_argument("--until", type=float, default=1e9, help="seconds that this call may take")
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args.add_argument("--batch", type=float, default=480.0, help="seconds of audio")
    args.add_argument("--shares", default="kokoro=.75,real=.25")
    args.add_argument("--blank", type=float, default=1.5, help="price of a blank inside a word; 0: peaky")
    args.add_argument("--beside", type=float, default=1.0, help="price of a letter beside its word")
    args.add_argument(
        "--retime", type=float, nargs="*", default=[0.4], help="shares of the schedule at which"
    )
    args.add_argument("--every", type=float, default=60.0, help="seconds between evaluations")
    args.add_argument("--tiny", action="store_true")
    a = args.parse_args()
    began = time.time()
    device = torch.device(a.device)
    torch.set_float32_matmul_precision("high")
    a.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(a.model, device, a.out, a.start, a.tiny)
    corpus, tests = Corpus.read(a.data, device), Corpus.read(a.test, device, held_out=0)
    held = np.flatnonzero(corpus.held).tolist()
    print(
        f"{corpus.hours()} h, {len(held)} held out, test {tests.hours()} h, from step {trainer.step}",
        flush=True,
    )
    shares = {k: float(v) for k, v in (s.split("=") for s in a.shares.split(","))}
    retimes = [r for r in a.retime if r * a.seconds > trainer.elapsed]
    plans = Planner(corpus, shares, a.batch, trainer.model.frames).stream(trainer.step + 1)
    log = (a.out / "log.jsonl").open("a", encoding="utf-8")
    centre = trainer.model.centre / RATE
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
            print(retime(trainer, corpus), flush=True)
        plan = next(plans)
        audio = augment(resampled(clean_audio(plan, corpus), plan.samples))
        give = lambda x: torch.from_numpy(x).to(device, non_blocking=True)  # noqa: E731
        centres = torch.arange(plan.mask.shape[1], device=device) * (STRIDE / RATE) + centre
        price = prices(give(plan.times), give(plan.letters), give(plan.slack), centres, a.blank, a.beside)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            scores = trainer.model(audio, give(plan.mask))
        loss, good = restricted_ctc(scores, price, give(plan.targets), torch.from_numpy(plan.lengths))
        norm = trainer.update(loss, share)
        losses.append(loss.detach())
        if trainer.step % 200 == 0 or trainer.step - at_start in (1, 50):
            pace = (trainer.elapsed - before) / (trainer.step - at_start)
            row = {
                "step": trainer.step,
                "seconds": round(trainer.elapsed),
                "loss": float(torch.stack(losses).mean()),
            }
            row |= {"norm": float(norm), "good": float(good), "seconds_a_step": round(pace, 4)}
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            losses = []
        if time.time() - evaluated > a.every:
            watch(trainer, tests, corpus, held, log)
            evaluated = time.time()
    watch(trainer, tests, corpus, held, log)
    print(f"kept step {trainer.step}, {time.time() - began:.0f} s", flush=True)
    os._exit(0)  # the planners' threads never end


def watch(trainer: Trainer, tests: Corpus, corpus: Corpus, held: list[int], log: object) -> None:
    """The test sets by the mean weights, into the log; and a checkpoint."""
    trainer.swap()
    lines = report(trainer.model, tests, 40)
    trainer.swap()
    row = {"step": trainer.step, "seconds": round(trainer.elapsed), "report": lines}
    print(json.dumps(row), flush=True)
    log.write(json.dumps(row) + "\n")  # type: ignore[attr-defined]
    log.flush()  # type: ignore[attr-defined]
    trainer.keep()


if __name__ == "__main__":
    main()

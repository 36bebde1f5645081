"""Kokoro speaks the sentences of texts.py: NAME.pcm (int16, 16 kHz, one after another) and NAME.jsonl.

A line of NAME.jsonl: ``{"n": samples, "text", "words": [[start, end]…] in seconds, "source", "voice"}``. The times
are the synthesiser's durations, less its measured lag (lag.py), words meeting in the middle of a short gap.

    python speak.py OUT/NAME --seed 1 --seconds 200 --model kokoro.onnx --voices voices.npz \
        --vocabulary vocab.json --texts texts.jsonl --device cuda
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from onnx_torch import Network
from words import LAG, word_times

RATE, SPOKEN_RATE = 16000, 24000
HELD_OUT = ("af_river", "am_echo", "bf_lily", "bm_lewis")  # heard in no mixture: the test set's voices
MIXED = 0.7  # of the sentences are read by a mixture of two voices
SHARE = (-0.15, 1.15)  # of the first voice in a mixture; beyond 0 and 1 lies what sets it apart, exaggerated
MARKS = set(',.!?;:—…"“”()')
# Where torchaudio is not at hand: a windowed sinc, 24 to 16 kHz
TAPS = 96
DURATIONS = "/encoder/Clip_output_0"  # frames of 25 ms a phoneme


class Downsample:
    """24 to 16 kHz: up by 2, a low pass at 7.6 kHz, down by 3."""

    def __init__(self, device: str) -> None:
        t = torch.arange(-TAPS, TAPS + 1, dtype=torch.float64)
        cut = 2 * 7600 / (2 * SPOKEN_RATE)
        kernel = torch.sinc(t * cut) * torch.kaiser_window(
            2 * TAPS + 1, periodic=False, beta=8.0, dtype=torch.float64
        )
        self.kernel = (kernel * 2 / kernel.sum()).float().to(device)[None, None]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(S,) at 24 kHz to (2 S / 3,) at 16 kHz."""
        up = torch.zeros(2 * len(x), device=x.device)
        up[::2] = x
        return torch.nn.functional.conv1d(up[None, None], self.kernel, stride=3, padding=TAPS)[0, 0]


def phoneme_ids(phonemes: str, vocabulary: dict[str, int]) -> tuple[list[int], list[int]]:
    """Ids, and the word that each belongs to (-1: punctuation and the spaces between)."""
    ids, owners = [], []
    for n, word in enumerate(phonemes.split(" ")):
        if n:
            ids.append(vocabulary[" "])
            owners.append(-1)
        for c in word:
            if c in vocabulary:
                ids.append(vocabulary[c])
                owners.append(-1 if c in MARKS else n)
    return ids, owners


class Voices:
    """Style vectors (510, 256) by name, mixed at random."""

    def __init__(self, path: Path, held_out: bool, english_share: float = 0.75) -> None:
        every = np.load(path)
        self.step = int(every["step"])
        names = sorted(n for n in every.files if n != "step" and (n in HELD_OUT) == held_out)
        self.styles = {n: every[n].astype(np.float32) for n in names}
        self.by_accent = {b: [n for n in names if n[0] == ("b" if b else "a")] for b in (False, True)}
        self.others = [n for n in names if n[0] not in "ab"]
        self.english_share = english_share if self.others else 1.0

    def pick(self, rng: np.random.Generator, british: bool, length: int, mix: bool) -> tuple[np.ndarray, str]:
        """A style (1, 256) for a sentence of so many phonemes."""

        def one() -> str:
            own = rng.random() < self.english_share
            return str(rng.choice(self.by_accent[british] if own else self.others))

        def style(name: str) -> np.ndarray:
            rows = self.styles[name]
            return rows[min(length // self.step, len(rows) - 1)].reshape(1, 256)

        name = one()
        if not mix or rng.random() > MIXED:
            return style(name), name
        # the first half of a style is the timbre, the second the prosody: each is mixed by itself
        other, share = one(), np.repeat(rng.uniform(*SHARE, 2), 128).astype(np.float32)
        return share * style(name) + (1 - share) * style(other), f"{name}+{other}"


class Kokoro:
    """The synthesiser: phonemes to audio and durations."""

    def __init__(self, model: str, device: str) -> None:
        self.network, self.device = Network(model, device, also=(DURATIONS,)), device
        self.down = Downsample(device)

    def __call__(self, ids: list[int], style: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray]:
        """Audio (S,) int16 at 16 kHz, and the borders of the phonemes (N + 1,) in seconds."""
        audio, lengths = self.network(
            tokens=torch.tensor([[0, *ids, 0]]),
            style=torch.from_numpy(style).to(self.device),
            speed=torch.tensor([speed], device=self.device),
        )[:2]
        audio, lengths = audio.reshape(-1), lengths.reshape(-1).double().cpu().numpy()
        borders = np.cumsum(lengths) * (len(audio) / SPOKEN_RATE / lengths.sum())
        y = self.down(audio)
        y = (y * torch.clamp(0.95 / y.abs().max(), max=1.0) * 32767).to(torch.int16).cpu().numpy()
        return y, borders[:-1]


def main() -> None:
    """Speak until the time is up."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out")
    for name in ("model", "voices", "vocabulary", "texts"):
        args.add_argument(f"--{name}", required=True)
    args.add_argument("--device", default="cuda")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--seconds", type=float, default=200.0)
    args.add_argument("--most", type=int, default=10**9, help="sentences")
    args.add_argument("--held-out", action="store_true", help="the voices of the test set, unmixed")
    args.add_argument("--raw", action="store_true", help="keep the durations as they are (for lag.py)")
    a = args.parse_args()
    end, began = time.time() + a.seconds, time.time()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(1)
    rng = np.random.default_rng(a.seed)
    vocabulary = json.loads(Path(a.vocabulary).read_text(encoding="utf-8"))
    vocabulary = vocabulary.get("vocab", vocabulary)
    voices, kokoro = Voices(Path(a.voices), a.held_out), Kokoro(a.model, a.device)
    lines = Path(a.texts).read_text(encoding="utf-8").splitlines()
    lag = 0.0 if a.raw else LAG
    spoken = samples = bad = 0
    with open(a.out + ".pcm", "wb") as pcm, open(a.out + ".jsonl", "w", encoding="utf-8") as table:
        for k in rng.permutation(len(lines)):
            if time.time() > end or spoken >= a.most:
                break
            line = json.loads(lines[k])
            ids, owners = phoneme_ids(line["phonemes"], vocabulary)
            style, voice = voices.pick(rng, line["british"], len(ids), not a.held_out)
            try:
                audio, borders = kokoro(ids, style, float(rng.uniform(0.8, 1.25)))
            except (RuntimeError, IndexError, AssertionError) as error:  # an odd length; not worth a sentence
                bad += 1
                print("skipped:", repr(error)[:200], flush=True)
                if bad > 20 and not spoken:
                    raise
                continue
            if np.abs(audio).max() < 300:
                continue
            row = {"n": len(audio), "text": line["text"], "source": "kokoro", "voice": voice}
            row["words"] = word_times(borders, owners, len(row["text"].split()), audio, lag).round(4).tolist()
            if a.raw:
                row |= {"phonemes": line["phonemes"], "borders": borders.round(4).tolist()}
            pcm.write(audio.tobytes())
            pcm.flush()
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
            table.flush()
            spoken, samples = spoken + 1, samples + len(audio)
    hours = samples / RATE / 3600
    print(
        f"kokoro {a.seed}: {spoken} sentences, {hours:.2f} h, {bad} bad, {time.time() - began:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()

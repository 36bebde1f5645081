"""Diarization's stages on recorded intermediates of pyannote.audio's community-1 pipeline.

They come from other people's runs of pyannote.audio 4.0 with full-precision weights: each stage gets what the
original had before it, and must give what the original gave.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS that MLX runs on in use)

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, close, same

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.models.pyannet import PyanNetConfig
from mlx_speech.stages.cluster import NOBODY, VBxOptions, assign, clear, cluster, linked
from mlx_speech.stages.diarize import DiarizeOptions, activations, assemble, ranked, speaker_count
from mlx_speech.stages.segmentation import Grid, Segmentation, decided, membership
from mlx_speech.stages.vbx import PLDA, vbx
from mlx_speech.writers import render

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
PLDA_FOLDER = ROOT / "mlx_speech/assets/plda"
THREE = ("02_pyannote_sample", "03_dual_speaker", "04_three_speaker")


def run() -> list[Row]:
    """Rows of every clip that there are intermediates of."""
    rows = [row for name in THREE for row in _stages(name)]
    return [*rows, *_speakrs("pipeline"), *_speakrs("3speakers"), *_powerset()]


def _windows(values: np.ndarray) -> Segmentation:
    active = values > 0.5
    return Segmentation(active.astype(np.float32), active, active, active.any(2), Grid())


def _labels(values: np.ndarray) -> np.ndarray:
    return np.where(values == -2, NOBODY, values).astype(np.int64)


def _equal(check: str, ours: np.ndarray, theirs: np.ndarray, note: str = "") -> Row:
    different = int((np.asarray(ours) != np.asarray(theirs)).sum()) if ours.shape == theirs.shape else -1
    return same(check, different, 0, f"{theirs.size} values that differ: none. {note}".strip())


def _projections(name: str, found: np.ndarray, wanted: np.ndarray) -> Row:
    signs = np.sign((found * wanted).sum(0))
    note = f"{int((signs < 0).sum())} of {len(signs)} axes point the other way, which changes nothing"
    return close(f"{name}: PLDA projection", found * signs, wanted, "diarize.projection", note)


def _stages(name: str) -> list[Row]:
    """Each stage on what the original had before it."""
    folder = DATA / "golden" / name

    def stage(file: str) -> Any:
        return np.load(folder / f"{file}.npz")

    plda = PLDA.load(PLDA_FOLDER)
    segmentation = _windows(stage("segmentations")["segmentations"])
    embeddings = stage("raw_embeddings")["embeddings"]
    projected, state, clusters = stage("plda_embeddings"), stage("vbx_state"), stage("clustering")
    train = clear(segmentation.active, 0.2)
    pairs = np.stack([projected["train_chunk_idx"], projected["train_speaker_idx"]], 1)
    start = np.load(folder / "ahc_init_labels.npy")
    gamma, priors, bounds = vbx(projected["post_plda"], projected["phi"], start)
    talking = segmentation.active.any(1)
    everyone = assign(embeddings, talking, clusters["centroids"], constrained=True)
    found = cluster(embeddings, segmentation.active, VBxOptions(), plda=plda)
    count = speaker_count(segmentation)
    there = stage("reconstruction")
    wide = max(len(found.centroids), int(count.max()))
    who = ranked(activations(segmentation, found, wide), count)
    duration = len(load_audio(folder / "clip_16k.wav")) / SAMPLE_RATE
    whole = assemble(segmentation, found, count, DiarizeOptions(), duration)
    turns = [_rttm_key(line) for line in render(whole, "rttm").splitlines()]
    wanted = [_rttm_key(line) for line in (folder / "reference.rttm").read_text().splitlines()]
    return [
        _equal(f"{name}: training pairs", np.argwhere(train), pairs),
        _equal(f"{name}: AHC start", linked(embeddings[train], 0.6, 8000), start),
        _projections(name, plda.project(embeddings[train]), projected["post_plda"]),
        close(f"{name}: VBx responsibilities", gamma, state["q_final"], "diarize.responsibilities"),
        close(f"{name}: VBx priors", priors, state["sp_final"], "diarize.responsibilities"),
        close(f"{name}: VBx bound", bounds, state["elbo_trajectory"].ravel(), "diarize.bound"),
        close(f"{name}: centroids", found.centroids, clusters["centroids"], "diarize.centroids"),
        _equal(f"{name}: hard clusters", everyone, _labels(clusters["hard_clusters"]), "Silent ones too."),
        _equal(f"{name}: speaker count", count, there["count"][:, 0]),
        _equal(f"{name}: reconstruction", who, there["discrete_diarization"] > 0),
        same(f"{name}: RTTM", _off(turns, wanted), [], "turns off by more than 1 ms: none"),
    ]


def _rttm_key(line: str) -> tuple[float, float, str]:
    part = line.split()
    return float(part[3]), float(part[4]), part[7]


def _off(ours: list[tuple[float, float, str]], theirs: list[tuple[float, float, str]]) -> list[Any]:
    if len(ours) != len(theirs):
        return [len(ours), len(theirs)]
    return [
        (a, b)
        for a, b in zip(ours, theirs, strict=True)
        if a[2] != b[2] or max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 0.0011  # ours end with the recording
    ]


def _speakrs(name: str) -> list[Row]:
    """The intermediates of another project; those of the three-speaker clip begin and end only."""
    folder = DATA / "golden/speakrs"

    def stage(part: str) -> np.ndarray:
        return np.load(folder / f"{name}_{part}.npy")

    plda = PLDA.load(PLDA_FOLDER)
    segmentation, embeddings = _windows(stage("segmentation_data")), stage("embeddings_data")
    found = cluster(embeddings, segmentation.active, VBxOptions(), plda=plda)
    count = speaker_count(segmentation)
    who = ranked(activations(segmentation, found, max(len(found.centroids), int(count.max()))), count)
    rows = [
        _equal(f"speakrs {name}: speaker count", count, stage("speaker_counting_data")[:, 0]),
        _equal(f"speakrs {name}: reconstruction", who, stage("discrete_diarization_data") > 0),
    ]
    if name != "pipeline":
        return rows
    params = json.loads((folder / "pipeline_params.json").read_text())
    assert "'threshold': 0.6, 'Fa': 0.07, 'Fb': 0.8" in params["clustering"]
    train = clear(segmentation.active, 0.2)
    gamma, priors, _ = vbx(stage("plda_features"), stage("plda_phi"), stage("ahc_clusters"))
    return [
        _equal("speakrs: AHC start", linked(stage("train_embeddings"), 0.6, 8000), stage("ahc_clusters")),
        _projections("speakrs", plda.project(embeddings[train]), stage("plda_features")),
        close("speakrs: VBx responsibilities", gamma, stage("vbx_gamma"), "diarize.responsibilities"),
        close("speakrs: VBx priors", priors, stage("vbx_pi"), "diarize.responsibilities"),
        _equal("speakrs: hard clusters", found.labels, _labels(stage("hard_clusters"))),
        *rows,
    ]


def _powerset() -> list[Row]:
    folder = DATA / "golden/speakrs"
    rows = []
    for path in sorted(folder.glob("powerset_mapping_*.npy")):
        speakers, at_once = map(int, path.stem.split("_")[-2:])
        ours = membership(PyanNetConfig(speakers, at_once).speaker_sets)
        rows.append(_equal(f"powerset {speakers}, {at_once} at once", ours, np.load(path)))
    ours = decided(
        np.load(folder / "powerset_input_logits.npy"), membership(PyanNetConfig(3, 2).speaker_sets)
    )
    return [*rows, _equal("powerset decisions", ours, np.load(folder / "powerset_hard_output.npy") > 0)]


if __name__ == "__main__":
    from harness import table

    print(table(run()))

"""What the networks of both sides make of the recordings, computed once and kept.

    python parity/diarize_networks.py            # every recording; those already there are left
    python parity/diarize_networks.py sim1       # those with this in their names

Clustering takes seconds and the networks a quarter of an hour on one core, so their outputs stay in
``out/diarize/`` (ignored by git), under a name that changes with the code, the weights and the recording.

pyannote.audio runs the trunk of its embedding network once a speaker; here once a window, which its model
supports and is a third of the work. bench_diarize.py runs it as it comes.
"""

from __future__ import annotations

import os
import platform

if platform.machine() == "x86_64":
    # Where two speakers are equally strong, pyannote.audio takes the order that numpy.argsort leaves them in.
    # From four speakers on that depends on the CPU: with AVX-512 or AVX2 it is not the speakers' own.
    os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "AVX512_ICL X86_V4 X86_V3")

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS that MLX runs on in use)

import hashlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA as TheirPLDA  # noqa: N811
from pyannote.audio.models.embedding.wespeaker import WeSpeakerResNet34
from pyannote.audio.pipelines import SpeakerDiarization
from safetensors.torch import load_file

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.pipeline import Diarizer
from mlx_speech.stages.diarize import PRESETS, DiarizeOptions
from mlx_speech.stages.embedding import embed_windows
from mlx_speech.stages.segmentation import Grid, Segmentation, segment

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
KEPT = ROOT / "out/diarize"
PLDA_FOLDER = ROOT / "mlx_speech/assets/plda"
SEGMENTATION = DATA / "weights/segmentation-3.0/pytorch_model.bin"
EMBEDDING = DATA / "weights/wespeaker-resnet34-LM-int8/wespeaker_resnet34_lm.dequant.safetensors"
CLIPS = ("sim_librispeech/*.flac", "kokoro_dialog/*.flac", "pyannote_sample/*.wav", "ami/*.wav")
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "community-1": ("VBxClustering", {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8}),
    "3.1": (
        "AgglomerativeClustering",
        {"method": "centroid", "min_cluster_size": 12, "threshold": 0.7045654963945799},
    ),
}
OURS = tuple(
    f"mlx_speech/{name}"
    for name in (
        "audio.py",
        "features.py",
        "runtime.py",
        "layers/*.py",
        "models/pyannet.py",
        "models/wespeaker.py",
        "stages/segmentation.py",
        "stages/embedding.py",
        "assets/segmentation-3.0/*",
        "assets/wespeaker-resnet34-LM/*",
    )
)


class OncePerWindow(WeSpeakerResNet34):
    """Three masks over one window after each other share its trunk."""

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if weights is None or len(waveforms) % 3 or not bool((waveforms[::3] == waveforms[2::3]).all()):
            return super().forward(waveforms, weights)
        return super().forward(waveforms[::3], weights.reshape(-1, 3, weights.shape[-1])).flatten(0, 1)


@cache
def their_pipeline(name: str, kind: type[WeSpeakerResNet34] = WeSpeakerResNet34) -> SpeakerDiarization:
    """pyannote.audio's pipeline with the weights that are bundled here."""
    embedding = kind()
    embedding.load_state_dict(load_file(EMBEDDING))
    clustering, parameters = SETTINGS[name]
    pipeline = SpeakerDiarization(
        segmentation=Model.from_pretrained(SEGMENTATION),
        embedding=embedding.eval(),
        plda=TheirPLDA(PLDA_FOLDER / "xvec_transform.npz", PLDA_FOLDER / "plda.npz"),
        clustering=clustering,
        embedding_exclude_overlap=True,
        segmentation_batch_size=8,
        embedding_batch_size=6,
    )
    return pipeline.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": parameters})


@dataclass(frozen=True, eq=False)
class Theirs:
    """pyannote.audio's segmentation (C, F, S) and embeddings (C, S, D), float32."""

    segmentation: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True, eq=False)
class Ours:
    """The segmentation, and embeddings (C, S, D) float32."""

    segmentation: Segmentation
    embeddings: np.ndarray


def recordings() -> list[Path]:
    """Those with references first, then those of the intermediates."""
    found = [p for pattern in CLIPS for p in sorted((DATA / "audio").glob(pattern))]
    if not found:
        raise FileNotFoundError(f"no recordings in {DATA}; set MLX_SPEECH_DATA")
    return found + sorted((DATA / "golden").glob("*/*.wav"))


def title(path: Path) -> str:
    """A recording's name in reports."""
    return f"{path.parent.name}/{path.stem}"


def theirs(path: Path) -> Theirs:
    """pyannote.audio's networks over a recording."""
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("pyannote.audio", "torch")]
    found = _kept(
        f"{path.parent.name}.{path.stem}.theirs", (path, SEGMENTATION, EMBEDDING), versions, _theirs
    )
    return Theirs(**found)


def ours(path: Path, options: DiarizeOptions) -> Ours:
    """Our networks over a recording, as these options have them; clustering does not matter."""
    name = f"{path.parent.name}.{path.stem}.step{options.step:g}{'.shared' * options.shared_trunk}"
    settings = [repr((options.step, options.shared_trunk, options.exclude_overlap))]
    files = (path, *(p for pattern in OURS for p in sorted(ROOT.glob(pattern))))
    found = _kept(name, files, settings, lambda path: _ours(path, options))
    grid = Grid(*(float(x) for x in found.pop("grid")))
    embeddings = found.pop("embeddings")
    return Ours(Segmentation(votes=found["active"], grid=grid, **found), embeddings)


def _theirs(path: Path) -> dict[str, np.ndarray]:
    pipeline = their_pipeline("community-1", OncePerWindow)
    waveform = torch.from_numpy(load_audio(path))[None]
    file = {"waveform": waveform, "sample_rate": SAMPLE_RATE, "uri": "clip"}
    segmentation = pipeline.get_segmentations(file)
    embeddings = pipeline.get_embeddings(file, segmentation, exclude_overlap=True)
    return {"segmentation": segmentation.data, "embeddings": embeddings}


def _ours(path: Path, options: DiarizeOptions) -> dict[str, np.ndarray]:
    diarizer, audio = _diarizer(), load_audio(path)
    heard = segment(diarizer.segmentation, audio, step=options.step)
    embeddings = embed_windows(
        diarizer.embedding,
        audio,
        heard,
        exclude_overlap=options.exclude_overlap,
        shared_trunk=options.shared_trunk,
    )
    grid = np.array(list(asdict(heard.grid).values()))
    fields = {name: getattr(heard, name) for name in ("scores", "active", "speech")}
    return {**fields, "grid": grid, "embeddings": embeddings}


@cache
def _diarizer() -> Diarizer:
    return Diarizer.load()


def _kept(
    name: str,
    files: Iterable[Path],
    settings: list[str],
    compute: Callable[[Path], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """What ``compute`` makes of the first file, from disk where it made it of the same files before."""
    files = list(files)
    digest = hashlib.sha256("\n".join(settings).encode())
    for file in files:
        digest.update(_digest(file))
    path = KEPT / f"{name}.{digest.hexdigest()[:12]}.npz"
    if not path.exists():
        begun = perf_counter()
        found = compute(files[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.part.npz")
        np.savez_compressed(beside, **found)
        beside.replace(path)
        print(f"{path.name}: {perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
    with np.load(path) as stored:
        return {key: stored[key] for key in stored}


@cache
def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def main(wanted: list[str]) -> None:
    """Fill the folder."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    for path in recordings():
        if not wanted or any(part in title(path) for part in wanted):
            for options in PRESETS.values():
                ours(path, options)
            theirs(path)


if __name__ == "__main__":
    main(sys.argv[1:])

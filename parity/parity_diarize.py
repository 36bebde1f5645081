"""Diarization against pyannote.audio: stages on recorded intermediates, then pipelines on recordings.

The intermediates come from other people's runs of pyannote.audio 4.0 with full-precision weights. The whole
pipelines run here, both, with the weights bundled here, on the same samples. pyannote.audio runs the trunk of
its embedding network once a speaker; for this comparison once a window, which its model supports and is a
third of the work. bench_diarize.py runs it as it comes.

DER is pyannote.metrics': overlap counted, no UEM. A collar of 0.25 s is NIST's, on either side of a boundary,
which pyannote.metrics calls 0.5.
"""

from __future__ import annotations

import os
import platform

if platform.machine() == "x86_64":
    # Where two speakers are equally strong, pyannote.audio takes the order that numpy.argsort leaves them in.
    # From four speakers on that depends on the CPU: with AVX-512 or AVX2 it is not the speakers' own.
    os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "AVX512_ICL X86_V4 X86_V3")

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS that MLX runs on in use)

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, close, same
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA as TheirPLDA  # noqa: N811
from pyannote.audio.models.embedding.wespeaker import WeSpeakerResNet34
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.core import Annotation, Segment
from pyannote.metrics.diarization import DiarizationErrorRate
from safetensors.torch import load_file

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.models.pyannet import PyanNetConfig
from mlx_speech.pipeline import Diarizer
from mlx_speech.stages.cluster import NOBODY, VBxOptions, assign, clear, cluster, linked
from mlx_speech.stages.diarize import (
    DiarizeOptions,
    activations,
    assemble,
    preset,
    ranked,
    speaker_count,
)
from mlx_speech.stages.embedding import embed_windows
from mlx_speech.stages.segmentation import Grid, Segmentation, decided, membership, segment
from mlx_speech.stages.vbx import PLDA, vbx
from mlx_speech.types import Diarization, Turn
from mlx_speech.writers import render

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
PLDA_FOLDER = ROOT / "mlx_speech/assets/plda"
THREE = ("02_pyannote_sample", "03_dual_speaker", "04_three_speaker")
CLIPS = ("sim_librispeech/*.flac", "kokoro_dialog/*.flac", "pyannote_sample/*.wav", "ami/*.wav")
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "community-1": ("VBxClustering", {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8}),
    "3.1": (
        "AgglomerativeClustering",
        {"method": "centroid", "min_cluster_size": 12, "threshold": 0.7045654963945799},
    ),
}
LIMIT = 0.001  # DER between ours and theirs: 0.1 %


def run() -> list[Row]:
    """Rows of the stages, then of the pipelines."""
    warnings.filterwarnings("ignore", category=UserWarning)
    rows = [row for name in THREE for row in _stages(name)]
    rows += [*_speakrs("pipeline"), *_speakrs("3speakers"), *_powerset()]
    return [*rows, *_pipelines()]


# --- stages on recorded intermediates -----------------------------------------------------------------------


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


# --- whole pipelines ----------------------------------------------------------------------------------------


class OncePerWindow(WeSpeakerResNet34):
    """Three masks over one window after each other share its trunk."""

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if weights is None or len(waveforms) % 3 or not bool((waveforms[::3] == waveforms[2::3]).all()):
            return super().forward(waveforms, weights)
        return super().forward(waveforms[::3], weights.reshape(-1, 3, weights.shape[-1])).flatten(0, 1)


def their_pipeline(name: str, kind: type[WeSpeakerResNet34] = WeSpeakerResNet34) -> SpeakerDiarization:
    """pyannote.audio's pipeline with the weights that are bundled here."""
    weights = DATA / "weights"
    embedding = kind()
    file = weights / "wespeaker-resnet34-LM-int8/wespeaker_resnet34_lm.dequant.safetensors"
    embedding.load_state_dict(load_file(file))
    clustering, parameters = SETTINGS[name]
    pipeline = SpeakerDiarization(
        segmentation=Model.from_pretrained(weights / "segmentation-3.0/pytorch_model.bin"),
        embedding=embedding.eval(),
        plda=TheirPLDA(PLDA_FOLDER / "xvec_transform.npz", PLDA_FOLDER / "plda.npz"),
        clustering=clustering,
        embedding_exclude_overlap=True,
        segmentation_batch_size=8,
        embedding_batch_size=6,
    )
    return pipeline.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": parameters})


@dataclass(frozen=True)
class Compared:
    """One recording through both."""

    name: str
    reference: Annotation | None
    ours: dict[str, Diarization]
    theirs: dict[str, Annotation]


def recordings() -> list[Path]:
    """Those with references first, then those of the intermediates."""
    found = [p for pattern in CLIPS for p in sorted((DATA / "audio").glob(pattern))]
    if not found:
        raise FileNotFoundError(f"no recordings in {DATA}; set MLX_SPEECH_DATA")
    return found + sorted((DATA / "golden").glob("*/*.wav"))


def compared(paths: list[Path]) -> Iterator[Compared]:
    """Both pipelines, each network run once and its numbers given to both ways of clustering."""
    diarizer = Diarizer.load()
    pipelines = {name: their_pipeline(name, OncePerWindow) for name in SETTINGS}
    for path in paths:
        audio = load_audio(path)
        file = path.with_suffix(".rttm")
        reference = read_rttm(file) if file.exists() else None
        people = len(reference.labels()) if reference is not None else None
        theirs = _theirs(pipelines, audio, people)
        ours = _ours(diarizer, audio, people) | {"fast": diarizer.diarize(audio, "fast")}
        yield Compared(f"{path.parent.name}/{path.stem}", reference, ours, theirs)


def _ours(diarizer: Diarizer, audio: np.ndarray, people: int | None) -> dict[str, Diarization]:
    segmentation = segment(diarizer.segmentation, audio)
    count = speaker_count(segmentation)
    embeddings = embed_windows(diarizer.embedding, audio, segmentation)
    found = {}
    for name, setting, number in _cases(people):
        options = preset(setting, num_speakers=number)
        clusters = cluster(
            embeddings, segmentation.active, options.clustering, options.bounds, plda=diarizer.plda
        )
        found[name] = assemble(segmentation, clusters, count, options, len(audio) / SAMPLE_RATE)
    return found


def _cases(people: int | None) -> list[tuple[str, str, int | None]]:
    """Name, setting and the number of speakers that is given.

    With VBx only: where no cut of 3.1's tree has as many clusters, pyannote.audio keeps another number.
    """
    given = [("community-1, number given", "community-1", people)] if people else []
    return [*((name, name, None) for name in SETTINGS), *given]


def _theirs(
    pipelines: dict[str, SpeakerDiarization], audio: np.ndarray, people: int | None
) -> dict[str, Annotation]:
    file = {"waveform": torch.from_numpy(audio)[None], "sample_rate": SAMPLE_RATE, "uri": "clip"}
    kept: dict[str, Any] = {}

    def hook(step: str, value: Any, **more: Any) -> None:
        if step in ("segmentation", "embeddings") and "total" not in more:
            kept[step] = value

    found = {}
    for name, setting, number in _cases(people):
        pipeline = pipelines[setting]
        if kept:
            pipeline.get_segmentations = lambda *_, **__: kept["segmentation"]
            pipeline.get_embeddings = lambda *_, **__: kept["embeddings"].copy()
        output = pipeline(file, num_speakers=number, hook=None if kept else hook)
        found[name] = output.speaker_diarization
    for pipeline in pipelines.values():
        for name in ("get_segmentations", "get_embeddings"):
            pipeline.__dict__.pop(name, None)  # the next recording goes through the networks again
    return found


def read_rttm(path: Path) -> Annotation:
    """Turns of an RTTM file."""
    found = Annotation()
    for number, line in enumerate(path.read_text().splitlines()):
        part = line.split()
        if part and part[0] == "SPEAKER":
            start = float(part[3])
            found[Segment(start, start + float(part[4])), number] = part[7]
    return found


def annotation(turns: tuple[Turn, ...]) -> Annotation:
    """Our turns as pyannote.core has them."""
    found = Annotation()
    for number, turn in enumerate(turns):
        found[Segment(turn.start, turn.end), number] = turn.speaker
    return found


def _pipelines() -> list[Row]:
    rows, totals = [], Totals()
    for clip in compared(recordings()):
        for name, theirs in clip.theirs.items():
            ours = annotation(clip.ours[name].turns)
            rate = DiarizationErrorRate()(theirs, ours) if theirs else float(bool(ours))
            check = f"{clip.name}, {name}: ours against pyannote.audio's"
            note = f"{len(clip.ours[name].speakers)} speakers"
            rows.append(Row(check, "DER", f"{rate:.4%}", f"{LIMIT:.1%}", rate <= LIMIT, note))
        if clip.reference is not None:
            rows += totals.add(clip)
    return [*rows, *totals.rows()]


class Totals:
    """Error rates against references, of each system and collar, over all recordings."""

    def __init__(self) -> None:
        self.rates: dict[tuple[str, str, float], DiarizationErrorRate] = {}

    def add(self, clip: Compared) -> list[Row]:
        """Rows of one recording."""
        rows = []
        people = len(clip.reference.labels())
        for name, ours in clip.ours.items():
            mine = self._rates("ours", name, clip.reference, annotation(ours.turns))
            theirs = clip.theirs.get(name)
            its = self._rates("theirs", name, clip.reference, theirs) if theirs is not None else None
            counts = f"{people} speakers, ours {len(ours.speakers)}"
            counts += f", pyannote.audio's {len(theirs.labels())}" if theirs is not None else ""
            rows.append(_rate_row(f"{clip.name}, {name}: against the reference", mine, its, counts))
        return rows

    def rows(self) -> list[Row]:
        """Rows of all recordings together, by time."""
        names = dict.fromkeys(name for who, name, _ in self.rates if who == "ours")
        return [
            _rate_row(
                f"all recordings, {name}: against the references",
                [abs(self.rates["ours", name, c]) for c in (0.0, 0.25)],
                [abs(self.rates["theirs", name, c]) for c in (0.0, 0.25)] if name != "fast" else None,
                "",
            )
            for name in names
        ]

    def _rates(self, who: str, name: str, reference: Annotation, found: Annotation) -> list[float]:
        return [
            self.rates.setdefault((who, name, c), DiarizationErrorRate(collar=2 * c))(reference, found)
            for c in (0.0, 0.25)
        ]


def _rate_row(check: str, mine: list[float], theirs: list[float] | None, note: str) -> Row:
    measured = " / ".join(f"{r:.3f}" for r in mine)
    if theirs is None:
        return Row(check, "DER, collar 0 / 0.25", measured, "", True, note)
    limit = "pyannote.audio " + " / ".join(f"{r:.3f}" for r in theirs)
    fine = all(a <= b + LIMIT for a, b in zip(mine, theirs, strict=True))
    return Row(check, "DER, collar 0 / 0.25", measured, limit, fine, note)


if __name__ == "__main__":
    from harness import table

    print(table(run()))

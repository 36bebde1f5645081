"""Who spoke when: counting, reconstruction and turns, and the stages of diarization one after the other.

Rules: ``pipelines/speaker_diarization.py`` and ``pipelines/utils/diarization.py`` of pyannote.audio, MIT,
Copyright (c) 2021- CNRS,
https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/pipelines/speaker_diarization.py

C windows, F frames a window, S speakers a window, N frames of the recording, K speakers of the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlx_speech.audio import SAMPLE_RATE
from mlx_speech.errors import OptionError
from mlx_speech.models.pyannet import PyanNet
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.stages.cluster import (
    NOBODY,
    AHCOptions,
    Bounds,
    Clusters,
    VBxOptions,
    cluster,
    speaker_bounds,
)
from mlx_speech.stages.embedding import embed_windows
from mlx_speech.stages.ranges import COUNT, SECONDS, SHARE, Range, check, check_switches
from mlx_speech.stages.segmentation import WINDOW, Grid, Segmentation, covering, segment, summed
from mlx_speech.stages.vbx import PLDA
from mlx_speech.types import Diarization, Turn


@dataclass(frozen=True)
class DiarizeOptions:
    """How a recording is diarized; the defaults are the preset ``fast``.

    Args:
        num_speakers: how many speakers there are, where that is known.
        min_speakers, max_speakers: the bounds otherwise.
        clustering: how speakers are told apart.
        step: seconds between windows, up to a window's length.
        exclude_overlap: embed speakers from where they talk alone, where that is long enough.
        min_active_ratio: part of a window that a speaker must talk alone to count in clustering.
        onset, offset: of networks that score speakers one by one; powerset networks decide without them.
        min_duration_on: shorter turns are dropped, in seconds.
        min_duration_off: shorter pauses within a speaker's talk are filled, in seconds.
        shared_trunk: run the embedding network's trunk over the recording once instead of once a window:
            many times faster, and no longer the original's numbers.
        segmentation_batch, embedding_batch: windows computed together; ``None`` for what suits the device.

    Raises:
        OptionError: names the argument out of range.
    """

    num_speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    clustering: AHCOptions | VBxOptions = field(default_factory=lambda: AHCOptions(min_cluster_size=6))
    step: float = 2.0
    exclude_overlap: bool = True
    min_active_ratio: float = 0.2
    onset: float = 0.5
    offset: float | None = None
    min_duration_on: float = 0.0
    min_duration_off: float = 0.0
    shared_trunk: bool = True
    segmentation_batch: int | None = None
    embedding_batch: int | None = None

    def __post_init__(self) -> None:
        speaker_bounds(self.num_speakers, self.min_speakers, self.max_speakers)
        if not isinstance(self.clustering, (AHCOptions, VBxOptions)):
            raise OptionError(f"clustering is {self.clustering!r}: give AHCOptions or VBxOptions")
        check_switches(self)
        ranges = {
            "min_active_ratio": SHARE,
            "onset": SHARE,
            "min_duration_on": SECONDS,
            "min_duration_off": SECONDS,
            "step": Range("above 0 s, at most a window's length", lambda x: 0 < x <= WINDOW),
        }
        optional = {
            "segmentation_batch": COUNT,
            "embedding_batch": COUNT,
            "offset": Range(f"0 to onset ({self.onset})", lambda x: 0 <= x <= self.onset),
        }
        check(self, ranges, optional)

    @property
    def bounds(self) -> Bounds:
        """How many speakers are allowed."""
        return speaker_bounds(self.num_speakers, self.min_speakers, self.max_speakers)


PRESETS: dict[str, DiarizeOptions] = {
    "fast": DiarizeOptions(),
    "3.1": DiarizeOptions(clustering=AHCOptions(), step=1.0, shared_trunk=False),
    "community-1": DiarizeOptions(clustering=VBxOptions(), step=1.0, shared_trunk=False),
}
"""Options by name.

``3.1`` and ``community-1`` give what pyannote's pipelines of these names give with the same weights. ``fast``
clusters as ``3.1`` does, from half as many windows, and runs the embedding network once over the recording:
four times faster on a CPU. On 14 recordings with references its error rate is 18.4 %, that of ``3.1`` 18.0 % and
that of ``community-1`` 20.9 % (parity/REPORT.md).
"""

DEFAULT_PRESET = "fast"


def preset(name: str = DEFAULT_PRESET, **changes: Any) -> DiarizeOptions:
    """The options of a preset, with some of them changed.

    Raises:
        OptionError: no preset or no option has that name, or a value is out of range.
    """
    if name not in PRESETS:
        raise OptionError(f"preset {name!r}: choose one of {', '.join(PRESETS)}")
    unknown = [key for key in changes if key not in DiarizeOptions.__dataclass_fields__]
    if unknown:
        raise OptionError(f"no diarization option is called {unknown[0]!r}")
    return replace(PRESETS[name], **changes)


def diarize_samples(
    segmenter: PyanNet,
    embedder: WeSpeaker,
    plda: PLDA | None,
    samples: np.ndarray,
    options: DiarizeOptions,
    progress: Callable[[str, float, float], None],
) -> Diarization:
    """Diarize a recording.

    Args:
        segmenter: with its weights.
        embedder: with its weights.
        plda: VBx's; may be ``None`` without VBx.
        samples: (T,) float32 at 16 kHz; T may be 0.
        options: how.
        progress: told "segment", "embed" or "cluster", and the seconds done and to do.

    Returns:
        turns, posteriors and speakers; without speech there are none.
    """
    segmentation = segment_samples(segmenter, samples, options, progress)
    return diarize_windows(embedder, plda, samples, segmentation, options, progress)


def segment_samples(
    segmenter: PyanNet,
    samples: np.ndarray,
    options: DiarizeOptions,
    progress: Callable[[str, float, float], None],
) -> Segmentation:
    """The first half of :func:`diarize_samples`: who may be speaking within each window."""
    duration = len(samples) / SAMPLE_RATE
    progress("segment", 0.0, duration)
    return segment(
        segmenter,
        samples,
        step=options.step,
        batch_size=options.segmentation_batch,
        onset=options.onset,
        offset=options.offset,
        progress=lambda done: progress("segment", done, duration),
    )


def diarize_windows(
    embedder: WeSpeaker,
    plda: PLDA | None,
    samples: np.ndarray,
    segmentation: Segmentation,
    options: DiarizeOptions,
    progress: Callable[[str, float, float], None],
) -> Diarization:
    """Diarize a recording whose segmentation is known already; otherwise as :func:`diarize_samples`."""
    duration = len(samples) / SAMPLE_RATE
    count = speaker_count(segmentation)
    if not count.any():
        return _silence(segmentation, embedder.config.embedding, duration)
    progress("embed", 0.0, duration)
    embeddings = embed_windows(
        embedder,
        samples,
        segmentation,
        exclude_overlap=options.exclude_overlap,
        shared_trunk=options.shared_trunk,
        batch_size=options.embedding_batch,
        progress=lambda done: progress("embed", done, duration),
    )
    progress("cluster", 0.0, duration)
    clusters = cluster(
        embeddings,
        segmentation.active,
        options.clustering,
        options.bounds,
        plda=plda,
        min_active_ratio=options.min_active_ratio,
    )
    return assemble(segmentation, clusters, count, options, duration)


def assemble(
    segmentation: Segmentation,
    clusters: Clusters,
    count: np.ndarray,
    options: DiarizeOptions,
    duration: float,
) -> Diarization:
    """Put windows whose speakers are known together.

    Args:
        segmentation: the windows.
        clusters: who each window's speakers are.
        count: (N,) int, how many talk at each frame.
        options: the bounds of the number of speakers, and how turns are smoothed.
        duration: the recording's length in seconds.

    Returns:
        speakers that never talk are left out; the others are ``SPEAKER_00``, ``SPEAKER_01``, … in the order
        of their clusters.
    """
    bounds = options.bounds
    count = np.minimum(count, bounds.most).astype(np.int64)
    strength = activations(segmentation, clusters, max(len(clusters.centroids), int(count.max(initial=0))))
    who = ranked(strength, count)
    if who.any(0).sum() < bounds.least:
        who = heard(who, strength, bounds.least)
    present = np.flatnonzero(who.any(0))
    names = tuple(f"SPEAKER_{number:02d}" for number in range(len(present)))
    only = ranked(strength, np.minimum(count, 1))
    embeddings = np.zeros((strength.shape[1], clusters.centroids.shape[1]), np.float32)
    embeddings[: len(clusters.centroids)] = clusters.centroids
    grid = segmentation.grid
    limits = (options.min_duration_on, options.min_duration_off, duration)
    return Diarization(
        turns=turns(who[:, present], names, grid, *limits),
        exclusive_turns=turns(only[:, present], names, grid, *limits),
        speakers=names,
        embeddings=embeddings[present],
        posteriors=posteriors(segmentation, clusters, strength.shape[1])[:, present],
        frame_step=grid.frame_step,
        frame_offset=0.5 * grid.frame_duration,
        duration=duration,
    )


def speaker_count(segmentation: Segmentation) -> np.ndarray:
    """How many people talk at each frame, the windows' mean rounded: (N,) int64."""
    active = segmentation.active.sum(2, keepdims=True)
    total = summed(active, np.zeros((len(active), 1), np.int64), segmentation, 1)[:, 0]
    mean = total / np.maximum(covering(segmentation), 1).astype(np.float32)
    return np.rint(mean).astype(np.int64)


def activations(segmentation: Segmentation, clusters: Clusters, width: int) -> np.ndarray:
    """How many windows say that each speaker talks: (N, width) float32, zeros right of the clusters."""
    values, labels = _merged(segmentation.votes, clusters.labels)
    return summed(values, labels, segmentation, width)


def posteriors(segmentation: Segmentation, clusters: Clusters, width: int) -> np.ndarray:
    """Probability that each speaker talks, the mean over windows: (N, width) float32."""
    values, labels = _merged(segmentation.scores, clusters.labels)
    total = summed(values, labels, segmentation, width)
    return total / np.maximum(covering(segmentation), 1)[:, None].astype(np.float32)


def _merged(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where two speakers of a window are one, their maximum stands in the first one's place."""
    values, labels = values.copy(), labels.copy()
    speakers = labels.shape[1]
    for second in range(1, speakers):
        for first in range(second):
            same = (labels[:, first] == labels[:, second]) & (labels[:, first] != NOBODY)
            values[same, :, first] = np.maximum(values[same, :, first], values[same, :, second])
            labels[same, second] = NOBODY
    return values, labels


def ranked(strength: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The ``count`` strongest speakers of each frame: (N, K), (N,) → (N, K) bool; of equals the first."""
    who, rest = np.zeros(strength.shape, bool), strength.copy()
    for place in range(min(int(count.max(initial=0)), strength.shape[1])):
        rows = np.flatnonzero(count > place)  # fewer each time: the sorting stops where no speaker is wanted
        best = rest[rows].argmax(1)
        who[rows, best] = True
        rest[rows, best] = -np.inf
    return who


def heard(who: np.ndarray, strength: np.ndarray, least: int) -> np.ndarray:
    """Let speakers who are nowhere among the strongest talk where their share is largest.

    As many as ``least`` speakers in all need, those with the largest share first. Only where a number of
    speakers was asked for: the original would lose them.
    """
    who = who.copy()
    share = strength / np.maximum(strength.sum(1, keepdims=True), 1e-9)
    peak = np.where(who.any(0), 0.0, share.max(0, initial=0.0))
    for speaker in np.argsort(-peak, kind="stable")[: least - int(who.any(0).sum())]:
        if peak[speaker] > 0:
            who[:, speaker] = share[:, speaker] >= peak[speaker]
    return who


def turns(
    who: np.ndarray,
    names: tuple[str, ...],
    grid: Grid,
    min_on: float,
    min_off: float,
    duration: float,
) -> tuple[Turn, ...]:
    """Stretches of frames as turns, in order of their starts; none reaches beyond ``duration``.

    Args:
        who: (N, K) bool.
        names: of the K speakers.
        grid: where frames lie.
        min_on: seconds; shorter turns are dropped.
        min_off: seconds; shorter pauses are filled.
        duration: seconds.
    """
    times = grid.times(len(who))
    found: list[tuple[float, float, int]] = []
    for speaker in range(who.shape[1]):
        edges = np.flatnonzero(np.diff(who[:, speaker], prepend=False, append=False))
        starts, ends = edges[::2], edges[1::2]
        begins, stops = times[starts], times[np.minimum(ends, len(who) - 1)]
        if min_off > 0 and len(begins):
            joined = begins[1:] - stops[:-1] < min_off
            begins, stops = begins[np.append(True, ~joined)], stops[np.append(~joined, True)]
        stops = np.minimum(stops, duration)
        long = (stops - begins >= min_on) & (stops - begins > _SHORTEST)
        found += [(float(b), float(e), speaker) for b, e in zip(begins[long], stops[long], strict=True)]
    return tuple(Turn(begin, end, names[speaker]) for begin, end, speaker in sorted(found))


_SHORTEST = 1e-6  # seconds: nothing, as rounding leaves it


def _silence(segmentation: Segmentation, dimensions: int, duration: float) -> Diarization:
    return Diarization(
        turns=(),
        exclusive_turns=(),
        speakers=(),
        embeddings=np.zeros((0, dimensions), np.float32),
        posteriors=np.zeros((segmentation.length, 0), np.float32),
        frame_step=segmentation.grid.frame_step,
        frame_offset=0.5 * segmentation.grid.frame_duration,
        duration=duration,
    )

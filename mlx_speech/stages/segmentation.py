"""Who may be speaking within each window: sliding windows, powerset classes, the time line of frames.

Windowing and aggregation rules: ``Inference.slide`` and ``Inference.aggregate`` of pyannote.audio, MIT,
Copyright (c) 2021- CNRS, https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/core/inference.py
Powerset classes: ``Powerset``, the same, .../utils/powerset.py

C windows, F frames a window, S speakers a window, N frames of the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.audio import SAMPLE_RATE
from mlx_speech.errors import OptionError
from mlx_speech.models.pyannet import PyanNet, PyanNetConfig

_NEEDED = 32 << 20  # bytes a window takes, measured
WINDOW = 10.0  # seconds: what the checkpoints were trained on


@dataclass(frozen=True, slots=True)
class Grid:
    """Where windows and their frames lie; everything in seconds.

    ``step`` lies between the starts of two windows of ``window``, ``frame_step`` between two frames;
    ``frame_duration`` is what one frame hears (the network's receptive field): frame ``i`` of a window
    stands for the middle of that, ``i * frame_step + frame_duration / 2`` after the window's start.
    """

    step: float = 1.0
    window: float = WINDOW
    frame_step: float = 0.016875
    frame_duration: float = 0.0619375

    def starts(self, windows: int) -> np.ndarray:
        """First frame of each window on the recording's time line, (C,) int64."""
        half = 0.5 * self.frame_duration
        return self._closest(np.arange(windows) * self.step + half)

    def length(self, windows: int) -> int:
        """How many frames the windows reach over together, N; 0 without windows."""
        end = self.window + (windows - 1) * self.step + 0.5 * self.frame_duration
        return int(self._closest(np.array(end))) + 1 if windows else 0

    def times(self, frames: int) -> np.ndarray:
        """The middle of each frame, (N,) float64, rounded as the original rounds it."""
        begins = np.arange(frames) * self.frame_step
        return 0.5 * (begins + (begins + self.frame_duration))

    def _closest(self, times: np.ndarray) -> np.ndarray:
        return np.rint((times - 0.5 * self.frame_duration) / self.frame_step).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What the network says of each window.

    Args:
        scores: (C, F, S) float32, probability that each of the window's speakers talks.
        active: (C, F, S) bool, the decision. Speakers of different windows are not the same people.
        votes: (C, F, S) what is summed over windows to find who talks: the decisions of a powerset network,
            the scores of another.
        speech: (C, F) float32, probability that anybody talks.
        grid: where windows and frames lie.
    """

    scores: np.ndarray
    active: np.ndarray
    votes: np.ndarray
    speech: np.ndarray
    grid: Grid

    @property
    def starts(self) -> np.ndarray:
        """First frame of each window, (C,)."""
        return self.grid.starts(len(self.active))

    @property
    def length(self) -> int:
        """Frames of the recording, N."""
        return self.grid.length(len(self.active))


def segment(
    model: PyanNet,
    samples: np.ndarray,
    *,
    step: float = 1.0,
    batch_size: int | None = None,
    onset: float = 0.5,
    offset: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Segmentation:
    """Slide the network over a recording.

    Args:
        model: with its weights.
        samples: (T,) float32 at 16 kHz.
        step: seconds between windows, at most a window's length.
        batch_size: windows computed together; ``None`` for what suits the device.
        onset: score above which a speaker talks; powerset networks decide without it.
        offset: score below which a speaker stops; ``onset`` where ``None``.
        progress: told the seconds done.

    Returns:
        all windows of the recording, the last one filled with silence; none for an empty recording.

    Raises:
        OptionError: a step that leaves gaps.
    """
    config = model.config
    grid = grid_of(model, step)
    batch_size = batch_size or runtime.at_once(_NEEDED, 32, 128)
    total = num_windows(len(samples), grid)
    none = np.zeros((0, config.num_frames(config.window_samples), config.num_classes), np.float32)
    found = [_read(config, none, onset, offset)]
    batches = ((first, min(first + batch_size, total)) for first in range(0, total, batch_size))
    outputs = ((end, model(cut(samples, grid, first, end))) for first, end in batches)
    for end, batch in runtime.on_host(outputs):
        found.append(_read(config, batch, onset, offset))
        if progress:
            progress(min((end - 1) * grid.step + grid.window, len(samples) / SAMPLE_RATE))
    scores, active, speech = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Segmentation(scores, active, active if config.powerset else scores, speech, grid)


def _read(
    config: PyanNetConfig, outputs: np.ndarray, onset: float, offset: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch's scores, decisions and probability of speech, from the network's (batch, F, classes) float32."""
    if not config.powerset:
        return outputs, hysteresis(outputs, onset, offset), outputs.max(-1)
    mapping, chances = membership(config.speaker_sets), np.exp(outputs)
    return chances @ mapping, decided(outputs, mapping), 1 - chances[..., 0]


def grid_of(model: PyanNet, step: float) -> Grid:
    """The time line of a model's frames for windows ``step`` seconds apart, rounded to whole samples."""
    config = model.config
    window = float(config.duration)
    if not 0 < step <= window:
        raise OptionError(f"step is {step}: give seconds above 0, at most the window's {window:g}")
    return Grid(
        step=round(step * SAMPLE_RATE) / SAMPLE_RATE,
        window=window,
        frame_step=config.frame_step,
        frame_duration=config.frame_duration,
    )


def num_windows(num_samples: int, grid: Grid) -> int:
    """How many windows cover a recording; the last one may reach beyond its end."""
    size, step = round(grid.window * SAMPLE_RATE), round(grid.step * SAMPLE_RATE)
    return 0 if num_samples == 0 else 1 + max(0, -(-(num_samples - size) // step))


def cut(samples: np.ndarray, grid: Grid, first: int, last: int) -> mx.array:
    """Windows ``first`` to ``last`` (excluded), (last - first, window) float32, silence after the end.

    Views on the device: each sample goes there once, however many windows share it.
    """
    size, step = round(grid.window * SAMPLE_RATE), round(grid.step * SAMPLE_RATE)
    return mx.as_strided(mx.array(stretch(samples, grid, first, last)), (last - first, size), (step, 1))


def stretch(samples: np.ndarray, grid: Grid, first: int, last: int) -> np.ndarray:
    """The samples that windows ``first`` to ``last`` (excluded) hear, silence after the recording's end."""
    size, step = round(grid.window * SAMPLE_RATE), round(grid.step * SAMPLE_RATE)
    begin, end = first * step, (last - 1) * step + size
    piece = samples[begin:end]
    return np.pad(piece, (0, end - begin - len(piece))) if len(piece) < end - begin else piece


def membership(sets: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Which speakers are in each powerset class: (classes, speakers) float32."""
    speakers = 1 + max(speaker for members in sets for speaker in members)
    return np.array([[float(s in members) for s in range(speakers)] for members in sets], np.float32)


def decided(outputs: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """The speakers of the likeliest powerset class of each frame: (…, classes) → (…, speakers) bool."""
    return mapping.astype(bool)[outputs.argmax(-1)]


def hysteresis(scores: np.ndarray, onset: float = 0.5, offset: float | None = None) -> np.ndarray:
    """On above ``onset``, off below ``offset``, in between as before, off at first: (C, F, S) → bool."""
    on = scores > onset
    told = on | (scores < (onset if offset is None else offset))
    index = np.arange(scores.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(told, index, -1), axis=1)  # the last frame that was clear
    return (last >= 0) & np.take_along_axis(on, np.maximum(last, 0), axis=1)


def summed(values: np.ndarray, columns: np.ndarray, segmentation: Segmentation, width: int) -> np.ndarray:
    """Sum windows on the recording's time line.

    Args:
        values: (C, F, S) what each window says.
        columns: (C, S) int, the column that each window's speaker adds to; below 0 for none.
        segmentation: whose windows these are.
        width: number of columns, K.

    Returns:
        (N, K) float32.
    """
    starts, length = segmentation.starts, segmentation.length
    frames = values.shape[1]
    total = np.zeros((length, width), np.float64)
    for speaker in range(values.shape[2]):
        rows = np.flatnonzero(columns[:, speaker] >= 0)
        for at in range(0, len(rows), _BLOCK):
            some = rows[at : at + _BLOCK]
            base = starts[some[0]]
            flat = (starts[some, None] - base + np.arange(frames)) * width + columns[some, speaker, None]
            reach = int(starts[some[-1]] - base) + frames
            part = np.bincount(flat.ravel(), values[some, :, speaker].ravel(), reach * width)
            total[base : base + reach] += part.reshape(reach, width)
    return total.astype(np.float32)


_BLOCK = 512  # windows summed at once: bounds the memory of the index


def covering(segmentation: Segmentation) -> np.ndarray:
    """How many windows cover each frame of the recording, (N,) int64."""
    edges = np.zeros(segmentation.length + 1, np.int64)
    np.add.at(edges, segmentation.starts, 1)
    np.add.at(edges, segmentation.starts + segmentation.active.shape[1], -1)
    return np.cumsum(edges)[:-1]


def chunk_probabilities(segmentation: Segmentation, num_samples: int, chunk: int) -> np.ndarray:
    """Probability of speech in each ``chunk`` samples: the segmentation as a speech detector.

    Args:
        segmentation: of the recording, at any step; 5 s are enough for this.
        num_samples: the recording's length.
        chunk: samples a value, 512 for what :mod:`mlx_speech.stages.speech` takes.

    Returns:
        (ceil(num_samples / chunk),) float32, each the mean over the windows that hear its middle.
    """
    chunks = -(-num_samples // chunk)
    if not chunks:
        return np.zeros(0, np.float32)
    column = np.zeros((len(segmentation.speech), 1), np.int64)
    total = summed(segmentation.speech[..., None], column, segmentation, 1)[:, 0]
    mean = total / np.maximum(covering(segmentation), 1)
    middles = (np.arange(chunks) + 0.5) * chunk / SAMPLE_RATE
    return np.interp(middles, segmentation.grid.times(len(mean)), mean).astype(np.float32)

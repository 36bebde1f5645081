"""Voices: an embedding of each speaker of each window, and of a whole recording.

Masks: ``get_embeddings`` of pyannote.audio, MIT, Copyright (c) 2021- CNRS,
https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/pipelines/speaker_diarization.py

C windows, F frames a window, S speakers a window, D dimensions, U frames of the trunk (80 ms).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.audio import SAMPLE_RATE
from mlx_speech.features import FBANK_HOP, FBANK_WINDOW, kaldi_fbank
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.stages.segmentation import Grid, Segmentation, cut, stretch

_SHRINK = 8  # fbank frames a trunk frame
_CONTEXT = 14  # trunk frames: half of what one of them hears, so that blocks do not show
_BLOCK = 30  # seconds in the trunk at once by each core of a CPU: bounds memory
_MOST_BLOCKS = 4  # cores that have a block each
_GPU_BLOCK = 240  # the same on a GPU
_LEAST = 4 * _CONTEXT  # trunk frames that are worth a core of their own
_NEEDED, _NEEDED_SECOND = 40 << 20, 18 << 20  # bytes a window takes, and a second of a block, measured
_PIECE = 30.0  # seconds: the longest audio embedded as one


def embed_windows(
    model: WeSpeaker,
    samples: np.ndarray,
    segmentation: Segmentation,
    *,
    exclude_overlap: bool = True,
    shared_trunk: bool = False,
    batch_size: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """An embedding of each speaker of each window, (C, S, D) float32; NaN where one is silent.

    Args:
        model: with its weights.
        samples: (T,) float32 at 16 kHz.
        segmentation: of these samples.
        exclude_overlap: hear speakers where they talk alone, if that is long enough.
        shared_trunk: run the trunk over the recording once; windows share its frames, which then know what
            lies beyond a window's ends and the mean of the ten seconds around them, not of the window.
        batch_size: windows computed together without ``shared_trunk``; ``None`` for what suits the device.
        progress: told the seconds done.
    """
    active = segmentation.active
    masks = speaker_masks(active, segmentation.grid.window, exclude_overlap=exclude_overlap)
    windows, _, speakers = active.shape
    found = np.full((windows, speakers, model.config.embedding), np.nan, np.float32)
    grid, duration = segmentation.grid, len(samples) / SAMPLE_RATE
    batch_size = batch_size or runtime.at_once(_NEEDED, 4, 64)
    embed = _shared if shared_trunk else _each
    for rows, voices in runtime.on_host(embed(model, samples, segmentation, masks, batch_size)):
        found[rows] = voices
        if progress:
            progress(min(float(rows[-1]) * grid.step + grid.window, duration))
    found[~active.any(1)] = np.nan
    return found


def speaker_masks(active: np.ndarray, window: float, *, exclude_overlap: bool) -> np.ndarray:
    """Which frames each speaker is heard in: (C, F, S) bool → (C, S, F) float32.

    Those where they talk alone, if they are more than the fewest samples with an embedding take; otherwise
    all in which they talk.
    """
    masks = active
    if exclude_overlap:
        alone = active & (active.sum(2, keepdims=True) < 2)
        fewest = math.ceil(active.shape[1] * FBANK_WINDOW / (window * SAMPLE_RATE))
        masks = np.where((alone.sum(1) > fewest)[:, None], alone, active)
    return masks.transpose(0, 2, 1).astype(np.float32)


_Voices = tuple[np.ndarray, mx.array]


def _each(
    model: WeSpeaker, samples: np.ndarray, segmentation: Segmentation, masks: np.ndarray, batch_size: int
) -> Iterator[_Voices]:
    """The trunk once a window; windows in which nobody talks are left out."""
    talking = np.flatnonzero(masks.any((1, 2)))
    for at in range(0, len(talking), batch_size):
        rows = talking[at : at + batch_size]
        features = _features(model, samples, segmentation.grid, rows)
        yield rows, model.pool(model.trunk(features), mx.array(masks[rows]))


def _features(model: WeSpeaker, samples: np.ndarray, grid: Grid, rows: np.ndarray) -> mx.array:
    """What the trunk hears of some windows, (B, T, M): where they share frames, each frame is computed once."""
    size, step = round(grid.window * SAMPLE_RATE), round(grid.step * SAMPLE_RATE)
    first, last = int(rows[0]), int(rows[-1]) + 1
    audio = stretch(samples, grid, first, last)
    if step % FBANK_HOP or len(audio) > len(rows) * size:
        return model.fbank(cut(samples, grid, first, last)[mx.array(rows - first)])
    return model.fbank_of_stretch(mx.array(audio), size, step, rows - first)


def _shared(
    model: WeSpeaker, samples: np.ndarray, segmentation: Segmentation, masks: np.ndarray, batch_size: int
) -> Iterator[_Voices]:
    """The trunk once over each block of audio, pooled under the masks of all windows that begin in it."""
    grid = segmentation.grid
    size = model.config.num_frames(round(grid.window * SAMPLE_RATE))
    total = model.config.num_frames(len(samples))
    if not total:
        return
    scale = SAMPLE_RATE / (_SHRINK * FBANK_HOP)
    firsts = np.rint(np.arange(len(masks)) * grid.step * scale).astype(np.int64)
    seconds = runtime.at_once(_NEEDED_SECOND, _BLOCK * min(runtime.cores(), _MOST_BLOCKS), _GPU_BLOCK)
    group = max(1, int(seconds / grid.step))
    held, base = mx.zeros((0, model.config.num_features)), 0
    for at in range(0, len(masks), group):
        rows = np.arange(at, min(at + group, len(masks)))
        if not masks[rows].any():
            continue
        begin = min(int(firsts[rows[0]]), total - 1)  # a window may begin in the last frame's last samples
        end = min(int(firsts[rows[-1]]) + size, total)
        have = base + held.shape[0]
        new = trunk_frames(model, samples, max(begin, have), end)
        held = mx.concatenate([held[begin - base :], new]) if have > begin else new
        base = begin
        index = np.minimum(firsts[rows, None] - base + np.arange(size), held.shape[0] - 1)
        yield rows, model.pool(held[mx.array(index)], mx.array(masks[rows]))


def trunk_frames(model: WeSpeaker, samples: np.ndarray, first: int, last: int) -> mx.array:
    """Frames ``first`` to ``last`` (excluded) of the trunk over a whole recording: (last - first, C) float32.

    Mean subtraction is over the ten seconds around each frame.
    """
    if first >= last:
        return mx.zeros((0, model.config.num_features))
    begin = max(0, first - _CONTEXT) * _SHRINK
    end = (last + _CONTEXT) * _SHRINK
    reach = round(5 * SAMPLE_RATE / FBANK_HOP)
    wide = max(0, begin - reach)
    heard = samples[wide * FBANK_HOP : (end + reach - 1) * FBANK_HOP + FBANK_WINDOW]
    energies = kaldi_fbank(mx.array(heard), model.config.n_mels)
    at = np.arange(begin - wide, min(end - wide, len(energies)))
    count = np.minimum(at + reach, len(energies)) - np.maximum(at - reach, 0)
    front, needed = reach - int(at[0]), len(at) + 2 * reach - 1
    around = mx.pad(energies, [(front, max(0, needed - front - len(energies))), (0, 0)])[:needed]
    mean = _sliding_sum(around, 2 * reach) / mx.array(count[:, None], mx.float32)
    features = energies[int(at[0]) : int(at[-1]) + 1] - mean
    skipped = first - begin // _SHRINK
    return _in_stretches(model, features)[skipped : skipped + last - first]


def _in_stretches(model: WeSpeaker, features: mx.array) -> mx.array:
    """The trunk over features (T, M), in one stretch for each core of a CPU: (U, C)."""
    total = -(-len(features) // _SHRINK)
    count = max(1, min(runtime.cores(), total // _LEAST))
    if count == 1:
        return model.trunk(features[None])[0]
    own, around = -(-total // count), _CONTEXT + 1
    size = own + 2 * around
    starts = [min(max(n * own - around, 0), total - size) for n in range(count)]
    length = len(features) - _SHRINK * (total - size)  # the recording's last frame may hear less than eight
    pieces = mx.stack([features[_SHRINK * start :][:length] for start in starts])
    frames = model.trunk(pieces)
    ends = [min((n + 1) * own, total) for n in range(count)]
    return mx.concatenate([frames[n, n * own - starts[n] : ends[n] - starts[n]] for n in range(count)])


def _sliding_sum(x: mx.array, size: int) -> mx.array:
    """Sums of ``size`` neighbours, (T, M) → (T - size + 1, M), put together from sums of 1, 2, 4, … of them.

    On the device and as exact as float32 can be: no running sum that grows with the recording.
    """
    rows = x.shape[0] - size + 1
    total, taken, length = mx.zeros((rows, x.shape[1])), 0, 1
    while True:
        if size & length:
            total = total + x[taken : taken + rows]
            taken += length
        if 2 * length > size:
            return total
        x, length = x[:-length] + x[length:], 2 * length


def embed_recording(model: WeSpeaker, samples: np.ndarray) -> np.ndarray:
    """The voice of a recording of one speaker, (D,) float32.

    Longer ones are embedded in equal pieces of at most 30 s, and averaged.

    Raises:
        AudioError: the recording is too short.
    """
    pieces = max(1, math.ceil(len(samples) / (_PIECE * SAMPLE_RATE)))
    parts = np.array_split(samples, pieces)
    return np.mean([np.array(model.embed(mx.array(p[None]))[0, 0]) for p in parts], axis=0)

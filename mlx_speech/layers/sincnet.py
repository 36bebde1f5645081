"""SincNet: learnt band-pass filters on the waveform, then two convolutions, each stage pooled and normalised.

Original, MIT:
https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/models/blocks/sincnet.py
with the filters of
https://github.com/asteroid-team/asteroid-filterbanks/blob/v0.4.0/asteroid_filterbanks/param_sinc_fb.py (MIT),
after Ravanelli and Bengio, "Speaker Recognition from Raw Waveform with SincNet" (2018),
https://arxiv.org/abs/1808.00158

B batch, S samples, T frames, C channels.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech import runtime
from mlx_speech.layers.conv import windows
from mlx_speech.layers.fused import fresh, kernels, slow_functions, view

FILTERS = 80  # half of them cosines, half sines
KERNEL = 251  # samples
CHANNELS = 60
_CONV = 5  # frames heard by each of the two convolutions
_POOL = 3
_EPS = 1e-5
_MIN_LOW = 50.0  # Hz
_MIN_BAND = 50.0  # Hz


def band_pass_kernels(
    low_hz: np.ndarray, band_hz: np.ndarray, window: np.ndarray, n: np.ndarray, sampling_rate: int = 16_000
) -> np.ndarray:
    """The impulse responses of SincNet's filters; they depend on the weights alone.

    Every step is in float32, as in the original: sines of angles up to 400 rad show the order of rounding.

    Args:
        low_hz: (40, 1) float32, lower edges before their absolute value and minimum are taken.
        band_hz: (40, 1) float32, the same of the bands' widths.
        window: (125,) float32, the first half of a Hamming window.
        n: (1, 125) float32, 2π times the time in seconds, from -125 samples to -1.
        sampling_rate: Hz.

    Returns:
        (80, 251) float32: cosines, then sines.
    """
    low = np.float32(_MIN_LOW) + np.abs(low_hz)
    high = np.clip(low + np.float32(_MIN_BAND) + np.abs(band_hz), _MIN_LOW, sampling_rate / 2)
    low, high = low.astype(np.float32), high.astype(np.float32)
    band = high - low
    from_low, from_high, half = low * n, high * n, n / np.float32(2)
    even = (_rounded(np.sin, from_high) - _rounded(np.sin, from_low)) / half * window
    odd = (_rounded(np.cos, from_low) - _rounded(np.cos, from_high)) / half * window
    cosines = np.concatenate([even, 2 * band, even[:, ::-1]], axis=1)
    sines = np.concatenate([odd, np.zeros_like(band), -odd[:, ::-1]], axis=1)
    return np.asarray(np.concatenate([cosines, sines]) / np.tile(2 * band, (2, 1)), np.float32)


def _rounded(function: np.ufunc, angle: np.ndarray) -> np.ndarray:
    """The nearest float32, which good float32 libraries give too: the last bit counts here."""
    return np.asarray(function(angle.astype(np.float64)), np.float32)


class InstanceNorm(nn.Module):
    """Each channel of each recording to zero mean and unit variance over time, then scaled and shifted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) float32 → (B, T, C) float32; the variance is the biased one."""
        x = x - _mean(x)
        variance = _mean(x * x)
        return x * (mx.rsqrt(variance + _EPS) * self.weight) + self.bias


def _mean(x: mx.array) -> mx.array:
    """Mean over time, (B, T, C) → (B, 1, C), by sums of sums: one running sum of 160000 drifts by 1e-5."""
    batch, frames, channels = x.shape
    size = max(1, math.isqrt(frames))
    whole = frames // size * size
    parts = x[:, :whole].reshape(batch, -1, size, channels).sum(axis=2)
    total = parts.sum(axis=1, keepdims=True) + x[:, whole:].sum(axis=1, keepdims=True)
    return total / frames


class SincNet(nn.Module):
    """Waveform to 60 features a frame, one frame every ``27 · stride`` samples."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.wav_norm = InstanceNorm(1)
        self.filters = mx.zeros((FILTERS, KERNEL))
        self.convs = [nn.Conv1d(n, CHANNELS, _CONV) for n in (FILTERS, CHANNELS)]
        self.norms = [InstanceNorm(n) for n in (FILTERS, CHANNELS, CHANNELS)]
        self._rows_of: list[mx.array] | None = None
        self._rows_made: list[tuple[mx.array, int]] = []

    def __call__(self, audio: mx.array) -> mx.array:
        """(B, S) float32 → (B, frames, 60) float32; S at least :func:`receptive_field`.

        The convolutions' biases are left out: the norms take them away again.
        """
        x = self.wav_norm(audio[..., None])
        if slow_functions():  # one recording at a time: its windows take nine times its own memory
            return mx.stack([self._by_products(one) for one in x])
        for n, (weight, stride) in enumerate(self._rows()):
            highest = _highest if n else _highest_size
            x = _normalised(highest(*self._three(x, n, weight, stride)), self.norms[n])
        return x

    def _three(self, x: mx.array, n: int, weight: mx.array, stride: int) -> list[mx.array]:
        """The n-th convolution's output, its first, second and third frames of each pool: (B, T, C) each.

        Which way is fastest was measured on an H100: products that are rounded to TF32 take less time than the
        windows that they need, so that there convolutions gather them.
        """
        width = x.shape[2]
        frames = (x.shape[1] * width - weight.shape[0]) // (stride * width) + 1
        if runtime.rounds_products() and not n:
            y = self._filtered_by_twos(x)
            return [y[:, k : _POOL * frames : _POOL] for k in range(_POOL)]
        if runtime.rounds_products():
            y = mx.conv1d(x, weight.T.reshape(weight.shape[1], -1, width), stride)
        else:
            y = _side_by_side(x, weight.shape[0], stride, frames) @ weight
        outputs = y.shape[2] // _POOL
        return [y[..., k * outputs : (k + 1) * outputs] for k in range(_POOL)]

    def _filtered_by_twos(self, x: mx.array) -> mx.array:
        """(B, S, 1) → (B, at least T, 80), convolved over rows of two frames' step, which are its channels."""
        width = 2 * self.stride
        taps = -(-(KERNEL + self.stride) // width)
        rows = -(-((x.shape[1] - KERNEL) // self.stride + 1) // 2)
        weight = mx.stack(
            [mx.pad(self.filters, [(0, 0), (k, taps * width - KERNEL - k)]) for k in (0, self.stride)]
        )
        size = (rows + taps - 1) * width
        x = mx.pad(x[..., 0], [(0, 0), (0, max(0, size - x.shape[1]))])[:, :size]
        y = mx.conv1d(x.reshape(len(x), -1, width), weight.reshape(2 * FILTERS, taps, width))
        return y.reshape(len(x), 2 * rows, FILTERS)

    def _by_products(self, x: mx.array) -> mx.array:
        """(S, 1) → (frames, 60) for a Linux CPU: windows gathered and multiplied, three frames a row."""
        loops = kernels()
        for n, (weight, stride) in enumerate(self._rows()):
            size, width = x.shape[0] * x.shape[1], weight.shape[1] // _POOL
            y = windows(x.reshape(1, size), weight.shape[0], stride * x.shape[1])[0] @ weight
            norm = self.norms[n]
            if loops:
                x, memory = fresh(y.shape[0], width)
                affine = view(norm.weight), view(norm.bias)
                loops.pool_and_norm(view(y).reshape(-1, _POOL, width), not n, *affine, _EPS, memory)
            else:
                y = y.reshape(-1, _POOL, width)
                x = _leaky(norm(mx.max(y if n else mx.abs(y), axis=1)[None])[0])
        return x

    def _rows(self) -> list[tuple[mx.array, int]]:
        """Each convolution's weights for three frames at once, (K' · C, 3 · O), and the step of three frames."""
        sources = [self.filters, *(conv.weight for conv in self.convs)]
        if self._rows_of is None or any(a is not b for a, b in zip(sources, self._rows_of, strict=True)):
            filters, *convs = (np.array(w) for w in sources)
            steps = [(filters[..., None], self.stride), *((w, 1) for w in convs)]
            self._rows_made = [(mx.array(_three_frames(w, step)), _POOL * step) for w, step in steps]
            self._rows_of = sources
        return self._rows_made


def _three_frames(weight: np.ndarray, stride: int) -> np.ndarray:
    """A convolution's (O, K, C) as a product that makes the three frames of a pool: ((K + 2 stride) · C, 3 · O)."""
    outputs, kernel, channels = weight.shape
    rows = np.zeros((kernel + (_POOL - 1) * stride, channels, _POOL, outputs), np.float32)
    for n in range(_POOL):
        rows[n * stride : n * stride + kernel, :, n] = weight.transpose(1, 2, 0)
    return rows.reshape(-1, _POOL * outputs)


def num_frames(samples: int, stride: int) -> int:
    """Frames that :class:`SincNet` makes of so many samples; 0 or less where they are too few."""
    frames = ((samples - KERNEL) // stride + 1) // _POOL
    for _ in range(2):
        frames = (frames - _CONV + 1) // _POOL
    return frames


def receptive_field(stride: int) -> tuple[int, int]:
    """How many samples a frame hears, and how many lie between two frames' starts."""
    size = KERNEL
    step = stride
    for kernel, hop in ((_POOL, _POOL), (_CONV, 1), (_POOL, _POOL), (_CONV, 1), (_POOL, _POOL)):
        size += (kernel - 1) * step
        step *= hop
    return size, step


def _side_by_side(x: mx.array, size: int, stride: int, frames: int) -> mx.array:
    """Windows of (B, T, C) that begin every ``stride`` frames, ``size`` numbers each: (B, frames, size)."""
    x, step = mx.contiguous(x), stride * x.shape[2]
    return mx.as_strided(x, (len(x), frames, size), (x.shape[1] * x.shape[2], step, 1))


def _leaky(x: mx.array) -> mx.array:
    return mx.maximum(x, 0.01 * x)


def _highest_of(a: mx.array, b: mx.array, c: mx.array) -> mx.array:
    return mx.maximum(mx.maximum(a, b), c)


def _highest_size_of(a: mx.array, b: mx.array, c: mx.array) -> mx.array:
    return mx.maximum(mx.maximum(mx.abs(a), mx.abs(b)), mx.abs(c))


def _squared_distance(x: mx.array, mean: mx.array) -> mx.array:
    return mx.square(x - mean)


def _scaled(x: mx.array, mean: mx.array, scale: mx.array, bias: mx.array) -> mx.array:
    return _leaky((x - mean) * scale + bias)


# one pass over the memory of a GPU each
_highest, _highest_size = mx.compile(_highest_of), mx.compile(_highest_size_of)
_distance, _scale = mx.compile(_squared_distance), mx.compile(_scaled)


def _normalised(x: mx.array, norm: InstanceNorm) -> mx.array:
    """The norm and the leaky rectifier in four passes: (B, T, C) → (B, T, C)."""
    mean = _mean(x)
    scale = mx.rsqrt(_mean(_distance(x, mean)) + _EPS) * norm.weight
    return _scale(x, mean, scale, norm.bias)

"""One-dimensional convolutions at the speed of the device.

MLX's Linux CPU backend is slow where a convolution has one input channel or several groups (2 GFLOP/s against
70 for a matrix product): there, windows of the signal are gathered by a strided view and multiplied at once.
Everywhere else MLX's own convolution runs.

B batch, T input frames, L output frames, C input channels, O output channels, G groups, K kernel length.
"""

from __future__ import annotations

from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech.layers.fused import slow_functions, view

_TAPS = 16  # taps gathered at a time in a grouped convolution: an eighth of a 128-tap kernel's windows


def windows(x: mx.array, kernel: int, stride: int) -> mx.array:
    """All windows of one-channel signals (B, T) → (B, L, K), L = (T - K) // stride + 1 ≥ 1.

    Copied by numpy on a Linux CPU, ten times as fast as MLX copies a strided view there.
    """
    if slow_functions() and x.dtype == mx.float32:
        return _gathered(view(x)[..., None], kernel, stride)
    batch, size = x.shape
    return mx.as_strided(mx.contiguous(x), (batch, (size - kernel) // stride + 1, kernel), (size, stride, 1))


def _gathered(x: np.ndarray, kernel: int, stride: int) -> mx.array:
    """All windows of (B, T, C), side by side: (B, L, K · C)."""
    batch, size, width = x.shape
    shape = (batch, (size - kernel) // stride + 1, kernel * width)
    found = np.lib.stride_tricks.as_strided(x, shape, (x.strides[0], stride * x.strides[1], x.itemsize))
    return mx.array(np.ascontiguousarray(found))


def conv1d(x: mx.array, conv: nn.Conv1d) -> mx.array:
    """:class:`mlx.nn.Conv1d` of one group: (B, T, C) → (B, L, O).

    On a Linux CPU windows are gathered by numpy and multiplied, a third faster than MLX's own way to do that.
    """
    weight = conv.weight
    if not slow_functions() or x.dtype != mx.float32 or weight.dtype != mx.float32:
        return cast(mx.array, conv(x))
    if conv.padding:
        x = mx.pad(x, [(0, 0), (conv.padding, conv.padding), (0, 0)])
    rows, weight = _gathered(view(x), weight.shape[1], conv.stride), weight.flatten(1).T
    return mx.addmm(conv.bias, rows, weight) if "bias" in conv else rows @ weight


def grouped_conv1d(x: mx.array, weight: mx.array, groups: int, padding: int) -> mx.array:
    """Grouped convolution with stride 1.

    Args:
        x: (B, T, C).
        weight: (O, K, C / G).
        groups: G; divides C and O.
        padding: zeros put before and behind the frames.

    Returns:
        (B, T + 2 padding - K + 1, O), the dtype of ``x``.
    """
    if not slow_functions():
        return mx.conv1d(x, weight, padding=padding, groups=groups)
    outputs, kernel, width = weight.shape
    batch = x.shape[0]
    x = mx.pad(x, [(0, 0), (padding, padding), (0, 0)])
    size = x.shape[1]
    length = size - kernel + 1
    taps = min(_TAPS, kernel)
    x = mx.contiguous(x.reshape(batch, size, groups, width).swapaxes(1, 2))
    # (B, G, T - taps + 1, taps * C / G): frames that follow each other, side by side
    rows = size - taps + 1
    shape, strides = (
        (batch, groups, rows, taps * width),
        (groups * size * width, size * width, width, 1),
    )
    x = mx.contiguous(mx.as_strided(x, shape, strides))
    weight = weight.reshape(groups, outputs // groups, kernel * width).swapaxes(1, 2)
    total = mx.zeros((batch, groups, length, outputs // groups), x.dtype)
    for tap in range(0, kernel, taps):
        # the last taps of a kernel that 16 does not divide are taken a little earlier, where all 16 are there
        start, skip = min(tap, kernel - taps), max(0, tap - (kernel - taps))
        piece = weight[:, (start + skip) * width : (start + taps) * width]
        total = total + x[:, :, start : start + length, skip * width :] @ piece
    return total.swapaxes(1, 2).reshape(batch, length, outputs)

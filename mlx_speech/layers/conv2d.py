"""Convolutions over two axes, with the batch norm behind them folded in.

B batch, F frequency, T time, C channels in, N channels out.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_speech.layers.elementwise import slow_functions


class Conv2d(nn.Module):
    """A kernel of 3×3 with a margin of zeros around the input, or of 1×1.

    ``weight`` is (N, K, K, C), ``bias`` (N,).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, kernel, kernel, inputs))
        self.bias = mx.zeros((outputs,))
        self.stride = stride
        self._spread_of: mx.array | None = None
        self._spread = self.bias

    def __call__(self, x: mx.array) -> mx.array:
        """(B, F, T, C) → (B, ⌈F / stride⌉, ⌈T / stride⌉, N)."""
        kernel, channels = self.weight.shape[2:]
        if kernel == 1:
            x = x[:, :: self.stride, :: self.stride]
            return mx.addmm(self.bias, x, self.weight[:, 0, 0].T)
        if not slow_functions():
            return mx.conv2d(x, self.weight, self.stride, padding=1) + self.bias
        padded = mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        if self.stride == 1 and channels > 1:
            return _stack([self._by_quarters(p) for p in padded])
        return _stack([self._by_windows(p) for p in padded])

    def _by_quarters(self, x: mx.array) -> mx.array:
        """Padded (F + 2, T + 2, C) → (F, T, N) with half the products.

        Winograd's F(4, 3) along frequency: six products make four rows of output where twelve would be
        needed; along time the three neighbours are unrolled into the product. Lavin and Gray, "Fast
        Algorithms for Convolutional Neural Networks" (2015), https://arxiv.org/abs/1509.09308.
        """
        rows, columns, channels = x.shape
        height, width, quarters = rows - 2, columns - 2, -(-(rows - 2) // 4)
        x = mx.pad(x, [(0, 4 * quarters - height), (0, 0), (0, 0)])
        shape, strides = (quarters, width, 3 * channels), (columns * channels, channels, 1)
        products = []
        for n, (row, weight) in enumerate(zip(_spread(x, quarters), self._spread_weight(), strict=True)):
            unrolled = mx.as_strided(row, shape, strides).reshape(quarters * width, -1)
            # the second product is the one that stands in each row of output once
            products.append(mx.addmm(self.bias, unrolled, weight) if n == 1 else unrolled @ weight)
        out = mx.stack([y.reshape(quarters, width, -1) for y in _gather(products)], axis=1)
        return out.reshape(4 * quarters, width, -1)[:height]

    def _spread_weight(self) -> mx.array:
        """(6, 3C, N), made once of the weights."""
        if self._spread_of is not self.weight:
            out, _, _, channels = self.weight.shape
            by_row = self.weight.transpose(1, 2, 3, 0).reshape(3, -1)
            self._spread = (mx.array(_WEIGHTS) @ by_row).reshape(6, 3 * channels, out)
            self._spread_of = self.weight
            mx.eval(self._spread)
        return self._spread

    def _by_windows(self, x: mx.array) -> mx.array:
        """Padded (F + 2, T + 2, C) → (F', T', N): a view of all windows and one product."""
        rows, columns, channels = x.shape
        height, width = ((n - 3) // self.stride + 1 for n in (rows, columns))
        row = columns * channels
        shape = (height, width, 3, 3 * channels)
        strides = (self.stride * row, self.stride * channels, row, 1)
        windows = mx.as_strided(mx.contiguous(x), shape, strides).reshape(height * width, -1)
        weight = self.weight.reshape(self.weight.shape[0], -1)
        return mx.addmm(self.bias, windows, weight.T).reshape(height, width, -1)


# how a kernel's three rows spread over the six products
_WEIGHTS = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)


def _spread(x: mx.array, quarters: int) -> list[mx.array]:
    """(4Q + 2, …) → six arrays (Q, …): how rows 4q … 4q + 5 go into the six products."""
    a, b, c, d, e, f = (x[n : n + 4 * quarters - 3 : 4] for n in range(6))
    even, odd = e - 4 * c, d - 4 * b
    near, far = e - c, 2 * (d - b)
    return [4 * (a - c) + near, even + odd, even - odd, near + far, near - far, 4 * (b - d) + (f - d)]


def _gather(m: list[mx.array]) -> list[mx.array]:
    """The six products → four rows of output."""
    sum_12, difference_12, sum_34, difference_34 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [
        m[0] + sum_12 + sum_34,
        difference_12 + 2 * difference_34,
        sum_12 + 4 * sum_34,
        difference_12 + 8 * difference_34 + m[5],
    ]


def _stack(parts: list[mx.array]) -> mx.array:
    return parts[0][None] if len(parts) == 1 else mx.stack(parts)

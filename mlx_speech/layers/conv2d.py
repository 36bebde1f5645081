"""Convolutions over two axes, with the batch norm behind them folded in.

B batch, F frequency, T time, C channels in, N channels out.
"""

from __future__ import annotations

import functools
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech.layers.fused import fresh, kernels, slow_functions, view

_TILE = 4  # rows and columns of output that are made together
_REACH = _TILE + 2  # rows and columns of input that they need
_BYTES = 3 << 20  # of tiles transformed at once: near a CPU's cache, and not too many steps to hand over
_LOWEST = -3e38  # below what a convolution makes
_FEWEST = 128  # tiles at once: fewer make slow products


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
        return self._convolve(x) if slow_functions() else self._bare(x) + self.bias

    def rectified(self, x: mx.array, skip: mx.array | None = None) -> mx.array:
        """What is positive of :meth:`__call__`, or of its sum with ``skip`` where that is given."""
        if slow_functions():
            if self._in_tiles and (loops := kernels()):
                ways = [None] * len(x) if skip is None else list(skip)
                return mx.stack([self._by_loops(*pair, 0.0, loops) for pair in zip(x, ways, strict=True)])
            y = self._convolve(x)
            return nn.relu(y if skip is None else y + skip)
        y = self._bare(x)
        return _rectified(y, self.bias) if skip is None else _rectified_sum(y, self.bias, skip)

    def _bare(self, x: mx.array) -> mx.array:
        """MLX's own convolution, without the bias."""
        if self.weight.shape[2] == 1:
            return x[:, :: self.stride, :: self.stride] @ self.weight[:, 0, 0].T
        return mx.conv2d(x, self.weight, self.stride, padding=1)

    def _convolve(self, x: mx.array) -> mx.array:
        """:meth:`__call__` on a Linux CPU."""
        if self.weight.shape[2] == 1:
            x = x[:, :: self.stride, :: self.stride]
            return mx.addmm(self.bias, x, self.weight[:, 0, 0].T)
        by = self._by_tiles if self._in_tiles else self._by_windows
        return mx.stack([by(one) for one in x]) if len(x) != 1 else by(x[0])[None]

    def _by_tiles(self, x: mx.array) -> mx.array:
        """(F, T, C) → (F, T, N) with a quarter of the products.

        Winograd's F(4×4, 3×3): 36 products make a tile of 16 numbers where 144 would be needed. Lavin and
        Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), https://arxiv.org/abs/1509.09308.
        Both transforms are products as well, and tiles are gathered by index: MLX copies rows so, but single
        numbers where it makes a view contiguous.
        """
        if loops := kernels():
            return self._by_loops(x, None, _LOWEST, loops)
        rows, columns, channels = x.shape
        weight = self._spread_weight()
        gathers, scatter = _tiles(rows, columns, _at_once(channels))
        flat = _with_zeros(x)
        parts = []
        for gather in gathers:
            tiles = mx.take(flat, gather, axis=0).reshape(_REACH**2, -1)
            products = (_INPUT @ tiles).reshape(_REACH**2, -1, channels) @ weight
            parts.append((_OUTPUT @ products.reshape(_REACH**2, -1)).reshape(-1, weight.shape[2]))
        out = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return (mx.take(out, scatter, axis=0) + self.bias).reshape(rows, columns, -1)

    def _by_loops(self, x: mx.array, skip: mx.array | None, low: float, loops: ModuleType) -> mx.array:
        """The same with numba's loops around the products, and ``skip`` (F, T, N) added; at least ``low``."""
        rows, columns, channels = x.shape
        weight = self._spread_weight()
        across, down = -(-columns // _TILE), -(-rows // _TILE)
        _, inputs = fresh(down * _TILE + 2, across * _TILE + 2, channels)
        inputs[1 : rows + 1, 1 : columns + 1] = view(x)
        out, outputs = fresh(rows, columns, weight.shape[2])
        if skip is not None:
            outputs[:] = view(skip)
        before = np.empty((_REACH, _REACH, channels), np.float32)
        after = np.empty((_TILE, _REACH, weight.shape[2]), np.float32)
        bias, most = view(self.bias), min(_at_once(channels), down * across)
        tiles, memory = fresh(_REACH**2, most, channels)
        for first in range(0, down * across, most):
            if down * across - first < most:
                tiles, memory = fresh(_REACH**2, down * across - first, channels)
            loops.tiles_in(inputs, across, first, before, memory)
            loops.tiles_out(view(tiles @ weight), across, first, after, bias, low, outputs)
        return out

    @property
    def _in_tiles(self) -> bool:
        kernel, channels = self.weight.shape[2:]
        return self.stride == 1 and kernel == 3 and channels > 1

    def _spread_weight(self) -> mx.array:
        """(36, C, N), made once of the weights."""
        if self._spread_of is not self.weight:
            out, _, _, channels = self.weight.shape
            spread = np.einsum("ai,bj,nijc->abcn", _WEIGHTS, _WEIGHTS, np.array(self.weight, np.float64))
            self._spread = mx.array(spread.reshape(_REACH**2, channels, out).astype(np.float32))
            self._spread_of = self.weight
        return self._spread

    def _by_windows(self, x: mx.array) -> mx.array:
        """(F, T, C) → (F', T', N): all windows gathered, and one product."""
        rows, columns, channels = x.shape
        height, width = (-(-n // self.stride) for n in (rows, columns))
        windows = mx.take(_with_zeros(x), _windows(rows, columns, self.stride), axis=0)
        weight = self.weight.reshape(self.weight.shape[0], -1)
        out = mx.addmm(self.bias, windows.reshape(-1, 9 * channels), weight.T)
        return out.reshape(height, width, -1)


def _at_once(channels: int) -> int:
    """Tiles transformed together."""
    return max(_FEWEST, _BYTES // (4 * channels * _REACH**2))


def _bias_and_rectify(x: mx.array, bias: mx.array) -> mx.array:
    return mx.maximum(x + bias, 0.0)


def _add_and_rectify(x: mx.array, bias: mx.array, skip: mx.array) -> mx.array:
    return mx.maximum(x + bias + skip, 0.0)


# one pass over the memory of a GPU each
_rectified, _rectified_sum = mx.compile(_bias_and_rectify), mx.compile(_add_and_rectify)

# F(4, 3) in one dimension: how a kernel's three numbers, six numbers of input and the six products spread
_WEIGHTS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_INPUTS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_OUTPUTS = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
_INPUT = mx.array(np.kron(_INPUTS, _INPUTS).astype(np.float32))  # (36, 36)
_OUTPUT = mx.array(np.kron(_OUTPUTS, _OUTPUTS).astype(np.float32))  # (16, 36)


def _with_zeros(x: mx.array) -> mx.array:
    """(F, T, C) → (F · T + 1, C), the last row being what lies around the input."""
    channels = x.shape[2]
    return mx.concatenate([x.reshape(-1, channels), mx.zeros((1, channels))])


@functools.lru_cache(32)
def _tiles(rows: int, columns: int, most: int) -> tuple[list[mx.array], mx.array]:
    """Where the input of every ``most`` tiles lies, and where the output lies in what they make.

    Both are uint32: (36 · tiles,) rows of :func:`_with_zeros` each, and (F · T,) rows of the parts' outputs,
    (16 · tiles, N) each, behind each other.
    """
    across, down = -(-columns // _TILE), -(-rows // _TILE)
    tile = np.arange(down * across)
    reach = np.arange(_REACH) - 1
    row = reach[:, None, None] + _TILE * (tile // across)
    column = reach[:, None] + _TILE * (tile % across)
    places = _places(row, column, rows, columns).reshape(_REACH**2, -1)
    gathers = [mx.array(places[:, n : n + most].ravel()) for n in range(0, len(tile), most)]
    r, c = np.arange(rows)[:, None], np.arange(columns)
    own = (r // _TILE) * across + c // _TILE
    first = own // most * most  # of the part's tiles
    size = np.minimum(most, len(tile) - first)
    scatter = _TILE**2 * first + ((r % _TILE) * _TILE + c % _TILE) * size + own - first
    return gathers, mx.array(scatter.ravel().astype(np.uint32))


@functools.lru_cache(32)
def _windows(rows: int, columns: int, stride: int) -> mx.array:
    """Where each window's nine rows lie in :func:`_with_zeros`: (F' · T' · 9,) uint32."""
    row = np.arange(0, rows, stride)[:, None, None, None] + np.arange(-1, 2)[:, None]
    column = np.arange(0, columns, stride)[:, None, None] + np.arange(-1, 2)
    return mx.array(_places(row, column, rows, columns))


def _places(row: np.ndarray, column: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Indices of places on a grid, of the row behind all where they lie outside: flat uint32."""
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return np.where(inside, row * columns + column, rows * columns).ravel().astype(np.uint32)

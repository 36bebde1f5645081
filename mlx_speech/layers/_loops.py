"""The loops of :mod:`mlx_speech.layers.fused`, which alone imports this and its like: numba is an extra.

Each is compiled at its first call, in about a second, and kept in numba's cache on disk. Arrays are float32 and
contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from mlx_speech.layers.elementwise import ERF_P, ERF_Q, EXP2, LOG2E

# sums in any order, no care for NaN, infinity and the sign of zero: what vector code needs
_LOOSE = {"contract", "reassoc", "nnan", "ninf", "nsz"}
_F = np.float32
_P, _Q = tuple(map(_F, ERF_P)), tuple(map(_F, ERF_Q))
_E = tuple(map(_F, EXP2))
_LOG2E, _LOG4E, _LOW = _F(LOG2E), _F(2 * LOG2E), _F(-126)
_LEAK = _F(0.01)
_HALF, _ONE, _TWO, _FOUR, _ROOT = _F(0.5), _F(1), _F(2), _F(4), _F(0.7071067811865476)


def _loop(function: Callable[..., Any]) -> Any:
    options: dict[str, Any] = {"nogil": True, "fastmath": _LOOSE, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache
        return numba.njit(**options)(function)


@numba.njit(fastmath={"contract"}, inline="always", error_model="numpy")
def _exp2(x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """2**x for float32 x ≤ 126, as :func:`mlx_speech.layers.elementwise.exp2_nonpositive`."""
    x = max(x, _LOW)
    whole = np.floor(x + _HALF)
    f = x - whole
    p = ((((_E[5] * f + _E[4]) * f + _E[3]) * f + _E[2]) * f + _E[1]) * f + _E[0]
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@numba.njit(fastmath=_LOOSE, inline="always", error_model="numpy")
def _gelu_of(v):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """GELU of one float32."""
    z = min(max(v * _ROOT, -_FOUR), _FOUR)
    s = z * z
    p = (((((_P[6] * s + _P[5]) * s + _P[4]) * s + _P[3]) * s + _P[2]) * s + _P[1]) * s + _P[0]
    q = ((((_Q[5] * s + _Q[4]) * s + _Q[3]) * s + _Q[2]) * s + _Q[1]) * s + _Q[0]
    return _HALF * v * (_ONE + z * p / q)


@_loop
def gelu(x: np.ndarray, out: np.ndarray) -> None:
    """GELU, x Φ(x): (N,) → (N,)."""
    for i in range(x.size):
        out[i] = _gelu_of(x[i])


@_loop
def softmax_terms(x: np.ndarray, top: np.ndarray) -> None:
    """exp(x - top) of each row of (R, N), in its place; ``top`` (R,) holds the maxima, and 1 / Σ exp(…) then."""
    for r in range(x.shape[0]):
        row, m = x[r], top[r]
        total = _F(0)
        for i in range(row.size):
            term = _exp2((row[i] - m) * _LOG2E)
            row[i] = term
            total += term
        top[r] = _ONE / total


@_loop
def scale_rows(x: np.ndarray, scale: np.ndarray, b: int, first: int, head: int, out: np.ndarray) -> None:
    """Rows of some heads, (H', R, D), times a number each, to ``out[b, first + r, head + h]``.

    Args:
        x: the rows.
        scale: (H' · R,).
        b: the recording.
        first: the place of the first row.
        head: the first head.
        out: (B, T, H, D), written.
    """
    heads, rows, width = x.shape
    for h in range(heads):
        for r in range(rows):
            one, y, factor = x[h, r], out[b, first + r, head + h], scale[h * rows + r]
            for i in range(width):
                y[i] = one[i] * factor


@_loop
def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float, out: np.ndarray) -> None:
    """Each row of (R, N) to zero mean and unit variance, then times ``weight`` (N,) and plus ``bias`` (N,)."""
    size = x.shape[1]
    share = _ONE / _F(size)
    for r in range(x.shape[0]):
        row, y = x[r], out[r]
        total = _F(0)
        for i in range(size):
            total += row[i]
        mean = total * share
        total = _F(0)
        for i in range(size):
            total += (row[i] - mean) * (row[i] - mean)
        scale = _F(1 / np.sqrt(total * share + eps))
        for i in range(size):
            y[i] = (row[i] - mean) * scale * weight[i] + bias[i]


@_loop
def exp_sum(x: np.ndarray, top: np.float32) -> np.float32:
    """Σ exp(x - top) of (N,), ``top`` its maximum."""
    total = _F(0)
    for i in range(x.size):
        total += _exp2((x[i] - top) * _LOG2E)
    return total


@_loop
def tiles_in(x: np.ndarray, across: int, first: int, half: np.ndarray, out: np.ndarray) -> None:
    """Winograd's transform of the input of P tiles of 4×4, ``across`` of them beside each other.

    Args:
        x: (4 · down + 2, 4 · across + 2, C), with the margin of zeros.
        across: tiles in a row.
        first: the first tile.
        half: (6, 6, C) room to work in.
        out: (36, P, C), written.
    """
    two, four, five = _F(2), _F(4), _F(5)
    for p in range(out.shape[1]):
        r, s = (first + p) // across * 4, (first + p) % across * 4
        for j in range(6):
            for c in range(x.shape[2]):
                a, b, d = x[r, s + j, c], x[r + 1, s + j, c], x[r + 2, s + j, c]
                e, f, g = x[r + 3, s + j, c], x[r + 4, s + j, c], x[r + 5, s + j, c]
                half[0, j, c] = four * a - five * d + f
                half[1, j, c] = f + e - four * (b + d)
                half[2, j, c] = f - e + four * (b - d)
                half[3, j, c] = f - d + two * (e - b)
                half[4, j, c] = f - d + two * (b - e)
                half[5, j, c] = four * b - five * e + g
        for i in range(6):
            for c in range(x.shape[2]):
                a, b, d = half[i, 0, c], half[i, 1, c], half[i, 2, c]
                e, f, g = half[i, 3, c], half[i, 4, c], half[i, 5, c]
                out[6 * i, p, c] = four * a - five * d + f
                out[6 * i + 1, p, c] = f + e - four * (b + d)
                out[6 * i + 2, p, c] = f - e + four * (b - d)
                out[6 * i + 3, p, c] = f - d + two * (e - b)
                out[6 * i + 4, p, c] = f - d + two * (b - e)
                out[6 * i + 5, p, c] = four * b - five * e + g


@_loop
def tiles_out(
    x: np.ndarray, across: int, first: int, half: np.ndarray, bias: np.ndarray, low: float, out: np.ndarray
) -> None:
    """Winograd's transform of the products of P tiles, (36, P, N), to their part of the output.

    Args:
        x: the products.
        across: tiles in a row.
        first: the first tile.
        half: (4, 6, N) room to work in.
        bias: (N,) added to the output.
        low: what the output is at least.
        out: (F, T, N), holds what is added to the output, and the output then.
    """
    two, four, eight, least = _F(2), _F(4), _F(8), _F(low)
    rows, columns, width = out.shape
    for p in range(x.shape[1]):
        r, s = (first + p) // across * 4, (first + p) % across * 4
        for j in range(6):
            for c in range(width):
                b, d, e, f = x[6 + j, p, c], x[12 + j, p, c], x[18 + j, p, c], x[24 + j, p, c]
                half[0, j, c] = x[j, p, c] + b + d + e + f
                half[1, j, c] = b - d + two * (e - f)
                half[2, j, c] = b + d + four * (e + f)
                half[3, j, c] = b - d + eight * (e - f) + x[30 + j, p, c]
        for i in range(min(4, rows - r)):
            y = out[r + i]
            for c in range(width):
                b, d, e, f = half[i, 1, c], half[i, 2, c], half[i, 3, c], half[i, 4, c]
                g = bias[c]
                half[i, 0, c] += b + d + e + f + g
                half[i, 5, c] += b - d + eight * (e - f) + g
                half[i, 1, c] = b - d + two * (e - f) + g
                half[i, 2, c] = b + d + four * (e + f) + g
            for c in range(width):
                y[s, c] = max(y[s, c] + half[i, 0, c], least)
            if s + 1 < columns:
                for c in range(width):
                    y[s + 1, c] = max(y[s + 1, c] + half[i, 1, c], least)
            if s + 2 < columns:
                for c in range(width):
                    y[s + 2, c] = max(y[s + 2, c] + half[i, 2, c], least)
            if s + 3 < columns:
                for c in range(width):
                    y[s + 3, c] = max(y[s + 3, c] + half[i, 5, c], least)


@numba.njit(fastmath={"contract"}, inline="always", error_model="numpy")
def _sigmoid2(x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """1 / (1 + 2**-x); its distance to 1 keeps its relative accuracy."""
    return _ONE / (_ONE + _exp2(min(-x, -_LOW)))


_SHARING = 4  # sequences that read the recurrent weights together, while they are near


@_loop
def lstm(
    gates: np.ndarray, bias: np.ndarray, weight: np.ndarray, h: np.ndarray, c: np.ndarray, out: np.ndarray
) -> None:
    """All steps of a layer of LSTMs in D directions over B sequences; the second direction goes backwards.

    Args:
        gates: (B, T, D, 4H), the inputs' part of the gates before their activation.
        bias: (D, 4H), added to them.
        weight: (D, H, 4H), recurrent.
        h: (D, B, H), the output before the first step, and the last one then.
        c: (D, B, H), the cell, likewise.
        out: (B, T, D, H), written.
    """
    batch, steps, directions, _ = gates.shape
    size = h.shape[2]
    fours = size // 4 * 4
    sums = np.empty((_SHARING, 4 * size), np.float32)
    for d in range(directions):
        for first in range(0, batch, _SHARING):
            count = min(_SHARING, batch - first)
            for n in range(steps):
                t = steps - 1 - n if d else n
                for s in range(count):
                    _add(gates[first + s, t, d], bias[d], sums[s])
                said = h[d, first : first + count]
                for k in range(0, fours, 4):
                    for s in range(0, count - 1, 2):
                        _four_of_two(sums[s], sums[s + 1], said[s], said[s + 1], weight[d], k)
                    if count % 2:
                        _four(sums[count - 1], said[count - 1], weight[d], k)
                for k in range(fours, size):
                    for s in range(count):
                        _one(sums[s], said[s, k], weight[d, k])
                for s in range(count):
                    b = first + s
                    _activate(sums[s], c[d, b], h[d, b])
                    out[b, t, d] = h[d, b]


@numba.njit(fastmath=_LOOSE, inline="always", error_model="numpy")
def _add(a, b, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Two rows' sum, without an array between."""
    for j in range(out.size):
        out[j] = a[j] + b[j]


@numba.njit(fastmath=_LOOSE, inline="always", error_model="numpy")
def _four_of_two(g, f, x, y, w, k):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """To the sums g and f of two sequences what four of their outputs, x and y, say: weights are read once."""
    w0, w1, w2, w3 = w[k], w[k + 1], w[k + 2], w[k + 3]
    x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
    y0, y1, y2, y3 = y[k], y[k + 1], y[k + 2], y[k + 3]
    for j in range(g.size):
        a, b, c, d = w0[j], w1[j], w2[j], w3[j]
        g[j] += x0 * a + x1 * b + x2 * c + x3 * d
        f[j] += y0 * a + y1 * b + y2 * c + y3 * d


@numba.njit(fastmath=_LOOSE, inline="always", error_model="numpy")
def _four(g, x, w, k):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The same for one sequence."""
    w0, w1, w2, w3 = w[k], w[k + 1], w[k + 2], w[k + 3]
    x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
    for j in range(g.size):
        g[j] += x0 * w0[j] + x1 * w1[j] + x2 * w2[j] + x3 * w3[j]


@numba.njit(fastmath=_LOOSE, inline="always", error_model="numpy")
def _one(g, x, w):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The same for one sequence and one output."""
    for j in range(g.size):
        g[j] += x * w[j]


@numba.njit(fastmath=_LOOSE, inline="always", error_model="numpy")
def _activate(g, cell, y):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One sequence's cell (H,) and output (H,) from its complete gates (4H,)."""
    size = cell.size
    for i in range(size):
        added = _sigmoid2(g[i] * _LOG2E) * (_TWO * _sigmoid2(g[2 * size + i] * _LOG4E) - _ONE)
        cell[i] = _sigmoid2(g[size + i] * _LOG2E) * cell[i] + added
    for i in range(size):
        y[i] = _sigmoid2(g[3 * size + i] * _LOG2E) * (_TWO * _sigmoid2(cell[i] * _LOG4E) - _ONE)


@_loop
def pool_and_norm(
    x: np.ndarray, rectify: bool, weight: np.ndarray, bias: np.ndarray, eps: float, out: np.ndarray
) -> None:
    """Maxima of three frames, each channel normalised over time, scaled, shifted and leakily rectified.

    Args:
        x: (T, 3, C).
        rectify: take absolute values first.
        weight: (C,), the scale.
        bias: (C,), the shift.
        eps: added to the variance.
        out: (T, C), written.
    """
    frames, _, width = x.shape
    mean, variance = np.zeros(width), np.zeros(width)
    for t in range(frames):
        a, b, c, y = x[t, 0], x[t, 1], x[t, 2], out[t]
        if rectify:
            for i in range(width):
                y[i] = max(max(abs(a[i]), abs(b[i])), abs(c[i]))
        else:
            for i in range(width):
                y[i] = max(max(a[i], b[i]), c[i])
        for i in range(width):
            mean[i] += y[i]
    mean /= frames
    for t in range(frames):
        for i in range(width):
            variance[i] += (out[t, i] - mean[i]) ** 2
    scale = np.empty(width, np.float32)
    shift = np.empty(width, np.float32)
    for i in range(width):
        exact = weight[i] / np.sqrt(variance[i] / frames + eps)
        scale[i], shift[i] = exact, bias[i] - mean[i] * exact
    for t in range(frames):
        for i in range(width):
            z = out[t, i] * scale[i] + shift[i]
            out[t, i] = max(z, _LEAK * z)

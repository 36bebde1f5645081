"""The loops of :mod:`mlx_speech.layers.fused`, which alone imports this: numba is an extra.

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
_HALF, _ONE, _TWO, _FOUR, _ROOT = _F(0.5), _F(1), _F(2), _F(4), _F(0.7071067811865476)


def _loop(function: Callable[..., None]) -> Any:
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


@_loop
def gelu(x: np.ndarray, out: np.ndarray) -> None:
    """GELU, x Φ(x): (N,) → (N,)."""
    for i in range(x.size):
        v = x[i]
        z = min(max(v * _ROOT, -_FOUR), _FOUR)
        s = z * z
        p = (((((_P[6] * s + _P[5]) * s + _P[4]) * s + _P[3]) * s + _P[2]) * s + _P[1]) * s + _P[0]
        q = ((((_Q[5] * s + _Q[4]) * s + _Q[3]) * s + _Q[2]) * s + _Q[1]) * s + _Q[0]
        out[i] = _HALF * v * (_ONE + z * p / q)


@_loop
def softmax(x: np.ndarray, top: np.ndarray) -> None:
    """Softmax, exp(x - top) / Σ of each row of (R, N), in its place; ``top`` (R,) holds the rows' maxima."""
    for r in range(x.shape[0]):
        row, m = x[r], top[r]
        for i in range(row.size):
            row[i] = _exp2((row[i] - m) * _LOG2E)
        total = _F(0)
        for i in range(row.size):
            total += row[i]
        scale = _ONE / total
        for i in range(row.size):
            row[i] *= scale


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


@_loop
def lstm_step(gates: np.ndarray, c: np.ndarray, h: np.ndarray, n: int, out: np.ndarray) -> None:
    """One step of an LSTM of D directions over B sequences.

    Args:
        gates: (D, B, 4H), complete, before their activation.
        c: (D, B, H), the cell, and the next one then.
        h: (D, B, H), the output, written.
        n: the step.
        out: (D, T, B, H), written at step ``n`` too.
    """
    directions, batch, size = c.shape
    for d in range(directions):
        for b in range(batch):
            g, cell, y, kept = gates[d, b], c[d, b], h[d, b], out[d, n, b]
            for i in range(size):
                added = _sigmoid2(g[i] * _LOG2E) * (_TWO * _sigmoid2(g[2 * size + i] * _LOG4E) - _ONE)
                cell[i] = _sigmoid2(g[size + i] * _LOG2E) * cell[i] + added
            for i in range(size):
                y[i] = _sigmoid2(g[3 * size + i] * _LOG2E) * (_TWO * _sigmoid2(cell[i] * _LOG4E) - _ONE)
                kept[i] = y[i]

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
_LOG2E, _LOW = _F(LOG2E), _F(-126)
_HALF, _ONE, _FOUR, _ROOT = _F(0.5), _F(1), _F(4), _F(0.7071067811865476)


def _loop(function: Callable[..., None]) -> Any:
    options: dict[str, Any] = {"nogil": True, "fastmath": _LOOSE, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache
        return numba.njit(**options)(function)


@numba.njit(fastmath={"contract"}, inline="always", error_model="numpy")
def _exp2(x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """2**x for float32 x ≤ 0, as :func:`mlx_speech.layers.elementwise.exp2_nonpositive`."""
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

"""exp, GELU and log-sum-exp at the speed of the device.

MLX's Linux CPU backend has no vector code for ``exp`` and ``erf``: 13 to 30 ns an element, against 0.2 ns
for an addition. There, polynomials made of additions and products are two to four times faster at the same
accuracy, as long as a block of the array stays in the cache, and loops of numba's ten times
(:mod:`mlx_speech.layers.fused`). Everywhere else MLX's own functions run.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech.layers.fused import fresh, kernels, slow_functions, view

Array = Any
"""An array of MLX's or of numpy's."""

LOG2E = 1.4426950408889634
_ADDED = 256  # terms that one sum takes, so that it loses nothing
_FEW = 1 << 12  # elements up to which one slow function is quicker than twenty operations, 4 µs each
BLOCK = 1 << 17  # elements worked on at a time: 512 KiB of float32, about a core's cache

# 2**f on [-1/2, 1/2], Chebyshev interpolation of degree 5: relative error 8e-8
EXP2 = (
    1.0000000754548972,
    0.6931471880262273,
    0.2402210748530968,
    0.05550357114222094,
    0.009676031918255982,
    0.001339086336353527,
)
# adding this rounds to an integer and leaves integer + 127 in the low bits: the exponent field of 2**n
_MAGIC = 12582912.0 + 127.0

# erf(x) = x P(x²) / Q(x²) on [-4, 4]: fitted for this project, absolute error 2e-09
ERF_P = (
    1.128379182110503,
    0.1847102634978944,
    0.05433257156713049,
    0.003839523574500411,
    0.00038269156675158257,
    4.780524607328617e-06,
    -1.3666702266060045e-08,
)
ERF_Q = (
    1.0,
    0.49702875445303607,
    0.11382626103235405,
    0.015453502897328428,
    0.001309576970326405,
    6.400912500512684e-05,
)


def exp2_nonpositive(x: mx.array) -> mx.array:
    """2**x for float32 x ≤ 0, from additions and products alone. Below -126 the result is 2**-126."""
    x = mx.maximum(x, -126.0)
    shifted = x + _MAGIC
    fraction = x - (shifted - _MAGIC)
    return _horner(EXP2, fraction) * mx.left_shift(shifted.view(mx.int32), 23).view(mx.float32)


def gelu(x: mx.array) -> mx.array:
    """The exact GELU, x Φ(x), any shape; in float32 on a Linux CPU by a rational approximation."""
    if not slow_functions() or x.dtype != mx.float32 or x.size <= _FEW:
        return nn.gelu(x)
    if loops := kernels():
        out, memory = fresh(*x.shape)
        loops.gelu(view(x).reshape(-1), memory.reshape(-1))
        return out
    return _in_blocks(_gelu_rational, x)


def module_of(x: Array) -> ModuleType:
    """``numpy`` for an array of numpy's, ``mlx.core`` for one of MLX's: what is in both can be said for both."""
    return np if isinstance(x, np.ndarray) else mx


def logsumexp(x: Array) -> Array:
    """Log Σ exp(x) over the last axis of a float32 array of MLX's or numpy's: (..., N) → (...)."""
    if isinstance(x, np.ndarray):
        return _logsumexp_host(x)
    if not slow_functions() or x.size <= _FEW:
        return mx.logsumexp(x, axis=-1)
    if kernels():
        return mx.array(_logsumexp_host(view(x)))
    top = mx.max(x, axis=-1, keepdims=True)
    terms = exp2_nonpositive((x - top) * LOG2E)
    # MLX adds one after another: beside a term near 1, thousands of small ones would be rounded away
    whole = terms.shape[-1] // _ADDED * _ADDED
    sums = mx.sum(terms[..., :whole].reshape(*terms.shape[:-1], -1, _ADDED), axis=-1)
    total = mx.sum(sums, axis=-1) + mx.sum(terms[..., whole:], axis=-1)
    return mx.log(total) + top.squeeze(-1)


def _logsumexp_host(x: np.ndarray) -> np.ndarray:
    top = x.max(axis=-1)
    rows, tops = x.reshape(-1, x.shape[-1]), top.reshape(-1)
    loops = kernels()
    if loops:
        sums = [loops.exp_sum(row, t) for row, t in zip(rows, tops, strict=True)]
    else:
        sums = [np.exp(row - t).sum() for row, t in zip(rows, tops, strict=True)]
    return np.asarray(np.log(np.array(sums, np.float32)).reshape(top.shape) + top)


def _gelu_rational(x: mx.array) -> mx.array:
    half = 0.5 * x
    z = mx.clip(x * 0.7071067811865476, -4.0, 4.0)
    square = z * z
    erf = z * (_horner(ERF_P, square) / _horner(ERF_Q, square))
    return half + half * erf


def _horner(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """Σ c[n] x**n, lowest power first."""
    total = coefficients[-1] * x + coefficients[-2]
    for c in coefficients[-3::-1]:
        total = total * x + c
    return total


def _in_blocks(function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    if x.size <= BLOCK:
        return function(x)
    flat = x.reshape(-1)
    parts = [function(flat[i : i + BLOCK]) for i in range(0, flat.size, BLOCK)]
    return mx.concatenate(parts).reshape(x.shape)

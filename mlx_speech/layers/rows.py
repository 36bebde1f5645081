"""A linear layer for few rows as one kernel of a GPU, with the norm before it and what follows.

Where a decoder writes a token at a time, its layers are products of a few rows, and the host is busy with
launching them: on CUDA MLX asks cuBLAS how to multiply, each time anew, which takes four times as long as a
launch. Here a warp streams one row of the weights past all rows of the input. Layer norm before it, and GELU or
the sum with a residual after it, cost no launch of their own.

Both languages share one body of source. As in :mod:`mlx_speech.layers.recurrence` it runs only where it has given
the right numbers at first use; otherwise a warning is given, and MLX's own operations go on. The Metal one has not
been run on a Mac yet.

R rows, K inputs, O outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.layers import gpu

MOST = 8
"""The largest R: beyond, matrix units are faster."""

_GROUP = 8  # inputs that a thread takes at once: K is a multiple of it
_WARPS = 8  # of a block, each with an output of its own
_TOLERANCES = {
    mx.float32: 2e-5,
    mx.float16: 4e-3,
    mx.bfloat16: 3e-2,
}  # of outputs of about 1, against float64

_WAYS = ((True, False, False), (False, False, True), (True, True, False))  # norm, GELU, residual

_BODY = """
struct alignas(16) Group { T v[8]; };
const int lane = thread & 31;
const int warp = thread >> 5;
const int rows = x_shape[0];
const int inputs = x_shape[1];
const int outputs = w_shape[0];
const bool normed = what[0];
const bool curved = what[1];
const bool added = what[2];
int from[R];
UNROLL
for (int r = 0; r < R; ++r) from[r] = min(r, rows - 1) * inputs;

float mean[R], scale[R];
UNROLL
for (int r = 0; r < R; ++r) {
  mean[r] = 0.0f;
  scale[r] = 1.0f;
}
if (normed) {
  for (int r = warp; r < R; r += WARPS) {
    const GLOBAL T* row = x + min(r, rows - 1) * inputs;
    float total = 0.0f;
    for (int k = 8 * lane; k < inputs; k += 256) {
      const Group g = *(const GLOBAL Group*)(row + k);
      UNROLL
      for (int j = 0; j < 8; ++j) total += float(g.v[j]);
    }
    const float middle = SUM(total) / inputs;
    float square = 0.0f;
    for (int k = 8 * lane; k < inputs; k += 256) {
      const Group g = *(const GLOBAL Group*)(row + k);
      UNROLL
      for (int j = 0; j < 8; ++j) square += (float(g.v[j]) - middle) * (float(g.v[j]) - middle);
    }
    square = SUM(square);
    if (lane == 0) {
      known[2 * r] = middle;
      known[2 * r + 1] = 1.0f / SQRT(square / inputs + 1e-5f);
    }
  }
  BARRIER;
  UNROLL
  for (int r = 0; r < R; ++r) {
    mean[r] = known[2 * r];
    scale[r] = known[2 * r + 1];
  }
}

const int o = group * WARPS + warp;
if (o < outputs) {
  float sum[R];
  UNROLL
  for (int r = 0; r < R; ++r) sum[r] = 0.0f;
  const GLOBAL T* row = w + (long)o * inputs;
  for (int k = 8 * lane; k < inputs; k += 256) {
    const Group weights = *(const GLOBAL Group*)(row + k);
    float gain[8], shift[8];
    UNROLL
    for (int j = 0; j < 8; ++j) {
      gain[j] = 1.0f;
      shift[j] = 0.0f;
    }
    if (normed) {
      const Group g = *(const GLOBAL Group*)(gamma + k);
      const Group b = *(const GLOBAL Group*)(beta + k);
      UNROLL
      for (int j = 0; j < 8; ++j) {
        gain[j] = float(g.v[j]);
        shift[j] = float(b.v[j]);
      }
    }
    UNROLL
    for (int r = 0; r < R; ++r) {
      const Group in = *(const GLOBAL Group*)(x + from[r] + k);
      UNROLL
      for (int j = 0; j < 8; ++j) {
        sum[r] += float(weights.v[j]) * ((float(in.v[j]) - mean[r]) * scale[r] * gain[j] + shift[j]);
      }
    }
  }
  UNROLL
  for (int r = 0; r < R; ++r) {
    const float all = SUM(sum[r]);
    if (lane == r && r < rows) {
      float value = all + float(bias[o]);
      if (curved) {  // erf by 7.1.26 of Abramowitz and Stegun, within 1.5e-7: Metal has none
        const float a = (value < 0.0f ? -value : value) * 0.70710678f;
        const float t = 1.0f / (1.0f + 0.3275911f * a);
        const float poly =
            t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
        const float erf = 1.0f - poly * EXP(-a * a);
        value *= 0.5f * (1.0f + (value < 0.0f ? -erf : erf));
      }
      if (added) value += float(onto[r * outputs + o]);
      y[r * outputs + o] = T(value);
    }
  }
}
"""

_CUDA = gpu.Dialect(
    header="""
#define GLOBAL
#define UNROLL _Pragma("unroll")
#define BARRIER __syncthreads()
#define SQRT(x) sqrtf(x)
#define EXP(x) expf(x)
#define SUM(x) sum_of_warp(x)
__device__ inline float sum_of_warp(float x) {
  for (int n = 16; n > 0; n /= 2) x += __shfl_xor_sync(0xffffffffu, x, n);
  return x;
}
""",
    start="""
__shared__ float known[2 * R];
const int thread = threadIdx.x;
const int group = blockIdx.x;
""",
)
_METAL = gpu.Dialect(
    header="""
#define GLOBAL device
#define UNROLL _Pragma("unroll")
#define BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
#define SQRT(x) metal::sqrt(x)
#define EXP(x) metal::exp(x)
#define SUM(x) simd_sum(x)
""",
    start="""
threadgroup float known[2 * R];
const int thread = thread_position_in_threadgroup.x;
const int group = threadgroup_position_in_grid.x;
""",
)


def available(count: int, width: int, dtype: mx.Dtype) -> bool:
    """Whether the default device has a kernel for so many rows of a transformer of this width."""
    if runtime.on_cpu() or count > MOST or width % _GROUP or dtype not in _TOLERANCES:
        return False
    return _works(_size(count), dtype)


def linear(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    *,
    norm: tuple[mx.array, mx.array] | None = None,
    gelu: bool = False,
    onto: mx.array | None = None,
) -> mx.array:
    """The sum of ``onto`` and gelu(norm(x) · weightᵀ + bias), in float32; where :func:`available` says so.

    Args:
        x: (R, K), K a multiple of 8.
        weight: (O, K), of the same dtype as all others.
        bias: (O,).
        norm: weight and bias (K,) of a layer norm of what goes in.
        gelu: whether what comes out goes through the exact GELU.
        onto: (R, O), what the result is added to.

    Returns:
        (R, O).
    """
    what = _what(norm is not None, gelu, onto is not None)
    gamma, beta = norm or (bias, bias)
    return _launch([x, weight, bias, gamma, beta, bias if onto is None else onto, what])


def _size(count: int) -> int:
    """1 or as many as there may be: each takes a kernel of its own, and three seconds of compiling once."""
    return 1 if count == 1 else MOST


@functools.cache
def _what(norm: bool, gelu: bool, onto: bool) -> mx.array:
    """What a kernel is to do besides the product: told at run time, since each way would have to be compiled."""
    what = mx.array([norm, gelu, onto], mx.int32)
    mx.eval(what)  # it may be met while a function is traced
    return what


def _launch(inputs: list[mx.array]) -> mx.array:
    """x, weight, bias, gamma, beta, onto, what; anything stands for what is not there."""
    x, outputs = inputs[0], len(inputs[1])
    (y,) = _kernel()(
        inputs=inputs,
        template=[("T", x.dtype), ("R", _size(len(x))), ("WARPS", _WARPS)],
        grid=(-(-outputs // _WARPS) * 32 * _WARPS, 1, 1),
        threadgroup=(32 * _WARPS, 1, 1),
        output_shapes=[(len(x), outputs)],
        output_dtypes=[x.dtype],
    )
    return cast(mx.array, y)


@functools.cache
def _kernel() -> Any:
    """The compiled kernel's launcher."""
    names = ["x", "w", "bias", "gamma", "beta", "onto", "what"]
    return gpu.kernel("rows", names, ["y"], _BODY, _CUDA, _METAL)


@functools.cache
def _works(size: int, dtype: mx.Dtype) -> bool:
    """Whether the kernel gives the right numbers on this device, tried on a small layer."""
    return gpu.works(
        lambda: gpu.off(max(_error(size, dtype, *way) for way in _WAYS), _TOLERANCES[dtype]),
        "the kernel of linear layers for few rows",
        "MLX's own operations are taken, and Whisper decodes a few windows at half the speed",
        runtime.SlowRecurrenceWarning,
    )


def _error(size: int, dtype: mx.Dtype, norm: bool, gelu: bool, onto: bool) -> float:
    """The largest distance to float64; NaN counts."""
    random = np.random.default_rng(0)
    count, inputs, outputs = max(1, size - 1), 264, 19  # no whole warps, no whole block
    shapes = [(count, inputs), (outputs, inputs), (outputs,), (inputs,), (inputs,), (count, outputs)]
    given = [mx.array(random.normal(size=s)).astype(dtype) for s in shapes]
    given[1] = given[1] / inputs**0.5
    x, weight, bias, gamma, beta, more = given
    found = linear(
        x, weight, bias, norm=(gamma, beta) if norm else None, gelu=gelu, onto=more if onto else None
    )
    exact = [np.array(a.astype(mx.float32), np.float64) for a in given]
    wanted = reference((norm, gelu, onto), *exact)
    return float(np.abs(np.array(found.astype(mx.float32)) - wanted).max())


def reference(
    what: Sequence[bool],
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    onto: np.ndarray,
) -> np.ndarray:
    """What the kernel has to give, in numpy; ``what`` tells whether there are norm, GELU and residual."""
    from scipy.special import erf

    norm, gelu, added = what
    if norm:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gamma + beta
    y = x @ weight.T + bias
    if gelu:
        y = y * 0.5 * (1 + erf(y / 2**0.5))
    return cast(np.ndarray, y + onto if added else y)

"""The sequential half of an LSTM as one kernel a layer, for GPUs: all steps and both directions in one launch.

MLX has a step of an LSTM as some operations, so a recurrence is a Python loop that launches hundreds of
kernels, each of which reads the recurrent weights anew. Here a block of threads takes a few sequences through
all their steps. On CUDA it keeps the weights in its registers and, what does not fit, in shared memory; Metal
has no room for them and reads them from the GPU's cache, once for all the sequences of a block.

Both languages share one body of source. It runs only where it has given the right numbers: the first time that
a shape is met on a device, a few steps are compared with the same in float64, and where they differ, or the
kernel does not compile, a warning is given and the plain loop goes on. ``MLX_SPEECH_LSTM=plain`` always takes
the loop. The CUDA kernel was run on an H100; the Metal one has not been run on a Mac yet.

B batch, T time steps, D directions, H hidden features, N sequences a block.
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.layers import gpu

MAX_HIDDEN = 512
"""The largest H: a block has two threads a unit, and 1024 at most."""

_MULTIPLE = 16  # H is filled up to this: whole warps
_TOLERANCE = 2e-5  # of outputs within [-1, 1], against float64
_MAX_ELEMENTS = 1 << 31  # offsets into the gates are 32-bit numbers
_BLOCKS = 132  # about as many as a large GPU runs at once: beyond that, sequences share a block
_SHARED_BYTES = 96 * 1024  # what every CUDA GPU since 8.0 gives a block

# A thread works for one hidden unit, all four gates, and half of the columns: every second group of four, so
# that the two threads of a unit read neighbouring groups. Weights lie in the order in which threads take them.
# A step ends with one exchange between the two threads and one barrier; outputs stand twice in shared memory.
_BODY = """
constexpr int K = H / 8;
constexpr int THREADS = 2 * H;
constexpr int M = N > 1 ? N / 2 : 1;  // sequences that a thread finishes
const int lane = thread & 1;
const int unit = thread >> 1;
const int batch = gates_shape[0];
const int steps = gates_shape[1];
const int directions = gates_shape[2];
const int groups = (batch + N - 1) / N;
const int direction = group / groups;
const int first = (group - direction * groups) * N;

const GLOBAL float4* weights = (const GLOBAL float4*)weight + direction * (4 * K * THREADS) + thread;
SHARED float4* stored = shared + thread;
SHARED float4* heard = shared + 4 * KS * THREADS;
SHARED float* spoken = (SHARED float*)heard;
float4 kept[KR > 0 ? 4 * KR : 1];
UNROLL
for (int k = 0; k < 4 * KR; ++k) kept[k] = weights[k * THREADS];
for (int k = 0; k < 4 * KS; ++k) stored[k * THREADS] = weights[(4 * KR + k) * THREADS];

int row[M];  // where the outputs of the present step lie
float ready[M][4];
float cell[M];
const int stride = direction ? -directions * H : directions * H;
UNROLL
for (int m = 0; m < M; ++m) {
  const int s = N > 1 ? 2 * m + lane : 0;
  const int b = min(first + s, batch - 1);
  row[m] = ((b * steps + (direction ? steps - 1 : 0)) * directions + direction) * H;
  const int state = (direction * batch + b) * H + unit;
  cell[m] = c[state];
  spoken[s * H + unit] = h[state];
  UNROLL
  for (int g = 0; g < 4; ++g) ready[m][g] = gates[4 * row[m] + g * H + unit];
}
BARRIER;

int turn = 0;
for (int n = 0; n < steps; ++n) {
  float sum[N][4];
  UNROLL
  for (int s = 0; s < N; ++s) {
    UNROLL
    for (int g = 0; g < 4; ++g) sum[s][g] = (s & 1) == lane ? ready[s / 2][g] : 0.0f;
  }
  if (n + 1 < steps) {  // the next step's gates come while this one is computed
    UNROLL
    for (int m = 0; m < M; ++m) {
      UNROLL
      for (int g = 0; g < 4; ++g) ready[m][g] = gates[4 * (row[m] + stride) + g * H + unit];
    }
  }
  const SHARED float4* now = heard + turn * (N * H / 4) + lane;
  UNROLL
  for (int k = 0; k < KR; ++k) {
    UNROLL
    for (int s = 0; s < N; ++s) {
      const float4 x = now[s * (H / 4) + 2 * k];
      UNROLL
      for (int g = 0; g < 4; ++g) sum[s][g] = DOT(kept[4 * k + g], x, sum[s][g]);
    }
  }
  UNROLL
  for (int k = 0; k < KS; ++k) {
    UNROLL
    for (int g = 0; g < 4; ++g) {
      const float4 w = stored[(4 * k + g) * THREADS];
      UNROLL
      for (int s = 0; s < N; ++s) sum[s][g] = DOT(w, now[s * (H / 4) + 2 * (KR + k)], sum[s][g]);
    }
  }
  for (int k = KR + KS; k < K; ++k) {
    UNROLL
    for (int g = 0; g < 4; ++g) {
      const float4 w = weights[(4 * k + g) * THREADS];
      UNROLL
      for (int s = 0; s < N; ++s) sum[s][g] = DOT(w, now[s * (H / 4) + 2 * k], sum[s][g]);
    }
  }
  turn = 1 - turn;
  UNROLL
  for (int m = 0; m < M; ++m) {
    const int s = N > 1 ? 2 * m + lane : 0;
    float total[4];
    UNROLL
    for (int g = 0; g < 4; ++g) {
      const float own = N > 1 && lane ? sum[N > 1 ? 2 * m + 1 : 0][g] : sum[2 * m][g];
      const float other = N > 1 && !lane ? sum[N > 1 ? 2 * m + 1 : 0][g] : sum[2 * m][g];
      total[g] = own + EXCHANGE(other);
    }
    const float in = SIGMOID(total[0]);
    const float forget = SIGMOID(total[1]);
    const float fresh = 2.0f * SIGMOID(2.0f * total[2]) - 1.0f;
    const float out = SIGMOID(total[3]);
    cell[m] = forget * cell[m] + in * fresh;
    const float value = out * (2.0f * SIGMOID(2.0f * cell[m]) - 1.0f);
    if (N > 1 || lane == 0) {
      spoken[(turn * N + s) * H + unit] = value;
      if (first + s < batch) y[row[m] + unit] = value;
    }
    row[m] += stride;
  }
  BARRIER;
}
UNROLL
for (int m = 0; m < M; ++m) {
  const int s = N > 1 ? 2 * m + lane : 0;
  if (first + s < batch) {
    const int state = (direction * batch + first + s) * H + unit;
    h_last[state] = spoken[(turn * N + s) * H + unit];
    c_last[state] = cell[m];
  }
}
"""

_CUDA = gpu.Dialect(
    header="""
#define GLOBAL
#define SHARED
#define UNROLL _Pragma("unroll")
#define BARRIER __syncthreads()
#define EXCHANGE(x) __shfl_xor_sync(0xffffffffu, x, 1)
#define SIGMOID(x) __fdividef(1.0f, 1.0f + __expf(-(x)))
#define DOT(a, b, sum) fmaf((a).w, (b).w, fmaf((a).z, (b).z, fmaf((a).y, (b).y, fmaf((a).x, (b).x, sum))))
""",
    start="""
extern __shared__ float4 shared[];
const int thread = threadIdx.x;
const int group = blockIdx.x;
""",
)
_METAL = gpu.Dialect(
    header="""
#define GLOBAL device
#define SHARED threadgroup
#define UNROLL _Pragma("unroll")
#define BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
#define EXCHANGE(x) simd_shuffle_xor(x, 1)
#define SIGMOID(x) (1.0f / (1.0f + metal::exp(-(x))))
#define DOT(a, b, sum) fma((a).w, (b).w, fma((a).z, (b).z, fma((a).y, (b).y, fma((a).x, (b).x, sum))))
""",
    start="""
threadgroup float4 shared[4 * KS * 2 * H + 2 * N * H / 4];
const int thread = thread_position_in_threadgroup.x;
const int group = threadgroup_position_in_grid.x;
""",
)


def recur(
    gates: mx.array, weight: mx.array, h: mx.array, c: mx.array
) -> tuple[mx.array, mx.array, mx.array] | None:
    """Run a recurrence as one kernel, where the device has one that works.

    Args:
        gates: (B, T, D, 4H) float32, the inputs' and the bias's part of the gates before their activation, T at
            least 1. The second direction goes from the last step to the first.
        weight: (D, 4H, H) float32, recurrent; gates come in the order input, forget, cell, output.
        h: (D, B, H) float32, the output before the first step.
        c: (D, B, H) float32, the cell before it.

    Returns:
        outputs (B, T, D, H) and the last output and cell, (D, B, H) each, not evaluated; ``None`` where the
        plain loop is to be taken.
    """
    batch, steps, directions, width = gates.shape
    hidden = width // 4
    if not steps or not available(hidden) or _filled(gates.size // width * 4, hidden) >= _MAX_ELEMENTS:
        return None
    size = _filled(1, hidden)
    sequences = _sequences(size, batch, directions)
    if not _works(size, sequences):
        return None
    if size == hidden:
        return _launch(gates, weight, h, c, sequences)
    missing = size - hidden
    gates = _fill(gates.reshape(batch, steps, directions, 4, hidden), missing, 1).flatten(3)
    weight = _fill(weight.reshape(directions, 4, hidden, hidden), missing, 2).flatten(1, 2)
    found = _launch(gates, weight, _fill(h, missing, 1), _fill(c, missing, 1), sequences)
    y, h, c = (x[..., :hidden] for x in found)
    return y, h, c


def available(hidden: int) -> bool:
    """Whether the default device may have a kernel for so many hidden features."""
    return not runtime.on_cpu() and 1 <= hidden <= MAX_HIDDEN and not runtime.plain_recurrence()


def _filled(rows: int, hidden: int) -> int:
    """Elements of so many rows of H features, H filled up."""
    return rows * -(-hidden // _MULTIPLE) * _MULTIPLE


def _fill(x: mx.array, missing: int, axes: int) -> mx.array:
    """Zeros behind the last axes: such a unit stays at 0 and says nothing to the others."""
    return mx.pad(x, [(0, 0)] * (x.ndim - axes) + [(0, missing)] * axes)


def _sequences(size: int, batch: int, directions: int) -> int:
    """N: as few as keep all blocks running at once; on Metal as many as share what is read."""
    if size > 2 * 128:
        return 1
    if not gpu.on_cuda():
        return min(4, 1 << (batch.bit_length() - 1))
    if batch * directions <= _BLOCKS:
        return 1
    return 2 if batch * directions <= 2 * _BLOCKS or size > 128 else 4


def _kept(size: int, sequences: int) -> tuple[int, int]:
    """Groups of columns whose weights a thread keeps in registers, and in shared memory.

    Each takes 16 registers. What else a thread needs was read from the compiler's report for sm_90, and the
    fastest of what fits is taken. Blocks are launched only if the registers of all their threads are there.
    """
    if not gpu.on_cuda():
        return 0, 0
    groups = size // 8
    registers = min(groups, ({1: 12, 2: 11, 4: 12}[sequences] if size <= 128 else 3 if size <= 256 else 0))
    room = _SHARED_BYTES - 8 * sequences * size
    return registers, min(groups - registers, room // (128 * size))


def _launch(
    gates: mx.array, weight: mx.array, h: mx.array, c: mx.array, sequences: int
) -> tuple[mx.array, mx.array, mx.array]:
    """:func:`recur` for H a multiple of 16."""
    batch, steps, directions, width = gates.shape
    size = width // 4
    kept, stored = _kept(size, sequences)
    blocks = directions * -(-batch // sequences)
    state = (directions, batch, size)
    y, h, c = _kernel(size, sequences)(
        inputs=[gates, _by_thread(weight), h, c],
        template=[("H", size), ("N", sequences), ("KR", kept), ("KS", stored)],
        grid=(blocks * 2 * size, 1, 1),
        threadgroup=(2 * size, 1, 1),
        output_shapes=[(batch, steps, directions, size), state, state],
        output_dtypes=[mx.float32] * 3,
    )
    return y, h, c


def _by_thread(weight: mx.array) -> mx.array:
    """(D, 4H, H) → the same in the order in which threads take groups of four: (D, H/8, 4, H, 2, 4)."""
    directions, _, size = weight.shape
    return weight.reshape(directions, 4, size, size // 8, 2, 4).transpose(0, 3, 1, 2, 4, 5)


@functools.cache
def _kernel(size: int, sequences: int) -> Any:
    """The compiled kernel's launcher."""
    names = (["gates", "weight", "h", "c"], ["y", "h_last", "c_last"])
    _, stored = _kept(size, sequences)
    room = 128 * size * stored + 8 * sequences * size
    return gpu.kernel("lstm", *names, _BODY, _CUDA, _METAL, room)


@functools.cache
def _works(size: int, sequences: int) -> bool:
    """Whether the kernel gives the right numbers on this device, tried on a few steps."""
    return gpu.works(
        lambda: gpu.off(_error(size, sequences), _TOLERANCE),
        f"the LSTM kernel for {size} features",
        "the plain loop is taken, which is 20 times slower",
        runtime.SlowRecurrenceWarning,
    )


def _error(size: int, sequences: int) -> float:
    """The largest distance to float64 over a few steps of N + 1 sequences in two directions; NaN counts."""
    random = np.random.default_rng(0)
    batch, steps = sequences + 1, 4
    gates = random.normal(size=(batch, steps, 2, 4 * size))
    weight = random.normal(size=(2, 4 * size, size)) / size**0.5
    h, c = random.normal(size=(2, 2, batch, size)) / 2
    inputs = [x.astype(np.float32) for x in (gates, weight, h, c)]
    found = _launch(
        mx.array(inputs[0]), mx.array(inputs[1]), mx.array(inputs[2]), mx.array(inputs[3]), sequences
    )
    wanted = reference(*(x.astype(np.float64) for x in inputs))
    return float(max(np.abs(np.array(a) - b).max() for a, b in zip(found, wanted, strict=True)))


def reference(
    gates: np.ndarray, weight: np.ndarray, h: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`recur` has to give, in numpy, step by step."""
    batch, steps, directions, width = gates.shape
    y = np.zeros((batch, steps, directions, width // 4), gates.dtype)
    h, c = h.copy(), c.copy()
    for direction in range(directions):
        for step in range(steps)[:: -1 if direction else 1]:
            total = gates[:, step, direction] + h[direction] @ weight[direction].T
            i, f, g, o = np.split(total, 4, axis=1)
            c[direction] = c[direction] / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h[direction] = y[:, step, direction] = np.tanh(c[direction]) / (1 + np.exp(-o))
    return y, h, c

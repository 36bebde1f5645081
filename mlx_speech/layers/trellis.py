"""The likeliest way of known tokens through the frames of a CTC model, as one kernel for GPUs: a block a text.

What :mod:`mlx_speech.stages.walk` does in numpy, with the same additions and comparisons, so to the same bit: a
block keeps its text's scores in shared memory and takes them from frame to frame, each thread a few tokens. It
writes down where each score came from, and at last one thread walks back. CUDA and Metal share the source. The
caller tries it at its first use on a device; on Metal it has not been run yet.

P texts, T frames, N tokens, C columns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.layers import gpu

MAX_TOKENS = 1023
"""The largest N."""

MAX_CELLS = 1 << 27
"""Frames times tokens of one launch: bytes of the GPU's memory."""

_THREADS = 512

# Scores are those of :func:`mlx_speech.stages.ctc`: on a token, or in the blank behind it, before each frame.
_BODY = """
constexpr int W = 1024;
SHARED float* on = shared;
SHARED float* after = shared + 2 * W;
SHARED float* best = shared + 4 * W;
const int row = table[6 * group];
const int frames = table[6 * group + 1];
const int first = table[6 * group + 2];
const int count = table[6 * group + 3];
const int cells = table[6 * group + 4];
const int block = table[6 * group + 5];
const int columns = relative_shape[1];

for (int n = thread; n <= count; n += THREADS) {
  on[n] = NEVER;
  after[n] = n ? NEVER : 0.0f;
}
BARRIER;
int now = 0;
for (int t = 0; t < frames; ++t) {
  SHARED float* was_on = on + now * W;
  SHARED float* was_after = after + now * W;
  if (t && t % block == 0) {  // counted from the best one anew
    float top = NEVER;
    for (int n = thread; n <= count; n += THREADS) top = max(top, max(was_on[n], was_after[n]));
    best[thread] = top;
    BARRIER;
    if (thread == 0) {
      for (int k = 1; k < THREADS; ++k) top = max(top, best[k]);
      best[0] = top;
    }
    BARRIER;
    top = best[0];
    for (int n = thread; n <= count; n += THREADS) {
      was_on[n] -= top;
      was_after[n] -= top;
    }
    BARRIER;
  }
  SHARED float* new_on = on + (1 - now) * W;
  SHARED float* new_after = after + (1 - now) * W;
  const float gain = outside[row + t];
  for (int n = thread; n <= count; n += THREADS) {
    const float stay = was_on[n];
    const float blank = was_after[n];
    float behind = max(blank, stay);
    if (n == 0 || n == count) behind += gain;
    new_after[n] = behind;
    int from = stay > blank ? 4 : 0;
    float score = NEVER;
    if (n) {
      const int token = tokens[first + n - 1];
      const bool same = n > 1 && tokens[first + n - 2] == token;
      const float enter = was_after[n - 1];
      const float step = same ? NEVER : was_on[n - 1];
      score = max(max(stay, enter), step) + relative[(row + t) * columns + token];
      from |= step > stay && step >= enter ? 1 : enter > stay ? 2 : 0;
    }
    new_on[n] = score;
    codes[cells + t * (count + 1) + n] = from;
  }
  now = 1 - now;
  BARRIER;
}
if (thread == 0) {
  SHARED float* last_on = on + now * W;
  SHARED float* last_after = after + now * W;
  float top = NEVER;
  for (int n = 0; n <= count; ++n) top = max(top, max(last_on[n], last_after[n]));
  int token = count;
  bool blank = last_after[count] - top > last_on[count] - top;
  for (int t = frames - 1; t >= 0; --t) {
    states[row + t] = blank ? -1 : token - 1;
    const int from = codes[cells + t * (count + 1) + token];
    if (blank) {
      blank = !(from & 4);
    } else if (from & 1) {
      --token;
    } else if (from & 2) {
      --token;
      blank = true;
    }
  }
}
"""
_CUDA = gpu.Dialect(
    header="""
#define SHARED
#define BARRIER __syncthreads()
#define NEVER __int_as_float(0xff800000)
#define THREADS 512
""",
    start="""
extern __shared__ float shared[];
const int thread = threadIdx.x;
const int group = blockIdx.x;
""",
)
_METAL = gpu.Dialect(
    header="""
#define SHARED threadgroup
#define BARRIER threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)
#define NEVER -INFINITY
#define THREADS 512
""",
    start="""
threadgroup float shared[4 * 1024 + THREADS];
const int thread = thread_position_in_threadgroup.x;
const int group = threadgroup_position_in_grid.x;
""",
)


def best_states(
    relative: Sequence[np.ndarray], outside: Sequence[np.ndarray], tokens: Sequence[np.ndarray], block: int
) -> list[np.ndarray]:
    """Each frame's token on the best path, for P texts at once.

    Args:
        relative: each (T, C) float32, what symbols score above the blank.
        outside: each (T,) float32, what a frame before the first token or behind the last one scores above it.
        tokens: each (N,) columns, N from 1 to ``MAX_TOKENS``, and few enough for the frames.
        block: frames after which scores are counted from the best one anew.

    Returns:
        Each (T,) int, from 0, or -1 for a blank.

    Raises:
        RuntimeError: the kernel does not compile or launch.
    """
    frames = np.array([len(x) for x in relative])
    counts = np.array([len(x) for x in tokens])
    rows, firsts, cells = (np.append(0, np.cumsum(x)) for x in (frames, counts, frames * (counts + 1)))
    table = np.stack(
        [rows[:-1], frames, firsts[:-1], counts, cells[:-1], np.full_like(frames, block)], axis=1
    )
    states, _ = _kernel()(
        inputs=[
            mx.array(np.concatenate(relative)),
            mx.array(np.concatenate(outside).astype(np.float32)),
            mx.array(np.concatenate(tokens).astype(np.int32)),
            mx.array(table.astype(np.int32)),
        ],
        grid=(len(frames) * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(int(rows[-1]),), (int(cells[-1]),)],
        output_dtypes=[mx.int32, mx.uint8],
    )
    return np.split(np.array(states), rows[1:-1])


def available() -> bool:
    """Whether the default device may have the kernel."""
    return not runtime.on_cpu()


@functools.cache
def _kernel() -> Any:
    """The compiled kernel's launcher."""
    names = (["relative", "outside", "tokens", "table"], ["states", "codes"])
    room = 4 * (4 * (MAX_TOKENS + 1) + _THREADS)
    return gpu.kernel("trellis", *names, _BODY, _CUDA, _METAL, room)

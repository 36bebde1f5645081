"""Which of the audio's frames each token listens to: attention made a cost, and the cheapest path through it.

Original: https://github.com/openai/whisper/blob/v20250625/whisper/timing.py (MIT).

Letters: H alignment heads, L tokens, T audio frames (20 ms), B matrices walked through together, N and M the
rows and columns of the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech import runtime

_MEDIAN_WIDTH = 7
_CELLS = 1 << 25  # of cost matrices walked through together: bounds memory, 6 bytes a cell

# compare-exchange pairs after which the middle of seven values stands at index 3
_MEDIAN_NETWORK = (
    (0, 5),
    (0, 3),
    (1, 6),
    (2, 4),
    (0, 1),
    (3, 5),
    (2, 6),
    (2, 3),
    (3, 6),
    (4, 5),
    (1, 4),
    (1, 3),
    (3, 4),
)

Path = tuple[np.ndarray, np.ndarray]
"""Row and column indices of a path, two int arrays of one length, from (0, 0) to the last row and column."""


def alignment_matrices(scores: mx.array, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Attention scores of a batch → the mean over heads of what is normalised and smoothed of them.

    Args:
        scores: before the softmax, (B, H, L, T) float32.
        sizes: how many tokens and frames count of each row of the batch.

    Returns:
        B matrices (tokens, frames) float32.
    """
    if runtime.on_cpu():  # where numpy's exp is the faster one
        rows = np.array(scores)
        return [_matrix(rows[n, :, :a, :b], np) for n, (a, b) in enumerate(sizes)]
    found = [_matrix(scores[n, :, :a, :b], mx) for n, (a, b) in enumerate(sizes)]
    mx.eval(found)
    return [np.array(matrix) for matrix in found]


def _matrix(scores: Any, xp: Any) -> Any:
    """Scores (H, L, T) → (L, T), in numpy or on MLX's device, as ``xp`` says."""
    weights = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    centred = weights - xp.mean(weights, axis=-2, keepdims=True)
    spread = xp.sqrt(xp.mean(centred * centred, axis=-2, keepdims=True))
    return xp.mean(median_filter(centred / xp.maximum(spread, 1e-12), xp), axis=0)


def median_filter(values: Any, xp: Any = np) -> Any:
    """Running median of 7 along the last axis, edges reflected; 3 values or fewer are left as they are."""
    half, length = _MEDIAN_WIDTH // 2, values.shape[-1]
    if length <= half:
        return values
    before, after = values[..., half:0:-1], values[..., -2 : -half - 2 : -1]
    padded = xp.concatenate([before, values, after], axis=-1)
    taps = [padded[..., i : i + length] for i in range(_MEDIAN_WIDTH)]
    for low, high in _MEDIAN_NETWORK:
        taps[low], taps[high] = xp.minimum(taps[low], taps[high]), xp.maximum(taps[low], taps[high])
    return taps[half]


def dtw(costs: Sequence[np.ndarray]) -> list[Path]:
    """Dynamic time warping: the cheapest monotonic path through each of several cost matrices.

    A step on both axes, or down, is taken only where it is strictly the cheapest; else the path steps right.

    Args:
        costs: (rows, columns) floating each, none of them empty; of any sizes.

    Returns:
        A path for each.
    """
    # like sizes together: little is filled up
    order = sorted(range(len(costs)), key=lambda n: costs[n].shape)
    found: dict[int, Path] = {}
    for group in _groups([costs[n].shape for n in order]):
        some = [order[k] for k in group]
        found.update(zip(some, _walk([costs[n] for n in some]), strict=True))
    return [found[n] for n in range(len(costs))]


def _groups(shapes: Sequence[tuple[int, ...]]) -> Iterator[range]:
    """Neighbours that go together, as many as memory is meant for."""
    first, rows, columns = 0, 0, 0
    for n, (height, width) in enumerate(shapes):
        rows, columns = max(rows, height), max(columns, width)
        if n > first and (n + 1 - first) * rows * (rows + columns) > _CELLS:
            yield range(first, n)
            first, rows, columns = n, height, width
    if shapes:
        yield range(first, len(shapes))


def _walk(costs: Sequence[np.ndarray]) -> list[Path]:
    """Paths through matrices side by side: all cells of a diagonal, of all of them, at once."""
    sizes = np.array([c.shape for c in costs])
    rows, columns = sizes.max(0)
    diagonals = _sheared(costs, rows, columns)
    both = np.zeros((rows + columns - 1, len(costs), rows), bool)  # the step taken: on both axes
    down = np.zeros_like(both)  # or down; else to the right
    # costs of the paths to the last three diagonals' cells, a border of one row above them
    oldest, newest, fresh = (np.full((len(costs), rows + 1), np.inf, np.float32) for _ in range(3))
    oldest[:, 0] = 0.0
    for d in range(rows + columns - 1):
        corner, above, left = oldest[:, :-1], newest[:, :-1], newest[:, 1:]
        np.less(corner, np.minimum(above, left), out=both[d])
        np.less(above, np.minimum(corner, left), out=down[d])
        best = np.where(both[d], corner, np.where(down[d], above, left))
        np.add(best, diagonals[..., d], out=fresh[:, 1:], casting="same_kind")
        oldest[:, 0] = np.inf
        oldest, newest, fresh = newest, fresh, oldest
    return _traced(both, down, sizes)


def _sheared(costs: Sequence[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """A view (B, N, N + M - 1) whose last axis counts diagonals: cell (i, d - i) of each matrix, else infinity."""
    width = rows - 1 + columns  # what is beyond a row's end is what is before the next one
    wide = np.full((len(costs), rows, width), np.inf, np.result_type(*costs))
    for n, cost in enumerate(costs):
        wide[n, : cost.shape[0], rows - 1 : rows - 1 + cost.shape[1]] = cost
    one, line, item = wide.strides
    shape, strides = (len(costs), rows, rows + columns - 1), (one, line - item, item)
    return np.lib.stride_tricks.as_strided(wide[..., rows - 1 :], shape, strides, writeable=False)


def _traced(both: np.ndarray, down: np.ndarray, sizes: np.ndarray) -> list[Path]:
    """From each matrix's last cell back to its first, one step of all of them at a time."""
    which = np.arange(len(sizes))
    i, j = sizes.T - 1
    path = [(i, j)]
    while i.any() or j.any():
        here = (i + j, which, i)
        lower, across = down[here], both[here]
        rises = (i > 0) & ((j == 0) | lower | across)
        returns = (j > 0) & ((i == 0) | ~lower)
        i, j = i - rises, j - returns
        path.append((i, j))
    walked = np.array(path[::-1])  # (steps, 2, B); a short one waits at its first cell
    waits = (walked.sum(1) == 0).sum(0) - 1
    return [(walked[w:, 0, n], walked[w:, 1, n]) for n, w in enumerate(waits)]

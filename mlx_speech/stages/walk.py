"""The likeliest CTC placements of several texts at once, each as :func:`mlx_speech.stages.ctc.viterbi` finds it.

On a GPU one kernel serves them (:mod:`mlx_speech.layers.trellis`), where it finds the same paths. On the host,
where tokens are a few hundred, a frame's arithmetic takes less time than numpy's calls for it. So short problems
stand side by side, one behind the other in memory, and one call serves them all. All scores are kept, so that
nothing is computed twice; a problem for which they are too many is left to ``viterbi``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from mlx_speech import runtime
from mlx_speech.layers import gpu, trellis
from mlx_speech.stages import ctc

CELLS = 1 << 22
"""Frames times tokens that are worked on together; each takes 8 bytes."""


@dataclass(frozen=True)
class Problem:
    """Log-probabilities (T, V), tokens (N,) and ``outside`` (T,) or ``None``, as :func:`ctc.viterbi` takes them."""

    log_probs: np.ndarray
    tokens: np.ndarray
    outside: np.ndarray | None = None

    @property
    def cells(self) -> int:
        """Frames times tokens."""
        return len(self.log_probs) * len(self.tokens)

    @cached_property
    def possible(self) -> bool:
        """Whether the frames are enough for the tokens, and there are any."""
        return len(self.tokens) > 0 and ctc.frames_needed(self.tokens) <= len(self.log_probs)


def viterbi_each(problems: Sequence[Problem], blank: int = 0) -> list[ctc.Path | None]:
    """The best of all paths for each, as :func:`ctc.viterbi` finds it, to the last bit.

    Args:
        problems: what is to be placed.
        blank: the blank's column.
    """
    out: list[ctc.Path | None] = [None] * len(problems)
    left = [n for n, p in enumerate(problems) if p.possible]
    short = [n for n in left if trellis.available() and len(problems[n].tokens) <= trellis.MAX_TOKENS]
    if short and _kernel_works():
        for some in _groups(problems, short, trellis.MAX_CELLS):
            chosen = [problems[n] for n in some]
            for n, p, states in zip(some, chosen, _by_kernel(chosen, blank), strict=True):
                out[n] = ctc.path_through(states, p.log_probs, p.tokens, blank)
        left = sorted({*left} - {*short})
    room = np.empty(0, np.float32)  # for all groups: memory new to the process costs as much as the sums
    for some in _groups(problems, left, CELLS):
        chosen = [problems[n] for n in some]
        if chosen[0].cells > CELLS:
            p = chosen[0]
            out[some[0]] = ctc.viterbi(p.log_probs, p.tokens, blank, outside=p.outside)
            continue
        needed = 2 * (len(chosen[0].log_probs) + 1) * sum(len(p.tokens) + 1 for p in chosen)
        room = room if len(room) >= needed else np.empty(needed, np.float32)
        for n, p, states in zip(some, chosen, _states(chosen, blank, room[:needed]), strict=True):
            out[n] = ctc.path_through(states, p.log_probs, p.tokens, blank)
    return out


def _groups(problems: Sequence[Problem], some: Sequence[int], cells: int) -> Iterator[list[int]]:
    """Those of some that go together, the longest first: within so many cells, or one alone."""
    group: list[int] = []
    width = 0
    for n in sorted(some, key=lambda n: -len(problems[n].log_probs)):
        width += len(problems[n].tokens)
        if group and len(problems[group[0]].log_probs) * width > cells:
            yield group
            group, width = [], len(problems[n].tokens)
        group.append(n)
    if group:
        yield group


def _by_kernel(problems: Sequence[Problem], blank: int) -> list[np.ndarray]:
    """For each problem its frames' tokens, from 0, or -1 for a blank: a GPU's answer."""
    scores = [ctc.from_blank(p.log_probs, blank, p.outside) for p in problems]
    tokens = [p.tokens for p in problems]
    return trellis.best_states([x for x, _ in scores], [x for _, x in scores], tokens, ctc.BLOCK)


@cache
def _kernel_works() -> bool:
    """Whether the kernel finds the same paths on this device, tried on noise: one text is longer than a block."""
    rng = np.random.default_rng(0)
    problems = []
    for frames, count in ((ctc.BLOCK + 50, 600), (90, 40)):
        log_probs = np.log(rng.dirichlet(np.ones(6), frames)).astype(np.float32)
        problems.append(Problem(log_probs, rng.integers(1, 6, count), log_probs[:, 1:].max(1) - 2))
    room = np.empty(2 * (ctc.BLOCK + 51) * 642, np.float32)

    def check() -> str:
        pairs = zip(_by_kernel(problems, 0), _states(problems, 0, room), strict=True)
        return "" if all(np.array_equal(a, b) for a, b in pairs) else "it found other paths"

    return gpu.works(
        check, "the kernel that places letters", "the host places them", runtime.SlowPlacingWarning
    )


def _states(problems: Sequence[Problem], blank: int, room: np.ndarray) -> Iterator[np.ndarray]:
    """For each problem, none longer than the one before it, its frames' tokens, from 0, or -1 for a blank."""
    edges = np.cumsum([0, *(len(p.tokens) + 1 for p in problems)])
    on, after = _scores(problems, edges, blank, room.reshape(2, -1, edges[-1]))
    for p, low, high in zip(problems, edges, edges[1:], strict=False):
        frames = len(p.log_probs)
        mine = on[: frames + 1, low:high], after[: frames + 1, low:high]
        # counted from the best one, as viterbi does it at the end, so that rounding makes the same ones equal
        on_it, behind = (rows[-1] - max(rows[-1].max() for rows in mine) for rows in mine)
        states = np.empty(frames, np.int64)
        ctc.trace_back(*mine, ctc.no_repeats(p.tokens), states, len(p.tokens), bool(behind[-1] > on_it[-1]))
        yield states


def _scores(
    problems: Sequence[Problem], edges: np.ndarray, blank: int, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of being, before each frame and at the end, on a token or in the blank behind it.

    Both lie in ``room`` and are (T + 1, M), T the first problem's frames, M all problems' tokens with the start
    before each's first.
    Row t of a problem with fewer frames than t is not set.
    """
    frames = np.array([len(p.log_probs) for p in problems])
    on, after = room
    repeat = np.empty(edges[-1], np.float32)
    outside = np.zeros((frames[0], 2, len(problems)), np.float32)
    for b, (p, low, high) in enumerate(zip(problems, edges, edges[1:], strict=False)):
        scores, gain = ctc.from_blank(p.log_probs, blank, p.outside)
        # emissions, until the scores are there; nothing leads to the start, from the problem before it least of all
        np.take(scores, p.tokens, axis=1, out=on[1 : frames[b] + 1, low + 1 : high], mode="clip")
        on[:, low] = repeat[low] = -np.inf
        repeat[low + 1 : high] = ctc.no_repeats(p.tokens)
        outside[: frames[b], :, b] = gain[:, None]
    on[0] = after[0] = -np.inf
    after[0, edges[:-1]] = 0.0
    borders = sorted({0, *frames.tolist(), *range(ctc.BLOCK, frames[0], ctc.BLOCK)})
    for first, last in pairwise(borders):
        count = int(np.sum(frames > first))
        starts, width = edges[:count], edges[count]
        if first and first % ctc.BLOCK == 0:
            top = np.maximum.reduceat(np.maximum(on[first, :width], after[first, :width]), starts)
            for rows in (on, after):
                rows[first, :width] -= np.repeat(top, np.diff(edges[: count + 1]))
        ends = np.stack([starts, edges[1 : count + 1] - 1])
        span = slice(first, last + 1)
        _steps(on[span, :width], after[span, :width], repeat[1:width], ends, outside[first:last, :, :count])
    return on, after


def _steps(
    on: np.ndarray, after: np.ndarray, repeat: np.ndarray, ends: np.ndarray, outside: np.ndarray
) -> None:
    """Carry the first row on to the others, in place; ``ends`` gain what frames outside of a text count."""
    entered, stepped = np.empty_like(repeat), np.empty_like(repeat)
    for here, behind, on_next, behind_next, gain in zip(on, after, on[1:], after[1:], outside, strict=False):
        np.maximum(here[1:], behind[:-1], out=entered)
        np.add(here[:-1], repeat, out=stepped)
        np.maximum(entered, stepped, out=entered)
        np.add(on_next[1:], entered, out=on_next[1:])
        np.maximum(behind, here, out=behind_next)
        behind_next[ends] += gain

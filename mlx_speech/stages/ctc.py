"""The likeliest placement of known tokens in a recording, from a CTC model's frame probabilities.

T frames, N tokens, V symbols. Two rules:

- :func:`viterbi`, what CTC means: a token fills one or more frames, blanks may stand between tokens and must
  stand between two equal ones. Exact, in one pass over the frames with vector arithmetic over the tokens.
  Scores are kept only every ``BLOCK`` frames; the path is found from the end backwards by computing each
  block again, for the few tokens that it can hold. So memory is 8·T·N/BLOCK bytes and some megabytes, and
  time is proportional to T·N. With a beam only the tokens between the first and the last whose score is near
  the best are kept: time and memory are then proportional to T, and the path need not be the best.
- :func:`blank_stay`, the rule of torchaudio's old tutorial and of WhisperX: a token is said in one frame, and
  every further frame costs a blank. For comparison; it needs 4·(T+1)·(N+1) bytes.

Original of the second: https://github.com/m-bain/whisperX/blob/v3.8.6/whisperx/alignment.py (BSD-2-Clause).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 2048
"""Frames between kept scores; after so many, scores are counted from the best one anew."""
_CHUNK = 128  # frames between looks at which tokens matter
_GATHER = 1 << 22  # emissions gathered at a time
_FLOOR = -1e4  # log-probabilities are cut here, so that sums stay finite


@dataclass(frozen=True, slots=True)
class Path:
    """Where each of N tokens stands: frames ``starts`` ≤ t < ``ends`` (N,) int, in order, none empty.

    ``scores`` (N,) float is the mean probability along those frames, ``along`` (T,) float32 the path's
    log-probability in every frame of the recording.
    """

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    along: np.ndarray


def frames_needed(tokens: Sequence[int] | np.ndarray) -> int:
    """The fewest frames that CTC can place the tokens in: one each, and a blank between equal neighbours."""
    tokens = np.asarray(tokens)
    return len(tokens) + int(np.sum(tokens[1:] == tokens[:-1]))


def viterbi(
    log_probs: np.ndarray,
    tokens: Sequence[int] | np.ndarray,
    blank: int = 0,
    *,
    beam: float = np.inf,
    outside: np.ndarray | None = None,
) -> Path | None:
    """The likeliest CTC path.

    Args:
        log_probs: (T, V) natural logarithms.
        tokens: N columns of ``log_probs``, none of them the blank.
        blank: the blank's column.
        beam: how much less than the best score a token's may be for paths to go on from it; without a beam
            the path is the best of all.
        outside: (T,) what a frame before the first token or behind the last one counts where that is more than
            its blank: there may be speech that the tokens leave out. By default such frames are blanks.

    Returns:
        The path, or ``None`` where the frames are too few (:func:`frames_needed`) or the beam lost the way to
        the last token.
    """
    wanted = np.asarray(tokens, np.intp)
    if not len(wanted) or len(log_probs) < frames_needed(wanted):
        return None
    states = _Trellis(log_probs, wanted, blank, outside).states(beam)
    if states is None:
        return None
    return path_through(states, log_probs, wanted, blank)


@dataclass(slots=True)
class _Scores:
    """Scores of being, after some frames, on a token (``on``) or in the blank behind it (``after``).

    Both are float32 and have an entry for each of the tokens ``low`` to ``high``, counted from 1; 0 stands for
    the start, before any token. Other tokens are out of reach.
    """

    low: int
    on: np.ndarray
    after: np.ndarray

    @property
    def high(self) -> int:
        """The last token."""
        return self.low + len(self.on) - 1

    def between(self, low: int, high: int) -> _Scores:
        """A copy for other tokens."""
        rows = np.full((2, high - low + 1), -np.inf, np.float32)
        first, last = max(low, self.low), min(high, self.high) + 1
        for row, mine in zip(rows, (self.on, self.after), strict=True):
            row[first - low : last - low] = mine[first - self.low : last - self.low]
        return _Scores(low, *rows)

    def within(self, beam: float) -> _Scores:
        """The tokens that matter, and the one before them."""
        best = np.maximum(self.on, self.after)
        alive = np.flatnonzero(best > best.max() - np.float32(beam))
        return self.between(max(self.low + int(alive[0]) - 1, 0), self.low + int(alive[-1]))


class _Trellis:
    """Scores of every token, frame by frame; all are relative to a path of blanks, so a blank costs nothing."""

    def __init__(
        self, log_probs: np.ndarray, tokens: np.ndarray, blank: int, outside: np.ndarray | None = None
    ) -> None:
        self.relative, self.outside = from_blank(log_probs, blank, outside)
        self.tokens = tokens
        self.repeat = no_repeats(tokens)

    def states(self, beam: float = np.inf) -> np.ndarray | None:
        """The best path: for each frame its token's number, or -1 for a blank; ``None`` where none is left."""
        frames, token = len(self.relative), len(self.tokens)
        kept, end = self._forward(beam)
        if end.high < token:
            return None
        blank = bool(end.after[-1] > end.on[-1])
        out = np.empty(frames, np.int64)
        for number in reversed(range(len(kept))):
            first, last = number * BLOCK, min((number + 1) * BLOCK, frames)
            low = max(kept[number].low, token - (last - first) - 1)
            rows = self._rows(kept[number].between(low, token), first, last)
            token, blank = trace_back(*rows, self.repeat, out[first:last], token, blank, low)
        return out

    def _forward(self, beam: float) -> tuple[list[_Scores], _Scores]:
        """The scores before every block, and those at the end."""
        scores = _Scores(0, np.full(1, -np.inf, np.float32), np.zeros(1, np.float32))
        kept = []
        for first in range(0, len(self.relative), BLOCK):
            kept.append(scores)
            last = min(first + BLOCK, len(self.relative))
            for start in range(first, last, _CHUNK):
                stop = min(start + _CHUNK, last)
                # a frame brings at most one token into reach
                scores = scores.between(scores.low, min(scores.high + stop - start, len(self.tokens)))
                for _ in self._steps(scores, start, stop):
                    pass
                scores = scores.within(beam)
            top = max(scores.on.max(), scores.after.max())  # keeps float32 sums of many frames small
            scores = _Scores(scores.low, scores.on - top, scores.after - top)
        return kept, scores

    def _emissions(self, first: int, last: int, low: int, high: int) -> Iterator[np.ndarray]:
        """Each frame's scores (high - low,) of the tokens low ≤ n < high."""
        tokens = self.tokens[low:high]
        step = max(1, _GATHER // max(len(tokens), 1))
        for at in range(first, last, step):
            yield from self.relative[at : min(at + step, last)][:, tokens]

    def _steps(self, scores: _Scores, first: int, last: int) -> Iterator[None]:
        """Carry the scores, in place, over the frames; one turn a frame."""
        on, after, low, high = scores.on, scores.after, scores.low, scores.high
        repeat = self.repeat[low:high]
        entered, stepped = np.empty_like(repeat), np.empty_like(repeat)
        at_start, at_end = low == 0, high == len(self.tokens)
        for t, emission in enumerate(self._emissions(first, last, low, high), first):
            np.maximum(on[1:], after[:-1], out=entered)
            np.add(on[:-1], repeat, out=stepped)
            np.maximum(entered, stepped, out=entered)
            np.maximum(after, on, out=after)
            if at_start:
                after[0] += self.outside[t]
            if at_end:
                after[-1] += self.outside[t]
            np.add(entered, emission, out=on[1:])
            on[0] = -np.inf
            yield

    def _rows(self, scores: _Scores, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The scores after each frame, from before the first on: two (last - first + 1, high - low + 1)."""
        rows = np.empty((2, last - first + 1, len(scores.on)), np.float32)
        rows[:, 0] = scores.on, scores.after
        for n, _ in enumerate(self._steps(scores, first, last), 1):
            rows[0, n], rows[1, n] = scores.on, scores.after
        return rows[0], rows[1]


def from_blank(
    log_probs: np.ndarray, blank: int, outside: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """What each symbol (T, V) and a frame outside of the text (T,) score above the blank; float32 and finite."""
    scores = np.maximum(log_probs, np.float32(_FLOOR), dtype=np.float32)
    gain = 0.0 if outside is None else np.maximum(outside - scores[:, blank], 0.0)
    return scores - scores[:, blank : blank + 1], np.broadcast_to(np.float32(gain), len(scores))


def no_repeats(tokens: np.ndarray) -> np.ndarray:
    """What a step to each token straight from the one before it costs (N,): between equal ones it is forbidden."""
    costs = np.zeros(len(tokens), np.float32)
    costs[1:][tokens[1:] == tokens[:-1]] = -np.inf
    return costs


def trace_back(
    on: np.ndarray,
    after: np.ndarray,
    repeat: np.ndarray,
    out: np.ndarray,
    token: int,
    blank: bool,
    low: int = 0,
) -> tuple[int, bool]:
    """Walk back from the state after the last frame, writing each frame's token, counted from 0, or -1 for a blank.

    Args:
        on: scores of being on a token before each frame, (≥ T, ≥ N), float32.
        after: of being in the blank behind it.
        repeat: (N,) what :func:`no_repeats` says.
        out: (T,) written.
        token: where the walk begins; tokens count from 1.
        blank: whether in the blank behind it.
        low: the token of the first column.

    Returns:
        The token and the blank before the first frame.
    """
    on_it, behind = on.data, after.data  # memoryviews: quicker than numpy's scalars
    costs, found = repeat.tolist(), []
    for t in range(len(out) - 1, -1, -1):
        n = token - low
        found.append(-1 if blank else token - 1)
        if blank:
            blank = not on_it[t, n] > behind[t, n]
            continue
        stay, enter = on_it[t, n], behind[t, n - 1]
        step = on_it[t, n - 1] + costs[token - 1]
        if step > stay and step >= enter:
            token -= 1
        elif enter > stay:
            token, blank = token - 1, True
    out[:] = found[::-1]
    return token, blank


def path_through(states: np.ndarray, log_probs: np.ndarray, tokens: np.ndarray, blank: int) -> Path:
    """The path by each frame's token (T,), counted from 0, or -1 for a blank."""
    symbols = np.where(states < 0, blank, tokens[states])
    along = log_probs[np.arange(len(symbols)), symbols]
    frames = np.flatnonzero(states >= 0)
    _, first, counts = np.unique(states[frames], return_index=True, return_counts=True)
    sums = np.add.reduceat(np.exp(along[frames], dtype=np.float64), first)
    starts = frames[first]
    return Path(starts, starts + counts, np.minimum(sums / counts, 1.0), along)


def blank_stay(log_probs: np.ndarray, tokens: Sequence[int] | np.ndarray, blank: int = 0) -> Path | None:
    """The path of the tutorial trellis, as WhisperX 3.8.6 finds it.

    Args:
        log_probs: (T, V) natural logarithms.
        tokens: N columns of ``log_probs``.
        blank: the blank's column.

    Returns:
        The path, whose tokens last until the next one begins (a token's score includes its blanks), or
        ``None`` where there is none. The last token ends where the path scored best, not at the last frame.
    """
    wanted = np.asarray(tokens, np.intp)
    frames, count = len(log_probs), len(wanted)
    if not count or frames < count:
        return None
    scores = np.asarray(log_probs, np.float32)
    trellis = np.empty((frames + 1, count + 1), np.float32)
    trellis[0] = -np.inf
    trellis[1:, 0] = np.cumsum(scores[:, blank])
    trellis[0, 0] = 0.0
    trellis[-count:, 0] = np.inf
    for t in range(frames):
        stay = trellis[t, 1:] + scores[t, blank]
        np.maximum(stay, trellis[t, :-1] + scores[t, wanted], out=trellis[t + 1, 1:])
    return _trace_blank_stay(trellis, scores, wanted, blank)


def _trace_blank_stay(trellis: np.ndarray, scores: np.ndarray, tokens: np.ndarray, blank: int) -> Path | None:
    n = len(tokens)
    last = int(np.argmax(trellis[:, n]))
    starts = np.empty(n, np.int64)
    for t in range(last - 1, -1, -1):
        stayed = trellis[t, n] + scores[t, blank]
        changed = trellis[t, n - 1] + scores[t, tokens[n - 1]]
        if changed > stayed:
            n -= 1
            starts[n] = t
            if n == 0:
                break
    if n:
        return None
    ends = np.append(starts[1:], last)
    along = scores[:, blank].copy()
    along[starts] = scores[starts, tokens]
    sums = np.add.reduceat(np.exp(along[:last], dtype=np.float64), starts)
    return Path(starts, ends, np.minimum(sums / (ends - starts), 1.0), along)

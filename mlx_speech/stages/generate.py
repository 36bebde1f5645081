"""The decoder's loop: greedy, sampled, or by beams, over a batch of windows.

Original: ``GreedyDecoder``, ``BeamSearchDecoder`` and ``MaximumLikelihoodRanker`` of
https://github.com/openai/whisper/blob/v20250625/whisper/decoding.py (MIT).

Nothing waits for a step's end before the next is under way: what the host must know of a step, it reads
while the device works on the one after. The hypotheses of a window share its audio: only their own words'
keys and values are kept for each.

Letters: W windows, K hypotheses a window, B = W·K rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_speech.errors import OptionError
from mlx_speech.layers.elementwise import logsumexp
from mlx_speech.models.whisper import DecoderState, Whisper
from mlx_speech.stages.prompt import Prompt
from mlx_speech.stages.rules import NEVER, Rules

_DROP = 4  # finished windows leave the batch once they are a quarter of it: their removal copies the rest
_BLOCK = 256  # tokens whose best is looked for together


@dataclass(frozen=True)
class Hypothesis:
    """Tokens without the end token, the sum of their log-probabilities with its, and whether it came."""

    tokens: tuple[int, ...]
    logprob: float
    complete: bool


@dataclass(frozen=True)
class Generated:
    """A window's best hypothesis, and the probability that nothing is said in it."""

    best: Hypothesis
    no_speech_prob: float


def generate(model: Whisper, features: mx.array, prompt: Prompt, rules: Rules) -> list[Generated]:
    """One attempt at each window: by beams at temperature 0 where asked for, else greedy or sampled.

    Args:
        model: a Whisper model.
        features: audio features (W, T, D).
        prompt: what decoding starts from, in W rows.
        rules: begun anew, with the temperature.

    Raises:
        OptionError: the prompt leaves no room in the model's context.
    """
    options = rules.options
    limit = _limit(model, options.max_tokens, prompt)
    state = model.start(features)
    hidden = model.step(mx.array(prompt.rows, mx.int32), state)
    silence = _no_speech(model, rules.special.no_speech, hidden[:, prompt.start])
    beams = options.beam_size if not rules.temperature else 1
    width = beams if beams > 1 else options.best_of if rules.temperature else 1
    last = hidden[:, -1]
    if width > 1:
        state, last = state.repeat(width), mx.repeat(last, width, axis=0)
    run = _Run(model, rules, limit, width, state, model.logits(last))
    found = _beam_search(run, options.patience) if beams > 1 else _draw(run)
    chances = np.array(silence).tolist()
    return [
        Generated(_best(group, options.length_penalty), chance)
        for group, chance in zip(found, chances, strict=True)
    ]


@dataclass
class _Run:
    """What a loop carries from step to step; ``width`` rows a window."""

    model: Whisper
    rules: Rules
    limit: int
    width: int
    state: DecoderState
    logits: mx.array

    def step(self, token: mx.array) -> None:
        """Feed each row its token (B,)."""
        self.logits = self.model.logits(self.model.step(token[:, None], self.state)[:, -1])

    def keep(self, windows: np.ndarray) -> mx.array:
        """Go on with some windows (bool, one a window) alone; their rows."""
        index = np.flatnonzero(windows)
        rows = mx.array((index[:, None] * self.width + np.arange(self.width)).reshape(-1))
        self.state = self.state.take(rows, mx.array(index))
        self.rules.keep(rows)
        self.logits = self.logits[rows]
        return rows


def _limit(model: Whisper, max_tokens: int | None, prompt: Prompt) -> int:
    context = model.config.n_text_ctx
    # the last token is written but not read, so it may stand one beyond the context
    room = context - len(prompt.rows[0]) + 1
    if room < 2:
        raise OptionError(
            f"the prompt has {len(prompt.rows[0])} tokens, of {context} that the model holds: shorten prefix, "
            "prompt or hotwords"
        )
    return min(max_tokens or context // 2, room)


def _no_speech(model: Whisper, token: int, hidden: mx.array) -> mx.array:
    """Probability (W,) of no speech, read where the start token was."""
    logits = model.logits(hidden)
    return mx.exp(logits[:, token] - logsumexp(logits))


def _best(group: Sequence[Hypothesis], length_penalty: float | None) -> Hypothesis:
    """The likeliest by mean log-probability, or by Google's length penalty."""

    def rank(h: Hypothesis) -> float:
        length = len(h.tokens)
        return h.logprob / (
            max(length, 1) if length_penalty is None else ((5 + length) / 6) ** length_penalty
        )

    return max(group, key=rank)


def _few_left(finished: np.ndarray) -> bool:
    return bool(finished.any()) and finished.sum() * _DROP >= len(finished)


# --- one token a row ----------------------------------------------------------------------------------------


def _draw(run: _Run) -> list[list[Hypothesis]]:
    """Greedy, or at a temperature sampled: ``width`` hypotheses for each window."""
    eot, count = run.rules.special.eot, run.logits.shape[0]
    written = np.full((count, run.limit), eot, np.int32)
    sums = np.zeros(count, np.float32)
    rows = np.arange(count)  # those still in the batch
    done, total = mx.zeros((count,), mx.bool_), mx.zeros((count,))
    steps: list[tuple[np.ndarray, mx.array]] = []
    for number in range(run.limit):
        token, logprob = run.rules.choose(run.logits)
        token = mx.where(done, eot, token)
        total = total + mx.where(done, 0.0, logprob)
        before, done = done, done | (token == eot)
        steps.append((rows, token))
        if number + 1 < run.limit:
            run.step(token)
        mx.async_eval(run.logits, done, total)
        if not number:
            continue
        finished: np.ndarray = np.all(np.array(before).reshape(-1, run.width), axis=1)
        if finished.all():
            break
        if _few_left(finished):
            sums[rows] = np.array(total)
            kept = run.keep(~finished)
            done, total, rows = done[kept], total[kept], rows[np.array(kept)]
    sums[rows] = np.array(total)
    for number, (at, token) in enumerate(steps):
        written[at, number] = np.array(token)
    found = [_hypothesis(written[n], float(sums[n]), eot) for n in range(count)]
    return [found[n : n + run.width] for n in range(0, count, run.width)]


def _hypothesis(row: np.ndarray, logprob: float, eot: int) -> Hypothesis:
    ends = np.flatnonzero(row == eot)
    return Hypothesis(tuple(map(int, row[: ends[0]] if len(ends) else row)), logprob, bool(len(ends)))


# --- beams --------------------------------------------------------------------------------------------------


@dataclass
class _Window:
    """One window's beams as the host knows them: their tokens, their sums, and what has ended."""

    width: int
    wanted: int  # finished hypotheses that end the search
    beams: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    ended: list[Hypothesis] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.ended) >= self.wanted

    def update(self, tokens: np.ndarray, sources: np.ndarray, sums: np.ndarray, eot: int) -> None:
        """Take over a step's candidates, best first: ends until ``width`` others have been found."""
        going_on: list[tuple[tuple[int, ...], float]] = []
        for token, source, total in zip(tokens.tolist(), sources.tolist(), sums.tolist(), strict=True):
            if len(going_on) == self.width:
                break
            before = self.beams[source][0] if source < len(self.beams) else ()
            if token != eot:
                going_on.append(((*before, token), total))
            elif not self.complete:
                self.ended.append(Hypothesis(before, total, True))
        self.beams = going_on

    def hypotheses(self) -> list[Hypothesis]:
        """What has ended, made up to ``width`` with the best of what has not."""
        best = sorted(self.beams, key=lambda b: b[1], reverse=True)
        missing = max(self.width - len(self.ended), 0)
        return self.ended + [Hypothesis(t, s, False) for t, s in best[:missing]]


def _beam_search(run: _Run, patience: float) -> list[list[Hypothesis]]:
    """The original's search. Which beams go on is settled on the device; the host keeps the books."""
    width, eot = run.width, run.rules.special.eot
    count = run.logits.shape[0] // width
    wanted = round(width * patience)
    windows = [_Window(width, max(wanted, 1)) for _ in range(count)]
    live = np.arange(count)
    # at first a window's beams are all the same: only one may go on
    sums = mx.broadcast_to(mx.where(mx.arange(width) == 0, 0.0, NEVER * 1e3), (count, width))
    pending: list[tuple[np.ndarray, tuple[mx.array, ...]]] = []
    for number in range(run.limit):
        ranked = _rank(run.rules.candidates(run.logits), sums)
        tokens, sources, sums = _go_on(ranked, width, eot)
        rows = (mx.arange(len(live))[:, None] * width + sources).reshape(-1)
        run.rules.keep(rows)
        run.rules.advance(tokens.reshape(-1))
        if number + 1 < run.limit:
            run.state = run.state.take(rows)
            run.step(tokens.reshape(-1))
        mx.async_eval(run.logits, sums, *ranked)
        pending.append((live, ranked))
        if len(pending) == 1:
            continue
        _keep_books(windows, *pending.pop(0), eot)
        finished = np.array([windows[n].complete for n in live])
        if finished.all():
            return [w.hypotheses() for w in windows]
        if _few_left(finished):
            run.keep(~finished)
            sums, live = sums[mx.array(np.flatnonzero(~finished))], live[~finished]
    for left in pending:
        _keep_books(windows, *left, eot)
    return [w.hypotheses() for w in windows]


def _rank(logprobs: mx.array, sums: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Each window's candidates, best first: tokens, the beams they go on from, and sums, (W, K·(K+1))."""
    count, width = sums.shape
    scores, tokens = largest(logprobs, width + 1)
    joint = (sums.reshape(-1, 1) + scores).reshape(count, -1)
    order = mx.argsort(-joint, axis=-1)
    tokens = mx.take_along_axis(tokens.reshape(count, -1), order, axis=-1)
    return tokens, order // (width + 1), mx.take_along_axis(joint, order, axis=-1)


def _go_on(
    ranked: tuple[mx.array, mx.array, mx.array], width: int, eot: int
) -> tuple[mx.array, mx.array, mx.array]:
    """The best that do not end: (W, K) tokens, beams they go on from, and sums."""
    size = ranked[0].shape[1]
    place = mx.where(ranked[0] == eot, size, 0) + mx.arange(size)
    chosen = mx.argsort(place, axis=-1)[:, :width]
    tokens, sources, sums = (mx.take_along_axis(x, chosen, axis=-1) for x in ranked)
    return tokens, sources, sums


def _keep_books(windows: Sequence[_Window], live: np.ndarray, ranked: tuple[mx.array, ...], eot: int) -> None:
    arrays = [np.array(x) for x in ranked]
    for row, n in enumerate(live):
        if not windows[n].complete:
            windows[n].update(*(x[row] for x in arrays), eot)


def largest(x: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The ``count`` largest of each row of (B, V), in no order: values and int32 indices (B, count).

    They lie in the ``count`` blocks with the largest maxima: only those are searched.
    """
    rows, size = x.shape
    spare = -size % _BLOCK
    if spare:
        x = mx.concatenate([x, mx.full((rows, spare), -mx.inf, x.dtype)], axis=-1)
    blocks = x.reshape(rows, -1, _BLOCK)
    count = min(count, size)
    few = min(count, blocks.shape[1])
    best = mx.argpartition(-mx.max(blocks, axis=-1), few - 1, axis=-1)[:, :few]
    some = mx.take_along_axis(blocks, best[..., None], axis=1).reshape(rows, -1)
    at = mx.argpartition(-some, count - 1, axis=-1)[:, :count]
    index = mx.take_along_axis(best, at // _BLOCK, axis=-1) * _BLOCK + at % _BLOCK
    return mx.take_along_axis(some, at, axis=-1), index.astype(mx.int32)

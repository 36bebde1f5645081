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
from types import ModuleType

import mlx.core as mx
import numpy as np

from mlx_speech.errors import OptionError
from mlx_speech.layers.elementwise import Array, logsumexp, module_of
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.prompt import Prompt
from mlx_speech.stages.rules import NEVER, Rules
from mlx_speech.stages.steps import Steps, begin

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
    beams = options.beam_size if not rules.temperature else 1
    width = beams if beams > 1 else options.best_of if rules.temperature else 1
    with begin(model, features, prompt, width, limit) as steps:
        silence = _no_speech(steps, rules.special.no_speech)
        run = _Run(steps, rules, limit)
        found = _beam_search(run, options.patience) if beams > 1 else _draw(run)
        chances = np.array(silence).tolist()
    return [
        Generated(_best(group, options.length_penalty), chance)
        for group, chance in zip(found, chances, strict=True)
    ]


@dataclass(frozen=True)
class _Run:
    """What a loop works with: the steps, the rules, and how many tokens there may be."""

    steps: Steps
    rules: Rules
    limit: int

    def keep(self, windows: np.ndarray) -> Array:
        """Go on with some windows (bool, one a window) alone; their rows."""
        index, width = np.flatnonzero(windows), self.steps.width
        rows = self.steps.xp.array((index[:, None] * width + np.arange(width)).reshape(-1))
        self.steps.keep(rows, index)
        self.rules.keep(rows)
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


def _no_speech(steps: Steps, token: int) -> Array:
    """Probability (W,) of no speech, read where the start token was."""
    return steps.xp.exp(steps.at_start[:, token] - logsumexp(steps.at_start))


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
    steps, xp = run.steps, run.steps.xp
    eot, count = run.rules.special.eot, steps.logits.shape[0]
    written = np.full((count, run.limit), eot, np.int32)
    sums = np.zeros(count, np.float32)
    rows = np.arange(count)  # those still in the batch
    done, total = xp.zeros((count,), xp.bool_), xp.zeros((count,), xp.float32)
    drawn: list[tuple[np.ndarray, Array]] = []
    for number in range(run.limit):
        token, logprob = run.rules.choose(steps.logits)
        token = xp.where(done, eot, token)
        total = total + xp.where(done, 0.0, logprob)
        before, done = done, done | (token == eot)
        drawn.append((rows, token))
        if number + 1 < run.limit:
            steps.feed(token)
        steps.launch(done, total)
        if not number:
            continue
        finished: np.ndarray = np.all(np.array(before).reshape(-1, steps.width), axis=1)
        if finished.all():
            break
        if _few_left(finished):
            sums[rows] = np.array(total)
            kept = run.keep(~finished)
            done, total, rows = done[kept], total[kept], rows[np.array(kept)]
    sums[rows] = np.array(total)
    for number, (at, token) in enumerate(drawn):
        written[at, number] = np.array(token)
    found = [_hypothesis(written[n], float(sums[n]), eot) for n in range(count)]
    return [found[n : n + steps.width] for n in range(0, count, steps.width)]


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
    """``width`` hypotheses side by side for each window. The device chooses; the host keeps the books."""
    steps, xp = run.steps, run.steps.xp
    width, eot = steps.width, run.rules.special.eot
    count = steps.logits.shape[0] // width
    wanted = round(width * patience)
    windows = [_Window(width, max(wanted, 1)) for _ in range(count)]
    live = np.arange(count)
    # at first a window's beams are all the same: only one may go on
    first = xp.array(np.where(np.arange(width) == 0, 0.0, NEVER * 1e3).astype(np.float32))
    sums = xp.broadcast_to(first, (count, width))
    pending: list[tuple[np.ndarray, tuple[Array, ...]]] = []
    for number in range(run.limit):
        ranked = _rank(run.rules.candidates(steps.logits), sums, xp)
        tokens, sources, sums = _go_on(ranked, width, eot, xp)
        rows = (xp.arange(len(live))[:, None] * width + sources).reshape(-1)
        run.rules.keep(rows)
        run.rules.advance(tokens.reshape(-1))
        if number + 1 < run.limit:
            steps.reorder(rows)
            steps.feed(tokens.reshape(-1))
        steps.launch(sums, *ranked)
        pending.append((live, ranked))
        if len(pending) == 1:
            continue
        _keep_books(windows, *pending.pop(0), eot)
        finished = np.array([windows[n].complete for n in live])
        if finished.all():
            return [w.hypotheses() for w in windows]
        if _few_left(finished):
            run.keep(~finished)
            sums, live = sums[xp.array(np.flatnonzero(~finished))], live[~finished]
    for left in pending:
        _keep_books(windows, *left, eot)
    return [w.hypotheses() for w in windows]


def _rank(logprobs: Array, sums: Array, xp: ModuleType) -> tuple[Array, Array, Array]:
    """Each window's candidates, best first: tokens, the beams they go on from, and sums, (W, K·(K+1))."""
    count, width = sums.shape
    scores, tokens = largest(logprobs, width + 1)
    joint = (sums.reshape(-1, 1) + scores).reshape(count, -1)
    order = xp.argsort(-joint, axis=-1)
    tokens = xp.take_along_axis(tokens.reshape(count, -1), order, axis=-1)
    return tokens, order // (width + 1), xp.take_along_axis(joint, order, axis=-1)


def _go_on(
    ranked: tuple[Array, Array, Array], width: int, eot: int, xp: ModuleType
) -> tuple[Array, Array, Array]:
    """The best that do not end: (W, K) tokens, beams they go on from, and sums."""
    size = ranked[0].shape[1]
    place = xp.where(ranked[0] == eot, size, 0) + xp.arange(size)
    chosen = xp.argsort(place, axis=-1)[:, :width]
    tokens, sources, sums = (xp.take_along_axis(x, chosen, axis=-1) for x in ranked)
    return tokens, sources, sums


def _keep_books(windows: Sequence[_Window], live: np.ndarray, ranked: tuple[Array, ...], eot: int) -> None:
    arrays = [np.array(x) for x in ranked]
    for row, n in enumerate(live):
        if not windows[n].complete:
            windows[n].update(*(x[row] for x in arrays), eot)


def largest(x: Array, count: int) -> tuple[Array, Array]:
    """The ``count`` largest of each row of (B, V), in no order: values and int32 indices (B, count).

    They lie in the ``count`` blocks with the largest maxima: only those are searched.
    """
    xp = module_of(x)
    rows, size = x.shape
    spare = -size % _BLOCK
    if spare:
        x = xp.concatenate([x, xp.full((rows, spare), -xp.inf, x.dtype)], axis=-1)
    blocks = x.reshape(rows, -1, _BLOCK)
    count = min(count, size)
    few = min(count, blocks.shape[1])
    best = xp.argpartition(-xp.max(blocks, axis=-1), few - 1, axis=-1)[:, :few]
    some = xp.take_along_axis(blocks, best[..., None], axis=1).reshape(rows, -1)
    at = xp.argpartition(-some, count - 1, axis=-1)[:, :count]
    index = xp.take_along_axis(best, at // _BLOCK, axis=-1) * _BLOCK + at % _BLOCK
    return xp.take_along_axis(some, at, axis=-1), index.astype(xp.int32)

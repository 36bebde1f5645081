"""Which tokens may come next: Whisper's rules as operations on whole batches.

Original: ``LogitFilter`` and its kinds in
https://github.com/openai/whisper/blob/v20250625/whisper/decoding.py (MIT). The repetition penalty is that of
Keskar et al. (2019), https://arxiv.org/abs/1909.05858.

Letters: B rows, V vocabulary, L tokens written so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import mlx.core as mx
import numpy as np

from mlx_speech.layers.elementwise import Array, logsumexp, module_of
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.options import DecodeOptions
from mlx_speech.stages.tokenizer import NUM_TIMESTAMPS, TIME_PRECISION, Tokenizer

NEVER = -1e9  # a finite stand-in for -inf: differences of it stay numbers


@dataclass(frozen=True)
class _Progress:
    """What the rules remember of each row: its last two tokens, its last timestamp and all of its tokens."""

    last: Array
    before: Array
    stamp: Array
    step: int = 0
    history: Array | None = None

    def take(self, rows: Array) -> _Progress:
        history = None if self.history is None else self.history[rows]
        return _Progress(self.last[rows], self.before[rows], self.stamp[rows], self.step, history)


@dataclass(frozen=True)
class _Parts:
    """The scores of the vocabulary's three parts, with what may not come at ``NEVER``.

    ``rest`` holds the end token and those that compete with it but are never written. ``words_penalty`` and
    ``penalty`` (B,) are still to be added: the one to the words, the other to all but the timestamps.
    ``total`` is the logarithm of the sum over everything.
    """

    words: Array
    rest: Array
    stamps: Array | None
    words_penalty: Array | float
    penalty: Array | float
    total: Array
    best_word: Array | None


@dataclass(frozen=True)
class _Tables:
    """What is added to words and to the rest, at first and later; and the timestamps' numbers."""

    word: Array
    first_word: Array
    rest: Array
    first_rest: Array
    stamps: Array


class Rules:
    """Which tokens may come next, by arrays of MLX's or of numpy's: answers are what the scores are.

    The vocabulary falls into words, the end token with the other special ones, and timestamps. Each part is
    masked, reduced and compared by itself, so that no array of the vocabulary's width is selected from: that
    is slow on a CPU.
    """

    def __init__(self, model: Whisper, tokenizer: Tokenizer, options: DecodeOptions) -> None:
        self.special = special = tokenizer.special
        self.options = options
        config = model.config
        never = [*(config.suppress_tokens if options.suppress_symbols else ()), *options.suppress_tokens]
        if options.suppress_numerals:
            never += tokenizer.numerals
        word_mask = _mask(special.eot, never)
        first_word_mask = _mask(special.eot, (*never, *config.begin_suppress_tokens))
        unsaid = [t - special.eot for t in tokenizer.never_sampled]
        between = special.timestamp_begin - special.eot
        # languages compete with the end as in the original, though none is ever written
        rest_mask = _mask(between, unsaid)
        ends_first = special.eot not in config.begin_suppress_tokens
        first_rest_mask = _mask(between, unsaid if ends_first else (0, *unsaid))
        self._tables = {
            xp: _Tables(
                xp.array(word_mask),
                xp.array(first_word_mask),
                xp.array(rest_mask),
                xp.array(first_rest_mask),
                xp.arange(NUM_TIMESTAMPS),
            )
            for xp in (np, mx)
        }
        self._remembers = options.repetition_penalty != 1.0 or options.no_repeat_ngram_size > 0
        self.restart(0.0, 0)

    def restart(self, temperature: float, seed: int) -> None:
        """Begin a new attempt."""
        self.temperature = temperature
        self._key = mx.random.key(seed)
        self._progress: _Progress | None = None

    def keep(self, rows: Array) -> None:
        """Go on with these rows (N,) alone, in this order."""
        if self._progress is not None:
            self._progress = self._progress.take(rows)

    def choose(self, logits: Array) -> tuple[Array, Array]:
        """The next token of each row (B,) int32 and its log-probability (B,), from logits (B, V) float32."""
        parts = self._parts(logits)
        token, score = self._pick(parts)
        self.advance(token)
        return token, score - parts.total

    def candidates(self, logits: Array) -> Array:
        """Log-probabilities (B, V) of all tokens, about ``NEVER`` where one may not come; a beam's choice."""
        parts = self._parts(logits)
        xp = module_of(logits)
        begin = self.special.timestamp_begin - self.special.eot
        only_end = xp.where(xp.arange(begin) == 0, parts.rest, NEVER)
        stamps = parts.stamps
        if stamps is None:
            stamps = xp.full((logits.shape[0], NUM_TIMESTAMPS), NEVER, xp.float32)
        words_off = _column(parts.words_penalty) + _column(parts.penalty) - parts.total[:, None]
        rest_off = _column(parts.penalty) - parts.total[:, None]
        return xp.concatenate(
            [parts.words + words_off, only_end + rest_off, stamps - parts.total[:, None]], axis=-1
        )

    def advance(self, token: Array) -> None:
        """Remember that each row was given a token (B,)."""
        xp = module_of(token)
        now = self._progress or self._begin(token.shape[0], xp)
        begin = self.special.timestamp_begin
        stamp = xp.where(token >= begin, token - begin, now.stamp)
        history = now.history
        if self._remembers:
            history = token[:, None] if history is None else xp.concatenate([history, token[:, None]], axis=1)
        self._progress = _Progress(token, now.last, stamp, now.step + 1, history)

    def _begin(self, batch: int, xp: ModuleType = mx) -> _Progress:
        none = xp.zeros((batch,), xp.int32)
        return _Progress(none, none, xp.full((batch,), -1, xp.int32))

    def _parts(self, logits: Array) -> _Parts:
        xp = module_of(logits)
        now, tables = self._progress or self._begin(logits.shape[0], xp), self._tables[xp]
        eot, begin = self.special.eot, self.special.timestamp_begin
        first = now.step == 0
        if now.history is not None:
            again = self._without_repetition(mx.array(logits), mx.array(now.history))
            logits = again if xp is mx else np.array(again)
        words = logits[:, :eot] + (tables.first_word if first else tables.word)
        rest = logits[:, eot:begin] + (tables.first_rest if first else tables.rest)
        if not self.options.timestamps:
            total = xp.logaddexp(logsumexp(words), logsumexp(rest))
            return _Parts(words, rest, None, 0.0, 0.0, total, None)
        allowed, words_penalty = self._timestamp_rules(now, tables.stamps)
        stamps = xp.where(allowed, logits[:, begin:], NEVER)
        if first:
            rest = rest + NEVER
        best_word = xp.max(words, axis=-1) + words_penalty
        # a timestamp comes where all of them together outweigh the likeliest of the others
        stamps_total = logsumexp(stamps)
        penalty = xp.where(stamps_total > xp.maximum(best_word, xp.max(rest, axis=-1)), NEVER, 0.0)
        others = xp.logaddexp(logsumexp(words) + words_penalty, logsumexp(rest)) + penalty
        return _Parts(
            words, rest, stamps, words_penalty, penalty, xp.logaddexp(others, stamps_total), best_word
        )

    def _timestamp_rules(self, now: _Progress, stamps: Array) -> tuple[Array, Array | float]:
        """Timestamps that may come (B or 1, 1501), and a penalty (B,) where words may not.

        Timestamps stand in pairs, but for the first and the last; they never go back, nor close a phrase
        of no length.
        """
        xp, begin = module_of(stamps), self.special.timestamp_begin
        if now.step == 0:
            latest = round(self.options.max_initial_timestamp / TIME_PRECISION)
            return (stamps <= latest)[None], NEVER
        last = now.last >= begin
        before = (now.before >= begin) if now.step > 1 else xp.ones_like(last)
        opened = last & xp.logical_not(before)  # one timestamp after words: its twin or the end must follow
        floor = xp.where(opened, now.stamp, now.stamp + 1)
        floor = xp.where(last & before, NUM_TIMESTAMPS, floor)
        return stamps[None] >= floor[:, None], xp.where(opened, NEVER, 0.0)

    def _without_repetition(self, logits: Array, history: mx.array) -> Array:
        """Words written before become less likely; words that would repeat a run of them never come."""
        penalty, size = self.options.repetition_penalty, self.options.no_repeat_ngram_size
        if penalty != 1.0:
            scores = mx.take_along_axis(logits, history, axis=-1)
            less = mx.where(scores > 0, scores / penalty, scores * penalty)
            less = mx.where(history < self.special.eot, less, scores)
            logits = mx.put_along_axis(logits, history, less, axis=-1)
        runs = history.shape[1] - size + 1
        if size and runs > 0:
            tail = history[:, history.shape[1] - size + 1 :]
            again = history[:, size - 1 :] < self.special.eot
            for n in range(size - 1):
                again = again & (history[:, n : n + runs] == tail[:, n : n + 1])
            rows = mx.arange(logits.shape[0])[:, None]
            logits = logits.at[rows, history[:, size - 1 :]].add(mx.where(again, NEVER, 0.0))
        return logits

    def _pick(self, parts: _Parts) -> tuple[Array, Array]:
        """First which part, then which token of it: the same as one choice over all of them."""
        special, xp = self.special, module_of(parts.words)
        word, end = self._draw(parts.words), parts.rest[:, 0] + parts.penalty
        if self.temperature or parts.best_word is None:
            word_score = _at(parts.words, word) + parts.words_penalty + parts.penalty
        else:
            word_score = parts.best_word + parts.penalty
        weigh = self._share if self.temperature else None
        word_weight = weigh(parts.words) + parts.words_penalty + parts.penalty if weigh else word_score
        if parts.stamps is None:
            part = self._draw(xp.stack([word_weight, end], axis=-1))
            token = xp.where(part == 0, word, special.eot)
            return token.astype(xp.int32), xp.where(part == 0, word_score, end)
        stamp = self._draw(parts.stamps)
        stamp_score = _at(parts.stamps, stamp)
        stamp_weight = weigh(parts.stamps) if weigh else stamp_score
        part = self._draw(xp.stack([word_weight, end, stamp_weight], axis=-1))
        token = xp.where(part == 0, word, xp.where(part == 1, special.eot, special.timestamp_begin + stamp))
        score = xp.where(part == 0, word_score, xp.where(part == 1, end, stamp_score))
        return token.astype(xp.int32), score

    def _share(self, scores: Array) -> Array:
        """The score that a part as a whole has when one of it is drawn by weight."""
        return logsumexp(scores / self.temperature) * self.temperature

    def _draw(self, scores: Array) -> Array:
        """The best of each row (B,), or at a temperature one drawn by weight."""
        xp = module_of(scores)
        if not self.temperature:
            return xp.argmax(scores, axis=-1)
        self._key, now = mx.random.split(self._key)
        drawn = mx.random.categorical(mx.array(scores) / self.temperature, axis=-1, key=now)
        return drawn if xp is mx else np.array(drawn)


def _mask(size: int, tokens: Sequence[int]) -> np.ndarray:
    mask = np.zeros(size, np.float32)
    mask[[t for t in tokens if 0 <= t < size]] = NEVER
    return mask


def _at(values: Array, index: Array) -> Array:
    return module_of(values).take_along_axis(values, index[:, None], axis=-1).squeeze(-1)


def _column(x: Array | float) -> Array | float:
    return x[:, None] if not isinstance(x, float) else x

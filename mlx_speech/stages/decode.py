"""From audio features to tokens: batched decoding by Whisper's rules, with fallback for the rows that fail.

Original: https://github.com/openai/whisper/blob/v20250625/whisper/decoding.py (MIT).

Letters: B batch, T audio frames, D width, L tokens, V vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_speech.errors import OptionError
from mlx_speech.layers.elementwise import logsumexp
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.tokenizer import NUM_TIMESTAMPS, TIME_PRECISION, Tokenizer

TASKS = ("transcribe", "translate")
_NEVER = -1e9  # a finite stand-in for -inf: differences of it stay numbers


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode.

    Args:
        task: ``"transcribe"``, or ``"translate"`` into English (multilingual models).
        temperatures: tried in turn on the rows whose result fails a threshold; 0 takes the best token,
            more samples.
        compression_ratio_threshold: text that zlib shrinks by more than this is taken for a loop.
        logprob_threshold: a lower mean log-probability fails.
        no_speech_threshold: a window at least as likely to be silent, and below ``logprob_threshold``,
            is taken for silence and not decoded again.
        max_initial_timestamp: latest first timestamp, in seconds from the window's start.
        max_tokens: most tokens a window; half the model's context by default.
        timestamps: let the model write phrase times; without them a window is one segment.
        suppress_symbols: never write the symbols that the checkpoint lists as not speech.
        seed: of the sampling at temperatures above 0.

    Raises:
        OptionError: a value out of its range.
    """

    task: str = "transcribe"
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    max_initial_timestamp: float = 1.0
    max_tokens: int | None = None
    timestamps: bool = True
    suppress_symbols: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise OptionError(f"task {self.task!r} is not one of {', '.join(TASKS)}")
        if not self.temperatures or min(self.temperatures) < 0:
            raise OptionError(f"temperatures {self.temperatures} must be one or more numbers of at least 0")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise OptionError(f"max_tokens {self.max_tokens} must be at least 1")
        if not 0 <= self.max_initial_timestamp <= 30:
            raise OptionError(f"max_initial_timestamp {self.max_initial_timestamp} must be 0 to 30 seconds")


@dataclass(frozen=True)
class Decoded:
    """One window's result.

    ``tokens`` hold text and timestamps, no end token; ``complete`` tells whether the model ended by itself
    rather than at the limit.
    """

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    complete: bool


def decode(
    model: Whisper, tokenizer: Tokenizer, features: mx.array, language: str, options: DecodeOptions
) -> list[Decoded]:
    """Decode windows, each as often as its thresholds ask for.

    Args:
        model: a Whisper model.
        tokenizer: its tokenizer.
        features: audio features (B, T, D) from :meth:`Whisper.encode`.
        language: a language code the model knows (ignored by English-only models).
        options: how to decode.

    Returns:
        B results, in order.
    """
    rules = Rules(model, tokenizer, options)
    prompt = tokenizer.start_sequence(language, options.task)
    if not options.timestamps:
        prompt = (*prompt, tokenizer.special.no_timestamps)
    results: dict[int, Decoded] = {}
    rows = list(range(features.shape[0]))
    for attempt, temperature in enumerate(options.temperatures):
        chosen = features if len(rows) == features.shape[0] else features[mx.array(rows)]
        rules.restart(temperature, options.seed + attempt)
        for row, result in zip(rows, _generate(model, tokenizer, chosen, prompt, rules), strict=True):
            results[row] = result
        rows = [r for r in rows if needs_fallback(results[r], options)]
        if not rows:
            break
    return [results[r] for r in range(features.shape[0])]


def needs_fallback(result: Decoded, options: DecodeOptions) -> bool:
    """Whether a result is a loop or too unlikely, and not plain silence."""
    looped = _above(result.compression_ratio, options.compression_ratio_threshold)
    unlikely = _above(options.logprob_threshold, result.avg_logprob)
    silent = _above(result.no_speech_prob, options.no_speech_threshold) and unlikely
    return (looped or unlikely) and not silent


def is_silence(result: Decoded, options: DecodeOptions) -> bool:
    """Whether a result is to be dropped: probably no speech, and not confident in its words either."""
    confident = options.logprob_threshold is not None and result.avg_logprob > options.logprob_threshold
    return _above(result.no_speech_prob, options.no_speech_threshold) and not confident


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


def compression_ratio(text: str) -> float:
    """Bytes of a text over its bytes after zlib: high where it repeats itself."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def detect_language(model: Whisper, tokenizer: Tokenizer, features: mx.array) -> list[dict[str, float]]:
    """Probabilities of the languages in each window: B dictionaries from code to probability.

    English-only models answer ``{"en": 1.0}``.
    """
    if not tokenizer.multilingual:
        return [{"en": 1.0}] * features.shape[0]
    start = mx.full((features.shape[0], 1), tokenizer.special.sot, mx.int32)
    logits = model.logits(model.step(start, model.start(features))[:, -1])
    first = tokenizer.special.first_language
    probabilities = mx.softmax(logits[:, first : first + len(tokenizer.languages)], axis=-1)
    rows = np.array(probabilities).tolist()
    return [dict(zip(tokenizer.languages, row, strict=True)) for row in rows]


@dataclass
class _Progress:
    """What the rules remember of each row: its last two tokens and its last timestamp."""

    last: mx.array
    before: mx.array
    stamp: mx.array
    step: int = 0


class Rules:
    """Which tokens may come next, as operations on whole batches.

    The vocabulary falls into words, the end token and timestamps; what lies between is never sampled. Each
    part is masked, reduced and compared by itself, so that no array of the vocabulary's width is selected
    from: that is slow on a CPU.
    """

    def __init__(self, model: Whisper, tokenizer: Tokenizer, options: DecodeOptions) -> None:
        self.special = tokenizer.special
        self.options = options
        config = model.config
        symbols = config.suppress_tokens if options.suppress_symbols else ()
        self._word_mask = _mask(self.special.eot, symbols)
        self._first_word_mask = _mask(self.special.eot, (*symbols, *config.begin_suppress_tokens))
        self._eot_first = _NEVER if self.special.eot in config.begin_suppress_tokens else 0.0
        self._stamps = mx.arange(NUM_TIMESTAMPS)
        self.restart(0.0, 0)

    def restart(self, temperature: float, seed: int) -> None:
        """Begin a new attempt."""
        self.temperature = temperature
        self._key = mx.random.key(seed)
        self._progress: _Progress | None = None

    def choose(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The next token of each row (B,) int32 and its log-probability (B,), from logits (B, V) float32."""
        special = self.special
        now = self._progress or self._begin(logits.shape[0])
        first = now.step == 0
        words = logits[:, : special.eot] + (self._first_word_mask if first else self._word_mask)
        end = logits[:, special.eot] + (self._eot_first if first else 0.0)
        if self.options.timestamps:
            allowed, words_penalty = self._timestamp_rules(now)
            stamps = mx.where(allowed, logits[:, special.timestamp_begin :], _NEVER)
            end = end + (_NEVER if first else 0.0)
        else:
            words_penalty = mx.zeros_like(end)
            stamps = mx.full((logits.shape[0], NUM_TIMESTAMPS), _NEVER)
        token, logprob = self._pick(words, words_penalty, end, stamps)
        is_stamp = token >= special.timestamp_begin
        stamp = mx.where(is_stamp, token - special.timestamp_begin, now.stamp)
        self._progress = _Progress(token, now.last, stamp, now.step + 1)
        return token, logprob

    def _begin(self, batch: int) -> _Progress:
        none = mx.zeros((batch,), mx.int32)
        return _Progress(none, none, mx.full((batch,), -1, mx.int32))

    def _timestamp_rules(self, now: _Progress) -> tuple[mx.array, mx.array]:
        """Timestamps that may come (B, 1501), and a penalty (B,) where words may not.

        Timestamps stand in pairs, but for the first and the last; they never go back, nor close a phrase
        of no length.
        """
        begin = self.special.timestamp_begin
        if now.step == 0:
            latest = round(self.options.max_initial_timestamp / TIME_PRECISION)
            batch = now.last.shape[0]
            return mx.broadcast_to(self._stamps <= latest, (batch, NUM_TIMESTAMPS)), mx.full((batch,), _NEVER)
        last = now.last >= begin
        before = (now.before >= begin) if now.step > 1 else mx.ones_like(last)
        opened = last & mx.logical_not(before)  # one timestamp after words: its twin or the end must follow
        floor = mx.where(opened, now.stamp, now.stamp + 1)
        allowed = (self._stamps[None] >= floor[:, None]) & mx.logical_not(last & before)[:, None]
        return allowed, mx.where(opened, _NEVER, 0.0)

    def _pick(
        self, words: mx.array, words_penalty: mx.array, end: mx.array, stamps: mx.array
    ) -> tuple[mx.array, mx.array]:
        """First which part, then which token of it: the same as one choice over all of them."""
        word, stamp = self._draw(words), self._draw(stamps)
        word_logit, stamp_logit = _at(words, word) + words_penalty, _at(stamps, stamp)
        best_word = mx.max(words, axis=-1) + words_penalty if self.temperature else word_logit
        words_total, stamps_total = logsumexp(words) + words_penalty, logsumexp(stamps)
        # a timestamp comes where all of them together outweigh the likeliest text
        penalty = mx.where(stamps_total > mx.maximum(best_word, end), _NEVER, 0.0)
        total = mx.logaddexp(mx.logaddexp(words_total, end) + penalty, stamps_total)
        if self.temperature:
            word_share, stamp_share = self._share(words) + words_penalty, self._share(stamps)
        else:
            word_share, stamp_share = word_logit, stamp_logit
        part = self._draw(mx.stack([word_share + penalty, end + penalty, stamp_share], axis=-1))
        token = mx.where(
            part == 0, word, mx.where(part == 1, self.special.eot, self.special.timestamp_begin + stamp)
        )
        chosen = mx.where(part == 0, word_logit, mx.where(part == 1, end, stamp_logit))
        return token.astype(mx.int32), chosen - total

    def _share(self, scores: mx.array) -> mx.array:
        """The score that a part as a whole has when one of it is drawn by weight."""
        return logsumexp(scores / self.temperature) * self.temperature

    def _draw(self, scores: mx.array) -> mx.array:
        """The best of each row (B,), or at a temperature one drawn by weight."""
        if not self.temperature:
            return mx.argmax(scores, axis=-1)
        self._key, now = mx.random.split(self._key)
        return mx.random.categorical(scores / self.temperature, axis=-1, key=now)


def _generate(
    model: Whisper, tokenizer: Tokenizer, features: mx.array, prompt: Sequence[int], rules: Rules
) -> list[Decoded]:
    batch = features.shape[0]
    state = model.start(features)
    hidden = model.step(mx.array([prompt] * batch, mx.int32), state)
    silence = _no_speech(model, tokenizer, hidden[:, 0])
    logits = model.logits(hidden[:, -1])
    done = mx.zeros((batch,), mx.bool_)
    total = mx.zeros((batch,))
    tokens: list[mx.array] = []
    eot = tokenizer.special.eot
    for _ in range(_limit(model, rules.options, len(prompt))):
        token, logprob = rules.choose(logits)
        token = mx.where(done, eot, token)
        total = total + mx.where(done, 0.0, logprob)
        finished, done = done, done | (token == eot)
        tokens.append(token)
        logits = model.logits(model.step(token[:, None], state)[:, -1])
        # the next step is under way before this one's end is asked for
        mx.async_eval(logits, done, total)
        if len(tokens) > 1 and mx.all(finished).item():
            break
    rows = np.array(mx.stack(tokens, axis=1))
    sums, silent = np.array(total).tolist(), np.array(silence).tolist()
    return [_result(tokenizer, rows[n], sums[n], silent[n], rules.temperature) for n in range(batch)]


def _limit(model: Whisper, options: DecodeOptions, prompt: int) -> int:
    context = model.config.n_text_ctx
    return min(options.max_tokens or context // 2, context - prompt)


def _no_speech(model: Whisper, tokenizer: Tokenizer, hidden: mx.array) -> mx.array:
    """Probability (B,) of no speech, read where the start token was."""
    logits = model.logits(hidden)
    return mx.exp(logits[:, tokenizer.special.no_speech] - logsumexp(logits))


def _result(
    tokenizer: Tokenizer, row: np.ndarray, total: float, silence: float, temperature: float
) -> Decoded:
    ends = np.flatnonzero(row == tokenizer.special.eot)
    tokens = tuple(int(t) for t in (row[: ends[0]] if len(ends) else row))
    text = tokenizer.decode(tokens).strip()
    average = total / (len(tokens) + 1)
    return Decoded(tokens, text, average, silence, compression_ratio(text), temperature, bool(len(ends)))


def _mask(size: int, tokens: Sequence[int]) -> mx.array:
    mask = np.zeros(size, np.float32)
    mask[[t for t in tokens if t < size]] = _NEVER
    return mx.array(mask)


def _at(values: mx.array, index: mx.array) -> mx.array:
    return mx.take_along_axis(values, index[:, None], axis=-1).squeeze(-1)

"""From audio features to text: each window decoded as often as its result asks for, and its language.

Original: https://github.com/openai/whisper/blob/v20250625/whisper/decoding.py (MIT), and the fallback of its
``transcribe.py``.

Letters: B windows, T audio frames, D width.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.generate import Generated, generate
from mlx_speech.stages.options import DecodeOptions
from mlx_speech.stages.prompt import build_prompt
from mlx_speech.stages.rules import Rules
from mlx_speech.stages.tokenizer import Tokenizer


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
    model: Whisper,
    tokenizer: Tokenizer,
    features: mx.array,
    language: str | Sequence[str],
    options: DecodeOptions,
    context: Sequence[int] | None = None,
) -> list[Decoded]:
    """Decode windows, each as often as its thresholds ask for.

    Args:
        model: a Whisper model.
        tokenizer: its tokenizer.
        features: audio features (B, T, D) from :meth:`Whisper.encode`.
        language: a language code the model knows (ignored by English-only models), or one a window.
        options: how to decode.
        context: tokens of what was said before, instead of ``options.prompt``.

    Returns:
        B results, in order.

    Raises:
        OptionError: the prompt leaves no room in the model's context.
    """
    batch = features.shape[0]
    languages = [language] * batch if isinstance(language, str) else list(language)
    prompt = build_prompt(tokenizer, languages, options, model.config.n_text_ctx, context)
    rules = Rules(model, tokenizer, options)
    results: dict[int, Decoded] = {}
    rows = list(range(batch))
    for attempt, temperature in enumerate(options.temperatures):
        chosen = features if len(rows) == batch else features[mx.array(rows)]
        rules.restart(temperature, options.seed + attempt)
        for row, found in zip(rows, generate(model, chosen, prompt.take(rows), rules), strict=True):
            results[row] = _decoded(tokenizer, found, temperature)
        rows = [r for r in rows if needs_fallback(results[r], options)]
        if not rows:
            break
    return [results[r] for r in range(batch)]


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


def _decoded(tokenizer: Tokenizer, found: Generated, temperature: float) -> Decoded:
    best = found.best
    text = tokenizer.decode(best.tokens).strip()
    average = best.logprob / (len(best.tokens) + 1)
    return Decoded(
        best.tokens,
        text,
        average,
        found.no_speech_prob,
        compression_ratio(text),
        temperature,
        best.complete,
    )

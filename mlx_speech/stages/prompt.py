"""What decoding starts from: earlier text, the start sequence, and the beginning of the window's own text.

Original: ``DecodingTask._get_initial_tokens`` of
https://github.com/openai/whisper/blob/v20250625/whisper/decoding.py (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_speech.stages.options import DecodeOptions
from mlx_speech.stages.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """Equally long rows of tokens, and where in them the start token stands."""

    rows: tuple[tuple[int, ...], ...]
    start: int

    def take(self, rows: Sequence[int]) -> Prompt:
        """Some of the rows."""
        return Prompt(tuple(self.rows[n] for n in rows), self.start)


def build_prompt(
    tokenizer: Tokenizer,
    languages: Sequence[str],
    options: DecodeOptions,
    n_text_ctx: int,
    context: Sequence[int] | None = None,
) -> Prompt:
    """The prompt of each window of a batch.

    Args:
        tokenizer: the model's.
        languages: each window's language.
        options: task, timestamps, prompt, prefix and hotwords.
        n_text_ctx: length of the model's context. Half of it, less one, is left to what was said before.
        context: tokens of what was said before, instead of ``options.prompt``.
    """
    half = n_text_ctx // 2
    hot = text_tokens(tokenizer, options.hotwords)[: half - 1]
    said = list(context) if context is not None else text_tokens(tokenizer, options.prompt)
    said = said[max(len(said) - (half - 1 - len(hot)), 0) :]
    before = [tokenizer.special.start_of_prev, *hot, *said] if hot or said else []
    prefix = text_tokens(tokenizer, options.prefix)
    room = half - (options.max_tokens or half)
    prefix = prefix[-room:] if room > 0 else prefix
    after = [] if options.timestamps else [tokenizer.special.no_timestamps]
    rows = [
        (*before, *tokenizer.start_sequence(language, options.task), *after, *prefix)
        for language in languages
    ]
    return Prompt(tuple(rows), len(before))


def text_tokens(tokenizer: Tokenizer, text: str | None) -> list[int]:
    """Tokens of a text as it stands in a transcript, after a space."""
    return tokenizer.encode(" " + text.strip()) if text and text.strip() else []

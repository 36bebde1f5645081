"""Phrases that a model repeats over and over, written once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlx_speech.stages.decode import Decoded, compression_ratio
from mlx_speech.stages.tokenizer import Tokenizer

_LONGEST = 60  # tokens of a phrase that may repeat


def without_loops(tokenizer: Tokenizer, result: Decoded, most: int) -> Decoded:
    """A result whose loops are written once.

    Args:
        tokenizer: the model's.
        result: one window's.
        most: how often a phrase may stand in a row. Timestamps between its repetitions do not count.

    Returns:
        The result with the tokens of the first repetition alone, its text and compression ratio; its
        log-probability stays that of what was decoded.
    """
    begin = tokenizer.special.timestamp_begin
    words = [n for n, t in enumerate(result.tokens) if t < begin]
    gone = _repeated([result.tokens[n] for n in words], most)
    if not gone:
        return result
    dropped = {words[n] for n in gone}
    kept: list[int] = []
    for n, token in enumerate(result.tokens):
        opens, closes = n + 1 in dropped, n - 1 in dropped
        # what is left of a loop that runs over phrases is its first one, which has its own timestamps
        if n in dropped or (token >= begin and (opens or (closes and kept[-1] >= begin))):
            continue
        kept.append(token)
    text = tokenizer.decode(kept).strip()
    return replace(result, tokens=tuple(kept), text=text, compression_ratio=compression_ratio(text))


def _repeated(tokens: Sequence[int], most: int) -> set[int]:
    """Indices of tokens that repeat a phrase which stands more than ``most`` times in a row."""
    gone: set[int] = set()
    at = 0
    while at < len(tokens):
        size, times = _loop_at(tokens, at)
        if times > most:
            gone.update(range(at + size, at + size * times))
            at += size * times
        else:
            at += 1
    return gone


def _loop_at(tokens: Sequence[int], at: int) -> tuple[int, int]:
    """The phrase at a place that covers most by repeating: its length, and how often it stands."""
    best = (1, 1)
    for size in range(1, min(_LONGEST, (len(tokens) - at) // 2) + 1):
        phrase, times = tokens[at : at + size], 1
        while tokens[at + size * times : at + size * (times + 1)] == phrase:
            times += 1
        if times > 1 and (size * times, -size) > (best[0] * best[1], -best[0]):
            best = (size, times)
    return best

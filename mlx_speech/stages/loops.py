"""Phrases that stand over and over in a row: where they are, and a result with each written once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
    return {
        n
        for loop in find_loops(tokens, most + 1, _LONGEST)
        for n in range(loop.start + loop.size, loop.start + loop.size * loop.times)
    }


@dataclass(frozen=True)
class Loop:
    """A phrase that stands several times in a row: where, how long it is, and how often it stands."""

    start: int
    size: int
    times: int


def find_loops(items: Sequence[object], least: int, longest: int) -> Iterator[Loop]:
    """Loops in a sequence, from the left, without overlap.

    Of the phrases that stand at least ``least`` times at a place, the one that covers most counts, and of several
    the shortest: a phrase twice over is no longer phrase.

    Args:
        items: words, or tokens.
        least: times in a row from which on a phrase is a loop; 2 or more.
        longest: of a phrase, in items.
    """
    at = 0
    while at < len(items):
        loop = _loop_at(items, at, least, longest)
        if loop:
            yield loop
        at += loop.size * loop.times if loop else 1


def _loop_at(items: Sequence[object], at: int, least: int, longest: int) -> Loop | None:
    best: Loop | None = None
    for size in range(1, min(longest, (len(items) - at) // least) + 1):
        phrase, times = items[at : at + size], 1
        while items[at + size * times : at + size * (times + 1)] == phrase:
            times += 1
        if times >= least and (best is None or size * times > best.size * best.times):
            best = Loop(at, size, times)
    return best

"""A segment cut between its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlx_speech.types import Segment


def cut_segment(segment: Segment, ends: Sequence[int]) -> list[Segment]:
    """The parts of a segment whose last words have the numbers ``ends``; the last of these ends the segment.

    Each part begins and ends with its words and has the piece of the text that they stand in. A segment that
    is not cut comes back as it is; parts keep no tokens.
    """
    if len(ends) < 2:
        return [segment]
    parts = []
    first = at = 0
    for end in ends:
        words = segment.words[first : end + 1]
        start = at
        for word in words:
            found = segment.text.find(word.text, at)
            at = found + len(word.text) if found >= 0 else at
        text = segment.text[start:at].strip()
        part = replace(segment, text=text, words=words, tokens=())
        parts.append(replace(part, start=words[0].start, end=words[-1].end))
        first = end + 1
    return parts

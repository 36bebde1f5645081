"""What formats share: clean text, whole milliseconds, and words with what stands between them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mlx_speech.errors import OutputError
from mlx_speech.types import Segment, Transcript, Word

UNSPACED = {"ja", "zh", "yue", "th", "lo", "my", "bo", "km"}
"""Languages that put no space between words."""

# a reader's paragraph ends at a segment's end after this many characters, or before this long a silence
_PARAGRAPH = 600
_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A word as written: ``before`` it stands a space, a line break or nothing. Times are milliseconds."""

    start: int
    end: int
    text: str
    before: str = ""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Segments of one speaker that follow each other closely."""

    speaker: str | None
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """All of it in one line."""
        return " ".join(filter(None, (one_line(s.text) for s in self.segments)))


def paragraphs(transcript: Transcript) -> list[Paragraph]:
    """Segments with text, gathered until the speaker changes or the paragraph gets long to read."""
    found: list[list[Segment]] = []
    length = 0
    for segment in transcript.segments:
        if not one_line(segment.text):
            continue
        last = found[-1][-1] if found else None
        if last is None or _apart(last, segment) or length >= _PARAGRAPH:
            found.append([])
            length = 0
        found[-1].append(segment)
        length += len(segment.text)
    return [Paragraph(group[0].speaker, tuple(group)) for group in found]


def _apart(last: Segment, segment: Segment) -> bool:
    return last.speaker != segment.speaker or segment.start - last.end >= _PAUSE


def pieces(segment: Segment) -> list[Piece]:
    """A segment's words, which give its text when joined; the text itself where no word has a time."""
    timed: tuple[Word | Segment, ...] = segment.words or (segment,)
    return [
        Piece(milliseconds(item.start), milliseconds(item.end), said, before)
        for item, (before, said) in zip(timed, parts(segment), strict=True)
        if said
    ]


def parts(segment: Segment) -> list[tuple[str, str]]:
    """Of each word, or of the segment if it has none: the blank before it, and the text."""
    text = lines(segment.text)
    if not segment.words:
        return [("", text)]
    found = _cut(text, [w.text.strip() for w in segment.words])
    if found is not None:
        return found
    gap = "" if segment.language in UNSPACED else " "  # another text than the segment's: the words have times
    return [(gap if n else "", one_line(w.text)) for n, w in enumerate(segment.words)]


def _cut(text: str, words: list[str]) -> list[tuple[str, str]] | None:
    """Each word with the blank before it; what else the text holds goes to the next word. ``None``: no fit."""
    ends, at = [], 0
    for word in words:
        start = text.find(word, at)
        if start < 0:
            return None
        at = start + len(word)
        ends.append(at)
    ends[-1] = len(text)
    begins = [0, *ends[:-1]]
    return [_split_blank(text[a:b]) for a, b in zip(begins, ends, strict=True)]


def _split_blank(text: str) -> tuple[str, str]:
    said = text.lstrip()
    blank = text[: len(text) - len(said)]
    return ("\n" if "\n" in blank else " " if blank else ""), said


def spread(segment: Segment) -> list[Piece]:
    """As :func:`pieces`; a segment without words is cut at its blanks, its time shared by its letters."""
    if segment.words:
        return pieces(segment)
    text = lines(segment.text)
    begin, end = milliseconds(segment.start), milliseconds(segment.end)
    step = max(end - begin, 0) / max(len(text), 1)
    word = r"(\s*)(\S)" if segment.language in UNSPACED else r"(\s*)(\S+)"
    return [
        Piece(begin + round(m.start(2) * step), begin + round(m.end() * step), m[2], " " if m[1] else "")
        for m in re.finditer(word, text)
    ]


def untangled(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order of their starts, cut so that none overlaps another or is shorter than 1 ms.

    Each ends where the next one starts; of two that start together, the second waits for the first.
    """
    found: list[tuple[int, int]] = []
    for start, end in spans:
        end = max(end, start + 1)
        if found and start > found[-1][0]:
            found[-1] = (found[-1][0], min(found[-1][1], start))
        elif found:
            start = found[-1][1]
        found.append((start, max(end, start + 1)))
    return found


def joined(words: Iterable[Piece]) -> str:
    """The words' text."""
    return "".join(f"{w.before}{w.text}" for w in words)


def milliseconds(seconds: float) -> int:
    """Rounded once, from 0 on.

    Raises:
        OutputError: it is NaN or infinite.
    """
    if not math.isfinite(seconds):
        raise OutputError(f"a segment's time is {seconds}: times must be finite to be written.")
    return max(0, round(float(seconds) * 1000))


def clock(milliseconds: int, point: str) -> str:
    """``HH:MM:SS,mmm`` with ``point`` in place of the comma."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{milliseconds:03d}"


def lines(text: str) -> str:
    """Text without blank lines, which would end a cue, and without NUL, which no format may hold."""
    found = (line.strip() for line in text.replace("\0", "").splitlines())
    return "\n".join(line for line in found if line)


def one_line(text: str) -> str:
    """Text in one line, every run of blanks a single space."""
    return " ".join(text.replace("\0", "").split())

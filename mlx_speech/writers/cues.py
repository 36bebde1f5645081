"""From segments to subtitles: their lines, and times that never overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlx_speech.types import Transcript
from mlx_speech.writers.options import WriteOptions
from mlx_speech.writers.words import UNSPACED, Piece, joined, milliseconds, pieces, spread, untangled

_LONG_PAUSE = 3000  # milliseconds between words' starts over which no subtitle reaches; openai-whisper's


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle. Times are milliseconds; the words' lie within the cue's and do not overlap."""

    start: int
    end: int
    words: tuple[Piece, ...]
    speaker: str | None = None

    @property
    def text(self) -> str:
        """Its lines, of which none is blank."""
        return joined(self.words)


def cues(transcript: Transcript, options: WriteOptions) -> list[Cue]:
    """Subtitles in time order that never overlap and last at least 1 ms. Segments without text are left out."""
    raw = _broken(transcript, options) if options.breaks_lines else _whole(transcript)
    ordered = sorted(raw, key=lambda c: c.start)
    times = untangled((c.start, c.end) for c in ordered)
    found = (replace(c, start=start, end=end) for c, (start, end) in zip(ordered, times, strict=True))
    return [
        replace(c, words=_within(c), speaker=c.speaker if options.speaker_labels else None) for c in found
    ]


def _within(cue: Cue) -> tuple[Piece, ...]:
    words, at = [], cue.start
    for word in cue.words:
        start = min(max(word.start, at), cue.end)
        at = min(max(word.end, start), cue.end)
        words.append(replace(word, start=start, end=at))
    return tuple(words)


def _whole(transcript: Transcript) -> Iterator[Cue]:
    for segment in transcript.segments:
        words = pieces(segment)
        if words:
            start, end = milliseconds(segment.start), milliseconds(segment.end)
            yield Cue(start, end, tuple(words), segment.speaker)


def _broken(transcript: Transcript, options: WriteOptions) -> Iterator[Cue]:
    """The rules of openai-whisper and WhisperX, but that no subtitle holds words of two speakers."""
    flows = options.max_line_width is not None and options.max_line_count is not None
    rows = options.max_line_count or (None if options.max_line_width else 1)
    for speaker, words in _runs(transcript, flows):
        lines = _lines(words, options.max_line_width or math.inf, options.max_words_per_line or math.inf)
        step = rows or len(lines)
        for n in range(0, len(lines), step):
            said = tuple(w for line in lines[n : n + step] for w in line)
            first = replace(said[0], before="")
            yield Cue(first.start, max(w.end for w in said), (first, *said[1:]), speaker)


def _runs(transcript: Transcript, flows: bool) -> Iterator[tuple[str | None, list[Piece]]]:
    """Words that may share a subtitle: a segment's, or with ``flows`` a speaker's up to a long pause."""
    run: list[Piece] = []
    speaker = None
    for segment in transcript.segments:
        gap = "" if segment.language in UNSPACED else " "
        for n, word in enumerate(spread(segment)):
            apart = segment.speaker != speaker or (run and word.start - run[-1].start > _LONG_PAUSE)
            if run and (apart if flows else n == 0):
                yield speaker, run
                run = []
            run.append(replace(word, before=gap if n == 0 or word.before else ""))
            speaker = segment.speaker
    if run:
        yield speaker, run


def _lines(words: list[Piece], width: float, count: float) -> list[list[Piece]]:
    """Each as full as it may be; the first word of each comes after a line break."""
    lines: list[list[Piece]] = []
    length = 0
    for word in words:
        length += len(word.before) + len(word.text)
        if not lines or length > width or len(lines[-1]) >= count:
            lines.append([replace(word, before="\n")])
            length = len(word.text)
        else:
            lines[-1].append(word)
    return lines

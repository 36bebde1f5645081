"""What a reader of a transcript should know, and where.

Speech that has no words, words where no speech was heard, phrases that loop, words whose times are guesses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mlx_speech.errors import OptionError
from mlx_speech.stages.loops import find_loops
from mlx_speech.types import Finding, Span, Transcript, Word


@dataclass(frozen=True)
class AuditOptions:
    """From when on something is told.

    Args:
        gap: seconds of speech without a word.
        reach: seconds around a word or a stretch of speech that still belong to it.
        repeats: times that a phrase of up to ``longest_phrase`` words stands in a row.
        longest_phrase: words.
        uncertain: words in a row whose times are guesses.

    Raises:
        OptionError: a value below what makes sense.
    """

    gap: float = 2.0
    reach: float = 0.5
    repeats: int = 4
    longest_phrase: int = 8
    uncertain: int = 4

    def __post_init__(self) -> None:
        least = {"gap": 0, "reach": 0, "repeats": 2, "longest_phrase": 1, "uncertain": 1}
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise OptionError(f"{name} is {getattr(self, name)!r}: it must be at least {value}")


def audit(transcript: Transcript, options: AuditOptions | None = None) -> list[Finding]:
    """The findings about a transcript, in time order; segments stand for their words where they have none."""
    options = options or AuditOptions()
    words = [
        w for s in transcript.segments for w in (s.words or (Word(s.text, s.start, s.end, s.avg_logprob),))
    ]
    found = [
        *_unwritten(transcript.speech, words, options),
        *_unheard(transcript.speech, words, options),
        *_loops(transcript.words, options),
        *_doubtful(words, options),
    ]
    return sorted(found, key=lambda f: (f.start, f.end, f.kind))


def _unwritten(speech: Sequence[Span], words: Sequence[Word], options: AuditOptions) -> Iterator[Finding]:
    """Stretches of speech in which no word is near."""
    taken = sorted((w.start - options.reach, w.end + options.reach) for w in words)
    first = 0
    for span in speech:
        at = span.start
        while first < len(taken) and taken[first][1] < span.start:
            first += 1
        for start, end in [*_until(taken, first, span.end), (span.end, span.end)]:
            if start - at >= options.gap:
                yield Finding(
                    "speech-without-words", at, start, f"{start - at:.1f} s of speech have no words"
                )
            at = max(at, end)


def _until(taken: Sequence[tuple[float, float]], first: int, end: float) -> Iterator[tuple[float, float]]:
    while first < len(taken) and taken[first][0] < end:
        yield taken[first]
        first += 1


def _unheard(speech: Sequence[Span], words: Sequence[Word], options: AuditOptions) -> Iterator[Finding]:
    """Runs of words that stand away from all speech."""
    ends = [s.end for s in speech]

    def away(word: Word) -> bool:
        near = bisect_right(ends, word.start - options.reach)  # the first that does not end before
        return near == len(speech) or speech[near].start >= word.end + options.reach

    for run in _runs(words, away):
        said = " ".join(w.text for w in run)
        yield Finding("words-without-speech", run[0].start, run[-1].end, f"no speech was heard at {said!r}")


def _loops(words: Sequence[Word], options: AuditOptions) -> Iterator[Finding]:
    """A phrase again and again."""
    texts = [w.text.casefold().strip(".,?!…;:") for w in words]
    for loop in find_loops(texts, options.repeats, options.longest_phrase):
        first, last = words[loop.start], words[loop.start + loop.size * loop.times - 1]
        said = " ".join(w.text for w in words[loop.start : loop.start + loop.size])
        yield Finding("loop", first.start, last.end, f"{said!r} stands {loop.times} times")


def _doubtful(words: Sequence[Word], options: AuditOptions) -> Iterator[Finding]:
    """Runs of words whose times are guesses."""
    for run in _runs(words, lambda w: w.uncertain):
        if len(run) >= options.uncertain:
            message = f"the times of {len(run)} words are uncertain"
            yield Finding("uncertain-alignment", run[0].start, run[-1].end, message)


def _runs(words: Sequence[Word], belongs: Any) -> Iterator[list[Word]]:
    for yes, run in groupby(words, belongs):
        if yes:
            yield list(run)

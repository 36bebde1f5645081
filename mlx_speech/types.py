"""The values that stages pass to each other. All times are seconds from the start of the recording."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time: ``start`` ≤ ``end``, both in seconds."""

    start: float
    end: float

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Word:
    """One written word.

    ``text`` keeps its punctuation and carries no surrounding spaces. ``probability`` is the mean
    probability, 0 to 1, that the model gave to the word's tokens.
    """

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A phrase as the recogniser wrote it, with what it knew of its own certainty.

    ``words`` is empty unless word times were asked for. ``avg_logprob`` is the mean log-probability of
    the decoded window's tokens, ``no_speech_prob`` the window's probability of holding no speech,
    ``compression_ratio`` the window text's gzip ratio (loops compress well), ``temperature`` the
    sampling temperature that was accepted.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    language: str | None = None
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 0.0
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's uninterrupted stretch."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one recording says: segments in time order, the spans they were looked for in, and their language.

    ``language`` is an ISO 639-1 code (``None`` where nothing was said), ``duration`` the recording's
    length in seconds.
    """

    segments: tuple[Segment, ...]
    language: str | None
    duration: float
    speech: tuple[Span, ...] = ()

    @property
    def text(self) -> str:
        """All segments' text, joined by single spaces."""
        return " ".join(s.text.strip() for s in self.segments).strip()

    @property
    def words(self) -> tuple[Word, ...]:
        """All words in order."""
        return tuple(w for s in self.segments for w in s.words)

"""The values that stages pass to each other. All times are seconds from the start of the recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
class Character:
    """A character of an aligned word, or several that are said as one ("$43"); silent ones take no time."""

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Word:
    """One written word.

    ``text`` keeps its punctuation and carries no surrounding spaces. ``probability`` is the mean
    probability, 0 to 1, that the model gave to the word's tokens; an aligner's is a geometric mean that
    takes in half of the way to the next words. It marks a word ``uncertain`` whose probability is low or
    whose time is a guess; the ``characters``, where they were asked for, are the word's text when joined.
    ``speaker`` is who says it (``None`` without diarization), ``speaker_confidence`` how sure that is, 0 to
    1, and ``overlap_speakers`` are those who speak meanwhile.
    """

    text: str
    start: float
    end: float
    probability: float
    characters: tuple[Character, ...] = ()
    uncertain: bool = False
    speaker: str | None = None
    speaker_confidence: float = 0.0
    overlap_speakers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A phrase as the recogniser wrote it, with what it knew of its own certainty.

    ``words`` is empty unless word times were asked for. ``avg_logprob`` is the mean log-probability of
    the decoded window's tokens, ``no_speech_prob`` the window's probability of holding no speech,
    ``compression_ratio`` the window text's gzip ratio (loops compress well), ``temperature`` the
    sampling temperature that was accepted. ``speaker`` says all of its words (``None`` without diarization).
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
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's uninterrupted stretch."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A person whose voice is known.

    ``embedding``, (D,) float32 of length 1, is the mean of all that was heard of them: ``seconds`` of speech in
    as many ``recordings``.
    """

    name: str
    embedding: np.ndarray
    seconds: float
    recordings: int = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """A speaker of a recording who was known by their voice.

    ``name`` is the known one and ``label`` what the diarization had called them, ``similarity`` the cosine of
    the two voices, ``confidence`` how sure that makes it, 0 to 1.
    """

    name: str
    label: str
    similarity: float
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Diarization:
    """Who spoke when.

    ``turns`` are in order of their starts and may overlap; in ``exclusive_turns`` at most one person speaks
    at a time, which is what words are given to. ``speakers`` are the names, and row *k* of ``embeddings``,
    (speakers, 256) float32, is the voice of the *k*-th, zeros where the recording shows too little of it.
    ``posteriors``, (frames, speakers) float32, is the probability that each speaks; frame *i* lies at
    ``frame_offset + i * frame_step`` seconds. The last frames may lie after the end of the recording, which
    is ``duration`` seconds long. ``identities`` are the speakers who were known by their voices.
    """

    turns: tuple[Turn, ...]
    exclusive_turns: tuple[Turn, ...]
    speakers: tuple[str, ...]
    embeddings: np.ndarray
    posteriors: np.ndarray
    frame_step: float
    frame_offset: float
    duration: float
    identities: tuple[Identity, ...] = ()

    @property
    def frame_times(self) -> np.ndarray:
        """The middle of each frame in seconds, (frames,) float64."""
        return self.frame_offset + self.frame_step * np.arange(len(self.posteriors))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a transcript that its reader should know, and where.

    ``kind`` is one of ``"speech-without-words"``, ``"words-without-speech"``, ``"loop"`` and
    ``"uncertain-alignment"``; ``message`` says it in a sentence.
    """

    kind: str
    start: float
    end: float
    message: str


@dataclass(frozen=True, slots=True)
class Redone:
    """A window that the audit found fault with, and that was decoded again with other ``settings``.

    ``before`` and ``after`` are the seconds of it that the audit found fault with; ``kept`` tells whether the new
    reading stands in the transcript. Settings ``"by itself"`` are a gap's: seconds of speech between two words.
    """

    start: float
    end: float
    settings: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one recording says: segments in time order, the spans they were looked for in, and their language.

    ``language`` is an ISO 639-1 code (``None`` where nothing was said), ``duration`` the recording's
    length in seconds. ``diarization`` is there if speakers were asked for; ``findings`` are what the audit
    of the result noticed. ``redone`` are the windows that were decoded again because of earlier ones.
    """

    segments: tuple[Segment, ...]
    language: str | None
    duration: float
    speech: tuple[Span, ...] = ()
    diarization: Diarization | None = None
    findings: tuple[Finding, ...] = ()
    redone: tuple[Redone, ...] = ()

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers' names; none without diarization."""
        return self.diarization.speakers if self.diarization else ()

    @property
    def text(self) -> str:
        """All segments' text, joined by single spaces."""
        return " ".join(s.text.strip() for s in self.segments).strip()

    @property
    def words(self) -> tuple[Word, ...]:
        """All words in order."""
        return tuple(w for s in self.segments for w in s.words)

"""NIST's formats, which scoring tools read: RTTM for turns, CTM for words."""

from __future__ import annotations

import math

from mlx_speech.types import Diarization, Transcript, Word
from mlx_speech.writers.options import Target
from mlx_speech.writers.words import milliseconds, one_line


def rttm(diarization: Diarization, target: Target) -> str:
    """Rich Transcription Time Marked, the turns with their overlaps. Names must hold no blanks."""
    file = _field(target.name, "recording")
    return "".join(
        f"SPEAKER {file} 1 {t.start:.3f} {t.end - t.start:.3f} <NA> <NA> {_field(t.speaker, 'speaker')} <NA> <NA>\n"
        for t in diarization.turns
    )


def transcript_rttm(transcript: Transcript, target: Target) -> str:
    """The RTTM of a transcript's diarization."""
    assert transcript.diarization is not None  # `Format.needs` says so
    return rttm(transcript.diarization, target)


def ctm(transcript: Transcript, target: Target) -> str:
    """Time marked conversation: file, channel, start, duration, word and its probability, in order of starts."""
    file = _field(target.name, "recording")
    words = [w for w in transcript.words if one_line(w.text)]
    return "".join(_ctm_line(file, word) for word in sorted(words, key=lambda w: w.start))


def _ctm_line(file: str, word: Word) -> str:
    start, end = milliseconds(word.start), milliseconds(word.end)
    sure = f"{min(max(word.probability, 0.0), 1.0):.4f}" if math.isfinite(word.probability) else "NA"
    return f"{file} 1 {start / 1000:.3f} {max(end - start, 0) / 1000:.3f} {_field(word.text, '')} {sure}\n"


def _field(text: str, default: str) -> str:
    """Without blanks, and without a comment's ``;;`` at the beginning of a line."""
    return "_".join(text.replace("\0", "").split()).lstrip(";") or default

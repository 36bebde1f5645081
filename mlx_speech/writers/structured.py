"""JSON, as ``transcript.schema.json`` and ``diarization.schema.json`` beside this file describe it."""

from __future__ import annotations

import json
import math
from typing import Any

from mlx_speech.types import Character, Diarization, Identity, Redone, Segment, Span, Transcript, Turn, Word
from mlx_speech.writers.options import Target


def transcript_json(transcript: Transcript, target: Target) -> str:
    """All that is known but the tokens and voices, under WhisperX's names; what is not finite is ``null``."""
    return _dumped(transcript_value(transcript))


def transcript_value(transcript: Transcript) -> dict[str, Any]:
    """The same as plain values."""
    diarization = transcript.diarization
    return {
        "language": transcript.language,
        "duration": _rounded(transcript.duration, 3),
        "text": transcript.text,
        "segments": [_segment(i, segment) for i, segment in enumerate(transcript.segments)],
        "speech": [_span(s) for s in transcript.speech],
        "speakers": list(transcript.speakers),
        "turns": [_turn(t) for t in diarization.turns] if diarization else [],
        "exclusive_turns": [_turn(t) for t in diarization.exclusive_turns] if diarization else [],
        "identities": [_identity(i) for i in diarization.identities] if diarization else [],
        "findings": [
            {"kind": f.kind, "start": _rounded(f.start, 3), "end": _rounded(f.end, 3), "message": f.message}
            for f in transcript.findings
        ],
        "redone": [_redone(r) for r in transcript.redone],
    }


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    value = {
        "id": index,
        **_span(segment),
        "text": segment.text,
        "speaker": segment.speaker,
        "avg_logprob": _rounded(segment.avg_logprob, 4),
        "no_speech_prob": _rounded(segment.no_speech_prob, 4),
        "compression_ratio": _rounded(segment.compression_ratio, 4),
        "temperature": _rounded(segment.temperature, 4),
        "language": segment.language,
        "words": [_word(word) for word in segment.words],
    }
    chars = [_char(c) for word in segment.words for c in word.characters]
    return value | {"chars": chars} if chars else value


def _word(word: Word) -> dict[str, Any]:
    return {
        "word": word.text,
        **_span(word),
        "score": _rounded(word.probability, 4),
        "uncertain": word.uncertain,
        "speaker": word.speaker,
        "speaker_confidence": _rounded(word.speaker_confidence, 4),
        "overlap_speakers": list(word.overlap_speakers),
    }


def _redone(redone: Redone) -> dict[str, Any]:
    return {
        **_span(redone),
        "settings": redone.settings,
        "before": _rounded(redone.before, 3),
        "after": _rounded(redone.after, 3),
        "kept": redone.kept,
    }


def _char(char: Character) -> dict[str, Any]:
    return {"char": char.text, **_span(char), "score": _rounded(char.probability, 4)}


def diarization_json(diarization: Diarization, target: Target) -> str:
    """All but the frames' posteriors; a speaker's embedding is 256 numbers."""
    return _dumped(
        {
            "recording": target.name,
            "duration": _rounded(diarization.duration, 3),
            "speakers": list(diarization.speakers),
            "turns": [_turn(t) for t in diarization.turns],
            "exclusive_turns": [_turn(t) for t in diarization.exclusive_turns],
            "identities": [_identity(i) for i in diarization.identities],
            "embeddings": {
                speaker: [_rounded(x, 6) for x in row]
                for speaker, row in zip(diarization.speakers, diarization.embeddings, strict=True)
            },
        }
    )


def _turn(turn: Turn) -> dict[str, Any]:
    return {**_span(turn), "speaker": turn.speaker}


def _identity(identity: Identity) -> dict[str, Any]:
    return {
        "speaker": identity.name,
        "label": identity.label,
        "similarity": _rounded(identity.similarity, 4),
        "confidence": _rounded(identity.confidence, 4),
    }


def _span(timed: Span | Redone | Turn | Segment | Word | Character) -> dict[str, float | None]:
    return {"start": _rounded(timed.start, 3), "end": _rounded(timed.end, 3)}


def _rounded(value: float, digits: int) -> float | None:
    """A number that JSON can hold: NumPy scalars become plain, NaN and infinities ``None``."""
    value = float(value)
    return round(value, digits) if math.isfinite(value) else None


def _dumped(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"

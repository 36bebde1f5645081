"""Words that look invented, in silence: where to cut them off and go on.

Original: ``hallucination_silence_threshold`` of
https://github.com/openai/whisper/blob/v20250625/whisper/transcribe.py (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_speech.types import Segment, Word

_MARKS = "\"'“¿([{-\"'.。,，!！?？:：”)]}、"
_FIRST_WORDS = 8  # of a segment, that are looked at
_EDGE = 2.0  # seconds from a window's edge that count as silence


@dataclass(frozen=True)
class Heard:
    """A window on the recording's clock, in seconds.

    ``end`` is where its audio ends and ``full_end`` where 30 s would; ``recording_end`` is the whole
    recording's; ``spoken_until`` is when the last word before it ended.
    """

    start: float
    end: float
    full_end: float
    recording_end: float
    spoken_until: float


def strange(segment: Segment | None) -> bool:
    """Whether a segment's words are improbable, very short or very long."""
    if segment is None or not segment.words:
        return False
    words = [w for w in segment.words if w.text not in _MARKS][:_FIRST_WORDS]
    score = sum(map(_strangeness, words))
    return score >= 3 or score + 0.01 >= len(words)


def _strangeness(word: Word) -> float:
    length = word.end - word.start
    score = 1.0 if (word.probability or 0.0) < 0.15 else 0.0
    if length < 0.133:
        score += (0.133 - length) * 15
    if length > 2.0:
        score += length - 2.0
    return score


def leading_silence(segments: Sequence[Segment], window: Heard, threshold: float) -> float | None:
    """Seconds of silence to skip, where a window begins with an invention after it."""
    first = next((s for s in segments if s.words), None)
    if first is None or not strange(first):
        return None
    gap = first.start - window.start
    return gap if gap > threshold else None


def first_invention(segments: Sequence[Segment], window: Heard, threshold: float) -> tuple[int, float] | None:
    """The first segment that looks invented between silences or other inventions.

    Returns:
        Its index, from which on all are to be dropped, and the time to go on from.
    """
    until = window.spoken_until
    for n, segment in enumerate(segments):
        if not segment.words:
            continue
        if strange(segment):
            following = next((s for s in segments[n + 1 :] if s.words), None)
            next_start = following.words[0].start if following else window.end
            silent_before = (
                segment.start - until > threshold
                or segment.start < threshold
                or segment.start - window.start < _EDGE
            )
            silent_after = (
                next_start - segment.end > threshold
                or strange(following)
                or window.full_end - segment.end < _EDGE
            )
            if silent_before and silent_after:
                if window.recording_end - segment.end < threshold:
                    return n, window.recording_end
                return n, max(window.start + 1, segment.start)
        until = segment.end
    return None

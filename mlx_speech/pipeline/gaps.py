"""Speech in which no word was placed, decoded once more by itself.

Whisper may end a window's text, or stretch its last phrase, long before the window's speech ends; that shows once
words have their times. A gap is such a stretch between two words.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from mlx_speech.pipeline.basis import Progress
from mlx_speech.pipeline.redo import Read, with_reading
from mlx_speech.stages.options import TranscribeOptions
from mlx_speech.stages.speech import merge_spans
from mlx_speech.types import Redone, Segment, Span, Transcript, Word

_LEAST = 2.0  # seconds of speech between two words: pauses and hesitations are shorter
# Readings that were right had a mean log-probability of -0.43 and a fifth of their words uncertain, wrong ones
# below -0.8 and two fifths or more (parity/bench_beams.py's recordings and meetings)
_LOGPROB = -0.65
_UNCERTAIN = 0.34  # share of words
_KNOWN = 0.5  # share of a reading's words that the text around has in the same order


def fill_gaps(
    transcript: Transcript,
    speech: Sequence[Span],
    windows: Sequence[Span],
    options: TranscribeOptions,
    read: Read,
    progress: Progress,
) -> Transcript:
    """Decode each gap by itself; a reading stays that is likely, well placed and not what stands beside it.

    The last happens where words are placed wrongly: the gap then holds words that are written already.

    Args:
        transcript: with words.
        speech: the stretches of speech that were to be transcribed, in order.
        windows: what was decoded at once, in order; those without any word would say nothing a second time.
        options: how they were.
        read: decodes windows.
        progress: called before and after.

    Returns:
        The transcript with what was passed over, and what was tried in ``redone``.
    """
    found = gaps(transcript.words, speech, transcript.duration)
    found = [g for g in found if not _heard_before(g, windows)]
    if not found:
        return transcript
    total = sum(g.duration for g in found)
    progress("redo", 0.0, total)
    if not options.multilingual:
        options = replace(options, language=transcript.language)
    options = replace(options, clips=(), decode=replace(options.decode, prefix=None))
    segments = read(found, options)
    for gap in found:
        reading = [s for s in segments if gap.start <= (s.start + s.end) / 2 < gap.end]
        kept = _believable(reading) and not _written_beside(reading, gap, transcript.words)
        inside = _inside(gap, speech)
        after = _unfilled(inside, reading if kept else ())
        note = Redone(gap.start, gap.end, "by itself", _seconds(inside), after, kept)
        transcript = with_reading(transcript, gap, reading) if kept else transcript
        transcript = replace(transcript, redone=(*transcript.redone, note))
    progress("redo", total, total)
    return transcript


def gaps(words: Sequence[Word], speech: Sequence[Span], duration: float) -> list[Span]:
    """Windows of at most 30 s around the speech between two neighbouring words, or at either end.

    Only where it is two seconds of speech or more.
    """
    found: list[Span] = []
    end = 0.0
    for start, until in [*sorted((w.start, w.end) for w in words), (duration, duration)]:
        inside = _inside(Span(end, start), speech) if start - end >= _LEAST else []
        if _seconds(inside) >= _LEAST:
            found += merge_spans(inside)
        end = max(end, until)
    return found


def _heard_before(gap: Span, windows: Sequence[Span]) -> bool:
    """Whether a gap is little more than whole windows, give or take a tenth of each: music, say."""
    shares = [_seconds(_inside(gap, [w])) for w in windows]
    whole = sum(share for share, w in zip(shares, windows, strict=True) if share >= 0.9 * w.duration)
    return gap.duration - whole < _LEAST


def _inside(gap: Span, speech: Sequence[Span]) -> list[Span]:
    """The parts of speech, which is in order, that lie in a gap."""
    first = bisect_right(speech, gap.start, key=lambda s: s.end)
    last = bisect_left(speech, gap.end, key=lambda s: s.start)
    return [Span(max(s.start, gap.start), min(s.end, gap.end)) for s in speech[first:last]]


def _seconds(spans: Iterable[Span]) -> float:
    return sum(s.duration for s in spans)


def _unfilled(speech: Sequence[Span], reading: Sequence[Segment]) -> float:
    """Seconds of a gap's speech that are gaps still."""
    words = [w for s in reading for w in s.words]
    return sum(_seconds(_inside(g, speech)) for g in gaps(words, speech, speech[-1].end))


def _believable(reading: Sequence[Segment]) -> bool:
    words = [w for s in reading for w in s.words]
    return (
        bool(words)
        and min(s.avg_logprob for s in reading) >= _LOGPROB
        and sum(w.uncertain for w in words) <= _UNCERTAIN * len(words)
    )


def _written_beside(reading: Sequence[Segment], gap: Span, words: Sequence[Word]) -> bool:
    """Whether the text before a gap or after it, half as long again as the reading, says the same."""
    said = _spelled(w for s in reading for w in s.words)
    many = len(said) * 3 // 2
    before = _spelled(w for w in words if w.start <= gap.start)[-many:]
    after = _spelled(w for w in words if w.start > gap.start)[:many]
    same = (SequenceMatcher(None, said, side, False).get_matching_blocks() for side in (before, after))
    return max(sum(b.size for b in blocks) for blocks in same) > _KNOWN * len(said)


def _spelled(words: Iterable[Word]) -> list[str]:
    return [w.text.casefold().strip(".,?!…;:\"'") for w in words]

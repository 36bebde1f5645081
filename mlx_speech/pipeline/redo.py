"""Windows that the audit finds fault with, decoded again with other settings; the better reading stays.

The better one is that without findings, or with more than a second less of them; of two that are alike the first
stays. So a reading is never exchanged for one that leaves more speech without words, or loops longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from mlx_speech.pipeline.basis import Progress
from mlx_speech.stages.audit import audit
from mlx_speech.stages.options import TranscribeOptions
from mlx_speech.types import Finding, Redone, Segment, Span, Transcript

Read = Callable[[Sequence[Span], TranscribeOptions], Sequence[Segment]]
"""What is said in some windows, with words, by these options."""

_CLEARLY = 1.0  # seconds: twice what the audit lets words reach; otherwise no words would beat a loop
_SHORT = 4.0  # seconds: shorter windows are not cut


def redo(
    transcript: Transcript,
    windows: Sequence[Span],
    options: TranscribeOptions,
    read: Read,
    progress: Progress,
) -> Transcript:
    """Decode the windows with findings again: by beams without prompt, then in two halves, then by sampling.

    The first reading without a finding ends it for its window.

    Args:
        transcript: with words, and the speech that they were looked for in.
        windows: what was decoded at once, in order.
        options: how it was decoded.
        read: decodes windows.
        progress: called as windows are done.

    Returns:
        The transcript with the better readings, and what was tried in ``redone``.
    """
    if not options.multilingual:  # a doubtful window is no place to detect the recording's language anew
        options = replace(options, language=transcript.language)
    found = audit(transcript)
    flagged = [w for w in windows if _fault(found, w) > 0]
    total = sum(w.duration for w in flagged)
    done = 0.0
    for window in flagged:
        progress("redo", done, total)
        transcript = _better(transcript, window, options, read)
        done += window.duration
    if flagged:
        progress("redo", total, total)
    return transcript


def attempts(window: Span, options: TranscribeOptions) -> list[tuple[str, list[Span], TranscribeOptions]]:
    """What is tried with a window, in turn: a name, the pieces it is decoded in, and the options."""
    bare = replace(options.decode, prompt=None, hotwords=None, prefix=None, timestamps=True)
    beams = replace(bare, beam_size=max(5, bare.beam_size), temperatures=(0.0,))
    sampled = replace(bare, beam_size=1, best_of=max(5, bare.best_of), temperatures=(0.4, 0.8))
    how = replace(options, sequential=False, hallucination_silence_threshold=None, clips=(), max_repeats=3)
    middle = (window.start + window.end) / 2
    halves = [Span(a, b) for a, b in pairwise((window.start, middle, window.end))]
    tried = [
        ("beams, no prompt", [window], replace(how, decode=beams)),
        ("halves, beams, no prompt", halves, replace(how, decode=beams)),
        ("sampled, no prompt", [window], replace(how, decode=sampled)),
    ]
    return [t for t in tried if len(t[1]) == 1 or window.duration >= _SHORT]


def _better(transcript: Transcript, window: Span, options: TranscribeOptions, read: Read) -> Transcript:
    """The transcript with the best reading of one window."""
    before = best = _fault(audit(transcript), window)
    for name, pieces, how in attempts(window, options):
        tried = with_reading(transcript, window, read(pieces, how))
        after = _fault(audit(tried), window)
        kept = after <= 0 or after < best - _CLEARLY
        note = Redone(window.start, window.end, name, before, after, kept)
        redone = transcript.redone
        if kept:  # what was kept of this window before is not any more
            same = (window.start, window.end)
            redone = tuple(replace(r, kept=False) if (r.start, r.end) == same else r for r in redone)
            transcript, best = tried, after
        transcript = replace(transcript, redone=(*redone, note))
        if best <= 0:
            break
    return transcript


def with_reading(transcript: Transcript, window: Span, segments: Sequence[Segment]) -> Transcript:
    """The transcript with other segments in a window: those whose middle lies in it go."""
    others = [s for s in transcript.segments if not window.start <= (s.start + s.end) / 2 <= window.end]
    every = sorted([*others, *segments], key=lambda s: (s.start, s.end))
    return replace(transcript, segments=tuple(every))


def _fault(findings: Sequence[Finding], window: Span) -> float:
    """Seconds of a window that findings are about."""
    inside = sorted((max(f.start, window.start), min(f.end, window.end)) for f in findings)
    total, until = 0.0, window.start
    for start, end in inside:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total

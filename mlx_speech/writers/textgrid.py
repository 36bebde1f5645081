"""Praat's TextGrid: for each speaker a tier of segments and one of words."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_speech.types import Segment, Transcript
from mlx_speech.writers.options import Target
from mlx_speech.writers.words import milliseconds, one_line, untangled

Interval = tuple[int, int, str]
"""Start and end in whole milliseconds, and the label."""


def textgrid(transcript: Transcript, target: Target) -> str:
    """Interval tiers over the whole recording; in each, an interval ends where the next one starts."""
    groups: dict[str | None, list[Segment]] = {}
    for segment in transcript.segments:
        groups.setdefault(segment.speaker if target.options.speaker_labels else None, []).append(segment)
    tiers: list[tuple[str, list[Interval]]] = []
    for speaker, segments in groups.items() or [(None, [])]:
        name = one_line(speaker or "")
        tiers.append((name or "segments", _intervals((s.start, s.end, s.text) for s in segments)))
        words = [w for s in segments for w in s.words]
        tiers.append((f"{name} words".strip(), _intervals((w.start, w.end, w.text) for w in words)))
    end = max([milliseconds(transcript.duration), 1, *(last[-1][1] for _, last in tiers if last)])
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {_seconds(end)}\n'
    body = "".join(_tier(n, name, _filled(found, end), end) for n, (name, found) in enumerate(tiers, 1))
    return f"{head}tiers? <exists>\nsize = {len(tiers)}\nitem []:\n{body}"


def _intervals(found: Iterable[tuple[float, float, str]]) -> list[Interval]:
    """In order, without overlap, at least 1 ms long; those without text are left out."""
    timed = [(milliseconds(a), milliseconds(b), one_line(text)) for a, b, text in found]
    ordered = sorted((i for i in timed if i[2]), key=lambda i: i[0])
    times = untangled((a, b) for a, b, _ in ordered)
    return [(*span, text) for span, (_, _, text) in zip(times, ordered, strict=True)]


def _filled(intervals: list[Interval], end: int) -> list[Interval]:
    """With what lies between them: Praat wants every moment in an interval."""
    found: list[Interval] = []
    at = 0
    for start, stop, text in intervals:
        if start > at:
            found.append((at, start, ""))
        found.append((start, stop, text))
        at = stop
    return [*found, (at, end, "")] if at < end else found


def _tier(number: int, name: str, intervals: list[Interval], end: int) -> str:
    head = (
        f'    item [{number}]:\n        class = "IntervalTier"\n        name = "{_quoted(name)}"\n'
        f"        xmin = 0\n        xmax = {_seconds(end)}\n        intervals: size = {len(intervals)}\n"
    )
    return head + "".join(
        f"        intervals [{n}]:\n            xmin = {_seconds(start)}\n            xmax = {_seconds(stop)}\n"
        f'            text = "{_quoted(text)}"\n'
        for n, (start, stop, text) in enumerate(intervals, 1)
    )


def _quoted(text: str) -> str:
    return text.replace('"', '""')


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"

"""Known words, placed in a recording by a CTC model: exact times, and how sure they are.

Segments that follow each other closely are placed together, so that a wrong border between two of them does
no harm. Each written word comes back once, in order, with a time: what has no sound of its own (an emoji, a
dash) stands beside its neighbours, and the words of a segment that cannot be placed share its time and have
probability 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_speech.audio import SAMPLE_RATE
from mlx_speech.stages.cutting import cut_segment
from mlx_speech.stages.emissions import Listener
from mlx_speech.stages.placing import AlignOptions, Work, inside, place, unplaced
from mlx_speech.stages.spoken import sentence_ends, split_words
from mlx_speech.types import Segment

_LONGEST_GROUP = 60.0  # seconds of segments placed together


def align_segments(
    listeners: Mapping[str | None, Listener],
    audio: np.ndarray,
    segments: Sequence[Segment],
    options: AlignOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Segment]:
    """Time the words of segments.

    Args:
        listeners: a model for each language; ``None`` serves segments without one.
        audio: the recording (T,) float32 at 16 kHz.
        segments: text with rough times. Words that a segment has are kept as its written words.
        options: how.
        progress: told the seconds done so far.

    Returns:
        The segments in the same order with ``words``, start and end being the first's and the last's; of a
        language without a model, as they came, but never without words. With ``sentences``, more of them.
    """
    options = options or AlignOptions()
    duration = len(audio) / SAMPLE_RATE
    segments = [inside(s, duration) for s in segments]
    every = _groups(segments, duration, options)
    placed: dict[int, Segment] = {}
    for language in dict.fromkeys(s.language for s in segments):
        listener = listeners.get(language)
        groups = [g for g in every if segments[g.members[0]].language == language]
        if listener is None:
            kept = ((n, segments[n]) for g in groups for n in g.members)
            placed.update((n, s if s.words else unplaced(s, duration)) for n, s in kept)
            continue
        work = [Work.of(listener.alphabet, [segments[n] for n in g.members], g.start, g.end) for g in groups]
        for group, found in zip(groups, place(listener, audio, work, options, progress), strict=True):
            placed.update(zip(group.members, found, strict=True))
    ordered = [placed[n] for n in range(len(segments))]
    return [x for s in ordered for x in split_sentences(s)] if options.sentences else ordered


def align_text(
    listener: Listener,
    audio: np.ndarray,
    text: str,
    language: str | None,
    options: AlignOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Segment]:
    """Time a text that is the whole recording's, without knowing where in it anything is.

    The best of all placements is found, unless both are long, some eight minutes: then the best of those that
    stay near the likeliest (see :func:`~mlx_speech.stages.placing.place`).

    Args:
        listener: the model.
        audio: the recording (T,) float32 at 16 kHz.
        text: what is said, from start to end.
        language: its language.
        options: how.
        progress: told the seconds done so far.

    Returns:
        A segment a sentence, or a line where the text has lines.
    """
    options = options or AlignOptions()
    duration = len(audio) / SAMPLE_RATE
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # rough times, for the case that the recording is too short for the text
    rough = iter(unplaced(Segment(0.0, duration, " ".join(lines), language=language), duration).words)
    segments = []
    for line in lines:
        words = tuple(next(rough) for _ in split_words(line, language))
        whole = Segment(words[0].start, words[-1].end, line, words, language)
        segments += split_sentences(whole)
    if not segments:
        return []
    work = Work.of(listener.alphabet, segments, 0.0, duration)
    return next(place(listener, audio, [work], options, progress))


def split_sentences(segment: Segment) -> list[Segment]:
    """A segment with words cut where sentences end; each part begins and ends with its words."""
    return cut_segment(segment, sentence_ends([w.text for w in segment.words]))


# --- which segments are placed together, and where ---------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Numbers of the segments placed together, and the seconds that they may take."""

    members: tuple[int, ...]
    start: float
    end: float


def _groups(segments: Sequence[Segment], duration: float, options: AlignOptions) -> list[_Group]:
    """Segments in time order, those in one group that are near and of one language."""
    order = sorted(range(len(segments)), key=lambda n: (segments[n].start, segments[n].end))
    groups: list[list[int]] = []
    for n in order:
        if groups and options.join and _joins([segments[k] for k in groups[-1]], segments[n], options.slack):
            groups[-1].append(n)
        else:
            groups.append([n])
    spans = [(min(segments[n].start for n in g), max(segments[n].end for n in g)) for g in groups]
    out = []
    for g, (start, end) in enumerate(spans):
        # free time between two groups is shared
        low = (spans[g - 1][1] + start) / 2 if g else 0.0
        high = (end + spans[g + 1][0]) / 2 if g + 1 < len(spans) else duration
        low = max(start - options.slack, min(low, start), 0.0)
        high = min(end + options.slack, max(high, end), duration)
        out.append(_Group(tuple(groups[g]), min(low, duration), max(high, min(low, duration))))
    return out


def _joins(group: Sequence[Segment], segment: Segment, slack: float) -> bool:
    last = group[-1]
    gap = segment.start - last.end
    near = -slack <= gap <= 2 * slack
    return near and last.language == segment.language and segment.end - group[0].start <= _LONGEST_GROUP

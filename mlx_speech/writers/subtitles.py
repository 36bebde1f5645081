"""SubRip and WebVTT."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlx_speech.types import Transcript
from mlx_speech.writers.cues import Cue, cues
from mlx_speech.writers.options import Target
from mlx_speech.writers.words import clock, one_line


def srt(transcript: Transcript, target: Target) -> str:
    """SubRip. It knows no escapes, so an arrow in the text is shortened."""
    options = target.options
    found = cues(transcript, options)
    shown = (part for cue in found for part in (_underlined(cue) if options.highlight_words else _plain(cue)))
    return "\n".join(
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{re.sub('-+->', '->', text)}\n"
        for number, (start, end, text) in enumerate(shown, 1)
    )


def _plain(cue: Cue) -> Iterator[tuple[int, int, str]]:
    yield cue.start, cue.end, _labelled(cue, cue.text)


def _underlined(cue: Cue) -> Iterator[tuple[int, int, str]]:
    """The cue once for each word, and for the pauses between them."""
    at = cue.start
    for n, word in enumerate(cue.words):
        if word.start > at:
            yield at, word.start, _labelled(cue, cue.text)
        if word.end > word.start:
            said = (
                f"{w.before}<u>{w.text}</u>" if n == m else w.before + w.text for m, w in enumerate(cue.words)
            )
            yield word.start, word.end, _labelled(cue, "".join(said))
        at = word.end
    if cue.end > at:
        yield at, cue.end, _labelled(cue, cue.text)


def _labelled(cue: Cue, text: str) -> str:
    return f"[{one_line(cue.speaker)}]: {text}" if cue.speaker else text


def vtt(transcript: Transcript, target: Target) -> str:
    """WebVTT. Speakers are voices, and highlighted words have their starts in time tags."""
    blocks = (
        f"\n{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{_voiced(cue, target.options.highlight_words)}\n"
        for cue in cues(transcript, target.options)
    )
    return "WEBVTT\n" + "".join(blocks)


def _voiced(cue: Cue, timed: bool) -> str:
    text = _timed(cue) if timed else _escaped(cue.text)
    return f"<v {_escaped(one_line(cue.speaker))}>{text}</v>" if cue.speaker else text


def _timed(cue: Cue) -> str:
    """Each word with its start, where that lies within the cue and after the one before."""
    found, at = "", cue.start
    for word in cue.words:
        tag = f"<{clock(word.start, '.')}>" if at < word.start < cue.end else ""
        at = max(at, word.start)
        found += f"{word.before}{tag}<c>{_escaped(word.text)}</c>"
    return found


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

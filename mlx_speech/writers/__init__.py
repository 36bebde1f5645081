"""A transcript or a diarization as text: one family of formats a file, all of them in two tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mlx_speech.errors import OptionError
from mlx_speech.types import Diarization, Transcript
from mlx_speech.writers import ass, html, nist, plain, structured, subtitles, textgrid
from mlx_speech.writers.files import replace_file
from mlx_speech.writers.options import Target, WriteOptions

__all__ = [
    "DIARIZATION_WRITERS",
    "WRITERS",
    "Format",
    "WriteOptions",
    "formats_for",
    "render",
    "write",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Format:
    """What renders a transcript, and what the transcript must have for it."""

    render: Callable[[Transcript, Target], str]
    needs: Literal["speakers", "words"] | None = None


WRITERS: dict[str, Format] = {
    "txt": Format(plain.txt),
    "json": Format(structured.transcript_json),
    "srt": Format(subtitles.srt),
    "vtt": Format(subtitles.vtt),
    "tsv": Format(plain.tsv),
    "ass": Format(ass.ass),
    "html": Format(html.html),
    "rttm": Format(nist.transcript_rttm, needs="speakers"),
    "ctm": Format(nist.ctm, needs="words"),
    "TextGrid": Format(textgrid.textgrid),
    "aud": Format(plain.aud),
}
"""Each format's name, which is its file extension too."""

DIARIZATION_WRITERS: dict[str, Callable[[Diarization, Target], str]] = {
    "rttm": nist.rttm,
    "json": structured.diarization_json,
}
"""The same of a diarization."""

_MISSING = {
    "speakers": "{0} is made of speakers' turns, and this transcript has no diarization: diarize the recording.",
    "words": "{0} is made of words' times, and this transcript has none: transcribe with word times.",
}


def render(
    transcript: Transcript | Diarization,
    format: str,
    options: WriteOptions | None = None,
    *,
    name: str = "recording",
    audio: str | os.PathLike[str] | None = None,
) -> str:
    """A transcript in one of the ``WRITERS`` formats, or a diarization in one of ``DIARIZATION_WRITERS``.

    Args:
        transcript: what to render.
        format: its name.
        options: lines of subtitles, labels of speakers and the like.
        name: the recording's, which RTTM and CTM want in each line and the page shows as its title.
        audio: the recording's path, for the page's player; the page then belongs in the current folder.

    Raises:
        OptionError: there is no such format, or the transcript lacks what it is made of.
        OutputError: a time is not finite, or the recording cannot be read to be embedded.
    """
    target = Target(_readable(name), options or WriteOptions(), Path(audio) if audio is not None else None)
    return _render(transcript, format, target)


def write(
    transcript: Transcript | Diarization,
    path: str | os.PathLike[str],
    format: str,
    options: WriteOptions | None = None,
    *,
    audio: str | os.PathLike[str] | None = None,
) -> None:
    """Write ``transcript`` to ``path`` in UTF-8: the whole file or, on ``OutputError``, no change at all.

    The recording's name is taken from the path's: ``meeting`` for ``meeting.rttm``. Otherwise as
    :func:`render`; the page finds its ``audio`` from where ``path`` is.
    """
    path = Path(path)
    target = Target(
        _readable(path.stem),
        options or WriteOptions(),
        Path(audio) if audio is not None else None,
        path.parent,
    )
    replace_file(path, _render(transcript, format, target))


def formats_for(transcript: Transcript) -> list[str]:
    """The formats that this transcript has everything for."""
    return [name for name, format in WRITERS.items() if not _lacks(transcript, format)]


def _readable(name: str) -> str:
    """A file's name, which need not be text."""
    return name.encode("utf-8", "replace").decode()


def _render(transcript: Transcript | Diarization, format: str, target: Target) -> str:
    if isinstance(transcript, Diarization):
        return _known(DIARIZATION_WRITERS, format, "diarization format")(transcript, target)
    writer = _known(WRITERS, format, "output format")
    if _lacks(transcript, writer) and writer.needs:
        raise OptionError(_MISSING[writer.needs].format(format))
    return writer.render(transcript, target)


def _lacks(transcript: Transcript, format: Format) -> bool:
    if format.needs == "speakers":
        return transcript.diarization is None
    return format.needs == "words" and any(s.text.strip() and not s.words for s in transcript.segments)


def _known(writers: dict[str, T], format: str, what: str) -> T:
    if not isinstance(format, str) or format not in writers:
        raise OptionError(f"unknown {what} {format!r}: choose one of {', '.join(writers)}.")
    return writers[format]

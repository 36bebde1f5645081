"""One page a recording: player, timeline of speakers, words that follow the sound; it needs no network.

The page is written here as far as it can be read without scripts: each word in its own element, in order.
``page/`` holds its frame, its looks and its behaviour. All that a recording or a person can name goes through
``escape`` or ``_script_json``, and the page's policy allows no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from mlx_speech.errors import OutputError
from mlx_speech.types import Segment, Transcript
from mlx_speech.writers.options import Target
from mlx_speech.writers.palette import PALETTE
from mlx_speech.writers.structured import transcript_value
from mlx_speech.writers.words import Paragraph, milliseconds, one_line, paragraphs, parts

LOW = 0.3
"""A word of a lower probability is marked, as is one that is ``uncertain``."""

# joined in this order to one script: a module may not import another from file://
SCRIPTS = ("data", "player", "follow", "timeline", "search", "speakers", "export", "keys")
# what browsers play; for any other ending they look into the file
_TYPES = {
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".webm": "video/webm",
}
_PAGE = Path(__file__).parent / "page"


def html(transcript: Transcript, target: Target) -> str:
    """The whole page.

    Raises:
        OutputError: a time is not finite, or the recording is to be embedded and cannot be read.
    """
    value = transcript_value(transcript)
    style, script = _file("page.css"), "".join(_file(f"{name}.js") for name in SCRIPTS)
    shown = [n for n, segment in enumerate(transcript.segments) if one_line(segment.text)]
    dumped = json.dumps(value, ensure_ascii=False, sort_keys=True)
    page = {
        "name": target.name,
        "key": hashlib.sha256(f"{target.name}\n{dumped}".encode("utf-8", "replace")).hexdigest()[:16],
        "shown": shown,
        "speakers": _speakers(transcript),
    }
    return Template(_file("page.html")).substitute(
        policy=f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "media-src 'self' file: blob:; img-src data:; base-uri 'none'; form-action 'none'",
        title=escape(target.name),
        language=escape(transcript.language or "und"),
        style=style,
        script=script,
        text=_text(transcript),
        audio=_audio(target),
        data=_script_json(value),
        page=_script_json(page),
    )


@cache
def _file(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What a content security policy knows an inline script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: dict[str, Any]) -> str:
    """JSON that no HTML parser can take for the end of its script, or for a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _audio(target: Target) -> str:
    """The player's element, and the recording itself if it is to be embedded."""
    if target.audio is None:
        return '<audio id="audio" preload="metadata"></audio>'
    if not target.options.embed_audio:
        return f'<audio id="audio" preload="metadata" src="{escape(_address(target))}"></audio>'
    try:
        content = base64.b64encode(target.audio.read_bytes()).decode()
    except OSError as error:
        raise OutputError(
            f"{target.audio}: could not be read to be embedded ({error.strerror}): leave embed_audio out."
        ) from error
    kind = _TYPES.get(target.audio.suffix.lower(), "")
    return (
        '<audio id="audio" preload="metadata"></audio>\n'
        f'<script type="text/plain" id="audio-data" data-type="{kind}">{content}</script>'
    )


def _address(target: Target) -> str:
    """The recording as seen from the page: relative, so that both can be moved together."""
    assert target.audio is not None
    audio, folder = os.path.abspath(target.audio), os.path.abspath(target.folder)
    try:
        # "./" keeps a name with a colon from being a scheme; quoting keeps ? and # in the path
        return "./" + quote(os.fsencode(Path(os.path.relpath(audio, folder)).as_posix()))
    except ValueError:  # another drive of a Windows machine
        return Path(audio).as_uri()


def _text(transcript: Transcript) -> str:
    """The paragraphs; the speaker is named where another one begins."""
    speakers = {name: n for n, name in enumerate(_speakers(transcript))}
    found, before = [], None
    for paragraph in paragraphs(transcript):
        found.append(_paragraph(paragraph, speakers, paragraph.speaker != before))
        before = paragraph.speaker
    return "\n".join(found)


def _speakers(transcript: Transcript) -> list[str]:
    named = (s.speaker for s in transcript.segments if s.speaker is not None)
    return list(dict.fromkeys([*transcript.speakers, *named]))


def _paragraph(paragraph: Paragraph, speakers: dict[str, int], named: bool) -> str:
    first = paragraph.segments[0]
    speaker, who = paragraph.speaker, ""
    index = speakers[speaker] if speaker is not None else -1
    colour = f" k{index % len(PALETTE)}" if speaker is not None else ""
    if speaker is not None and named:
        who = f'<button type="button" class="who" data-speaker="{index}">{escape(one_line(speaker))}</button>'
    words = "".join(f"{' ' if n else ''}{_words(s)}" for n, s in enumerate(paragraph.segments))
    return (
        f'<section class="turn{colour}" data-speaker="{index}"><div class="meta">{who}'
        f'<button type="button" class="at" aria-label="Play from {_clock(first.start)}">'
        f"{_clock(first.start)}</button></div>"
        f'<p dir="auto">{words}</p></section>'
    )


def _words(segment: Segment) -> str:
    """Each word, or the whole segment without any, as an element; the script finds them by their order."""
    found = []
    low = [w.uncertain or w.probability < LOW for w in segment.words] or [False]
    for (before, said), doubtful in zip(parts(segment), low, strict=True):
        gap = " " if before else ""
        mark = ' class="low"' if doubtful else ""
        found.append(f"{gap}<span{mark}>{escape(one_line(said))}</span>")
    return "".join(found)


def _clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    whole = milliseconds(seconds) // 1000
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"

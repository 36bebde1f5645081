"""What is known already, from a file: a text, subtitles whose times are to be set anew, or speakers' turns."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mlx_speech.errors import OptionError
from mlx_speech.types import Segment, Turn

_ARROW = re.compile(r"([\d:.,]+)\s*-->\s*([\d:.,]+)")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")


def read_transcript(path: str | os.PathLike[str]) -> str | list[Segment]:
    """The text of a file; the cues of one that is named .srt or .vtt, without their markup; a .json's segments.

    Raises:
        OptionError: it cannot be read, is not UTF-8, holds no text, or its subtitles have no cue.
    """
    file = Path(path)
    text = _text(file)
    if file.suffix.lower() == ".json":
        return _json_segments(file, text)
    if file.suffix.lower() not in (".srt", ".vtt"):
        if not text.strip():
            raise OptionError(f"{file}: no text in it")
        return text
    cues = _cues(text)
    if not cues:
        raise OptionError(f"{file}: no subtitle in it; plain text belongs into a .txt file")
    return cues


def read_turns(path: str | os.PathLike[str]) -> list[Turn]:
    """Who speaks when, from an .rttm, or from the .json of a diarization or a transcript with speakers.

    Raises:
        OptionError: it cannot be read, or holds no turns.
    """
    file = Path(path)
    text = _text(file)
    try:
        if file.suffix.lower() == ".json":
            turns = [
                Turn(float(t["start"]), float(t["end"]), t["speaker"]) for t in json.loads(text)["turns"]
            ]
        else:
            rows = [line.split() for line in text.splitlines() if line.startswith("SPEAKER ")]
            turns = [Turn(float(r[3]), float(r[3]) + float(r[4]), r[7]) for r in rows]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise OptionError(
            f"{file}: no speakers' turns could be read from it ({type(error).__name__}: {error})"
        ) from error
    if not turns:
        raise OptionError(f"{file}: it holds no speaker's turn; diarize the recording first")
    return turns


def _json_segments(file: Path, text: str) -> list[Segment]:
    """The ``segments`` of a transcript of ours, WhisperX's or openai-whisper's, for their times to be set anew."""
    try:
        found = [
            Segment(float(s["start"]), float(s["end"]), str(s["text"]), language=s.get("language"))
            for s in json.loads(text)["segments"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{file}: no transcript could be read from it ({type(error).__name__}: {error}); a text belongs into a "
            ".txt file"
        ) from error
    if not any(s.text.strip() for s in found):
        raise OptionError(f"{file}: no text in it")
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"{file}: not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise OptionError(f"{file}: cannot be read ({error.strerror})") from error


def _cues(text: str) -> list[Segment]:
    cues = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        at = next((n for n, line in enumerate(lines) if _ARROW.search(line)), None)
        times = _ARROW.search(lines[at]) if at is not None else None
        if at is None or times is None:
            continue
        said = "\n".join(_TAG.sub("", line).strip() for line in lines[at + 1 :]).strip()
        start, end = _seconds(times[1]), _seconds(times[2])
        if said:
            cues.append(Segment(start, max(start, end), said))
    return cues


def _seconds(clock: str) -> float:
    """``1:02:03,5`` or ``02:03.500`` → seconds."""
    total = 0.0
    try:
        for part in clock.replace(",", ".").split(":"):
            total = total * 60 + float(part)
    except ValueError as error:
        raise OptionError(f"{clock!r} is no subtitle's time; write 00:01:02,500") from error
    return total

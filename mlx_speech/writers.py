"""A transcript or a diarization as text: one function a format, in two tables."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_speech.errors import OptionError, OutputError
from mlx_speech.types import Diarization, Segment, Transcript, Turn, Word

Cue = tuple[int, int, str]
"""Start and end in whole milliseconds, and the text."""


def render(transcript: Transcript | Diarization, format: str, *, name: str = "recording") -> str:
    """A transcript in one of the ``WRITERS`` formats, or a diarization in one of ``DIARIZATION_WRITERS``.

    ``name`` is the recording's, which RTTM wants in each line. Raises ``OptionError`` for another format.
    """
    if isinstance(transcript, Diarization):
        return _render_diarization(transcript, format, name)
    try:
        writer = WRITERS[format]
    except (KeyError, TypeError):
        raise OptionError(f"unknown output format {format!r}: choose one of {', '.join(WRITERS)}.") from None
    return writer(transcript)


def write(transcript: Transcript | Diarization, path: str | os.PathLike[str], format: str) -> None:
    """Write ``transcript`` to ``path`` in UTF-8: the whole file or, on ``OutputError``, no change at all.

    RTTM takes the recording's name from the path's: ``meeting`` for ``meeting.rttm``.
    """
    _replace(Path(path), render(transcript, format, name=Path(path).stem))


def _replace(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step, so that nobody ever reads half a file."""
    try:
        if path.exists() and not path.is_file():
            _write_special(path, text)
            return
        target = Path(os.path.realpath(path))  # a link keeps pointing to what it points to
        temporary = target.with_name(
            f".{secrets.token_hex(8)}.tmp"
        )  # short: the name itself may be 255 bytes
        try:
            with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.replace(temporary, target)
        except BaseException:  # Ctrl-C too must leave no litter
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:  # ValueError: text that UTF-8 cannot hold, a NUL in the path
        raise OutputError(
            f"{path}: could not be written ({error}); "
            "check that its folder exists, is writable and has space, and that it is no folder itself."
        ) from error


def _write_special(path: Path, text: str) -> None:
    """Write through a device or pipe such as ``/dev/stdout``: replacing it would destroy it."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _txt(transcript: Transcript) -> str:
    """One line a segment."""
    lines = (_one_line(segment.text) for segment in transcript.segments)
    return "".join(f"{line}\n" for line in lines if line)


def _srt(transcript: Transcript) -> str:
    """SubRip. It knows no escapes, so an arrow in the text is shortened."""
    return "\n".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{re.sub('-+->', '->', text)}\n"
        for number, (start, end, text) in enumerate(_cues(transcript), 1)
    )


def _vtt(transcript: Transcript) -> str:
    """WebVTT."""
    cues = (
        f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{_vtt_text(text)}\n"
        for start, end, text in _cues(transcript)
    )
    return "WEBVTT\n" + "".join(cues)


def _tsv(transcript: Transcript) -> str:
    """Start, end (milliseconds, as decoded: they may overlap) and text, as openai-whisper writes them."""
    rows = ((_milliseconds(s.start), _milliseconds(s.end), _one_line(s.text)) for s in transcript.segments)
    return "start\tend\ttext\n" + "".join(f"{start}\t{end}\t{text}\n" for start, end, text in rows if text)


def _json(transcript: Transcript) -> str:
    """All that is known but the tokens, under WhisperX's names. A value that is not finite is ``null``."""
    value = {
        "language": transcript.language,
        "duration": _rounded(transcript.duration, 3),
        "text": transcript.text,
        "segments": [_json_segment(i, segment) for i, segment in enumerate(transcript.segments)],
        "speech": [{"start": _rounded(s.start, 3), "end": _rounded(s.end, 3)} for s in transcript.speech],
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _json_segment(index: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": index,
        "start": _rounded(segment.start, 3),
        "end": _rounded(segment.end, 3),
        "text": segment.text,
        "avg_logprob": _rounded(segment.avg_logprob, 4),
        "no_speech_prob": _rounded(segment.no_speech_prob, 4),
        "compression_ratio": _rounded(segment.compression_ratio, 4),
        "temperature": _rounded(segment.temperature, 4),
        "language": segment.language,
        "words": [_json_word(word) for word in segment.words],
    }


def _json_word(word: Word) -> dict[str, Any]:
    return {
        "word": word.text,
        "start": _rounded(word.start, 3),
        "end": _rounded(word.end, 3),
        "score": _rounded(word.probability, 4),
    }


def _rounded(value: float, digits: int) -> float | None:
    """A number that JSON can hold: NumPy scalars become plain, NaN and infinities ``None``."""
    value = float(value)
    return round(value, digits) if math.isfinite(value) else None


def _cues(transcript: Transcript) -> list[Cue]:
    """Subtitles in time order that never overlap and last at least 1 ms. Segments without text are left out.

    A cue ends where the next one starts; of two that start together, the second waits for the first.
    """
    cues: list[Cue] = []
    for start, end, text in sorted(_raw_cues(transcript), key=lambda cue: cue[0]):
        if cues:
            before, until, said = cues[-1]
            if start > before:
                cues[-1] = (before, min(until, start), said)
            else:
                start = until
        cues.append((start, max(end, start + 1), text))
    return cues


def _raw_cues(transcript: Transcript) -> list[Cue]:
    cues = ((_milliseconds(s.start), _milliseconds(s.end), _lines(s.text)) for s in transcript.segments)
    return [(start, max(end, start + 1), text) for start, end, text in cues if text]


def _milliseconds(seconds: float) -> int:
    """Rounded once, from 0 on."""
    if not math.isfinite(seconds):
        raise OutputError(f"a segment's time is {seconds}: times must be finite to be written.")
    return max(0, round(float(seconds) * 1000))


def _clock(milliseconds: int, point: str) -> str:
    """``HH:MM:SS,mmm`` with ``point`` in place of the comma."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{milliseconds:03d}"


def _lines(text: str) -> str:
    """Text without blank lines, which would end a cue, and without NUL, which no format may hold."""
    lines = (line.strip() for line in text.replace("\0", "").splitlines())
    return "\n".join(line for line in lines if line)


def _one_line(text: str) -> str:
    """Text in one line, every run of blanks a single space."""
    return " ".join(text.replace("\0", "").split())


def _vtt_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": _txt,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
}
"""Each format's name, which is its file extension too, and what renders it."""


def _render_diarization(diarization: Diarization, format: str, name: str) -> str:
    writer = DIARIZATION_WRITERS.get(format) if isinstance(format, str) else None
    if writer is None:
        raise OptionError(
            f"unknown diarization format {format!r}: choose one of {', '.join(DIARIZATION_WRITERS)}."
        )
    return writer(diarization, name)


def _rttm(diarization: Diarization, name: str) -> str:
    """NIST's Rich Transcription Time Marked, the turns with their overlaps. Names must hold no blanks."""
    file = "_".join(name.split()) or "recording"
    return "".join(
        f"SPEAKER {file} 1 {t.start:.3f} {t.end - t.start:.3f} <NA> <NA> {'_'.join(t.speaker.split())} "
        "<NA> <NA>\n"
        for t in diarization.turns
    )


def _diarization_json(diarization: Diarization, name: str) -> str:
    """All but the frames' posteriors; a speaker's embedding is 256 numbers."""
    value = {
        "recording": name,
        "duration": _rounded(diarization.duration, 3),
        "speakers": list(diarization.speakers),
        "turns": [_json_turn(t) for t in diarization.turns],
        "exclusive_turns": [_json_turn(t) for t in diarization.exclusive_turns],
        "embeddings": {
            speaker: [_rounded(x, 6) for x in row]
            for speaker, row in zip(diarization.speakers, diarization.embeddings, strict=True)
        },
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _json_turn(turn: Turn) -> dict[str, Any]:
    return {"start": _rounded(turn.start, 3), "end": _rounded(turn.end, 3), "speaker": turn.speaker}


DIARIZATION_WRITERS: dict[str, Callable[[Diarization, str], str]] = {
    "rttm": _rttm,
    "json": _diarization_json,
}
"""The same of a diarization; called with the recording's name too."""

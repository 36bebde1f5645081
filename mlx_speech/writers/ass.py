"""Advanced SubStation Alpha, the one format here with colours: a style a speaker, words as karaoke."""

from __future__ import annotations

from mlx_speech.types import Transcript
from mlx_speech.writers.cues import Cue, cues
from mlx_speech.writers.options import Target
from mlx_speech.writers.palette import PALETTE
from mlx_speech.writers.words import one_line

_HEAD = """\
[Script Info]
Title: {title}
ScriptType: v4.00+
WrapStyle: 0
ScaledBorderAndShadow: yes
PlayResX: 1280
PlayResY: 720

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding
"""
_EVENTS = """
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
_WHITE = "&H00FFFFFF"
# no escape for braces is known to every player: their full-width twins look the same and mean nothing
_ESCAPES = str.maketrans({"{": "｛", "}": "｝", "\\": "\\\N{WORD JOINER}", "\n": r"\N"})


def ass(transcript: Transcript, target: Target) -> str:
    """Speakers have a style and a name each; a highlighted word takes their colour as it is said."""
    found = cues(transcript, target.options)
    speakers = {s: _name(s) for s in dict.fromkeys(c.speaker for c in found if c.speaker)}
    styles = [_style("Default", PALETTE[0], target.options.highlight_words)] + [
        _style(name, PALETTE[n % len(PALETTE)], True) for n, name in enumerate(speakers.values())
    ]
    events = (
        f"Dialogue: 0,{_clock(cue.start)},{_clock(cue.end)},{name or 'Default'},{name},0,0,0,,"
        f"{_karaoke(cue) if target.options.highlight_words else cue.text.translate(_ESCAPES)}\n"
        for cue in found
        for name in [speakers.get(cue.speaker or "", "")]
    )
    return _HEAD.format(title=one_line(target.name)) + "".join(styles) + _EVENTS + "".join(events)


def _style(name: str, colour: str, coloured: bool) -> str:
    red, green, blue = colour[1:3], colour[3:5], colour[5:7]
    primary = f"&H00{blue}{green}{red}".upper() if coloured else _WHITE
    return (
        f"Style: {name},Arial,44,{primary},{_WHITE},&H00000000,&H80000000,"
        "0,0,0,0,100,100,0,0,1,2.5,0.5,2,60,60,48,1\n"
    )


def _name(speaker: str) -> str:
    """A speaker as a field: commas separate fields, and a leading ``*`` has a meaning."""
    return one_line(speaker).replace(",", ";").lstrip("*") or "speaker"


def _karaoke(cue: Cue) -> str:
    """A syllable tag with its centiseconds before each word; pauses are syllables without text."""
    found, at = "", _centiseconds(cue.start)
    for word in cue.words:
        start, end = _centiseconds(word.start), _centiseconds(word.end)
        pause = f"{{\\k{start - at}}}" if start > at else ""
        found += (
            f"{pause}{word.before.translate(_ESCAPES)}{{\\k{end - start}}}{word.text.translate(_ESCAPES)}"
        )
        at = end
    return found


def _centiseconds(milliseconds: int) -> int:
    return (milliseconds + 5) // 10


def _clock(milliseconds: int) -> str:
    seconds, hundredths = divmod(_centiseconds(milliseconds), 100)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{hundredths:02d}"

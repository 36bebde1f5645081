"""How results are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_speech.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """What a reader gets to see, as far as the format leaves a choice.

    Without the first three each segment is a subtitle of its own. ``max_line_width`` is the characters that
    a line of subtitles holds; a longer word stands alone, and a speaker's label before it is not counted.
    ``max_words_per_line`` is its words; without ``max_line_count`` each such line is a subtitle.
    ``max_line_count`` is the lines that a subtitle holds: with ``max_line_width`` the text then flows over
    the ends of segments, though never over a change of speaker or 3 seconds without a word.

    ``highlight_words`` shows which word is being said: underlined in SRT, as time tags in WebVTT, as
    karaoke in ASS. ``speaker_labels`` says who speaks, where that is known. ``embed_audio`` puts the
    recording into the HTML page, which then needs no other file and is larger by 4/3 of it.

    Raises:
        OptionError: a limit is below 1.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None
    highlight_words: bool = False
    speaker_labels: bool = True
    embed_audio: bool = False

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_line_count", "max_words_per_line"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}: a line or subtitle holds at least 1, or None for any.")
        if self.max_line_count and not (self.max_line_width or self.max_words_per_line):
            raise OptionError(
                "max_line_count says nothing without a line's length: give max_line_width or max_words_per_line."
            )

    @property
    def breaks_lines(self) -> bool:
        """Whether subtitles are something else than segments."""
        return bool(self.max_line_width or self.max_words_per_line)


@dataclass(frozen=True, slots=True)
class Target:
    """What a writer knows beside the transcript: the recording's name and file, and where the result goes."""

    name: str
    options: WriteOptions
    audio: Path | None = None
    folder: Path = Path()

"""How commands take formats and the choices within them, and write their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from mlx_speech.cli.groups import takes
from mlx_speech.errors import OptionError
from mlx_speech.types import Transcript
from mlx_speech.writers import WRITERS, WriteOptions, formats_for, write
from mlx_speech.writers.files import check_folder, check_free

ALL = "all"
DEFAULT_FORMATS = "txt,json,srt,vtt,html"
"""What people read, what programs read, what players show, and the page to check it all in."""
_PANEL = "Output"

Formats = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        "--output-format",
        help=f"Comma-separated: {', '.join(WRITERS)}; or {ALL}, which are those the result has the data for.",
    ),
]

_CHOICES = {
    "max_line_width": Annotated[
        int | None,
        typer.Option(
            help="Characters in a line of subtitles; one segment a line else.", rich_help_panel=_PANEL
        ),
    ],
    "max_line_count": Annotated[
        int | None,
        typer.Option(
            help="Lines in a subtitle; with a width, text flows over segments.", rich_help_panel=_PANEL
        ),
    ],
    "max_words_per_line": Annotated[
        int | None, typer.Option(help="Words in a line of subtitles.", rich_help_panel=_PANEL)
    ],
    "highlight_words": Annotated[
        bool,
        typer.Option(
            "--highlight-words",
            help="Show which word is said: underlined in srt, timed in vtt, karaoke in ass.",
            rich_help_panel=_PANEL,
        ),
    ],
    "speaker_labels": Annotated[
        bool,
        typer.Option(
            "--speaker-labels/--no-speaker-labels",
            help="Say who speaks in texts and subtitles, where known; by default yes.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ],
    "embed_audio": Annotated[
        bool,
        typer.Option(
            "--embed-audio",
            help="Put the recording into the html page, which then plays anywhere.",
            rich_help_panel=_PANEL,
        ),
    ],
}
"""One for each field of :class:`WriteOptions`, with its name and default."""


takes_write_options = takes(
    "how",
    {name: (kind, getattr(WriteOptions(), name)) for name, kind in _CHOICES.items()},
    lambda given: WriteOptions(**given),
)
"""Gives a command the options of ``_CHOICES``; it gets them as one :class:`WriteOptions`, its ``how``."""


def parse_formats(text: str, writers: Mapping[str, object] = WRITERS) -> list[str]:
    """The formats of a comma-separated list, in any case; a transcript's ``all`` waits for the transcript.

    Raises:
        OptionError: it is empty or names a format that ``writers`` lacks.
    """
    known = {name.lower(): name for name in [*writers, ALL]}
    given = list(dict.fromkeys(n.strip().lower() for n in text.split(",") if n.strip()))
    if not given or not known.keys() >= set(given):
        raise OptionError(f"--format {text!r}: choose from {', '.join(writers)}, or {ALL}")
    if ALL in given:
        return [ALL] if writers is WRITERS else list(writers)
    return [known[n] for n in given]


def check_formats(formats: list[str], *, words: bool, speakers: bool) -> None:
    """Refuse a format before any work that the transcript will lack something for.

    Raises:
        OptionError: names the format, and the option that is missing.
    """
    for name in formats:
        needs = WRITERS[name].needs if name in WRITERS else None
        if needs == "speakers" and not speakers:
            raise OptionError(f"--format {name} is made of speakers' turns: add --diarize")
        if needs == "words" and not words:
            raise OptionError(f"--format {name} is made of words' times: leave out --no-words")


def check_output(folder: Path, targets: Iterable[Path], formats: list[str]) -> None:
    """See that results can be put where they should be, before any work; nothing is made.

    Args:
        folder: where they go.
        targets: each recording's path there, without its ending.
        formats: from :func:`parse_formats`.

    Raises:
        OutputError: the folder takes no files, or a result's name is a folder's.
    """
    check_folder(folder)
    names = list(WRITERS) if formats == [ALL] else formats
    check_free(Path(f"{target}.{name}") for target in targets for name in names)


def write_all(
    transcript: Transcript, target: Path, formats: list[str], how: WriteOptions, audio: Path | None = None
) -> list[str]:
    """Write ``target.txt`` and so on; answers the formats written.

    Raises:
        OptionError: the transcript lacks what a format is made of.
        OutputError: a file could not be written.
    """
    names = formats_for(transcript) if formats == [ALL] else formats
    for name in names:
        write(transcript, Path(f"{target}.{name}"), name, how, audio=audio)
    return names

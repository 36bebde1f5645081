"""Options that several commands share, and what is read from their text."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mlx_speech.audio import checked_path
from mlx_speech.cli.console import FAILED, complain_of
from mlx_speech.errors import AudioError, OptionError
from mlx_speech.memory import limit_memory


class Dtype(str, Enum):
    """What Whisper computes in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def standard_input(name: str) -> Path:
    """A recording's path; ``-`` is what comes through a pipe."""
    return Path("/dev/stdin" if name == "-" else name)


Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="AUDIO",
        help="Recordings in any audio or video format; - is standard input.",
        parser=standard_input,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A Whisper: an alias ('mlx-speech models'), hub:org/name, or a folder."
    ),
]
Dir = Annotated[Path, typer.Option("--output-dir", "-o", help="Where the results go.")]
Language = Annotated[
    str | None,
    typer.Option("--language", "-l", help="Spoken language, code or name; detected by default."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        callback=lambda limit: limit_memory(limit),
        help="What the process may take, such as 4GB: batches become smaller for it.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Also print each stage's time and memory, and how sure each segment is."
    ),
]
PrintProgress = Annotated[
    bool,
    typer.Option("--print-progress", help="Print progress in lines where there is no terminal for a bar."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print neither text nor progress.")]


Identify = Annotated[
    bool,
    typer.Option(
        "--identify",
        help="Name the people whose voices are known ('mlx-speech speakers').",
        rich_help_panel="Speakers",
    ),
]
IdentifyThreshold = Annotated[
    float,
    typer.Option(
        help="Cosine from which two voices are one person's; higher leaves more people unnamed.",
        rich_help_panel="Speakers",
    ),
]


def there_is_one(files: list[Path]) -> None:
    """Load no models, and download none, for nothing: if none of the files is there, name them and exit."""
    wrong: list[tuple[Path, AudioError]] = []
    for file in files:
        try:
            checked_path(file)
            return
        except AudioError as error:
            wrong.append((file, error))
    for file, problem in wrong:
        complain_of(file, problem)
    raise typer.Exit(FAILED)


def targets_for(files: list[Path], folder: Path) -> dict[Path, Path]:
    """Each file's output path without its ending; files of one name keep theirs, so none is overwritten.

    Names that differ in capitals only are one: many a file system takes them for the same.

    Raises:
        OptionError: several recordings would get the same.
    """
    once = list(dict.fromkeys(files))
    stems = Counter(f.stem.casefold() for f in once)
    targets = {f: folder / (f.stem if stems[f.stem.casefold()] == 1 else f.name) for f in once}
    places = Counter(str(t).casefold() for t in targets.values())
    same = [str(f) for f, target in targets.items() if places[str(target).casefold()] > 1]
    if same:
        raise OptionError(
            f"several recordings share one file name: {', '.join(same)}; put their results into different folders "
            "(--output-dir)"
        )
    return targets

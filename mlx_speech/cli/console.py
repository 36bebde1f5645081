"""The application object, its consoles and progress bars, and how errors are told."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

import mlx_speech
from mlx_speech import interrupt
from mlx_speech.cli.misspelt import Application
from mlx_speech.cli.spellings import translated
from mlx_speech.errors import MLXSpeechError, OptionError
from mlx_speech.pipeline import Progress

app = Application(
    help="Who said what, when: speech recognition in pure MLX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())  # in a log, one line each
out = Console(highlight=False, soft_wrap=True)

STAGES = {
    "read": "reading",
    "speech": "finding speech",
    "transcribe": "transcribing",
    "align": "aligning",
    "redo": "decoding doubtful windows again",
    "segment": "finding turns",
    "embed": "hearing voices",
    "cluster": "telling voices apart",
    "speakers": "telling who speaks",
}
FAILED = 1
MISUSED = 2
SUSPICIOUS = 3
INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Who said what, when: speech recognition in pure MLX."""
    if version:
        out.print(mlx_speech.__version__)
        raise typer.Exit


@contextmanager
def progress(name: str, quiet: bool, *, lines: bool = False) -> Iterator[Progress | None]:
    """A bar on the error stream where that is a terminal; elsewhere, with ``lines``, ten lines a stage."""
    if quiet or not errors.is_terminal:
        yield _lines(name) if lines and not quiet else None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(name)
        before = ""

        def report(stage: str, done: float, total: float) -> None:
            nonlocal before
            if stage != before:  # each has a speed of its own, which the time left follows from
                bar.reset(task, total=total or 1.0, description=f"{name}: {STAGES[stage]}")
                before = stage
            bar.update(task, completed=done, total=total or 1.0)

        yield report


def _lines(name: str) -> Progress:
    said: set[tuple[str, int]] = set()

    def report(stage: str, done: float, total: float) -> None:
        tenth = int(10 * done / total) if total else 0
        if (stage, tenth) not in said:
            said.add((stage, tenth))
            errors.print(f"{name}: {STAGES[stage]} {10 * tenth} %", markup=False)

    return report


def told_to(*listeners: Progress | None) -> Progress:
    """Progress that is passed on to all who want it."""

    def report(stage: str, done: float, total: float) -> None:
        for listener in listeners:
            if listener:
                listener(stage, done, total)

    return report


def complain(message: str) -> None:
    """Print an error in one line."""
    errors.print(Text.assemble(("error: ", "red"), message))


def complain_of(file: Path, error: Exception) -> None:
    """The same about a file, which the message may name itself."""
    message = str(error)
    complain(message if message.startswith(str(file)) else f"{file}: {message}")


def clock(seconds: float) -> str:
    """``MM:SS.ss``, with the hours before it where there are any."""
    minutes, rest = divmod(max(seconds, 0.0), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:d}:{minutes:02d}:{rest:05.2f}" if hours else f"{minutes:02d}:{rest:05.2f}"


def count(number: int, thing: str) -> str:
    """``1 word``, ``2 words``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def run(application: typer.Typer) -> None:
    """Run a command; what this library raises on purpose is told in one line, not as a traceback."""
    interrupt.leave()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # a locale without arrows, a file name that is no text
            stream.reconfigure(errors="backslashreplace")
    if {"-h", "--help"} & set(sys.argv):
        _show_whole_names()
    try:
        application(translated(sys.argv[1:]))
    except KeyboardInterrupt:  # while the command line is being read
        errors.print("interrupted")
        sys.exit(INTERRUPTED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer's, of Ctrl-C
            errors.print("interrupted")
        raise
    except OptionError as error:
        complain(str(error))
        sys.exit(MISUSED)
    except MLXSpeechError as error:
        complain(str(error))
        sys.exit(FAILED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        complain(f"{error.strerror}: standard output, or a temporary file (TMPDIR), has no room")
        sys.exit(FAILED)


def _show_whole_names() -> None:
    """Have --help fold an option's name that a narrow terminal has no room for, where typer cuts it off."""
    from typer import rich_utils

    for name in ("highlighter", "negative_highlighter"):
        plain = getattr(rich_utils, name, None)
        if plain is not None:
            setattr(rich_utils, name, partial(_folded, plain))


def _folded(highlighter: Callable[[str], Text], name: str) -> Text:
    text = highlighter(name)
    text.overflow = "fold"
    return text


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    errors.print(Text.assemble(("warning: ", "yellow"), str(message)))

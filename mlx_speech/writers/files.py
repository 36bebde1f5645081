"""Results on the disk: whole files, in folders that take them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_speech.atomic import write_atomically
from mlx_speech.errors import OutputError


def replace_file(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step, in UTF-8, so that nobody ever reads half a file.

    Raises:
        OutputError: it could not be written; what was there before is still there.
    """
    try:
        if path.exists() and not path.is_file():
            _write_special(path, text)
            return
        write_atomically(path, text.encode("utf-8"))
    except (OSError, ValueError) as error:  # ValueError: text that UTF-8 cannot hold, a NUL in the path
        raise OutputError(
            f"{path}: could not be written ({error}); "
            "check that its folder exists, is writable and has space, and that it is no folder itself."
        ) from error


def check_folder(folder: Path) -> None:
    """Try whether files can be put into a folder, or into what would be made for it, and leave nothing there.

    Raises:
        OutputError: they cannot.
    """
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if place.is_file():
        raise OutputError(f"{folder}: results cannot be written there ({place} is a file); name a folder.")
    with _trying(folder):
        probe = place / f".{secrets.token_hex(8)}.tmp"
        probe.touch()
        probe.unlink()


def check_free(paths: Iterable[Path]) -> None:
    """See that no folder has the name of a file to be written.

    Raises:
        OutputError: one has.
    """
    for path in paths:
        if path.is_dir():
            raise OutputError(
                f"{path}: a folder has this result's name; move it away or take another folder."
            )


def prepare_folder(folder: Path) -> None:
    """Make a folder that files can be put into.

    Raises:
        OutputError: they cannot.
    """
    with _trying(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)


@contextmanager
def _trying(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{folder}: results cannot be written there ({error}); make it writable or take another folder."
        ) from error


def _write_special(path: Path, text: str) -> None:
    """Write through a device or pipe such as ``/dev/stdout``: replacing it would destroy it."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)

"""Results on the disk: whole files, in folders that take them."""

from __future__ import annotations

import secrets
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


def prepare_folder(folder: Path) -> None:
    """Make a folder, and try whether files can be put there before work is done for them.

    Raises:
        OutputError: they cannot.
    """
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{folder}: results cannot be written there ({error}); make it writable or take another folder."
        ) from error


def _write_special(path: Path, text: str) -> None:
    """Write through a device or pipe such as ``/dev/stdout``: replacing it would destroy it."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)

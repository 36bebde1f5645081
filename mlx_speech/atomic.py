"""Files that are there whole, or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666, lasting: bool = False) -> None:
    """Put data at a path in one step: nobody reads half a file, and a failure leaves what was there before.

    A link keeps pointing to what it points to.

    Args:
        path: where to.
        data: all of the file.
        mode: its permissions, less those that the process's umask takes away.
        lasting: whether it is to be on the disk, for a power failure, before it takes the old one's place.

    Raises:
        OSError: it could not be written.
        ValueError: the path holds a NUL.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")  # short: the name itself may be 255 bytes
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C too must leave no litter
        temporary.unlink(missing_ok=True)
        raise

"""Ctrl-C while a command is being imported ends it in a line, not in a traceback."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import PurePath
from typing import NoReturn

COMMANDS = ("mlx-speech", "mlx-convert")
_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def watch() -> None:
    """From now on, where this process is one of our commands; not where a shell has it ignore Ctrl-C."""
    command = PurePath(sys.argv[0]).name.removesuffix(".exe") if sys.argv else ""
    if command in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def leave() -> None:
    """Let Ctrl-C be an exception again: what has begun tidies up behind itself."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(*_: object) -> NoReturn:
    """End at once: of an exception, some imports make another one, or none."""
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)

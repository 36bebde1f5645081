"""Where the commands begin. Ctrl-C while they are being imported ends them in a line, not in a traceback.

Outside of the package, since most of that second goes by while the package itself is imported.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module
from typing import NoReturn

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def speech() -> None:
    """Entry point of ``mlx-speech``."""
    _start("mlx_speech.cli")


def convert() -> None:
    """Entry point of ``mlx-convert``."""
    _start("mlx_speech.converters.cli")


def _start(module: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell has the command ignore it
        signal.signal(signal.SIGINT, _stop)
    main = import_module(module).main
    signal.signal(signal.SIGINT, before)
    main()


def _stop(*_: object) -> NoReturn:
    """End at once: of an exception, some imports make another one, or none."""
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)

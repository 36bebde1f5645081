"""What the parts of the pipeline share: its inputs, its progress, and the kinds of its models."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_speech.errors import OptionError
from mlx_speech.memory import tidy
from mlx_speech.spool import forget

AudioLike = str | os.PathLike[str] | Any
"""A path, an open binary file, or (T,) floating-point samples at 16 kHz within [-1, 1]: a numpy or an MLX array."""

Progress = Callable[[str, float, float], None]
"""Told a stage's name, and the seconds done and to do in it."""


def unheard(stage: str, done: float, total: float) -> None:
    """Progress that nobody asked for."""


def sparing(samples: np.ndarray, tell: Progress) -> Progress:
    """Progress that gives memory back on the way: what was read of the samples, and what a stage leaves behind."""
    last = ""

    def report(stage: str, done: float, total: float) -> None:
        nonlocal last
        forget(samples)
        if stage != last:
            tidy()
            last = stage
        tell(stage, done, total)

    return report


def expect(model: Any, kind: type[Any] | tuple[type[Any], ...], name: str) -> Any:
    """A loaded model, if it is of the wanted kind, or of one of them.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(model, kind):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise OptionError(f"{name!r} is a {type(model).__name__}, where a {wanted} is wanted")
    return model

"""One pass over memory on a Linux CPU: the same functions as loops that numba turns into vector code.

MLX's Linux CPU backend walks over memory once for each operation and has no vector code for ``exp``. A loop
compiled for the machine's own vectors does a GELU or a softmax ten times as fast. numba comes with the ``cpu``
extra; without it, and everywhere else, :func:`kernels` is ``None`` and its callers compose MLX's operations.

Arrays are shared, not copied: numpy's views of an evaluated array and of a fresh one. So whoever calls waits
for the array, which costs a CPU nothing; loops let go of Python's lock.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import mlx.core as mx
import numpy as np

from mlx_speech import runtime


def slow_functions() -> bool:
    """Whether the default device is a CPU whose MLX backend lacks vector code for ``exp`` and its like."""
    return sys.platform.startswith("linux") and runtime.on_cpu()


def kernels() -> ModuleType | None:
    """:mod:`mlx_speech.layers._loops` where the default device is a Linux CPU and numba is installed."""
    return _loops() if slow_functions() else None


def decoding() -> ModuleType | None:
    """:mod:`mlx_speech.layers._decoding`, under the same conditions."""
    return _compiled("_decoding") if kernels() else None


def _loops() -> ModuleType | None:
    return _compiled("_loops")


@functools.cache
def _compiled(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"mlx_speech.layers.{name}")
    except ImportError:  # not installed, or for another numpy than the one that is
        return None


def view(x: mx.array) -> np.ndarray:
    """An evaluated array's own memory where it is contiguous, else a copy in order."""
    mx.eval(x)  # unlike numpy's conversion, lets go of Python's lock
    return np.ascontiguousarray(np.asarray(x))


def fresh(*shape: int) -> tuple[mx.array, np.ndarray]:
    """A float32 array for a loop to fill, and its memory."""
    x = mx.zeros(shape)
    mx.eval(x)
    return x, np.asarray(x)

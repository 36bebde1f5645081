"""Device and dtype policy, MLX's memory cache, and on Linux a BLAS worth the name.

MLX's Linux CPU wheel links the reference BLAS. A shared library that defines the same symbols and is loaded
first, globally, takes its calls over, so :func:`load_blas` must run before ``mlx.core`` is imported:
``mlx_speech/__init__.py`` sees to that. This module must not import mlx at its top for the same reason.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlx_speech.errors import MLXSpeechError, OptionError
from mlx_speech.memory import cache_limit

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

K = TypeVar("K")

BLAS_VARIABLE = "MLX_SPEECH_BLAS"
LSTM_VARIABLE = "MLX_SPEECH_LSTM"

_SYSTEM_LIBRARIES = ("libopenblas.so.0", "libmkl_rt.so.2", "libblis.so.4")
# wheels that carry an OpenBLAS under its plain names, and the files to load in order
_WHEELS = {
    "faiss-cpu": ("libquadmath", "libgfortran", "libgomp", "libopenblas"),
    "ngsolve-openblas": ("libopenblas",),
}


class SlowBLASWarning(UserWarning):
    """Only the reference BLAS is there: everything works, 50 to 90 times slower than it could."""


class SlowRecurrenceWarning(UserWarning):
    """The GPU's kernel for LSTMs does not work here: everything works, recurrences some 20 times slower."""


@dataclass(frozen=True)
class Blas:
    """Which BLAS serves MLX on the CPU: its name, and whether it is an optimised one."""

    name: str
    optimised: bool


def load_blas() -> Blas:
    """Load an optimised BLAS ahead of MLX, on Linux; elsewhere MLX brings its own.

    ``MLX_SPEECH_BLAS`` names a shared library to load instead, or ``none`` to load nothing. Otherwise the
    system's OpenBLAS, MKL or BLIS is taken, then an installed wheel's.

    Raises:
        MLXSpeechError: the library that the variable names cannot be loaded.
    """
    wanted = os.environ.get(BLAS_VARIABLE, "")
    if not sys.platform.startswith("linux"):
        return Blas("Accelerate" if sys.platform == "darwin" else "MLX's own", True)
    if wanted == "none":
        return Blas("MLX's own", False)
    if "mlx.core" in sys.modules:
        return Blas("MLX's own (mlx was imported before mlx_speech)", False)
    if wanted:
        if not _try_load([wanted]):
            raise MLXSpeechError(
                f"{BLAS_VARIABLE}={wanted}: cannot be loaded; give a shared library's path or 'none'"
            )
        return Blas(wanted, True)
    for files in _candidates():
        if _try_load(files):
            return Blas(files[-1], True)
    return Blas("MLX's own", False)


def _candidates() -> Iterator[list[str]]:
    for name in _SYSTEM_LIBRARIES:
        yield [name]
    for distribution, prefixes in _WHEELS.items():
        try:
            files = [f for f in importlib.metadata.files(distribution) or [] if ".so" in f.name]
        except importlib.metadata.PackageNotFoundError:
            continue
        chosen = [str(f.locate()) for p in prefixes for f in files if f.name.startswith(p)]
        if chosen and Path(chosen[-1]).name.startswith("libopenblas"):
            yield chosen


def _try_load(files: list[str]) -> bool:
    try:
        handles = [ctypes.CDLL(f, mode=ctypes.RTLD_GLOBAL) for f in files]
    except OSError:
        return False
    return hasattr(handles[-1], "cblas_sgemm")


_status: Blas | None = None
_warned = False


def start() -> Blas:
    """Load the BLAS once; called when ``mlx_speech`` is imported."""
    global _status
    if _status is None:
        _status = load_blas()
    return _status


def prepare() -> None:
    """Bound MLX's cache of freed buffers and warn once of a slow BLAS; called before a model is loaded.

    ``MLX_SPEECH_CACHE_LIMIT`` sets the bound in bytes.

    Raises:
        OptionError: the variable is not a whole number.
    """
    global _warned
    import mlx.core as mx

    mx.set_cache_limit(cache_limit())
    if not start().optimised and on_cpu() and not _warned and os.environ.get(BLAS_VARIABLE) != "none":
        _warned = True
        warnings.warn(
            f"matrix products run on {start().name} reference BLAS, 50 to 90 times slower than OpenBLAS. "
            "Remedy: pip install 'mlx-speech-pipeline[cpu]' or apt install libopenblas0-pthread, and import "
            f"mlx_speech before mlx. {BLAS_VARIABLE}=none silences this.",
            SlowBLASWarning,
            stacklevel=3,
        )


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have products evaluated in here run on one thread each, where an OpenBLAS serves MLX.

    Thousands of small products wait for their threads longer than they compute: a convolution by tiles is
    several times slower with two threads than with one as soon as a core has other work.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "openblas_get_num_threads"):
        yield
        return
    before = library.openblas_get_num_threads()
    library.openblas_set_num_threads(1)
    try:
        yield
    finally:
        library.openblas_set_num_threads(before)


def on_cpu() -> bool:
    """Whether MLX's default device is the CPU."""
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.cpu


def on_host(named: Iterable[tuple[K, mx.array]]) -> Iterator[tuple[K, np.ndarray]]:
    """Arrays as numpy's, each with its name; a GPU computes the next one while the host has to do with this one."""
    import mlx.core as mx
    import numpy as np

    waiting: list[tuple[K, mx.array]] = []
    for name, array in named:
        mx.async_eval(array)
        waiting.append((name, array))
        if len(waiting) > (0 if on_cpu() else 1):
            first, ready = waiting.pop(0)
            yield first, np.array(ready)
    for name, array in waiting:
        yield name, np.array(array)


def plain_recurrence() -> bool:
    """Whether ``MLX_SPEECH_LSTM=plain`` forbids the GPU's kernel for LSTMs.

    Raises:
        OptionError: the variable has another value.
    """
    value = os.environ.get(LSTM_VARIABLE, "")
    if value not in ("", "plain"):
        raise OptionError(f"{LSTM_VARIABLE}={value!r}: set it to 'plain' or not at all")
    return value == "plain"


def gpu_memory() -> int:
    """The GPU's memory in bytes, on a Mac all of the machine's; 0 where MLX does not tell."""
    import mlx.core as mx

    info = mx.device_info()  # Metal and CUDA give it different names
    return int(info.get("memory_size") or info.get("total_memory") or 0)


def resolve_dtype(dtype: str | None, half: bool) -> mx.Dtype:
    """The dtype to compute in.

    Args:
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"``, or ``None`` for the device's best: float16 on a
            GPU for families that bear it, else float32 (half-precision products are slow on CPUs).
        half: whether the model's family bears float16.

    Raises:
        OptionError: another name.
    """
    import mlx.core as mx

    names = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
    if dtype is None:
        return mx.float16 if half and not on_cpu() else mx.float32
    if dtype not in names:
        raise OptionError(f"dtype {dtype!r} is not one of {', '.join(names)}")
    return names[dtype]

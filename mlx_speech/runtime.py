"""Device and dtype policy, MLX's memory cache, and on Linux a BLAS worth the name.

MLX's Linux CPU wheel links the reference BLAS. A shared library that defines the same symbols and is loaded
first, globally, takes its calls over, so :func:`load_blas` must run before ``mlx.core`` is imported:
``mlx_speech/__init__.py`` sees to that. This module must not import mlx at its top for the same reason.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.metadata
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from mlx_speech.errors import MLXSpeechError, OptionError
from mlx_speech.memory import cache_limit, fitting, limited

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

BLAS_VARIABLE = "MLX_SPEECH_BLAS"
CACHE_CHECK_VARIABLE = "MLX_ENABLE_CACHE_THRASHING_CHECK"
LSTM_VARIABLE = "MLX_SPEECH_LSTM"
THREADS_VARIABLE = "MLX_SPEECH_THREADS"

_MOST_THREADS = 8  # windows at once: each needs its memory, and MLX has few tasks in flight over all streams

_Name = TypeVar("_Name")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_thread = threading.local()

_SYSTEM_LIBRARIES = ("libopenblas.so.0", "libmkl_rt.so.2", "libblis.so.4")
# wheels that carry an OpenBLAS under its plain names, and the files to load in order
_WHEELS = {
    "faiss-cpu": ("libquadmath", "libgfortran", "libgomp", "libopenblas"),
    "ngsolve-openblas": ("libopenblas",),
}


class SlowBLASWarning(UserWarning):
    """Only the reference BLAS is there: everything works, 50 to 90 times slower than it could."""


class SlowRecurrenceWarning(UserWarning):
    """A GPU's kernel of ours does not work here: everything works, by slower operations."""


class SlowPlacingWarning(UserWarning):
    """The GPU's kernel for placing letters does not work here: the host places them, the same and slower."""


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
        with _one_thread_each():
            handles = [ctypes.CDLL(f, mode=ctypes.RTLD_GLOBAL) for f in files]
    except OSError:
        return False
    return hasattr(handles[-1], "cblas_sgemm")


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Have a BLAS that is loaded in here run each product on one thread, unless the user's own setting says else.

    It reads the number as it is loaded, so other libraries' is not touched. Cores are shared out by windows of
    audio instead (:func:`spread`): threads of an OpenMP wait for each other in busy loops, and cost more than
    they bring where another stream works beside them.
    """
    names = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    if names & os.environ.keys():
        yield
        return
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


_status: Blas | None = None
_warned = False


def start() -> Blas:
    """Load the BLAS once, ahead of MLX, and set what MLX reads; called when ``mlx_speech`` is imported."""
    global _status
    if _status is None:
        # On CUDA, MLX counts the graphs that it had to make anew in a process's life, and ends it at 800: a server
        # that hears recordings of many lengths gets there. MLX's own tests switch the count off, too
        os.environ.setdefault(CACHE_CHECK_VARIABLE, "0")
        _status = load_blas()
    return _status


def prepare() -> None:
    """Bound MLX's cache, warn once of a slow BLAS, have threads end in time; called before a model is loaded.

    ``MLX_SPEECH_CACHE_LIMIT`` sets the bound in bytes.

    Raises:
        OptionError: the variable is not a whole number.
    """
    global _warned
    import mlx.core as mx

    _end_threads_in_time()
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


def _end_threads_in_time() -> None:
    atexit.unregister(_let_threads_end)  # it is there once
    atexit.register(_let_threads_end)


def _let_threads_end() -> None:
    """Wait until threads that have ended for Python, which can be joined, have ended for the system as well.

    MLX 0.32 keeps what a thread compiled (``nn.relu`` is) until then, and takes Python's lock to drop it. Where
    Python is shutting down by that time, the process is aborted.
    """
    for crew in _crews:
        crew.end()
    tasks = Path("/proc/self/task")  # Linux; elsewhere the least time is waited
    before, same = -1, 0
    for _ in range(100):
        time.sleep(0.005)  # which gives Python's lock away
        now = len(list(tasks.iterdir())) if tasks.is_dir() else before
        same = same + 1 if now == before else 0
        if same >= 3:
            return
        before = now


def on_cpu() -> bool:
    """Whether MLX's default device is the CPU."""
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.cpu


def rounds_products() -> bool:
    """Whether float32 products are rounded to TF32 before: on CUDA, unless ``MLX_ENABLE_TF32=0``."""
    import mlx.core as mx

    return not (on_cpu() or mx.metal.is_available()) and os.environ.get("MLX_ENABLE_TF32", "1") != "0"


def on_host(named: Iterable[tuple[_Name, mx.array]]) -> Iterator[tuple[_Name, np.ndarray]]:
    """Arrays as numpy's, each with its name; a GPU computes the next one while the host has to do with this one.

    Where memory is limited it does not: one at a time has to do with the least.
    """
    import mlx.core as mx
    import numpy as np

    ahead = 0 if on_cpu() or limited() else 1
    waiting: list[tuple[_Name, mx.array]] = []
    for name, array in named:
        mx.async_eval(array)
        waiting.append((name, array))
        if len(waiting) > ahead:
            first, ready = waiting.pop(0)
            yield first, np.array(ready)
    for name, array in waiting:
        yield name, np.array(array)


def cores() -> int:
    """How many windows of audio are worked on at once: this process's cores on a Linux CPU, at most 8; else 1.

    ``MLX_SPEECH_THREADS`` sets another number.

    Raises:
        OptionError: the variable is not a positive whole number.
    """
    if not (sys.platform.startswith("linux") and on_cpu()):
        return 1
    value = os.environ.get(THREADS_VARIABLE, str(min(len(os.sched_getaffinity(0)), _MOST_THREADS)))
    if not value.isdigit() or not int(value):
        raise OptionError(f"{THREADS_VARIABLE}={value!r} is not a positive number of threads")
    return int(value)


def free_cores() -> int:
    """:func:`cores`, or 1 where they are at work already: within :func:`spread`."""
    return 1 if getattr(_thread, "spreads", False) else cores()


def shares(count: int, most: int) -> list[slice]:
    """``count`` windows in slices of at most ``most``, and of no more than keep all :func:`cores` at work."""
    size = max(1, min(most, -(-count // cores())))
    return [slice(n, min(n + size, count)) for n in range(0, count, size)]


def spread(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """``function`` of each item, in order: on a Linux CPU on all :func:`cores` at once, else one by one.

    Each thread has a stream of MLX's to itself. What ``function`` reads must be evaluated, and so must what it
    returns: nothing lazy may cross from thread to thread. The first error ends the work and is raised.
    """
    if min(free_cores(), len(items)) < 2:  # no threads within threads
        return [function(item) for item in items]
    results: dict[int, _Result] = {}
    errors: list[BaseException] = []
    waiting = iter(range(len(items)))  # next() of it is atomic
    # unlike what Python's futures wait with, a queue bears Ctrl-C at any moment
    done: SimpleQueue[int] = SimpleQueue()
    work = partial(_work, function, items, waiting, results, errors, done)
    try:
        crew = _crew(cores(), os.getpid())
        for _ in range(min(cores(), len(items))):
            crew.tasks.put(work)
        left = len(items)
        while left:
            done.get()
            left -= 1
            if errors:
                left -= len(list(waiting))  # nobody takes them any more
    except BaseException:  # Ctrl-C ends the others' work too
        list(waiting)
        raise
    if errors:
        raise errors[0]
    return [results[n] for n in range(len(items))]


def _work(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    waiting: Iterator[int],
    results: dict[int, _Result],
    errors: list[BaseException],
    done: SimpleQueue[int],
) -> None:
    """One thread's part of :func:`spread`: tells of each item that it took."""
    for n in waiting:
        try:
            results[n] = function(items[n])
        except BaseException as error:
            errors.append(error)
        finally:
            done.put(n)


class _Crew:
    """Threads that stay for :func:`spread`: MLX 0.32 never ends what it starts for a thread's stream."""

    def __init__(self, size: int) -> None:
        self.tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(size)]
        for thread in self.threads:
            thread.start()

    def _serve(self) -> None:
        import mlx.core as mx

        _thread.spreads = True
        with mx.stream(mx.new_stream(mx.cpu)):
            while (task := self.tasks.get()) is not None:
                task()
                del task  # and what it holds

    def end(self) -> None:
        """End the threads after what they are at."""
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()


_crews: list[_Crew] = []


@cache
def _crew(size: int, process: int) -> _Crew:
    """The one of that size; a fork of this process begins without."""
    crew = _Crew(size)
    _crews.append(crew)
    _end_threads_in_time()
    return crew


class Team:
    """Threads that share a piece of work: all :func:`cores` of a Linux CPU, or within :func:`spread` one.

    A context: its threads end with it. ``size`` is how many there are, ``pieces`` into how many the work is best
    cut for them.
    """

    def __init__(self) -> None:
        self.size = free_cores()
        self.pieces = 4 * self.size if self.size > 1 else 1
        self._others = ThreadPoolExecutor(self.size - 1) if self.size > 1 else None

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        if self._others:
            self._others.shutdown()

    def run(self, work: Callable[[int], object]) -> None:
        """``work`` of each member's number, the first in this thread: done as soon as that is.

        So ``work`` must return in the first thread only when all is done, whoever did it, and the others, if they
        come late, must find nothing left to do.
        """
        others = [self._others.submit(work, n) for n in range(1, self.size)] if self._others else []
        work(0)
        for other in others:
            if not other.cancel() and other.done():
                other.result()


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


def at_once(item: int, on_a_cpu: int, on_a_gpu: int) -> int:
    """How many items are worked on together where nobody says, within a limit on memory where there is one.

    Args:
        item: bytes that one of them takes.
        on_a_cpu: what suits a CPU.
        on_a_gpu: the most that a GPU gains by; they take a sixteenth of its memory at most.
    """
    memory = 0 if on_cpu() else gpu_memory()
    most = on_a_cpu if on_cpu() else on_a_gpu
    return fitting(item, max(1, min(most, memory // (16 * item))) if memory else most)


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

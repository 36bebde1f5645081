"""Kernels of our own for GPUs: made from one body of source for CUDA and Metal, and tried before they are used."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx


class Dialect(NamedTuple):
    """What one language has before a kernel and at its beginning: macros, and the names of its thread and group."""

    header: str
    start: str


def on_cuda() -> bool:
    """Whether a GPU is CUDA's rather than Metal's."""
    return not mx.metal.is_available()


def processors() -> int:
    """Multiprocessors of CUDA's default device: so many blocks are certain to run at once. 0 without one."""
    return _attribute(16)


def capability() -> int:
    """The first number of the compute capability of CUDA's default device; 0 without one."""
    return _attribute(75)


@functools.cache
def _attribute(which: int) -> int:
    """One of ``CUdevice_attribute``, which MLX does not tell."""
    found = ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        cuda.cuInit(0)
        cuda.cuDeviceGetAttribute(ctypes.byref(found), which, 0)
    except (OSError, AttributeError):
        return 0
    return found.value


def kernel(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    body: str,
    cuda: Dialect,
    metal: Dialect,
    shared_memory: int = 0,
) -> Any:
    """A kernel's launcher, compiled at its first use.

    Args:
        name: what its name begins with.
        inputs: names of what it reads.
        outputs: names of what it writes.
        body: source that both languages share.
        cuda: what surrounds it there.
        metal: the same.
        shared_memory: bytes for each of CUDA's blocks; Metal's source declares them.
    """
    if on_cuda():
        return cuda_kernel(name, inputs, outputs, cuda.start + body, cuda.header, shared_memory)
    name = _named(name, "".join([body, *metal]))
    return mx.fast.metal_kernel(name, inputs, outputs, metal.start + body, metal.header)


def cuda_kernel(
    name: str, inputs: Sequence[str], outputs: Sequence[str], body: str, header: str, shared_memory: int = 0
) -> Any:
    """:func:`kernel` in CUDA alone, from its body and what stands before it."""
    return mx.fast.cuda_kernel(
        _named(name, body + header), inputs, outputs, body, header, shared_memory=shared_memory
    )


def bounded(threads: int) -> str:
    """What tells CUDA's compiler how many threads a block of the kernel will have: MLX has no word for it."""
    return f"#undef __global__\n#define __global__ __attribute__((global)) __launch_bounds__({threads})"


def _named(name: str, source: str) -> str:
    """A kernel's name with its source's digest: MLX keeps compiled kernels on disk by their names alone."""
    return f"{name}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def off(error: float, tolerance: float, of: str = "") -> str:
    """What is wrong with an error, a share ``of`` something; empty if it is within the tolerance. NaN is not."""
    return "" if error <= tolerance else f"it was {error:.1e}{of} off"


def works(check: Callable[[], str], what: str, instead: str, category: type[Warning]) -> bool:
    """Whether a check finds nothing wrong, with a warning if it does.

    Args:
        check: answers what is wrong, or nothing; what MLX raises where it cannot compile or launch is wrong too.
        what: is checked.
        instead: what happens where it does not work.
        category: of the warning.
    """
    try:
        reason = check()
    except (RuntimeError, ValueError) as failure:
        reason = str(failure).strip().splitlines()[-1][:200]
    if reason:
        warnings.warn(f"{what} does not work on this device ({reason}): {instead}", category, stacklevel=3)
    return not reason

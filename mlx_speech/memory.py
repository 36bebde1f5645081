"""A limit on memory: how much is worked on at once, and what MLX keeps for later, follow from it.

The limit is the process's, as MLX's own limits are. What a window takes was measured stage by stage
(parity/bench_memory.py); a recording's length hardly matters, see :mod:`mlx_speech.spool`.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys

from mlx_speech.errors import OptionError

CACHE_VARIABLE = "MLX_SPEECH_CACHE_LIMIT"
MIB = 1 << 20
DEFAULT_CACHE_LIMIT = {"gpu": 1024 * MIB, "cpu": 256 * MIB}
"""Bytes by device: MLX's own default grows with the work until memory is full. More does not speed up a CPU."""
LEAST = 1000 * MIB
"""The least limit: Python, the libraries, small models and one window of each stage."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": MIB, "GI": 1 << 30}
_LIBRARIES = 350 * MIB  # Python and the libraries, measured
_SPARE = 0.6  # of the rest, what windows may take: freed memory stays with the process, in pieces

_limit: int | None = None
_own: int | None = None  # MLX's own limit, to go back to


def limit_memory(limit: int | str | None) -> None:
    """Have the process work within so much memory; batches become smaller for it, down to one window.

    Args:
        limit: bytes, or a text such as ``"4GB"`` or ``"1500 MiB"``; ``None`` for no limit. A large model's weights
            may take more than that by themselves.

    Raises:
        OptionError: it is no amount of memory, or less than one window of each stage needs.
    """
    global _limit, _own
    import mlx.core as mx

    value = None if limit is None else _bytes(limit)
    if value is not None and value < LEAST:
        raise OptionError(f"max_memory {limit!r}: at least {LEAST // MIB} MiB are needed")
    _limit = value
    mx.set_cache_limit(cache_limit())
    if value is not None:
        _give_back_from(_LARGE)
        before = mx.set_memory_limit(value)
        _own = _own or before
    elif _own is not None:
        mx.set_memory_limit(_own)
        _give_back_from(_LARGEST)


def limited() -> bool:
    """Whether :func:`limit_memory` has set a limit."""
    return _limit is not None


def cache_limit() -> int:
    """Bytes that MLX may keep for later; ``MLX_SPEECH_CACHE_LIMIT`` sets them.

    Raises:
        OptionError: the variable is not a whole number.
    """
    import mlx.core as mx

    device = "cpu" if mx.default_device().type == mx.DeviceType.cpu else "gpu"
    value = os.environ.get(CACHE_VARIABLE, str(DEFAULT_CACHE_LIMIT[device]))
    if not value.isdigit():
        raise OptionError(f"{CACHE_VARIABLE}={value!r} is not a number of bytes")
    return int(value) if _limit is None else min(int(value), _limit // 8)


def _bytes(limit: int | str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", str(limit).strip().upper())
    if match is None or match[2] not in _UNITS:
        raise OptionError(f"max_memory {limit!r}: give bytes, or an amount such as 4GB or 1500MiB")
    return int(float(match[1]) * _UNITS[match[2]])


def fitting(item: int, most: int) -> int:
    """How many items are worked on at once, ``most`` or as many as the limit has room for, at least one.

    Args:
        item: bytes that one of them takes.
        most: what suits the device.
    """
    if _limit is None:
        return most
    import mlx.core as mx

    room = (_limit - _LIBRARIES - mx.get_active_memory()) * _SPARE
    return max(1, min(most, int(room // item)))


def tidy() -> None:
    """Give back to the system what a stage has left: MLX's cache, and on Linux the C library's free memory."""
    import mlx.core as mx

    mx.clear_cache()
    if _LINUX is not None:
        _LINUX.malloc_trim(0)


def _give_back_from(size: int) -> None:
    """Have the C library give blocks of that size back as soon as they are free, which costs some speed."""
    if _LINUX is not None:
        _LINUX.mallopt(_M_MMAP_THRESHOLD, size)


_M_MMAP_THRESHOLD, _LARGE = -3, 4 * MIB
_LARGEST = 32 * MIB  # the most that GNU's C library takes, and comes to where large blocks come and go
_LINUX = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
if not hasattr(_LINUX, "malloc_trim"):  # another C library than GNU's
    _LINUX = None

"""NumPy's ``.npz``, as MLX's early converters wrote it: arrays mapped where they lie in the archive."""

from __future__ import annotations

import struct
import tokenize
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from mlx_speech.converters._tensors import Stored, Tensors, damaged
from mlx_speech.converters._torch import member_offsets

_DTYPES = {
    "<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "<i2": "I16", "|i1": "I8",
    "<u4": "U32", "<u2": "U16", "|u1": "U8", "|b1": "BOOL",
}  # fmt: skip
_DAMAGE = (
    zipfile.BadZipFile, struct.error, ArithmeticError, EOFError, LookupError, MemoryError, OSError,
    NotImplementedError, SyntaxError, TypeError, ValueError, tokenize.TokenError, UserWarning,
)  # fmt: skip


def read_npz(path: Path) -> Tensors:
    """Open an archive of arrays; arrays of objects, which are pickles, are refused.

    Raises:
        CheckpointError: a damaged file, or arrays that are compressed or no numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename: i for i in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("a member stands in it twice")
        if not members:
            raise ValueError("it holds no arrays")
        offsets = member_offsets(path, members)
        with path.open("rb") as stream:
            stored = {n.removesuffix(".npy"): _array(path, stream, o) for n, o in offsets.items()}
        return Tensors(path, {k: s.spec(k) for k, s in stored.items()})
    except _DAMAGE as error:
        raise damaged(path, f"not a readable archive of arrays: {error}") from error


def _array(path: Path, stream: BinaryIO, offset: int) -> Stored:
    stream.seek(offset)
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    code = np.dtype(dtype).newbyteorder("=").str if dtype.byteorder == "=" else dtype.str
    if code not in _DTYPES:
        raise ValueError(f"an array of {dtype}")
    strides = None
    if by_columns:
        strides = tuple(int(np.prod(shape[:n], dtype=np.int64)) for n in range(len(shape)))
    return Stored(path, _DTYPES[code], tuple(shape), stream.tell(), strides)

"""Tensors of a foreign file: their shapes and dtypes known beforehand, their numbers read when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech.errors import CheckpointError

MAX_HEADER = 64 << 20  # bytes of metadata beyond which a file is taken for damaged

# numpy has no bfloat16: such data is carried as uint16 and viewed as bfloat16 by MLX
DTYPES: dict[str, tuple[str, mx.Dtype]] = {
    "F64": ("<f8", mx.float32),
    "F32": ("<f4", mx.float32),
    "F16": ("<f2", mx.float16),
    "BF16": ("<u2", mx.bfloat16),
    "I64": ("<i8", mx.int64),
    "I32": ("<i4", mx.int32),
    "I16": ("<i2", mx.int16),
    "I8": ("i1", mx.int8),
    "U32": ("<u4", mx.uint32),
    "U16": ("<u2", mx.uint16),
    "U8": ("u1", mx.uint8),
    "BOOL": ("u1", mx.bool_),
}


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor is, known without reading it, and how to read it.

    ``stored`` is the dtype in the file where that is another: whole numbers that come with their scale.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], mx.array] = field(repr=False)
    stored: str = ""


class Tensors(Mapping[str, mx.array]):
    """Tensors of a checkpoint by key, read from disk on access.

    ``specs`` tells shapes and dtypes without reading; ``extra`` holds what a format carries beside tensors
    (OpenAI's ``dims``, CTranslate2's spec name and revision), ``files`` all files that it is read from.
    """

    def __init__(
        self,
        path: Path,
        specs: Mapping[str, TensorSpec],
        extra: Mapping[str, Any] | None = None,
        files: tuple[Path, ...] = (),
    ) -> None:
        self.path = path
        self.files = files or (path,)
        self.specs = dict(specs)
        self.extra = dict(extra or {})

    def __getitem__(self, key: str) -> mx.array:
        return self.specs[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def outline(self) -> dict[str, mx.array]:
        """Ones in each tensor's shape and dtype, never computed: rules show on them what they will make."""
        return {k: mx.ones(s.shape, DTYPES[s.dtype][1]) for k, s in self.specs.items()}


@dataclass(frozen=True)
class Stored:
    """Where a tensor's bytes lie in a file. Strides are in elements; ``None`` means row-major."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to the last."""
        if 0 in self.shape:
            return 0
        if self.strides is None:
            elements = math.prod(self.shape)
        else:
            elements = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return elements * np.dtype(DTYPES[self.dtype][0]).itemsize

    def read(self) -> mx.array:
        """The tensor, row-major."""
        code, dtype = DTYPES[self.dtype]
        item = np.dtype(code).itemsize
        count = self.nbytes // item
        flat = (
            np.memmap(self.path, np.dtype(code), "r", self.offset, (count,)) if count else np.zeros(0, code)
        )
        if self.strides is not None:
            flat = np.lib.stride_tricks.as_strided(
                flat, self.shape, [s * item for s in self.strides], writeable=False
            )
        array = mx.array(np.ascontiguousarray(flat).reshape(self.shape))
        return array.view(mx.bfloat16) if dtype == mx.bfloat16 else array.astype(dtype)

    def spec(self, key: str) -> TensorSpec:
        """The same as a :class:`TensorSpec`, once it is known to lie inside its file."""
        size = self.path.stat().st_size
        if self.offset < 0 or self.offset + self.nbytes > size:
            raise ValueError(f"tensor {key} ends at byte {self.offset + self.nbytes}, the file at {size}")
        if math.prod(self.shape) > size:  # few bytes, repeated by strides of 0
            raise ValueError(f"tensor {key} of shape {self.shape} has more elements than its file has bytes")
        return TensorSpec(self.dtype, self.shape, self.read)


def damaged(path: Path, why: str) -> CheckpointError:
    """The error for a file that is not what it seems."""
    return CheckpointError(f"{path}: damaged or incomplete ({why}); fetch or convert it again")

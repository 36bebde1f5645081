"""PyTorch's zip archives (``.pt``, ``.bin``, ``.ckpt``, ``.jit``), read without torch and without running code."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_speech.converters._tensors import DTYPES, MAX_HEADER, Stored, Tensors, damaged

_TORCH_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


_DEEPEST = 32  # modules within modules


class _Storage:
    def __init__(self, dtype: str, key: str) -> None:
        self.dtype, self.key = dtype, key


@dataclass
class _Rebuilt:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Rebuilt:
    return _Rebuilt(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


class _Opaque:
    """Stands for an object of a class that is not wanted: takes any arguments and state, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, *_: Any) -> None:
        """Ignore a list item."""

    def extend(self, *_: Any) -> None:
        """Ignore list items."""


class Record:
    """Stands for an object whose plain contents are wanted: keeps its arguments and state, does nothing.

    ``args`` are what its class was called with (an Enum's value), ``state`` its attributes.
    """

    args: tuple[Any, ...]
    state: Mapping[str, Any]

    def __new__(cls, *args: Any, **_: Any) -> Record:
        """Made either by a call or by ``__new__`` alone, as a pickle says."""
        self = super().__new__(cls)
        self.args, self.state = args, {}
        return self

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # (attributes, slots)
            state = {k: v for part in state if isinstance(part, dict) for k, v in part.items()}
        self.state = state if isinstance(state, dict) else {}

    def __repr__(self) -> str:
        return f"Record({self.args}, {self.state})"


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    # what a pyannote checkpoint tells of its task
    ("pyannote.audio.core.task", "Specifications"): Record,
    ("pyannote.audio.core.task", "Problem"): Record,
    ("pyannote.audio.core.task", "Resolution"): Record,
}


class _Unpickler(pickle.Unpickler):
    """Builds plain containers and tensor descriptions; nothing a pickle names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":  # a TorchScript module: its attributes are wanted
            return Record
        if module in ("torch", "torch.storage") and name in _TORCH_STORAGES:
            return _TORCH_STORAGES[name]
        return _ALLOWED.get((module, name), _Opaque)

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, str):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        return _Storage(dtype, str(key))


# what zipfile, zlib, pickle and this reader raise on a file that is not what it seems
_TORCH_DAMAGE = (
    zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, struct.error, ArithmeticError, AttributeError,
    EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def read_torch(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {i.filename: i for i in archive.infolist()}
            pickled = [n for n in entries if n == "data.pkl" or n.endswith("/data.pkl")]
            if len(pickled) != 1:
                raise ValueError("no data.pkl in the archive")
            if entries[pickled[0]].file_size > MAX_HEADER:
                raise ValueError("its data.pkl is too large")
            root = _Unpickler(io.BytesIO(archive.read(pickled[0]))).load()
        prefix = pickled[0][: -len("data.pkl")]
        offsets = member_offsets(path, {n: i for n, i in entries.items() if n.startswith(f"{prefix}data/")})
        flat, extra = _flatten(root)
        specs = {k: _torch_stored(path, v, prefix, offsets).spec(k) for k, v in flat.items()}
    except _TORCH_DAMAGE as error:
        raise damaged(path, f"not a readable PyTorch archive: {error}") from error
    return Tensors(path, specs, extra)


def member_offsets(path: Path, members: dict[str, zipfile.ZipInfo]) -> dict[str, int]:
    """Byte offset of each stored member's data, so that tensors are mapped instead of unpacked."""
    found = {}
    with path.open("rb") as stream:
        for name, info in members.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            stream.seek(info.header_offset + 26)
            names, extras = struct.unpack("<HH", stream.read(4))
            found[name] = info.header_offset + 30 + names + extras
    return found


def _flatten(root: Any) -> tuple[dict[str, _Rebuilt], dict[str, Any]]:
    """Tensors of a state dict, whether bare or wrapped, and the plain values beside it."""
    if isinstance(root, Record):
        return _scripted(root), {}
    if not isinstance(root, Mapping):
        raise ValueError("it holds no dictionary of tensors")
    extra: dict[str, Any] = {}
    for wrapper in ("model_state_dict", "state_dict", "model"):
        if isinstance(root.get(wrapper), Mapping):
            extra = {k: v for k, v in root.items() if k != wrapper}
            root = root[wrapper]
            break
    flat = {str(k): v for k, v in root.items() if isinstance(v, _Rebuilt)}
    if not flat:
        raise ValueError("it holds no tensors")
    return flat, extra


def _scripted(root: Record, prefix: str = "", depth: int = 0) -> dict[str, _Rebuilt]:
    """Parameters and buffers of a TorchScript module under their dotted names."""
    if depth > _DEEPEST:
        raise ValueError("its modules are nested too deep")
    flat: dict[str, _Rebuilt] = {}
    for name, value in root.state.items():
        if isinstance(value, _Rebuilt):
            flat[f"{prefix}{name}"] = value
        elif isinstance(value, Record):
            flat |= _scripted(value, f"{prefix}{name}.", depth + 1)
    if not flat and not depth:
        raise ValueError("it holds no tensors")
    return flat


def _torch_stored(path: Path, tensor: _Rebuilt, prefix: str, offsets: dict[str, int]) -> Stored:
    dtype = tensor.storage.dtype
    item = np.dtype(DTYPES[dtype][0]).itemsize
    if min(tensor.strides, default=0) < 0 or min(tensor.shape, default=0) < 0 or tensor.offset < 0:
        raise ValueError("a tensor has a negative size, stride or offset")
    if len(tensor.strides) != len(tensor.shape):
        raise ValueError("a tensor's strides do not match its shape")
    start = offsets[f"{prefix}data/{tensor.storage.key}"] + tensor.offset * item
    return Stored(path, dtype, tensor.shape, start, tensor.strides)

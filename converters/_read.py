"""Foreign checkpoint files, read without running any code from them.

:func:`open_tensors` gives a mapping from key to a tensor that is read only when asked for, with its shape
and dtype known beforehand. Formats: safetensors (also sharded), PyTorch zip archives (``.pt``, ``.bin``,
``.ckpt``) by a restricted unpickler without torch, CTranslate2 ``model.bin``.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from mlx_speech.errors import CheckpointError

MAX_HEADER = 64 << 20  # bytes of metadata beyond which a file is taken for damaged

# numpy has no bfloat16: such data is carried as uint16 and viewed as bfloat16 by MLX
_DTYPES: dict[str, tuple[str, mx.Dtype]] = {
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
_SAFETENSORS_DTYPES = frozenset(_DTYPES) - {"F64"}
_CT2_DTYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")
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


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor is, known without reading it, and how to read it."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], mx.array] = field(repr=False)


class Tensors(Mapping[str, mx.array]):
    """Tensors of a checkpoint by key, read from disk on access.

    ``specs`` tells shapes and dtypes without reading; ``extra`` holds what a format carries beside tensors
    (OpenAI's ``dims``, CTranslate2's spec name and revision).
    """

    def __init__(
        self, path: Path, specs: Mapping[str, TensorSpec], extra: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
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
        return {k: mx.ones(s.shape, _DTYPES[s.dtype][1]) for k, s in self.specs.items()}


@dataclass(frozen=True)
class _Stored:
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
        return elements * np.dtype(_DTYPES[self.dtype][0]).itemsize

    def read(self) -> mx.array:
        """The tensor, row-major."""
        code, dtype = _DTYPES[self.dtype]
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
        return TensorSpec(self.dtype, self.shape, self.read)


def open_tensors(path: Path) -> Tensors:
    """Open a checkpoint file, or the weights in a folder, whatever its format.

    Raises:
        CheckpointError: no weights there, a damaged file, or a format this library does not read.
    """
    file = find_weights(path) if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    with file.open("rb") as stream:
        head = stream.read(4)
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if head == b"PK\x03\x04":
        return _read_torch(file)
    if head[:2] == b"\x80\x02":
        raise CheckpointError(
            f"{file}: a PyTorch file older than 1.6 (not a zip archive); save it again with torch.save"
        )
    if file.suffix == ".bin":
        return _read_ctranslate2(file)
    raise CheckpointError(
        f"{file}: unknown checkpoint format; expected safetensors, a PyTorch archive or CTranslate2"
    )


_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "model.bin", "pytorch_model.bin")


def find_weights(folder: Path) -> Path:
    """The weights file of a folder: by its usual name, else the only one there is.

    Raises:
        CheckpointError: none, or several and none of the usual name.
    """
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for s in ("*.safetensors", "*.pt", "*.ckpt", "*.bin") for p in folder.glob(s))
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{folder}: several weight files ({', '.join(p.name for p in others)}); name one of them"
        )
    raise CheckpointError(
        f"{folder}: no weights found; looked for {', '.join(_WEIGHT_FILES)}, *.safetensors, *.pt, *.ckpt"
    )


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged or incomplete ({why}); fetch or convert it again")


# --- safetensors ------------------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> Tensors:
    """The format's own library checks the header; the data is mapped by what the header says."""
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata()
        header = _safetensors_header(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    begin, entries = header
    entries.pop("__metadata__", None)
    unread = [f"{k} ({e['dtype']})" for k, e in entries.items() if e["dtype"] not in _SAFETENSORS_DTYPES]
    if unread:  # MLX has no 64-bit fractions, and eight bits may be fractions of several kinds
        raise CheckpointError(
            f"{path}: stored as numbers this library does not read: {', '.join(unread[:4])}; "
            "take the checkpoint in 16 or 32 bits"
        )
    stored = {
        k: _Stored(path, e["dtype"], tuple(e["shape"]), begin + e["data_offsets"][0])
        for k, e in entries.items()
    }
    return Tensors(path, {k: s.spec(k) for k, s in stored.items()}, metadata)


def _safetensors_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data begins, and the header, which the format's library found well-formed."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        return 8 + length, json.loads(stream.read(length), object_pairs_hook=_no_key_twice)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(k for n, (k, _) in enumerate(pairs) if k in dict(pairs[:n]))
        raise ValueError(f"{twice} stands in it twice")
    return found


def _read_shards(index: Path) -> Tensors:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(index, f"no weight_map: {error}") from error
    specs: dict[str, TensorSpec] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} lies outside the folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name}: shard is missing")
        specs.update(_read_safetensors(index.parent / name).specs)
    absent = set(weight_map) ^ set(specs)
    if absent:
        raise _damaged(index, f"index and shards disagree on {', '.join(sorted(absent)[:4])}")
    return Tensors(index, specs)


# --- PyTorch zip archives, without torch -------------------------------------------------------------------


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


def _read_torch(path: Path) -> Tensors:
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
        offsets = _member_offsets(path, {n: i for n, i in entries.items() if n.startswith(f"{prefix}data/")})
        flat, extra = _flatten(root)
        specs = {k: _torch_stored(path, v, prefix, offsets).spec(k) for k, v in flat.items()}
    except _TORCH_DAMAGE as error:
        raise _damaged(path, f"not a readable PyTorch archive: {error}") from error
    return Tensors(path, specs, extra)


def _member_offsets(path: Path, members: dict[str, zipfile.ZipInfo]) -> dict[str, int]:
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


def _torch_stored(path: Path, tensor: _Rebuilt, prefix: str, offsets: dict[str, int]) -> _Stored:
    dtype = tensor.storage.dtype
    item = np.dtype(_DTYPES[dtype][0]).itemsize
    if min(tensor.strides, default=0) < 0 or min(tensor.shape, default=0) < 0 or tensor.offset < 0:
        raise ValueError("a tensor has a negative size, stride or offset")
    if len(tensor.strides) != len(tensor.shape):
        raise ValueError("a tensor's strides do not match its shape")
    start = offsets[f"{prefix}data/{tensor.storage.key}"] + tensor.offset * item
    return _Stored(path, dtype, tensor.shape, start, tensor.strides)


# --- CTranslate2 model.bin ---------------------------------------------------------------------------------


def _read_ctranslate2(path: Path) -> Tensors:
    with path.open("rb") as stream:
        try:
            version = _u32(stream)
            if version not in (5, 6):
                raise ValueError(f"binary version {version}")
            extra = {"spec": _string(stream), "revision": _u32(stream)}
            specs: dict[str, TensorSpec] = {}
            for _ in range(_u32(stream)):
                key, stored = _ct2_variable(path, stream)
                if key in specs:
                    raise ValueError(f"tensor {key} stands in it twice")
                specs[key] = stored.spec(key)
                stream.seek(stored.offset + stored.nbytes)
            aliases = {_string(stream): _string(stream) for _ in range(_u32(stream))}
            specs.update({a: specs[t] for a, t in aliases.items()})
        except (struct.error, ValueError, IndexError, KeyError) as error:
            raise _damaged(path, f"not a readable CTranslate2 model: {error}") from error
    return Tensors(path, specs, extra)


def _ct2_variable(path: Path, stream: BinaryIO) -> tuple[str, _Stored]:
    key = _string(stream)
    (rank,) = struct.unpack("<B", stream.read(1))
    shape = struct.unpack(f"<{rank}I", stream.read(4 * rank))
    (code,) = struct.unpack("<B", stream.read(1))
    nbytes = _u32(stream)
    stored = _Stored(path, _CT2_DTYPES[code], shape, stream.tell())
    if stored.nbytes != nbytes:
        raise ValueError(f"tensor {key} has {nbytes} bytes for shape {shape}")
    return key, stored


def _u32(stream: BinaryIO) -> int:
    (value,) = struct.unpack("<I", stream.read(4))
    return int(value)


def _string(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<H", stream.read(2))
    raw = stream.read(length)
    if len(raw) != length:
        raise ValueError("a name is cut off")
    return raw.rstrip(b"\0").decode("utf-8")

"""CTranslate2's ``model.bin``; variables in 8 or 16 whole bits are given as the fractions they stand for."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import BinaryIO

import mlx.core as mx

from mlx_speech.converters._tensors import Stored, Tensors, TensorSpec, damaged

_DTYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")


def read_ctranslate2(path: Path) -> Tensors:
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
            specs = _in_fractions(specs)
            specs.update({a: specs[t] for a, t in aliases.items() if not t.endswith(_SCALE)})
        except (struct.error, ValueError, IndexError, KeyError) as error:
            raise damaged(path, f"not a readable CTranslate2 model: {error}") from error
    return Tensors(path, specs, extra)


_SCALE = "_scale"


def _in_fractions(specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Each variable that has a scale beside it, as float32: int8 by one scale a row, int16 by one for all."""
    found = {k: s for k, s in specs.items() if not k.endswith(_SCALE)}
    for key in (k for k in specs if k.endswith(_SCALE)):
        name = key.removesuffix(_SCALE)
        whole, scale = specs[name], specs[key]
        if whole.dtype not in ("I8", "I16") or scale.shape not in ((), whole.shape[:1]):
            raise ValueError(f"{key} {scale.shape} does not belong to {name} {whole.dtype}{whole.shape}")
        read = functools.partial(_divide, whole, scale)
        found[name] = TensorSpec("F32", whole.shape, read, stored=whole.dtype)
    return found


def _divide(whole: TensorSpec, scale: TensorSpec) -> mx.array:
    scales = scale.read().astype(mx.float32)
    rows = scales.reshape(-1, *[1] * (len(whole.shape) - 1)) if scale.shape else scales
    return whole.read().astype(mx.float32) / rows


def _ct2_variable(path: Path, stream: BinaryIO) -> tuple[str, Stored]:
    key = _string(stream)
    (rank,) = struct.unpack("<B", stream.read(1))
    shape = struct.unpack(f"<{rank}I", stream.read(4 * rank))
    (code,) = struct.unpack("<B", stream.read(1))
    nbytes = _u32(stream)
    stored = Stored(path, _DTYPES[code], shape, stream.tell())
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

"""Safetensors written tensor by tensor: a checkpoint larger than memory passes through, byte for byte the same.

Shapes and dtypes are known before anything is computed, so the header and every tensor's place are too; the
tensors may then come in any order. Beyond a size the file is cut into shards under the Hub's usual names.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

SHARD_BYTES = 5 * 10**9  # what the Hub's own tools cut at
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAMES = {
    mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32", mx.int32: "I32",
    mx.int64: "I64", mx.int16: "I16", mx.uint16: "U16", mx.int8: "I8", mx.uint8: "U8", mx.bool_: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class _Place:
    file: str
    offset: int
    dtype: mx.Dtype
    shape: tuple[int, ...]


def write_safetensors(
    folder: Path,
    outline: Mapping[str, mx.array],
    tensors: Iterable[tuple[str, mx.array]],
    metadata: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write tensors into ``model.safetensors``, or into shards and their index.

    Args:
        folder: where to.
        outline: stand-ins with each tensor's shape and dtype.
        tensors: (name, tensor) pairs in any order; each is written and let go before the next is asked for.
        metadata: strings for the header.
        shard_bytes: the most bytes of tensors in one file; a larger tensor has a file of its own.

    Returns:
        The weight files, in order.

    Raises:
        OSError: a file cannot be written.
        ValueError: the tensors are not those of the outline.
    """
    # wide numbers first, as the format's own library does: every tensor lies on a multiple of its item
    order = sorted(outline, key=lambda k: (-outline[k].dtype.size, k))
    shards = _cut(order, outline, shard_bytes)
    names = [WHOLE] if len(shards) == 1 else [
        f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))
    ]  # fmt: skip
    places: dict[str, _Place] = {}
    with ExitStack() as stack:
        files = {}
        for name, keys in zip(names, shards, strict=True):
            files[name] = stack.enter_context((folder / name).open("wb"))
            header, found = _header(name, keys, outline, metadata)
            files[name].write(header)
            places.update(found)
        missing = set(places)
        for key, tensor in tensors:
            place = places[key]
            if (tensor.dtype, tuple(tensor.shape)) != (place.dtype, place.shape) or key not in missing:
                raise ValueError(f"{key} is {tensor.dtype}{tensor.shape}, not as outlined, or came twice")
            missing.remove(key)
            files[place.file].seek(place.offset)
            files[place.file].write(_bytes(tensor))
        if missing:
            raise ValueError(f"never came: {', '.join(sorted(missing)[:4])}")
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if len(names) > 1:
        _write_index(folder, places, outline)
    return [folder / name for name in names]


def _cut(order: list[str], outline: Mapping[str, mx.array], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for key in order:
        if shards[-1] and used + outline[key].nbytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += outline[key].nbytes
    return shards


def _header(
    name: str, keys: list[str], outline: Mapping[str, mx.array], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, _Place]]:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    spans = {}
    for key in keys:
        x = outline[key]
        spans[key] = begin
        end = begin + x.nbytes
        entries[key] = {"dtype": NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    places = {k: _Place(name, start + s, outline[k].dtype, tuple(outline[k].shape)) for k, s in spans.items()}
    return struct.pack("<Q", len(text)) + text, places


def _bytes(x: mx.array) -> memoryview | bytes:
    """A tensor's numbers, row-major and little-endian."""
    if math.prod(x.shape) == 0:
        return b""
    whole = np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)
    return np.ascontiguousarray(whole).reshape(-1).view(np.uint8).data


def _write_index(folder: Path, places: Mapping[str, _Place], outline: Mapping[str, mx.array]) -> None:
    total = sum(x.nbytes for x in outline.values())
    index = {
        "metadata": {"total_size": total},
        "weight_map": {k: places[k].file for k in sorted(places)},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

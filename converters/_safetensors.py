"""Safetensors, in one file or in shards."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mlx_speech.converters._tensors import DTYPES, MAX_HEADER, Stored, Tensors, TensorSpec, damaged
from mlx_speech.errors import CheckpointError

_READ = frozenset(DTYPES) - {"F64"}


def read_safetensors(path: Path) -> Tensors:
    """The format's own library checks the header; the data is mapped by what the header says."""
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata()
        header = _safetensors_header(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
    begin, entries = header
    entries.pop("__metadata__", None)
    unread = [f"{k} ({e['dtype']})" for k, e in entries.items() if e["dtype"] not in _READ]
    if unread:  # MLX has no 64-bit fractions, and eight bits may be fractions of several kinds
        raise CheckpointError(
            f"{path}: stored as numbers this library does not read: {', '.join(unread[:4])}; "
            "take the checkpoint in 16 or 32 bits"
        )
    stored = {
        k: Stored(path, e["dtype"], tuple(e["shape"]), begin + e["data_offsets"][0])
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


def read_shards(index: Path) -> Tensors:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise damaged(index, f"no weight_map: {error}") from error
    specs: dict[str, TensorSpec] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} lies outside the folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name}: shard is missing")
        specs.update(read_safetensors(index.parent / name).specs)
    absent = set(weight_map) ^ set(specs)
    if absent:
        raise damaged(index, f"index and shards disagree on {', '.join(sorted(absent)[:4])}")
    return Tensors(index, specs, files=(index, *(index.parent / n for n in names)))

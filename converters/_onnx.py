"""The tensors of an ONNX file, by a reader of the few protobuf fields that hold them; no graph is run.

Fields as in https://github.com/onnx/onnx/blob/v1.19.0/onnx/onnx.proto (Apache-2.0): ModelProto.graph 7;
GraphProto.node 1, initializer 5; NodeProto.input 1, output 2, name 3, op_type 4, attribute 5;
AttributeProto.t 5, g 6; TensorProto.dims 1, data_type 2, float_data 4, name 8, raw_data 9, external 13, 14.
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlx_speech.converters._tensors import Stored, Tensors, damaged

# TensorProto.DataType
_DTYPES = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64",
    12: "U32", 16: "BF16",
}  # fmt: skip
# what torch calls a weight that it folded something into; a bare number before its release 1.12
_ANONYMOUS = re.compile(r"onnx::\w+|\d+")
_DEEPEST = 16  # graphs within graphs

Span = tuple[int, int]  # first byte in the file, and the one behind the last


@dataclass
class _Graph:
    tensors: dict[str, Stored] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)  # tensor: "node:number of the input"
    counts: Counter[str] = field(default_factory=Counter)  # nodes of each kind so far


def read_onnx(path: Path) -> Tensors:
    """Open an ONNX model: its initializers, and the constants that its nodes name.

    A weight without a name of its own (``onnx::Conv_275``) goes by the node that takes it and the number of
    the input: ``/conv1/Conv:1``. A node that tells only its kind and a running number (``Conv_16``, as torch
    wrote before 1.13) goes by its place among those of its kind: ``Conv.0:1``.

    Raises:
        CheckpointError: a damaged file, or tensors kept in another file.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graph = _Graph()
            for number, value in _fields(data, (0, len(data))):
                if number == 7 and isinstance(value, tuple):
                    _read_graph(path, data, value, graph, 0)
        specs = {_name(k, graph): s.spec(k) for k, s in graph.tensors.items()}
        if len(specs) != len(graph.tensors) or not specs:
            raise ValueError("two tensors go by one name" if specs else "it holds no tensors")
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise damaged(path, f"not a readable ONNX model: {error}") from error
    return Tensors(path, specs)


def _name(key: str, graph: _Graph) -> str:
    return graph.users.get(key, key) if _ANONYMOUS.fullmatch(key) else key


def _read_graph(path: Path, data: mmap.mmap, span: Span, graph: _Graph, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("graphs nested too deep")
    for number, value in _fields(data, span):
        if number == 1 and isinstance(value, tuple):
            _read_node(path, data, value, graph, depth)
        elif number == 5 and isinstance(value, tuple):
            _add(graph, None, *_tensor(path, data, value))


def _read_node(path: Path, data: mmap.mmap, span: Span, graph: _Graph, depth: int) -> None:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    constants = []
    for number, value in _fields(data, span):
        if not isinstance(value, tuple):
            continue
        if number in texts:
            texts[number].append(data[slice(*value)].decode())
        elif number == 5:
            for inner, part in _fields(data, value):
                if inner == 6 and isinstance(part, tuple):
                    _read_graph(path, data, part, graph, depth + 1)
                elif inner == 5 and isinstance(part, tuple):
                    constants.append(part)
    name, kind = "".join(texts[3]), "".join(texts[4])
    if re.fullmatch(rf"{re.escape(kind)}_\d+", name):
        name = f"{kind}.{graph.counts[kind]}"
    graph.counts[kind] += 1
    for n, source in enumerate(texts[1]):
        graph.users.setdefault(source, f"{name}:{n}")
    if texts[4] == ["Constant"] and constants:
        own, stored = _tensor(path, data, constants[0])
        if own and texts[2]:  # numbers without a name are arguments of the graph, not weights
            _add(graph, texts[2][0], own, stored)


def _add(graph: _Graph, alias: str | None, name: str, stored: Stored | None) -> None:
    name = alias or name
    if name in graph.tensors:
        raise ValueError(f"tensor {name} stands in it twice")
    if stored:
        graph.tensors[name] = stored


def _tensor(path: Path, data: mmap.mmap, span: Span) -> tuple[str, Stored | None]:
    """A tensor's name and place; none where it is written as whole numbers one by one, as arguments are."""
    dims: list[int] = []
    code, name, raw, listed = 0, "", None, False
    for number, value in _fields(data, span):
        if number == 1:
            dims += list(_packed(data, value)) if isinstance(value, tuple) else [value]
        elif number == 2 and isinstance(value, int):
            code = value
        elif number == 8 and isinstance(value, tuple):
            name = data[slice(*value)].decode()
        elif number in (4, 9) and isinstance(value, tuple):  # fractions may be packed: the bytes are the same
            if raw is not None:
                raise ValueError(f"tensor {name} has its numbers in pieces")
            raw = value
        elif number in (5, 7):
            listed = True
        elif number == 13 or (number == 14 and value):
            raise ValueError("its tensors are kept in another file; save it as one file")
    if code not in _DTYPES:
        raise ValueError(f"tensor {name} is of kind {code}")
    if raw is None and listed and _DTYPES[code].startswith(("I", "B")):
        return name, None
    stored = Stored(path, _DTYPES[code], tuple(dims), raw[0] if raw else span[1])
    if min(dims, default=0) < 0 or stored.nbytes != (raw[1] - raw[0] if raw else 0):
        raise ValueError(f"tensor {name} has {raw and raw[1] - raw[0]} bytes for shape {tuple(dims)}")
    return name, stored


# --- protobuf's wire format -------------------------------------------------------------------------------


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Each field's number, and its value: a whole number, or where its bytes lie."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field of kind {kind} at byte {at}")
        if at + length > end:
            raise ValueError(f"a field ends at byte {at + length}, its message at {end}")
        yield number, (at, at + length)
        at += length
    if at != end:
        raise ValueError("a message ends within a field")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number without an end at byte {at}")


def _packed(data: mmap.mmap, span: Span) -> Iterator[int]:
    at, end = span
    while at < end:
        value, at = _varint(data, at)
        yield value

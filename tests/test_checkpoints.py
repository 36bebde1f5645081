"""Checkpoint files of every format: read back to the bit, refused by name when damaged, and never run.

PyTorch archives are written here by a pickler that stands in for torch's; the fixtures hold real ones.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlx_speech.converters._read import find_weights, open_tensors
from mlx_speech.errors import CheckpointError
from mlx_speech.loading import load, open_checkpoint

FIXTURES = Path(__file__).parent / "fixtures" / "whisper"
CODES = {
    "f4": ("F32", "FloatStorage", 0),
    "i1": ("I8", "CharStorage", 1),
    "i2": ("I16", "ShortStorage", 2),
    "i4": ("I32", "IntStorage", 3),
    "f2": ("F16", "HalfStorage", 4),
    "u2": ("BF16", "BFloat16Storage", 5),  # bfloat16 as its bits
}


# --- writers ----------------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    header, data = {}, b""
    for key, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        code = CODES[value.dtype.str[1:]][0]
        header[key] = {"dtype": code, "shape": value.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_ctranslate2(
    path: Path, tensors: Mapping[str, np.ndarray], aliases: Mapping[str, str] | None = None, version: int = 6
) -> Path:
    """As ctranslate2/specs/model_spec.py serialises."""

    def name(text: str) -> bytes:
        return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"

    out = [struct.pack("<I", version), name("WhisperSpec"), struct.pack("<II", 3, len(tensors))]
    for key, value in tensors.items():
        code = CODES[value.dtype.str[1:]][2]
        raw = np.ascontiguousarray(value).tobytes()
        out += [name(key), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        out += [struct.pack("<BI", code, len(raw)), raw]
    out += [struct.pack("<I", len(aliases or {})), *(name(k) + name(v) for k, v in (aliases or {}).items())]
    path.write_bytes(b"".join(out))
    return path


def _module(name: str, *names: str) -> types.ModuleType:
    module = types.ModuleType(name)
    for each in names:
        kind = type(each, (), {"__module__": name, "__qualname__": each})
        setattr(module, each, kind)
    return module


class TorchPickler(pickle.Pickler):
    """What torch.save does with tensors: a description in the pickle, the data as a member of the archive."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[bytes] = []

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        strides = tuple(s // obj.itemsize for s in obj.strides)
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (Storage(obj), 0, obj.shape, strides, False, collections.OrderedDict())

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        whole = obj.array if obj.array.base is None else obj.array.base
        self.storages.append(whole.tobytes())
        kind = getattr(sys.modules["torch"], CODES[obj.array.dtype.str[1:]][1])
        return ("storage", kind, str(len(self.storages) - 1), "cpu", whole.size)


class Storage:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def pickled(root: Any) -> tuple[bytes, list[bytes]]:
    """A pickle and its storages; modules of torch's names are there for the pickler alone."""
    stream = io.BytesIO()
    pickler = TorchPickler(stream)
    storages = [c[1] for c in CODES.values()]
    stand_ins = [_module("torch", *storages), _module("torch._utils", "_rebuild_tensor_v2")]
    with mock.patch.dict(sys.modules, {m.__name__: m for m in stand_ins}):
        pickler.dump(root)
    return stream.getvalue(), pickler.storages


def archive(
    path: Path,
    text: bytes,
    storages: list[bytes],
    compression: int = zipfile.ZIP_STORED,
    prefix: str = "archive/",
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{prefix}data.pkl", text)
        for n, data in enumerate(storages):
            file.writestr(f"{prefix}data/{n}", data)
        file.writestr(f"{prefix}version", "3\n")
    return path


def write_torch(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    return archive(path, *pickled(collections.OrderedDict(tensors)))


WRITERS: dict[str, tuple[str, Callable[..., Path]]] = {
    "safetensors": ("model.safetensors", write_safetensors),
    "ctranslate2": ("model.bin", write_ctranslate2),
    "torch": ("model.pt", write_torch),
}
every_format = pytest.mark.parametrize("kind", WRITERS)


def write(kind: str, folder: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    name, writer = WRITERS[kind]
    return writer(folder / name, tensors)


# --- read back to the bit ---------------------------------------------------------------------------------

ARRAYS = st.sampled_from([*CODES]).flatmap(
    lambda code: hnp.arrays(
        np.dtype(f"<{code}"), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)


def same(found: mx.array, wanted: np.ndarray) -> bool:
    if wanted.dtype == np.uint16:
        assert found.dtype == mx.bfloat16
        found = found.view(mx.uint16)
    # bits, so that NaN equals itself
    return found.shape == wanted.shape and np.array(found).tobytes() == wanted.tobytes()


@every_format
@settings(max_examples=40)
@given(tensors=st.dictionaries(st.text("abc./ü", min_size=1, max_size=9), ARRAYS, min_size=1, max_size=4))
def test_any_tensors_are_read_to_the_bit(kind, tmp_path_factory, tensors):
    path = write(kind, tmp_path_factory.mktemp("any"), tensors)
    found = open_tensors(path)
    assert set(found) == set(tensors)
    for key, wanted in tensors.items():
        assert found.specs[key].shape == wanted.shape
        assert found.specs[key].dtype == CODES[wanted.dtype.str[1:]][0]
        assert same(found[key], wanted), key


def test_strided_tensors_share_their_storage(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {
        "turned": base.T,
        "rows": base[::2],
        "one": base[:1, :1],
        "wide": np.broadcast_to(base[:1], (3, 6)),
    }
    text, storages = pickled(collections.OrderedDict(views))
    assert len(storages) == 4
    found = open_tensors(archive(tmp_path / "model.pt", text, storages))
    for key, wanted in views.items():
        assert np.array_equal(found[key], wanted), key


def test_float64_becomes_float32_where_the_format_allows(tmp_path, monkeypatch):
    monkeypatch.setitem(CODES, "f8", ("F64", "DoubleStorage", None))
    wide = np.linspace(0, 1, 7)
    found = open_tensors(write_torch(tmp_path / "model.pt", {"x": wide}))["x"]
    assert found.dtype == mx.float32
    np.testing.assert_array_equal(found, wide.astype(np.float32))
    with pytest.raises(CheckpointError, match=r"x \(F64\)"):
        open_tensors(write_safetensors(tmp_path / "model.safetensors", {"x": wide}))


def test_eight_bit_floats_are_not_taken_for_whole_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(CODES, "i1", ("F8_E4M3", "", None))
    path = write_safetensors(tmp_path / "model.safetensors", {"x": np.zeros(3, np.int8)})
    with pytest.raises(CheckpointError, match=r"x \(F8_E4M3\).*16 or 32 bits"):
        open_tensors(path)


def test_what_stands_beside_the_tensors_is_kept(tmp_path):
    root = {
        "dims": {"n_mels": 80},
        "model_state_dict": collections.OrderedDict(a=np.zeros(2, np.float32)),
        "epoch": 3,
    }
    found = open_tensors(archive(tmp_path / "model.pt", *pickled(root)))
    assert list(found) == ["a"]
    assert found.extra == {"dims": {"n_mels": 80}, "epoch": 3}
    found = open_tensors(
        write_ctranslate2(tmp_path / "model.bin", {"a": np.zeros(2, np.float32)}, {"b": "a"})
    )
    assert found.extra == {"spec": "WhisperSpec", "revision": 3}
    assert mx.array_equal(found["a"], found["b"])


def test_foreign_objects_are_passed_over(tmp_path):
    """A Lightning checkpoint's optimiser state and the like: neither imported nor in the way."""
    module = _module("lightning_stand_in", "Checkpoint")
    with mock.patch.dict(sys.modules, {module.__name__: module}):
        thing = module.Checkpoint()
        thing.best = 3
        text, storages = pickled({"callbacks": [thing], "state_dict": {"a": np.ones(2, np.float32)}})
    found = open_tensors(archive(tmp_path / "model.ckpt", text, storages))
    assert found["a"].tolist() == [1, 1]


# --- damage -----------------------------------------------------------------------------------------------

SMALL = {
    "first.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "second": np.arange(5, dtype=np.float16),
    "third": np.arange(3, dtype=np.uint16),
}


@every_format
def test_a_file_cut_off_anywhere_is_named(kind, tmp_path):
    path = write(kind, tmp_path, SMALL)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=path.name):
            open_tensors(path)


@pytest.mark.parametrize(
    "name", ["huggingface/model.safetensors", "openai/model.pt", "ctranslate2/model.bin"]
)
def test_a_real_checkpoint_cut_off_anywhere_is_named(name, tmp_path):
    shutil.copytree((FIXTURES / name).parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / Path(name).name
    whole = path.read_bytes()
    rng = random.Random(0)
    for length in sorted(rng.sample(range(len(whole)), 30)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=path.name):
            open_checkpoint(path)


def build(text: bytes) -> Callable[[Path], Path]:
    return lambda folder: archive(folder / "model.pt", text, [bytes(16)])


HEAD = b"\x80\x02"


def one_tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A pickle of {"a": a tensor described so}, with four floats of data behind it."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"".join(b"J" + struct.pack("<i", v) for v in values)

    made = b"ctorch._utils\n_rebuild_tensor_v2\n("
    made += b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    made += numbers((offset,)) + b"(" + numbers(shape) + b"t(" + numbers(strides) + b"t\x89NtR"
    return HEAD + b"}X\x01\x00\x00\x00a" + made + b"s."


def test_the_handmade_pickle_is_a_good_one(tmp_path):
    found = open_tensors(build(one_tensor(1, (3,), (1,)))(tmp_path))
    assert found["a"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(one_tensor(0, (500_000,), (1,)), id="more than the file holds"),
        pytest.param(one_tensor(0, (2, 2), (500_000, 1)), id="strides beyond the file"),
        pytest.param(one_tensor(-8, (2,), (1,)), id="negative offset"),
        pytest.param(one_tensor(0, (-2,), (1,)), id="negative size"),
        pytest.param(one_tensor(2, (2,), (-1,)), id="negative stride"),
        pytest.param(one_tensor(0, (2, 2), (1,)), id="too few strides"),
        pytest.param(HEAD + b"}.", id="no tensors"),
        pytest.param(HEAD + b"].", id="a list"),
        pytest.param(HEAD + b"K\x01.", id="a number"),
        pytest.param(HEAD + b".", id="nothing"),
        pytest.param(b"", id="empty"),
        pytest.param(HEAD + b"X\xff\xff\xff\x7fa.", id="a name longer than the file"),
        pytest.param(HEAD + b"}X\x01\x00\x00\x00aK\x01Qs.", id="a strange reference"),
        pytest.param(HEAD + b"(" * 3000 + b".", id="marks only"),
    ],
)
def test_a_damaged_pickle_is_named(tmp_path, text):
    with pytest.raises(CheckpointError, match=r"model\.pt: damaged or incomplete"):
        open_tensors(build(text)(tmp_path))


def test_a_compressed_member_is_refused(tmp_path):
    path = archive(tmp_path / "model.pt", *pickled(SMALL), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"archive/data/0 is compressed"):
        open_tensors(path)


def test_a_damaged_compressed_pickle_is_named(tmp_path):
    path = tmp_path / "model.pt"
    text, storages = pickled(SMALL)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", text, zipfile.ZIP_DEFLATED)
        for n, data in enumerate(storages):
            file.writestr(f"a/data/{n}", data)
    assert set(open_tensors(path)) == set(SMALL)
    raw = bytearray(path.read_bytes())
    raw[50:60] = bytes(10)
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        open_tensors(path)


@pytest.mark.parametrize("members", [[], ["a/data/0"], ["a/data.pkl", "b/data.pkl"]])
def test_an_archive_of_something_else_is_named(tmp_path, members):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme", "")
        for name in members:
            file.writestr(name, b"")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        open_tensors(path)


def test_a_missing_member_is_named(tmp_path):
    text, storages = pickled(SMALL)
    with pytest.raises(CheckpointError, match="archive/data/2"):
        open_tensors(archive(tmp_path / "model.pt", text, storages[:2]))


@pytest.mark.parametrize("version", [0, 4, 7, 2**32 - 1])
def test_other_versions_of_ctranslate2_are_named(tmp_path, version):
    path = write_ctranslate2(tmp_path / "model.bin", SMALL, version=version)
    with pytest.raises(CheckpointError, match=f"binary version {version}"):
        open_tensors(path)


def test_ctranslate2_aliases_must_point_somewhere(tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", SMALL, {"x": "nowhere"})
    with pytest.raises(CheckpointError, match="nowhere"):
        open_tensors(path)


def test_ctranslate2_sizes_must_agree(tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", {"abc": np.zeros((2, 3), np.float32)})
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<BII", 2, 2, 3), struct.pack("<BII", 2, 2, 4)))
    with pytest.raises(CheckpointError, match=r"tensor abc has 24 bytes for shape \(2, 4\)"):
        open_tensors(path)


# --- code in a pickle -------------------------------------------------------------------------------------


class Attack:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.parts = function, args

    def __reduce__(self) -> Any:
        return self.parts


def attacks(marker: Path) -> dict[str, bytes]:
    code = f"open({str(marker)!r}, 'w').close()"
    good = {"a": np.zeros(2, np.float32)}
    by_reduce = {
        "os.system": Attack(os.system, f"touch {marker}"),
        "exec": Attack(builtins.exec, code),
        "eval": Attack(builtins.eval, code),
        "mkdir": Attack(os.mkdir, str(marker)),
        "getattr": Attack(getattr, Attack(__import__, "os"), "system"),
    }
    found = {name: pickled({"x": attack, **good})[0] for name, attack in by_reduce.items()}
    found["as a key"] = pickled({"state_dict": good, Attack(os.system, f"touch {marker}"): 1})[0]
    shell = f"touch {marker}".encode()
    found["inst"] = HEAD + b"(S'" + shell + b"'\nios\nsystem\n."
    found["obj"] = HEAD + b"(cos\nsystem\nS'" + shell + b"'\no."
    found["newobj"] = HEAD + b"cos\nsystem\nS'" + shell + b"'\n\x85\x81."
    found["stack global"] = b"\x80\x04\x8c\x02os\x8c\x06system\x93S'" + shell + b"'\n\x85R."
    found["dotted"] = b"\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.__init__\x93)R."
    found["build"] = HEAD + b"ccollections\nOrderedDict\n)R}S'__class__'\ncos\nsystem\nsb."
    return found


NAMES = [*attacks(Path("marker"))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrapped", [True, False], ids=["archive", "bare"])
def test_a_pickle_never_runs_code(tmp_path, name, wrapped):
    marker = tmp_path / "marker"
    text = attacks(marker)[name]
    path = tmp_path / "model.pt"
    if wrapped:
        archive(path, text, [bytes(8)])
    else:
        path.write_bytes(text)
    with contextlib.suppress(CheckpointError):
        assert set(open_tensors(path)) <= {"a"}
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "exec", "eval", "mkdir", "inst", "obj", "stack global"])
def test_these_attacks_would_succeed(tmp_path, name):
    """Else the test above would show nothing."""
    marker = tmp_path / "marker"
    _Careless(io.BytesIO(attacks(marker)[name])).load()
    assert marker.exists()


class _Careless(pickle.Unpickler):
    """What torch.load was before it had weights_only."""

    def find_class(self, module: str, name: str) -> Any:
        return (lambda *_: None) if module.startswith("torch") else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return None


# --- which file -------------------------------------------------------------------------------------------


def test_an_old_pickle_is_told_apart(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))
    with pytest.raises(CheckpointError, match=r"older than 1\.6.*save it again"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("a.gguf", b"GGUF"), ("x.pt", b""), ("w", b"PK")])
def test_an_unknown_format_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: unknown checkpoint format"):
        open_tensors(tmp_path / name)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights found; looked for model\.safetensors"):
        open_tensors(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        open_tensors(tmp_path / "model.pt")


def test_the_usual_name_goes_first_and_two_others_are_refused(tmp_path):
    for name in ("b.pt", "a.ckpt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"several weight files \(a\.ckpt, b\.pt\)"):
        find_weights(tmp_path)
    (tmp_path / "a.ckpt").unlink()
    assert find_weights(tmp_path).name == "b.pt"
    for name in ("pytorch_model.bin", "model.bin", "model.safetensors.index.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
        assert find_weights(tmp_path).name == name


# --- shards -----------------------------------------------------------------------------------------------


def sharded(folder: Path, weight_map: Any) -> Path:
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"a": np.ones(2, np.float32)})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"b": np.zeros(3, np.float16)})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


WHOLE = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def test_shards_are_read_together(tmp_path):
    found = open_tensors(sharded(tmp_path, WHOLE))
    assert {k: v.tolist() for k, v in found.items()} == {"a": [1, 1], "b": [0, 0, 0]}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            WHOLE | {"b": "model-00003-of-00002.safetensors"},
            r"model-00003-of-00002\.safetensors: shard is missing",
        ),
        ({"a": WHOLE["a"]} | {"b": "../outside.safetensors"}, "outside the folder"),
        (WHOLE | {"b": "/etc/passwd"}, "outside the folder"),
        (WHOLE | {"b": ".."}, "shard is missing"),
        (WHOLE | {"b": ""}, "shard is missing"),
        ({"a": 1}, "outside the folder"),
        ({"a": WHOLE["a"], "b": 2}, "damaged"),
        ({"a": ["x"]}, "damaged"),
        (["a"], "damaged"),
        (WHOLE | {"c": WHOLE["a"]}, "disagree on c"),
        ({"a": WHOLE["a"], "x": WHOLE["b"]}, "disagree on b, x"),
    ],
)
def test_bad_indexes_are_named(tmp_path, weight_map, message):
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors(tmp_path / "outside.safetensors", {"b": np.zeros(3, np.float16)})
    with pytest.raises(CheckpointError, match=message):
        open_tensors(sharded(folder, weight_map))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', '{"weight_map": null}'])
def test_unreadable_indexes_are_named(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json: damaged"):
        open_tensors(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    sharded(tmp_path, WHOLE)
    shard = tmp_path / WHOLE["b"]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{WHOLE['b']}: damaged"):
        open_tensors(tmp_path)


# --- whole checkpoints of each format ---------------------------------------------------------------------


OPTIONAL = ("decoder/projection/weight",)  # tied to the embedding


def numpy_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tensors = open_tensors(path)
    return {k: np.array(v) for k, v in tensors.items()}, tensors.extra


@pytest.fixture(params=["huggingface", "openai", "ctranslate2"])
def rewrite(request, tmp_path) -> Callable[..., Path]:
    """Writes a fixture anew with tensors dropped, added or replaced; gives its path; ``keys`` names them."""
    source = FIXTURES / request.param
    tensors, extra = numpy_of(source)

    def write(change: Callable[[dict[str, np.ndarray]], None]) -> Path:
        change(tensors)
        if request.param == "openai":
            return archive(
                tmp_path / "model.pt", *pickled({"dims": extra["dims"], "model_state_dict": tensors})
            )
        shutil.copytree(source, tmp_path, dirs_exist_ok=True)
        if request.param == "huggingface":
            write_safetensors(tmp_path / "model.safetensors", tensors)
        else:
            write_ctranslate2(tmp_path / "model.bin", tensors)
        return tmp_path

    write.keys = [k for k in tensors if tensors[k].ndim > 0 and k not in OPTIONAL]
    return write


def test_the_rewritten_checkpoint_is_a_good_one(rewrite):
    load(f"path:{rewrite(lambda t: None)}")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.99])
def test_a_missing_tensor_is_named(rewrite, part):
    key = rewrite.keys[int(len(rewrite.keys) * part)]
    with pytest.raises(CheckpointError) as caught:
        load(f"path:{rewrite(lambda t: t.pop(key))}")
    # by its own name, or where another layer still has the like by the parameter that nothing fills
    assert "missing: " in str(caught.value) or "not filled: " in str(caught.value)
    assert any(w in str(caught.value) for w in (key, "{i}", "blocks.", "conv", "positional", "ln", "embed"))


def test_an_extra_tensor_is_named(rewrite):
    with pytest.raises(CheckpointError, match=r"unexpected: encoder\.surprise"):
        load(f"path:{rewrite(lambda t: t.update({'encoder.surprise': np.zeros(2, np.float16)}))}")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (7, 7)])
def test_every_misshaped_tensor_is_refused(rewrite, shape):
    key = random.Random(str(shape)).choice(rewrite.keys)
    with pytest.raises(CheckpointError):
        load(f"path:{rewrite(lambda t: t.update({key: np.zeros(shape, np.float16)}))}")


def test_a_misshaped_bias_is_named(rewrite):
    key = next(k for k in rewrite.keys if "conv1" in k and k.endswith("bias"))
    with pytest.raises(CheckpointError, match=r"wrong shape: encoder\.conv1\.bias \(5,\), expected \(8,\)"):
        load(f"path:{rewrite(lambda t: t.update({key: np.zeros(5, np.float16)}))}")


def test_whole_numbers_for_weights_are_refused(rewrite):
    key = next(k for k in rewrite.keys if "conv1" in k and k.endswith("bias"))
    with pytest.raises(CheckpointError, match=r"encoder\.conv1\.bias .*int8.*not quantised"):
        load(f"path:{rewrite(lambda t: t.update({key: np.zeros(8, np.int8)}))}")

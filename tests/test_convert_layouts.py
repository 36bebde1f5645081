"""Layouts of other tools: MLX's own Whisper port, CTranslate2's whole numbers, ONNX and TorchScript files."""

from __future__ import annotations

import importlib.metadata
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_speech.converters._read import open_tensors
from mlx_speech.converters._torch import Record, _flatten, _Rebuilt, _Storage
from mlx_speech.converters.whisper import MLX, with_positions
from mlx_speech.errors import CheckpointError
from mlx_speech.loading import load
from mlx_speech.models.whisper import Whisper
from mlx_speech.weights import plan

FIXTURES = Path(__file__).parent / "fixtures" / "whisper"


# --- CTranslate2's whole numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "stored", "steps"), [("int8_float16", "I8", 127), ("int16", "I16", 1024)])
def test_whole_numbers_are_given_as_the_fractions_they_stand_for(kind, stored, steps):
    exact, found = (open_tensors(FIXTURES / n) for n in ("ctranslate2", f"ctranslate2-{kind}"))
    assert set(found) == set(exact)
    packed = [k for k, s in found.specs.items() if s.stored]
    assert {found.specs[k].stored for k in packed} == {stored}
    assert "encoder/conv1/weight" in packed
    assert "decoder/embeddings/weight" in packed
    for key in packed:
        a, b = (np.array(t[key].astype(mx.float32)) for t in (exact, found))
        peak = np.abs(a).reshape(len(a), -1).max(1) if stored == "I8" else np.abs(a).max()
        assert (np.abs(a - b).reshape(len(a), -1).max(1) <= peak / steps * 0.51 + 1e-6).all(), key


@pytest.mark.parametrize("kind", ["int8_float16", "int16"])
def test_a_model_of_whole_numbers_loads(kind):
    model = load(f"path:{FIXTURES / f'ctranslate2-{kind}'}", dtype="float32")
    exact = load(f"path:{FIXTURES / 'ctranslate2'}", dtype="float32")
    assert model.origin.layout == "whisper-ctranslate2"
    assert model.config == exact.config
    mel = mx.random.normal((1, 3000, 80), key=mx.random.key(0))
    a, b = (m.encode(mel) for m in (exact, model))
    assert (mx.linalg.norm(a - b) / mx.linalg.norm(a)).item() < 0.03  # measured 0.012 and 0.002


def test_a_scale_without_its_tensor_is_named(tmp_path):
    raw = (FIXTURES / "ctranslate2-int16/model.bin").read_bytes()
    path = tmp_path / "model.bin"
    path.write_bytes(raw.replace(b"conv1/weight_scale", b"conv3/weight_scale"))
    with pytest.raises(CheckpointError, match="conv3/weight"):
        open_tensors(path)


# --- MLX's own port of Whisper ----------------------------------------------------------------------------


def mlx_port(folder: Path, model: Whisper, kind: str) -> Path:
    """The model under the names of ml-explore's port, whose encoder positions are not stored."""
    ours = dict(tree_flatten(model.parameters()))
    names = {s.targets[0]: s.sources[0] for s in plan(MLX.rules, _port_keys(ours)).steps}
    tensors = {names[k]: v for k, v in ours.items() if k in names}
    tensors["alignment_heads"] = mx.array(model.config.alignment_heads)
    c = model.config
    sizes = {k: getattr(c, k) for k in c.__dataclass_fields__ if k.startswith("n_")}
    (folder / "config.json").write_text(json.dumps({**sizes, "model_type": "whisper"}))
    if kind == "npz":
        np.savez(folder / "weights.npz", **{k: np.array(v) for k, v in tensors.items()})
    else:
        mx.save_safetensors(str(folder / "weights.safetensors"), tensors)
    return folder


def _port_keys(ours: dict[str, mx.array]) -> list[str]:
    keys = [k.replace(".fc1.", ".mlp1.").replace(".fc2.", ".mlp2.") for k in ours]
    return [k for k in keys if k != "encoder.positional_embedding"]


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_mlxs_own_port_is_read(tmp_path, whisper, kind):
    model = load(f"path:{mlx_port(tmp_path, whisper, kind)}", dtype="float32")
    assert model.origin.layout == "whisper-mlx"
    assert model.config.alignment_heads == whisper.config.alignment_heads
    found = dict(tree_flatten(model.parameters()))
    for key, wanted in tree_flatten(whisper.parameters()):
        if key == "encoder.positional_embedding":
            wanted = with_positions(mx.ones(8))[1]
            assert np.array(wanted[0]).tolist() == [0] * 4 + [1] * 4
            np.testing.assert_allclose(wanted[1, :1], np.sin([1.0]), atol=1e-6)
        assert mx.array_equal(found[key], wanted), key


def test_mlxs_own_port_needs_its_sizes(tmp_path, whisper):
    mlx_port(tmp_path, whisper, "npz")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no 'n_audio_head'"):
        load(f"path:{tmp_path}")


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "marker",))

    np.savez(tmp_path / "weights.npz", a=np.array([Attack()], dtype=object))
    with pytest.raises(CheckpointError, match=r"weights\.npz: damaged.*array of object"):
        open_tensors(tmp_path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("save", [np.savez_compressed])
def test_compressed_arrays_are_refused(tmp_path, save):
    save(tmp_path / "weights.npz", a=np.zeros(9))
    with pytest.raises(CheckpointError, match=r"a\.npy is compressed"):
        open_tensors(tmp_path)


def test_arrays_of_any_order_are_read(tmp_path):
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.savez(tmp_path / "weights.npz", rows=a, columns=np.asfortranarray(a), half=a.astype(np.float16))
    found = open_tensors(tmp_path)
    for key in ("rows", "columns", "half"):
        assert np.array_equal(found[key], a), key


@pytest.mark.parametrize("header", [b"{'descr': (", b"{'descr': '<f4'", b"{}", b"\xff" * 8])
def test_a_header_that_is_none_is_named(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "weights.npz", "w") as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(CheckpointError, match=r"weights\.npz: damaged or incomplete"):
        open_tensors(tmp_path)


# --- ONNX -------------------------------------------------------------------------------------------------


def message(*fields: tuple[int, Any]) -> bytes:
    """Protobuf: whole numbers as varints, anything else as bytes."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 0x7F:
            out += bytes([n & 0x7F | 0x80])
            n >>= 7
        return out + bytes([n])

    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            raw = value.encode() if isinstance(value, str) else value
            parts.append(varint(number << 3 | 2) + varint(len(raw)) + raw)
    return b"".join(parts)


def tensor(name: str, value: np.ndarray, kind: int = 1, *more: tuple[int, Any]) -> bytes:
    return message(*((1, n) for n in value.shape), (2, kind), (8, name), (9, value.tobytes()), *more)


A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float16)


def onnx(path: Path, *graph: tuple[int, Any]) -> Path:
    path.write_bytes(message((1, 8), (2, "test"), (7, message(*graph))))
    return path


CONV = message((1, "x"), (1, "onnx::Conv_12"), (2, "y"), (3, "/conv1/Conv"), (4, "Conv"))
CONSTANT = message(
    (2, "branch.c"), (4, "Constant"), (5, message((1, "value"), (5, tensor("c", A)))),
)  # fmt: skip


def test_onnx_tensors_are_found_by_name_by_node_and_in_branches(tmp_path):
    branch = message((4, "If"), (5, message((1, "then_branch"), (6, message((1, CONSTANT))))))
    nameless = message((2, "shape"), (4, "Constant"), (5, message((5, tensor("", A)))))
    path = onnx(
        tmp_path / "m.onnx", (5, tensor("a", A)), (5, tensor("onnx::Conv_12", B, 10)), (1, CONV), (1, branch),
        (1, nameless), (5, message((1, 2), (2, 7), (7, b"\x01\x02"), (8, "listed"))),
    )  # fmt: skip
    found = open_tensors(path)
    assert set(found) == {"a", "/conv1/Conv:1", "branch.c"}
    assert np.array_equal(found["a"], A)
    assert np.array_equal(found["branch.c"], A)
    assert found["/conv1/Conv:1"].dtype == mx.float16


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        ([(5, tensor("a", A)), (5, tensor("a", A))], "tensor a stands in it twice"),
        ([(5, tensor("a", A, 1, (14, 1)))], "kept in another file"),
        ([(5, tensor("a", A, 1, (13, b"../../etc/passwd")))], "kept in another file"),
        ([(5, tensor("a", A, 8))], "tensor a is of kind 8"),
        ([(5, tensor("a", A, 10))], r"tensor a has 24 bytes for shape \(2, 3\)"),
        ([(5, message((1, 1 << 40), (1, 1 << 40), (2, 1), (8, "a"), (9, b"1234")))], "tensor a has 4 bytes"),
        ([], "holds no tensors"),
        ([(5, b"\x0b")], "field of kind 3"),
        ([(5, b"\x4a\x7f")], "a field ends at byte"),
        ([(5, b"\xff" * 11)], "a number without an end"),
    ],
)  # fmt: skip
def test_a_damaged_onnx_is_named(tmp_path, graph, why):
    with pytest.raises(CheckpointError, match=rf"m\.onnx: damaged.*{why}"):
        open_tensors(onnx(tmp_path / "m.onnx", *graph))


def test_graphs_without_end_are_refused(tmp_path):
    graph = message((5, tensor("a", A)))
    for _ in range(30):
        graph = message((1, message((5, message((6, graph))))))
    (tmp_path / "m.onnx").write_bytes(message((7, graph)))
    with pytest.raises(CheckpointError, match="nested too deep"):
        open_tensors(tmp_path / "m.onnx")


# --- TorchScript and Silero's release ---------------------------------------------------------------------


def test_a_scripts_parameters_go_by_their_dotted_names():
    def module(**state: Any) -> Record:
        made = Record()
        made.__setstate__(state)
        return made

    weight = _Rebuilt(_Storage("F32", "0"), 0, (1,), (1,))
    inner = module(weight=weight, training=False, inner=module(bias=weight))
    flat, extra = _flatten(module(layer=inner, name="x", buffer=weight))
    assert set(flat) == {"layer.weight", "layer.inner.bias", "buffer"}
    assert extra == {}
    endless = module()
    endless.state = {"again": endless, "weight": weight}
    with pytest.raises(ValueError, match="nested too deep"):
        _flatten(endless)


RELEASE = {
    "silero_vad.jit": "silero-jit",
    "silero_vad.onnx": "silero-onnx",
    "silero_vad_16k_op15.onnx": "silero-onnx-model",
    "silero_vad_op18_ifless.onnx": "silero-onnx-model",
    "silero_vad_16k_sequence.onnx": "silero-onnx-sequence",
    "silero_vad_openvino_16k.onnx": "silero-onnx-openvino",
}


@pytest.mark.parametrize("name", RELEASE)
def test_sileros_released_files_hold_the_bundled_weights(name):
    try:
        file = importlib.metadata.distribution("silero-vad").locate_file(f"silero_vad/data/{name}")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("silero-vad (parity extra) is not installed")
    model, bundled = load(str(file)), load("silero-vad")
    assert model.origin.layout == RELEASE[name]
    for (key, a), (_, b) in zip(
        tree_flatten(model.parameters()), tree_flatten(bundled.parameters()), strict=True
    ):
        assert mx.array_equal(a, b), key

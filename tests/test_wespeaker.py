"""WeSpeaker: tiny networks in both originals' layouts with their embeddings, and the bundled int8 weights.
The fixture is made by parity/fixtures_wespeaker.py with pyannote.audio.
"""

from __future__ import annotations

from pathlib import Path

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_speech.converters._read import open_tensors
from mlx_speech.converters._tensors import Tensors
from mlx_speech.converters.wespeaker import FAMILY, INT8, dequantise
from mlx_speech.errors import AudioError, CheckpointError
from mlx_speech.layers.conv2d import Conv2d
from mlx_speech.layers.pooling import pool_statistics, resize_nearest
from mlx_speech.loading import load, open_checkpoint
from mlx_speech.models.wespeaker import VARIANTS, WeSpeaker, WeSpeakerConfig
from mlx_speech.weights import find_layout, plan, stream

FIXTURES = Path(__file__).parent / "fixtures/wespeaker"
ASSETS = Path(mlx_speech.__file__).parent / "assets"
LIMIT = 1e-4  # relative L2


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "expected.npz") as file:
        return {k: file[k].astype(np.float32) if k == "audio" else file[k] for k in file}


@pytest.fixture(scope="module")
def tiny() -> WeSpeaker:
    return load(f"path:{FIXTURES / 'basic.bin'}")


def relative(found: mx.array, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(np.array(found) - wanted) / np.linalg.norm(wanted))


# --- against the original ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "file"), [("basic", "basic.bin"), ("bottleneck", "bottleneck.pt")])
@pytest.mark.parametrize("slow", [True, False])
def test_embeddings_equal_the_original(name, file, slow, expected, monkeypatch):
    monkeypatch.setattr("mlx_speech.layers.conv2d.slow_functions", lambda: slow)
    model = load(f"path:{FIXTURES / file}")
    audio, masks = mx.array(expected["audio"]), mx.array(expected["masks"])
    frames = model.trunk(model.fbank(audio))
    assert relative(frames, expected[f"{name}_frames"]) < LIMIT
    plain = model.embed(audio)
    assert plain.shape == (2, 1, 16)
    assert relative(plain[:, 0], expected[f"{name}_plain"]) < LIMIT
    assert relative(model.embed(audio, masks), expected[f"{name}_masked"]) < LIMIT
    assert relative(model.pool(frames, masks), expected[f"{name}_masked"]) < LIMIT


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("model", "wespeaker-onnx"),
        ("two-layers", "wespeaker-onnx-two-layers"),
        ("by-order", "wespeaker-onnx-by-order-ResNet18"),
    ],
)
def test_exports_to_onnx_give_the_originals_embeddings(name, layout, expected):
    model = load(f"path:{FIXTURES / f'{name}.onnx'}", dtype="float32")
    assert model.origin.layout == layout
    with np.load(FIXTURES / "onnx.npz") as file:
        assert relative(model.embed(mx.array(expected["audio"]))[:, 0], file[name]) < LIMIT
        fbank = expected["fbank"] - expected["fbank"].mean(1, keepdims=True)
        assert relative(model.pool(model.trunk(mx.array(fbank)))[:, 0], file[name]) < 1e-6


def test_an_export_without_a_mean_is_read_under_its_other_names(tmp_path):
    """As pyannote.audio's model, or the bare network, would be exported: other prefixes and no mean to take off."""
    raw = (FIXTURES / "model.onnx").read_bytes()
    mean = np.array(open_tensors(FIXTURES / "model.onnx")["mean_vec"])
    wanted = dict(tree_flatten(load(f"path:{FIXTURES / 'model.onnx'}").parameters()))
    found = renamed(open_tensors(FIXTURES / "model.onnx"), tmp_path)
    assert raw.count(b"mean_vec") == 2, "the initializer and its one use"
    for key, value in tree_flatten(found.parameters()):
        more = mean if key == "seg_1.bias" else 0
        assert mx.allclose(value - more, wanted[key], atol=1e-6), key


def renamed(tensors, folder: Path) -> WeSpeaker:
    """The same tensors as the bare network's export has them."""
    specs = {
        k.replace("/model/", "/").removeprefix("model."): s
        for k, s in tensors.specs.items()
        if k != "mean_vec"
    }
    layout = find_layout(FAMILY.layouts, specs)
    assert layout.name == "wespeaker-onnx-bare"
    bare = Tensors(tensors.path, specs)
    model = FAMILY.build(FAMILY.read_config(bare, folder, layout))
    model.load_weights([*stream(plan(layout.rules, bare), bare)], strict=True)
    return model


@pytest.mark.parametrize("key", ["mean_vec", "/model/conv1/Conv:2", "model.seg_1.bias"])
def test_an_export_that_lacks_something_is_named(key):
    keys = [k for k in open_tensors(FIXTURES / "model.onnx") if k != key]
    with pytest.raises(CheckpointError, match=r"missing|unexpected"):
        find_layout(FAMILY.layouts, keys)


def test_sizes_come_from_the_checkpoints():
    basic, bottleneck = (open_checkpoint(FIXTURES / n) for n in ("basic.bin", "bottleneck.pt"))
    assert (basic.layout, bottleneck.layout) == ("wespeaker-pyannote", "wespeaker")
    assert basic.config == WeSpeakerConfig(blocks=(1, 2, 1, 1), channels=4, embedding=16)
    assert bottleneck.config.bottleneck
    assert bottleneck.config.two_layers
    assert bottleneck.config.blocks == (1, 1, 1, 2)


@pytest.mark.parametrize("sizes", [(589, 125), (59, 13), (125, 589), (7, 7), (1, 4), (293, 63)])
def test_nearest_is_torchs(sizes, expected):
    have, size = sizes
    found = resize_nearest(mx.arange(have)[None], size)[0]
    np.testing.assert_array_equal(found, expected[f"nearest_{have}_{size}"])


# --- the bundled weights ----------------------------------------------------------------------------------


def test_bundled_weights_are_int8_and_load():
    folder = ASSETS / "wespeaker-resnet34-LM"
    assert (folder / "model.safetensors").stat().st_size < 7_000_000
    opened = open_checkpoint(folder, "wespeaker")
    assert opened.layout == INT8.name
    assert opened.config == WeSpeakerConfig()
    assert opened.config.variant == "ResNet34"
    tensors = open_tensors(folder)
    model = load("wespeaker-resnet34-LM")
    key = "resnet.layer3.2.conv1.weight"
    exact = dequantise(*(tensors[f"{key}_{k}"] for k in ("int8", "scale", "offset")))
    np.testing.assert_array_equal(model.stages[2][2].convs[0].weight, exact.transpose(0, 2, 3, 1))


def test_bundled_weights_tell_voices_apart():
    model = load("wespeaker-resnet34-LM")
    t = np.arange(32000) / 16000
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 32000))
    voices = [sum(np.sin(2 * np.pi * f * n * t) / n for n in range(1, 20)) for f in (110, 113, 240)]
    found = np.array(model.embed(mx.array((0.1 * np.array(voices) + noise).astype(np.float32))))[:, 0]
    assert found.shape == (3, 256)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.1


# --- blocks -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["numba", "plain"])
def either(request, monkeypatch):
    """With numba's loops, and as on a machine without numba."""
    if not request.param:
        monkeypatch.setattr("mlx_speech.layers.conv2d.kernels", lambda: None)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("shape", [(1, 8, 9), (2, 1, 1), (1, 7, 30), (1, 10, 2)])
@pytest.mark.parametrize(("inputs", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_convolution_equals_mlxs(shape, inputs, stride, monkeypatch):
    conv = Conv2d(inputs, 5, 3, stride)
    conv.weight, conv.bias = mx.random.normal(conv.weight.shape), mx.random.normal((5,))
    x = mx.random.normal((*shape, inputs))
    monkeypatch.setattr("mlx_speech.layers.conv2d.slow_functions", lambda: True)
    np.testing.assert_allclose(
        conv(x), mx.conv2d(x, conv.weight, stride, padding=1) + conv.bias, rtol=0, atol=1e-4
    )


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("around", [True, False])
def test_what_follows_a_convolution_equals_mlxs(around, monkeypatch):
    conv = Conv2d(3, 5, 3)
    conv.weight, conv.bias = mx.random.normal(conv.weight.shape), mx.random.normal((5,))
    x = mx.random.normal((2, 7, 9, 3))
    skip = mx.random.normal((2, 7, 9, 5)) if around else None
    monkeypatch.setattr("mlx_speech.layers.conv2d.slow_functions", lambda: True)
    wanted = mx.conv2d(x, conv.weight, 1, padding=1) + conv.bias + (0 if skip is None else skip)
    np.testing.assert_allclose(conv.rectified(x, skip), mx.maximum(wanted, 0), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("shape", [(9, 14), (4, 8), (1, 5)])
def test_tiles_at_once_do_not_show(shape, monkeypatch):
    conv = Conv2d(3, 5, 3)
    conv.weight, conv.bias = mx.random.normal(conv.weight.shape), mx.random.normal((5,))
    x = mx.random.normal((1, *shape, 3))
    monkeypatch.setattr("mlx_speech.layers.conv2d.slow_functions", lambda: True)
    whole = np.array(conv(x))
    for some in (1, 3, 5):
        monkeypatch.setattr("mlx_speech.layers.conv2d._FEWEST", some)
        monkeypatch.setattr("mlx_speech.layers.conv2d._BYTES", 1)
        np.testing.assert_allclose(conv(x), whole, rtol=0, atol=1e-5)


def test_convolution_follows_its_weights(monkeypatch):
    monkeypatch.setattr("mlx_speech.layers.conv2d.slow_functions", lambda: True)
    conv, x = Conv2d(2, 3, 3), mx.random.normal((1, 6, 6, 2))
    first = conv(x)
    conv.weight = conv.weight + 1
    assert not mx.allclose(first, conv(x))
    assert {k for k, _ in tree_flatten(conv.parameters())} == {"weight", "bias"}


def test_a_weighting_of_ones_is_nearly_none():
    x = mx.random.normal((2, 20, 3))
    np.testing.assert_allclose(pool_statistics(x, mx.ones((2, 1, 20))), pool_statistics(x), rtol=0, atol=1e-5)


def test_an_empty_mask_gives_finite_numbers(tiny, expected):
    audio = mx.array(expected["audio"])
    assert mx.isfinite(tiny.embed(audio, mx.zeros((2, 1, 59)))).all()
    assert tiny.embed(audio, mx.zeros((2, 0, 59))).shape == (2, 0, 16)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_its_name(name):
    blocks, bottleneck = VARIANTS[name]
    config = WeSpeakerConfig(blocks=blocks, bottleneck=bottleneck)
    assert config.variant == name
    assert config.num_features == 256 * 10 * (4 if bottleneck else 1)


# --- odd input and bad checkpoints ------------------------------------------------------------------------


def test_unusable_input_is_refused(tiny):
    least = tiny.config.min_samples
    assert least == 1680
    assert mx.isfinite(tiny.embed(mx.random.normal((1, least)))).all()
    with pytest.raises(AudioError, match="1679 samples"):
        tiny.embed(mx.zeros((1, least - 1)))
    with pytest.raises(AudioError, match="dimensions"):
        tiny.embed(mx.zeros(16000))
    with pytest.raises(AudioError, match="int16"):
        tiny.embed(mx.zeros((1, 16000), mx.int16))
    with pytest.raises(AudioError, match="masks"):
        tiny.embed(mx.zeros((1, 16000)), mx.zeros((2, 1, 59)))
    with pytest.raises(AudioError, match="features"):
        tiny.trunk(mx.zeros((1, 98, 40)))
    assert tiny.embed(mx.zeros((0, 16000)), mx.zeros((0, 3, 59))).shape == (0, 3, 16)


def test_missing_and_unknown_keys_are_named(tmp_path):
    tensors = dict(open_tensors(ASSETS / "wespeaker-resnet34-LM"))
    for key in ("resnet.layer2.1.conv2.bias", "resnet.layer4.0.conv1.weight_scale", "resnet.seg_1.bias"):
        mx.save_safetensors(str(tmp_path / "a.safetensors"), {k: v for k, v in tensors.items() if k != key})
        with pytest.raises(CheckpointError, match=r"stages\.1\.1\.convs\.1\.bias|weight_scale|seg_1\.bias"):
            load(f"path:{tmp_path / 'a.safetensors'}")
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {**tensors, "resnet.extra": mx.zeros(3)})
    with pytest.raises(CheckpointError, match=r"unexpected: resnet\.extra"):
        load(f"path:{tmp_path / 'a.safetensors'}")


def test_other_features_are_refused(tmp_path):
    tensors = open_tensors(FIXTURES / "basic.bin")
    assert tensors.extra["hyper_parameters"]["window_type"] == "hamming"
    from mlx_speech.converters.wespeaker import PYANNOTE, read_config

    tensors.extra["hyper_parameters"]["window_type"] = "povey"
    with pytest.raises(CheckpointError, match="povey"):
        read_config(tensors, FIXTURES, PYANNOTE)


@pytest.mark.parametrize(
    "wrong",
    [{"blocks": (1, 2, 3)}, {"channels": 0}, {"n_mels": 81}, {"embedding": True}, {"sampling_rate": 8}],
)
def test_configurations_are_checked_and_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WeSpeakerConfig(**wrong)


def test_plda_is_bundled():
    with np.load(ASSETS / "plda/plda.npz") as plda, np.load(ASSETS / "plda/xvec_transform.npz") as before:
        assert {k: plda[k].shape for k in plda} == {"mu": (128,), "tr": (128, 128), "psi": (128,)}
        assert {k: before[k].shape for k in before} == {"mean1": (256,), "mean2": (128,), "lda": (256, 128)}
        assert (np.diff(plda["psi"]) <= 0).all()

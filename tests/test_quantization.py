"""Packed weights: which layers, the numbers they stand for, and checkpoints that do not say what they hold."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx_speech  # isort: skip

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_speech.converters._certificate import verify
from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
from mlx_speech.errors import CheckpointError, OptionError
from mlx_speech.loading import load, open_checkpoint
from mlx_speech.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2ForCTC
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.quantization import Quantization, quantized_layers, read_quantization

FIXTURES = Path(__file__).parent / "fixtures" / "whisper" / "huggingface"
WHISPER = WhisperConfig(80, 20, 64, 2, 1, 51865, 10, 64, 2, 1, alignment_heads=((0, 1),))
WAV2VEC2 = Wav2Vec2Config(
    ("<pad>", "a", "b"), 0, "|", True, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=96, conv_dim=(32,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
)  # fmt: skip
FAMILIES = {"whisper": (Whisper, WHISPER), "wav2vec2": (Wav2Vec2ForCTC, WAV2VEC2)}


def made(family: str) -> nn.Module:
    kind, config = FAMILIES[family]
    mx.random.seed(1)
    model = kind(config)
    model.apply(lambda x: mx.random.normal(x.shape) * 0.2)
    return model


def saved(folder: Path, family: str, change: Any = None) -> Path:
    """A model of random weights in this library's own format."""
    model = made(family)
    tensors = dict(tree_flatten(model.parameters()))
    data = {"format_version": 1, "family": family, "config": asdict(model.config)}
    if change:
        change(tensors, data)
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def packed(tmp_path: Path, family: str, q: Quantization, dtype: mx.Dtype | None = None) -> Path:
    opened = open_checkpoint(saved(tmp_path / "plain", family))
    convert_checkpoint(opened, tmp_path / "packed", "test", ConvertOptions(dtype, q))
    return tmp_path / "packed"


def outputs(model: nn.Module) -> mx.array:
    rng = np.random.default_rng(0)
    if isinstance(model, Whisper):
        mel = mx.array(rng.normal(size=(1, 40, 80)).astype(np.float32))
        return model(mel, mx.array([[50258, 50259, 50359]]))
    return model(mx.array(rng.normal(size=(1, 4000)).astype(np.float32)))


def unpacked(model: nn.Module) -> dict[str, mx.array]:
    """The parameters, packed ones as the numbers that they stand for."""
    found = dict(tree_flatten(model.parameters()))
    modules = dict(model.named_modules())
    for name in quantized_layers(list(found)):
        parts = [found.pop(f"{name}.{k}") for k in ("weight", "scales", "biases")]
        m = modules[name]
        found[f"{name}.weight"] = mx.dequantize(*parts, group_size=m.group_size, bits=m.bits)
    return found


def test_layers_that_are_to_stay_are_not_packed(tmp_path):
    opened = open_checkpoint(saved(tmp_path / "plain", "whisper"))
    keep = ("decoder.token_embedding", "encoder.*.attn.*")
    options = ConvertOptions(quantization=Quantization(4, 32), keep_float=keep)
    packed = convert_checkpoint(opened, tmp_path / "made", "test", options)
    assert "encoder.blocks.0.fc1" in packed
    assert not [n for n in packed if n == keep[0] or n.startswith("encoder.blocks.0.attn.")]
    assert quantized_layers(open_checkpoint(tmp_path / "made").tensors) == packed
    told = json.loads((tmp_path / "made/config.json").read_text())
    assert told["provenance"]["kept_float"] == list(keep)
    assert told["quantization"] == {"bits": 4, "group_size": 32}
    model, exact = load(f"path:{tmp_path / 'made'}"), made("whisper")
    assert isinstance(model.encoder.blocks[0].fc1, nn.QuantizedLinear)
    assert mx.array_equal(model.decoder.token_embedding.weight, exact.decoder.token_embedding.weight)
    assert verify(tmp_path / "made")["logits"] < 1e-4


@pytest.mark.parametrize(
    ("q", "keep", "message"),
    [
        (
            Quantization(4, 32),
            ("decoder.embedding",),
            r"--keep-float decoder\.embedding: no layer of that name",
        ),
        (Quantization(4, 32), ("encoder.*", "decoder.*"), "no layer is left"),
        (None, ("encoder.*",), "that --quantize is to leave"),
    ],
)
def test_names_of_no_layer_are_refused(tmp_path, q, keep, message):
    opened = open_checkpoint(saved(tmp_path / "plain", "whisper"))
    with pytest.raises(OptionError, match=message):
        convert_checkpoint(opened, tmp_path / "made", "test", ConvertOptions(quantization=q, keep_float=keep))
    assert not (tmp_path / "made").exists()


def test_the_certificate_tells_what_the_lost_bits_cost(tmp_path):
    told = {}
    opened = open_checkpoint(saved(tmp_path / "plain", "whisper"))
    for bits in (8, 4, None):
        q = Quantization(bits, 32) if bits else None
        convert_checkpoint(opened, tmp_path / f"{bits}", "test", ConvertOptions(quantization=q))
        told[bits] = json.loads((tmp_path / f"{bits}/parity.json").read_text())
    assert told[None]["original"] is None
    assert told[8]["original"].endswith("the weights as they were")
    errors = [told[b]["stages"]["logits"]["against_original"]["relative_l2"] for b in (8, 4)]
    assert 0 < errors[0] < errors[1] / 4
    convert_checkpoint(opened, tmp_path / "half", "test", ConvertOptions(mx.float16))
    half = json.loads((tmp_path / "half/parity.json").read_text())
    assert half["stages"]["logits"]["against_original"]["relative_l2"] < errors[0]
    convert_checkpoint(
        open_checkpoint(tmp_path / "half"), tmp_path / "wide", "test", ConvertOptions(mx.float32)
    )
    assert json.loads((tmp_path / "wide/parity.json").read_text())["original"] is None


@pytest.mark.parametrize("family", FAMILIES)
# random weights carry an error on further than trained ones: 0.015 in 8 bits, 0.22 in 4
@pytest.mark.parametrize(("bits", "group_size", "most"), [(8, 64, 0.03), (8, 32, 0.03), (4, 32, 0.4)])
def test_a_packed_model_is_the_model_of_its_unpacked_weights(tmp_path, family, bits, group_size, most):
    model = load(f"path:{packed(tmp_path, family, Quantization(bits, group_size))}", dtype="float32")
    plain = load(f"path:{tmp_path / 'plain'}", dtype="float32")
    names = [k for k, m in model.named_modules() if hasattr(m, "scales")]
    assert len(names) == {"whisper": 4 + 2 + 8 + 2 + 1, "wav2vec2": 12 if group_size == 32 else 10}[family]
    weights = unpacked(model)
    for key, wanted in tree_flatten(plain.parameters()):
        step = mx.max(mx.abs(wanted)).item() * 2 / (2**bits - 1)
        far = mx.max(mx.abs(weights[key] - wanted)).item()
        assert far <= (step if key.removesuffix(".weight") in names else 0), key
    found = outputs(model)
    kind, config = FAMILIES[family]
    same = kind(config)
    same.load_weights(list(weights.items()), strict=True)
    np.testing.assert_allclose(found, outputs(same), atol=2e-4)
    original = outputs(plain)
    error = mx.linalg.norm(found - original) / mx.linalg.norm(original)
    assert 0 < error.item() < most


def test_the_output_layer_is_the_packed_embedding(tmp_path):
    model = load(f"path:{packed(tmp_path, 'whisper', Quantization(8, 64))}", dtype="float32")
    assert isinstance(model.decoder.token_embedding, nn.QuantizedEmbedding)
    table = unpacked(model)["decoder.token_embedding.weight"]
    np.testing.assert_allclose(model.decoder.token_embedding(mx.array([7])), table[7:8], atol=1e-6)
    hidden = mx.ones((1, 1, 64))
    np.testing.assert_allclose(model.logits(hidden), hidden @ table.T, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_scales_and_the_rest_are_in_the_dtype_asked_for(tmp_path, dtype):
    folder = packed(tmp_path, "wav2vec2", Quantization(8), mx.float16)
    assert {s.dtype for s in open_checkpoint(folder).tensors.specs.values()} == {"U32", "F16"}
    model = load(f"path:{folder}", dtype=dtype)
    kinds = {str(v.dtype).removeprefix("mlx.core.") for _, v in tree_flatten(model.parameters())}
    assert kinds == {"uint32", dtype}
    assert np.isfinite(np.array(outputs(model))).all()


def test_the_configuration_tells_the_quantisation(tmp_path):
    folder = packed(tmp_path, "whisper", Quantization(4, 32))
    data = json.loads((folder / "config.json").read_text())
    assert data["quantization"] == {"bits": 4, "group_size": 32}
    opened = open_checkpoint(folder)
    assert opened.quantization == Quantization(4, 32)
    # converting again, to another folder, keeps it as it is
    convert_checkpoint(opened, tmp_path / "again", "test", ConvertOptions())
    assert (tmp_path / "again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(OptionError, match="has 4 bits in groups of 32 already; quantise the original"):
        convert_checkpoint(opened, tmp_path / "twice", "test", ConvertOptions(quantization=Quantization(8)))
    assert not (tmp_path / "twice").exists()


def test_a_family_or_a_width_that_cannot_be_packed_is_told(tmp_path):
    options = ConvertOptions(quantization=Quantization(8))
    with pytest.raises(OptionError, match="--quantize 8 --group-size 64: silero-vad has no layers worth it"):
        convert_checkpoint(
            open_checkpoint(mlx_speech.hub.ASSETS / "silero-vad"), tmp_path / "x", "t", options
        )
    narrow = saved(tmp_path / "narrow", "whisper", lambda *_: None)
    options = replace(options, quantization=Quantization(8, 128))
    convert_checkpoint(open_checkpoint(narrow), tmp_path / "some", "t", options)  # fc2 is 256 wide
    assert len(quantized_layers(open_checkpoint(tmp_path / "some").tensors)) == 2
    with pytest.raises(OptionError, match="no layer's width divides into them"):
        convert_checkpoint(open_checkpoint(FIXTURES), tmp_path / "x", "t", options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["narrow", "some"]


@pytest.mark.parametrize("wrong", [{"bits": 7}, {"bits": "8"}, {"bits": 8, "group_size": 65}, {"bits": 4.0}])
def test_numbers_that_mlx_does_not_know_are_refused(wrong):
    with pytest.raises(OptionError, match="choose from"):
        Quantization(**wrong)


@pytest.mark.parametrize(
    "value", [8, [], {"bits": 8}, {"bits": 9, "group_size": 64}, {"bits": 8, "group_size": 64, "mode": "mxfp8"},
              {"bits": 8, "group_size": 64, "more": 1}]
)  # fmt: skip
def test_other_schemes_are_refused(value):
    with pytest.raises(CheckpointError, match=r"here: 'quantization'"):
        read_quantization({"quantization": value}, "here")
    assert read_quantization({"quantization": {"bits": 8, "group_size": 64, "mode": "affine"}}, "here")


# --- checkpoints that do not say what they hold -----------------------------------------------------------

KEY = "decoder.blocks.0.fc1"


def damaged(tmp_path: Path, change: Any) -> Path:
    folder = packed(tmp_path, "whisper", Quantization(8))
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    data = json.loads((folder / "config.json").read_text())
    change(tensors, data)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, d: d.pop("quantization"), r"no 'quantization', but 17 layers of .* have scales"),
        (lambda t, d: d["quantization"].update(bits=4), r"wrong shape: .*weight \(.*\), expected"),
        (lambda t, d: d["quantization"].update(group_size=32), r"wrong shape: .*biases \(.*\), expected"),
        (lambda t, d: t.pop(f"{KEY}.scales"), rf"not in the model: {KEY}\.biases|wrong shape: {KEY}"),
        (lambda t, d: t.pop(f"{KEY}.biases"), rf"not filled: {KEY}\.biases"),
        (lambda t, d: t.update({f"{KEY}.weight": mx.zeros((256, 16), mx.float16)}), rf"not packed.*{KEY}"),
        (lambda t, d: t.update({f"{KEY}.scales": mx.zeros((256, 1), mx.int8)}), rf"whole numbers in {KEY}"),
        (lambda t, d: t.update({"decoder.ln.scales": mx.zeros(1)}), r"not in the model: decoder\.ln\.scales"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(f"path:{damaged(tmp_path, change)}")


def test_scales_that_are_announced_must_be_there(tmp_path):
    folder = saved(tmp_path, "whisper", lambda _, d: d.update(quantization={"bits": 8, "group_size": 64}))
    with pytest.raises(
        CheckpointError, match=r"has a 'quantization', but 0 layers of model\.safetensors have"
    ):
        load(f"path:{folder}")

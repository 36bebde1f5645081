"""wav2vec2, HuBERT and MMS with a CTC head: the original's scores, masks, batches and configuration files. The tiny
checkpoints, in the original's layout, are made by parity/fixtures_wav2vec2.py.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_speech import runtime
from mlx_speech.converters._write import convert_checkpoint
from mlx_speech.converters.wav2vec2 import LAYOUTS, weight_norm
from mlx_speech.errors import AudioError, CheckpointError, OptionError
from mlx_speech.layers import conv as conv_layers
from mlx_speech.loading import load, open_checkpoint
from mlx_speech.models import wav2vec2
from mlx_speech.registry import CARDS

FIXTURES = Path(__file__).parent / "fixtures/wav2vec2"
KINDS = ("base", "stable", "mms", "hubert", "mixed")
LENGTHS = (400, 719, 720, 3333, 12000)  # as in parity/fixtures_wav2vec2.py
BATCH = (12000, 5000, 719)
LIMIT = 1e-5  # relative L2, float32 on both sides; measured at most 2e-6


def relative(ours, theirs) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def models():
    return {kind: load(f"path:{FIXTURES / kind}", dtype="float32") for kind in KINDS}


@pytest.fixture(scope="module")
def expected():
    found = {}
    for kind in KINDS:
        with np.load(FIXTURES / kind / "expected.npz") as file:
            found[kind] = {k: file[k] for k in file}
    return found


@pytest.fixture(params=["fast", "plain"])
def path(request, monkeypatch):
    """The Linux CPU's way, and the one of every other device."""
    for module in (wav2vec2, conv_layers):
        monkeypatch.setattr(module, "slow_functions", lambda: request.param == "fast")


def copy(kind: str, folder: Path) -> Path:
    shutil.copytree(FIXTURES / kind, folder / kind)
    return folder / kind


def edit(file: Path, **changes) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**data, **changes}), encoding="utf-8")


# --- against the original ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.usefixtures("path")
def test_scores_equal_the_original(models, expected, kind, length):
    model, want = models[kind], expected[kind]
    audio = mx.array(want["audio"][:length].astype(np.float32))[None]
    heard = model.normalize(audio)
    np.testing.assert_allclose(heard[0, :64], want[f"heard_{length}"], rtol=0, atol=2e-6)
    logits = model(heard)
    assert logits.dtype == mx.float32
    assert logits.shape == (1, model.config.output_length(length), len(model.config.vocabulary))
    assert relative(logits[0], want[f"logits_{length}"]) < LIMIT


@pytest.mark.parametrize("kind", ["base", "hubert"])
def test_equal_lengths_share_a_batch(models, expected, kind):
    model, want = models[kind], expected[kind]
    audio = mx.array(want["audio"].astype(np.float32)).reshape(2, 6000)
    logits = model(model.normalize(audio), mx.array([6000, 6000]))
    assert relative(logits, want["logits_batch"]) < LIMIT
    for item, row in zip(audio, logits, strict=True):
        assert relative(row, model(model.normalize(item[None]))[0]) < LIMIT


@pytest.mark.parametrize("kind", ["stable", "mms", "mixed"])
@pytest.mark.usefixtures("path")
def test_padded_batches_equal_the_original_and_single_items(models, expected, kind):
    model, want = models[kind], expected[kind]
    assert model.batchable
    lengths = mx.array(BATCH)
    items = [mx.array(want["audio"][:n].astype(np.float32)) for n in BATCH]
    # what lies behind an item's samples must not matter
    audio = mx.stack([mx.pad(x, (0, max(BATCH) - x.size), constant_values=0.7) for x in items])
    logits = model(model.normalize(audio, lengths), lengths)
    for item, row, theirs in zip(items, logits, want["logits_batch"], strict=True):
        frames = model.config.output_length(item.size)
        assert relative(row[:frames], theirs[:frames]) < LIMIT
        assert relative(row[:frames], model(model.normalize(item[None]))[0]) < LIMIT


def test_group_norm_refuses_lengths_that_differ(models):
    model = models["base"]
    assert not model.batchable
    with pytest.raises(OptionError, match="equal length"):
        model(mx.zeros((2, 1000)), mx.array([1000, 900]))


@pytest.mark.parametrize("kind", ["base", "stable"])
def test_blocks_of_the_convolutions_do_not_show(models, expected, kind, monkeypatch):
    model = models[kind]
    audio = mx.array(expected[kind]["audio"].astype(np.float32))[None]
    whole = model.feature_extractor(audio)
    monkeypatch.setattr(wav2vec2, "_BLOCK", 1)
    assert relative(model.feature_extractor(audio), whole) < 1e-6


def test_quiet_channels_keep_their_precision():
    """A filter that passes a ten-thousandth of the signal is normalised as well as the others."""
    time = np.arange(16000) / 16000
    audio = np.sin(2 * np.pi * 200 * time) + 1e-4 * np.sin(2 * np.pi * 5000 * time)
    weight = np.zeros((1, 10, 2))
    weight[0, :5, 0] = (1, -4, 6, -4, 1)
    weight[0, :, 1] = 0.125
    view = wav2vec2.windows(mx.array(audio.astype(np.float32))[None], 10, 5)
    exact = np.array(view, np.float64) @ weight
    mean, variance = wav2vec2._moments_of_audio(view, mx.array(weight.astype(np.float32)))
    np.testing.assert_allclose(mean[0, 0], exact.mean(1)[0], atol=1e-8)
    np.testing.assert_allclose(variance[0, 0], exact.var(1)[0], rtol=1e-5)


@pytest.mark.parametrize(("kernel", "padding"), [(128, 64), (96, 48), (20, 10), (19, 9), (7, 3), (33, 5)])
def test_grouped_convolution_equals_the_plain_one(kernel, padding):
    x = mx.random.normal((2, 50, 24))
    weight = mx.random.normal((32, kernel, 6))
    ours = conv_layers.grouped_conv1d(x, weight, 4, padding)
    assert relative(ours, mx.conv1d(x, weight, padding=padding, groups=4)) < 1e-6


# --- lengths and odd input --------------------------------------------------------------------------------


def test_lengths_are_the_originals(models):
    config = models["base"].config
    assert (config.receptive_field, config.frame_stride, config.first_middle) == (400, 320, 200)
    assert [config.output_length(n) for n in (0, 399, 400, 719, 720, 16000)] == [0, 0, 1, 1, 2, 49]


def test_unusable_audio_is_refused(models):
    model = models["stable"]
    with pytest.raises(AudioError, match="dimensions"):
        model(mx.zeros(1000))
    with pytest.raises(AudioError, match="int16"):
        model.normalize(mx.zeros((1, 1000), mx.int16))
    with pytest.raises(AudioError, match="399 samples"):
        model(mx.zeros((1, 399)))
    with pytest.raises(AudioError, match="200 samples"):
        model(mx.zeros((2, 1000)), mx.array([1000, 200]))
    for lengths in ([1000], [1000, 1001]):
        with pytest.raises(OptionError, match="do not fit"):
            model(mx.zeros((2, 1000)), mx.array(lengths))


@pytest.mark.parametrize("kind", KINDS)
def test_silence_and_loud_audio_stay_finite(models, kind):
    model = models[kind]
    for audio in (mx.zeros((1, 4000)), 1e4 * mx.random.normal((1, 4000))):
        assert mx.isfinite(model(model.normalize(audio))).all()


def test_half_precision_is_close(expected):
    model = load(f"path:{FIXTURES / 'stable'}", dtype="float16")
    audio = mx.array(expected["stable"]["audio"].astype(np.float32))[None]
    logits = model(model.normalize(audio))
    assert logits.dtype == mx.float32
    assert relative(logits[0], expected["stable"]["logits_12000"]) < 1e-2


# --- checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_format_gives_the_same_model(models, kind, tmp_path):
    opened = open_checkpoint(FIXTURES / kind)
    convert_checkpoint(opened, tmp_path / "ours", "test")
    again = load(f"path:{tmp_path / 'ours'}", dtype="float32")
    assert again.origin.layout == "mlx_speech"
    assert again.config == models[kind].config
    flat = zip(tree_flatten(models[kind].parameters()), tree_flatten(again.parameters()), strict=True)
    assert all(a == b and mx.array_equal(x, y) for (a, x), (b, y) in flat)


@pytest.mark.parametrize(("kind", "layout"), [("base", "huggingface"), ("hubert", "hubert")])
def test_both_names_of_the_weight_norm_are_read(models, kind, layout, tmp_path):
    assert models[kind].origin.layout == f"wav2vec2-{layout}"
    folder = copy(kind, tmp_path)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    tensors = dict(open_checkpoint(folder).tensors)
    renamed = {next((k.replace(a, b) for a, b in names.items() if a in k), k): v for k, v in tensors.items()}
    assert len(set(renamed) - set(tensors)) == 2
    mx.save_safetensors(str(folder / "model.safetensors"), renamed)
    again = load(f"path:{folder}", dtype="float32")
    assert again.origin.layout == f"wav2vec2-{layout}-weight_g"
    assert mx.array_equal(again.encoder.pos_conv_embed.weight, models[kind].encoder.pos_conv_embed.weight)


def test_weight_norm_is_per_tap():
    g, v = mx.random.uniform(0.5, 2, (1, 1, 8)), mx.random.normal((6, 3, 8))
    found = weight_norm(g.astype(mx.float16), v.astype(mx.float16))
    assert found.shape == (6, 8, 3)
    assert found.dtype == mx.float32
    norms = mx.linalg.norm(found.swapaxes(0, 1).reshape(8, -1), axis=1)
    np.testing.assert_allclose(norms, g[0, 0], rtol=1e-3)


def test_missing_unexpected_and_training_keys(tmp_path):
    folder = copy("base", tmp_path)
    tensors = dict(open_checkpoint(folder).tensors)

    def save(changed):
        mx.save_safetensors(str(folder / "model.safetensors"), changed)
        return load(f"path:{folder}")

    assert "wav2vec2.masked_spec_embed" in open_checkpoint(folder).plan.dropped
    extra = {"quantizer.codevectors": mx.zeros((1, 4, 2)), "project_q.bias": mx.zeros(3)}
    save({**tensors, **extra})
    for key in (k for k in tensors if not k.endswith("masked_spec_embed")):
        with pytest.raises(CheckpointError):
            save({k: v for k, v in tensors.items() if k != key})
    with pytest.raises(CheckpointError, match=r"unexpected: lm_head\.scale"):
        save({**tensors, "lm_head.scale": mx.zeros(1)})


def test_no_two_layouts_read_the_same_keys(models):
    keys = list(open_checkpoint(FIXTURES / "base").tensors)
    fits = []
    for layout in LAYOUTS:
        try:
            mlx_speech.weights.plan(layout.rules, keys)
            fits.append(layout.name)
        except CheckpointError:
            pass
    assert fits == ["wav2vec2-huggingface"]


def test_configuration_comes_from_the_checkpoints_own_files(models):
    base, mms = models["base"].config, models["mms"].config
    assert base.vocabulary[:6] == ("<pad>", "<s>", "</s>", "<unk>", "|", "e")
    assert (base.blank, base.word_delimiter) == (0, "|")
    assert base.do_normalize
    assert models["stable"].config.do_normalize  # from processor_config.json
    assert not models["hubert"].config.do_normalize
    assert mms.vocabulary == base.vocabulary  # of the language "eng" among two
    assert mms.adapter_attn_dim == 6


def test_mms_takes_the_tokenizers_language(tmp_path):
    folder = copy("mms", tmp_path)
    edit(folder / "tokenizer_config.json", target_lang="xyz")
    with pytest.raises(CheckpointError, match="no language 'xyz'"):
        load(f"path:{folder}")


def test_special_tokens_may_lie_outside_vocab_json(tmp_path):
    folder = copy("base", tmp_path)
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    fewer = {k: v for k, v in ids.items() if k not in ("<s>", "</s>", "<pad>")}
    (folder / "vocab.json").write_text(json.dumps({**fewer, "[PAD]": 0}), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": 1, "<far>": 99}), encoding="utf-8")
    edit(folder / "tokenizer_config.json", pad_token={"content": "[PAD]"}, word_delimiter_token=" ")
    config = load(f"path:{folder}").config
    assert config.vocabulary[:4] == ("[PAD]", "<s>", "<unused 2>", "<unk>")
    assert (config.blank, config.word_delimiter) == (0, " ")


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("config.json", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("config.json", {"add_adapter": True}, "add_adapter"),
        ("config.json", {"feat_extract_norm": "batch"}, "feat_extract_norm"),
        ("config.json", {"conv_stride": [5, 2]}, "equally long"),
        ("config.json", {"num_attention_heads": 5}, "5 parts"),
        ("config.json", {"hidden_size": 48}, "wrong shape"),
        ("config.json", {"feat_extract_norm": "layer"}, r"not filled: feature_extractor\.conv_layers\.1"),
        ("vocab.json", {"é": 32}, "ids up to 32, but the head has 32 rows"),
        ("vocab.json", {"é": 5}, "distinct"),
        ("vocab.json", None, "vocab.json: missing"),
        ("preprocessor_config.json", None, "do_normalize"),
    ],
)
def test_unfitting_files_are_named(tmp_path, file, change, match):
    folder = copy("base", tmp_path)
    if change is None:
        (folder / file).unlink()
    else:
        edit(folder / file, **change)
    with pytest.raises(CheckpointError, match=match):
        load(f"path:{folder}")


def test_wavlm_is_refused_by_the_tensors_that_make_it_another_network(tmp_path):
    tensors = {
        "wavlm.encoder.layers.0.attention.gru_rel_pos_const": mx.zeros((1, 2, 1, 1)),
        "lm_head.weight": mx.zeros((32, 8)),
        "lm_head.bias": mx.zeros(32),
    }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError, match=r"unexpected: wavlm\..*gru_rel_pos_const"):
        load(f"path:{tmp_path}")


# --- the table and the device --------------------------------------------------------------------


def test_every_known_aligner_is_free_and_pinned_or_says_so():
    cards = [c for c in CARDS.values() if c.family == "wav2vec2"]
    assert {"en", "de", "es", "fr", "ja", "zh"} <= {c.languages for c in cards}
    for card in cards:
        assert "NC" not in card.licence
        assert card.bundled or "not pinned" in card.note or len(bytes.fromhex(card.revision)) == 20


def test_the_devices_dtype_is_the_default():
    model = load(f"path:{FIXTURES / 'base'}")
    wanted = runtime.resolve_dtype(None, half=True)
    assert {x.dtype for _, x in tree_flatten(model.parameters())} == {wanted}
    assert math.isfinite(mx.sum(model(mx.zeros((1, 400)))).item())

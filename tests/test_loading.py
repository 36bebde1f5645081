"""From a name to a model: our own format, originals by their rules, and errors that say what to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_speech import memory, runtime
from mlx_speech.converters._table import _MODULES, families, get_family
from mlx_speech.errors import CheckpointError, ModelNotFoundError, OptionError
from mlx_speech.hub import ASSETS
from mlx_speech.loading import Origin, load, open_checkpoint, parameter_shapes
from mlx_speech.models.vad import SileroVAD
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.registry import CARDS, find_card
from mlx_speech.stages.tokenizer import tokenizer_for

FIXTURES = Path(__file__).parent / "fixtures" / "whisper"
SMALL = WhisperConfig(80, 20, 4, 2, 1, 60, 10, 4, 2, 1, alignment_heads=((0, 1),), suppress_tokens=(3, 5))


def native(folder: Path, change: Any = None, **config: Any) -> Path:
    """A hand-made folder in this library's own format."""
    model = Whisper(SMALL)
    tensors = dict(tree_flatten(model.parameters()))
    data = {"format_version": 1, "family": "whisper", "config": asdict(SMALL) | config}
    if change:
        change(tensors, data)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def refuses(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(f"path:{folder}")
    assert str(folder) in str(caught.value)


# --- our own format ---------------------------------------------------------------------------------------


def test_own_format_is_read_to_the_bit(tmp_path):
    kept: dict[str, mx.array] = {}
    model = load(f"path:{native(tmp_path, lambda tensors, _: kept.update(tensors))}", dtype="float32")
    assert model.config == SMALL
    for key, value in tree_flatten(model.parameters()):
        assert mx.array_equal(value, kept[key]), key
    assert model.origin == Origin(f"path:{tmp_path}", tmp_path, "whisper", "mlx_speech")
    assert not model.training


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_other_format_versions_are_refused(tmp_path, version):
    native(tmp_path, lambda _, data: data.update(format_version=version))
    refuses(tmp_path, r"config\.json: format version .*this release reads 1.*convert again")


@pytest.mark.parametrize("family", ["whispr", "", None, 3])
def test_unknown_families_are_refused(tmp_path, family):
    native(tmp_path, lambda _, data: data.update(family=family))
    refuses(tmp_path, r"unknown family .*knows whisper, silero-vad")


def test_unknown_and_missing_settings_are_named(tmp_path):
    def change(_: Any, data: dict[str, Any]) -> None:
        data["config"]["n_mel"] = data["config"].pop("n_mels")

    native(tmp_path, change)
    refuses(tmp_path, r"unknown keys \['n_mel'\], missing keys \['n_mels'\]")
    refuses(native(tmp_path, dropout=0.1), r"unknown keys \['dropout'\], missing keys \[\]")
    native(tmp_path, lambda _, data: data["config"].pop("n_vocab"))
    refuses(tmp_path, r"unknown keys \[\], missing keys \['n_vocab'\]")


@pytest.mark.parametrize("config", [None, 3, "x", []])
def test_a_configuration_that_is_none_is_refused(tmp_path, config):
    native(tmp_path, lambda _, data: data.update(config=config))
    refuses(tmp_path, "'config' is missing or not an object")


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_mels": "80"},
        {"n_mels": -1},
        {"n_text_head": 3},
        {"n_vocab": None},
        {"alignment_heads": [[7, 0]]},
        {"alignment_heads": 5},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, wrong):
    refuses(native(tmp_path, **wrong), r"config\.json: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udcff"])
def test_an_unreadable_configuration_is_named(tmp_path, text):
    native(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refuses(tmp_path, r"config\.json: (not valid JSON|expected a JSON object)")


def test_the_tensors_of_the_own_format_are_checked(tmp_path):
    key = "encoder.blocks.0.fc1.bias"
    for change, message in (
        (lambda t, _: t.pop(key), rf"not filled: {key}"),
        (lambda t, _: t.update(more=mx.zeros(1)), "not in the model: more"),
        (lambda t, _: t.update({key: mx.zeros(3)}), rf"wrong shape: {key} \(3,\), expected \(16,\)"),
        (lambda t, _: t.update({key: mx.zeros(16, mx.int8)}), rf"whole numbers in {key}"),
    ):
        refuses(native(tmp_path, change), message)


def test_the_own_format_needs_its_weights(tmp_path):
    native(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refuses(tmp_path, r"model\.safetensors: no such file")


# --- originals --------------------------------------------------------------------------------------------


def test_the_origin_is_told(whisper):
    folder = FIXTURES / "huggingface"
    assert whisper.origin == Origin(f"path:{folder}", folder, "whisper", "whisper-huggingface")
    file = FIXTURES / "openai" / "model.pt"
    assert load(str(file)).origin == Origin(str(file), file.parent, "whisper", "whisper-openai")
    assert not whisper.training


def test_nothing_is_left_at_its_random_start(whisper):
    fresh = dict(tree_flatten(Whisper(whisper.config).parameters()))
    loaded = dict(tree_flatten(whisper.parameters()))
    assert {k for k in fresh if mx.array_equal(fresh[k], loaded[k])} == set()


def test_opening_reads_no_tensor():
    opened = open_checkpoint(FIXTURES / "huggingface")
    wanted = parameter_shapes(Whisper(opened.config))
    assert {k: x.shape for k, x in opened.outline().items()} == wanted
    assert set(opened.plan.targets) == set(wanted)


def test_another_familys_checkpoint_is_refused():
    with pytest.raises(CheckpointError, match=r"none of its 8\d keys is known \(model\."):
        open_checkpoint(FIXTURES / "huggingface", "silero-vad")


def test_no_known_checkpoint_is_refused(tmp_path):
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"weight": mx.zeros(3)})
    refuses(tmp_path, r"model\.safetensors: none of its 1 keys is known \(weight .*mlx-convert list")


def test_hugging_face_needs_its_configuration(tmp_path):
    shutil.copyfile(FIXTURES / "huggingface/model.safetensors", tmp_path / "model.safetensors")
    refuses(tmp_path, r"config\.json.*encoder_attention_heads")


@pytest.mark.parametrize("heads", [[[0]], [["a", "b"]], 3, [[0, 5]]])
def test_alignment_heads_that_make_no_sense_are_refused(tmp_path, heads):
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "huggingface", folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | {"alignment_heads": heads}))
    refuses(folder, "does not fit its tensors")


def test_a_checkpoints_own_tokenizer_is_taken(tmp_path, tokenizer):
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "huggingface", folder)
    assert tokenizer_for(load(f"path:{folder}")).encode(" Hello") == tokenizer.encode(" Hello")
    (folder / "tokenizer.json").write_text("{}")
    model = load(f"path:{folder}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a readable tokenizer"):
        tokenizer_for(model)


# --- dtypes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_is_as_asked(dtype):
    model = load(f"path:{FIXTURES / 'ctranslate2'}", dtype=dtype)
    assert {str(v.dtype) for _, v in tree_flatten(model.parameters())} == {f"mlx.core.{dtype}"}


def test_an_unknown_dtype_is_refused():
    with pytest.raises(OptionError, match="dtype 'int8' is not one of float32, float16, bfloat16"):
        load("silero-vad", dtype="int8")


def test_the_default_dtype_follows_device_and_family(monkeypatch):
    for cpu, half, wanted in (
        (True, True, mx.float32),
        (True, False, mx.float32),
        (False, True, mx.float16),
        (False, False, mx.float32),
    ):
        monkeypatch.setattr(runtime, "on_cpu", lambda cpu=cpu: cpu)
        assert runtime.resolve_dtype(None, half) == wanted
        assert runtime.resolve_dtype("bfloat16", half) == mx.bfloat16


# --- names ------------------------------------------------------------------------------------------------


def test_the_bundled_model_needs_nothing():
    model = load("silero-vad")
    assert isinstance(model, SileroVAD)
    assert model.origin == Origin("silero-vad", ASSETS / "silero-vad", "silero-vad", "silero-jit")


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("whisper-tinny", "whisper-tiny"),
        ("whisper-lage-v3", "whisper-large-v3"),
        ("silero", "silero-vad"),
        ("wisper-base.en", "whisper-base.en"),
    ],
)
def test_an_unknown_name_gives_the_closest(name, close):
    with pytest.raises(ModelNotFoundError, match=rf"no model called '{name}': did you mean .*{close}"):
        load(name)


def test_a_name_like_no_other_gives_the_ways_to_name():
    with pytest.raises(
        ModelNotFoundError, match=r"'mlx-speech models'.*'hub:org/name' and 'path:/folder'"
    ) as caught:
        load("zzzzzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("whisper-tiny.en", "whisper-tiny.en"),
        ("tiny.en", "whisper-tiny.en"),
        ("large-v3-turbo", "whisper-large-v3-turbo"),
        ("turbo", "whisper-large-v3-turbo"),
        ("large", "whisper-large-v3"),
        ("whisper-large", "whisper-large-v3"),
    ],
)
def test_short_names(name, alias):
    card = find_card(name)
    assert card is not None
    assert card.alias == alias


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda c: c.alias)
def test_cards_are_complete(card):
    assert CARDS[card.alias] is card
    assert card.family in _MODULES
    assert card.licence
    assert card.task
    assert card.origin
    assert card.bundled or card.repo
    if card.repo:
        assert card.origin.startswith("https://")
        # a moving revision is owned up to
        assert len(card.revision or "") == 40 or "not pinned" in card.note
    if card.bundled:
        assert any((ASSETS / card.bundled).iterdir())
    if card.wheel:
        assert set(card.wheel.sha256) <= set(card.wheel.files)
        assert all(len(digest) == 64 for digest in card.wheel.sha256.values())


def test_families_are_known_by_their_names():
    assert [f.name for f in families()] == list(_MODULES)
    with pytest.raises(CheckpointError, match="here: unknown family 'nemo'"):
        get_family("nemo", "here")


# --- environment ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["lots", "-1", "1.5", ""])
def test_a_cache_limit_that_is_no_number_is_refused(monkeypatch, value):
    monkeypatch.setenv(memory.CACHE_VARIABLE, value)
    with pytest.raises(OptionError, match=f"{memory.CACHE_VARIABLE}="):
        runtime.prepare()


def test_the_cache_limit_is_set(monkeypatch):
    monkeypatch.setenv(memory.CACHE_VARIABLE, "123456")
    runtime.prepare()
    assert mx.set_cache_limit(memory.DEFAULT_CACHE_LIMIT["cpu"]) == 123456

"""Convert → verify → load for every family and layout here, the same bytes twice, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from typer.testing import CliRunner

from mlx_speech.converters import _store, _write
from mlx_speech.converters._certificate import FILE, certificate, fixed_inputs, noise, run_stages, verify
from mlx_speech.converters._record import licence_of, name_repository, rules_version
from mlx_speech.converters._store import write_safetensors
from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
from mlx_speech.converters.cli import app, at_revision
from mlx_speech.errors import CheckpointError, OptionError, OutputError
from mlx_speech.hub import ASSETS
from mlx_speech.loading import load, open_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
SOURCES = {
    "whisper-huggingface": FIXTURES / "whisper/huggingface",
    "whisper-openai": FIXTURES / "whisper/openai/model.pt",
    "whisper-ctranslate2": FIXTURES / "whisper/ctranslate2",
    "whisper-ctranslate2 int8": FIXTURES / "whisper/ctranslate2-int8_float16",
    "wav2vec2-huggingface": FIXTURES / "wav2vec2/base",
    "wav2vec2-huggingface mms": FIXTURES / "wav2vec2/mms",
    "wav2vec2-hubert": FIXTURES / "wav2vec2/hubert",
    "whisper-ctc": FIXTURES / "whisper_ctc",
    "pyannet-lightning": FIXTURES / "pyannet/powerset.bin",
    "wespeaker": FIXTURES / "wespeaker/basic.bin",
    "wespeaker bottleneck": FIXTURES / "wespeaker/bottleneck.pt",
    "wespeaker-int8": ASSETS / "wespeaker-resnet34-LM",
    "silero-jit": ASSETS / "silero-vad",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_round_trip_gives_the_same_outputs(tmp_path, name):
    opened = open_checkpoint(SOURCES[name])
    assert opened.layout.startswith(name.split()[0])
    convert_checkpoint(opened, tmp_path / "made", name)
    assert max(verify(tmp_path / "made").values()) < 1e-4
    first, second = (load(f"path:{p}", dtype="float32") for p in (SOURCES[name], tmp_path / "made"))
    assert second.origin.layout == "mlx_speech"
    assert first.config == second.config
    for (key, a), (_, b) in zip(
        tree_flatten(first.parameters()), tree_flatten(second.parameters()), strict=True
    ):
        assert mx.array_equal(a, b), key


@pytest.mark.parametrize("shard_bytes", [_store.SHARD_BYTES, 10_000])
def test_converting_twice_gives_the_same_bytes(tmp_path, shard_bytes):
    for n in "ab":
        opened = open_checkpoint(FIXTURES / "wav2vec2/stable")
        convert_checkpoint(opened, tmp_path / n, "stable", ConvertOptions(shard_bytes=shard_bytes))
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert ("model.safetensors.index.json" in names) == (shard_bytes == 10_000)
    assert {"README.md", "config.json", FILE, "vocab.json"} <= set(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert (len([*tmp_path.glob("a/*.safetensors")]) > 1) == (shard_bytes == 10_000)
    assert load(f"path:{tmp_path / 'a'}").config == opened.config


def test_the_record_tells_where_it_comes_from(tmp_path):
    source = tmp_path / "model"
    shutil.copytree(FIXTURES / "whisper/huggingface", source)
    (source / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-nc-4.0\n---\n# x\n")
    (source / "LICENSE").write_text("terms")
    convert_checkpoint(open_checkpoint(source), tmp_path / "made", str(source))
    told = json.loads((tmp_path / "made/config.json").read_text())
    about = told["provenance"]
    assert (told["format_version"], told["family"], about["source"]) == (1, "whisper", "model")
    assert set(about["files"]) == {"model.safetensors"}
    assert len(about["files"]["model.safetensors"]) == 64
    assert about["rules"] == rules_version(open_checkpoint(source).family)
    assert str(tmp_path) not in (tmp_path / "made/config.json").read_text()
    card = (tmp_path / "made/README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert "library_name: mlx" in card
    assert 'mlx_speech.transcribe("audio.wav", model="hub:ORG/NAME")' in card
    assert 'model="hub:me/mine")' in name_repository(name_repository(card, "a/b"), "me/mine")
    assert name_repository('load("hub:x/y")', "me/mine") == 'load("hub:x/y")', "someone else's card"
    assert (tmp_path / "made/LICENSE").read_text() == "terms"
    assert licence_of("whisper-tiny.en", tmp_path) == "Apache-2.0"
    assert licence_of("nothing", tmp_path / "made" / "none") is None
    # converted again, the first conversion is remembered
    convert_checkpoint(
        open_checkpoint(tmp_path / "made"), tmp_path / "again", "made", ConvertOptions(mx.float16)
    )
    again = json.loads((tmp_path / "again/config.json").read_text())["provenance"]
    assert again["before"] == about
    assert again["dtypes"] == ["float16"]


# --- the certificate --------------------------------------------------------------------------------------


def test_noise_is_the_same_everywhere():
    found = noise(4)
    assert found.dtype == np.float32
    assert found.tolist() == noise(2, 2).ravel().tolist()
    assert np.abs(noise(10_000)).max() <= 1
    assert abs(noise(10_000).mean()) < 0.03
    # computed once, by another implementation's integers
    x = (1 * 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ x >> 29) * 0xBF58476D1CE4E5B9) % 2**64
    assert found[1] == np.float32((x >> 40) / 2**23 - 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("certified") / "made"
    convert_checkpoint(open_checkpoint(FIXTURES / "whisper/ctranslate2"), target, "test")
    return target


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def change(folder: Path, **new: Any) -> None:
    told = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(told | new))


def test_verify_fails_loudly(copy):
    told = json.loads((copy / FILE).read_text())
    stages = told["stages"]
    moved = stages["logits"] | {"goldens": [v * 1.01 for v in stages["logits"]["goldens"]]}
    for new, message in (
        ({"stages": stages | {"logits": moved}}, "makes other numbers.*logits by 9"),
        ({"stages": stages | {"logits": moved | {"goldens": [1.0]}}}, "has 1 goldens, not 48"),
        ({"stages": stages | {"logits": moved | {"shape": [1]}}}, "logits has shape"),
        ({"stages": {"encoder": stages["encoder"]}}, "tells of stages encoder, not encoder, logits"),
        ({"inputs": {}}, "made from other inputs"),
        (
            {"stages": stages | {"logits": moved | {"goldens": ["a"]}}},
            "logits has goldens that are no numbers",
        ),
        ({"weights": None}, "does not say what weights"),
        ({"weights": {"model.safetensors": "0" * 64}}, r"other weights than model\.safetensors"),
        ({"version": 2}, "no certificate of version 1"),
    ):
        (copy / FILE).write_text(json.dumps(told | new))
        with pytest.raises(CheckpointError, match=message):
            verify(copy)
    (copy / FILE).unlink()
    with pytest.raises(CheckpointError, match="no certificate"):
        verify(copy)


def test_one_weight_that_changed_is_seen(copy):
    file = copy / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 0x40
    file.write_bytes(raw)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        verify(copy)
    done = CliRunner().invoke(app, ["verify", str(copy)])
    assert done.exit_code != 0


def test_an_originals_stages_are_held_against_ours(made):
    model = load(f"path:{made}", dtype="float32")
    theirs = run_stages("whisper", model, fixed_inputs("whisper", model.config))
    exact = certificate(made, ("test 1.0", theirs))
    assert exact["stages"]["logits"]["against_original"] == {"max_abs": 0, "relative_l2": 0, "cosine": 1}
    off = certificate(made, ("test 1.0", {"logits": theirs["logits"] * 2}))
    assert off["stages"]["logits"]["against_original"]["relative_l2"] == 0.5
    assert "against_original" not in off["stages"]["encoder"]
    with pytest.raises(CheckpointError, match="the original makes"):
        certificate(made, ("test 1.0", {"logits": theirs["logits"][:, :1]}))


# --- nothing half-written ---------------------------------------------------------------------------------


def convert_silero(target: Path, force: bool = False) -> None:
    convert_checkpoint(
        open_checkpoint(ASSETS / "silero-vad"), target, "silero-vad", ConvertOptions(force=force)
    )


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
def test_a_full_disk_and_ctrl_c_leave_nothing(tmp_path, monkeypatch, error):
    def stop(*_: Any) -> None:
        raise error

    monkeypatch.setattr(_store, "_bytes", stop)
    wanted = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        convert_silero(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (tmp_path / "model.safetensors").symlink_to("/dev/full")
    x = mx.zeros(100_000)
    with pytest.raises(OSError, match="No space left"):
        write_safetensors(tmp_path, {"x": x}, [("x", x)], {})


def test_nothing_is_overwritten_unasked(tmp_path, monkeypatch):
    convert_silero(tmp_path / "made")
    before = (tmp_path / "made/model.safetensors").stat().st_ino
    with pytest.raises(OutputError, match="--force replaces it"):
        convert_silero(tmp_path / "made")
    monkeypatch.setattr(_write._certificate, "certificate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert_silero(tmp_path / "made", force=True)
    assert (tmp_path / "made/model.safetensors").stat().st_ino == before
    monkeypatch.undo()
    convert_silero(tmp_path / "made", force=True)
    assert (tmp_path / "made/model.safetensors").stat().st_ino != before
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputError, match="not a converted checkpoint, so it is not replaced"):
        convert_silero(tmp_path / "other", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "other"]


def test_the_writer_wants_what_was_outlined(tmp_path):
    x = mx.zeros((2, 3))
    for tensors in ([], [("x", x), ("x", x)], [("x", x.astype(mx.float16))], [("x", mx.zeros((3, 2)))]):
        with pytest.raises(ValueError, match=r"never came|outlined"):
            write_safetensors(tmp_path, {"x": x}, tensors, {})


# --- bad inputs -------------------------------------------------------------------------------------------


def changed(tmp_path: Path, key: str, value: mx.array) -> Path:
    source = Path(shutil.copytree(FIXTURES / "whisper/huggingface", tmp_path / "source"))
    tensors = dict(mx.load(str(source / "model.safetensors")))
    tensors[key] = value
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    return source


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path, bad):
    key = "model.encoder.conv1.bias"
    source = changed(tmp_path, key, mx.full((8,), bad, mx.float16))
    with pytest.raises(CheckpointError, match=r"encoder\.conv1\.bias holds NaN or infinity"):
        convert_checkpoint(open_checkpoint(source), tmp_path / "made", "x")
    assert not (tmp_path / "made").exists()


def test_what_float16_cannot_hold_is_named(tmp_path):
    source = changed(tmp_path, "model.encoder.conv1.bias", mx.full((8,), 1e6))
    with pytest.raises(CheckpointError, match="--dtype bfloat16 or float32"):
        convert_checkpoint(open_checkpoint(source), tmp_path / "made", "x", ConvertOptions(mx.float16))
    convert_checkpoint(
        open_checkpoint(source), tmp_path / "made", "x", ConvertOptions(mx.bfloat16, goldens=False)
    )


def test_a_companion_that_links_elsewhere_is_refused(tmp_path):
    source = Path(shutil.copytree(FIXTURES / "whisper/huggingface", tmp_path / "source"))
    (tmp_path / "secret").write_text("secret")
    (source / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: a link to a file elsewhere"):
        convert_checkpoint(open_checkpoint(source), tmp_path / "made", "x")
    assert not (tmp_path / "made").exists()


def entry(key: str, size: int, begin: int) -> str:
    return f'"{key}":{{"dtype":"F32","shape":[{size}],"data_offsets":[{begin},{begin + 4}]}}'


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(f"{{{entry('a', 1, 0)},{entry('a', 1, 0)}}}", id="a key twice"),
        pytest.param(f"{{{entry('a', 2, 0)}}}", id="too few bytes"),
        pytest.param(f"{{{entry('a', 1, 4)}}}", id="beyond the file"),
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_bad_safetensors_headers_are_named(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or incomplete"):
        open_checkpoint(path)


def test_an_oversized_header_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or incomplete"):
        open_checkpoint(path)


def test_the_list_tells_names_and_licences():
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["list"])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert any(re.match(r"wespeaker +mlx_speech, pyannote, .*onnx-by-order\s*$", line) for line in lines)
    assert any(re.match(r"whisper-large-v3-turbo +whisper +MIT +openai/whisper", line) for line in lines)


def test_a_revision_needs_a_repository(tmp_path):
    assert at_revision("org/name", "v1") == "hub:org/name@v1"
    assert at_revision("hub:org/name", "v1") == "hub:org/name@v1"
    assert at_revision("anything", None) == "anything"
    for source in ("whisper-tiny", str(tmp_path), "org/name@v2"):
        with pytest.raises(OptionError, match="is not a Hub repository"):
            at_revision(source, "v1")

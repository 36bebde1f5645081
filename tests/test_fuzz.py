"""Damaged files of every format: an error by name or other numbers, never a crash, a hang or code that runs.

The files are tests/fixtures/readers, by the originals' own writers. ``MLX_SPEECH_FUZZ=1000 pytest
tests/test_fuzz.py`` is the long run; its counts stand in docs/converting.md.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_speech.converters._read import open_tensors
from mlx_speech.errors import CheckpointError
from mlx_speech.loading import open_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted((FIXTURES / "readers").iterdir())
KINDS = ("change", "change", "change", "insert", "delete", "repeat", "cut")
EXAMPLES = int(os.environ.get("MLX_SPEECH_FUZZ", "100"))
fuzz = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow], database=None)


def damage(raw: bytes, data: Any) -> bytes:
    """Bytes changed, put in, taken out, written twice or cut off, one to four times."""
    found = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(found) - 1, 0)))
        length = data.draw(st.integers(1, 16))
        kind = data.draw(st.sampled_from(KINDS))
        if kind == "change":
            found[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif kind == "insert":
            found[at:at] = data.draw(st.binary(min_size=1, max_size=length))
        elif kind == "delete":
            del found[at : at + length]
        elif kind == "repeat":
            found[at:at] = found[at : at + length]
        else:
            del found[at:]
    return bytes(found)


def read(path: Path) -> bool:
    """Whether a file is still read; then every tensor is what its description says."""
    try:
        found = open_tensors(path)
        for key, spec in found.specs.items():
            assert found[key].shape == spec.shape, key
    except CheckpointError as error:
        return names(error, path.parent)
    return True


def names(error: CheckpointError, folder: Path) -> bool:
    """False, once the error is seen to say where it was met."""
    assert str(folder) in str(error), error
    return False


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_the_whole_files_are_read(file):
    assert read(file)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
@fuzz
@given(data=st.data())
def test_a_damaged_file_is_an_error_or_other_numbers(file, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / f"damaged{file.suffix}"
    path.write_bytes(damage(file.read_bytes(), data))
    read(path)


@fuzz
@given(data=st.data())
def test_a_damaged_index_is_an_error_or_the_same_numbers(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "shards"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(FIXTURES / "readers/tiny.safetensors", folder / "model-00001-of-00001.safetensors")
    keys = open_tensors(folder / "model-00001-of-00001.safetensors")
    index = json.dumps(
        {"metadata": {}, "weight_map": dict.fromkeys(keys, "model-00001-of-00001.safetensors")}
    )
    path = folder / "model.safetensors.index.json"
    path.write_bytes(damage(index.encode(), data))
    read(path)


CONFIGURED = [FIXTURES / "whisper/huggingface/config.json", FIXTURES / "wav2vec2/base/config.json"]


@pytest.mark.parametrize("file", CONFIGURED, ids=lambda p: p.parent.name)
@fuzz
@given(data=st.data())
def test_a_damaged_configuration_is_an_error_or_another_model(file, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / file.parent.name
    if not folder.exists():
        shutil.copytree(file.parent, folder)
    (folder / "config.json").write_bytes(damage(file.read_bytes(), data))
    try:
        open_checkpoint(folder)
    except CheckpointError as error:
        names(error, folder)

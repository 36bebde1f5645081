"""For all tests: no network, an empty cache, and the tiny Whisper of parity/fixtures_whisper.py."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

# before huggingface_hub is imported, which reads them once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mlx-speech-tests-")

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import numpy as np
import pytest
from hypothesis import settings

from mlx_speech.loading import load
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "fixtures" / "whisper"
CHECKPOINTS = {
    "whisper-huggingface": FIXTURES / "huggingface",
    "whisper-openai": FIXTURES / "openai" / "model.pt",
    "whisper-ctranslate2": FIXTURES / "ctranslate2",
}

settings.register_profile("house", deadline=None)  # a busy machine is no failure
settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    # the numbers are the same; where no fast BLAS is installed the tests only take longer
    config.addinivalue_line("filterwarnings", "ignore::mlx_speech.runtime.SlowBLASWarning")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a test reached for the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def whisper() -> Whisper:
    """The tiny multilingual model with the real vocabulary, float32."""
    return load(f"path:{CHECKPOINTS['whisper-huggingface']}", dtype="float32")


@pytest.fixture(scope="session")
def tokenizer(whisper: Whisper) -> Tokenizer:
    return Tokenizer(whisper.config)


@pytest.fixture(scope="session")
def expected() -> dict[str, np.ndarray]:
    """What transformers makes of the tiny weights in float64; ``mel`` is (2, 3000, 80) float32."""
    with np.load(FIXTURES / "model.npz") as file:
        return {k: file[k].astype(np.float32) / 32 if k == "mel" else file[k] for k in file}


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command; answers its exit code, output and errors (line breaks folded)."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("COLUMNS", "200")

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["mlx-speech", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return call


@pytest.fixture(scope="session")
def as_program(tmp_path_factory) -> Callable[[str], Callable[[Sequence[np.ndarray]], bytes]]:
    """Compiles C++ that runs a GPU kernel's source by threads: from arrays on its standard input to its output."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("needs a C++ compiler")

    def build(source: str) -> Callable[[Sequence[np.ndarray]], bytes]:
        folder = tmp_path_factory.mktemp("kernel")
        (folder / "kernel.cpp").write_text(source)
        command = [compiler, "-std=c++20", "-O1", "-pthread", folder / "kernel.cpp", "-o", folder / "kernel"]
        subprocess.run(command, check=True)

        def run(arrays: Sequence[np.ndarray]) -> bytes:
            given = b"".join(x.tobytes() for x in arrays)
            return subprocess.run(
                [folder / "kernel"], input=given, capture_output=True, check=True, timeout=120
            ).stdout

        return run

    return build

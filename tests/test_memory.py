"""A limit on memory makes batches smaller, and what is heard in them stays the same."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_speech import OptionError, limit_memory, memory, runtime
from mlx_speech.loading import load
from mlx_speech.memory import MIB, fitting
from mlx_speech.stages import segmentation, transcribe


@pytest.fixture
def limit():
    yield limit_memory
    limit_memory(None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4GB", 4 * 10**9),
        ("4 gib", 4 << 30),
        ("1.5G", 1_500_000_000),
        ("2000MiB", 2000 << 20),
        ("1000MiB", 1000 << 20),
        ("3000000000", 3 * 10**9),
        (2 << 30, 2 << 30),
    ],
)
def test_amounts_of_memory(limit, text, value):
    limit(text)
    assert memory._limit == value
    assert mx.set_memory_limit(value) == value
    assert memory.cache_limit() == min(memory.DEFAULT_CACHE_LIMIT["cpu"], value // 8)


@pytest.mark.parametrize("text", ["much", "4 XB", "-4GB", "", "GB", "0", "999KB", "500MB", "999MiB"])
def test_what_is_no_amount_is_told(limit, text):
    with pytest.raises(OptionError, match="max_memory"):
        limit(text)
    assert memory._limit is None


def test_no_limit_gives_mlx_its_own_back(limit):
    own = mx.set_memory_limit(10**10)
    mx.set_memory_limit(own)
    limit("2GB")
    limit(None)
    assert mx.set_memory_limit(own) == own
    assert fitting(1 << 40, 7) == 7


@pytest.mark.skipif(memory._LINUX is None, reason="another C library")
def test_no_limit_gives_the_c_library_its_speed_back(limit, monkeypatch):
    told = []
    monkeypatch.setattr(memory, "_give_back_from", told.append)
    limit("2GB")
    limit(None)
    assert told == [4 * MIB, 32 * MIB]


def test_batches_follow_the_limit(limit, whisper, monkeypatch):
    monkeypatch.setattr(transcribe, "_BESIDE", 100 * MIB)  # the tiny model takes next to nothing itself
    limit("1.1GB")
    few = fitting(50 * MIB, 64)
    limit("3GB")
    more = fitting(50 * MIB, 64)
    assert 1 <= few < more < 64
    assert fitting(50 * MIB, 8) == 8
    assert fitting(1 << 40, 8) == 1
    limit("1.1GB")
    assert 1 <= transcribe.windows_together(whisper) < 8
    limit(None)
    assert transcribe.windows_together(whisper) == 8


def test_smaller_batches_hear_the_same(limit):
    network = load("segmentation-3.0")
    audio = np.random.default_rng(0).normal(0, 0.1, 16000 * 24).astype(np.float32)
    whole = segmentation.segment(network, audio, step=5.0)
    limit("1.05GB")
    assert fitting(segmentation._NEEDED * 100, 4) == 1
    parts = segmentation.segment(network, audio, step=5.0, batch_size=1)
    assert np.allclose(whole.scores, parts.scores, atol=1e-5)


def test_tidying_does_no_harm():
    array = mx.ones((1000,))
    memory.tidy()
    assert array.sum().item() == 1000


@pytest.mark.parametrize(("gigabytes", "windows"), [(80, 128), (16, 32), (8, 16), (0.1, 1), (0, 128)])
def test_a_gpu_takes_as_many_windows_as_its_memory_bears(monkeypatch, limit, gigabytes, windows):
    monkeypatch.setattr(runtime, "on_cpu", lambda: False)
    monkeypatch.setattr(runtime, "gpu_memory", lambda: int(gigabytes * 2**30))
    assert runtime.at_once(32 << 20, 4, 128) == windows
    limit("1500MiB")
    assert runtime.at_once(32 << 20, 4, 128) <= min(windows, 21)


def test_a_gpu_keeps_more_for_later(monkeypatch):
    monkeypatch.delenv(memory.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(memory, "_limit", None)
    assert memory.cache_limit() == memory.DEFAULT_CACHE_LIMIT["cpu"]
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    assert memory.cache_limit() == memory.DEFAULT_CACHE_LIMIT["gpu"]

"""Long recordings lie in a file, and everything that hears them hears what it would hear in memory."""

from __future__ import annotations

import errno
import tempfile

import mlx.core as mx
import numpy as np
import pytest

from mlx_speech import spool
from mlx_speech.audio import as_audio, load_audio
from mlx_speech.features import RecordingMel, _filters, _spectrum
from mlx_speech.hub import ASSETS
from mlx_speech.loading import load
from mlx_speech.stages.segmentation import segment
from mlx_speech.stages.speech import speech_probabilities

CLIP = ASSETS / "demo" / "three_readers.flac"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)


def blocks(*sizes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("sizes", [(), (1000,), (400, 400), (1001,), (600, 600, 1), (900, 0, 5000)])
def test_all_samples_come_back_in_order(small, sizes):
    given = blocks(*sizes)
    found = spool.spooled(given)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.concatenate([*given, np.zeros(0, np.float32)]))
    assert spool.is_spooled(found) == (sum(sizes) > 1000)


def test_what_was_forgotten_is_read_again(small):
    given = blocks(600, 600)
    found = spool.spooled(given)
    part = found[100:700]
    for array in (found, part, np.zeros(3)):
        spool.forget(array)
    assert np.array_equal(found, np.concatenate(given))
    assert np.array_equal(part, found[100:700])
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


def test_nothing_is_left_behind(small, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = spool.spooled(blocks(2000))
    assert spool.is_spooled(found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 1, 3999, 4000, 6000, 9000])
def test_a_full_disk_keeps_the_rest_in_memory(small, monkeypatch, room):
    given = blocks(900, 100, 500, 500, 10)

    class Disk:
        """A file in which ``room`` bytes find place."""

        def __init__(self, **_):
            self.file = real(buffering=0)
            self.left = room

        def write(self, data):
            taken = self.file.write(bytes(data)[: self.left])
            self.left -= taken
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            return taken

        def __getattr__(self, name):
            return getattr(self.file, name)

    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", Disk)
    found = spool.spooled(given)
    assert np.array_equal(found, np.concatenate(given))
    assert spool.is_spooled(found) == (room >= 4 * 2010)


@pytest.mark.parametrize("sizes", [(2000,), (900, 200, 300)])
def test_a_file_system_without_mappings_keeps_all_in_memory(small, monkeypatch, sizes):
    class Refused(spool._Mapping):
        def __new__(cls, *_, **__):
            raise OSError(errno.ENODEV, "No such device")

    given = blocks(*sizes)
    monkeypatch.setattr(spool, "_Mapping", Refused)
    assert np.array_equal(spool.spooled(given), np.concatenate(given))


def test_a_decoder_that_fails_is_heard(small):
    def broken():
        yield from blocks(2000)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        spool.spooled(broken())


def test_stages_hear_a_file_as_they_hear_memory(small, monkeypatch):
    heard, held = as_audio(CLIP), load_audio(CLIP)
    assert spool.is_spooled(heard)
    assert as_audio(heard) is heard
    assert np.array_equal(heard, held)
    vad, network = load("silero-vad"), load("segmentation-3.0")
    assert np.array_equal(speech_probabilities(vad, heard), np.array(vad(mx.array(held))))
    monkeypatch.setattr("mlx_speech.stages.speech._BLOCK", 512 * 100)  # 2048 chunks at once, as the whole has
    assert np.allclose(speech_probabilities(vad, heard), np.array(vad(mx.array(held))), atol=1e-6)
    few = segment(network, heard[: 16000 * 12], step=5.0, batch_size=1)
    many = segment(network, held[: 16000 * 12], step=5.0, batch_size=1)
    assert np.array_equal(few.scores, many.scores)


@pytest.mark.parametrize("length", [1, 150, 201, 480_000, 1_930_000])
def test_the_mel_of_a_recording_is_that_of_the_padded_whole(length):
    audio = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    mel = RecordingMel(audio)
    mel = mel.part(0, mel.frames)
    padded = np.pad(np.pad(audio, (0, 480_000)), 200, mode="reflect")

    frames = [padded[n * 160 : n * 160 + 400] for n in (0, 1, 2, len(mel) // 2, len(mel) - 1)]
    power = np.array(_spectrum(mx.array(np.stack(frames))) @ _filters(80))
    logs = np.log10(np.maximum(power, 1e-10))
    ours = np.array(mel)[[0, 1, 2, len(mel) // 2, len(mel) - 1]] * 4 - 4
    floor = ours.min()
    assert np.allclose(ours, np.maximum(logs, floor), atol=2e-4)

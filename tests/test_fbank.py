"""Kaldi's filter bank against torchaudio's, whose numbers stand in fixtures/wespeaker (made by
parity/fixtures_wespeaker.py).
"""

from __future__ import annotations

from pathlib import Path

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest

from mlx_speech.errors import AudioError
from mlx_speech.features import kaldi_fbank

EXPECTED = Path(__file__).parent / "fixtures/wespeaker/expected.npz"


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(EXPECTED) as file:
        return {k: file[k] for k in file}


def test_fbank_equals_torchaudio(expected):
    found = np.array(kaldi_fbank(mx.array(expected["audio"].astype(np.float32))))
    assert found.shape == (2, 98, 80)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected["fbank"], rtol=0, atol=1e-4)


def test_rows_and_blocks_do_not_show(expected, monkeypatch):
    audio = mx.array(expected["audio"].astype(np.float32))
    whole = kaldi_fbank(audio)
    monkeypatch.setattr("mlx_speech.features._FBANK_BLOCK", 7)
    np.testing.assert_allclose(kaldi_fbank(audio), whole, rtol=0, atol=1e-4)
    np.testing.assert_allclose(kaldi_fbank(audio[1]), whole[1], rtol=0, atol=1e-4)


def test_silence_gives_the_floor():
    found = np.array(kaldi_fbank(mx.zeros(400)))
    assert found.shape == (1, 80)
    np.testing.assert_allclose(found, np.log(np.float32(2**-23)), rtol=1e-6)


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (160000, 998)])
def test_frames_lie_inside_the_audio(samples, frames):
    assert kaldi_fbank(mx.zeros((1, samples))).shape == (1, frames, 80)
    assert kaldi_fbank(mx.zeros((0, samples))).shape == (0, frames, 80)


def test_unusable_audio_is_refused():
    with pytest.raises(AudioError, match="399 samples"):
        kaldi_fbank(mx.zeros((1, 399)))
    with pytest.raises(AudioError, match="int16"):
        kaldi_fbank(mx.zeros((1, 400), mx.int16))
    with pytest.raises(AudioError, match="shape"):
        kaldi_fbank(mx.zeros((1, 1, 400)))

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
from mlx_speech.features import _htk_filters, kaldi_fbank

EXPECTED = Path(__file__).parent / "fixtures/wespeaker/expected.npz"


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(EXPECTED) as file:
        return {k: file[k] for k in file}


@pytest.fixture(params=[True, False], ids=["float64", "float32"])
def double(request, monkeypatch) -> bool:
    """Both ways of computing, the CPU's and the GPU's."""
    monkeypatch.setattr("mlx_speech.features.runtime.on_cpu", lambda: request.param)
    return request.param


def test_fbank_equals_torchaudio(expected, double):
    found = np.array(kaldi_fbank(mx.array(expected["audio"].astype(np.float32))))
    assert found.shape == (2, 98, 80)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected["fbank"], rtol=0, atol=1e-4)


def test_bands_beside_a_loud_tone_keep_their_digits():
    tone = (0.9 * np.sin(2 * np.pi * 440 * np.arange(4000) / 16000)).astype(np.float32)
    frames = np.stack([tone[n : n + 400] for n in range(0, 3601, 160)]).astype(np.float64) * 32768
    frames -= frames.mean(1, keepdims=True)
    frames -= 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    n = np.arange(400)
    frames *= 0.54 - 0.46 * np.cos(2 * np.pi * n / 399)
    power = np.abs(frames @ np.exp(-2j * np.pi * n[:, None] * np.arange(256) / 512)) ** 2
    wanted = np.log(power @ _htk_filters(80))
    np.testing.assert_allclose(kaldi_fbank(mx.array(tone)), wanted, rtol=0, atol=3e-6)


def test_rows_and_blocks_do_not_show(expected, double, monkeypatch):
    audio = mx.array(expected["audio"].astype(np.float32))
    whole = kaldi_fbank(audio)
    monkeypatch.setattr(f"mlx_speech.features.{'_DOUBLE_BLOCK' if double else '_FBANK_BLOCK'}", 7)
    np.testing.assert_allclose(kaldi_fbank(audio), whole, rtol=0, atol=1e-4)
    np.testing.assert_allclose(kaldi_fbank(audio[1]), whole[1], rtol=0, atol=1e-4)


def test_silence_gives_the_floor(double):
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

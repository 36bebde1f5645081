"""What the models hear: Whisper's log-mel spectrogram.

Original: https://github.com/openai/whisper/blob/v20250625/whisper/audio.py (MIT). The mel scale is Slaney's
(Auditory Toolbox, 1998), linear below 1 kHz and logarithmic above, with triangles of equal area.
"""

from __future__ import annotations

import functools

import mlx.core as mx
import numpy as np

SAMPLE_RATE = 16_000
N_FFT = 400
HOP = 160  # samples: 10 ms
WINDOW_SECONDS = 30.0
WINDOW_SAMPLES = 480_000


def pad_or_trim(audio: np.ndarray, length: int = WINDOW_SAMPLES) -> np.ndarray:
    """Cut audio (T,) to ``length`` samples, or append zeros up to it."""
    return np.pad(audio[:length], (0, max(length - len(audio), 0)))


def log_mel(audio: mx.array, n_mels: int = 80) -> mx.array:
    """Whisper's input: log10 mel energies, floored 8 below their maximum and scaled.

    The floor follows the maximum over each row, so what a row spans matters: the batched path gives each
    30 s window its own.

    Args:
        audio: (T,) or (B, T) float32 at 16 kHz, at least 201 samples a row.
        n_mels: mel bands, 80 or 128 (large-v3).

    Returns:
        (T // 160, n_mels) or (B, T // 160, n_mels) float32.
    """
    single = audio.ndim == 1
    rows = audio[None] if single else audio
    mel = mx.maximum(_power(rows) @ _filters(n_mels), 1e-10)
    log = mx.log10(mel)
    log = mx.maximum(log, mx.max(log, axis=(1, 2), keepdims=True) - 8.0)
    log = (log + 4.0) / 4.0
    return log[0] if single else log


def _power(rows: mx.array) -> mx.array:
    """Power spectrogram (B, T // 160, 201): centred frames, reflected edges, the last frame dropped."""
    batch, length = rows.shape
    half = N_FFT // 2
    left = rows[:, half:0:-1]
    right = rows[:, -2 : -half - 2 : -1]
    padded = mx.contiguous(mx.concatenate([left, rows, right], axis=1))
    frames = mx.as_strided(padded, (batch, length // HOP, N_FFT), (padded.shape[1], HOP, 1))
    spectrum = mx.fft.rfft(frames * _window(), axis=-1)
    return mx.square(spectrum.real) + mx.square(spectrum.imag)


@functools.cache
def _window() -> mx.array:
    """The periodic Hann window."""
    return mx.array((0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32))


@functools.cache
def _filters(n_mels: int) -> mx.array:
    return mx.array(slaney_filters(n_mels).T.astype(np.float32))


def slaney_filters(n_mels: int, n_fft: int = N_FFT, sampling_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Slaney's mel triangles of unit area up to half the sampling rate: (n_mels, n_fft // 2 + 1) float64."""
    top = _hz_to_mel(sampling_rate / 2)
    edges = _mel_to_hz(np.linspace(0.0, top, n_mels + 2))
    bins = np.linspace(0.0, sampling_rate / 2, n_fft // 2 + 1)
    widths = np.diff(edges)
    ramps = edges[:, None] - bins[None, :]
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None])


_LINEAR_HZ = 200.0 / 3  # Hz a mel below the break
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0  # above the break, 27 mels span a factor of 6.4


def _hz_to_mel(hz: float) -> float:
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP) if hz >= _BREAK_HZ else hz / _LINEAR_HZ


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < _BREAK_MEL, mels * _LINEAR_HZ, _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL)))

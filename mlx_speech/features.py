"""What the models hear: Whisper's log-mel spectrogram, and Kaldi's filter bank for speaker embeddings.

Original of the first: https://github.com/openai/whisper/blob/v20250625/whisper/audio.py (MIT). The mel scale
is Slaney's (Auditory Toolbox, 1998), linear below 1 kHz and logarithmic above, with triangles of equal area.

Original of the second: Kaldi's ``compute-fbank-feats`` by way of
https://github.com/pytorch/audio/blob/v2.8.0/src/torchaudio/compliance/kaldi.py (BSD-2-Clause). The mel scale
is HTK's, with triangles of equal height, straight in mel. Bands beside loud ones lose digits: float32 leaves
logarithms 1e-3 off, in the original too. A CPU computes them in float64, which MLX has no Fourier transform for.
"""

from __future__ import annotations

import functools
import math

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.errors import AudioError
from mlx_speech.spool import forget

SAMPLE_RATE = 16_000
N_FFT = 400
HOP = 160  # samples: 10 ms
FBANK_WINDOW = 400  # samples: 25 ms
FBANK_HOP = 160  # samples: 10 ms
WINDOW_SECONDS = 30.0
WINDOW_SAMPLES = 480_000
_BLOCK = 12_000  # frames worked on at a time: two minutes


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


class RecordingMel:
    """The same of a whole recording with 30 s of silence after it, one maximum for all, held nowhere.

    The maximum is found once, a few minutes at a time; the frames that are asked for are computed anew.

    Args:
        audio: (T,) float32 at 16 kHz.
        n_mels: mel bands.
    """

    def __init__(self, audio: np.ndarray, n_mels: int = 80) -> None:
        self.audio, self.n_mels = audio, n_mels
        self.frames = (len(audio) + WINDOW_SAMPLES) // HOP
        self.floor = -math.inf
        for first in range(0, self.frames, _BLOCK):
            loudest = float(np.array(mx.max(self._logs(first, min(first + _BLOCK, self.frames)))))
            self.floor = max(self.floor, loudest - 8.0)
            forget(audio)

    def part(self, first: int, last: int) -> mx.array:
        """Frames ``first`` to ``last`` (excluded), as far as there are so many: (N, n_mels) float32."""
        return (mx.maximum(self._logs(first, min(last, self.frames)), self.floor) + 4.0) / 4.0

    def _logs(self, first: int, last: int) -> mx.array:
        begin = first * HOP - N_FFT // 2
        samples = mx.array(_stretch(self.audio, begin, begin + (last - first - 1) * HOP + N_FFT))
        power = _spectrum(mx.as_strided(samples, (last - first, N_FFT), (HOP, 1)))
        return mx.log10(mx.maximum(power @ _filters(self.n_mels), 1e-10))


def _stretch(audio: np.ndarray, first: int, last: int) -> np.ndarray:
    """Samples ``first`` to ``last`` (excluded): reflected before the recording's start, silence after its end."""
    inside = audio[max(first, 0) : last].astype(np.float32, copy=False)
    end = np.zeros(last - max(first, 0) - len(inside), np.float32)
    begin = np.concatenate([audio[1 : 1 - first], end])[:-first][::-1] if first < 0 else end[:0]
    return np.concatenate([begin, inside, end])


def _power(rows: mx.array) -> mx.array:
    """Power spectrogram (B, T // 160, 201): centred frames, reflected edges, the last frame dropped."""
    batch, length = rows.shape
    half = N_FFT // 2
    left = rows[:, half:0:-1]
    right = rows[:, -2 : -half - 2 : -1]
    padded = mx.contiguous(mx.concatenate([left, rows, right], axis=1))
    return _spectrum(mx.as_strided(padded, (batch, length // HOP, N_FFT), (padded.shape[1], HOP, 1)))


def _spectrum(frames: mx.array) -> mx.array:
    """Power (…, 201) of frames (…, 400)."""
    spectrum = mx.fft.rfft(frames * _window(), axis=-1)
    return mx.square(spectrum.real) + mx.square(spectrum.imag)


@functools.cache
def _window() -> mx.array:
    """The periodic Hann window."""
    return mx.array((0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32))


@functools.cache
def _filters(n_mels: int) -> mx.array:
    return mx.array(slaney_filters(n_mels).T.astype(np.float32))


def slaney_filters(n_mels: int) -> np.ndarray:
    """Slaney's mel triangles of unit area up to 8 kHz: (n_mels, 201) float64."""
    highest = SAMPLE_RATE / 2
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(highest), n_mels + 2))
    bins = np.linspace(0.0, highest, N_FFT // 2 + 1)
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


# --- Kaldi's filter bank ------------------------------------------------------------------------------------

_FBANK_FFT = 512
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_SCALE = 32768.0  # Kaldi hears 16-bit samples
_FLOOR = 1.1920928955078125e-07  # float32's epsilon
_FBANK_BLOCK = 8192  # frames worked on at a time: bounds memory
_DOUBLE_BLOCK = 512  # the same on a CPU, near its cache


def kaldi_fbank(audio: mx.array, n_mels: int = 80) -> mx.array:
    """Log mel energies as Kaldi has them, without dither: what WeSpeaker hears, before mean subtraction.

    Samples are taken times 32768. Frames lie wholly inside the audio; each loses its mean, is pre-emphasised
    by 0.97 on its own, and goes through a Hamming window.

    Args:
        audio: (L,) or (B, L) float32 at 16 kHz within [-1, 1], at least 400 samples a row.
        n_mels: bands between 20 and 8000 Hz.

    Returns:
        (T, n_mels) or (B, T, n_mels) float32 natural logarithms, ``T = (L - 400) // 160 + 1``.

    Raises:
        AudioError: another rank, samples that are not floating point, or fewer than 400 a row.
    """
    if audio.ndim == 1:
        return kaldi_fbank(audio[None], n_mels)[0]
    if audio.ndim != 2 or not mx.issubdtype(audio.dtype, mx.floating):
        raise AudioError(
            f"audio is {audio.dtype} of shape {tuple(audio.shape)}; give float32 of (batch, samples)"
        )
    batch, length = audio.shape
    if length < FBANK_WINDOW:
        raise AudioError(f"audio has {length} samples; a frame takes {FBANK_WINDOW}")
    count = (length - FBANK_WINDOW) // FBANK_HOP + 1
    if not batch:
        return mx.zeros((0, count, n_mels))
    if runtime.on_cpu():
        return mx.array(_double_energies(np.array(audio.astype(mx.float32)), n_mels))
    scaled = mx.contiguous(audio.astype(mx.float32) * _SCALE)
    frames = mx.as_strided(scaled, (batch, count, FBANK_WINDOW), (length, FBANK_HOP, 1))
    frames = frames.reshape(batch * count, FBANK_WINDOW)
    blocks = [
        _log_energies(frames[n : n + _FBANK_BLOCK], n_mels) for n in range(0, batch * count, _FBANK_BLOCK)
    ]
    return mx.concatenate(blocks).reshape(batch, count, n_mels)


def _log_energies(frames: mx.array, n_mels: int) -> mx.array:
    """(N, 400) → (N, n_mels) float32, in float32 on the device."""
    # the mean as a product, which adds in blocks: what is left of it weighs in the lowest band
    frames = frames - frames @ mx.full((FBANK_WINDOW, 1), 1 / FBANK_WINDOW)
    before = mx.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = mx.fft.rfft((frames - _PREEMPHASIS * before) * _hamming(), n=_FBANK_FFT, axis=-1)
    power = mx.square(spectrum.real) + mx.square(spectrum.imag)
    return mx.log(mx.maximum(power[:, : _FBANK_FFT // 2] @ mx.array(_htk_filters(n_mels)), _FLOOR))


def _double_energies(audio: np.ndarray, n_mels: int) -> np.ndarray:
    """(B, L) float32 → (B, T, n_mels) float32, in float64 on the way."""
    views = np.lib.stride_tricks.sliding_window_view(audio, FBANK_WINDOW, axis=1)[:, ::FBANK_HOP]
    found = np.empty((*views.shape[:2], n_mels), np.float32)
    filters = _htk_filters(n_mels).astype(np.float64)
    for row, first in np.ndindex(len(views), -(-views.shape[1] // _DOUBLE_BLOCK)):
        part = slice(first * _DOUBLE_BLOCK, (first + 1) * _DOUBLE_BLOCK)
        frames = views[row, part].astype(np.float64)
        frames -= frames.mean(1, keepdims=True)
        emphasised = frames.copy()
        emphasised[:, 1:] -= _PREEMPHASIS * frames[:, :-1]
        emphasised[:, 0] *= 1 - _PREEMPHASIS  # the sample before the first one is the first one
        emphasised *= _SCALE * _hamming_window()
        spectrum = np.fft.rfft(emphasised, _FBANK_FFT, axis=1)[:, : _FBANK_FFT // 2]
        power = spectrum.real**2 + spectrum.imag**2
        found[row, part] = np.log(np.maximum(power @ filters, _FLOOR))
    return found


def _hamming_window() -> np.ndarray:
    """The symmetric Hamming window, float64."""
    n = np.arange(FBANK_WINDOW) / (FBANK_WINDOW - 1)
    return np.asarray(0.54 - 0.46 * np.cos(2 * np.pi * n))


@functools.cache
def _hamming() -> mx.array:
    return mx.array(_hamming_window().astype(np.float32))


@functools.cache
def _htk_filters(n_mels: int) -> np.ndarray:
    """(256, n_mels) float32: triangles of height one, evenly spaced and straight in HTK's mel; Nyquist is left out.

    In float32 throughout, as the original: a low band may hold the very edge of a triangle and little else,
    so that the order of rounding moves its logarithm by 3e-4.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (_LOWEST_HZ, SAMPLE_RATE / 2))
    delta = (high - low) / (n_mels + 1)
    band = np.arange(n_mels, dtype=np.float32)
    left, centre, right = (_shifted(low, band, n, delta) for n in range(3))
    hz = np.arange(_FBANK_FFT // 2, dtype=np.float32) * np.float32(SAMPLE_RATE / _FBANK_FFT)
    argument = np.float32(1.0) + hz / np.float32(700.0)
    mel = (np.float32(1127.0) * np.log(argument.astype(np.float64)).astype(np.float32))[:, None]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return np.maximum(np.float32(0), np.minimum(rising, falling))


def _shifted(low: float, band: np.ndarray, by: int, delta: float) -> np.ndarray:
    """Mels ``low + (band + by) · delta``, each step rounded to float32."""
    return np.asarray(np.float32(low) + (band + np.float32(by)) * np.float32(delta), np.float32)

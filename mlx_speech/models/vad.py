"""Silero VAD v6, 16 kHz: the probability of speech every 32 ms.

Original: https://github.com/snakers4/silero-vad/tree/v6.2.3, MIT, Copyright (c) 2020-present Silero Team.
Architecture as in https://github.com/snakers4/silero-vad/blob/v6.2.3/src/silero_vad/tinygrad_model.py

B batch, S samples, N chunks of 512 samples, L spectral frames of a chunk (4, then 2, then 1 after the
strides), F frequency bins (129), C channels, H LSTM features (128).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_speech import runtime
from mlx_speech.errors import AudioError
from mlx_speech.layers.lstm import LSTM, LSTMState

# chunks that run at once: bounds memory, whatever the recording's length
_BLOCK, _GPU_BLOCK = 2048, 16384


@dataclass(frozen=True)
class VADConfig:
    """Sizes of the model; lengths are in samples.

    Each chunk is heard with ``context`` samples of the one before it in front and ``padding`` reflected
    samples behind. ``channels`` and ``strides`` are those of the four convolutions.
    """

    sampling_rate: int = 16000
    chunk: int = 512
    context: int = 64
    padding: int = 64
    n_fft: int = 256
    hop: int = 128
    channels: tuple[int, int, int, int] = (128, 64, 64, 128)
    strides: tuple[int, int, int, int] = (1, 2, 2, 1)
    hidden: int = 128


class VADState(NamedTuple):
    """What the model remembers: the LSTM's state and the last samples heard, (B, 64) float32."""

    lstm: LSTMState
    context: mx.array


class Spectrum(nn.Module):
    """Magnitude spectrum by a learnt basis of F cosines and F sines, ``weight`` (2F, n_fft)."""

    def __init__(self, config: VADConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = mx.zeros((config.n_fft + 2, config.n_fft))

    def __call__(self, x: mx.array) -> mx.array:
        """From chunks with their context, (N, context + chunk) float32, to magnitudes (N, L, F) float32."""
        cfg = self.config
        x = mx.concatenate([x, x[:, -2 : -2 - cfg.padding : -1]], axis=1)
        count, size = x.shape
        length = (size - cfg.n_fft) // cfg.hop + 1
        # a view of the frames and one product: a convolution of one channel is slow on the CPU
        frames = mx.as_strided(x, (count, length, cfg.n_fft), (size, cfg.hop, 1))
        real, imaginary = mx.split(frames @ self.weight.T, 2, axis=-1)
        return mx.sqrt(mx.square(real) + mx.square(imaginary))


class SileroVAD(nn.Module):
    """Speech probability of every 512 samples (32 ms) of 16 kHz audio.

    Convolutions see each chunk on its own and so run over many chunks at once; only the LSTM carries
    something from chunk to chunk.
    """

    def __init__(self, config: VADConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VADConfig()
        sizes = (config.n_fft // 2 + 1, *config.channels)
        self.stft = Spectrum(config)
        self.encoder = [
            nn.Conv1d(sizes[n], sizes[n + 1], 3, stride, padding=1) for n, stride in enumerate(config.strides)
        ]
        self.lstm = LSTM(sizes[-1], config.hidden)
        self.output = nn.Linear(config.hidden, 1)

    def __call__(self, audio: mx.array) -> mx.array:
        """Probabilities for whole recordings, each from silence; the last chunk is filled up with zeros.

        Args:
            audio: (S,) or (B, S) float32 samples at 16 kHz, within [-1, 1]; S may be 0.

        Returns:
            (N,) or (B, N) float32 probabilities, N = ceil(S / 512), evaluated.

        Raises:
            AudioError: another rank, or samples that are not floating point.
        """
        if audio.ndim == 1:
            return self(audio[None])[0]
        _check(audio)
        whole = audio.shape[1] // self.config.chunk * self.config.chunk
        probabilities, state = self.forward(audio[:, :whole], self.initial_state(audio.shape[0]))
        return mx.concatenate([probabilities, self._last(audio[:, whole:], state)], axis=1)

    def initial_state(self, batch: int = 1) -> VADState:
        """The state before the first sample of ``batch`` recordings."""
        return VADState(self.lstm.initial_state(batch), mx.zeros((batch, self.config.context)))

    def forward(self, audio: mx.array, state: VADState) -> tuple[mx.array, VADState]:
        """Go on with recordings that are heard in parts: any split into whole chunks gives the same numbers.

        Args:
            audio: (B, S) float32 samples at 16 kHz, S a multiple of 512 (0 included).
            state: from :meth:`initial_state` or from the part before this one.

        Returns:
            (B, S / 512) float32 probabilities, evaluated, and the state to go on from.

        Raises:
            AudioError: another rank, samples that are not floating point, or a part of a chunk.
        """
        _check(audio)
        batch, samples = audio.shape
        if samples % self.config.chunk:
            raise AudioError(
                f"audio has {samples} samples, not a multiple of {self.config.chunk}: stream() takes any"
            )
        block = _BLOCK if runtime.on_cpu() else _GPU_BLOCK
        step = self.config.chunk * max(1, block // max(1, batch))
        found = [mx.zeros((batch, 0))]
        for start in range(0, samples, step):
            probabilities, state = self._block(audio[:, start : start + step], state)
            mx.eval(probabilities, state)
            found.append(probabilities)
        return mx.concatenate(found, axis=1), state

    def stream(self, blocks: Iterable[mx.array]) -> Iterator[mx.array]:
        """Probabilities of one recording that arrives in blocks of any length.

        Args:
            blocks: (S,) float32 samples at 16 kHz each, of the same or of different lengths.

        Yields:
            (n,) float32 probabilities of the chunks that each block completes, n may be 0; after the last
            block those of the rest, filled up with zeros. Together they are what a call with the whole gives.

        Raises:
            AudioError: a block of another rank, or samples that are not floating point.
        """
        chunk, state, rest = self.config.chunk, self.initial_state(), mx.zeros((1, 0))
        for block in blocks:
            _check(block[None])
            audio = mx.concatenate([rest, block[None].astype(mx.float32)], axis=1)
            whole = audio.shape[1] // chunk * chunk
            probabilities, state = self.forward(audio[:, :whole], state)
            rest = audio[:, whole:]
            yield probabilities[0]
        if rest.shape[1]:
            yield self._last(rest, state)[0]

    def _last(self, rest: mx.array, state: VADState) -> mx.array:
        """Of less than a chunk, (B, S), filled up with zeros: (B, 1) probabilities, or (B, 0) of none."""
        missing = -rest.shape[1] % self.config.chunk
        return self.forward(mx.pad(rest, [(0, 0), (0, missing)]), state)[0]

    def _block(self, audio: mx.array, state: VADState) -> tuple[mx.array, VADState]:
        """:meth:`forward` for one block of at least one chunk, not evaluated."""
        cfg = self.config
        audio = mx.concatenate([state.context, audio.astype(mx.float32)], axis=1)
        batch, samples = audio.shape
        count = samples // cfg.chunk
        shape, strides = (batch, count, cfg.context + cfg.chunk), (samples, cfg.chunk, 1)
        chunks = mx.as_strided(audio, shape, strides).reshape(batch * count, -1)
        features = self._encode(chunks).reshape(batch, count, -1)
        hidden, lstm = self.lstm(features, state.lstm)
        probabilities = mx.sigmoid(self.output(nn.relu(hidden)))[..., 0]
        return probabilities, VADState(lstm, audio[:, -cfg.context :])

    def _encode(self, chunks: mx.array) -> mx.array:
        """From chunks with their context, (N, context + chunk), to features (N, 1, C), float32."""
        x = self.stft(chunks)
        for conv in self.encoder:
            x = nn.relu(conv(x))
        return x


def _check(audio: mx.array) -> None:
    if audio.ndim != 2:
        raise AudioError(f"audio has {audio.ndim} dimensions; give (samples,) or (batch, samples)")
    if not mx.issubdtype(audio.dtype, mx.floating):
        raise AudioError(f"audio holds {audio.dtype}; give float32 samples within [-1, 1]")

"""Whisper's audio encoder with a CTC head: scores of letters every 20 ms.

The encoder is that of :mod:`mlx_speech.models.whisper`, which names its original. There it hears 30 s at a time,
padded with silence; here a window of any length up to that, with as many positions as it has frames. The head is
one linear map, as wav2vec 2.0 has it.

Letters: B batch, S samples, T frames (20 ms), M mel bands, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from mlx_speech.errors import AudioError
from mlx_speech.features import HOP, log_mel
from mlx_speech.models.whisper import AudioEncoder, check_sizes

_STRIDE = 2 * HOP  # samples a frame: the second convolution takes every other one of the spectrogram's


@dataclass(frozen=True)
class WhisperCTCConfig:
    """The encoder's dimensions, as the original calls them, and the head's symbols.

    ``vocabulary`` holds the token strings by id, ``blank`` the id of CTC's blank, ``word_delimiter`` the token
    between words. ``n_audio_ctx`` is the number of frames that can be heard at once.
    """

    vocabulary: tuple[str, ...]
    blank: int
    word_delimiter: str
    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    sampling_rate: int = 16_000

    def __post_init__(self) -> None:
        check_sizes(self)
        if not 0 <= self.blank < len(self.vocabulary):
            raise ValueError(f"blank {self.blank} is not one of {len(self.vocabulary)} tokens")

    @property
    def frame_stride(self) -> int:
        """Samples from one frame to the next (320)."""
        return _STRIDE

    @property
    def first_middle(self) -> int:
        """The sample in the middle of what the first frame hears: the very first, by the reflected edge."""
        return 0

    def output_length(self, samples: int) -> int:
        """Frames of a recording of ``samples`` samples; what is left over is not heard."""
        return samples // _STRIDE

    def input_length(self, frames: int) -> int:
        """The fewest samples that make so many frames."""
        return frames * _STRIDE


class WhisperForCTC(nn.Module):
    """Whisper's encoder with a CTC head.

    Weights are float32 or half precision, see :func:`mlx_speech.load`; the spectrogram and the scores are
    float32 in any case.
    """

    def __init__(self, config: WhisperCTCConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.lm_head = nn.Linear(config.n_audio_state, len(config.vocabulary))

    def normalize(self, audio: mx.array) -> mx.array:
        """What the checkpoint wants done to the audio: nothing. (B, S) → (B, S) float32."""
        return audio.astype(mx.float32)

    def features(self, audio: mx.array) -> mx.array:
        """The log-mel spectrogram (B, 2T, M) float32 of (B, S) samples, its floor 8 below the row's maximum.

        Raises:
            AudioError: as in :meth:`__call__`.
        """
        if audio.ndim != 2:
            raise AudioError(f"audio has {audio.ndim} dimensions; give (batch, samples)")
        if not mx.issubdtype(audio.dtype, mx.floating):
            raise AudioError(f"audio holds {audio.dtype}; give float32 samples")
        frames, most = self.config.output_length(audio.shape[1]), self.config.n_audio_ctx
        if not 1 <= frames <= most:
            raise AudioError(
                f"audio has {audio.shape[1]} samples; the model hears {_STRIDE} to {most * _STRIDE} at once"
            )
        return log_mel(audio[:, : self.config.input_length(frames)].astype(mx.float32), self.config.n_mels)

    def __call__(self, audio: mx.array) -> mx.array:
        """Scores of the vocabulary in each frame.

        Args:
            audio: (B, S) float32 samples at 16 kHz, windows of equal length, 20 ms to 30 s.

        Returns:
            (B, T, V) float32 logits, T = ``config.output_length(S)``; frame t hears what lies around sample
            320 t. Not evaluated.

        Raises:
            AudioError: another rank, samples that are not floating point, or too few or too many of them.
        """
        mel = self.features(audio).astype(self.lm_head.weight.dtype)
        return cast(mx.array, self.lm_head(self.encoder(mel)).astype(mx.float32))

"""Where speech is."""

from __future__ import annotations

import numpy as np

from mlx_speech.audio import as_audio
from mlx_speech.loading import load
from mlx_speech.models.pyannet import PyanNet
from mlx_speech.models.vad import SileroVAD, VADConfig
from mlx_speech.pipeline.basis import AudioLike, expect
from mlx_speech.pipeline.diarizer import DEFAULT_SEGMENTATION
from mlx_speech.stages.segmentation import Segmentation, chunk_probabilities, segment
from mlx_speech.stages.speech import SpeechOptions, spans_from_probabilities, speech_probabilities
from mlx_speech.types import Span

VAD = SileroVAD | PyanNet
"""What tells speech from silence."""

DEFAULT_VAD = "silero-vad"
_VAD_STEP = 5.0  # seconds between a segmentation's windows: each moment is heard twice


def detect_speech(
    audio: AudioLike, model: str | VAD = DEFAULT_VAD, options: SpeechOptions | None = None
) -> list[Span]:
    """The stretches of speech in a recording.

    Args:
        audio: a path or an open binary file, in any container, or (T,) samples at 16 kHz.
        model: a VAD's or a PyanNet's name, or a loaded one.
        options: the original's defaults by default.

    Returns:
        Spans in seconds, in order, that do not overlap.

    Raises:
        AudioError: the recording cannot be read.
    """
    vad = load_vad(model) if isinstance(model, str) else model
    samples = as_audio(audio)
    return spans_from_probabilities(hear_speech(vad, samples), len(samples), options)


def load_vad(name: str) -> VAD:
    """A speech detector by name; ``"pyannet"`` is the segmentation that diarization uses.

    Raises:
        OptionError: the name leads to another kind of model.
        ModelNotFoundError, CheckpointError: as :func:`mlx_speech.load`.
    """
    model = load(DEFAULT_SEGMENTATION if name == "pyannet" else name)
    return model if isinstance(model, PyanNet) else expect(model, SileroVAD, name)


def hear_speech(vad: VAD, samples: np.ndarray) -> np.ndarray:
    """Speech probability of each 32 ms, (N,) float32, of (T,) samples at 16 kHz."""
    if isinstance(vad, PyanNet):
        return segmented_speech(segment(vad, samples, step=min(_VAD_STEP, vad.config.duration)), samples)
    return speech_probabilities(vad, samples)


def segmented_speech(segmentation: Segmentation, samples: np.ndarray) -> np.ndarray:
    """The same from a segmentation of these samples."""
    return chunk_probabilities(segmentation, len(samples), VADConfig.chunk)

"""Who said what, when: voice activity detection, Whisper, alignment and diarization in pure MLX."""

# ruff: noqa: E402  (an optimised BLAS must be loaded before mlx is imported)
from __future__ import annotations

from mlx_speech import runtime

runtime.start()

from mlx_speech.errors import (
    AudioError,
    CheckpointError,
    MLXSpeechError,
    ModelNotFoundError,
    OptionError,
    OutputError,
)
from mlx_speech.loading import load
from mlx_speech.pipeline import Transcriber, detect_speech, transcribe
from mlx_speech.stages.decode import DecodeOptions
from mlx_speech.stages.speech import SpeechOptions
from mlx_speech.stages.transcribe import TranscribeOptions
from mlx_speech.types import Segment, Span, Transcript, Turn, Word
from mlx_speech.writers import render, write

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "CheckpointError",
    "DecodeOptions",
    "MLXSpeechError",
    "ModelNotFoundError",
    "OptionError",
    "OutputError",
    "Segment",
    "Span",
    "SpeechOptions",
    "TranscribeOptions",
    "Transcriber",
    "Transcript",
    "Turn",
    "Word",
    "__version__",
    "detect_speech",
    "load",
    "render",
    "transcribe",
    "write",
]

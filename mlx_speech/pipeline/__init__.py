"""The stages, composed: a recording goes in, words with times and speakers come out."""

from __future__ import annotations

from mlx_speech.pipeline.aligner import Aligner, align
from mlx_speech.pipeline.basis import AudioLike, Progress, expect
from mlx_speech.pipeline.detector import DEFAULT_VAD, VAD, detect_speech, hear_speech, load_vad
from mlx_speech.pipeline.diarizer import (
    DEFAULT_EMBEDDING,
    DEFAULT_SEGMENTATION,
    Diarizer,
    diarize,
)
from mlx_speech.pipeline.transcriber import (
    AUTO_VAD,
    DEFAULT_MODEL,
    TRANSCRIBE_SPEECH,
    Transcriber,
    transcribe,
)
from mlx_speech.pipeline.voice import embed, hear_voice

__all__ = [
    "AUTO_VAD",
    "DEFAULT_EMBEDDING",
    "DEFAULT_MODEL",
    "DEFAULT_SEGMENTATION",
    "DEFAULT_VAD",
    "TRANSCRIBE_SPEECH",
    "VAD",
    "Aligner",
    "AudioLike",
    "Diarizer",
    "Progress",
    "Transcriber",
    "align",
    "detect_speech",
    "diarize",
    "embed",
    "expect",
    "hear_speech",
    "hear_voice",
    "load_vad",
    "transcribe",
]

"""Who said what, when: voice activity detection, Whisper, alignment and diarization in pure MLX."""

# ruff: noqa: E402  (an optimised BLAS must be loaded before mlx is imported)
from __future__ import annotations

from mlx_speech import interrupt

interrupt.watch()

from mlx_speech import runtime

runtime.start()

from mlx_speech.audio import load_audio
from mlx_speech.errors import (
    AudioError,
    CheckpointError,
    MLXSpeechError,
    ModelNotFoundError,
    OptionError,
    OutputError,
    VoicesError,
)
from mlx_speech.loading import load
from mlx_speech.memory import limit_memory
from mlx_speech.pipeline import (
    Aligner,
    Diarizer,
    Transcriber,
    align,
    detect_speech,
    diarize,
    embed,
    hear_voice,
    transcribe,
)
from mlx_speech.stages.cluster import AHCOptions, VBxOptions
from mlx_speech.stages.diarize import DiarizeOptions
from mlx_speech.stages.identify import IdentifyOptions
from mlx_speech.stages.options import DecodeOptions, TranscribeOptions
from mlx_speech.stages.placing import AlignOptions
from mlx_speech.stages.speakers import SpeakerOptions, assign_speakers
from mlx_speech.stages.speech import SpeechOptions
from mlx_speech.types import (
    Character,
    Diarization,
    Finding,
    Identity,
    Redone,
    Segment,
    Span,
    Transcript,
    Turn,
    Voice,
    Word,
)
from mlx_speech.voices import Voices, change_voices, load_voices
from mlx_speech.writers import WriteOptions, render, write

__version__ = "0.1.0"

__all__ = [
    "AHCOptions",
    "AlignOptions",
    "Aligner",
    "AudioError",
    "Character",
    "CheckpointError",
    "DecodeOptions",
    "Diarization",
    "DiarizeOptions",
    "Diarizer",
    "Finding",
    "IdentifyOptions",
    "Identity",
    "MLXSpeechError",
    "ModelNotFoundError",
    "OptionError",
    "OutputError",
    "Redone",
    "Segment",
    "Span",
    "SpeakerOptions",
    "SpeechOptions",
    "TranscribeOptions",
    "Transcriber",
    "Transcript",
    "Turn",
    "VBxOptions",
    "Voice",
    "Voices",
    "VoicesError",
    "Word",
    "WriteOptions",
    "__version__",
    "align",
    "assign_speakers",
    "change_voices",
    "detect_speech",
    "diarize",
    "embed",
    "hear_voice",
    "limit_memory",
    "load",
    "load_audio",
    "load_voices",
    "render",
    "transcribe",
    "write",
]

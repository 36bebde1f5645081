"""Who said what, when: voice activity detection, Whisper, alignment and diarization in pure MLX."""

from __future__ import annotations

from mlx_speech import runtime

runtime.start()  # before anything imports mlx

__version__ = "0.1.0"

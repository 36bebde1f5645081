"""Transcribe many recordings with models that are loaded once, and write subtitles beside them.

python examples/transcribe_many.py RECORDING…
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlx_speech

transcriber = mlx_speech.Transcriber.load("whisper-tiny.en")
for recording in map(Path, sys.argv[1:]):
    transcript = transcriber.transcribe(recording)
    mlx_speech.write(transcript, recording.with_suffix(".srt"), "srt")
    print(f"{recording}: {len(transcript.segments)} segments, {transcript.language}")

"""Transcribe a recording and print every word with its time.

python examples/transcribe.py [RECORDING] [MODEL]
"""

from __future__ import annotations

import sys

import mlx_speech
from mlx_speech.hub import ASSETS

recording = sys.argv[1] if len(sys.argv) > 1 else ASSETS / "demo" / "three_readers.flac"
model = sys.argv[2] if len(sys.argv) > 2 else "whisper-tiny.en"

transcript = mlx_speech.transcribe(recording, model)
for segment in transcript.segments:
    print(f"[{segment.start:7.2f} → {segment.end:7.2f}] {segment.text}")
    for word in segment.words:
        print(f"    {word.start:7.2f} {word.end:7.2f} {word.probability:4.2f} {word.text}")

"""Print a recording as a play: who says what, when.

python examples/who_said_what.py [RECORDING] [MODEL]
"""

from __future__ import annotations

import sys

import mlx_speech
from mlx_speech.hub import ASSETS

recording = sys.argv[1] if len(sys.argv) > 1 else ASSETS / "demo" / "three_readers.flac"
model = sys.argv[2] if len(sys.argv) > 2 else "whisper-tiny.en"

transcriber = mlx_speech.Transcriber.load(model, align="auto", diarize=True)
transcript = transcriber.transcribe(recording)
speaker = None
for segment in transcript.segments:
    if segment.speaker != speaker:
        speaker = segment.speaker
        print(f"\n{speaker}, {segment.start:.1f} s:")
    print(f"    {segment.text}")

"""Print who speaks when, and how long each speaks in all.

python examples/diarize_meeting.py [RECORDING]
"""

from __future__ import annotations

import sys

import mlx_speech
from mlx_speech.hub import ASSETS

recording = sys.argv[1] if len(sys.argv) > 1 else ASSETS / "demo" / "three_readers.flac"

diarization = mlx_speech.diarize(recording)  # num_speakers=3 where that is known
for turn in diarization.turns:
    print(f"[{turn.start:7.2f} → {turn.end:7.2f}] {turn.speaker}")
for speaker in diarization.speakers:
    seconds = sum(t.end - t.start for t in diarization.turns if t.speaker == speaker)
    print(f"{speaker}: {seconds:.1f} s")

"""Write subtitles: short lines, who speaks, and words that light up.

python examples/subtitles.py [RECORDING] [OUTPUT_FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlx_speech
from mlx_speech.hub import ASSETS

recording = sys.argv[1] if len(sys.argv) > 1 else ASSETS / "demo" / "three_readers.flac"
folder = Path(sys.argv[2] if len(sys.argv) > 2 else ".")

transcriber = mlx_speech.Transcriber.load("whisper-tiny.en", align="auto", diarize=True)
transcript = transcriber.transcribe(recording)
look = mlx_speech.WriteOptions(max_line_width=42, max_line_count=2)
for name in ("srt", "vtt"):
    mlx_speech.write(transcript, folder / f"subtitles.{name}", name, look)
karaoke = mlx_speech.WriteOptions(highlight_words=True, max_line_width=42)
mlx_speech.write(transcript, folder / "subtitles.ass", "ass", karaoke)
print((folder / "subtitles.srt").read_text(encoding="utf-8"))

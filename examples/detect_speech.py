"""Print where speech is in a recording.

python examples/detect_speech.py [RECORDING]
"""

from __future__ import annotations

import sys

import mlx_speech
from mlx_speech.hub import ASSETS

recording = sys.argv[1] if len(sys.argv) > 1 else ASSETS / "demo" / "three_readers.flac"

for span in mlx_speech.detect_speech(recording):
    print(f"{span.start:.3f} {span.end:.3f}")

"""Convert a checkpoint into this library's format, and load what was written.

python examples/convert_model.py [NAME] [OUTPUT_FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx_speech

name = sys.argv[1] if len(sys.argv) > 1 else "silero-vad"
folder = sys.argv[2] if len(sys.argv) > 2 else "./converted"

command = Path(sys.executable).with_name("mlx-convert")  # installed beside this Python
subprocess.run([command, "convert", name, folder], check=True)
model = mlx_speech.load(f"path:{folder}")
print(f"{folder}: {type(model).__name__}, layout {model.origin.layout}")

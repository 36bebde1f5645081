"""Time the words of a text that is known already.

python examples/align_words.py [RECORDING TEXT_FILE]
"""

from __future__ import annotations

import sys

import mlx_speech
from mlx_speech.hub import ASSETS

recording = sys.argv[1] if len(sys.argv) > 1 else ASSETS / "demo" / "three_readers.flac"
if len(sys.argv) > 2:
    with open(sys.argv[2], encoding="utf-8") as file:
        text = file.read()
else:  # the clip's reference ends each line with what is said
    lines = recording.with_suffix(".stm").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line.split(maxsplit=5)[5] for line in lines)

for word in mlx_speech.align(recording, text, language="en").words:
    print(f"{word.start:7.2f} {word.end:7.2f} {'?' if word.uncertain else ' '} {word.text}")

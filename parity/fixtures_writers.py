"""Subtitles as openai-whisper breaks and highlights them, for tests/test_writers_lines.py.

python parity/fixtures_writers.py
"""

from __future__ import annotations

import json
from pathlib import Path

import whisper
from whisper.utils import WriteSRT

PATH = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "writers" / "lines.json"
OPTIONS = [
    {},
    {"max_line_width": 16},
    {"max_line_width": 16, "max_line_count": 1},
    {"max_line_width": 24, "max_line_count": 2},
    {"max_line_width": 5, "max_line_count": 2},
    {"max_words_per_line": 3},
    {"highlight_words": True},
    {"max_line_width": 16, "max_line_count": 2, "highlight_words": True},
]
TEXTS = [  # a long pause stands before the word after |
    "And Mr. John Dashwood had then leisure to consider",
    "how much there might be |prudently in his power to do for them.",
    "He was not an ill-disposed young man,",
]


def segments() -> list[list[tuple[str, float, float]]]:
    """Words with starts and ends; every third follows the one before at once."""
    found, at = [], 0.0
    for text in TEXTS:
        words = []
        for n, word in enumerate(text.split()):
            at += 3.5 if word[0] == "|" else 0.0 if n % 3 == 2 else 0.08
            end = round(at + 0.07 * len(word), 2)
            words.append((word.lstrip("|"), round(at, 2), end))
            at = end
        found.append(words)
    return found


def main() -> None:
    """Write the fixture."""
    result = {
        "segments": [
            {
                "start": s[0][1],
                "end": s[-1][2],
                "words": [{"word": f" {w}", "start": a, "end": b} for w, a, b in s],
            }
            for s in segments()
        ]
    }
    writer = WriteSRT("")
    cases = [{"options": o, "cues": list(writer.iterate_result(result, dict(o)))} for o in OPTIONS]
    value = {"made_by": f"openai-whisper {whisper.__version__}", "segments": segments(), "cases": cases}
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

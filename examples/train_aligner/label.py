"""Whisper's text for recordings without one, a JSON line each; those that it is unsure of are left out by pack.py.

    pip install faster-whisper
    python label.py LIBRISPEECH_TRAIN_FOLDER OUT.jsonl --model WHISPER_BASE_FOLDER

Restartable: recordings that OUT.jsonl has already are not heard again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from faster_whisper import WhisperModel


def main() -> None:
    """Hear them one by one."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("folder", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--model", required=True)
    a = args.parse_args()
    done = set()
    if a.out.exists():
        done = {json.loads(line)["name"] for line in a.out.read_text(encoding="utf-8").splitlines()}
    model = WhisperModel(a.model, compute_type="int8", cpu_threads=4)
    with a.out.open("a", encoding="utf-8") as file:
        for path in sorted(a.folder.glob("*.flac")):
            if path.stem in done:
                continue
            segments = list(model.transcribe(str(path), language="en", beam_size=5)[0])
            tokens = sum(len(s.tokens) for s in segments)
            sure = sum(s.avg_logprob * len(s.tokens) for s in segments) / max(tokens, 1)
            row = {"name": path.stem, "text": "".join(s.text for s in segments), "log_probability": sure}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()


if __name__ == "__main__":
    main()

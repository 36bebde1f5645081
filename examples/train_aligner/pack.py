"""Recordings into the shards that train.py reads: NAME.pcm and NAME.jsonl.

python pack.py real FOLDER --labels real.jsonl --out data/real      # pseudo-labelled, untimed
python pack.py text FOLDER --transcripts transcripts.txt --out test/test-other
python pack.py textgrid FOLDER --out test/emur                      # human word times, tier "Text"
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlx_speech.audio import load_audio

RATE = 16000
SURE = -0.42  # mean log-probability of a pseudo-label
SPELT = {"MR.": "MISTER", "MRS.": "MISSUS", "DR.": "DOCTOR", "ST.": "SAINT", "&": " AND ", "’": "'"}


ONES = [
    *(
        "ZERO",
        "ONE",
        "TWO",
        "THREE",
        "FOUR",
        "FIVE",
        "SIX",
        "SEVEN",
        "EIGHT",
        "NINE",
        "TEN",
        "ELEVEN",
        "TWELVE",
    ),
    *("THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN"),
]
TENS = ["TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY"]


def number(digits: str) -> str:
    """A number below a hundred, or a year, as it is read; others stay digits."""
    n = int(digits)
    if n < 20:
        return ONES[n]
    if n < 100:
        return f"{TENS[n // 10 - 2]} {ONES[n % 10]}".removesuffix(" ZERO")
    if 1100 <= n < 2000 and n % 100 >= 10:
        return f"{number(digits[:2])} {number(digits[2:])}"
    return digits


def spelt(text: str) -> str | None:
    """Capitals and apostrophes only; nothing for a text with other numbers or signs."""
    text = text.upper().replace("-", " ").replace("—", " ")
    text = re.sub(r"(?<![\d.,])\d+(?![\d.,]*\d|\w)", lambda found: number(found[0]), text)
    for short, long in SPELT.items():
        text = text.replace(short, long)
    if re.search(r"[^A-Z' ,.;:?!\"()\[\]“”…]", text):
        return None
    text = re.sub(r"(^|\s)'+|'+(\s|$)", " ", re.sub(r"[^A-Z' ]", " ", text))
    return " ".join(text.split()) or None


def real(folder: Path, labels: Path) -> Iterator[dict[str, Any]]:
    """The recordings whose pseudo-label is sure enough."""
    for line in labels.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = spelt(row["text"])
        if text and row["log_probability"] > SURE:
            yield {"path": folder / f"{row['name']}.flac", "text": text, "source": "real"}


def read_text(folder: Path, transcripts: Path) -> Iterator[dict[str, Any]]:
    """Recordings with transcripts: lines ``ID WORDS`` or ``ID|…|WORDS``."""
    for line in transcripts.read_text(encoding="utf-8").splitlines():
        name, text = line.split("|")[::2] if "|" in line else line.split(" ", 1)
        path = next((p for p in folder.glob(f"{name}.*") if p.suffix in (".flac", ".wav")), None)
        label = spelt(text)
        if path and label:
            yield {"path": path, "text": label, "source": folder.name}


def textgrid(folder: Path) -> Iterator[dict[str, Any]]:
    """Recordings with human word times."""
    for path in sorted(folder.glob("*.TextGrid")):
        tier = path.read_text(encoding="utf-8").split('name = "Text"')[1].split("item [")[0]
        found = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "(.*?)"', tier)
        words = [(spelt(t), float(a), float(b)) for a, b, t in found if spelt(t)]
        text, times = " ".join(str(w) for w, _, _ in words), [[a, b] for _, a, b in words]
        yield {"path": path.with_suffix(".wav"), "text": text, "words": times, "source": folder.name}


def main() -> None:
    """Write a shard."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("kind", choices=("real", "text", "textgrid"))
    args.add_argument("folder", type=Path)
    args.add_argument("--labels", type=Path)
    args.add_argument("--transcripts", type=Path)
    args.add_argument("--out", type=Path, required=True)
    a = args.parse_args()
    given = {"real": (a.labels,), "text": (a.transcripts,), "textgrid": ()}[a.kind]
    rows = {"real": real, "text": read_text, "textgrid": textgrid}[a.kind](a.folder, *given)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    samples = 0
    with open(f"{a.out}.pcm", "wb") as pcm, open(f"{a.out}.jsonl", "w", encoding="utf-8") as table:
        for row in rows:
            path = row.pop("path")
            audio = (load_audio(path) * 32767).clip(-32767, 32767).astype(np.int16)
            pcm.write(audio.tobytes())
            table.write(json.dumps({"n": len(audio), "name": path.stem, **row}) + "\n")
            samples += len(audio)
    print(f"{a.out}: {samples / RATE / 60:.1f} min")


if __name__ == "__main__":
    main()

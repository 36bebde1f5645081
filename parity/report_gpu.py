"""The tables of BENCH_GPU.md from the measurements of the bench_gpu scripts.

python parity/report_gpu.py --ours ours*.jsonl --theirs theirs*.jsonl

Every table stands between two comments, ``<!-- name -->`` and ``<!-- end -->``; what is between them is replaced,
the text around them is not. A table without a measurement is left as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

REPORT = Path(__file__).with_name("BENCH_GPU.md")
PRODUCTS = {"0": "float32", "1": "TF32"}
HALF = {"wav2vec2"}  # sections whose products are in half precision
Line = dict[str, Any]


def read(files: Iterable[Path]) -> list[Line]:
    """All measurements; lines that are none are skipped."""
    lines = (line for f in files for line in f.read_text().splitlines() if line.startswith("{"))
    return [json.loads(line) for line in lines]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    cells = [list(map(str, row)) for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *cells])


def compared(ours: list[Line], theirs: list[Line], sections: Sequence[str]) -> str:
    """What both sides measured alike, a row for each way to round products."""
    found: dict[tuple[str, str, str], dict[str, Line]] = {}
    for side, lines in (("ours", ours), ("PyTorch", theirs)):
        for m in (m for m in lines if m.get("section") in sections):
            products = "float16" if m["section"] in HALF else PRODUCTS.get(m.get("tf32", ""), "")
            network, _, what = (
                m["what"].partition(": ") if m["section"] == "parts" else (m["section"], "", m["what"])
            )
            found.setdefault((network, what, products), {})[m.get("system", side)] = m
    rows = []
    for (network, what, products), sides in found.items():
        mine, other, plain = (sides.get(n) for n in ("ours", "PyTorch", "nn.LSTM"))
        rows.append(
            (
                network, what, products, f"{mine['ms']:.2f}" if mine else "",
                f"{mine['real_time']:.0f}" if mine and "real_time" in mine else "",
                f"{other['ms']:.2f}" if other else "",
                f"**{other['ms'] / mine['ms']:.2f}**" if mine and other else "",
                f"{plain['ms']:.1f}" if plain else "",
                f"{mine['error']:.1e}" if mine and "error" in mine else "",
                f"{other['error']:.1e}" if other and "error" in other else "",
            )
        )  # fmt: skip
    header = (
        "network", "what", "products", "ours, ms", "× real time", "PyTorch, ms", "PyTorch ÷ ours",
        "`mlx.nn.LSTM`, ms", "our error to float64", "PyTorch's",
    )  # fmt: skip
    keep = [n for n in range(len(header)) if any(row[n] for row in rows)]
    return table([header[n] for n in keep], [[row[n] for n in keep] for row in rows]) if rows else ""


def diarization(ours: list[Line], theirs: list[Line]) -> str:
    """Whole diarizations; pyannote.audio's own speed beside the presets that do what it does."""
    base = {m["what"]: m["ms"] for m in theirs if m.get("section") == "diarize"}
    rows = []
    for m in (m for m in ours if m.get("section") == "diarize"):
        other = base.get(m["what"])
        stages = [f"{m[k]:.2f}" for k in ("segmentation", "embedding", "rest")]
        rows.append(
            (
                m["what"], f"{m['ms'] / 1e3:.2f} s", f"{m['real_time']:.0f}", *stages, f"{m['peak_gb']:.1f} GB",
                m["speakers"], f"{other / 1e3:.1f} s" if other else "", f"{other / m['ms']:.1f}" if other else "",
            )
        )  # fmt: skip
    header = (
        "audio, preset",
        "time",
        "× real time",
        "segmentation",
        "voices",
        "rest",
        "MLX's peak",
        "speakers",
    )
    return table((*header, "pyannote.audio", "÷ ours"), rows) if rows else ""


def pipeline(ours: list[Line], theirs: list[Line]) -> str:
    """The whole pipeline by what times the words and how many windows are decoded together."""
    found = [m for m in ours if m.get("section") == "pipeline" and not m.get("max_memory")]
    names = [n for n in dict.fromkeys(n for m in found for n in m["stages"]) if n != "reading"]
    rows = []
    for m in found:
        stages = [f"{m['stages'][n]:.2f}" if n in m["stages"] else "" for n in names]
        rows.append(
            (
                m["words_timed_by"], m["windows_together"], m.get("beams", 1), m["dtype"], f"{m['seconds']:.2f} s",
                f"**{m['real_time']:.0f}**", *stages,
                f"{m['peak_mlx_gb']:.1f} GB", f"{m['peak_process_gb']:.1f} GB",
            )
        )  # fmt: skip
    header = ("words timed by", "windows together", "beams", "Whisper in", "total", "× real time", *names)
    return table((*header, "MLX's peak", "process"), rows) if rows else ""


def beams(ours: list[Line], theirs: list[Line]) -> str:
    """What several hypotheses cost where greedy decoding was measured the same way."""
    found = [m for m in ours if m.get("section") == "pipeline" and not m.get("max_memory")]
    greedy = {(m["words_timed_by"], m["windows_together"]): m for m in found if m.get("beams", 1) == 1}
    rows = []
    for m in (m for m in found if m.get("beams", 1) > 1):
        one = greedy.get((m["words_timed_by"], m["windows_together"]))
        if one is None:
            continue
        stages = [x["stages"]["transcribing"] for x in (one, m)]
        rows.append(
            (
                m["words_timed_by"], m["windows_together"], m["beams"],
                *(f"{x:.2f} s" for x in stages), f"{stages[1] / stages[0]:.2f}",
                *(f"{x['seconds']:.2f} s" for x in (one, m)), f"{m['seconds'] / one['seconds']:.2f}",
                *(f"{x['peak_mlx_gb']:.1f} GB" for x in (one, m)),
            )
        )  # fmt: skip
    header = ("words timed by", "windows together", "beams", "Whisper, greedy", "by beams", "×")
    header += ("total, greedy", "by beams", "×", "MLX's peak, greedy", "by beams")
    return table(header, rows) if rows else ""


def limited(ours: list[Line], theirs: list[Line]) -> str:
    """The pipeline within a limit on memory."""
    found = [m for m in ours if m.get("section") == "pipeline" and m.get("max_memory")]
    header = (
        "--max-memory",
        "words timed by",
        "windows together",
        "total",
        "× real time",
        "MLX's peak",
        "process",
    )
    rows = [
        (
            m["max_memory"], m["words_timed_by"], m["windows_together"], f"{m['seconds']:.2f} s",
            f"{m['real_time']:.0f}", f"{m['peak_mlx_gb']:.2f} GB", f"{m['peak_process_gb']:.2f} GB",
        )
        for m in found
    ]  # fmt: skip
    return table(header, rows) if rows else ""


def whisper(ours: list[Line], theirs: list[Line]) -> str:
    """Whisper alone, to a fixed number of tokens; ratios to the best of ``generate()``, and of all there is."""
    found = [m for m in (*ours, *theirs) if "contestant" in m and "seconds" in m]
    rows = []
    for model, batch in dict.fromkeys((m["model"], m["batch"]) for m in found):
        same = [m for m in found if (m["model"], m["batch"]) == (model, batch)]
        others = [m for m in same if m["contestant"] != "ours"]
        rivals = [[m for m in others if m["contestant"].startswith("transformers")], others]
        best = [max((m["tokens_per_second"] for m in some), default=None) for some in rivals]
        for m in same:
            mine = m["contestant"] == "ours"
            ratios = [f"**{m['tokens_per_second'] / x:.2f}**" if mine and x else "" for x in best]
            rows.append(
                (
                    model, batch, m["contestant"], f"{m['tokens_per_second']:.0f}", f"{m['x_real_time']:.0f}",
                    f"{1e3 * m['encoder_seconds']:.1f}", f"{m['peak_mib'] / 1024:.2f} GiB", *ratios,
                )
            )  # fmt: skip
    header = ("model", "batch", "system", "tokens/s", "× real time", "encoder, ms", "peak")
    return table((*header, "ours ÷ transformers", "ours ÷ best of PyTorch"), rows) if rows else ""


def half(ours: list[Line], theirs: list[Line]) -> str:
    """Tokens of whisper-base in half precision beside float32's."""
    found = [m for m in ours if m.get("section") == "f16"]
    rows = [
        (
            m["dtype"], "one launch" if m["launched"] else "MLX's operations", m["together"], m["beam"],
            f"{m['equal']} of {m['of']}", f"{m['same']} of {m['windows']}", f"{m['seconds']:.2f} s",
        )
        for m in found
    ]  # fmt: skip
    header = ("dtype", "a token by", "windows together", "beams", "equal tokens", "equal windows", "time")
    return table(header, rows) if rows else ""


def step(ours: list[Line], theirs: list[Line]) -> str:
    """Cycles of a token where it is one launch."""
    found = [m for m in ours if m.get("section") == "step"]
    names = [k for k in found[0] if k not in ("section", "model", "batch")] if found else []
    rows = [(m["model"], m["batch"], *(m[k] for k in names)) for m in found]
    return table(("model", "windows", *names), rows) if rows else ""


TABLES = {
    "pipeline": pipeline,
    "beams": beams,
    "whisper": whisper,
    "diarization": diarization,
    "networks": lambda o, t: compared(o, t, ("pyannet", "wespeaker", "vad")),
    "parts": lambda o, t: compared(o, t, ("parts",)),
    "wav2vec2": lambda o, t: compared(o, t, ("wav2vec2",)),
    "lstm": lambda o, t: compared(o, t, ("lstm",)),
    "memory": limited,
    "half": half,
    "step": step,
}


def write(text: str, ours: list[Line], theirs: list[Line]) -> str:
    """The report with its tables made anew."""
    for name, make in TABLES.items():
        made = make(ours, theirs)
        if made:
            pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            text = re.sub(pattern, lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    """Read, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", type=Path, nargs="+", required=True)
    parser.add_argument("--theirs", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    REPORT.write_text(write(REPORT.read_text(), read(args.ours), read(args.theirs)))


if __name__ == "__main__":
    main()

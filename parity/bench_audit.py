"""What the audit says of transcripts of real speech, finding by finding: writes parity/BENCH_AUDIT.md.

    python parity/bench_audit.py            # transcribes what is not there yet, then the tables
    python parity/bench_audit.py --tables   # the audit anew over the transcripts that are there

Transcripts stay in ``out/audit/`` (ignored by git), by the commit of our code. Each finding is held against the
reference: speech without words is a true finding where the reference has words there, and words without speech are
where it has none.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS that MLX runs on in use)

import argparse
import datetime
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from harness import revision, sections

from mlx_speech.pipeline import Transcriber
from mlx_speech.stages.audit import audit
from mlx_speech.types import Finding, Span, Transcript

HERE = Path(__file__).resolve().parent
REPORT = HERE / "BENCH_AUDIT.md"
KEPT = HERE.parent / "out/audit"
AUDIO = Path(os.environ.get("MLX_SPEECH_DATA", HERE.parents[1] / "shared/data")) / "audio"
SETS = (
    "pyannote_sample/*.wav",
    "kokoro_dialog/*.flac",
    "sim_librispeech/*.flac",
    "ami/*.wav",
    "ljspeech/*.wav",
)
SIZES = ("tiny.en", "base")
KINDS = ("speech-without-words", "words-without-speech", "loop", "uncertain-alignment")


def files() -> list[Path]:
    """The recordings."""
    return [f for s in SETS for f in sorted(AUDIO.glob(s))]


def kept(size: str, file: Path) -> Path:
    """Where a recording's transcript is."""
    return KEPT / revision() / size / f"{file.parent.name}-{file.stem}.pickle"


def transcribe(size: str) -> None:
    """Transcribe what has no transcript yet, as the command line does by default."""
    left = [f for f in files() if not kept(size, f).is_file()]
    if not left:
        return
    transcriber = Transcriber.load(f"whisper-{size}")
    for file in left:
        to = kept(size, file)
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_suffix(".part")
        part.write_bytes(pickle.dumps(transcriber.transcribe(file)))
        part.replace(to)
        print(size, file.name, flush=True)


def talk(file: Path) -> list[Span]:
    """Where somebody speaks by the reference; all of a recording that has none is one utterance."""
    rttm = file.with_suffix(".rttm")
    if not rttm.is_file():
        return [Span(0.0, float("inf"))]
    rows = (line.split() for line in rttm.read_text(encoding="utf-8").splitlines())
    return [Span(float(r[3]), float(r[3]) + float(r[4])) for r in rows if r and r[0] == "SPEAKER"]


def spoken(finding: Finding, spans: Sequence[Span]) -> float:
    """Seconds of a finding in which somebody speaks."""
    points = sorted({finding.start, finding.end, *(t for s in spans for t in (s.start, s.end))})
    points = [p for p in points if finding.start <= p <= finding.end]
    return sum(b - a for a, b in pairwise(points) if any(s.start <= (a + b) / 2 < s.end for s in spans))


def findings(size: str) -> Iterator[tuple[Path, Transcript, list[Finding]]]:
    """Every recording with its transcript and what the audit finds in it now."""
    for file in files():
        if kept(size, file).is_file():
            transcript = pickle.loads(kept(size, file).read_bytes())
            yield file, transcript, audit(replace(transcript, findings=()))


def table(size: str) -> str:
    """Findings a set and kind, and then each of them."""
    counts: dict[str, dict[str, int]] = {}
    listed = []
    minutes: dict[str, float] = {}
    for file, transcript, found in findings(size):
        group = file.parent.name
        minutes[group] = minutes.get(group, 0.0) + transcript.duration / 60
        row = counts.setdefault(group, dict.fromkeys(KINDS, 0))
        for f in found:
            row[f.kind] += 1
            length = f.end - f.start
            share = f"{spoken(f, talk(file)):.1f} of {length:.1f} s"
            listed.append(
                f"| {re.sub('_0-30s', '', file.stem)} | {f.kind} | {f.start:.1f} | {share} | {f.message} |"
            )
    head = ["| set | minutes | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 2) + "|"]
    rows = [
        f"| {g} | {minutes[g]:.1f} | " + " | ".join(str(n) for n in row.values()) + " |"
        for g, row in counts.items()
    ]
    each = [
        "",
        "| recording | finding | at s | somebody speaks, by the reference | |",
        "|---|---|---|---|---|",
        *listed,
    ]
    about = f"{datetime.datetime.now(datetime.timezone.utc).date()}, mlx_speech of {revision()}."
    return "\n".join([about, "", *head, *rows, *(each if listed else [])])


def main() -> None:
    """Transcribe, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", action="store_true", help="transcribe nothing")
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    arguments = parser.parse_args()
    found = sections(REPORT)
    for size in arguments.sizes:
        if not arguments.tables:
            transcribe(size)
        if (KEPT / revision() / size).is_dir():
            found[f"whisper-{size}"] = table(size)
    about = (
        "Written by `python parity/bench_audit.py`: transcripts by Whisper with the default settings, words timed "
        "by the bundled aligner. "
        + (__doc__ or "").strip().split("\n\n")[-1].split(". ", 1)[1].replace("\n", " ")
    )
    parts = [f"## {title}\n\n{body}" for title, body in sorted(found.items(), reverse=True)]  # tiny.en first
    text = "\n\n".join(["# What the audit finds", about, *parts]) + "\n"
    REPORT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

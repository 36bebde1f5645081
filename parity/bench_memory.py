"""What a long recording costs in memory: resident memory sampled while ten minutes, an hour, three hours run.

    python parity/bench_memory.py whole             # 10, 60 and 180 minutes in full, those not yet made; the report
    python parity/bench_memory.py whole 180         # some of them; three hours take about 17 minutes on two cores
    python parity/bench_memory.py one 10            # minutes; a line of JSON, also kept in out/
    python parity/bench_memory.py one 180 --words 10  # words of the first ten minutes only
    python parity/bench_memory.py one 180 --words 10 --heard first  # and the networks of diarization stand in
    python parity/bench_memory.py one 60 --max-memory 1.5GB
    python parity/bench_memory.py report            # BENCH_MEMORY.md from the lines

Each run is a process of its own, from a file on disk to a transcript, with Whisper tiny.en, the bundled aligner
and the preset ``fast``. The recording is that of bench_pipeline.py. Long runs may be made one by one: the report
puts those of out/ into the table that is there, each in the place of an earlier one of its kind. On Linux, the
process's anonymous memory and the pages of the recording's temporary file that happen to be mapped are told apart.

With ``--heard first`` diarization's networks compute the first batch of each shape and answer all others with that,
which takes the memory that they take, for a fraction of the time; everything after them is done in full.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench_pipeline import MODEL, cores, recording

HERE = Path(__file__).resolve().parent
LINES = HERE.parent / "out/bench_memory.jsonl"
TABLE = HERE / "BENCH_MEMORY.md"
WHOLE = (10.0, 60.0, 180.0)  # minutes
_PERIOD = 0.05  # seconds between samples


class Sampler(threading.Thread):
    """The most resident memory of each stage, in MiB: in all, and without mapped files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.now, self.peaks, self.seconds = (0.0, 0.0), {}, {}
        self.running, self.begun = True, time.perf_counter()

    def __call__(self, stage: str, done: float, total: float) -> None:
        """A pipeline's ``progress``: what passed since the last report belongs to the stage told."""
        self._look()
        before, now = self.peaks.get(stage, (0.0, 0.0)), time.perf_counter()
        self.peaks[stage] = (max(before[0], self.now[0]), max(before[1], self.now[1]))
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.begun
        self.now, self.begun = (0.0, 0.0), now

    def run(self) -> None:
        while self.running:
            self._look()
            time.sleep(_PERIOD)

    def _look(self) -> None:
        status = Path("/proc/self/status").read_text()
        found = {
            line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Rss")
        }
        files = (int(found["RssFile"]) + int(found["RssShmem"])) / 1024
        own = int(found["RssAnon"]) / 1024
        self.now = (max(self.now[0], own + files), max(self.now[1], own))


def stand_in(kind: type, name: str) -> None:
    """Have a method compute for each shape of its input once, and answer so again."""
    compute, known = getattr(kind, name), {}

    def answer(self: Any, x: Any, *rest: Any) -> Any:
        if x.shape not in known:
            known[x.shape] = compute(self, x, *rest)
        return known[x.shape]

    setattr(kind, name, answer)


def measure(minutes: float, words: float | None, limit: str | None, stand_ins: bool) -> dict[str, Any]:
    """One run: the most memory of every stage, and its seconds."""
    from mlx_speech import TranscribeOptions, Transcriber, limit_memory
    from mlx_speech.models.pyannet import PyanNet
    from mlx_speech.models.wespeaker import WeSpeaker

    if stand_ins:
        stand_in(PyanNet, "__call__")
        stand_in(WeSpeaker, "trunk")
    limit_memory(limit)
    options = TranscribeOptions(clips=() if words is None else (0.0, 60 * words))
    with tempfile.TemporaryDirectory() as folder:
        audio = recording(minutes, Path(folder) / "recording.wav")
        transcriber = Transcriber.load(MODEL, align="auto", diarize=True)
        sampler = Sampler()
        sampler.start()
        transcript = transcriber.transcribe(audio, options, progress=sampler)
        sampler.running = False
    peaks = {k: [round(x) for x in v] for k, v in sampler.peaks.items()}
    return {
        "minutes": minutes,
        "cores": cores(),
        "words_of": words,
        "stand_ins": stand_ins,
        "max_memory": limit,
        "peak_mib": max(v[0] for v in peaks.values()),
        "peak_own_mib": max(v[1] for v in peaks.values()),
        "stages_mib": peaks,
        "stages_s": {k: round(v, 1) for k, v in sampler.seconds.items()},
        "words": len(transcript.words),
    }


STAGES = {
    "read": "reading",
    "segment": "turns",
    "speech": "speech",
    "transcribe": "words",
    "align": "times",
    "embed": "voices",
    "speakers": "speakers",
}
HEAD = """# Memory

Resident memory of the whole process in MiB, sampled every 50 ms, from a file on disk to a transcript: Whisper
tiny.en, the bundled aligner, the preset `fast`. The recording is the sessions of sim_librispeech over and over.
*Own* leaves out mapped files: the libraries, and pages of the recording's temporary file, which the system takes
back whenever it needs them. Each stage's column is the most while it ran; it may hold what the stage before has
left. Two windows in flight, on two cores, take more than one.

`python parity/bench_memory.py` says in its first lines how it is run. Rows without stand-ins are runs in full. In
the others, of long recordings on one core, the words of the first minutes are written and aligned, and
diarization's networks answer every batch with what they said of the first of its shape. Decoding, voice detection
from the segmentation, the filter bank, pooling, clustering and putting windows together are all done in full
length. Whisper's and the aligner's memory follows the batch, not the recording.

| recording | cores | words | networks of diarization | `--max-memory` | peak | own |{0} seconds |
|---|---|---|---|---|---|---|{1}---|
"""
_KIND = 5  # cells that say what was run


def report(lines: list[dict[str, Any]], before: str = "") -> str:
    """The table; each stage has its own peak. Rows of the table before stay where no line is of their kind."""
    head = HEAD.format("".join(f" {name} |" for name in STAGES.values()), "---|" * len(STAGES))
    rows = dict(_row(line[1:].rstrip("|").split("|")) for line in re.findall(r"^\| \d.*", before, re.M))
    for line in lines:
        peaks = [str(line["stages_mib"][k][0]) if k in line["stages_mib"] else "" for k in STAGES]
        cells = [
            f"{line['minutes']:g} min",
            line.get("cores", 1),
            "all" if line["words_of"] is None else f"first {line['words_of']:g} min",
            "first of each batch" if line.get("stand_ins") else "all",
            line["max_memory"] or "",
            line["peak_mib"],
            line["peak_own_mib"],
            *peaks,
            f"{sum(line['stages_s'].values()):.0f}",
        ]
        rows.update([_row(map(str, cells))])
    ordered = sorted(rows, key=lambda kind: (kind[4], kind[3], kind[1], float(kind[0].split()[0])))
    return head + "\n".join(f"| {' | '.join(rows[kind])} |" for kind in ordered) + "\n"


def _row(cells: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """A row's kind, and its cells."""
    found = [cell.strip() for cell in cells]
    return tuple(found[:_KIND]), found


def kept() -> list[dict[str, Any]]:
    """The lines of out/."""
    text = LINES.read_text(encoding="utf-8") if LINES.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def whole(minutes: Sequence[float]) -> None:
    """The runs in full that out/ does not hold for as many cores, each in a process of its own."""
    for length in minutes:
        done = [
            line
            for line in kept()
            if (line["minutes"], line.get("cores"), line["words_of"], line["max_memory"])
            == (length, cores(), None, None)
            and not line["stand_ins"]
        ]
        if not done:
            subprocess.run([sys.executable, __file__, "one", str(length)], check=True)
        write()


def write() -> None:
    """The report, with what the table has."""
    before = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
    TABLE.write_text(report(kept(), before), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Measure, or report; see the module's text."""
    if arguments[:1] == ["one"] and len(arguments) > 1:
        given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
        words = float(given["--words"]) if "--words" in given else None
        line = json.dumps(
            measure(float(arguments[1]), words, given.get("--max-memory"), given.get("--heard") == "first")
        )
        print(line)
        LINES.parent.mkdir(exist_ok=True)
        with open(LINES, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    elif arguments[:1] == ["whole"]:
        whole([float(x) for x in arguments[1:]] or WHOLE)
    elif arguments == ["report"]:
        write()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

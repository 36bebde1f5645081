"""What a long recording costs in memory: resident memory sampled while ten minutes, an hour, three hours run.

    python parity/bench_memory.py one 10            # minutes; a line of JSON, also kept in out/
    python parity/bench_memory.py one 180 --words 10  # words of the first ten minutes only
    python parity/bench_memory.py one 180 --words 10 --heard first  # and the networks of diarization stand in
    python parity/bench_memory.py one 60 --max-memory 1.5GB
    python parity/bench_memory.py report            # BENCH_MEMORY.md from the lines

Each run is a process of its own, from a file on disk to a transcript, with Whisper tiny.en, the bundled aligner and
the preset ``fast``. The recording is that of bench_pipeline.py. Long runs may be made one by one; the report holds
those that are there. On Linux, the process's anonymous memory and the pages of the recording's temporary file that
happen to be mapped are told apart.

With ``--heard first`` diarization's networks compute the first batch of each shape and answer all others with that,
which takes the memory that they take, for a fraction of the time; everything after them is done in full.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench_pipeline import MODEL, recording

HERE = Path(__file__).resolve().parent
LINES = HERE.parent / "out/bench_memory.jsonl"
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
tiny.en, the bundled aligner, the preset `fast`, on one CPU core. The recording is the sessions of sim_librispeech
over and over. *Own* leaves out mapped files: the libraries, and pages of the recording's temporary file, which the
system takes back whenever it needs them. Each stage's column is the most while it ran; it may hold what the stage
before has left.

`python parity/bench_memory.py` says in its first lines how it is run. An hour and three hours take too long here in
full: the words of their first minutes are written and aligned, and diarization's networks answer every batch
with what they said of the first of its shape. Decoding, voice detection from the segmentation, the filter bank,
pooling, clustering and putting windows together are all done in full length. Whisper's and the aligner's memory
follows the batch, not the recording: their peaks in ten minutes read in full stand in the row without stand-ins.

| recording | words | networks of diarization | `--max-memory` | peak | own |{0} seconds |
|---|---|---|---|---|---|{1}---|
"""


def report(lines: list[dict[str, Any]]) -> str:
    """The table; each stage has its own peak."""
    head = HEAD.format("".join(f" {name} |" for name in STAGES.values()), "---|" * len(STAGES))
    rows = []
    for line in sorted(lines, key=lambda x: (x["max_memory"] or "", x["stand_ins"], x["minutes"])):
        peaks = [str(line["stages_mib"][k][0]) if k in line["stages_mib"] else "" for k in STAGES]
        cells = [
            f"{line['minutes']:g} min",
            "all" if line["words_of"] is None else f"first {line['words_of']:g} min",
            "first of each batch" if line.get("stand_ins") else "all",
            line["max_memory"] or "",
            line["peak_mib"],
            line["peak_own_mib"],
            *peaks,
            f"{sum(line['stages_s'].values()):.0f}",
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return head + "\n".join(rows) + "\n"


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
    elif arguments == ["report"]:
        found = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
        (HERE / "BENCH_MEMORY.md").write_text(report(found), encoding="utf-8")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

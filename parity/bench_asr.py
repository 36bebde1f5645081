"""Whisper's speed, memory and words on a CPU: ours, mlx-whisper, faster-whisper, transformers, openai-whisper.

    python parity/bench_asr.py                               # all four parts, half an hour; parity/BENCH_ASR.md
    python parity/bench_asr.py --models base --clips short   # one part; the report keeps the others
    python parity/bench_asr.py --no-slow --rounds 1          # without mlx-whisper as installed; one run each

Every contestant has a process of its own and all cores (asr_contestants.py). Greedy decoding at temperature 0
only, language en, no text of earlier windows as a prompt. After a warm-up the contestants take turns, so that a
busy machine hits all; medians count. A contestant leaves after the round in which its time is spent; one that does
not come back within ten times that is ended. Loading is told apart. Peak memory is the process's, from its start
to its last run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from asr_contestants import (
    BASE,
    CONTESTANTS,
    FASTER,
    MARK,
    MODELS,
    PLAIN,
    RATE,
    SAME_BLAS,
    TRANSFORMERS,
    TRANSFORMERS_8,
    Contestant,
)
from harness import revision, sections

HERE = Path(__file__).resolve().parent
REPORT = HERE / "BENCH_ASR.md"
KEPT = HERE.parent / "out/asr"
WORKER = HERE / "asr_contestants.py"
ROUNDS = 3
BUDGET = {"short": 9.0, "long": 20.0}  # seconds of counted runs after which a contestant has had its turn
ENOUGH = 10  # budgets: a single run that takes longer is ended

# --- the parent ---------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What one contestant did with one clip; no seconds where it did not come back in time."""

    name: str
    loading: float = 0.0
    seconds: list[float] = field(default_factory=list)
    text: str = ""
    peak: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Worker:
    """A running contestant."""

    def __init__(self, contestant: Contestant, model: str, clip: str, work: Path) -> None:
        command = [sys.executable, WORKER, "worker", str(CONTESTANTS.index(contestant)), model, str(work)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=HERE,
        )
        self.clip, self.running = clip, True
        self.result = Result(contestant.name)
        self.result.loading = self._answer().get("loaded", 0.0)

    def run(self, clip: str, counts: bool = True) -> None:
        """Transcribe a clip, and remember how long it took if it counts."""
        if not self.running:
            return
        assert self.process.stdin is not None
        self.process.stdin.write(clip + "\n")
        self.process.stdin.flush()
        found = self._answer()
        if found and counts:
            self.result.text, self.result.peak = found["text"], found["peak"]
            self.result.seconds.append(found["seconds"])

    @property
    def spent(self) -> bool:
        """Whether it has had its turns, or its end."""
        return not self.running or sum(self.result.seconds) >= BUDGET[self.clip]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        timer = threading.Timer(ENOUGH * BUDGET[self.clip], self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                if line.startswith(MARK):
                    return dict(json.loads(line.removeprefix(MARK)))
        finally:
            timer.cancel()
        self.running = False
        print(f"  {self.result.name}: ended with {self.process.wait()}", file=sys.stderr)
        return {}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        if self.running:
            self.process.stdin.close()
        self.process.wait()


def compete(
    model: str, clip: str, contestants: Sequence[Contestant], work: Path, rounds: int
) -> list[Result]:
    """All contestants on one clip: a warm-up on the short one each, then turn by turn."""
    workers = []
    for contestant in contestants:
        workers.append(Worker(contestant, model, clip, work))
        if not contestant.slow:
            workers[-1].run("short", counts=False)
        print(f"  {contestant.name}: ready", file=sys.stderr)
    for number in range(rounds):
        for w in workers:
            if not w.spent:
                time.sleep(0.3)  # the last one's threads stop spinning
                w.run(clip)
        print(f"  round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    for w in workers:
        w.close()
    return [w.result for w in workers]


def words_of(text: str) -> list[str]:
    """Words by openai-whisper's own English normaliser."""
    from whisper.normalizers import EnglishTextNormalizer

    return str(EnglishTextNormalizer()(text)).split()


def word_errors(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Insertions, deletions and substitutions: Levenshtein's distance."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def results_table(clip: str, results: Sequence[Result], duration: float, reference: str) -> str:
    """One clip's results in Markdown."""
    wanted = words_of(reference)
    base = next(r for r in results if r.name == BASE[clip])
    base_words = words_of(base.text)
    lines = [
        "| | seconds: median (range) | × real time | time ÷ ours | peak MiB | load s | WER % "
        "| words unlike ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        if not r.seconds:
            lines.append(f"| {r.name} | not done in {ENOUGH * BUDGET[clip]:.0f} s | | | | | | |")
            continue
        words = words_of(r.text)
        spread = f"{min(r.seconds):.2f}–{max(r.seconds):.2f}" if len(r.seconds) > 1 else "one run"
        lines.append(
            f"| {r.name} | {r.median:.2f} ({spread}) | {duration / r.median:.1f} "
            f"| {r.median / base.median:.2f} | {r.peak:.0f} | {r.loading:.1f} "
            f"| {100 * word_errors(words, wanted) / len(wanted):.1f} | {word_errors(words, base_words)} |"
        )
    return "\n".join(lines)


def ratio(results: Sequence[Result], name: str, to: str) -> float:
    """Median time of one over the other's, taken round by round."""
    a, b = (next(r.seconds for r in results if r.name == n) for n in (name, to))
    return statistics.median([x / y for x, y in zip(a, b, strict=False)] or [float("nan")])


def goals(clip: str, results: Sequence[Result]) -> str:
    """How our line stands to the peers', and what was aimed at."""
    mine = BASE[clip]
    rows = [(SAME_BLAS, "ahead"), (TRANSFORMERS, "ahead"), (FASTER, "at most 1.5")]
    rows += [("faster-whisper, int8", "at most 1.5"), ("openai-whisper (torch)", "")]
    told = [f"{ratio(results, mine, n):.2f} × {n}'s{f' (goal: {goal})' if goal else ''}" for n, goal in rows]
    more = ""
    if any(r.name == PLAIN for r in results):
        best = TRANSFORMERS if clip == "short" else TRANSFORMERS_8
        plain = f"{ratio(results, PLAIN, best):.2f} × {best}'s"
        more = f" The same words on both sides, without timestamps: {plain}."
    return f"Our time, {mine}, median of the rounds' ratios: {'; '.join(told)}.{more}"


def surroundings(loads: Sequence[float]) -> str:
    """Versions and machine class."""
    packages = (
        "mlx",
        "mlx-whisper",
        "faster-whisper",
        "ctranslate2",
        "openai-whisper",
        "transformers",
        "torch",
        "numpy",
    )
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    machine = f"{os.cpu_count()}-core {platform.machine()} CPU, {platform.system()}"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    load = f"load {min(loads):.1f} to {max(loads):.1f}"
    ours = f"mlx_speech of {revision()}"
    return f"{today}; {machine}, {load}; {ours}, Python {platform.python_version()}, {versions}."


TITLES = {
    "short": "a telephone call (pyannote_sample)",
    "long": "read speech of several voices (sim_librispeech)",
}


def place(title: str) -> tuple[int, int]:
    """Where a section stands in the report."""
    size, clip = title.split(",")[0], title.split(": ", 1)[1]
    return MODELS.index(size), list(TITLES.values()).index(clip)


def measure(model: str, clips: Sequence[str], slow: bool, rounds: int) -> dict[str, str]:
    """The sections of the clips' contests of one size, by title."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([sys.executable, WORKER, "prepare", model, folder], check=True, cwd=HERE)
        for clip in clips:
            load = os.getloadavg()[0]
            duration = len(np.load(work / f"{clip}.npy", mmap_mode="r")) / RATE
            chosen = [c for c in CONTESTANTS if clip in c.clips and (slow or not c.slow)]
            results = compete(model, clip, chosen, work, rounds)
            reference = (work / f"{clip}.txt").read_text(encoding="utf-8")
            body = results_table(clip, results, duration, reference)
            title = f"{model}, {duration:.0f} s: {TITLES[clip]}"
            about = surroundings([load, os.getloadavg()[0]])
            found[title] = f"{body}\n\n{goals(clip, results)}\n\n{about}"
            KEPT.mkdir(parents=True, exist_ok=True)
            (KEPT / f"{model}-{clip}.json").write_text(
                json.dumps([asdict(r) for r in results]), encoding="utf-8"
            )
            print(f"## {title}\n\n{found[title]}", flush=True)
    return found


def main() -> None:
    """Run what is asked for, and write BENCH_ASR.md, which keeps what it said of the rest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-slow", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--clips", nargs="+", default=list(TITLES), choices=list(TITLES))
    arguments = parser.parse_args()
    slow = not arguments.no_slow and sys.platform == "linux"
    found = sections(REPORT)
    for model in arguments.models:
        found |= measure(model, arguments.clips, slow, arguments.rounds)
    about = (
        "Written by `python parity/bench_asr.py`. Whisper in float32 (faster-whisper's int8 rows excepted), greedy "
        "at temperature 0 without fallback, language en, no prompt from earlier windows; each contestant in its "
        "own process with all cores, turn by turn after a warm-up. Loading includes imports. WER against the "
        "transcripts, after openai-whisper's English normaliser. mlx_speech decodes 8 windows at a time where it "
        "has as many; transformers writes no timestamps."
    )
    parts = [f"## {title}\n\n{found[title]}" for title in sorted(found, key=place)]
    text = "\n\n".join(["# Speech recognition: speed", about, *parts]) + "\n"
    REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""An hour of speech in one go: does memory grow, do times drift? Writes parity/BENCH_LONG.md.

    python parity/bench_long.py batched        # the hour, in batches of the stretches that the VAD finds
    python parity/bench_long.py sequential     # its first 20 minutes, as OpenAI's program does it
    python parity/bench_long.py --tables       # the tables from what is there; the report keeps the others

The hour is made of utterances of LibriSpeech and LJ Speech, 0.3 to 2.5 s of faint noise between them, at offsets
that are known to the sample. In each utterance the first and the last 10 ms frame within 35 dB of its loudest
count as where speech begins and ends; the first word's start and the last word's end are held against these.
A constant error is the word timing's own; one that changes with time would be a drift.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS that MLX runs on in use)

import argparse
import datetime
import json
import os
import platform
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from harness import revision, sections

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.pipeline import Transcriber
from mlx_speech.stages.options import TranscribeOptions
from mlx_speech.types import Transcript

HERE = Path(__file__).resolve().parent
REPORT = HERE / "BENCH_LONG.md"
KEPT = HERE.parent / "out/long"
AUDIO = Path(os.environ.get("MLX_SPEECH_DATA", HERE.parents[1] / "shared/data")) / "audio"
SETS = ("librispeech_train/*.flac", "librispeech_test_other/*.flac", "ljspeech/*.wav")
MODEL = "whisper-tiny.en"
MINUTES = {"batched": 60, "sequential": 20}
PARTS = 10
EVERY = 2.0  # seconds between looks at the memory
LOUD = 35.0  # decibels below the loudest frame


@dataclass(frozen=True)
class Utterance:
    """Where an utterance's speech begins and ends in the recording, in seconds."""

    start: float
    end: float


@dataclass
class Memory:
    """What a process holds while it works: (seconds of audio done, MiB resident, MiB of MLX's arrays)."""

    done: float = 0.0
    seen: list[tuple[float, float, float]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until told to stop."""
        while not self.stop.wait(EVERY):
            self.seen.append((self.done, resident(), mx.get_active_memory() / 2**20))

    def report(self, stage: str, done: float, total: float) -> None:
        """A transcriber's progress."""
        if stage == "transcribe":
            self.done = done


def resident() -> float:
    """MiB of this process in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- the recording ------------------------------------------------------------------------------------------


def build(minutes: int) -> tuple[np.ndarray, list[Utterance]]:
    """The recording (T,), and its utterances; always the same."""
    rng = np.random.default_rng(0)
    files = [f for s in SETS for f in sorted(AUDIO.glob(s))]
    if not files:
        raise FileNotFoundError(f"no recordings in {AUDIO}; set MLX_SPEECH_DATA")
    pieces: list[np.ndarray] = []
    found: list[Utterance] = []
    size = 0
    for n in rng.permutation(len(files)):
        gap, speech = int(rng.uniform(0.3, 2.5) * SAMPLE_RATE), load_audio(files[n])
        if size + gap + len(speech) > minutes * 60 * SAMPLE_RATE:
            break
        first, last = loud(speech)
        at = size + gap
        found.append(Utterance((at + first) / SAMPLE_RATE, (at + last) / SAMPLE_RATE))
        pieces += [np.zeros(gap, np.float32), speech]
        size = at + len(speech)
    audio = np.concatenate(pieces)
    return audio + 1e-4 * rng.standard_normal(len(audio), np.float32), found


def loud(speech: np.ndarray) -> tuple[int, int]:
    """The samples where speech begins and ends."""
    frame = SAMPLE_RATE // 100
    frames = speech[: len(speech) // frame * frame].reshape(-1, frame)
    level = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12)
    at = np.flatnonzero(level > level.max() - LOUD)
    return int(at[0]) * frame, int(at[-1] + 1) * frame


# --- the run ------------------------------------------------------------------------------------------------


def transcribe(way: str) -> None:
    """Transcribe in this process, watch its memory, and keep what came out."""
    audio, said = build(MINUTES[way])
    transcriber = Transcriber.load(MODEL, align="none", dtype="float32")
    options = TranscribeOptions(language="en", sequential=way == "sequential")
    memory = Memory()
    watcher = threading.Thread(target=memory.watch, daemon=True)
    watcher.start()
    begin = time.perf_counter()
    transcript = transcriber.transcribe(audio, options, progress=memory.report)
    seconds = time.perf_counter() - begin
    memory.stop.set()
    watcher.join()
    KEPT.mkdir(parents=True, exist_ok=True)
    data = {
        "audio": len(audio) / SAMPLE_RATE,
        "seconds": seconds,
        "utterances": [asdict(u) for u in said],
        "words": [[w.text, w.start, w.end] for w in transcript.words],
        "memory": memory.seen,
        "findings": _kinds(transcript),
        "made": made(),
    }
    (KEPT / f"{way}.json").write_text(json.dumps(data), encoding="utf-8")


def made() -> str:
    """When, and of what."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    cores = f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the end"
    return (
        f"{today}, mlx_speech of {revision()}, mlx {metadata.version('mlx')}; {platform.machine()} CPU, "
        f"{platform.system()}, {cores}."
    )


def _kinds(transcript: Transcript) -> dict[str, int]:
    kinds = [f.kind for f in transcript.findings]
    return {k: kinds.count(k) for k in sorted(set(kinds))}


# --- tables -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Of each utterance that has words: when it is, and how far its first and last word are off, in seconds."""

    at: np.ndarray
    first: np.ndarray
    last: np.ndarray
    silent: int
    outside: int


def errors(words: Sequence[Sequence[Any]], said: Sequence[Utterance]) -> Errors:
    """Words go to the utterance nearest to their middle; those a second or more from any are outside."""
    middles = [(a + b) / 2 for _, a, b in words]
    cuts = [(a.end + b.start) / 2 for a, b in pairwise(said)]
    own: dict[int, list[Sequence[Any]]] = {}
    outside = 0
    for word, middle in zip(words, middles, strict=True):
        n = bisect_right(cuts, middle)
        if said[n].start - 1 <= middle <= said[n].end + 1:
            own.setdefault(n, []).append(word)
        else:
            outside += 1
    rows = [(said[n].start, w[0][1] - said[n].start, w[-1][2] - said[n].end) for n, w in sorted(own.items())]
    at, first, last = (np.array(column) for column in zip(*rows, strict=True))
    return Errors(at, first, last, len(said) - len(own), outside)


def slope(at: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Theil and Sen's slope, the median over all pairs, an hour; half its 95 % interval from 200 draws."""

    def median(x: np.ndarray, y: np.ndarray) -> float:
        i, j = np.triu_indices(len(x), 1)
        apart = x[j] - x[i]
        used = np.abs(apart) > 60  # of neighbours it says nothing
        return float(np.median((y[j] - y[i])[used] / apart[used])) * 3600

    rng = np.random.default_rng(0)
    draws = []
    for _ in range(200):
        n = rng.integers(0, len(at), len(at))
        draws.append(median(at[n], values[n]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return median(at, values), float(high - low) / 2


def table(way: str) -> str:
    """One run's section."""
    data = json.loads((KEPT / f"{way}.json").read_text(encoding="utf-8"))
    said = [Utterance(**u) for u in data["utterances"]]
    found = errors(data["words"], said)
    total = data["audio"]
    memory = np.array(data["memory"])
    edges = np.linspace(0, total, PARTS + 1)
    lines = [
        "| minutes | utterances | first word's start, median ms | last word's end, median ms | most resident MiB "
        "| MLX's arrays, most MiB |",
        "|---|---|---|---|---|---|",
    ]
    for a, b in pairwise(edges):
        mine, seen = (found.at >= a) & (found.at < b), memory[(memory[:, 0] >= a) & (memory[:, 0] <= b)]
        sizes = [f"{seen[:, k].max():.0f}" for k in (1, 2)] if len(seen) else ["", ""]
        medians = [f"{1000 * np.median(v[mine]):+.0f}" for v in (found.first, found.last)]
        lines.append(
            f"| {a / 60:.0f} to {b / 60:.0f} | {mine.sum()} | " + " | ".join([*medians, *sizes]) + " |"
        )
    drifts = [slope(found.at, v) for v in (found.first, found.last)]
    middle = memory[:, 0] >= total / 2
    most = [memory[side, 1].max() for side in (~middle, middle)]
    far = [int(np.sum(np.abs(v) > 1)) for v in (found.first, found.last)]
    start, end = (f"{1000 * drift:+.0f} ± {1000 * half_interval:.0f} ms" for drift, half_interval in drifts)
    text = (
        f"{total / 60:.1f} minutes with {len(said)} utterances in {data['seconds']:.0f} s; {len(data['words'])} "
        f"words, {found.outside} of them a second or more from any utterance; {found.silent} utterances without "
        f"a word. Drift of the first word's start {start} an hour, of the last word's end {end} (median of pairs, "
        f"95 %). More than a second off: {far[0]} starts, {far[1]} ends. Most resident: {most[0]:.0f} MiB in "
        f"the first half, {most[1]:.0f} MiB in the second. The audit's findings: {data['findings'] or 'none'}."
    )
    return f"{text}\n\n{data['made']}\n\n" + "\n".join(lines)


def write_tables() -> None:
    """BENCH_LONG.md from what is kept, and from what it said of the rest."""
    found = sections(REPORT) | {w: table(w) for w in MINUTES if (KEPT / f"{w}.json").is_file()}
    about = (
        "Written by `python parity/bench_long.py`: Whisper tiny.en in float32 with Whisper's own word times, the "
        "defaults otherwise (fallback included). " + (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    )
    parts = [
        "# An hour in one go",
        about,
        *(f"## {way}\n\n{found[way]}" for way in MINUTES if way in found),
    ]
    text = "\n\n".join(p.strip() for p in parts) + "\n"
    REPORT.write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    """Run one way, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ways", nargs="*", help="in a process each, so that memory is its own")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    for way in [] if arguments.tables else arguments.ways[:1]:
        transcribe(way)
    write_tables()


if __name__ == "__main__":
    main()

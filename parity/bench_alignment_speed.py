"""How long alignment takes and what memory it needs, beside WhisperX 3.8.6's own ``align`` on transformers.

Every job runs in a process of its own, for its memory; its models are loaded before the clock starts. Words are
given. The mini is wav2vec2-mini-en, which both can run. WhisperX cuts text into sentences with nltk's data, which
is not here: each of its segments counts as one.

python parity/bench_alignment_speed.py          # writes parity/BENCH_ALIGNMENT_SPEED.md
python parity/bench_alignment_speed.py search   # one part of it; the others stay
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from alignment_sets import DATA
from bench_alignment import MINI, whisperx_parts

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.runtime import BLAS_VARIABLE
from mlx_speech.stages import ctc, placing
from mlx_speech.stages.align import align_segments
from mlx_speech.stages.emissions import Listener
from mlx_speech.types import Segment

REPORT = Path(__file__).with_name("BENCH_ALIGNMENT_SPEED.md")
SHORT = 20  # segments for the base configuration
HOUR = 3600.0
MINI_FOLDER = f"path:{DATA.parent / 'weights' / MINI}"
Job = Callable[[], None]


@cache
def recording() -> tuple[np.ndarray, tuple[Segment, ...]]:
    """The utterances of LibriSpeech test-other in a row."""
    folder = DATA / "librispeech_test_other"
    lines = (folder / "transcripts.txt").read_text(encoding="utf-8").splitlines()
    texts = dict(line.split(maxsplit=1) for line in lines)
    parts, segments, now = [], [], 0.0
    for path in sorted(folder.glob("*.flac")):
        audio = load_audio(path)
        end = now + len(audio) / SAMPLE_RATE
        segments.append(Segment(now, end, texts[path.stem].lower(), language="en"))
        parts.append(audio)
        now = end
    return np.concatenate(parts), tuple(segments)


# --- jobs: each is made ready, then timed -------------------------------------------------------------------


def ours(name: str) -> Job:
    """Segments placed by ours."""
    audio, segments = recording()
    base = name == "base"
    listener = Listener(_base_pair()[0] if base else mlx_speech.load(name))
    chosen = segments[:SHORT] if base else segments
    audio = audio[: round(chosen[-1].end * SAMPLE_RATE)]
    return lambda: align_segments({"en": listener}, audio, chosen) and None


def whisperx(base: bool) -> Job:
    """The same by WhisperX."""
    import torch

    alignment, model, meta = whisperx_parts()
    torch.set_num_threads(2)
    audio, segments = recording()
    model = _base_pair()[1] if base else model
    given = [
        {"start": s.start, "end": s.end, "text": s.text} for s in (segments[:SHORT] if base else segments)
    ]
    return lambda: alignment.align(given, model, meta, audio, "cpu") and None


def _base_pair() -> tuple[Any, Any]:
    """The configuration of wav2vec2-base-960h with seeded weights: ours and transformers'."""
    from fixtures_wav2vec2 import KINDS
    from parity_wav2vec2 import _ours

    theirs = KINDS["base"].model(0)
    return _ours(KINDS["base"], theirs), theirs


def emissions(file: str) -> None:
    """Hear the recording once, for the jobs that only search."""
    import mlx.core as mx

    audio, segments = recording()
    model = mlx_speech.load(MINI_FOLDER)
    columns = {t.lower(): n for n, t in enumerate(model.config.vocabulary)}
    kept = {}
    for n, s in enumerate(segments):
        part = mx.array(audio[round(s.start * SAMPLE_RATE) : round(s.end * SAMPLE_RATE)])[None]
        logits = model(model.normalize(part))[0]
        kept[f"rows{n}"] = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        kept[f"tokens{n}"] = np.array([columns[c] for c in s.text.replace(" ", "|")])
    np.savez(file, **kept)


def _heard(seconds: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Emissions and tokens of the utterances, over and over up to so many seconds."""
    with np.load(sys.argv[3]) as kept:
        one = [(kept[f"rows{n}"], kept[f"tokens{n}"]) for n in range(len(kept.files) // 2)]
    turns = max(1, round(seconds / sum(len(rows) / 50 for rows, _ in one)))
    return one * turns


def segments_apart() -> Job:
    """Each utterance in its own frames, an hour of them."""
    work = _heard(HOUR)
    return lambda: [ctc.viterbi(rows, tokens) for rows, tokens in work] and None


def segments_by_whisperx() -> Job:
    """The same by WhisperX's functions, the utterances once."""
    import torch
    from parity_align import whisperx_path

    work = [(torch.from_numpy(rows), tokens.tolist()) for rows, tokens in _heard(0)]
    return lambda: [whisperx_path(rows, tokens) for rows, tokens in work] and None


def one_text(missing: int) -> Job:
    """The text of an hour in the hour, as align_text searches; without so many utterances at each end."""
    work = _heard(HOUR)
    rows = np.concatenate([r for r, _ in work])
    said = work[missing : len(work) - missing]
    tokens = np.concatenate([np.append(t, BAR) for _, t in said])[:-1]
    outside = rows[:, 5:].max(1) - placing._OUTSIDE
    owner = np.concatenate([np.full(len(t) + 1, n) for n, (_, t) in enumerate(said, missing)])[:-1]
    edges = np.cumsum([0, *(len(r) for r, _ in work)])

    def job() -> None:
        path = ctc.viterbi(rows, tokens, beam=placing._BEAM, outside=outside)
        right = (path.starts >= edges[owner] - 15) & (path.ends <= edges[owner + 1] + 15)
        print(f"{100 * right.mean():.2f} %", end=" ")

    return job


BAR = 4  # the delimiter's column
JOBS: dict[str, tuple[str, Callable[[], Job]]] = {
    "mini, ours": ("speed", lambda: ours(MINI_FOLDER)),
    "whisper-ctc-tiny.en, ours": ("speed", lambda: ours("whisper-ctc-tiny.en")),
    "mini, WhisperX": ("speed", lambda: whisperx(False)),
    "base-960h's configuration, ours": ("speed", lambda: ours("base")),
    "base-960h's configuration, WhisperX": ("speed", lambda: whisperx(True)),
    "1 h in segments, ours": ("search", segments_apart),
    "551 s in segments, WhisperX": ("search", segments_by_whisperx),
    "1 h as one text": ("search", lambda: one_text(0)),
    "1 h as one text that lacks ten utterances at each end": ("search", lambda: one_text(10)),
}


def run_job(name: str) -> None:
    """One job; its figures as a line of JSON."""
    job = JOBS[name][1]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, worked = perf_counter(), process_time()
    job()
    wall, cpu = perf_counter() - started, process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"wall": wall, "cpu": cpu, "before": before / 1024, "peak": peak / 1024}))


def measure(part: str, file: str) -> Iterator[str]:
    """The table of one part."""
    found: dict[str, dict[str, float]] = {}
    yield "| | seconds | CPU seconds | seconds over ours | memory at its peak, before (MB) | letters in place |"
    yield "|---|---|---|---|---|---|"
    for name, (belongs, _) in JOBS.items():
        if belongs != part:
            continue
        command = [sys.executable, __file__, "--job", name, file]
        # torch would take its products from our OpenBLAS, which runs them on one thread: it has its own
        env = {**os.environ, **({BLAS_VARIABLE: "none"} if "WhisperX" in name else {})}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        words, _, figures = done.stdout.splitlines()[-1].rpartition(" {")
        found[name] = f = json.loads("{" + figures if words else done.stdout.splitlines()[-1])
        peer = found.get(name.replace("WhisperX", "ours")) if "WhisperX" in name else None
        ratio = f"{f['wall'] / peer['wall']:.2f}" if peer else ""
        # a process counts what its parent held when it was started: much, after the parent has heard
        memory = f"{f['peak']:.0f}, {f['before']:.0f}" if part == "speed" else ""
        yield f"| {name} | {f['wall']:.1f} | {f['cpu']:.1f} | {ratio} | {memory} | {words} |"


NOTES = {
    "speed": "LibriSpeech test-other: {0} segments, {1:.0f} s; the base configuration, with seeded weights, hears "
    "the first {2}. 2 CPU cores, alone on the machine.",
    "search": "The search alone, through emissions that were made before, on one core. Letters in place lie within "
    "0.3 s of their own utterance.",
}


def main(wanted: list[str]) -> None:
    """Measure, print and write."""
    parts = {}
    if REPORT.is_file():
        parts = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", REPORT.read_text("utf-8"), re.M | re.S))
    _, segments = recording()
    for part in wanted or ("speed", "search"):
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/emissions.npz"
            if part == "search":
                emissions(file)
            lines = [NOTES[part].format(len(segments), segments[-1].end, SHORT), "", *measure(part, file), ""]
        parts[part] = "\n".join(lines) + "\n"
        print(parts[part], flush=True)
        head = "# What alignment costs\n\n" + (__doc__ or "").split("\n\n")[1] + "\n\n"
        body = "".join(f"## {name}\n\n{text.strip()}\n\n" for name, text in parts.items())
        REPORT.write_text(head + body, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        run_job(sys.argv[2])
    else:
        main(sys.argv[1:])

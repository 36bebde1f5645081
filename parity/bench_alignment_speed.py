"""How long alignment takes and what memory it needs, beside WhisperX 3.8.6's own ``align`` on transformers.

Every job runs in a process of its own, for its memory; its models are loaded before the clock starts. Words are
given. WhisperX cuts text into sentences with nltk's data, which is not here: each of its segments counts as one.

python parity/bench_alignment_speed.py          # writes parity/BENCH_ALIGNMENT_SPEED.md
python parity/bench_alignment_speed.py hour     # one part of it; the others stay
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from bench_alignment import DATA, MINI, whisperx_parts

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.stages import ctc
from mlx_speech.stages.align import align_segments, align_text
from mlx_speech.stages.aligners import known_lag
from mlx_speech.stages.emissions import Listener
from mlx_speech.types import Segment, Word

REPORT = Path(__file__).with_name("BENCH_ALIGNMENT_SPEED.md")
SHORT = 20  # segments for the base configuration
HOUR = 3600.0
Job = Callable[[], None]


@cache
def recording(seconds: float = 0.0) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """The utterances of LibriSpeech test-other in a row, over and over up to so many seconds."""
    folder = DATA / "librispeech_test_other"
    lines = (folder / "transcripts.txt").read_text(encoding="utf-8").splitlines()
    texts = dict(line.split(maxsplit=1) for line in lines)
    parts, segments, now = [], [], 0.0
    while now < max(seconds, 1.0):
        for path in sorted(folder.glob("*.flac")):
            audio = load_audio(path)
            end = now + len(audio) / SAMPLE_RATE
            segments.append(Segment(now, end, texts[path.stem].lower(), language="en"))
            parts.append(audio)
            now = end
            if seconds and now >= seconds:
                break
    return np.concatenate(parts), tuple(segments)


# --- jobs: each is made ready, then timed -------------------------------------------------------------------


def ours(base: bool) -> Job:
    """Segments placed by ours."""
    audio, segments = recording()
    listener = Listener(_base_pair()[0] if base else mlx_speech.load(MINI))
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


def emissions(original: bool) -> Job:
    """Only the search, through an hour of emissions, segment by segment; WhisperX's: through its first turn."""
    audio, segments = recording()
    model = mlx_speech.load(MINI)
    import mlx.core as mx

    columns = {t.lower(): n for n, t in enumerate(model.config.vocabulary)}
    work = []
    for s in segments:
        part = mx.array(audio[round(s.start * SAMPLE_RATE) : round(s.end * SAMPLE_RATE)])[None]
        logits = model(model.normalize(part))[0]
        log_probs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        work.append((log_probs, [columns[c] for c in s.text.replace(" ", "|")]))
    if not original:
        turns = round(HOUR / segments[-1].end)
        return lambda: [ctc.viterbi(e, t) for _ in range(turns) for e, t in work] and None
    import torch
    from parity_align import whisperx_path

    given = [(torch.from_numpy(e), t) for e, t in work]
    return lambda: [whisperx_path(e, t) for e, t in given] and None


def hour(ends: bool) -> Job:
    """A known text placed in an hour; with ``ends``, the text's first and last minute and a half are missing."""
    audio, segments = recording(HOUR)
    listener = Listener(mlx_speech.load(MINI), known_lag(MINI))
    said = [s for s in segments if not ends or (s.start > 90 and s.end < segments[-1].end - 90)]

    def job() -> None:
        placed = align_text(listener, audio, "\n".join(s.text for s in said), "en")
        words = [w for s in placed for w in s.words]
        off = [w for w, s in zip(words, _owners(said), strict=True) if not _inside(w, s)]
        print(f"{len(words) - len(off)}/{len(words)}", end=" ")

    return job


def _owners(segments: list[Segment]) -> list[Segment]:
    return [s for s in segments for _ in s.text.split()]


def _inside(word: Word, segment: Segment) -> bool:
    return segment.start - 0.3 <= word.start and word.end <= segment.end + 0.3


JOBS: dict[str, tuple[str, Callable[[], Job]]] = {
    "mini, ours": ("speed", lambda: ours(False)),
    "mini, WhisperX": ("speed", lambda: whisperx(False)),
    "base-960h's configuration, ours": ("speed", lambda: ours(True)),
    "base-960h's configuration, WhisperX": ("speed", lambda: whisperx(True)),
    "search alone, 1 h of emissions, ours": ("hour", lambda: emissions(False)),
    "search alone, 551 s of emissions, WhisperX": ("hour", lambda: emissions(True)),
    "known text in 1 h": ("hour", lambda: hour(False)),
    "known text in 1 h, 90 s of it missing at each end": ("hour", lambda: hour(True)),
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


def measure(part: str) -> Iterator[str]:
    """The table of one part."""
    found: dict[str, dict[str, float]] = {}
    yield "| | seconds | CPU seconds | seconds over ours | memory at its peak, before (MB) | words in place |"
    yield "|---|---|---|---|---|---|"
    for name, (belongs, _) in JOBS.items():
        if belongs != part:
            continue
        command = [sys.executable, __file__, "--job", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        words, _, figures = done.stdout.splitlines()[-1].rpartition(" {")
        found[name] = f = json.loads("{" + figures if words else done.stdout.splitlines()[-1])
        peer = found.get(name.replace("WhisperX", "ours")) if "WhisperX" in name else None
        ratio = f"{f['wall'] / peer['wall']:.2f}" if peer else ""
        memory = f"{f['peak']:.0f}, {f['before']:.0f}"
        yield f"| {name} | {f['wall']:.1f} | {f['cpu']:.1f} | {ratio} | {memory} | {words} |"


NOTES = {
    "speed": "LibriSpeech test-other: {0} segments, {1:.0f} s; the base configuration, with seeded weights, hears "
    "the first {2}. 2 CPU cores, alone on the machine.",
    "hour": "The same recordings over and over. Memory before is that of the models, the recording (230 MB an "
    "hour) and, for the search alone, the emissions. Words in place lie within 0.3 s of their own utterance.",
}


def main(wanted: list[str]) -> None:
    """Measure, print and write."""
    parts = {}
    if REPORT.is_file():
        parts = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", REPORT.read_text("utf-8"), re.M | re.S))
    _, segments = recording()
    for part in wanted or ("speed", "hour"):
        lines = [NOTES[part].format(len(segments), segments[-1].end, SHORT), "", *measure(part), ""]
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

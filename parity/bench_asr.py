"""Whisper tiny.en in float32, its speed, memory and words: ours, mlx-whisper, faster-whisper, openai-whisper.

python parity/bench_asr.py            # a few minutes; writes parity/BENCH_ASR.md
python parity/bench_asr.py --no-reference-blas   # without the one slow run of mlx-whisper as installed

Every contestant has a process of its own and all cores. Greedy decoding at temperature 0 only, language en,
no text of earlier windows as a prompt. After a warm-up the contestants take turns, so that a busy machine
hits all; medians count. Loading is told apart. Peak memory is the process's, from its start to its last run.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODEL = "whisper-tiny.en"
RATE = 16000
ROUNDS = {"short": 7, "long": 3}
MARK = "@@"  # begins a worker's lines among what libraries print
Run = Callable[[np.ndarray], str]

# --- contestants: each loads its model and returns what turns samples into text -----------------------------


def ours(work: Path, words: bool = False, pipeline: bool = True, batch_size: int = 8) -> Run:
    from mlx_speech.pipeline import Transcriber
    from mlx_speech.stages.options import DecodeOptions, TranscribeOptions
    from mlx_speech.stages.transcribe import transcribe_spans
    from mlx_speech.types import Span

    transcriber = Transcriber.load(MODEL, align="none", dtype="float32")
    decode = DecodeOptions(temperatures=(0.0,))
    options = TranscribeOptions(language="en", words=words, batch_size=batch_size, decode=decode)

    def window(audio: np.ndarray) -> str:
        spans = [Span(0.0, len(audio) / RATE)]
        found, _ = transcribe_spans(transcriber.whisper, transcriber.tokenizer, audio, spans, options)
        return " ".join(s.text for s in found)

    def whole(audio: np.ndarray) -> str:
        return " ".join(s.text for s in transcriber.transcribe(audio, options).segments)

    return whole if pipeline else window


def mlx_whisper(work: Path) -> Run:
    import mlx.core as mx
    import mlx_whisper.transcribe  # noqa: F401  (a module that the package hides behind a function)

    transcribe = sys.modules["mlx_whisper.transcribe"]
    folder = str(work / "mlx_whisper")
    transcribe.ModelHolder.get_model(folder, mx.float32)

    def run(audio: np.ndarray) -> str:
        options: dict[str, Any] = {"temperature": 0.0, "condition_on_previous_text": False, "language": "en"}
        return str(transcribe.transcribe(audio, path_or_hf_repo=folder, fp16=False, **options)["text"])

    return run


def faster_whisper(work: Path, words: bool = False, batched: bool = False) -> Run:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    folder = (work / "checkpoint.txt").read_text()
    model = WhisperModel(folder, device="cpu", compute_type="float32", cpu_threads=os.cpu_count() or 1)
    options: dict[str, Any] = {"beam_size": 1, "best_of": 1, "temperature": 0.0, "language": "en"}
    options |= {"condition_on_previous_text": False, "word_timestamps": words}
    if batched:
        options |= {"batch_size": 8, "without_timestamps": False}
    engine = BatchedInferencePipeline(model) if batched else model

    def run(audio: np.ndarray) -> str:
        segments, _ = engine.transcribe(audio, **options)
        return " ".join(s.text for s in segments)

    return run


def openai_whisper(work: Path) -> Run:
    import whisper

    model = whisper.load_model(str(work / "tiny.en.pt"), device="cpu")
    options: dict[str, Any] = {"temperature": 0.0, "condition_on_previous_text": False, "language": "en"}
    return lambda audio: str(model.transcribe(audio, fp16=False, **options)["text"])


@dataclass(frozen=True)
class Contestant:
    """How one line of the tables is made; ``blas`` is loaded before MLX, as mlx_speech does by itself."""

    name: str
    build: Callable[..., Run]
    options: dict[str, Any] = field(default_factory=dict)
    clips: tuple[str, ...] = ("short", "long")
    blas: bool = False
    once: bool = False


WINDOW, PIPELINE = "mlx_speech, one window, no VAD", "mlx_speech, VAD + Whisper"
FASTER, SAME_BLAS = "faster-whisper", "mlx-whisper, the same OpenBLAS"
CONTESTANTS = (
    Contestant(WINDOW, ours, {"pipeline": False}, ("short",)),
    Contestant(WINDOW + ", word times", ours, {"pipeline": False, "words": True}, ("short",)),
    Contestant(PIPELINE, ours),
    Contestant(PIPELINE + ", one window at a time", ours, {"batch_size": 1}, ("long",)),
    Contestant(PIPELINE + ", word times", ours, {"words": True}),
    Contestant(FASTER, faster_whisper),
    Contestant("faster-whisper, word times", faster_whisper, {"words": True}),
    Contestant("faster-whisper, batched, its VAD", faster_whisper, {"batched": True}, ("long",)),
    Contestant(SAME_BLAS, mlx_whisper, blas=True),
    Contestant("openai-whisper (torch)", openai_whisper, clips=("short",)),
    Contestant("mlx-whisper as installed (reference BLAS)", mlx_whisper, clips=("short",), once=True),
)
BASE = {"short": WINDOW, "long": PIPELINE}

# --- a worker: one contestant in its own process ------------------------------------------------------------


def worker(index: int, work: Path) -> None:
    """Load, then transcribe each clip named on standard input; answers are JSON lines."""
    begin = time.perf_counter()
    contestant = CONTESTANTS[index]
    if contestant.blas:
        for file in json.loads((work / "blas.json").read_text()):
            ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
    run = contestant.build(work, **contestant.options)
    answer({"loaded": time.perf_counter() - begin})
    for line in sys.stdin:
        audio = np.load(work / f"{line.strip()}.npy")
        begin = time.perf_counter()
        text = run(audio)
        answer({"seconds": time.perf_counter() - begin, "text": text, "peak": peak_memory()})


def answer(data: dict[str, Any]) -> None:
    """Send one line to the parent."""
    print(MARK + json.dumps(data), flush=True)


def peak_memory() -> float:
    """Most memory that this process had in RAM, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's before exec
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def prepare(work: Path) -> None:
    """The clips as arrays, and the same weights in each contestant's layout; in a process of its own."""
    import mlx_speech  # isort: skip  (first: it loads the BLAS)

    import mlx.core as mx
    from mlx.utils import tree_flatten

    from mlx_speech import runtime
    from mlx_speech.audio import load_audio
    from mlx_speech.hub import locate

    data = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"
    sessions = sorted((data / "sim_librispeech").glob("*.flac"))[:3]
    clips = {"short": [data / "pyannote_sample/sample.wav"], "long": sessions}
    for name, files in clips.items():
        np.save(work / f"{name}.npy", np.concatenate([load_audio(f) for f in files]))
        said = [_said(f.with_suffix(".stm")) for f in files]
        (work / f"{name}.txt").write_text("\n".join(said), encoding="utf-8")
    checkpoint = locate(MODEL)
    (work / "checkpoint.txt").write_text(str(checkpoint))
    maps = Path("/proc/self/maps")
    loaded = sorted(set(re.findall(r"/\S+", maps.read_text()))) if maps.is_file() else []
    name = Path(runtime.start().name).name
    folder = next((str(Path(f).parent) for f in loaded if Path(f).name.startswith(name.split(".so")[0])), "")
    helpers = [f for f in loaded if str(Path(f).parent) == folder and "site-packages" in folder]
    (work / "blas.json").write_text(json.dumps([*_in_order(helpers), runtime.start().name] if loaded else []))
    model = mlx_speech.load(MODEL, dtype="float32")
    target = work / "mlx_whisper"
    target.mkdir()
    weights = {
        k.replace("fc1", "mlp1").replace("fc2", "mlp2"): mx.contiguous(v)
        for k, v in tree_flatten(model.parameters())
        if k != "encoder.positional_embedding"  # it computes these sinusoids
    }
    mx.savez(str(target / "weights.npz"), **weights)
    sizes = {k: getattr(model.config, k) for k in model.config.__dataclass_fields__ if k.startswith("n_")}
    (target / "config.json").write_text(json.dumps(sizes))
    _save_openai(work, checkpoint)


def _in_order(files: list[str]) -> list[str]:
    order = ("libquadmath", "libgfortran", "libgomp")
    return [f for prefix in order for f in files if Path(f).name.startswith(prefix)]


def _save_openai(work: Path, checkpoint: Path) -> None:
    import torch
    from parity_whisper import openai_model, openai_weights, read_ctranslate2

    tensors = read_ctranslate2(checkpoint / "model.bin")
    model = openai_model(tensors, openai_weights(tensors), "tiny.en")
    saved = {"dims": vars(model.dims), "model_state_dict": model.state_dict()}
    torch.save(saved, work / "tiny.en.pt")


def _said(stm: Path) -> str:
    """The words of an STM file in order of their phrases' starts."""
    lines = (line.split(maxsplit=5) for line in stm.read_text(encoding="utf-8").splitlines())
    said = [f for f in lines if len(f) == 6 and not f[0].startswith(";")]
    phrases = sorted((float(f[3]), re.sub(r"^<[^>]*>\s*", "", f[5])) for f in said)
    return " ".join(text for _, text in phrases)


# --- the parent ---------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What one contestant did with one clip."""

    contestant: Contestant
    loading: float
    seconds: list[float] = field(default_factory=list)
    text: str = ""
    peak: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Worker:
    """A running contestant."""

    def __init__(self, contestant: Contestant, work: Path) -> None:
        command = [sys.executable, __file__, "--worker", str(CONTESTANTS.index(contestant)), str(work)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=HERE,
        )
        self.result = Result(contestant, self._answer()["loaded"])

    def run(self, clip: str, counts: bool = True) -> None:
        """Transcribe a clip, and remember how long it took if it counts."""
        assert self.process.stdin is not None
        self.process.stdin.write(clip + "\n")
        self.process.stdin.flush()
        found = self._answer()
        self.result.text, self.result.peak = found["text"], found["peak"]
        if counts:
            self.result.seconds.append(found["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        raise RuntimeError(f"a worker ended with {self.process.wait()}: {self.process.args}")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compete(clip: str, contestants: Sequence[Contestant], work: Path) -> list[Result]:
    """All contestants on one clip: a warm-up each, then turn by turn."""
    workers = []
    for contestant in contestants:
        workers.append(Worker(contestant, work))
        if not contestant.once:
            workers[-1].run(clip, counts=False)
        print(f"  {contestant.name}: ready", file=sys.stderr)
    for number in range(ROUNDS[clip]):
        for w in workers:
            if number == 0 or not w.result.contestant.once:
                time.sleep(0.3)  # the last one's threads stop spinning
                w.run(clip)
        print(f"  round {number + 1} of {ROUNDS[clip]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
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
    base = next(r for r in results if r.contestant.name == BASE[clip])
    base_words = words_of(base.text)
    lines = [
        "| | seconds: median (range) | × real time | time ÷ ours | peak MiB | load s | WER % "
        "| words unlike ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        words = words_of(r.text)
        spread = f"{min(r.seconds):.2f}–{max(r.seconds):.2f}" if len(r.seconds) > 1 else "one run"
        lines.append(
            f"| {r.contestant.name} | {r.median:.2f} ({spread}) | {duration / r.median:.1f} "
            f"| {r.median / base.median:.2f} | {r.peak:.0f} | {r.loading:.1f} "
            f"| {100 * word_errors(words, wanted) / len(wanted):.1f} | {word_errors(words, base_words)} |"
        )
    return "\n".join(lines)


def ratio(results: Sequence[Result], name: str, to: str) -> float:
    """Median time of one over the other's, taken round by round."""
    a, b = (next(r.seconds for r in results if r.contestant.name == n) for n in (name, to))
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def goals(clip: str, results: Sequence[Result]) -> str:
    """The two goals, and what came out."""
    to_mlx = ratio(results, SAME_BLAS, BASE[clip])
    to_faster = ratio(results, BASE[clip], FASTER)
    return (
        f"Median of the rounds' ratios: {to_mlx:.1f} × as fast as mlx-whisper with the same BLAS (goal: 4); "
        f"{to_faster:.2f} × faster-whisper's time (goal: at most 2)."
    )


def surroundings(loads: Sequence[float]) -> str:
    """Versions and machine class."""
    packages = ("mlx", "mlx-whisper", "faster-whisper", "ctranslate2", "openai-whisper", "torch", "numpy")
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    machine = f"{os.cpu_count()}-core {platform.machine()} CPU, {platform.system()}"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    load = f"load {min(loads):.1f} to {max(loads):.1f}"
    return f"{today}; {machine}, {load}; Python {platform.python_version()}, {versions}."


TITLES = {
    "short": "a telephone call (pyannote_sample)",
    "long": "read speech of several voices (sim_librispeech)",
}


def main() -> None:
    """Run everything and write BENCH_ASR.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", nargs=2, metavar=("INDEX", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    parser.add_argument("--no-reference-blas", action="store_true")
    parser.add_argument("--clips", nargs="+", default=["short", "long"], choices=["short", "long"])
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(int(arguments.worker[0]), Path(arguments.worker[1]))
    if arguments.prepare:
        return prepare(Path(arguments.prepare))
    slow = not arguments.no_reference_blas and sys.platform == "linux"
    loads, parts = [os.getloadavg()[0]], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([sys.executable, __file__, "--prepare", folder], check=True, cwd=HERE)
        for clip in arguments.clips:
            duration = len(np.load(work / f"{clip}.npy", mmap_mode="r")) / RATE
            chosen = [c for c in CONTESTANTS if clip in c.clips and (slow or not c.once)]
            results = compete(clip, chosen, work)
            loads.append(os.getloadavg()[0])
            reference = (work / f"{clip}.txt").read_text(encoding="utf-8")
            body = results_table(clip, results, duration, reference)
            title = f"## {duration:.0f} s: {TITLES[clip]}"
            parts.append(f"{title}\n\n{body}\n\n{goals(clip, results)}")
            print(parts[-1], flush=True)
    about = (
        "Written by `python parity/bench_asr.py`. Whisper tiny.en, float32, greedy at temperature 0 without "
        "fallback, language en, no prompt from earlier windows; each contestant in its own process with all "
        "cores, turn by turn after a warm-up. Loading includes imports. WER against the transcripts, after "
        "openai-whisper's English normaliser. mlx_speech decodes 8 windows at a time where it has as many."
    )
    text = "\n\n".join(["# Speech recognition: speed", about, surroundings(loads), *parts]) + "\n"
    (HERE / "BENCH_ASR.md").write_text(text, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()

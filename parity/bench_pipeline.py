"""Speed of the whole pipeline, who said what, when, beside PyTorch's: writes parity/BENCH_PIPELINE.md.

    python parity/bench_pipeline.py                  # what out/ lacks of RUNS, each in its own process; the report
    python parity/bench_pipeline.py run theirs 10    # some of it, measured anew; ten minutes of theirs take nine
    python parity/bench_pipeline.py report           # the report alone
    python parity/bench_pipeline.py one fast 10      # a line of JSON; a preset, or "theirs", and minutes

A line in out/ counts as long as the code that it measured is the same: ours, or the packages of theirs. The report
keeps a row that is there until a line of its kind takes its place.

From a file on disk to a transcript with speakers, models loaded before. The recording is the sessions of
sim_librispeech, repeated until it is long enough. Theirs is faster-whisper with the same weights in float32,
greedy, its VAD on, with word times, and then pyannote.audio's community-1 pipeline with the weights bundled here;
giving the words to speakers is not counted. Its process does not load mlx_speech before torch, whose matrix
products our BLAS would take over. Memory over hours is bench_memory.py's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
SESSIONS = "audio/sim_librispeech/*.flac"
RATE = 16000
MODEL = "whisper-tiny.en"
THEIRS = "theirs"
LINES = ROOT / "out/bench_pipeline.jsonl"
RUNS: tuple[tuple[str, float], ...] = (
    (THEIRS, 1),
    ("fast", 1),
    ("community-1", 1),
    ("fast", 10),
    (THEIRS, 10),
)
"""Systems and minutes."""


def recording(minutes: float, path: Path) -> Path:
    """A 16-bit WAV file of that length, written block by block so that it leaves no memory behind."""
    from mlx_speech.audio import stream_audio

    sessions = sorted(DATA.glob(SESSIONS))
    if not sessions:
        raise SystemExit(f"no {SESSIONS} in {DATA}: set MLX_SPEECH_DATA")
    left = round(minutes * 60 * RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        while left:
            for session in sessions:
                for block in stream_audio(session):
                    part = block[:left]
                    file.writeframes(np.clip(np.rint(part * 32768), -32768, 32767).astype("<i2").tobytes())
                    left -= len(part)
    return path


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(system: str, minutes: float) -> dict[str, Any]:
    """Seconds by stage without loading, of one system."""
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "recording.wav"
        _elsewhere("recording", str(minutes), str(audio))
        run = _theirs(Path(folder)) if system == THEIRS else _ours(system)
        begun, used = perf_counter(), process_time()
        stages, words, speakers = run(audio)
        wall, cpu = perf_counter() - begun, process_time() - used
    return {
        "system": system,
        "minutes": minutes,
        "cores": cores(),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "stages_s": {stage: round(seconds, 2) for stage, seconds in stages.items()},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "words": words,
        "speakers": speakers,
    }


Run = Callable[[Path], tuple[dict[str, float], int, int]]
"""From a file to seconds by stage, and how many words and speakers were found."""


def _ours(preset: str) -> Run:
    from mlx_speech import Transcriber, runtime
    from mlx_speech.cli.bench import Stopwatch

    if not runtime.start().optimised:
        raise SystemExit("no fast BLAS: import mlx_speech before mlx, and install the cpu extra")
    transcriber = Transcriber.load(MODEL, align="auto", diarize=True)

    def run(audio: Path) -> tuple[dict[str, float], int, int]:
        watch = Stopwatch()
        found = transcriber.transcribe(audio, diarize=preset, progress=watch)
        return watch.seconds, len(found.words), len(found.speakers)

    return run


def _theirs(folder: Path) -> Run:
    os.environ["MLX_SPEECH_BLAS"] = "none"  # torch keeps its own

    import torch
    from asr_contestants import ctranslate2_folder
    from diarize_networks import their_pipeline
    from faster_whisper import WhisperModel

    weights = ctranslate2_folder(Path(_elsewhere("weights")), folder / "ctranslate2")
    whisper = WhisperModel(str(weights), device="cpu", compute_type="float32", cpu_threads=cores())
    options: dict[str, Any] = {"beam_size": 1, "language": "en", "condition_on_previous_text": False}
    pipeline = their_pipeline("community-1")

    def run(audio: Path) -> tuple[dict[str, float], int, int]:
        begun = perf_counter()
        with wave.open(str(audio), "rb") as file:
            data = file.readframes(file.getnframes())
        samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
        read = perf_counter()
        segments, _ = whisper.transcribe(samples, word_timestamps=True, vad_filter=True, **options)
        words = sum(len(s.words or ()) for s in segments)
        written = perf_counter()
        clip = {"waveform": torch.from_numpy(samples)[None], "sample_rate": RATE, "uri": "bench"}
        speakers = len(pipeline(clip).speaker_diarization.labels())
        stages = {
            "reading": read - begun,
            "faster-whisper": written - read,
            "pyannote.audio": perf_counter() - written,
        }
        return stages, words, speakers

    return run


def _elsewhere(*arguments: str) -> str:
    """What this program prints in a process of its own, which alone loads mlx_speech."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def apart(system: str, minutes: float) -> dict[str, Any]:
    """The same in a process of its own."""
    return dict(json.loads(_elsewhere("one", system, str(minutes)).splitlines()[-1]))


HEAD = """# Speed of the whole pipeline

`python parity/bench_pipeline.py` on {0}, {1} cores, {2}: Whisper tiny.en in float32, the bundled aligner, from a
file to words with times and speakers; models are loaded before. Each line is a run of its own process, one after
the other. Theirs is faster-whisper (same weights, float32, greedy, word times) and pyannote.audio's community-1
pipeline (same weights); it does not align, and giving words to speakers is not counted there. CPU time is compared
with theirs of as many minutes, or else of one. Load is the machine's before each run; where it is above the number
of cores, other programs had a share of them: seconds and x real time are then too bad, and CPU seconds count.

| system | audio | seconds | CPU seconds | x real time | CPU time | words | speakers | peak MiB | load |
|---|---|---|---|---|---|---|---|---|---|
"""
NAMES = {
    THEIRS: "faster-whisper + pyannote.audio",
    **{p: f"mlx_speech, `{p}`" for p in ("fast", "3.1", "community-1")},
}
Row = tuple[str, float]
"""A system and minutes."""


def report(found: dict[Row, dict[str, Any]]) -> str:
    """The systems, and then each one's stages."""
    text = HEAD.format(platform.machine(), cores(), platform.system())
    for (system, minutes), f in found.items():
        theirs = found.get((THEIRS, minutes)) or found.get((THEIRS, 1.0))
        less = theirs["cpu_s"] / theirs["minutes"] / f["cpu_s"] * minutes if theirs else float("nan")
        text += (
            f"| {NAMES[system]} | {minutes:g} min | {f['wall_s']:.1f} | {f['cpu_s']:.1f} | "
            f"{60 * minutes / f['wall_s']:.2f} | {less:.1f} times less | {f['words']} | {f['speakers']} | "
            f"{f['peak_mb']} | {f['load']:.1f} |\n"
        )
    text += "\n| system | audio | stage | seconds | x real time |\n|---|---|---|---|---|\n"
    for (system, minutes), f in found.items():
        for stage, seconds in f["stages_s"].items():
            speed = f"{60 * minutes / seconds:.1f}" if seconds >= 0.05 else ""
            text += f"| {system} | {minutes:g} min | {stage} | {seconds:.1f} | {speed} |\n"
    return text


def reported(text: str) -> dict[Row, dict[str, Any]]:
    """What a report holds, as far as its figures go."""
    systems = {name: system for system, name in NAMES.items()}
    found: dict[Row, dict[str, Any]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 10 and cells[0] in systems:
            minutes = float(cells[1].split()[0])
            wall, cpu, load = float(cells[2]), float(cells[3]), float(cells[9])
            words, speakers, peak = map(int, cells[6:9])
            found[systems[cells[0]], minutes] = {
                "minutes": minutes,
                "wall_s": wall,
                "cpu_s": cpu,
                "words": words,
                "speakers": speakers,
                "peak_mb": peak,
                "load": load,
                "stages_s": {},
            }
        elif len(cells) == 5 and cells[0] in NAMES:
            found[cells[0], float(cells[1].split()[0])]["stages_s"][cells[2]] = float(cells[3])
    return found


def lines() -> dict[Row, dict[str, Any]]:
    """The newest line of each kind in out/."""
    text = LINES.read_text(encoding="utf-8") if LINES.exists() else ""
    return {(f["system"], float(f["minutes"])): f for f in map(json.loads, text.splitlines())}


def write() -> None:
    """The report, in the order of RUNS."""
    report_file = ROOT / "parity/BENCH_PIPELINE.md"
    found = reported(report_file.read_text(encoding="utf-8")) | lines()
    order = [*((s, float(m)) for s, m in RUNS if (s, float(m)) in found), *found]
    report_file.write_text(report({row: found[row] for row in order}), encoding="utf-8")


def code(system: str) -> str:
    """What a line measures: our sources, or the packages of theirs."""
    if system == THEIRS:
        packages = ("faster-whisper", "ctranslate2", "pyannote.audio", "torch")
        return " ".join(f"{name} {metadata.version(name)}" for name in packages)
    digest = hashlib.sha256()
    for source in sorted((ROOT / "mlx_speech").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def run(rows: Sequence[tuple[str, float]], anew: bool) -> None:
    """Measure these, or those of them that out/ lacks, and report after each."""
    LINES.parent.mkdir(exist_ok=True)
    for system, minutes in rows:
        known = lines().get((system, float(minutes)), {})
        if anew or (known.get("code"), known.get("cores")) != (code(system), cores()):
            line = {"load": os.getloadavg()[0], "code": code(system)} | apart(system, minutes)
            print(json.dumps(line), flush=True)
            with open(LINES, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        write()


def main(arguments: list[str]) -> None:
    """Measure; see the module's text."""
    if arguments[:1] == ["one"] and len(arguments) == 3:
        print(json.dumps(measure(arguments[1], float(arguments[2]))))
    elif arguments[:1] == ["recording"] and len(arguments) == 3:
        recording(float(arguments[1]), Path(arguments[2]))
    elif arguments == ["weights"]:
        from mlx_speech.hub import locate

        print(locate(MODEL))
    elif not arguments:
        run(RUNS, anew=False)
    elif arguments[0] == "run":
        run([*zip(arguments[1::2], map(float, arguments[2::2]), strict=True)], anew=True)
    elif arguments == ["report"]:
        write()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

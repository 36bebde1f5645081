"""Speed, memory and quality of the whole pipeline: who said what, when.

    python parity/bench_pipeline.py memory 10 60 180    # a line of JSON for each length, in minutes
    python parity/bench_pipeline.py speed 10            # the same, and the stages' shares
    python parity/bench_pipeline.py one 10 whisper-tiny.en fast   # what the two run, in this process

Each length runs in a process of its own, from a file on disk to a transcript with speakers. The recording is the
sessions of sim_librispeech, repeated until it is long enough. ``--model NAME`` takes another Whisper.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import wave
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
SESSIONS = "audio/sim_librispeech/*.flac"
RATE = 16000
MODEL = "whisper-tiny.en"


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


def peak_mb() -> float:
    """The most memory that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(minutes: float, model: str, preset: str) -> dict[str, Any]:
    """Time by stage without loading, and the most memory that the process and MLX held."""
    from mlx_speech import Transcriber, runtime
    from mlx_speech.cli.bench import Stopwatch

    import mlx.core as mx  # isort: skip  (after mlx_speech, which loads the BLAS)

    with tempfile.TemporaryDirectory() as folder:
        audio = recording(minutes, Path(folder) / "recording.wav")
        transcriber = Transcriber.load(model, align="auto", diarize=True)
        loaded = peak_mb()
        mx.reset_peak_memory()
        watch, used = Stopwatch(), process_time()
        begun = perf_counter()
        transcript = transcriber.transcribe(audio, diarize=preset, progress=watch)
        wall, cpu = perf_counter() - begun, process_time() - used
    return {
        "minutes": minutes,
        "model": model,
        "preset": preset,
        "device": str(mx.default_device()),
        "blas": Path(runtime.start().name).name,
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "times_real_time": round(60 * minutes / wall, 2),
        "stages_s": {stage: round(seconds, 2) for stage, seconds in watch.seconds.items()},
        "loaded_mb": round(loaded),
        "peak_mb": round(peak_mb()),
        "mlx_peak_mb": round(max(watch.peak.values()) / 2**20),
        "words": len(transcript.words),
        "speakers": len(transcript.speakers),
    }


def apart(minutes: str, model: str, preset: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "one", minutes, model, preset]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Measure; see the module's text."""
    model = MODEL
    if "--model" in arguments:
        at = arguments.index("--model")
        model = arguments[at + 1]
        del arguments[at : at + 2]
    if arguments[:1] == ["one"]:
        print(json.dumps(measure(float(arguments[1]), arguments[2], arguments[3])))
    elif arguments[:1] in (["memory"], ["speed"]):
        for minutes in arguments[1:] or ["10"]:
            print(json.dumps(apart(minutes, model, "fast")), flush=True)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

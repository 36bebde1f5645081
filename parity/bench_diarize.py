"""Speed and memory of diarization beside pyannote.audio, each system and length in a process of its own.

    python parity/bench_diarize.py                # everything; writes parity/BENCH_DIARIZE.md
    python parity/bench_diarize.py one fast 600   # one line of JSON
    python parity/bench_diarize.py table [NOTE]   # BENCH_DIARIZE.md of the lines in out/bench_diarize.jsonl

The recording is a session of real voices, repeated until it is long enough. pyannote.audio runs as it comes,
with the weights bundled here, embedding two windows of three speakers at once. Wall time counts
on a quiet machine only; CPU time is that of all threads. Ratios are to pyannote.audio at its own length, in
seconds of work a second of audio.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
SESSION = "audio/sim_librispeech/sim0_2spk.flac"
RATE = 16000
THEIRS = "pyannote.audio"
if THEIRS in sys.argv:  # torch would take its products from our OpenBLAS, which runs them on one thread
    os.environ["MLX_SPEECH_BLAS"] = "none"  # read as mlx_speech is imported
LINES = ROOT / "out/bench_diarize.jsonl"
# system: seconds of audio
LENGTHS: dict[str, tuple[int, ...]] = {
    THEIRS: (60,),
    "3.1": (60, 600),
    "fast": (60, 600, 3600),
}


def recording(seconds: int) -> np.ndarray:
    """(T,) float32."""
    from mlx_speech.audio import load_audio

    audio = load_audio(DATA / SESSION)
    return np.tile(audio, -(-seconds * RATE // len(audio)))[: seconds * RATE]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(system: str, seconds: int) -> dict[str, Any]:
    """Time of the stages and in all without loading, and the most memory that the process held."""
    warnings.filterwarnings("ignore")
    audio = recording(seconds)
    stages: dict[str, float] = {}
    begun, used = 0.0, 0.0

    def reached(stage: str) -> None:
        stages[stage] = perf_counter() - begun

    diarize = _theirs(audio, reached) if system == THEIRS else _ours(system, audio, reached)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, used = perf_counter(), process_time()
    speakers = diarize()
    return {
        "system": system,
        "seconds": seconds,
        "cores": cores(),
        "wall": perf_counter() - begun,
        "cpu": process_time() - used,
        "segmentation": stages["segmentation"],
        "embedding": stages["embedding"] - stages["segmentation"],
        "rest": perf_counter() - begun - stages["embedding"],
        "speakers": speakers,
        "loaded_mb": held / 1024,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _ours(system: str, audio: np.ndarray, reached: Any) -> Any:
    import mlx_speech

    diarizer = mlx_speech.Diarizer.load()
    names = {"segment": "segmentation", "embed": "embedding"}

    def progress(stage: str, done: float, total: float) -> None:
        if stage in names:
            reached(names[stage])

    return lambda: len(diarizer.diarize(audio, system, progress=progress).speakers)


def _theirs(audio: np.ndarray, reached: Any) -> Any:
    import torch
    from diarize_networks import their_pipeline

    pipeline = their_pipeline("community-1")
    file = {"waveform": torch.from_numpy(audio)[None], "sample_rate": RATE, "uri": "bench"}
    names = {"segmentation": "segmentation", "embeddings": "embedding"}

    def hook(step: str, value: Any, **more: Any) -> None:
        if step in names and "total" not in more:
            reached(names[step])

    return lambda: len(pipeline(file, hook=hook).speaker_diarization.labels())


def table(found: list[dict[str, Any]]) -> str:
    """All measurements in Markdown, with the ratio of speeds to pyannote.audio's."""
    base = next((f for f in found if f["system"] == THEIRS), None)
    lines = [
        "| system | audio | cores | wall | × real time | CPU time | × pyannote.audio (wall, CPU) | segmentation | "
        "embedding | rest | speakers | peak memory |",
        "|---" * 12 + "|",
    ]
    for f in found:
        scale = f["seconds"] / base["seconds"] if base else 0.0
        ratio = ""
        if base:
            alike = f["cores"] == base["cores"]
            wall = f"{base['wall'] * scale / f['wall']:.1f}" if alike else "–"
            ratio = f"{wall}, {base['cpu'] * scale / f['cpu']:.1f}"
        lines.append(
            f"| {f['system']} | {f['seconds']} s | {f['cores']} | {f['wall']:.1f} s | "
            f"{f['seconds'] / f['wall']:.2f} | {f['cpu']:.0f} s | {ratio} | {f['segmentation']:.1f} s | "
            f"{f['embedding']:.1f} s | {f['rest']:.2f} s | {f['speakers']} | "
            f"{f['peak_mb']:.0f} MB ({f['loaded_mb']:.0f} before) |"
        )
    return "\n".join(lines)


def write(found: list[dict[str, Any]], note: str = "") -> None:
    """The report; ``note`` tells how the machine was."""
    text = (
        "# Speed of diarization\n\n"
        f"Written by `python parity/bench_diarize.py`, models loaded before. {note}\n\n"
        f"{table(found)}\n"
    )
    (ROOT / "parity/BENCH_DIARIZE.md").write_text(text, encoding="utf-8")
    print(text)


def main(arguments: list[str]) -> None:
    """Measure one, or all and write the report."""
    if arguments[:1] == ["one"]:
        print(json.dumps(measure(arguments[1], int(arguments[2]))))
        return
    if arguments[:1] == ["table"]:
        write([json.loads(line) for line in LINES.read_text().splitlines()], " ".join(arguments[1:]))
        return
    LINES.parent.mkdir(exist_ok=True)
    LINES.write_text("")
    for system, lengths in LENGTHS.items():
        for seconds in lengths:
            command = [sys.executable, __file__, "one", system, str(seconds)]
            folder = ROOT / "parity"
            run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
            with LINES.open("a") as file:
                file.write(run.stdout.splitlines()[-1] + "\n")
            print(run.stdout.splitlines()[-1], flush=True)
    write([json.loads(line) for line in LINES.read_text().splitlines()])


if __name__ == "__main__":
    main(sys.argv[1:])

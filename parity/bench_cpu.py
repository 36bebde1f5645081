"""The networks on a Linux CPU beside the PyTorch originals, with the same weights and the same audio.

Each side has a process of its own; the rounds of all networks alternate between the two, models loaded and warm
before the clock starts. ``without numba`` is ours as on a machine without the ``cpu`` extra's numba.

python parity/bench_cpu.py        # writes parity/BENCH_CPU.md
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
from harness import revision

from mlx_speech import runtime

REPORT = Path(__file__).with_name("BENCH_CPU.md")
MINI = "weights/wav2vec2-mini-en"
WINDOWS, ROUNDS = 4, 9
SIDES = ("ours", "ours without numba", "PyTorch")
NAMES = (
    "wav2vec2-mini-en, 10 s",
    "Whisper tiny.en's encoder, 30 s",
    "segmentation-3.0, 10 s",
    "WeSpeaker, 10 s",
)
Job = Callable[[], object]
Times = dict[str, tuple[float, float]]


def data() -> Path:
    return Path(os.environ.get("MLX_SPEECH_DATA", REPORT.parents[2] / "shared/data"))


def audio(seconds: int) -> np.ndarray:
    """(WINDOWS, seconds at 16 kHz) float32: speech, over and over."""
    from mlx_speech.audio import load_audio

    speech = load_audio(data() / "audio/pyannote_sample/sample.wav")
    return np.resize(speech, (WINDOWS, seconds * 16_000)).astype(np.float32)


def ours(numba: bool) -> list[Job]:
    import mlx.core as mx

    from mlx_speech.features import log_mel
    from mlx_speech.layers import fused

    if not numba:
        fused._loops = lambda: None  # type: ignore[assignment]
    names = (f"path:{data()}/{MINI}", "segmentation-3.0", "wespeaker-resnet34-LM")
    align, segment, embed = (mlx_speech.load(n) for n in names)
    whisper = mlx_speech.load("whisper-tiny.en")
    ten, mel = mx.array(audio(10)), log_mel(mx.array(audio(30)), 80)
    mx.eval(mel)

    def scores(part: slice) -> None:
        mx.eval(align(ten[part]))

    return [
        lambda: runtime.spread(scores, runtime.shares(WINDOWS, 1)),
        lambda: mx.eval(whisper.encode(mel)),
        lambda: mx.eval(segment(ten)),
        lambda: mx.eval(embed.embed(ten)),
    ]


def theirs() -> list[Job]:
    import torch
    from fixtures_pyannet import original as pyannet
    from parity_pyannet import CHECKPOINT
    from parity_wespeaker import original as wespeaker
    from parity_whisper import open_pair
    from transformers import Wav2Vec2ForCTC

    from mlx_speech.converters._read import open_tensors
    from mlx_speech.features import log_mel

    torch.set_grad_enabled(False)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    align = Wav2Vec2ForCTC.from_pretrained(data() / MINI).float().eval()
    tensors = open_tensors(data() / CHECKPOINT)
    state = {k: np.array(tensors[k]) for k in tensors}
    segment = pyannet(mlx_speech.load("segmentation-3.0").config, state).eval()
    embed, whisper = wespeaker(), open_pair("tiny.en").theirs
    ten = torch.from_numpy(audio(10))
    mel = torch.from_numpy(np.array(log_mel(mlx_array(audio(30)), 80))).swapaxes(1, 2)
    return [
        lambda: [align(one[None]) for one in ten],  # faster than a batch of them here
        lambda: whisper.encoder(mel),
        lambda: segment(ten[:, None]),
        lambda: embed(ten[:, None]),
    ]


def mlx_array(x: np.ndarray) -> object:
    import mlx.core as mx

    return mx.array(x)


def serve(side: str) -> None:
    """Run each job whose number is read; write its wall and CPU seconds."""
    jobs = theirs() if side == "PyTorch" else ours(side == "ours")
    for job in jobs:
        job()
    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu = perf_counter(), process_time()
        jobs[int(line)]()
        print(json.dumps([perf_counter() - wall, process_time() - cpu]), flush=True)


def main() -> None:
    workers = {}
    for side in SIDES:
        command = [sys.executable, __file__, side]
        # torch would take its products from an OpenBLAS that is loaded before it: it has its own
        env = {**os.environ, **({runtime.BLAS_VARIABLE: "none"} if side == "PyTorch" else {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers[side] = subprocess.Popen(command, env=env, **pipes)
        assert workers[side].stdout.readline().strip() == "ready", f"{side} did not start"
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(ROUNDS):
        for number, name in enumerate(NAMES):
            for side, worker in workers.items():
                print(number, file=worker.stdin, flush=True)
                found.setdefault((name, side), []).append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    write(found)


def write(found: dict[tuple[str, str], list[list[float]]]) -> None:
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Networks on a Linux CPU",
        "",
        f"Written by `python parity/bench_cpu.py` on {cores} cores, load {os.getloadavg()[0]:.1f} at the end, "
        f"mlx_speech of {revision()}, {datetime.datetime.now(datetime.timezone.utc).date()}: "
        f"{WINDOWS} windows, float32, median of {ROUNDS} rounds that alternate. PyTorch: transformers, "
        "openai-whisper and pyannote.audio with the same weights.",
        "",
        "| | " + " | ".join(f"{s}: seconds (CPU)" for s in SIDES) + " | PyTorch ÷ ours (CPU) |",
        "|---" * (len(SIDES) + 2) + "|",
    ]
    for name in NAMES:
        times = [tuple(median(t[k] for t in found[name, side]) for k in (0, 1)) for side in SIDES]
        ratios = [times[-1][k] / times[0][k] for k in (0, 1)]
        cells = [f"{wall:.2f} ({cpu:.2f})" for wall, cpu in times]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratios[0]:.2f} ({ratios[1]:.2f}) |")
    REPORT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    serve(sys.argv[1]) if len(sys.argv) > 1 else main()

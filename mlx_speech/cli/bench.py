"""``mlx-speech bench``."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import mlx.core as mx
import numpy as np
import typer
from rich.table import Table

import mlx_speech
from mlx_speech import Transcriber, runtime
from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.cli.console import STAGES, app, out
from mlx_speech.cli.demo import DEMO_CLIP, DEMO_MODEL
from mlx_speech.cli.options import MaxMemory, Model
from mlx_speech.errors import AudioError
from mlx_speech.stages.diarize import DEFAULT_PRESET, PRESETS, preset

_WARM_UP = 30.0  # seconds of audio heard before the clock starts: kernels are compiled then
_READ, _REST = "reading", "speakers and words put together"


@dataclass
class Stopwatch:
    """Time and MLX's peak memory of each stage: what passed since the last report belongs to the stage told."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    last: float = field(default_factory=perf_counter)

    def __call__(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        """A pipeline's ``progress``."""
        now = perf_counter()
        name = STAGES.get(stage, stage)
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.peak[name] = max(self.peak.get(name, 0), mx.get_peak_memory())
        mx.reset_peak_memory()
        self.last = now


@app.command()
def bench(
    audio: Annotated[
        Path,
        typer.Argument(
            metavar="[AUDIO]", help="A recording; the demo's clip by default.", show_default=False
        ),
    ] = DEMO_CLIP,
    model: Model = DEMO_MODEL,
    minutes: Annotated[
        float, typer.Option(min=0.0, help="Repeat the recording up to this length; 0 for once.")
    ] = 0.0,
    diarize: Annotated[bool, typer.Option("--diarize/--no-diarize", help="Tell speakers apart, too.")] = True,
    preset_name: Annotated[
        str, typer.Option("--preset", help=f"Of the diarization: one of {', '.join(PRESETS)}.")
    ] = DEFAULT_PRESET,
    max_memory: MaxMemory = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure this machine: seconds, times real time and peak memory of every stage, models loaded before."""
    options = preset(preset_name)
    started = perf_counter()
    transcriber = Transcriber.load(model, diarize=diarize)
    loading = perf_counter() - started
    watch = Stopwatch()
    samples = load_audio(audio)
    watch(_READ)
    if not len(samples):
        raise AudioError(f"{audio}: there is nothing in it to measure with")
    times = max(1, -(-round(60 * minutes * SAMPLE_RATE) // len(samples)))
    samples = np.tile(samples, times)[: round(60 * minutes * SAMPLE_RATE) or None]
    told = options if diarize else None
    transcriber.transcribe(samples[: round(_WARM_UP * SAMPLE_RATE)], diarize=told)
    mx.reset_peak_memory()
    watch.last = perf_counter()
    transcript = transcriber.transcribe(samples, diarize=told, progress=watch)
    watch(_REST)
    found = {
        "audio": audio.name,
        "duration": transcript.duration,
        "model": model,
        "preset": preset_name if diarize else None,
        "words": sum(len(s.words) for s in transcript.segments),
        "loading_seconds": loading,
        "stages": [
            {"stage": stage, "seconds": seconds, "peak_mlx_bytes": watch.peak[stage]}
            for stage, seconds in watch.seconds.items()
        ],
        "seconds": sum(watch.seconds.values()) - watch.seconds[_READ],
        "peak_process_bytes": _peak_of_process(),
        "machine": _machine(),
    }
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)


def _machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    device = "cpu" if runtime.on_cpu() else "gpu"
    info = mx.device_info() if device == "gpu" else {}
    return {
        "device": device,
        "name": info.get("device_name", platform.processor() or platform.machine()),
        "blas": runtime.start().name if device == "cpu" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "mlx": importlib.metadata.version("mlx"),
        "mlx_speech": mlx_speech.__version__,
    }


def _peak_of_process() -> int | None:
    """The most memory that the process has held, in bytes; ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['audio']}: {found['duration']:.0f} s of audio, {found['model']}")
    table.add_column("stage")
    for name in ("seconds", "× real time", "MLX's peak"):
        table.add_column(name, justify="right")
    rows = [(s["stage"], s["seconds"], s["peak_mlx_bytes"]) for s in found["stages"]]
    rows.append(("all but reading", found["seconds"], max(peak for _, _, peak in rows)))
    for stage, seconds, peak in rows:
        speed = found["duration"] / max(seconds, 1e-9)
        table.add_row(stage, f"{seconds:.3f}", f"{speed:.3g}", f"{peak / 2**20:.0f} MB")
    out.print(table)
    machine = found["machine"]
    out.print(
        f"{machine['device']}: {machine['name']}; models loaded in {found['loading_seconds']:.1f} s",
        markup=False,
    )
    if found["peak_process_bytes"]:
        out.print(f"the process held {found['peak_process_bytes'] / 2**20:.0f} MB at most")

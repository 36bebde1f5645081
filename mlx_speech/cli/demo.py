"""``mlx-speech demo``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.markup import escape

from mlx_speech import Transcriber
from mlx_speech.cli.console import app, clock, out, progress
from mlx_speech.cli.formats import ALL, write_all
from mlx_speech.cli.options import Model
from mlx_speech.hub import ASSETS
from mlx_speech.writers import WriteOptions

DEMO_CLIP = ASSETS / "demo" / "sense_and_sensibility.flac"
DEMO_MODEL = "whisper-tiny.en"


@app.command()
def demo(
    model: Model = DEMO_MODEL,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Also write the results here.")
    ] = None,
) -> None:
    """Transcribe a short public-domain reading (Jane Austen, LibriVox) and show every word's time."""
    transcriber = Transcriber.load(model)
    started = perf_counter()
    with progress(DEMO_CLIP.name, quiet=False) as report:
        transcript = transcriber.transcribe(DEMO_CLIP, progress=report)
    took = perf_counter() - started
    for segment in transcript.segments:
        out.print(f"[bold]{clock(segment.start)} → {clock(segment.end)}[/bold]  {escape(segment.text)}")
        out.print("    " + "  ".join(f"[cyan]{w.start:.2f}[/cyan] {escape(w.text)}" for w in segment.words))
    speed = transcript.duration / took
    out.print(f"\n{transcript.duration:.1f} s of audio in {took:.1f} s, {speed:.1f} × real time")
    if output_dir:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_all(transcript, output_dir / DEMO_CLIP.stem, [ALL], WriteOptions(), DEMO_CLIP)

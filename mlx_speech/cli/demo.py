"""``mlx-speech demo``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.markup import escape

from mlx_speech import Transcriber
from mlx_speech.cli.console import app, clock, out, progress
from mlx_speech.cli.formats import ALL, check_output, write_all
from mlx_speech.cli.options import Model
from mlx_speech.hub import ASSETS
from mlx_speech.writers import WriteOptions
from mlx_speech.writers.files import prepare_folder

DEMO_CLIP = ASSETS / "demo" / "three_readers.flac"
DEMO_MODEL = "whisper-tiny.en"


@app.command()
def demo(
    model: Model = DEMO_MODEL,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Also write the results here.")
    ] = None,
) -> None:
    """Say who said what, when, in a clip of three readers, and show every word's time.

    The clip is put together from public readings (assets/demo/LICENSE); they take turns, and one interrupts.
    """  # fmt: skip
    if output_dir:
        check_output(output_dir, [output_dir / DEMO_CLIP.stem], [ALL])
    transcriber = Transcriber.load(model, align="auto", diarize=True)
    if output_dir:
        prepare_folder(output_dir)
    started = perf_counter()
    with progress(DEMO_CLIP.name, quiet=False) as report:
        transcript = transcriber.transcribe(DEMO_CLIP, progress=report)
    took = perf_counter() - started
    for segment in transcript.segments:
        times = f"{clock(segment.start)} → {clock(segment.end)}"
        out.print(f"[bold]{times}  {segment.speaker or ''}[/bold]  {escape(segment.text)}")
        out.print("    " + "  ".join(f"[cyan]{w.start:.2f}[/cyan] {escape(w.text)}" for w in segment.words))
    out.print(
        f"\n{transcript.duration:.1f} s of audio in {took:.1f} s, {transcript.duration / took:.1f} × real time: "
        f"{len(transcript.words)} words, {len(transcript.speakers)} speakers"
    )
    if output_dir:
        target = output_dir / DEMO_CLIP.stem
        written = write_all(transcript, target, [ALL], WriteOptions(embed_audio=True), DEMO_CLIP)
        out.print(f"wrote {target}.{{{','.join(written)}}}", markup=False)
    else:
        out.print(
            "with -o FOLDER also as subtitles, JSON and a page to play: three_readers.html", markup=False
        )

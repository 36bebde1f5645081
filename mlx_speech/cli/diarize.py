"""``mlx-speech diarize``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from mlx_speech import Diarization, DiarizeOptions, Diarizer, MLXSpeechError
from mlx_speech.cli.console import FAILED, app, clock, complain_of, count, errors, out, progress
from mlx_speech.cli.formats import check_output, parse_formats
from mlx_speech.cli.options import (
    Dir,
    Files,
    Identify,
    IdentifyThreshold,
    MaxMemory,
    Quiet,
    targets_for,
    there_is_one,
)
from mlx_speech.cli.speakers import diarizer_for, tell_identities
from mlx_speech.pipeline import DEFAULT_EMBEDDING, DEFAULT_SEGMENTATION
from mlx_speech.stages.diarize import DEFAULT_PRESET, PRESETS, preset
from mlx_speech.stages.identify import THRESHOLD
from mlx_speech.writers import DIARIZATION_WRITERS, write
from mlx_speech.writers.files import prepare_folder


@app.command()
def diarize(
    files: Files,
    output_dir: Dir = Path("."),
    format: Annotated[
        str, typer.Option("--format", "-f", help=f"Comma-separated: {', '.join(DIARIZATION_WRITERS)}.")
    ] = "rttm,json",
    num_speakers: Annotated[int | None, typer.Option(help="How many speakers, where known.")] = None,
    min_speakers: Annotated[int | None, typer.Option(help="The fewest there can be.")] = None,
    max_speakers: Annotated[int | None, typer.Option(help="The most there can be.")] = None,
    preset_name: Annotated[
        str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")
    ] = DEFAULT_PRESET,
    step: Annotated[float | None, typer.Option(help="Seconds between windows; the preset's else.")] = None,
    min_duration_off: Annotated[
        float | None, typer.Option(help="Seconds; shorter pauses of a speaker are filled.")
    ] = None,
    segmentation: Annotated[
        str, typer.Option(help="A PyanNet: an alias, hub:org/name, or a path.")
    ] = DEFAULT_SEGMENTATION,
    embedding: Annotated[
        str, typer.Option(help="A WeSpeaker: an alias, hub:org/name, or a path.")
    ] = DEFAULT_EMBEDDING,
    identify: Identify = False,
    identify_threshold: IdentifyThreshold = THRESHOLD,
    max_memory: MaxMemory = None,
    quiet: Quiet = False,
) -> None:
    """Find out who speaks when: turns with speakers, as RTTM and JSON."""
    formats = parse_formats(format, DIARIZATION_WRITERS)
    wishes = {
        "num_speakers": num_speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
        "step": step,
        "min_duration_off": min_duration_off,
    }
    options = preset(preset_name, **{name: value for name, value in wishes.items() if value is not None})
    targets = targets_for(files, output_dir)
    there_is_one(files)
    check_output(output_dir, targets.values(), formats)
    diarizer = diarizer_for(identify, identify_threshold, segmentation, embedding)
    diarizer.check(options)
    prepare_folder(output_dir)
    failed = False
    for file in targets:
        try:
            diarization = _diarize_one(diarizer, file, options, quiet)
            for name in formats:
                write(diarization, Path(f"{targets[file]}.{name}"), name)
        except MLXSpeechError as error:
            complain_of(file, error)
            failed = True
            continue
        if not quiet:
            errors.print(f"wrote {targets[file]}.{{{','.join(formats)}}}", markup=False)
    if failed:
        raise typer.Exit(FAILED)


def _diarize_one(diarizer: Diarizer, file: Path, options: DiarizeOptions, quiet: bool) -> Diarization:
    started = perf_counter()
    with progress(file.name, quiet) as report:
        diarization = diarizer.diarize(file, options, progress=report)
    if quiet:
        return diarization
    for turn in diarization.turns:
        out.print(f"[{clock(turn.start)} → {clock(turn.end)}] {turn.speaker}", markup=False)
    took = perf_counter() - started
    speed = diarization.duration / took if took else 0.0
    errors.print(
        f"{file.name}: {clock(diarization.duration)} of audio, {count(len(diarization.speakers), 'speaker')}, "
        f"{count(len(diarization.turns), 'turn')}, {took:.1f} s ({speed:.1f} × real time)",
        markup=False,
    )
    tell_identities(diarization)
    return diarization

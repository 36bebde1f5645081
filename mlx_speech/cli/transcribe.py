"""``mlx-speech transcribe``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from mlx_speech import (
    DiarizeOptions,
    MLXSpeechError,
    SpeechOptions,
    TranscribeOptions,
    Transcriber,
    Transcript,
)
from mlx_speech.cli.console import FAILED, SUSPICIOUS, app, clock, complain_of, errors, out, progress
from mlx_speech.cli.decoding import takes_decoding_options
from mlx_speech.cli.formats import Formats, parse_formats, takes_write_options, write_all
from mlx_speech.cli.options import (
    Dir,
    Dtype,
    Files,
    Identify,
    IdentifyThreshold,
    MaxMemory,
    Model,
    Quiet,
    targets_for,
)
from mlx_speech.cli.speakers import diarizer_for, tell_identities
from mlx_speech.pipeline import AUTO_VAD, DEFAULT_MODEL, TRANSCRIBE_SPEECH
from mlx_speech.pipeline.journal import Journal
from mlx_speech.stages.diarize import DEFAULT_PRESET, PRESETS, preset
from mlx_speech.stages.identify import THRESHOLD
from mlx_speech.writers import WriteOptions
from mlx_speech.writers.files import prepare_folder

AlignModel = Annotated[
    str,
    typer.Option(
        "--align",
        help="What times the words: 'auto' for the language's best aligner on this machine, else Whisper; "
        "'none' for Whisper; or an aligner's name.",
    ),
]
_SPEAKERS, _SPEECH = "Speakers", "Speech detection"


@app.command()
@takes_decoding_options
@takes_write_options
def transcribe(
    files: Files,
    how: WriteOptions,
    options: TranscribeOptions,
    model: Model = DEFAULT_MODEL,
    output_dir: Dir = Path("."),
    format: Formats = "txt,json,srt,vtt",
    align: AlignModel = "auto",
    diarize: Annotated[
        bool,
        typer.Option("--diarize", help="Say who speaks, word for word.", rich_help_panel=_SPEAKERS),
    ] = False,
    num_speakers: Annotated[
        int | None,
        typer.Option(
            help="How many speakers, where known. Like the next ones, implies --diarize.",
            rich_help_panel=_SPEAKERS,
        ),
    ] = None,
    min_speakers: Annotated[
        int | None, typer.Option(help="The fewest there can be.", rich_help_panel=_SPEAKERS)
    ] = None,
    max_speakers: Annotated[
        int | None, typer.Option(help="The most there can be.", rich_help_panel=_SPEAKERS)
    ] = None,
    diarize_preset: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(PRESETS)}; {DEFAULT_PRESET} by default.", rich_help_panel=_SPEAKERS
        ),
    ] = None,
    identify: Identify = False,
    identify_threshold: IdentifyThreshold = THRESHOLD,
    dtype: Annotated[
        Dtype | None, typer.Option(help="float32 on a CPU, float16 on a GPU by default.")
    ] = None,
    vad: Annotated[
        str,
        typer.Option(
            help="The speech detector: 'silero-vad', or 'pyannet', the one of diarization and then the default.",
            rich_help_panel=_SPEECH,
        ),
    ] = AUTO_VAD,
    vad_threshold: Annotated[
        float, typer.Option(help="Probability from which a moment is speech.", rich_help_panel=_SPEECH)
    ] = TRANSCRIBE_SPEECH.threshold,
    min_silence: Annotated[
        float, typer.Option(help="Seconds of silence that end a stretch.", rich_help_panel=_SPEECH)
    ] = TRANSCRIBE_SPEECH.min_silence_duration,
    speech_pad: Annotated[
        float, typer.Option(help="Seconds kept around a stretch.", rich_help_panel=_SPEECH)
    ] = TRANSCRIBE_SPEECH.speech_pad,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Keep finished parts beside the output until the end, and go on from those of a run that was "
            "broken off.",
        ),
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 where the audit of a result finds something.")
    ] = False,
    max_memory: MaxMemory = None,
    quiet: Quiet = False,
) -> None:
    """Transcribe recordings: words with times and speakers, as text, JSON and subtitles.

    A file that cannot be read is named at the end, and the others are done; the exit code is then 1. With
    --strict it is 3 where speech has no words, words have no speech, text loops or word times are guesses.
    """  # fmt: skip
    formats = parse_formats(format)
    speech = SpeechOptions(threshold=vad_threshold, min_silence_duration=min_silence, speech_pad=speech_pad)
    wishes = {"num_speakers": num_speakers, "min_speakers": min_speakers, "max_speakers": max_speakers}
    speakers = _diarizing(diarize or identify, diarize_preset, wishes)
    targets = targets_for(files, output_dir)
    transcriber = Transcriber.load(
        model,
        vad=vad,
        align=align if options.words else "none",
        diarize=diarizer_for(identify, identify_threshold) if speakers else False,
        dtype=dtype.value if dtype else None,
    )
    prepare_folder(output_dir)
    kept = output_dir if resume else None
    suspicious = False
    failed: list[Path] = []
    for file in files:
        try:
            with Journal(kept) as journal:  # its parts are there until the results are
                transcript = _transcribe_one(transcriber, file, options, speech, speakers, journal, quiet)
                written = write_all(transcript, targets[file], formats, how, file)
            suspicious |= bool(transcript.findings)
        except MLXSpeechError as error:
            complain_of(file, error)
            failed.append(file)
            continue
        if not quiet:
            errors.print(f"wrote {targets[file]}.{{{','.join(written)}}}", markup=False)
    if failed:
        if len(files) > 1:
            errors.print(f"{len(failed)} of {len(files)} failed: {', '.join(map(str, failed))}", markup=False)
        raise typer.Exit(FAILED)
    if strict and suspicious:
        raise typer.Exit(SUSPICIOUS)


def _diarizing(wanted: bool, name: str | None, wishes: dict[str, int | None]) -> DiarizeOptions | None:
    """How speakers are found; ``None`` if nothing asks for them."""
    given = {key: value for key, value in wishes.items() if value is not None}
    if not (wanted or name or given):
        return None
    return preset(name or DEFAULT_PRESET, **given)


def _transcribe_one(
    transcriber: Transcriber,
    file: Path,
    options: TranscribeOptions,
    speech: SpeechOptions,
    speakers: DiarizeOptions | None,
    journal: Journal,
    quiet: bool,
) -> Transcript:
    started = perf_counter()
    with progress(file.name, quiet) as report:
        transcript = transcriber.transcribe(
            file, options, speech=speech, diarize=speakers, resume=journal, progress=report
        )
    if quiet:
        return transcript
    for segment in transcript.segments:
        who = f"{segment.speaker}: " if segment.speaker else ""
        out.print(f"[{clock(segment.start)} → {clock(segment.end)}] {who}{segment.text}", markup=False)
    took = perf_counter() - started
    speed = transcript.duration / took if took else 0.0
    people = f"{len(transcript.speakers)} speakers, " if transcript.diarization else ""
    errors.print(
        f"{file.name}: {clock(transcript.duration)} of audio, language {transcript.language or 'none'}, "
        f"{people}{len(transcript.segments)} segments, {took:.1f} s ({speed:.1f} × real time)",
        markup=False,
    )
    for finding in transcript.findings:
        errors.print(f"  {clock(finding.start)} → {clock(finding.end)} {finding.message}", markup=False)
    tell_identities(transcript.diarization)
    return transcript

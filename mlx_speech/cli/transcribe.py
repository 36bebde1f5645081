"""``mlx-speech transcribe``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from mlx_speech import (
    DiarizeOptions,
    Finding,
    MLXSpeechError,
    SpeechOptions,
    TranscribeOptions,
    Transcriber,
    Transcript,
)
from mlx_speech.cli.bench import Stopwatch
from mlx_speech.cli.console import (
    FAILED,
    SUSPICIOUS,
    app,
    clock,
    complain_of,
    count,
    errors,
    out,
    progress,
    told_to,
)
from mlx_speech.cli.decoding import takes_decoding_options
from mlx_speech.cli.formats import (
    DEFAULT_FORMATS,
    Formats,
    check_formats,
    check_output,
    parse_formats,
    takes_write_options,
    write_all,
)
from mlx_speech.cli.groups import takes
from mlx_speech.cli.options import (
    Dir,
    Dtype,
    Files,
    Identify,
    IdentifyThreshold,
    MaxMemory,
    Model,
    PrintProgress,
    Quiet,
    Verbose,
    targets_for,
    there_is_one,
)
from mlx_speech.cli.speakers import diarizer_for, tell_identities
from mlx_speech.pipeline import AUTO_VAD, DEFAULT_MODEL, TRANSCRIBE_SPEECH
from mlx_speech.pipeline.journal import Journal
from mlx_speech.stages.diarize import DEFAULT_PRESET, PRESETS, preset
from mlx_speech.stages.identify import THRESHOLD
from mlx_speech.writers import WriteOptions
from mlx_speech.writers.files import prepare_folder


@dataclass(frozen=True)
class Talk:
    """How much is said: nothing, more than usual, and progress in lines where there is no terminal."""

    quiet: bool
    verbose: bool
    progress: bool


AlignModel = Annotated[
    str,
    typer.Option(
        "--align",
        help="What times the words: 'auto' for the language's best aligner on this machine, else Whisper; "
        "'none' for Whisper; or an aligner's name.",
    ),
]


def _option(kind: Any, help: str, panel: str, *names: str) -> Any:
    return Annotated[kind, typer.Option(*names, help=help, rich_help_panel=panel)]


_SPEAKERS, _SPEECH = "Speakers", "Speech detection"
_SPEAKER_CHOICES: dict[str, tuple[Any, Any]] = {
    "diarize": (_option(bool, "Say who speaks, word for word.", _SPEAKERS, "--diarize"), False),
    "num_speakers": (
        _option(
            int | None, "How many speakers, where known. Like the next ones, implies --diarize.", _SPEAKERS
        ),
        None,
    ),
    "min_speakers": (_option(int | None, "The fewest there can be.", _SPEAKERS), None),
    "max_speakers": (_option(int | None, "The most there can be.", _SPEAKERS), None),
    "diarize_preset": (
        _option(str | None, f"One of {', '.join(PRESETS)}; {DEFAULT_PRESET} by default.", _SPEAKERS),
        None,
    ),
}
_KNOWN_CHOICES: dict[str, tuple[Any, Any]] = {
    "identify": (Identify, False),
    "identify_threshold": (IdentifyThreshold, THRESHOLD),
}
_SPEECH_CHOICES: dict[str, tuple[Any, Any]] = {
    "vad_threshold": (
        _option(float, "Probability from which a moment is speech.", _SPEECH),
        TRANSCRIBE_SPEECH.threshold,
    ),
    "vad_offset": (
        _option(float | None, "Probability below which speech stops; 0.15 less by default.", _SPEECH),
        TRANSCRIBE_SPEECH.neg_threshold,
    ),
    "min_silence": (
        _option(float, "Seconds of silence that end a stretch.", _SPEECH),
        TRANSCRIBE_SPEECH.min_silence_duration,
    ),
    "speech_pad": (
        _option(float, "Seconds kept around a stretch.", _SPEECH),
        TRANSCRIBE_SPEECH.speech_pad,
    ),
}


def _diarizing(given: dict[str, Any]) -> DiarizeOptions | None:
    """How speakers are found; ``None`` if nothing asks for them."""
    wishes = {name: given[name] for name in ("num_speakers", "min_speakers", "max_speakers")}
    told = {name: value for name, value in wishes.items() if value is not None}
    if not (given["diarize"] or given["diarize_preset"] or told):
        return None
    return preset(given["diarize_preset"] or DEFAULT_PRESET, **told)


def _hearing(given: dict[str, Any]) -> SpeechOptions:
    """How speech is told from silence."""
    return SpeechOptions(
        threshold=given["vad_threshold"],
        neg_threshold=given["vad_offset"],
        min_silence_duration=given["min_silence"],
        speech_pad=given["speech_pad"],
    )


@app.command()
@takes_decoding_options
@takes_write_options
@takes("speech", _SPEECH_CHOICES, _hearing)
@takes("known", _KNOWN_CHOICES, lambda given: given["identify_threshold"] if given["identify"] else None)
@takes("speakers", _SPEAKER_CHOICES, _diarizing)
def transcribe(
    files: Files,
    how: WriteOptions,
    options: TranscribeOptions,
    speech: SpeechOptions,
    speakers: DiarizeOptions | None,
    known: float | None,
    model: Model = DEFAULT_MODEL,
    output_dir: Dir = Path("."),
    format: Formats = DEFAULT_FORMATS,
    align: AlignModel = "auto",
    vad: Annotated[
        str,
        typer.Option(
            help="The speech detector: 'silero-vad', or 'pyannet', the one of diarization and then the default.",
            rich_help_panel=_SPEECH,
        ),
    ] = AUTO_VAD,
    dtype: Annotated[
        Dtype | None, typer.Option(help="float32 on a CPU, float16 on a GPU by default.")
    ] = None,
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
    print_progress: PrintProgress = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Transcribe recordings: words with times and speakers, as text, JSON, subtitles and a page to play.

    A file that cannot be read is named at the end, and the others are done;
    the exit code is then 1. With --strict it is 3 where speech has no words,
    words have no speech, text loops or word times are guesses.
    """  # fmt: skip
    formats = parse_formats(format)
    if known is not None and speakers is None:
        speakers = preset(DEFAULT_PRESET)
    check_formats(formats, words=options.words, speakers=speakers is not None)
    there_is_one(files)
    talk = Talk(quiet, verbose, print_progress)
    targets = targets_for(files, output_dir)
    check_output(output_dir, targets.values(), formats)
    transcriber = Transcriber.load(
        model,
        vad=vad,
        align=align if options.words else "none",
        diarize=diarizer_for(known is not None, THRESHOLD if known is None else known) if speakers else False,
        dtype=dtype.value if dtype else None,
    )
    prepare_folder(output_dir)
    found: list[Finding] = []
    failed: list[Path] = []
    for file in targets:
        try:
            # the parts of a journal stay until the results are there
            with Journal(output_dir if resume else None) as journal, telling_of_parts(journal):
                work = partial(
                    transcriber.transcribe, file, options, speech=speech, diarize=speakers, resume=journal
                )
                transcript = _transcribe_one(work, file, talk)
                written = write_all(transcript, targets[file], formats, how, file)
            found += transcript.findings
        except MLXSpeechError as error:
            complain_of(file, error)
            failed.append(file)
            continue
        if not quiet:
            if journal.taken:
                errors.print(f"went on from {count(journal.taken, 'part')} of an earlier run", markup=False)
            errors.print(f"wrote {targets[file]}.{{{','.join(written)}}}", markup=False)
    if failed:
        if len(targets) > 1:
            errors.print(
                f"{len(failed)} of {len(targets)} failed: {', '.join(map(str, failed))}", markup=False
            )
        raise typer.Exit(FAILED)
    if strict and found:
        raise typer.Exit(SUSPICIOUS)


@contextmanager
def telling_of_parts(journal: Journal) -> Iterator[None]:
    """On Ctrl-C, say that finished parts are there to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        if journal.folder and any(p.suffix in (".json", ".npz") for p in journal.folder.iterdir()):
            errors.print(
                f"what is finished stays in {journal.folder}, and the same command goes on from there",
                markup=False,
            )
        raise


def _transcribe_one(work: Callable[..., Transcript], file: Path, talk: Talk) -> Transcript:
    """A recording's transcript, with its text and a summary on the way."""
    started = perf_counter()
    watch = Stopwatch()
    with progress(file.name, talk.quiet, lines=talk.progress) as report:
        transcript = work(progress=told_to(report, watch))
    if talk.quiet:
        return transcript
    for segment in transcript.segments:
        who = f"{segment.speaker}: " if segment.speaker else ""
        out.print(f"[{clock(segment.start)} → {clock(segment.end)}] {who}{segment.text}", markup=False)
    took = perf_counter() - started
    speed = transcript.duration / took if took else 0.0
    people = f"{count(len(transcript.speakers), 'speaker')}, " if transcript.diarization else ""
    errors.print(
        f"{file.name}: {clock(transcript.duration)} of audio, language {transcript.language or 'none'}, "
        f"{people}{count(len(transcript.segments), 'segment')}, {count(len(transcript.words), 'word')}, "
        f"{took:.1f} s ({speed:.1f} × real time)",
        markup=False,
    )
    for finding in transcript.findings:
        errors.print(f"  {clock(finding.start)} → {clock(finding.end)} {finding.message}", markup=False)
    for again in transcript.redone:
        kept = "kept" if again.kept else "not kept"
        errors.print(
            f"  {clock(again.start)} → {clock(again.end)} decoded again ({again.settings}): {again.before:.1f} s "
            f"with findings before, {again.after:.1f} s after, {kept}",
            markup=False,
        )
    if talk.verbose:
        _tell_more(transcript, watch)
    tell_identities(transcript.diarization)
    return transcript


def _tell_more(transcript: Transcript, watch: Stopwatch) -> None:
    """What --verbose adds: each stage's time and memory, and how sure each segment is."""
    for stage, seconds in watch.seconds.items():
        peak = watch.peak[stage] / 2**20
        errors.print(f"  {stage}: {seconds:.2f} s, MLX held up to {peak:.0f} MiB", markup=False)
    spoken = sum(s.duration for s in transcript.speech)
    errors.print(f"  speech: {clock(spoken)} in {len(transcript.speech)} stretches", markup=False)
    for s in transcript.segments:
        errors.print(
            f"  {clock(s.start)}: log-probability {s.avg_logprob:.2f}, silence {s.no_speech_prob:.2f}, "
            f"compression {s.compression_ratio:.2f}, temperature {s.temperature:g}",
            markup=False,
        )

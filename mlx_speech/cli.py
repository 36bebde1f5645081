"""The ``mlx-speech`` command."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import mlx_speech
from mlx_speech import (
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Diarizer,
    MLXSpeechError,
    SpeechOptions,
    TranscribeOptions,
    Transcriber,
    Transcript,
)
from mlx_speech.errors import OptionError
from mlx_speech.hub import ASSETS
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.pipeline import (
    DEFAULT_EMBEDDING,
    DEFAULT_MODEL,
    DEFAULT_SEGMENTATION,
    DEFAULT_VAD,
    TRANSCRIBE_SPEECH,
    Aligner,
    expect,
    load_vad,
)
from mlx_speech.readers import read_transcript
from mlx_speech.registry import CARDS
from mlx_speech.stages.align import UNCERTAIN, AlignOptions
from mlx_speech.stages.diarize import DEFAULT_PRESET, PRESETS, preset
from mlx_speech.stages.languages import language_code
from mlx_speech.writers import DIARIZATION_WRITERS, WRITERS, write

app = typer.Typer(
    help="Who said what, when: speech recognition in pure MLX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True, highlight=False)
out = Console(highlight=False, soft_wrap=True)

DEMO_CLIP = ASSETS / "demo" / "sense_and_sensibility.flac"
DEMO_MODEL = "whisper-tiny.en"
_STAGES = {
    "speech": "finding speech",
    "transcribe": "transcribing",
    "align": "aligning",
    "segment": "finding turns",
    "embed": "hearing voices",
}
_FAILED = 1
_MISUSED = 2


class Task(str, Enum):
    """What to write: the words as said, or English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class Dtype(str, Enum):
    """What Whisper computes in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


Files = Annotated[
    list[Path], typer.Argument(metavar="AUDIO…", help="Recordings in any audio or video format.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A Whisper: an alias ('mlx-speech models'), hub:org/name, or a folder."
    ),
]
Dir = Annotated[Path, typer.Option("--output-dir", "-o", help="Where the results go.")]
Formats = Annotated[str, typer.Option("--format", "-f", help=f"Comma-separated: {', '.join(WRITERS)}.")]
Language = Annotated[
    str | None,
    typer.Option("--language", "-l", help="Spoken language, code or name; detected by default."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print neither text nor progress.")]
AlignModel = Annotated[
    str,
    typer.Option(
        "--align",
        help="What times the words: 'auto' for the language's best aligner on this machine, else Whisper; "
        "'none' for Whisper; or a wav2vec2's name.",
    ),
]
_DECODING, _SPEECH = "Decoding", "Speech detection"


@app.command()
def transcribe(
    files: Files,
    model: Model = DEFAULT_MODEL,
    output_dir: Dir = Path("."),
    format: Formats = "txt,json,srt,vtt",
    language: Language = None,
    task: Annotated[Task, typer.Option(help="'translate' writes English.")] = Task.TRANSCRIBE,
    words: Annotated[bool, typer.Option("--words/--no-words", help="Time each word.")] = True,
    align: AlignModel = "auto",
    batch_size: Annotated[int, typer.Option(help="Windows of 30 s decoded together.")] = 8,
    dtype: Annotated[
        Dtype | None, typer.Option(help="float32 on a CPU, float16 on a GPU by default.")
    ] = None,
    temperature: Annotated[
        str, typer.Option(help="Tried in turn where decoding fails.", rich_help_panel=_DECODING)
    ] = "0,0.2,0.4,0.6,0.8,1",
    compression_ratio_threshold: Annotated[
        float, typer.Option(help="Above it, text is taken for a loop.", rich_help_panel=_DECODING)
    ] = 2.4,
    logprob_threshold: Annotated[
        float,
        typer.Option(help="Below this mean log-probability, decoding has failed.", rich_help_panel=_DECODING),
    ] = -1.0,
    no_speech_threshold: Annotated[
        float,
        typer.Option(help="Above it, an unlikely text is taken for silence.", rich_help_panel=_DECODING),
    ] = 0.6,
    vad: Annotated[
        str,
        typer.Option(
            help="The speech detector; 'pyannet' is the one of diarization.", rich_help_panel=_SPEECH
        ),
    ] = DEFAULT_VAD,
    vad_threshold: Annotated[
        float, typer.Option(help="Probability from which a moment is speech.", rich_help_panel=_SPEECH)
    ] = TRANSCRIBE_SPEECH.threshold,
    min_silence: Annotated[
        float, typer.Option(help="Seconds of silence that end a stretch.", rich_help_panel=_SPEECH)
    ] = TRANSCRIBE_SPEECH.min_silence_duration,
    speech_pad: Annotated[
        float, typer.Option(help="Seconds kept around a stretch.", rich_help_panel=_SPEECH)
    ] = TRANSCRIBE_SPEECH.speech_pad,
    quiet: Quiet = False,
) -> None:
    """Transcribe recordings: words with times, as text, JSON and subtitles.

    A file that cannot be read is named at the end, and the others are done; the exit code is then 1.
    """  # fmt: skip
    formats = _formats(format)
    options = TranscribeOptions(
        language=language_code(language) if language else None,
        words=words,
        batch_size=batch_size,
        decode=DecodeOptions(
            task=task.value,
            temperatures=_temperatures(temperature),
            compression_ratio_threshold=compression_ratio_threshold,
            logprob_threshold=logprob_threshold,
            no_speech_threshold=no_speech_threshold,
        ),
    )
    speech = SpeechOptions(threshold=vad_threshold, min_silence_duration=min_silence, speech_pad=speech_pad)
    targets = _targets(files, output_dir)
    transcriber = Transcriber.load(
        model, vad=vad, align=align if words else "none", dtype=dtype.value if dtype else None
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    failed: list[Path] = []
    for file in files:
        try:
            transcript = _transcribe_one(transcriber, file, options, speech, quiet)
            for name in formats:
                write(transcript, Path(f"{targets[file]}.{name}"), name)
        except MLXSpeechError as error:
            _complain(f"{file}: {error}")
            failed.append(file)
            continue
        if not quiet:
            errors.print(f"wrote {targets[file]}.{{{','.join(formats)}}}", markup=False)
    if failed:
        if len(files) > 1:
            errors.print(f"{len(failed)} of {len(files)} failed: {', '.join(map(str, failed))}", markup=False)
        raise typer.Exit(_FAILED)


@app.command("align")
def align_command(
    audio: Annotated[Path, typer.Argument(metavar="AUDIO", help="A recording in any format.")],
    transcript: Annotated[
        Path,
        typer.Argument(
            metavar="TRANSCRIPT", help="What is said in it: a text file, or an .srt or .vtt to time anew."
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="'auto', or a wav2vec2 with a CTC head: an alias, hub:org/name."),
    ] = "auto",
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="The text's, code or name; English by default.")
    ] = None,
    output_dir: Dir = Path("."),
    format: Formats = "json,srt,vtt",
    sentences: Annotated[
        bool, typer.Option("--sentences", help="Cut subtitles where sentences end.")
    ] = False,
    slack: Annotated[
        float, typer.Option(help="Seconds by which a subtitle's words may be outside of it.")
    ] = 1.0,
    lag: Annotated[
        float | None, typer.Option(help="Seconds that the model's times are late; by default as known.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Time the words of a known text: every word once, with how sure its time is.

    Plain text is what the whole recording says: its lines and sentences become segments.
    """  # fmt: skip
    formats = _formats(format)
    options = AlignOptions(sentences=sentences, slack=slack, lag=lag)
    text = read_transcript(transcript)
    aligner = Aligner.load(model)
    code = language_code(language) if language else None
    with _progress(audio.name, quiet) as report:
        found = aligner.align(audio, text, options, language=code, progress=report)
    target = output_dir / audio.stem
    if transcript.resolve() in {Path(f"{target}.{name}").resolve() for name in formats}:
        raise OptionError(f"{transcript} would be overwritten: take another folder (--output-dir)")
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in formats:
        write(found, Path(f"{target}.{name}"), name)
    if not quiet:
        for segment in found.segments:
            out.print(f"[{_clock(segment.start)} → {_clock(segment.end)}] {segment.text}", markup=False)
        doubtful = sum(w.uncertain for w in found.words)
        errors.print(
            f"{len(found.words)} words, {doubtful} uncertain (probability below {UNCERTAIN}, or no sound)\n"
            f"wrote {target}.{{{','.join(formats)}}}",
            markup=False,
        )


@app.command()
def vad(
    files: Files,
    threshold: Annotated[float, typer.Option(help="Probability from which a moment is speech.")] = 0.5,
    min_speech: Annotated[float, typer.Option(help="Seconds; shorter stretches are dropped.")] = 0.25,
    max_speech: Annotated[float, typer.Option(help="Seconds; longer stretches are cut.")] = float("inf"),
    min_silence: Annotated[float, typer.Option(help="Seconds of silence that end a stretch.")] = 0.1,
    speech_pad: Annotated[float, typer.Option(help="Seconds added on both sides.")] = 0.03,
    model: Annotated[
        str, typer.Option("--model", "-m", help="The speech detector, or 'pyannet'.")
    ] = DEFAULT_VAD,
) -> None:
    """Print where speech is: file, start and end in seconds, separated by tabs."""
    options = SpeechOptions(
        threshold=threshold,
        min_speech_duration=min_speech,
        max_speech_duration=max_speech,
        min_silence_duration=min_silence,
        speech_pad=speech_pad,
    )
    detector = load_vad(model)
    failed = False
    for file in files:
        try:
            spans = mlx_speech.detect_speech(file, detector, options)
        except MLXSpeechError as error:
            _complain(f"{file}: {error}")
            failed = True
            continue
        for span in spans:
            print(f"{file}\t{span.start:.3f}\t{span.end:.3f}")
    if failed:
        raise typer.Exit(_FAILED)


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
    quiet: Quiet = False,
) -> None:
    """Find out who speaks when: turns with speakers, as RTTM and JSON."""
    formats = _formats(format, DIARIZATION_WRITERS)
    wishes = {
        "num_speakers": num_speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
        "step": step,
        "min_duration_off": min_duration_off,
    }
    options = preset(preset_name, **{name: value for name, value in wishes.items() if value is not None})
    targets = _targets(files, output_dir)
    diarizer = Diarizer.load(segmentation, embedding)
    output_dir.mkdir(parents=True, exist_ok=True)
    failed = False
    for file in files:
        try:
            diarization = _diarize_one(diarizer, file, options, quiet)
            for name in formats:
                write(diarization, Path(f"{targets[file]}.{name}"), name)
        except MLXSpeechError as error:
            _complain(f"{file}: {error}")
            failed = True
            continue
        if not quiet:
            errors.print(f"wrote {targets[file]}.{{{','.join(formats)}}}", markup=False)
    if failed:
        raise typer.Exit(_FAILED)


@app.command()
def embed(
    files: Files,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A WeSpeaker: an alias, hub:org/name, or a path.")
    ] = DEFAULT_EMBEDDING,
) -> None:
    """Print the voice of recordings of one speaker each: a line of JSON a file, with its embedding."""
    embedder = expect(mlx_speech.load(model), WeSpeaker, model)
    failed = False
    for file in files:
        try:
            voice = mlx_speech.embed(file, embedder)
        except MLXSpeechError as error:
            _complain(f"{file}: {error}")
            failed = True
            continue
        print(json.dumps({"file": str(file), "embedding": [round(float(x), 6) for x in voice]}))
    if failed:
        raise typer.Exit(_FAILED)


@app.command()
def models() -> None:
    """List the models that have names, and where their weights are."""
    from mlx_speech.hub import whereabouts

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "languages", "parameters", "licence", "weights"):
        table.add_column(heading, no_wrap=True)
    for card in CARDS.values():
        table.add_row(card.alias, card.languages, f"{card.parameters:.1f} M", card.licence, whereabouts(card))
    out.print(table)


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
    with _progress(DEMO_CLIP.name, quiet=False) as report:
        transcript = transcriber.transcribe(DEMO_CLIP, progress=report)
    took = perf_counter() - started
    for segment in transcript.segments:
        out.print(f"[bold]{_clock(segment.start)} → {_clock(segment.end)}[/bold]  {escape(segment.text)}")
        out.print("    " + "  ".join(f"[cyan]{w.start:.2f}[/cyan] {escape(w.text)}" for w in segment.words))
    speed = transcript.duration / took
    out.print(f"\n{transcript.duration:.1f} s of audio in {took:.1f} s, {speed:.1f} × real time")
    if output_dir:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in WRITERS:
            write(transcript, output_dir / f"{DEMO_CLIP.stem}.{name}", name)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Who said what, when: speech recognition in pure MLX."""
    if version:
        out.print(mlx_speech.__version__)
        raise typer.Exit


def _transcribe_one(
    transcriber: Transcriber, file: Path, options: TranscribeOptions, speech: SpeechOptions, quiet: bool
) -> Transcript:
    started = perf_counter()
    with _progress(file.name, quiet) as report:
        transcript = transcriber.transcribe(file, options, speech=speech, progress=report)
    if quiet:
        return transcript
    for segment in transcript.segments:
        out.print(f"[{_clock(segment.start)} → {_clock(segment.end)}] {segment.text}", markup=False)
    took = perf_counter() - started
    speed = transcript.duration / took if took else 0.0
    errors.print(
        f"{file.name}: {_clock(transcript.duration)} of audio, language {transcript.language or 'none'}, "
        f"{len(transcript.segments)} segments, {took:.1f} s ({speed:.1f} × real time)",
        markup=False,
    )
    return transcript


def _diarize_one(diarizer: Diarizer, file: Path, options: DiarizeOptions, quiet: bool) -> Diarization:
    started = perf_counter()
    with _progress(file.name, quiet) as report:
        diarization = diarizer.diarize(file, options, progress=report)
    if quiet:
        return diarization
    for turn in diarization.turns:
        out.print(f"[{_clock(turn.start)} → {_clock(turn.end)}] {turn.speaker}", markup=False)
    took = perf_counter() - started
    speed = diarization.duration / took if took else 0.0
    errors.print(
        f"{file.name}: {_clock(diarization.duration)} of audio, {len(diarization.speakers)} speakers, "
        f"{len(diarization.turns)} turns, {took:.1f} s ({speed:.1f} × real time)",
        markup=False,
    )
    return diarization


@contextmanager
def _progress(name: str, quiet: bool) -> Iterator[mlx_speech.pipeline.Progress | None]:
    """A bar on the error stream where that is a terminal."""
    if quiet or not errors.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(name)

        def report(stage: str, done: float, total: float) -> None:
            bar.update(task, description=f"{name}: {_STAGES[stage]}", completed=done, total=total or 1.0)

        yield report


def _complain(message: str) -> None:
    errors.print(Text.assemble(("error: ", "red"), message))


def _formats(text: str, writers: Mapping[str, object] = WRITERS) -> list[str]:
    names = list(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    unknown = [n for n in names if n not in writers]
    if unknown or not names:
        raise OptionError(f"--format {text!r}: choose from {', '.join(writers)}")
    return names


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(t) for t in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"--temperature {text!r}: give numbers separated by commas, such as 0,0.4,0.8"
        ) from error


def _targets(files: list[Path], folder: Path) -> dict[Path, Path]:
    """Each file's output path without its ending; files of one name keep theirs, so none is overwritten."""
    stems = Counter(f.stem for f in dict.fromkeys(files))
    targets = {f: folder / (f.stem if stems[f.stem] == 1 else f.name) for f in files}
    if len(set(targets.values())) < len(targets):
        raise OptionError(
            "several recordings share one file name: transcribe them into different folders (--output-dir)"
        )
    return targets


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(seconds, 0.0), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:d}:{minutes:02d}:{rest:05.2f}" if hours else f"{minutes:02d}:{rest:05.2f}"


def run(application: typer.Typer) -> None:
    """Run a command; what this library raises on purpose is told in one line, not as a traceback."""
    warnings.showwarning = _show_warning
    try:
        application()
    except OptionError as error:
        _complain(str(error))
        sys.exit(_MISUSED)
    except MLXSpeechError as error:
        _complain(str(error))
        sys.exit(_FAILED)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    errors.print(Text.assemble(("warning: ", "yellow"), str(message)))


def main() -> None:
    """Entry point of ``mlx-speech``."""
    run(app)

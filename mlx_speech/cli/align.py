"""``mlx-speech align``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlx_speech.cli.console import app, clock, errors, out, progress
from mlx_speech.cli.formats import ALL, Formats, check_output, parse_formats, takes_write_options, write_all
from mlx_speech.cli.options import Dir, MaxMemory, Quiet, standard_input
from mlx_speech.errors import OptionError
from mlx_speech.pipeline import Aligner
from mlx_speech.readers import read_transcript
from mlx_speech.stages.languages import language_code
from mlx_speech.stages.placing import UNCERTAIN, AlignOptions
from mlx_speech.writers import WRITERS, WriteOptions
from mlx_speech.writers.files import prepare_folder


@app.command("align")
@takes_write_options
def align_command(
    audio: Annotated[
        Path,
        typer.Argument(
            metavar="AUDIO",
            help="A recording in any format; - is standard input.",
            parser=standard_input,
        ),
    ],
    transcript: Annotated[
        Path,
        typer.Argument(
            metavar="TRANSCRIPT",
            help="What is said in it: a text file, or an .srt, .vtt or transcript's .json to time anew.",
        ),
    ],
    how: WriteOptions,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="'auto', or a CTC model: an alias, hub:org/name."),
    ] = "auto",
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="The text's, code or name; English by default.")
    ] = None,
    output_dir: Dir = Path("."),
    format: Formats = "json,srt,vtt",
    sentences: Annotated[
        bool, typer.Option("--sentences", help="Cut subtitles where sentences end.")
    ] = False,
    characters: Annotated[
        bool,
        typer.Option("--characters", "--return-char-alignments", help="Give the json each character's time."),
    ] = False,
    slack: Annotated[
        float, typer.Option(help="Seconds by which a subtitle's words may be outside of it.")
    ] = 1.0,
    lag: Annotated[
        float | None, typer.Option(help="Seconds that the model's times are late; by default as known.")
    ] = None,
    max_memory: MaxMemory = None,
    quiet: Quiet = False,
) -> None:
    """Time the words of a known text: every word once, with how sure its time is.

    Plain text is what the whole recording says: its lines and sentences become segments.
    """  # fmt: skip
    formats = parse_formats(format)
    options = AlignOptions(sentences=sentences, characters=characters, slack=slack, lag=lag)
    code = language_code(language) if language else None
    text = read_transcript(transcript)
    target = output_dir / audio.stem
    names = list(WRITERS) if formats == [ALL] else formats
    if transcript.resolve() in {Path(f"{target}.{name}").resolve() for name in names}:
        raise OptionError(f"{transcript} would be overwritten: take another folder (--output-dir)")
    check_output(output_dir, [target], formats)
    aligner = Aligner.load(model)
    prepare_folder(output_dir)
    with progress(audio.name, quiet) as report:
        found = aligner.align(audio, text, options, language=code, progress=report)
    written = write_all(found, target, formats, how, audio)
    if not quiet:
        for segment in found.segments:
            out.print(f"[{clock(segment.start)} → {clock(segment.end)}] {segment.text}", markup=False)
        doubtful = sum(w.uncertain for w in found.words)
        errors.print(
            f"{len(found.words)} words, {doubtful} uncertain (probability below {UNCERTAIN}, or no sound)\n"
            f"wrote {target}.{{{','.join(written)}}}",
            markup=False,
        )

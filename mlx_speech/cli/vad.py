"""``mlx-speech vad``."""

from __future__ import annotations

from typing import Annotated

import typer

import mlx_speech
from mlx_speech import MLXSpeechError, SpeechOptions
from mlx_speech.cli.console import FAILED, app, complain_of
from mlx_speech.cli.options import Files
from mlx_speech.pipeline import DEFAULT_VAD, load_vad

_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})  # as PostgreSQL writes tables


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
    r"""Print where speech is: file, start and end in seconds, separated by tabs.

    Each stretch is one line: in a file's name a tab is written \t, line breaks \n and \r, and a backslash \\.
    """  # fmt: skip
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
            complain_of(file, error)
            failed = True
            continue
        for span in spans:
            print(f"{str(file).translate(_ESCAPES)}\t{span.start:.3f}\t{span.end:.3f}")
    if failed:
        raise typer.Exit(FAILED)

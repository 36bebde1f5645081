"""``mlx-speech embed``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import mlx_speech
from mlx_speech import MLXSpeechError
from mlx_speech.cli.console import FAILED, app, complain_of
from mlx_speech.cli.options import Files
from mlx_speech.models.wespeaker import WeSpeaker
from mlx_speech.pipeline import DEFAULT_EMBEDDING, expect


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
            complain_of(file, error)
            failed = True
            continue
        print(json.dumps({"file": str(file), "embedding": [round(float(x), 6) for x in voice]}))
    if failed:
        raise typer.Exit(FAILED)

"""The ``mlx-speech`` command: one file a subcommand."""

# ruff: noqa: I001  (each module adds its command to the application: their order is that of --help)
from __future__ import annotations

from mlx_speech.cli import transcribe, diarize, align, vad, embed, speakers, models, bench, demo  # noqa: F401
from mlx_speech.cli.console import app, run

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``mlx-speech``."""
    run(app)

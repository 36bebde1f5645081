"""Formats and the choices within them on the command line."""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from mlx_speech import cli
from mlx_speech.cli.formats import parse_formats
from mlx_speech.errors import OptionError
from mlx_speech.writers import DIARIZATION_WRITERS, WRITERS


@pytest.fixture
def align(monkeypatch, capsys, tmp_path):
    """Align four words with two seconds of noise; answers the exit code, the errors and the folder."""
    with wave.open(str(tmp_path / "talk.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        noise = np.random.default_rng(0).normal(0, 2000, 32_000)
        file.writeframes(noise.astype("<i2").tobytes())
    (tmp_path / "talk.md").write_text("so he said nothing")

    def call(*arguments: str) -> tuple[int, str, Path]:
        monkeypatch.setenv("COLUMNS", "200")
        given = ["mlx-speech", "align", str(tmp_path / "talk.wav"), str(tmp_path / "talk.md")]
        monkeypatch.setattr(sys, "argv", [*given, "-o", str(tmp_path / "out"), *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, " ".join(capsys.readouterr().err.split()), tmp_path / "out"

    return call


@pytest.mark.parametrize("spelling", ["--max-words-per-line", "--max_words_per_line"])
def test_both_spellings_break_subtitles(align, spelling):
    code, err, out = align("--output_format", "SRT,textgrid", spelling, "2")
    assert code == 0, err
    assert [b.split("\n", 2)[2].strip() for b in (out / "talk.srt").read_text().split("\n\n")] == [
        "so he",
        "said nothing",
    ]
    assert sorted(p.name for p in out.iterdir()) == ["talk.TextGrid", "talk.srt"]


def test_all_formats_that_can_be_made(align):
    code, err, out = align("-f", "all")
    assert code == 0, err
    assert {p.suffix[1:] for p in out.iterdir()} == set(WRITERS) - {"rttm"}
    assert "wrote" in err


def test_characters_where_asked_for(align):
    code, err, out = align("-f", "json", "--return_char_alignments")
    assert code == 0, err
    (segment,) = json.loads((out / "talk.json").read_text())["segments"]
    assert "".join(c["char"] for c in segment["chars"]) == "sohesaidnothing"


def test_a_format_that_cannot_be_made_is_told(align):
    code, err, _ = align("-f", "rttm")
    assert code == 2
    assert "diarize" in err


def test_a_limit_of_nothing_is_told(align):
    code, err, _ = align("--max-line-width", "0")
    assert code == 2
    assert "max_line_width is 0" in err


def test_a_list_of_formats():
    assert parse_formats(" srt, VTT,srt ") == ["srt", "vtt"]
    assert parse_formats("all,srt") == ["all"]
    assert parse_formats("all", DIARIZATION_WRITERS) == list(DIARIZATION_WRITERS)
    with pytest.raises(OptionError, match="choose from rttm, json, or all"):
        parse_formats("srt", DIARIZATION_WRITERS)

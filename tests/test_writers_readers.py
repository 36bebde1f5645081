"""What is written, read back by other people's readers; those that are not installed are skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_speech.errors import OptionError
from mlx_speech.types import Diarization, Segment, Transcript, Turn, Word
from mlx_speech.writers import WriteOptions, formats_for, render, write

TURNS = (Turn(0.5, 2.25, "Ann B"), Turn(2.0, 3.0, "Bob"))
DIARIZATION = Diarization(
    TURNS, TURNS, ("Ann B", "Bob"), np.zeros((2, 4)), np.zeros((9, 2)), 0.016875, 0.03, 60.0
)
SEGMENTS = (
    Segment(
        0.5,
        2.25,
        ' Say "hi" & <b>go</b>,',
        (
            Word("Say", 0.5, 0.9, 0.9, speaker="Ann B"),
            Word('"hi"', 1.0, 1.4, 0.8, speaker="Ann B"),
            Word("&", 1.4, 1.4, float("nan"), speaker="Ann B"),
            Word("<b>go</b>,", 1.5, 2.25, 1.5, speaker="Ann B"),
        ),
        speaker="Ann B",
    ),
    Segment(
        2.0,
        3.0,
        " {Grüß}\\n Gott",
        (Word("{Grüß}\\n", 2.0, 2.5, 0.5), Word("Gott", 2.5, 3.0, 0.5)),
        speaker="Bob",
    ),
    Segment(40.0, 41.0, " So.", (Word("So.", 40.0, 41.0, 0.5),), speaker=None),
)
TRANSCRIPT = Transcript(SEGMENTS, "en", 60.0, diarization=DIARIZATION)
SPANS = [(500, 2000), (2000, 3000), (40000, 41000)]
HIGHLIGHT = WriteOptions(highlight_words=True)


def written(folder: Path, format: str, **options: Any) -> str:
    path = folder / f"a call.{format}"
    write(TRANSCRIPT, path, format, WriteOptions(**options))
    return str(path)


# --- subtitles


@pytest.mark.parametrize("format", ["srt", "vtt", "ass"])
@pytest.mark.parametrize("highlight", [False, True])
def test_pysubs2(tmp_path: Path, format: str, highlight: bool) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    found = pysubs2.load(written(tmp_path, format, highlight_words=highlight and format != "srt"))
    assert [(e.start, e.end) for e in found] == SPANS
    if format == "ass":
        assert [e.plaintext for e in found] == [
            'Say "hi" & <b>go</b>,',
            "｛Grüß｝\\\N{WORD JOINER}n Gott",
            "So.",
        ]
        assert [(e.name, e.style) for e in found] == [("Ann B", "Ann B"), ("Bob", "Bob"), ("", "Default")]
        assert {e.style for e in found} == set(found.styles)
    assert "Gott" in found[1].plaintext


def test_pysubs2_reads_the_karaoke_times(tmp_path: Path) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    found = pysubs2.load(written(tmp_path, "ass", highlight_words=True))
    assert found[0].text.startswith(r"{\k40}Say{\k10} {\k40}")


def test_pysubs2_reads_the_underlined_words(tmp_path: Path) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    plain = replace(TRANSCRIPT, segments=SEGMENTS[2:])
    found = pysubs2.SSAFile.from_string(render(plain, "srt", HIGHLIGHT))
    assert [(e.start, e.end, e.text) for e in found] == [(40000, 41000, r"{\u1}So.{\u0}")]


@pytest.mark.parametrize("highlight", [False, True])
def test_webvtt(tmp_path: Path, highlight: bool) -> None:
    webvtt = pytest.importorskip("webvtt")
    found = webvtt.read(written(tmp_path, "vtt", highlight_words=highlight))
    assert [(round(c.start_in_seconds * 1000), round(c.end_in_seconds * 1000)) for c in found][2] == SPANS[2]
    assert [c.voice for c in found] == ["Ann B", "Bob", None]
    assert [c.text for c in found][1:] == ["{Grüß}\\n Gott", "So."]


# --- turns and words


def test_pyannote_reads_the_turns(tmp_path: Path) -> None:
    util = pytest.importorskip("pyannote.database.util")
    (uri, annotation), *others = util.load_rttm(written(tmp_path, "rttm")).items()
    assert (uri, others) == ("a_call", [])
    assert [(t.start, t.end, who) for t, _, who in annotation.itertracks(yield_label=True)] == [
        (0.5, 2.25, "Ann_B"),
        (2.0, 3.0, "Bob"),
    ]


def test_meeteval_reads_the_turns_and_words(tmp_path: Path) -> None:
    io = pytest.importorskip("meeteval.io")
    turns = list(io.RTTM.load(written(tmp_path, "rttm")))
    assert [(float(t.begin_time), float(t.duration), t.speaker_id) for t in turns] == [
        (0.5, 1.75, "Ann_B"),
        (2.0, 1.0, "Bob"),
    ]
    words = list(io.CTM.load(written(tmp_path, "ctm")))
    assert [w.word for w in words] == ["Say", '"hi"', "&", "<b>go</b>,", "{Grüß}\\n", "Gott", "So."]
    assert [float(w.begin_time) for w in words] == [0.5, 1.0, 1.4, 1.5, 2.0, 2.5, 40.0]
    assert [float(w.duration) for w in words] == [0.4, 0.4, 0.0, 0.75, 0.5, 0.5, 1.0]


def test_ctm() -> None:
    assert render(TRANSCRIPT, "ctm", name=";;a  call").splitlines()[:4] == [
        "a_call 1 0.500 0.400 Say 0.9000",
        'a_call 1 1.000 0.400 "hi" 0.8000',
        "a_call 1 1.400 0.000 & NA",
        "a_call 1 1.500 0.750 <b>go</b>, 1.0000",
    ]


def test_praatio(tmp_path: Path) -> None:
    textgrid = pytest.importorskip("praatio.textgrid")
    found = textgrid.openTextgrid(written(tmp_path, "TextGrid"), includeEmptyIntervals=False)
    assert found.tierNames == ("Ann B", "Ann B words", "Bob", "Bob words", "segments", "words")
    assert (found.minTimestamp, found.maxTimestamp) == (0, 60)
    assert [tuple(e) for e in found.getTier("Ann B").entries] == [(0.5, 2.25, 'Say "hi" & <b>go</b>,')]
    assert [tuple(e) for e in found.getTier("Ann B words").entries] == [
        (0.5, 0.9, "Say"),
        (1.0, 1.4, '"hi"'),
        (1.4, 1.401, "&"),
        (1.5, 2.25, "<b>go</b>,"),
    ]
    assert [tuple(e) for e in found.getTier("words").entries] == [(40.0, 41.0, "So.")]


@pytest.mark.parametrize("nothing", [Transcript((), None, 0.0), Transcript((), None, 9.0)])
def test_praatio_reads_silence(tmp_path: Path, nothing: Transcript) -> None:
    textgrid = pytest.importorskip("praatio.textgrid")
    write(nothing, tmp_path / "a.TextGrid", "TextGrid")
    found = textgrid.openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=False)
    assert [len(found.getTier(name).entries) for name in found.tierNames] == [0, 0]


# --- what a format needs


def test_turns_need_a_diarization() -> None:
    plain = replace(TRANSCRIPT, diarization=None)
    with pytest.raises(OptionError, match=r"rttm is made of speakers' turns.*diarize"):
        render(plain, "rttm")
    assert set(formats_for(TRANSCRIPT)) - set(formats_for(plain)) == {"rttm"}


def test_ctm_needs_words() -> None:
    plain = replace(TRANSCRIPT, segments=(Segment(0, 1, "hm"),))
    with pytest.raises(OptionError, match="ctm is made of words' times"):
        render(plain, "ctm")
    assert "ctm" not in formats_for(plain)

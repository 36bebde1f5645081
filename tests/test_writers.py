"""The text formats, read back by small parsers of their own, and writing in one step."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_speech.errors import OptionError, OutputError
from mlx_speech.types import Segment, Span, Transcript, Word
from mlx_speech.writers import formats_for, render, write

WORDS = (Word("Grüß", 0.5004, 0.9, 0.98766), Word("Gott!", 0.9, 1.25, 1.0))
SEGMENTS = (
    Segment(0.5, 1.25, " Grüß Gott!", WORDS, "de", (1, 2), -0.123456, 0.01, 0.9, 0.2),
    Segment(3661.0016, 3662.9996, "Tom & <b>Jerry</b>", language="en"),
)
TRANSCRIPT = Transcript(SEGMENTS, "de", 3700.12345, (Span(0.4, 1.3), Span(3661.0, 3663.0)))
EMPTY = Transcript((), None, 0.0)

Cue = tuple[int, int, str]


def spoken(*segments: tuple[float, float, str]) -> Transcript:
    return Transcript(tuple(Segment(*segment) for segment in segments), "en", 100.0)


def milliseconds(clock: str) -> int:
    hours, minutes, seconds, thousandths = (int(part) for part in re.split("[:,.]", clock))
    assert minutes < 60
    assert seconds < 60
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + thousandths


def parse_cues(blocks: str, clock: str) -> list[Cue]:
    """Cues as players read them: an optional number, one line of times, text up to a blank line."""
    times = re.compile(rf"({clock}) --> ({clock})")
    cues = []
    for block in re.split(r"\n{2,}", blocks.strip("\n")) if blocks.strip() else []:
        lines = block.split("\n")
        if lines[0].isdigit() and len(lines) > 1 and "-->" in lines[1]:
            assert int(lines.pop(0)) == len(cues) + 1
        matched = times.fullmatch(lines[0])
        assert matched, f"no cue: {block!r}"
        text = "\n".join(lines[1:])
        assert "-->" not in text
        cues.append((milliseconds(matched[1]), milliseconds(matched[2]), text))
    return cues


def parse_srt(text: str) -> list[Cue]:
    return parse_cues(text, r"\d\d+:\d\d:\d\d,\d{3}")


def parse_vtt(text: str) -> list[Cue]:
    assert text.startswith("WEBVTT\n")
    cues = parse_cues(text.removeprefix("WEBVTT\n"), r"\d\d+:\d\d:\d\d\.\d{3}")
    for _, _, said in cues:
        assert not re.search("[<>]|&(?!amp;|lt;|gt;)", said)
    escapes = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
    return [(start, end, re.sub("&.*?;", lambda m: escapes[m[0]], said)) for start, end, said in cues]


PARSERS: dict[str, Callable[[str], list[Cue]]] = {"srt": parse_srt, "vtt": parse_vtt}


# --- formats


def test_srt() -> None:
    assert render(TRANSCRIPT, "srt") == (
        "1\n00:00:00,500 --> 00:00:01,250\nGrüß Gott!\n\n"
        "2\n01:01:01,002 --> 01:01:03,000\nTom & <b>Jerry</b>\n"
    )


def test_vtt() -> None:
    assert render(TRANSCRIPT, "vtt") == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.250\nGrüß Gott!\n\n"
        "01:01:01.002 --> 01:01:03.000\nTom &amp; &lt;b&gt;Jerry&lt;/b&gt;\n"
    )


def test_txt() -> None:
    assert render(TRANSCRIPT, "txt") == "Grüß Gott!\nTom & <b>Jerry</b>\n"
    assert render(spoken((0, 1, " one\n two "), (1, 2, "  "), (2, 3, "three")), "txt") == "one two\nthree\n"


def test_tsv() -> None:
    assert render(TRANSCRIPT, "tsv") == (
        "start\tend\ttext\n500\t1250\tGrüß Gott!\n3661002\t3663000\tTom & <b>Jerry</b>\n"
    )
    assert render(spoken((0, 1, "a\tb\r\nc")), "tsv").splitlines()[1] == "0\t1000\ta b c"


@pytest.mark.parametrize(
    ("format", "expected"), [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n"), ("tsv", "start\tend\ttext\n")]
)
def test_nothing_said(format: str, expected: str) -> None:
    assert render(EMPTY, format) == expected


@pytest.mark.parametrize("format", ["docx", "", "SRT", None, ["srt"]])
def test_unknown_format_lists_the_known(format: Any) -> None:
    with pytest.raises(OptionError, match="txt, json, srt, vtt, tsv, ass"):
        render(TRANSCRIPT, format)


@pytest.mark.parametrize("format", ["srt", "vtt", "tsv"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_times_must_be_finite(format: str, bad: float) -> None:
    with pytest.raises(OutputError, match="must be finite"):
        render(spoken((0.0, bad, "hm")), format)


# --- cues


@pytest.mark.parametrize("format", PARSERS)
@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([(0, 3, "a"), (2, 4, "b")], [(0, 2000, "a"), (2000, 4000, "b")]),
        ([(0, 10, "a"), (2, 3, "b")], [(0, 2000, "a"), (2000, 3000, "b")]),
        ([(5, 8, "a"), (5, 9, "b")], [(5000, 8000, "a"), (8000, 9000, "b")]),
        ([(5, 8, "a"), (5, 6, "b")], [(5000, 8000, "a"), (8000, 8001, "b")]),
        ([(3, 4, "b"), (1, 2, "a")], [(1000, 2000, "a"), (3000, 4000, "b")]),
        ([(1, 1, "a"), (1.0001, 1.0002, "b")], [(1000, 1001, "a"), (1001, 1002, "b")]),
        ([(2, 1, "a")], [(2000, 2001, "a")]),
        ([(-0.5, 1, "a")], [(0, 1000, "a")]),
        ([(0.9996, 59.9996, "a")], [(1000, 60000, "a")]),
        ([(359999.9994, 360000.5, "a")], [(359999999, 360000500, "a")]),
        ([(0, 1, " \n "), (1, 2, "b")], [(1000, 2000, "b")]),
        ([(0, 1, "one\r\n\r\n \u2028\x0btwo\n")], [(0, 1000, "one\ntwo")]),
        ([(0, 1, "nul\0")], [(0, 1000, "nul")]),
    ],
)
def test_cues(format: str, segments: list[tuple[float, float, str]], expected: list[Cue]) -> None:
    assert PARSERS[format](render(spoken(*segments), format)) == expected


@pytest.mark.parametrize("arrow", ["-->", "--->", "---->", "-->-->", "00:00:01,000 --> 00:00:02,000"])
def test_arrows_in_the_text_start_no_cue(arrow: str) -> None:
    assert parse_srt(render(spoken((0, 1, f"a {arrow} b")), "srt")) == [
        (0, 1000, f"a {re.sub('-+->', '->', arrow)} b")
    ]
    assert parse_vtt(render(spoken((0, 1, f"a {arrow} b")), "vtt")) == [(0, 1000, f"a {arrow} b")]


TIMES = st.floats(-1, 4000, allow_nan=False)
TEXTS = st.text(st.sampled_from("ab->&<;\n\r\t \u2028\x85"), max_size=12)


@pytest.mark.parametrize("format", PARSERS)
@given(segments=st.lists(st.tuples(TIMES, TIMES, TEXTS), max_size=8))
def test_any_transcript_gives_clean_cues(format: str, segments: list[tuple[float, float, str]]) -> None:
    cues = PARSERS[format](render(spoken(*segments), format))
    assert len(cues) == sum(bool(text.strip()) for _, _, text in segments)
    assert all(0 <= start < end and text for start, end, text in cues)
    assert all(cues[i][1] <= cues[i + 1][0] for i in range(len(cues) - 1))


# --- files


@pytest.mark.parametrize("format", formats_for(TRANSCRIPT))
def test_write(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a ü.{format}"
    path.write_text("old and much longer than what is new" * 1000)
    write(TRANSCRIPT, str(path), format)
    assert path.read_bytes() == render(TRANSCRIPT, format, name="a ü").encode("utf-8")  # no \r\n anywhere
    assert os.listdir(tmp_path) == [path.name]


def test_write_obeys_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(TRANSCRIPT, tmp_path / "a.txt", "txt")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").symlink_to(tmp_path / "b" / "real.txt")
    write(TRANSCRIPT, tmp_path / "a.txt", "txt")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "b" / "real.txt").read_text("utf-8")


def test_write_takes_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".txt")
    write(TRANSCRIPT, path, "txt")
    assert path.is_file()


@pytest.mark.skipif(os.name == "nt", reason="Windows' names are text")
@pytest.mark.parametrize("format", formats_for(TRANSCRIPT))
def test_names_that_are_no_text(tmp_path: Path, format: str) -> None:
    name = os.fsdecode(b"caf\xe9")  # Latin-1
    write(TRANSCRIPT, tmp_path / f"{name}.{format}", format, audio=tmp_path / f"{name}.wav")
    text = (tmp_path / f"{name}.{format}").read_text(encoding="utf-8")
    assert "Gott!" in text
    assert format != "html" or 'src="./caf%E9.wav"' in text


def test_a_device_is_written_through_not_replaced(tmp_path: Path) -> None:
    write(TRANSCRIPT, os.devnull, "txt")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent/a.txt", "No such file"),
        (".", "directory"),
        ("file/a.txt", "Not a directory"),
        ("n" * 300, "too long"),
    ],
)
def test_unwritable(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_text("here before")
    with pytest.raises(OutputError, match=f"(?s){re.escape(str(tmp_path / name))}.*{why}.*check"):
        write(TRANSCRIPT, tmp_path / name, "txt")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "here before"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failing_midway_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_: Any) -> None:
        assert len(os.listdir(tmp_path)) == 2  # the temporary is beside the target
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt):
        write(TRANSCRIPT, path, "txt")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_text_that_utf8_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="surrogates"):
        write(spoken((0, 1, "\ud800")), tmp_path / "a.txt", "txt")
    assert os.listdir(tmp_path) == []


def test_unknown_format_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        write(TRANSCRIPT, tmp_path / "a.docx", "docx")
    assert os.listdir(tmp_path) == []

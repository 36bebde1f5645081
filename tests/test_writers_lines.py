"""Lines of subtitles, highlighted words and speakers' labels."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_speech.errors import OptionError
from mlx_speech.types import Segment, Transcript, Word
from mlx_speech.writers import WriteOptions, render

# (start, end, text) of each subtitle that openai-whisper 20250625 makes of the same words
ORIGINAL = json.loads((Path(__file__).parent / "fixtures" / "writers" / "lines.json").read_text("utf-8"))


def transcript(segments: list[list[tuple[str, float, float]]], speakers: str = "") -> Transcript:
    found = []
    for n, words in enumerate(segments):
        who = speakers[n] if speakers else None
        said = tuple(Word(text, start, end, 1.0, speaker=who) for text, start, end in words)
        text = " ".join(w.text for w in said)
        found.append(Segment(words[0][1], words[-1][2], " " + text, said, "en", speaker=who))
    return Transcript(tuple(found), "en", 100.0)


def counted(text: str, start: float = 0.0) -> list[tuple[str, float, float]]:
    """Each word lasts half a second of its own second."""
    return [(word, start + n, start + n + 0.5) for n, word in enumerate(text.split())]


def cues(srt: str) -> list[tuple[str, str, str]]:
    blocks = [b.rstrip("\n").split("\n") for b in srt.split("\n\n") if b.strip()]
    return [(*b[1].split(" --> "), "\n".join(b[2:])) for b in blocks]


def texts(found: Transcript, **options: Any) -> list[str]:
    return [text for _, _, text in cues(render(found, "srt", WriteOptions(**options)))]


@pytest.mark.parametrize("case", ORIGINAL["cases"], ids=lambda c: str(c["options"]))
def test_lines_are_openai_whispers(case: dict[str, Any]) -> None:
    found = transcript(ORIGINAL["segments"])
    assert cues(render(found, "srt", WriteOptions(**case["options"]))) == [tuple(c) for c in case["cues"]]


FIVE = counted("one two three four five")


def test_without_limits_a_segment_is_a_subtitle() -> None:
    assert texts(transcript([FIVE, counted("six", 5)])) == ["one two three four five", "six"]


def test_width_breaks_lines_within_a_segment() -> None:
    assert texts(transcript([FIVE]), max_line_width=9) == ["one two\nthree\nfour five"]


def test_width_and_count_flow_over_segments_but_not_over_pauses() -> None:
    found = transcript([counted("one two"), counted("three four", 2), counted("five", 9)])
    assert texts(found, max_line_width=9, max_line_count=2) == ["one two\nthree", "four", "five"]
    assert texts(found, max_line_width=13, max_line_count=1) == ["one two three", "four", "five"]


def test_no_subtitle_has_two_speakers() -> None:
    found = transcript([counted("one two"), counted("three", 2), counted("four", 3)], "AAB")
    assert texts(found, max_line_width=40, max_line_count=2) == ["[A]: one two three", "[B]: four"]


def test_words_per_line() -> None:
    assert texts(transcript([FIVE]), max_words_per_line=2) == ["one two", "three four", "five"]
    assert texts(transcript([FIVE]), max_words_per_line=2, max_line_count=2) == [
        "one two\nthree four",
        "five",
    ]


def test_a_segment_without_words_shares_its_time_by_letters() -> None:
    found = Transcript((Segment(0, 10, "abcd efghi"),), "en", 10.0)
    assert cues(render(found, "srt", WriteOptions(max_words_per_line=1))) == [
        ("00:00:00,000", "00:00:04,000", "abcd"),
        ("00:00:05,000", "00:00:10,000", "efghi"),
    ]


def test_languages_without_spaces_break_anywhere() -> None:
    plain = Segment(0, 8, "今日はいい天気。", language="ja")
    assert texts(Transcript((plain,), "ja", 8.0), max_line_width=4) == ["今日はい\nい天気。"]
    words = tuple(Word(c, n, n + 1, 1.0) for n, c in enumerate(plain.text))
    timed = replace(plain, words=words)
    assert texts(Transcript((timed,), "ja", 8.0), max_line_width=4) == ["今日はい\nい天気。"]
    assert texts(Transcript((timed,), "ja", 8.0)) == ["今日はいい天気。"]


def test_text_between_words_is_kept() -> None:
    found = transcript([[("well", 0, 1), ("yes", 1, 2)]])
    odd = replace(found.segments[0], text=" — well … yes!\nIndeed")
    assert texts(replace(found, segments=(odd,)), highlight_words=True) == [
        "<u>— well</u> … yes!\nIndeed",
        "— well <u>… yes!\nIndeed</u>",
    ]


def test_words_of_another_text_are_shown_instead() -> None:
    found = transcript([[("forty", 0, 1), ("two", 1, 2)]])
    odd = replace(found.segments[0], text="42")
    assert texts(replace(found, segments=(odd,))) == ["forty two"]


WORD = st.tuples(st.text("ab-", min_size=1, max_size=9), st.floats(0, 60), st.floats(0, 60))


@given(
    segments=st.lists(st.tuples(st.lists(WORD, min_size=1, max_size=6), st.sampled_from("AB")), max_size=5),
    width=st.integers(1, 20),
    count=st.integers(1, 3),
)
def test_any_words_fit(segments: list[tuple[list[tuple[str, float, float]], str]], width: int, count: int):
    found = transcript([s[0] for s in segments], "".join(s[1] for s in segments))
    shown = texts(found, max_line_width=width, max_line_count=count, speaker_labels=False)
    for text in shown:
        lines = text.split("\n")
        assert len(lines) <= count
        assert all(line and (len(line) <= width or " " not in line) for line in lines)
    assert sorted(" ".join(shown).split()) == sorted(w.text for w in found.words)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_line_width": 0}, "max_line_width is 0"),
        ({"max_words_per_line": -1}, "max_words_per_line is -1"),
        ({"max_line_count": 2}, "give max_line_width"),
    ],
)
def test_limits_that_mean_nothing(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        WriteOptions(**options)


# --- highlighted words


PAUSED = Transcript(
    (Segment(1.0, 4.0, "Hi there", (Word("Hi", 1.0, 1.5, 1.0), Word("there", 2.0, 3.0, 1.0)), speaker="A"),),
    "en",
    5.0,
)
HIGHLIGHT = WriteOptions(highlight_words=True)


def test_srt_underlines_word_by_word() -> None:
    assert cues(render(PAUSED, "srt", HIGHLIGHT)) == [
        ("00:00:01,000", "00:00:01,500", "[A]: <u>Hi</u> there"),
        ("00:00:01,500", "00:00:02,000", "[A]: Hi there"),
        ("00:00:02,000", "00:00:03,000", "[A]: Hi <u>there</u>"),
        ("00:00:03,000", "00:00:04,000", "[A]: Hi there"),
    ]


def test_vtt_has_time_tags() -> None:
    assert "<v A><c>Hi</c> <00:00:02.000><c>there</c></v>\n" in render(PAUSED, "vtt", HIGHLIGHT)


def test_ass_is_karaoke() -> None:
    assert r",A,A,0,0,0,,{\k50}Hi{\k50} {\k100}there" in render(PAUSED, "ass", HIGHLIGHT)


@given(words=st.lists(st.tuples(st.just("w"), st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=6))
def test_highlights_stay_within_their_subtitle(words: list[tuple[str, float, float]]) -> None:
    found = transcript([words])
    shown = cues(render(found, "srt", HIGHLIGHT))
    assert all(a < b for a, b, _ in shown)
    assert all(x[1] <= y[0] for x, y in pairwise(shown))
    tags = re.findall(r"<(\d\d:\d\d:\d\d\.\d{3})>", render(found, "vtt", HIGHLIGHT))
    assert tags == sorted(set(tags))
    syllables = [int(k) for k in re.findall(r"\\k(-?\d+)", render(found, "ass", HIGHLIGHT))]
    assert all(k >= 0 for k in syllables)


# --- speakers


TWO = transcript([counted("one two"), counted("three", 2), counted("four", 3)], "AAB")


def test_txt_has_a_paragraph_a_speaker() -> None:
    assert render(TWO, "txt") == "[A]: one two three\n\n[B]: four\n"
    assert render(TWO, "txt", WriteOptions(speaker_labels=False)) == "one two\nthree\nfour\n"


def test_a_long_paragraph_ends_with_a_segment() -> None:
    long = transcript([counted("word " * 100, n) for n in range(3)], "AAA")
    assert [len(p.split()) for p in render(long, "txt").split("\n\n")] == [201, 101]


def test_two_seconds_of_silence_end_a_paragraph() -> None:
    for gap, lines in ((1.99, 1), (2.0, 2)):
        said = transcript([[("a", 0.0, 1.0)], [("b", 1.0 + gap, 4.0)]], "AA")
        assert len([line for line in render(said, "txt").splitlines() if line]) == lines


def test_vtt_has_voices() -> None:
    odd = replace(TWO.segments[0], speaker="A & <B>\n")
    assert "\n<v A &amp; &lt;B&gt;>one two</v>\n" in render(Transcript((odd,), "en", 9.0), "vtt")
    assert "<v" not in render(TWO, "vtt", WriteOptions(speaker_labels=False))


def test_audacity_labels() -> None:
    assert render(TWO, "aud").splitlines()[2] == "3.000\t3.500\t[[B]]four"
    assert render(TWO, "aud", WriteOptions(speaker_labels=False)).splitlines()[2] == "3.000\t3.500\tfour"

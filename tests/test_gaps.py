"""Speech between two words is decoded by itself, and only a reading to be believed is put there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_speech import DecodeOptions, Segment, Span, TranscribeOptions, Transcript, Word
from mlx_speech.pipeline.gaps import fill_gaps, gaps

SPEECH = (Span(0.0, 10.0), Span(11.0, 30.0))


def said(text, start, step=0.5, **about):
    words = tuple(Word(w, start + n * step, start + (n + 1) * step, 0.9) for n, w in enumerate(text.split()))
    return Segment(words[0].start, words[-1].end, text, words, "en", **{"avg_logprob": -0.3, **about})


FIRST = said("it was the best of times it was the worst of times it was the age", 0.0)  # to 8 s
LAST = said("we had everything before us we had nothing before us", 25.0)  # 25 to 30 s
LOST = said("Mr. John Dashwood had then leisure to consider how much there might be", 11.2, 1.0)
WINDOWS = (Span(0.0, 30.0),)
TRANSCRIPT = Transcript((FIRST, LAST), "en", 30.0, SPEECH)


def fill(reading, transcript=TRANSCRIPT, options=None, speech=SPEECH, windows=WINDOWS):
    asked = []

    def read(windows, how):
        asked.append((list(windows), how))
        return reading

    found = fill_gaps(transcript, speech, windows, options or TranscribeOptions(), read, lambda *_: None)
    return found, asked


def test_what_lies_between_two_words_is_decoded_by_itself():
    found, asked = fill([LOST], options=TranscribeOptions(decode=DecodeOptions(prefix="Well")))
    assert found.segments == (FIRST, LOST, LAST)
    ((windows, how),) = asked
    assert windows == [Span(8.0, 25.0)]
    assert how.language == "en"
    assert how.decode.prefix is None
    (note,) = found.redone
    assert (note.start, note.end, note.settings, note.kept) == (8.0, 25.0, "by itself", True)
    assert note.before == pytest.approx(16.0)  # a second of the seventeen is silent
    assert note.after == pytest.approx(2.2)  # the speech before the reading


@pytest.mark.parametrize(
    "reading",
    [
        [],
        [replace(LOST, avg_logprob=-0.9)],
        [replace(LOST, words=tuple(replace(w, uncertain=n % 2 == 0) for n, w in enumerate(LOST.words)))],
        [said("It was the worst of times, it was the age", 12.0)],
        [said("we had everything before us", 12.0)],
    ],
    ids=["nothing", "unlikely", "uncertain places", "written before", "written after"],
)
def test_a_reading_not_to_be_believed_is_left_out(reading):
    found, _ = fill(reading)
    assert found.segments == TRANSCRIPT.segments
    (note,) = found.redone
    assert not note.kept
    assert note.before == note.after == pytest.approx(16.0)


def test_windows_that_say_nothing_are_not_asked_again():
    windows = (Span(0.0, 8.2), Span(8.2, 16.0), Span(16.0, 25.0), Span(25.0, 30.0))
    found, asked = fill([LOST], windows=windows)
    assert found == TRANSCRIPT
    assert not asked
    _, asked = fill([LOST], windows=(Span(0.0, 16.0), Span(16.0, 30.0)))
    assert asked


def test_pauses_are_no_gaps():
    transcript = replace(TRANSCRIPT, segments=(FIRST, LOST, LAST))
    speech = (Span(0.0, 8.5), Span(11.0, 30.0))
    found, asked = fill([LOST], transcript, speech=speech)
    assert found == transcript
    assert not asked


def test_gaps_lie_at_both_ends_too_and_are_windows_of_half_a_minute():
    word = Word("so", 70.0, 71.0, 0.9)
    found = gaps([word], [Span(0.0, 70.5), Span(80.0, 83.0), Span(99.0, 100.0)], 100.0)
    assert [g for g in found if g.end > 71.0] == [Span(80.0, 100.0)]
    assert found[0].start == 0.0
    assert all(g.duration <= 30.0 + 1e-6 for g in found)
    assert sum(g.duration for g in found) == pytest.approx(90.0)


def test_words_that_overlap_hide_no_speech():
    long, short = Word("well", 0.0, 9.0, 0.9), Word("no", 1.0, 1.5, 0.9)
    assert gaps([long, short], [Span(0.0, 10.0)], 10.0) == []
    assert gaps([], [Span(0.0, 1.9)], 10.0) == []
    assert gaps([], [Span(0.0, 2.1)], 10.0) == [Span(0.0, 2.1)]

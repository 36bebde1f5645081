"""Windows with findings are decoded again, and only a better reading takes the place of the first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_speech import DecodeOptions, OptionError, Segment, Span, TranscribeOptions, Transcript, Word
from mlx_speech.pipeline.redo import attempts, redo

WINDOWS = (Span(0.0, 10.0), Span(10.0, 20.0), Span(20.0, 30.0))


def said(text, start, step=0.5):
    words = tuple(Word(w, start + n * step, start + (n + 1) * step, 0.9) for n, w in enumerate(text.split()))
    return Segment(words[0].start, words[-1].end, text, words, "en")


GOOD, ALSO = said("one two three four five six seven eight nine ten", 0.0, 1.0), said("a b c d", 20.0, 2.5)
LOOP = said("so " * 20, 10.0)
BETTER = said("so he went away and never came back to us again today or so I was told by them", 10.0)
SHORT_LOOP = replace(
    said("and so and so and so and so he went out and came home again at once you see I", 10.0)
)
TRANSCRIPT = Transcript((GOOD, LOOP, ALSO), "en", 30.0, (Span(0.0, 30.0),))


class Reader:
    """Reads windows as it was told to, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, windows, options):
        self.asked.append((list(windows), options))
        return self.answers.pop(0)


def quiet(*_):
    pass


def test_a_reading_without_findings_takes_the_place():
    reader = Reader([BETTER])
    seen = []
    found = redo(TRANSCRIPT, WINDOWS, TranscribeOptions(redo=True), reader, lambda *a: seen.append(a))
    assert found.segments == (GOOD, BETTER, ALSO)
    assert [windows for windows, _ in reader.asked] == [[WINDOWS[1]]]
    (note,) = found.redone
    assert (note.start, note.end, note.before, note.after, note.kept) == (10.0, 20.0, 10.0, 0.0, True)
    assert seen == [("redo", 0.0, 10.0), ("redo", 10.0, 10.0)]


def test_the_least_bad_of_all_readings_stays():
    reader = Reader([SHORT_LOOP], [LOOP], [])
    found = redo(TRANSCRIPT, WINDOWS, TranscribeOptions(redo=True), reader, quiet)
    assert found.segments == (GOOD, SHORT_LOOP, ALSO)
    assert [(r.before, r.after, r.kept) for r in found.redone] == [
        (10.0, 4.0, True),
        (10.0, 10.0, False),
        (10.0, 9.0, False),
    ]


def test_of_two_better_readings_the_later_is_kept():
    found = redo(TRANSCRIPT, WINDOWS, TranscribeOptions(), Reader([SHORT_LOOP], [BETTER]), quiet)
    assert found.segments == (GOOD, BETTER, ALSO)
    assert [r.kept for r in found.redone] == [False, True]


def test_what_is_no_better_changes_nothing():
    found = redo(TRANSCRIPT, WINDOWS, TranscribeOptions(), Reader([LOOP], [], [LOOP]), quiet)
    assert found.segments == TRANSCRIPT.segments
    assert not any(r.kept for r in found.redone)


def test_a_good_transcript_is_left_alone():
    good = replace(TRANSCRIPT, segments=(GOOD, BETTER, ALSO))
    assert redo(good, WINDOWS, TranscribeOptions(), Reader(), quiet) == good


def test_what_is_tried():
    options = TranscribeOptions(decode=DecodeOptions(prompt="Grüß Gott", beam_size=8), sequential=True)
    tried = attempts(Span(4.0, 12.0), options)
    assert [len(pieces) for _, pieces, _ in tried] == [1, 2, 1]
    assert tried[1][1] == [Span(4.0, 8.0), Span(8.0, 12.0)]
    for _, _, how in tried:
        assert how.decode.prompt is None
        assert not how.sequential
    assert tried[0][2].decode.beam_size == 8
    assert tried[0][2].decode.temperatures == (0.0,)
    assert min(tried[2][2].decode.temperatures) > 0
    assert len(attempts(Span(0.0, 3.0), options)) == 2


@pytest.mark.parametrize(("multilingual", "language"), [(False, "en"), (True, None)])
def test_a_window_is_read_again_in_the_recordings_language(multilingual, language):
    reader = Reader([BETTER])
    redo(TRANSCRIPT, WINDOWS, TranscribeOptions(redo=True, multilingual=multilingual), reader, quiet)
    assert [options.language for _, options in reader.asked] == [language]


@pytest.mark.parametrize("size", [0.5, 31.0])
def test_windows_are_as_long_as_whisper_hears(size):
    with pytest.raises(OptionError, match="chunk_size"):
        TranscribeOptions(chunk_size=size)

"""What a transcript's reader should know is found, and nothing else."""

from __future__ import annotations

import pytest

from mlx_speech import OptionError, Segment, Span, Transcript, Word
from mlx_speech.stages.audit import AuditOptions, audit


def transcript(words, speech, uncertain=()):
    words = tuple(Word(t, a, b, 0.9, uncertain=t in uncertain) for t, a, b in words)
    segments = (
        (Segment(words[0].start, words[-1].end, " ".join(w.text for w in words), words),) if words else ()
    )
    return Transcript(segments, "en", 60.0, tuple(Span(*s) for s in speech))


def kinds(found):
    return [(f.kind, f.start, f.end) for f in found]


def test_a_good_transcript_has_no_findings():
    words = [("one", 1.0, 1.4), ("two", 1.5, 2.0), ("three", 3.0, 3.6)]
    assert audit(transcript(words, [(0.8, 4.0)])) == []
    assert audit(transcript([], [])) == []


def test_speech_without_words_is_told_where_it_is():
    words = [("one", 1.0, 2.0), ("two", 10.0, 11.0)]
    found = audit(transcript(words, [(1.0, 11.0), (20.0, 25.0), (30.0, 31.0)]))
    assert kinds(found) == [("speech-without-words", 2.5, 9.5), ("speech-without-words", 20.0, 25.0)]
    assert "7.0 s" in found[0].message


def test_words_away_from_speech_are_told_as_one():
    words = [("hm", 1.0, 1.5), ("thank", 10.0, 10.5), ("you", 10.6, 11.0), ("so", 20.2, 20.5)]
    found = audit(transcript(words, [(1.0, 2.0), (20.0, 21.0)]))
    assert kinds(found) == [("words-without-speech", 10.0, 11.0)]
    assert "'thank you'" in found[0].message


def test_a_phrase_that_loops_is_told_once():
    said = [
        "and",
        "so",
        "it",
        "is",
        "and",
        "so",
        "it",
        "is",
        "and",
        "so",
        "it",
        "is",
        "and",
        "so",
        "it",
        "is",
        "then",
    ]
    words = [(w, n * 0.5, n * 0.5 + 0.4) for n, w in enumerate(said)]
    found = audit(transcript(words, [(0.0, 10.0)]))
    assert kinds(found) == [("loop", 0.0, words[15][2])]
    assert "'and so it is' stands 4 times" in found[0].message
    assert audit(transcript(words[:12], [(0.0, 6.0)])) == []


def test_uncertain_words_in_a_row_are_told():
    words = [(w, n * 0.5, n * 0.5 + 0.4) for n, w in enumerate("abcdefg")]
    found = audit(transcript(words, [(0.0, 4.0)], uncertain="bcdeg"))
    assert kinds(found) == [("uncertain-alignment", 0.5, 2.4)]


def test_options_out_of_range_are_named():
    with pytest.raises(OptionError, match="repeats is 1"):
        AuditOptions(repeats=1)

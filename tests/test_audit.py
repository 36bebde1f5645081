"""What a transcript's reader should know is found, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_speech import OptionError, Segment, Span, Transcript, Word
from mlx_speech.stages.audit import AuditOptions, audit
from mlx_speech.stages.loops import find_loops


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


@pytest.mark.parametrize(("until", "told"), [(3.99, 0), (4.0, 1)])
def test_two_seconds_of_speech_without_words_are_told(until, told):
    assert len(audit(transcript([("one", 1.0, 1.5)], [(1.0, until)]))) == told


@pytest.mark.parametrize(("start", "told"), [(9.01, False), (9.0, True), (11.49, False), (11.5, True)])
def test_a_word_belongs_to_speech_half_a_second_away(start, told):
    """On both sides: a word of half a second, speech from 10 to 11 s."""
    found = audit(transcript([("hm", start, start + 0.5)], [(10.0, 11.0)]))
    assert bool(found) is told


def test_a_phrase_that_loops_is_told_once():
    said = [*["and", "so", "it", "is"] * 4, "then"]
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


@pytest.mark.parametrize(
    ("text", "least", "longest", "wanted"),
    [
        ("a b c d", 2, 4, []),
        ("x a a a y", 3, 8, [("a", 3)]),
        ("x a a a y", 4, 8, []),
        ("a b a b a b a b", 2, 8, [("a b", 4)]),  # not "a b a b" twice: it covers no more
        ("a a a a b a a a a b", 2, 8, [("a a a a b", 2)]),  # what covers most
        ("a a a a b a a a a b", 3, 8, [("a", 4), ("a", 4)]),  # where it stands too seldom, what is in it
        ("a b c a b c", 2, 2, []),
    ],
)
def test_of_repeating_phrases_the_one_that_covers_most_is_found(text, least, longest, wanted):
    words = text.split()
    found = list(find_loops(words, least, longest))
    assert [(" ".join(words[x.start : x.start + x.size]), x.times) for x in found] == wanted


def test_loops_are_those_of_a_search_of_all_phrases():
    rng = np.random.default_rng(0)
    for _ in range(200):
        items, least = rng.integers(0, 2, 24).tolist(), int(rng.integers(2, 5))
        covered = set()
        for loop in find_loops(items, least, 6):
            end = loop.start + loop.size * loop.times
            assert loop.times >= least
            assert items[loop.start : end] == items[loop.start :][: loop.size] * loop.times
            assert items[end : end + loop.size] != items[loop.start : loop.start + loop.size]
            assert not covered & set(range(loop.start, end))
            covered |= set(range(loop.start, end))
        every = [
            range(at, at + size * least)
            for size in range(1, 7)
            for at in range(len(items) - size * least + 1)
            if items[at : at + size] * least == items[at : at + size * least]
        ]
        assert all(covered & set(place) for place in every)  # none is missed altogether

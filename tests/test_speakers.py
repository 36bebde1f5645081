"""Words are given to speakers: the best path over what the diarization heard."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_speech import Diarization, OptionError, Segment, Turn, Word
from mlx_speech.stages.speakers import (
    SpeakerOptions,
    assign_speakers,
    best_path,
    confidence,
    switch_costs,
    weights,
    word_means,
)

STEP = 0.1


def heard(duration, *turns, exclusive=None):
    """A diarization in which everybody is heard exactly while they talk."""
    turns = tuple(sorted((Turn(*t) for t in turns), key=lambda t: t.start))
    names = tuple(sorted({t.speaker for t in turns}))
    times = np.arange(round(duration / STEP)) * STEP
    talk = [[any(t.speaker == n and t.start <= at < t.end for t in turns) for n in names] for at in times]
    return Diarization(
        turns,
        turns if exclusive is None else tuple(Turn(*t) for t in exclusive),
        names,
        np.zeros((len(names), 256), np.float32),
        np.array(talk, np.float32).reshape(len(times), len(names)),
        STEP,
        0.0,
        duration,
    )


def segment(*words):
    words = tuple(Word(text, start, end, 0.9) for text, start, end in words)
    return Segment(words[0].start, words[-1].end, " ".join(w.text for w in words), words, tokens=(1, 2))


def test_a_segment_is_cut_where_the_speaker_changes():
    talk = heard(4.0, (0.0, 2.0, "A"), (2.0, 4.0, "B"))
    given = segment(("Are", 0.2, 0.8), ("you?", 1.0, 1.8), ("I", 2.2, 2.6), ("am.", 2.8, 3.8))
    first, second = assign_speakers([given], talk)
    assert (first.text, first.speaker, first.start, first.end) == ("Are you?", "A", 0.2, 1.8)
    assert (second.text, second.speaker, second.start, second.end) == ("I am.", "B", 2.2, 3.8)
    assert [w.speaker for w in (*first.words, *second.words)] == ["A", "A", "B", "B"]
    assert all(w.speaker_confidence > 0.9 for w in first.words)
    assert first.tokens == ()


def test_a_segment_of_one_speaker_stays_whole():
    (found,) = assign_speakers([segment(("one", 0.0, 0.5), ("two", 0.6, 1.0))], heard(2.0, (0.0, 2.0, "A")))
    assert found.tokens == (1, 2)
    assert found.speaker == "A"


def test_a_flicker_within_a_phrase_changes_nobody():
    """Half a word of somebody else in the middle of a phrase is a wrong frame, not a turn."""
    talk = heard(3.0, (0.0, 1.35, "A"), (1.35, 1.5, "B"), (1.5, 3.0, "A"))
    words = [("all", 0.0, 0.6), ("of", 0.7, 1.1), ("it", 1.2, 1.5), ("is", 1.6, 2.0), ("mine", 2.1, 3.0)]
    (found,) = assign_speakers([segment(*words)], talk)
    assert {w.speaker for w in found.words} == {"A"}
    doubts = [w.speaker_confidence for w in found.words]
    assert min(doubts) == doubts[2]


def test_a_word_across_the_boundary_goes_to_the_side_where_the_sentence_ends():
    talk = heard(4.0, (0.0, 2.0, "A"), (2.0, 4.0, "B"))
    for middle, want in (("so.", "A"), ("so", "B")):
        before = "end." if middle == "so" else "end"
        words = [("the", 0.5, 1.0), (before, 1.2, 1.6), (middle, 1.8, 2.2), ("yes", 2.3, 2.8)]
        spoken = [w for s in assign_speakers([segment(*words)], talk) for w in s.words]
        assert spoken[2].speaker == want


def test_who_talks_meanwhile_is_told():
    talk = heard(3.0, (0.0, 3.0, "A"), (1.0, 2.0, "B"), exclusive=[(0.0, 3.0, "A")])
    spoken = assign_speakers([segment(("a", 0.1, 0.9), ("b", 1.0, 2.0), ("c", 2.1, 2.9))], talk)[0].words
    assert [w.overlap_speakers for w in spoken] == [(), ("B",), ()]
    assert [w.speaker for w in spoken] == ["A", "A", "A"]


def test_words_where_nobody_was_heard_follow_their_neighbours():
    talk = heard(9.0, (0.0, 2.0, "A"), (7.0, 9.0, "B"))
    spoken = [
        w
        for s in assign_speakers([segment(("a", 0.5, 2.0), ("b", 2.1, 2.6), ("c", 7.5, 8.5))], talk)
        for w in s.words
    ]
    assert [w.speaker for w in spoken] == ["A", "A", "B"]


def test_words_outside_of_the_recording_have_a_speaker_too():
    talk = heard(1.0, (0.0, 1.0, "A"))
    spoken = assign_speakers([segment(("a", 0.2, 0.2), ("b", 0.95, 1.4), ("c", 3.0, 3.5))], talk)[0].words
    assert [w.speaker for w in spoken] == ["A", "A", "A"]


def test_segments_without_words_get_a_speaker():
    talk = heard(4.0, (0.0, 2.0, "A"), (2.0, 4.0, "B"))
    found = assign_speakers([Segment(0.0, 2.0, "Hi."), Segment(2.0, 4.0, "Ho.")], talk)
    assert [s.speaker for s in found] == ["A", "B"]
    assert [s.words for s in found] == [(), ()]


def test_without_speakers_or_words_nothing_changes():
    given = [segment(("a", 0.0, 1.0))]
    assert assign_speakers(given, heard(2.0)) == given
    assert assign_speakers([], heard(2.0, (0.0, 1.0, "A"))) == []


@given(st.data())
def test_the_path_is_the_best_of_all_and_confidence_counts_them(data):
    words, speakers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    number = st.floats(-5, 0)
    scores = np.array(data.draw(st.lists(number, min_size=words * speakers, max_size=words * speakers)))
    scores = scores.reshape(words, speakers)
    costs = np.array(data.draw(st.lists(st.floats(0, 4), min_size=words, max_size=words)))

    def weight(path):
        changes = sum(costs[n] for n in range(1, words) if path[n] != path[n - 1])
        return sum(scores[n, k] for n, k in enumerate(path)) - changes

    every = list(itertools.product(range(speakers), repeat=words))
    assert weight(best_path(scores, costs)) == pytest.approx(max(map(weight, every)))
    total = sum(math.exp(weight(p)) for p in every)
    sure = confidence(scores, costs)
    for n, k in itertools.product(range(words), range(speakers)):
        share = sum(math.exp(weight(p)) for p in every if p[n] == k) / total
        assert sure[n, k] == pytest.approx(share, abs=1e-9)


def test_word_means_take_the_frames_whose_middle_is_in_the_word():
    talk = heard(1.0, (0.0, 1.0, "A"))
    values = np.arange(10, dtype=np.float32)[:, None]
    words = [Word("a", 0.05, 0.35, 1.0), Word("b", 0.41, 0.42, 1.0)]
    assert word_means(words, values, talk)[:, 0].tolist() == [2.0, 5.0]


def test_a_change_is_cheap_after_a_pause_and_a_sentence():
    options = SpeakerOptions(switch=3.0, switch_at_pause=1.0, switch_at_sentence=2.0)
    words = [Word(t, a, b, 1.0) for t, a, b in (("so", 0, 1), ("he", 1, 2), ('did."', 3, 4), ("No", 4, 5))]
    assert switch_costs(words, options)[1:].tolist() == [3.0, 1.0, 2.0]


def test_a_pause_begins_with_300_ms():
    words = [Word("so", 0.0, 1.0, 1.0), Word("he", 1.3, 2.0, 1.0), Word("did", 2.25, 3.0, 1.0)]
    assert switch_costs(words, SpeakerOptions())[1:].tolist() == [1.0, 2.0]


def test_a_long_word_counts_as_two_and_a_short_one_as_a_tenth_at_least():
    words = [Word("a", 0.0, length, 1.0) for length in (0.0, 0.02, 0.2, 0.4, 0.6, 0.8, 3.0)]
    counts = [0.1, 0.1, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert weights(words, SpeakerOptions()).tolist() == pytest.approx(counts)
    assert weights(words, SpeakerOptions(length=0)).tolist() == [1.0] * 7


def test_who_talks_for_less_than_half_of_a_word_is_not_told():
    talk = heard(3.0, (0.0, 3.0, "A"), (1.0, 1.4, "B"), (2.0, 2.5, "B"), exclusive=[(0.0, 3.0, "A")])
    spoken = assign_speakers([segment(("b", 1.0, 2.0), ("c", 2.0, 3.0))], talk)[0].words
    assert [w.overlap_speakers for w in spoken] == [(), ("B",)]


def test_of_equal_paths_who_talks_goes_on():
    scores = np.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
    assert best_path(scores, np.array([0.0, 1.0, 1.0])).tolist() == [0, 0, 0]


def test_options_out_of_range_are_named():
    with pytest.raises(OptionError, match="exclusive is 2"):
        SpeakerOptions(exclusive=2)
    with pytest.raises(OptionError, match="switch is -1"):
        SpeakerOptions(switch=-1)


def test_whole_numbers_are_costs_like_others():
    words = [Word("a.", 0.0, 1.0, 1.0), Word("b", 1.0, 2.0, 1.0)]
    assert switch_costs(words, SpeakerOptions(switch=2, switch_at_sentence=0.5))[1] == 0.5

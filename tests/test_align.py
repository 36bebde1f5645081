"""Known words placed in a recording: exact on a made-up model whose audio spells what it says, sane on the
bundled one, and whole whatever the text.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_speech import runtime
from mlx_speech.audio import load_audio
from mlx_speech.errors import ModelNotFoundError, OptionError
from mlx_speech.pipeline import Aligner
from mlx_speech.readers import read_transcript
from mlx_speech.registry import CARDS
from mlx_speech.stages import aligners, placing, walk
from mlx_speech.stages.align import _groups, align_segments, align_text
from mlx_speech.stages.emissions import Alphabet, Emissions, Listener
from mlx_speech.stages.placing import AlignOptions
from mlx_speech.types import Segment, Transcript, Word

LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
CLIP = Path(mlx_speech.__file__).parent / "assets/demo/sense_and_sensibility.flac"
CLIP_TEXT = (
    "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to "
    "do for them. He was not an ill-disposed young man, unless to be rather cold-hearted and rather selfish "
    "is to be ill-disposed. Had he married a more amiable woman, he might have been made still more "
    "respectable than he was; he might even have been made amiable himself."
)
OTHER_TEXT = (
    "the family of dashwood had long been settled in sussex their estate was large and their residence was "
    "at norland park in the centre of their property where for many generations they had lived in so "
    "respectable a manner as to engage the general good opinion of their surrounding acquaintance"
)
EDGE = 0.0025  # seconds: a frame's border, from the middle of the 400 samples that it hears


class Spelling:
    """A model that hears each frame's token in the sample at the frame's middle."""

    def __init__(self, vocabulary=LETTERS):
        self.config = SimpleNamespace(
            vocabulary=vocabulary,
            blank=0,
            word_delimiter="|",
            frame_stride=320,
            first_middle=200,
            output_length=lambda n: max(0, (n - 400) // 320 + 1),
            input_length=lambda n: (n - 1) * 320 + 400,
        )
        self.shapes = []

    def normalize(self, audio):
        return audio

    def __call__(self, audio):
        self.shapes.append(tuple(audio.shape))
        frames = self.config.output_length(audio.shape[1])
        heard = mx.round(audio[:, 200 : 200 + 320 * (frames - 1) + 1 : 320] * 1000).astype(mx.int32)
        return 8.0 * (heard[..., None] == mx.arange(len(self.config.vocabulary))).astype(mx.float32)


def spell(frames: int, *said: tuple[int, str], hold: int = 2) -> np.ndarray:
    """Audio of so many frames that says each text from a frame on, ``hold`` frames a letter."""
    tokens = np.zeros(frames, int)
    for at, text in said:
        for letter in text.upper().replace(" ", "|"):
            tokens[at : at + hold] = LETTERS.index(letter)
            at += hold
            if hold > 1:
                tokens[at] = 0  # a blank, for letters that are doubled
                at += 1
    audio = np.zeros(frames * 320 + 80, np.float32)
    audio[200 : 200 + 320 * frames : 320] = tokens / 1000
    return audio


@pytest.fixture
def listener() -> Listener:
    return Listener(Spelling())


@pytest.fixture(scope="module")
def bundled() -> Aligner:
    return Aligner.load("whisper-ctc-tiny.en")


def check(segments: list[Segment], texts: list[str], duration: float) -> None:
    """Every word once, in order, with a time within the recording."""
    assert ["".join(s.text.split()) for s in segments] == ["".join(t.split()) for t in texts]
    for segment in segments:
        words = segment.words
        assert "".join(w.text for w in words) == "".join(segment.text.split())
        assert 0 <= segment.start <= segment.end <= duration
        edges = [t for w in words for t in (w.start, w.end)]
        assert edges == sorted(edges)
        assert all(np.isfinite(edges))
        if words:
            assert segment.start <= edges[0]
            assert edges[-1] <= segment.end
        assert all(0 <= w.probability <= 1 for w in words)
        for word in words:
            if word.characters:
                assert "".join(c.text for c in word.characters) == word.text
                times = [t for c in word.characters for t in (c.start, c.end)]
                assert times == sorted(times)
                assert word.start <= times[0]
                assert times[-1] <= word.end


# --- exact times --------------------------------------------------------------------------------------------


def test_words_and_characters_get_their_frames(listener):
    audio = spell(100, (10, "hello world"))
    options = AlignOptions(characters=True, meet=0)
    [segment] = align_text(listener, audio, "Hello, WORLD!", "en", options)
    hello, world = segment.words
    assert (hello.text, world.text) == ("Hello,", "WORLD!")
    assert (hello.start, hello.end) == pytest.approx((10 * 0.02 + EDGE, 24 * 0.02 + EDGE))
    assert (world.start, world.end) == pytest.approx((28 * 0.02 + EDGE, 42 * 0.02 + EDGE))
    assert (segment.start, segment.end) == (hello.start, world.end)
    assert hello.probability > 0.9
    assert hello.characters[0].probability > 0.9
    assert not hello.uncertain
    assert [c.text for c in hello.characters] == list("Hello,")
    assert [c.start for c in hello.characters[:5]] == pytest.approx([0.2 + 0.06 * n + EDGE for n in range(5)])
    assert hello.characters[5].start == hello.characters[5].end == hello.end


def test_words_that_are_near_meet_halfway(listener):
    audio = spell(200, (10, "hello world"), (60, "far"))
    apart = align_text(listener, audio, "hello world far", "en", AlignOptions(meet=0))[0].words
    options = AlignOptions(characters=True)
    hello, world, far = align_text(listener, audio, "hello world far", "en", options)[0].words
    assert hello.end == world.start == pytest.approx((apart[0].end + apart[1].start) / 2)
    assert hello.characters[-1].end == hello.end
    assert world.characters[0].start == world.start
    assert (hello.start, world.end, far.start) == (apart[0].start, apart[1].end, apart[2].start)


def test_lag_is_taken_off_and_silence_belongs_to_nobody(listener):
    audio = spell(300, (10, "hi"), (200, "there"))
    plain = align_text(listener, audio, "hi there", "en")[0].words
    assert plain[0].end == pytest.approx(15 * 0.02 + EDGE)
    assert plain[1].start == pytest.approx(200 * 0.02 + EDGE)
    late = align_text(replace(listener, lag=0.04), audio, "hi there", "en")[0].words
    again = align_text(listener, audio, "hi there", "en", AlignOptions(lag=0.04))[0].words
    assert late == again
    assert [w.start for w in late] == pytest.approx([w.start - 0.04 for w in plain])


def test_numbers_are_heard_as_words_and_written_as_numbers(listener):
    audio = spell(200, (10, "it cost forty three thousand dollars then"))
    options = AlignOptions(characters=True, meet=0)
    [segment] = align_text(listener, audio, "It cost $43,000 then.", "en", options)
    assert [w.text for w in segment.words] == ["It", "cost", "$43,000", "then."]
    number = segment.words[2]
    assert number.start == pytest.approx((10 + 3 * 8) * 0.02 + EDGE)
    assert number.probability > 0.9
    assert [c.text for c in number.characters] == ["$43,000"]


def test_unknown_letters_take_time_but_prove_nothing(listener):
    audio = spell(100, (10, "one abc two"))
    one, strange, two = align_text(listener, audio, "one 日本語 two", "en", AlignOptions(meet=0))[0].words
    assert one.end < strange.start < strange.end < two.start
    assert strange.probability == 0
    assert strange.uncertain
    assert strange.end - strange.start == pytest.approx(8 * 0.02)


def test_unknown_letters_in_a_row_need_no_blank_between(listener):
    [word] = align_text(listener, spell(2, (0, "ab"), hold=1), "日本", "en", AlignOptions(characters=True))[
        0
    ].words
    assert [c.text for c in word.characters] == ["日", "本"]
    assert word.characters[0].end <= word.characters[1].start


def test_what_is_heard_has_a_second_of_context_on_each_side(listener):
    frames = 3000
    audio = np.zeros(frames * 320 + 80, np.float32)
    audio[200::320][:frames] = np.arange(frames)  # each window tells where it begins
    heard = []
    listener.model.normalize = lambda x: heard.extend(np.array(x[:, 200]).astype(int).tolist()) or x
    Emissions(listener, audio, [(0, frames)], [0], 4).part(0, frames)
    core = 500 - 2 * 50
    assert sorted(heard) == [0, *range(core - 50, frames - 500, core), frames - 500]


def test_silent_words_stand_beside_their_neighbours(listener):
    audio = spell(200, (20, "one"), (120, "two"))
    first, one, smile, dash, two, last = align_text(listener, audio, "… one 😀 — two 🎉", "en")[0].words
    assert (first.end, smile.start) == (one.start, one.end)
    assert smile.end == dash.start <= two.start
    assert dash.end - smile.start == pytest.approx(0.4)
    assert last.start == two.end
    assert all(w.uncertain and w.probability == 0 for w in (first, smile, dash, last))


@pytest.mark.parametrize(("faint", "end"), [(0.0, 0.2), (1e-4, 0.2), (0.01, 0.6)])
def test_a_word_ends_with_its_sound(faint, end):
    audio = np.full(16000, faint, np.float32)
    audio[1600:4800] = 0.1
    starts, ends = np.array([0.1, 0.3, 0.7]), np.array([0.3, 0.7, 0.9])
    # the word is said until 0.3 s and drawn to 0.7 s; the next one is as faint throughout, or silent
    placing._end_with_sound(audio, starts, ends, np.array([0, 2]), np.array([2, 3]))
    assert ends[0] == 0.3
    assert ends[1] == pytest.approx(0.1 + end)
    assert ends[2] == 0.9


@pytest.mark.parametrize(("blocks", "cut"), [(11, False), (12, True)])
def test_a_pause_of_120_ms_ends_a_word(blocks, cut):
    audio = np.zeros(16000, np.float32)
    audio[:4800] = 0.1
    ends = np.array([0.3 + blocks / 100])
    placing._end_with_sound(audio, np.array([0.0]), ends, np.array([0]), np.array([1]))
    assert ends[0] == pytest.approx(0.3 if cut else 0.3 + blocks / 100)


def test_a_words_probability_takes_in_half_a_second_around_it(listener):
    """25 frames: what is said beyond, and is not in the text, says nothing about the word."""
    alone, near, far = (
        align_text(listener, spell(300, (100, "one"), (at, "seventh")), "one", "en", AlignOptions(meet=0))[0]
        for at in (270, 120, 108 + 26)
    )
    assert far.words[0].probability == pytest.approx(alone.words[0].probability, rel=1e-6)
    assert near.words[0].probability < 0.5 * alone.words[0].probability


@pytest.mark.parametrize(
    ("times", "join", "wanted"),
    [
        ([(1, 2), (2.59, 4)], True, [(0.7, 4.3)]),
        ([(1, 2), (2.61, 4)], True, [(0.7, 2.3), (2.31, 4.3)]),
        ([(1, 2), (1.71, 4)], True, [(0.7, 4.3)]),
        ([(1, 2), (1.69, 4)], True, [(0.7, 2.0), (1.69, 4.3)]),
        ([(1, 31), (31, 61)], True, [(0.7, 61.3)]),
        ([(1, 31), (31, 61.1)], True, [(0.7, 31), (31, 61.4)]),
        ([(1, 2), (2.2, 4)], False, [(0.7, 2.1), (2.1, 4.3)]),  # what is free between two is shared
        ([(0.1, 2), (99, 99.9)], False, [(0, 2.3), (98.7, 100)]),
    ],
)
def test_segments_are_placed_together_that_are_near(times, join, wanted):
    segments = [Segment(a, b, "x", language="en") for a, b in times]
    found = _groups(segments, 100.0, AlignOptions(join=join))
    assert [(g.start, g.end) for g in found] == [pytest.approx(w) for w in wanted]


def test_long_recordings_are_heard_in_equal_windows_without_seams(listener):
    said = [(n, f"word {chr(97 + k)}") for k, n in enumerate(range(20, 5000, 230))]
    audio = spell(5100, *said)
    segments = [Segment(n * 0.02, n * 0.02 + 0.5, text, language="en") for n, text in said]
    found = align_segments({"en": listener}, audio, segments, AlignOptions(batch_size=2))
    assert [s.words[0].start for s in found] == pytest.approx([n * 0.02 + EDGE for n, _ in said])
    assert [s.words[1].end for s in found] == pytest.approx([(n + 17) * 0.02 + EDGE for n, _ in said])
    assert {shape[1] for shape in listener.model.shapes} == {499 * 320 + 400}
    # a CPU's cores take a window each
    assert max(shape[0] for shape in listener.model.shapes) == (1 if runtime.on_cpu() else 2)
    whole = align_text(listener, audio, "\n".join(t for _, t in said), "en")
    assert [(w.start, w.end) for s in whole for w in s.words] == [
        (w.start, w.end) for s in found for w in s.words
    ]


def test_only_what_holds_segments_is_heard(listener):
    audio = spell(30000, (15000, "here"))
    [found] = align_segments({"en": listener}, audio, [Segment(299.5, 301, "here", language="en")])
    assert found.start == pytest.approx(300 + EDGE)
    assert listener.model.shapes == [(1, 499 * 320 + 400)]


def test_a_wrong_border_between_near_segments_does_no_harm(listener):
    audio = spell(200, (20, "one two"), (60, "three four"))
    segments = [Segment(0.3, 0.8, "one two", language="en"), Segment(0.8, 2.5, "three four", language="en")]
    joined = align_segments({"en": listener}, audio, segments)
    assert joined[0].words[1].end == pytest.approx(41 * 0.02 - 0.02 + EDGE)
    apart = align_segments({"en": listener}, audio, segments, AlignOptions(join=False, slack=0))
    assert apart[0].words[1].end <= 0.8


def test_order_of_segments_and_what_they_know_is_kept(listener):
    audio = spell(300, (20, "one"), (150, "two"))
    late = Segment(2.8, 3.5, "two", language="en", avg_logprob=-0.5, tokens=(5,))
    early = Segment(0.2, 0.8, "one", language="en")
    found = align_segments({"en": listener}, audio, [late, early])
    assert [s.text for s in found] == ["two", "one"]
    assert (found[0].avg_logprob, found[0].tokens) == (-0.5, (5,))


def test_sentences_become_segments(listener):
    audio = spell(200, (20, "one two three four"))
    segment = Segment(0, 3, "One two. Three, four!", language="en", tokens=(1, 2))
    options = AlignOptions(sentences=True, meet=0)
    found = align_segments({"en": listener}, audio, [segment], options)
    assert [s.text for s in found] == ["One two.", "Three, four!"]
    assert found[0].end < found[1].start
    assert all((s.start, s.end) == (s.words[0].start, s.words[-1].end) for s in found)


def test_words_that_are_known_already_are_kept(listener):
    vocabulary = ("<pad>", *"今日は")
    audio = np.zeros(50 * 320 + 80, np.float32)
    audio[200::320][10:13] = np.array([1, 2, 3]) / 1000
    words = (Word("今日", 0, 0.1, 0.5), Word("は。", 0.1, 0.2, 0.5))
    segment = Segment(0, 1, "今日は。", words, "ja")
    [found] = align_segments({"ja": Listener(Spelling(vocabulary))}, audio, [segment])
    assert [w.text for w in found.words] == ["今日", "は。"]
    assert found.words[1].start == pytest.approx(12 * 0.02 + EDGE)


def test_a_language_without_a_model_keeps_its_words(listener):
    audio = spell(100, (10, "one"))
    timed = Segment(1, 2, "hallo", (Word("hallo", 1.1, 1.9, 0.7),), "de")
    bare = Segment(1, 2, "hallo du", language="de")
    found = align_segments({"en": listener}, audio, [Segment(0, 1, "one", language="en"), timed, bare])
    assert found[1] == timed
    assert [(w.start, w.end, w.uncertain) for w in found[2].words] == [
        (1.0, pytest.approx(1 + 5 / 7), True),
        (pytest.approx(1 + 5 / 7), 2.0, True),
    ]


def test_alphabet_takes_letters_apart():
    alphabet = Alphabet(LETTERS, 0)
    e = LETTERS.index("E")
    assert alphabet.of("é") == alphabet.of("e") == (e,)
    assert alphabet.of("ß") == (LETTERS.index("S"),) * 2
    assert alphabet.of("œ") == (LETTERS.index("O"), e)
    assert alphabet.of("語") == alphabet.of("7") == (-1,)
    assert alphabet.of("!") == alphabet.of("|") == alphabet.of(" ") == ()
    cyrillic = Alphabet(("<pad>", "|", "е", "и", "й"), 0)
    assert [cyrillic.of(c) for c in "ёй"] == [(2,), (4,)]
    assert 1 not in cyrillic.letters


# --- what cannot be placed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 720, 2000])
def test_too_little_audio_still_gives_every_word(listener, samples):
    audio = np.zeros(samples, np.float32)
    text = "far too many words for this"
    for found in (
        align_text(listener, audio, text, "en"),
        align_segments({"en": listener}, audio, [Segment(0, 9, text, language="en")]),
    ):
        check(found, [text], samples / 16000)
        assert all(w.uncertain and w.probability < 0.1 for w in found[0].words)


def test_one_segment_that_does_not_fit_leaves_the_others_alone(listener):
    audio = spell(60, (5, "one"), (40, "two"))
    segments = [
        Segment(0, 0.4, "one", language="en"),
        Segment(0.4, 0.7, "an impossibly long phrase for so short a moment of time", language="en"),
        Segment(0.7, 1.2, "two", language="en"),
    ]
    found = align_segments({"en": listener}, audio, segments)
    check(found, [s.text for s in segments], len(audio) / 16000)
    assert [s.words[0].uncertain for s in found] == [False, True, False]
    assert found[2].words[0].start == pytest.approx(40 * 0.02 + EDGE)


def test_a_segment_that_does_not_fit_keeps_the_times_it_came_with(listener):
    audio = spell(60, (5, "one"), (40, "two"))
    text = "an impossibly long phrase for so short a moment of time"
    words = tuple(Word(t, 0.4 + n / 50, 0.41 + n / 50, 0.7) for n, t in enumerate(text.split()))
    segments = [
        Segment(0, 0.4, "one", language="en"),
        Segment(0.4, 0.7, text, words, "en"),
        Segment(0.7, 1.2, "two", language="en"),
    ]
    found = align_segments({"en": listener}, audio, segments)
    assert found[1].words == tuple(replace(w, uncertain=True) for w in words)
    assert not found[0].words[0].uncertain
    assert not found[2].words[0].uncertain


@pytest.mark.parametrize("lose", [False, True])
def test_a_long_text_is_placed_within_a_beam_and_without_where_that_loses_the_way(
    listener, monkeypatch, lose
):
    said = [(n, f"word {chr(97 + k)}") for k, n in enumerate(range(20, 2000, 200))]
    audio = spell(2100, *said)
    text = "\n".join(t for _, t in said)
    exact = align_text(listener, audio, text, "en")
    monkeypatch.setattr(placing, "_EXACT", 0)
    monkeypatch.setattr(walk, "CELLS", 0)
    search, widths = placing.ctc.viterbi, []

    def watch(*given, beam=None, **options):
        widths.append(beam)
        if lose and beam:
            return None
        return search(*given, **options, **({"beam": beam} if beam else {}))

    monkeypatch.setattr(placing.ctc, "viterbi", watch)
    assert align_text(listener, audio, text, "en") == exact
    assert widths == ([placing._BEAM, None] if lose else [placing._BEAM])


@pytest.mark.parametrize("times", [(-3, -1), (50, 60), (1, 1), (0, 1e9), (3, 1)])
def test_senseless_times_are_brought_inside(listener, times):
    audio = spell(100, (10, "one"))
    found = align_segments({"en": listener}, audio, [Segment(*times, "one", language="en")])
    check(found, ["one"], len(audio) / 16000)


def test_no_text_no_words(listener):
    audio = spell(100, (10, "one"))
    assert align_text(listener, audio, " \n ", "en") == []
    assert align_segments({"en": listener}, audio, []) == []
    empty = Segment(0.5, 1, "", language="en")
    assert align_segments({"en": listener}, audio, [empty]) == [empty]


NASTY = [
    ("en", "It was 3.14, not $43,000 or 50%: COVID-19 in the 1990s, on 5/1/2024 at 10:30 p.m."),
    ("en", "Dr. O'Neil's 2nd test — e.g. #1 & AT&T — cost £3.50…"),
    ("en", "😀"),
    ("en", "👨‍👩‍👧 🎉 — … !!! ♪"),
    ("en", "n'est-ce pas 日本語 naïve Ünïcödé Привет ไทย ١٢٣"),
    ("en", "antidisestablishmentarianism" * 5),
    ("en", "word " * 300),
    ("en", "a"),
    ("en", "\u200b \ufeff \u00ad"),
    ("en", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁne ½ ² Ⅳ"),
    ("fr", "n'est-ce pas ? 10 000 € « oui »"),
    ("de", "Am 3. Mai 2024 um 10:30 Uhr, z.B. 3,5 Mio. €"),
    ("ja", "日本語のテスト、2024年3.14です。「はい」iPhone 15！"),
    ("zh", "我在2024年买了43,000个苹果，50%是红的。"),
    ("th", "ฉันมีแมว 3 ตัว"),
    ("hi", "मेरे पास 43 किताबें हैं"),
    ("ar", "لدي ٤٣ كتابا"),
    (None, "no language"),
    ("en", "quite another text than that of the recording, which nobody has ever read aloud there"),
]


@pytest.mark.parametrize(
    ("rule", "language", "text"),
    [*(("viterbi", *case) for case in NASTY), *(("blank-stay", *case) for case in NASTY[::5])],
)
def test_nasty_texts_come_back_whole(bundled, language, text, rule):
    audio = load_audio(CLIP)[: 16000 * 6]
    listener = bundled.listener(None)
    options = AlignOptions(characters=True, method=rule)
    segment = Segment(1.0, 5.0, text, language=language)
    check(align_segments({language: listener}, audio, [segment], options), [text], 6)
    found = align_text(listener, audio, text, language, options)
    check(found, [s.text for s in found], 6)
    assert "".join(w.text for s in found for w in s.words) == "".join(text.split())
    edges = [t for s in found for w in s.words for t in (w.start, w.end)]
    assert edges == sorted(edges)


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.tuples(st.text(max_size=15), st.sampled_from(["en", "ja", "fr", None])), max_size=5),
    times=st.lists(st.tuples(st.floats(-1, 9), st.floats(-1, 9)), min_size=5, max_size=5),
    slack=st.sampled_from([0.0, 0.3, 2.0]),
    join=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_text_at_any_time_comes_back_whole(texts, times, slack, join, seed):
    rng = np.random.default_rng(seed)
    audio = (rng.integers(0, len(LETTERS), 16000 * 4) / 1000).astype(np.float32)
    listener = Listener(Spelling())
    segments = [Segment(*t, text, language=code) for (text, code), t in zip(texts, times, strict=False)]
    options = AlignOptions(slack=slack, join=join, characters=True)
    found = align_segments(dict.fromkeys(("en", "ja", None), listener), audio, segments, options)
    check(found, [s.text for s in segments], 4)


# --- the bundled model --------------------------------------------------------------------------------------


def test_bundled_model_places_a_reading(bundled):
    audio = load_audio(CLIP)
    duration = len(audio) / 16000
    by_text = bundled.align(audio, CLIP_TEXT)
    check(list(by_text.segments), [x.text for x in by_text.segments], duration)
    assert len(by_text.segments) == 3
    assert " ".join(s.text for s in by_text.segments) == CLIP_TEXT
    words = by_text.words
    assert np.mean([w.uncertain for w in words]) < 0.15
    assert np.median([w.probability for w in words]) > 0.6
    wrong = bundled.align(audio, OTHER_TEXT)
    assert np.mean([w.uncertain for w in wrong.words]) > 0.6
    # the same from rough segments
    half = len(words) // 2
    rough = [
        Segment(max(p[0].start - 0.2, 0), p[-1].end + 0.2, " ".join(w.text for w in p))
        for p in (words[:half], words[half:])
    ]
    again = bundled.align(audio, rough)
    assert np.median(np.abs([a.start - b.start for a, b in zip(words, again.words, strict=True)])) < 0.02


@pytest.mark.parametrize(("first", "last"), [(20, 0), (0, 20), (20, 20)])
def test_speech_that_the_text_leaves_out_at_its_ends_moves_nothing(bundled, first, last):
    audio, words = load_audio(CLIP), CLIP_TEXT.split()
    whole = bundled.align(audio, CLIP_TEXT).words
    part = bundled.align(audio, " ".join(words[first : len(words) - last])).words
    assert [w.text for w in part] == words[first : len(words) - last]
    kept = whole[first : len(words) - last]
    assert max(abs(a.start - b.start) for a, b in zip(part, kept, strict=True)) < 0.1


def test_text_that_nobody_says_is_marked_with_what_it_displaces(bundled):
    audio, extra = load_audio(CLIP), OTHER_TEXT.split()[:10]
    whole = bundled.align(audio, CLIP_TEXT).words
    found = bundled.align(audio, " ".join([*extra, CLIP_TEXT, *extra])).words
    assert all(w.uncertain for w in (*found[:10], *found[-10:]))
    moved = [b for a, b in zip(whole, found[10:-10], strict=True) if abs(a.start - b.start) > 0.1]
    assert len(moved) < 10
    assert all(w.uncertain for w in moved)


def test_transcripts_keep_what_they_know(bundled):
    audio = load_audio(CLIP)[: 16000 * 4]
    given = Transcript((Segment(0.2, 3.5, "And Mr. John Dashwood"),), "en", 4.0)
    found = bundled.align(audio, given)
    assert (found.language, found.duration) == ("en", 4.0)
    assert len(found.words) == 4


# --- which aligner ------------------------------------------------------------------------------------------


def test_auto_takes_the_best_that_is_here(monkeypatch):
    assert aligners.default_aligner("xx") is None
    monkeypatch.setattr(aligners, "is_here", lambda card: card.alias == "whisper-ctc-tiny.en")
    assert aligners.default_aligner("en").alias == "whisper-ctc-tiny.en"
    assert aligners.default_aligner("de") is None
    monkeypatch.setattr(aligners, "is_here", lambda card: True)
    assert aligners.default_aligner("en").alias == "wav2vec2-base-960h"


def test_the_table_is_free_and_known():
    for language, choices in aligners.ALIGNERS.items():
        for choice in choices:
            card = CARDS[choice]
            assert card.languages == language
            assert card.family in ("wav2vec2", "whisper-ctc")
            assert "NC" not in card.licence
    named = {name for choices in aligners.ALIGNERS.values() for name in choices}
    assert named == {c.alias for c in CARDS.values() if c.task == "word alignment"}
    assert aligners.known_lag("path:/elsewhere") == 0


def test_a_known_lag_is_taken_off(monkeypatch):
    card = replace(CARDS["whisper-ctc-tiny.en"], lag=0.04)
    monkeypatch.setitem(CARDS, card.alias, card)
    assert aligners.known_lag(card.alias) == 0.04
    assert Aligner.load(card.alias).listener(None).lag == 0.04


def test_a_missing_aligner_is_named(monkeypatch):
    monkeypatch.setattr("mlx_speech.pipeline.aligner.default_aligner", lambda language: None)
    audio = np.zeros(16000, np.float32)
    with pytest.raises(ModelNotFoundError, match=r"'de' is on this machine.*wav2vec2-xlsr-53-de"):
        Aligner.load().align(audio, "hallo", language="de")
    with pytest.raises(ModelNotFoundError, match="'tlh'"):
        Aligner.load().align(audio, [Segment(0, 1, "nuqneH", language="tlh")])
    kept = Aligner.load().align(audio, [Segment(0, 1, "hallo", language="de")], partial=True)
    assert [w.text for w in kept.words] == ["hallo"]


def test_another_kind_of_model_is_refused():
    with pytest.raises(OptionError, match="SileroVAD"):
        Aligner.load("silero-vad")


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "magic"},
        {"batch_size": 0},
        {"slack": -1},
        {"slack": float("nan")},
        {"lag": 2},
        {"meet": -0.1},
        {"uncertain": 7},
    ],
)
def test_options_are_checked_and_named(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        AlignOptions(**wrong)


# --- reading transcripts ------------------------------------------------------------------------------------


def test_subtitles_are_read(tmp_path):
    srt = tmp_path / "a.srt"
    srt.write_bytes(
        "\ufeff1\r\n00:00:01,500 --> 00:00:02,000\r\n<i>Hello</i>,\r\nyou\r\n\r\n"
        "2\r\n00:01:00,000 --> 00:00:59,000\r\n{\\an8}Bye\r\n\r\n"
        "3\r\n00:01:01,000 --> 00:01:02,000\r\n\r\n".encode()
    )
    assert read_transcript(srt) == [Segment(1.5, 2.0, "Hello,\nyou"), Segment(60.0, 60.0, "Bye")]
    vtt = tmp_path / "a.vtt"
    vtt.write_text(
        "WEBVTT\n\nNOTE x\n\n01:02.500 --> 01:03.000 align:start\n<v Ann>1 < 2\n", encoding="utf-8"
    )
    assert read_transcript(vtt) == [Segment(62.5, 63.0, "1 < 2")]
    plain = tmp_path / "a.txt"
    plain.write_text("just text", encoding="utf-8")
    assert read_transcript(plain) == "just text"


def test_segments_of_a_transcript_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        '{"segments": [{"id": 0, "start": 1, "end": 2.5, "text": " Hello", "words": []}]}', "utf-8"
    )
    assert read_transcript(path) == [Segment(1.0, 2.5, " Hello")]


def test_unreadable_transcripts_are_named(tmp_path):
    with pytest.raises(OptionError, match="missing"):
        read_transcript(tmp_path / "missing.txt")
    for name, data, message in (
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.srt", b"no cue", "no subtitle"),
        ("b.txt", b" \n", "no text"),
        ("a.json", b'{"segments": []}', "no text"),
        ("b.json", b'{"turns": []}', "no transcript could be read"),
        ("c.json", b'["text"]', "no transcript could be read"),
        ("d.json", b"Hello", "no transcript could be read"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OptionError, match=message):
            read_transcript(tmp_path / name)
    (tmp_path / "b.srt").write_text("1\n1:2.3.4 --> 00:00:01,0\nx\n", encoding="utf-8")
    with pytest.raises(OptionError, match="subtitle's time"):
        read_transcript(tmp_path / "b.srt")

"""Word times: the original's, its parts restated readably, and what holds for any text and any path.

The expected times are made by parity/fixtures_whisper.py with openai/whisper and the tiny weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlx_speech.stages import timing, warping
from mlx_speech.stages.timing import Window, word_times
from mlx_speech.stages.warping import dtw, median_filter
from mlx_speech.types import Segment

TIMED = json.loads((Path(__file__).parent / "fixtures/whisper/decoding.json").read_text(encoding="utf-8"))[
    "timed"
]


def segment(tokenizer, tokens, start, end) -> Segment:
    return Segment(start, end, tokenizer.decode(tokens).strip(), tokens=tuple(tokens))


@pytest.fixture(scope="module")
def features(whisper, expected) -> mx.array:
    return whisper.encode(mx.array(expected["mel"]))


# --- against the original ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(whisper, tokenizer, features) -> list[list[Segment]]:
    """Both windows in one batch, cut off at 12 s as the original was told."""
    given = [[segment(tokenizer, s["tokens"], s["start"], s["end"]) for s in t["segments"]] for t in TIMED]
    return word_times(whisper, tokenizer, features, given, [Window(12.0, "en")] * 2)


def joined(pieces: list) -> list[list]:
    """The original's words, less its habit of leaving apart what no space divides (``!"`` after a word)."""
    words: list[list] = []
    for text, start, end, probability in pieces:
        if words and not text.startswith(" "):
            words[-1][0] += text
            words[-1][2:] = end, None
        else:
            words.append([text, start, end, probability])
    return words


@pytest.mark.parametrize("window", range(len(TIMED)))
def test_words_equal_the_original(found, window):
    alone = 0
    for ours, pieces in zip(found[window], TIMED[window]["words"], strict=True):
        theirs = joined(pieces)
        assert [w.text for w in ours.words] == [text.strip() for text, *_ in theirs]
        for word, (_, start, end, probability) in zip(ours.words, theirs, strict=True):
            # the original rounds to 10 ms on the way, twice where it halves
            assert word.start == pytest.approx(start, abs=0.011)
            assert word.end == pytest.approx(end, abs=0.011)
            if probability is not None:
                alone += 1
                assert word.probability == pytest.approx(probability, rel=1e-3)
    assert alone > 7


def test_segments_reach_from_first_to_last_word(found):
    for s in (s for window in found for s in window):
        assert (s.start, s.end) == (s.words[0].start, s.words[-1].end)


def test_the_fixture_tells_frames_apart():
    times = [time for t in TIMED for words in t["words"] for w in words for time in w[1:3]]
    assert len(set(times)) > 15


def test_batch_equals_single(whisper, tokenizer, features, found):
    for n, timed in enumerate(TIMED):
        given = [segment(tokenizer, s["tokens"], s["start"], s["end"]) for s in timed["segments"]]
        (alone,) = word_times(whisper, tokenizer, features[n : n + 1], [given], [Window(12.0, "en")])
        for ours, theirs in zip(alone, found[n], strict=True):
            assert [(w.text, w.start, w.end) for w in ours.words] == [
                (w.text, w.start, w.end) for w in theirs.words
            ]
            for a, b in zip(ours.words, theirs.words, strict=True):
                assert a.probability == pytest.approx(b.probability, rel=1e-3)


def test_windows_without_text_are_left_as_they_are(whisper, tokenizer, features):
    empty = Segment(1.0, 2.0, "")
    given = [[empty], [segment(tokenizer, tokenizer.encode(" Yes."), 0.5, 1.5)]]
    found = word_times(whisper, tokenizer, features, given, [Window(12.0, "en")] * 2)
    assert found[0] == [empty]
    assert [w.text for w in found[1][0].words] == ["Yes."]
    assert word_times(whisper, tokenizer, features, [[], [empty]], [Window(12.0, "en")] * 2) == [[], [empty]]


# --- invariants -------------------------------------------------------------------------------------------

TEXTS = st.text(alphabet=st.sampled_from("abc .,!?-'\"(¿“好\n"), max_size=14)


@settings(max_examples=25)
@given(
    texts=st.lists(st.lists(TEXTS, max_size=3), min_size=2, max_size=2),
    duration=st.floats(0.1, 30.0),
    language=st.sampled_from(["en", "ja"]),
)
def test_words_hold_all_text_in_order_inside_the_window(
    whisper, tokenizer, features, texts, duration, language
):
    given = [
        [
            segment(tokenizer, tokenizer.encode(t), duration * n / 3, duration * (n + 1) / 3)
            for n, t in enumerate(row)
        ]
        for row in texts
    ]
    durations = [duration, 30.0 - duration]
    found = word_times(whisper, tokenizer, features, given, [Window(d, language) for d in durations])
    for row, before, length in zip(found, given, durations, strict=True):
        for ours, theirs in zip(row, before, strict=True):
            assert (ours.text, ours.tokens) == (theirs.text, theirs.tokens)
            for word in ours.words:
                assert word.text == word.text.strip() != ""
                assert 0.0 <= word.start <= word.end <= length + 0.02
                assert 0.0 <= word.probability <= 1.0
            if not ours.words:
                assert ours == theirs
        written = "".join(w.text for s in row for w in s.words)
        # a mark may join the next segment's word, as a word may reach over the border
        assert "".join(written.split()) == "".join("".join(s.text for s in before).split())


# --- parts ------------------------------------------------------------------------------------------------


def dtw_plainly(cost: np.ndarray) -> tuple[list[int], list[int]]:
    """The original's dynamic programme: a step on both axes only where it is strictly the cheapest."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf, np.float32)
    total[0, 0] = 0
    steps = {}
    for j in range(1, columns + 1):
        for i in range(1, rows + 1):
            both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            if both < down and both < right:
                best, steps[i, j] = both, (1, 1)
            elif down < both and down < right:
                best, steps[i, j] = down, (1, 0)
            else:
                best, steps[i, j] = right, (0, 1)
            total[i, j] = cost[i - 1, j - 1] + best
    i, j, path = rows, columns, []
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        di, dj = (0, 1) if i == 0 else (1, 0) if j == 0 else steps[i, j]
        i, j = i - di, j - dj
    path = [p for p in path[::-1] if min(p) >= 0]
    return [i for i, _ in path], [j for _, j in path]


SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)


@given(cost=hnp.arrays(np.float64, SHAPES, elements=st.floats(-3, 3)))
def test_dtw_equals_plain_dynamic_programming(cost):
    rows, columns = dtw([cost])[0]
    assert (rows.tolist(), columns.tolist()) == dtw_plainly(cost)


@given(cost=hnp.arrays(np.float64, SHAPES, elements=st.integers(0, 2).map(float)))
def test_dtw_breaks_ties_as_the_original(cost):
    rows, columns = dtw([cost])[0]
    assert (rows.tolist(), columns.tolist()) == dtw_plainly(cost)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_dtw_is_the_cheapest_of_all_paths(seed, rows, columns):
    """Where no two ways cost the same: at a tie the original steps right, whatever that costs."""
    cost = np.random.default_rng(seed).uniform(0.01, 3, (rows, columns))

    def cheapest(i: int, j: int) -> float:
        if i == j == 0:
            return cost[0, 0]
        before = [cheapest(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if min(a, b) >= 0]
        return cost[i, j] + min(before)

    i, j = dtw([cost])[0]
    assert (i[0], j[0], i[-1], j[-1]) == (0, 0, rows - 1, columns - 1)
    steps = {*zip(np.diff(i).tolist(), np.diff(j).tolist(), strict=True)}
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[i, j].sum() == pytest.approx(cheapest(rows - 1, columns - 1), rel=1e-5)


@given(
    values=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=30), elements=st.floats(-5, 5, width=32)
    )
)
def test_median_filter_equals_numpy(values):
    found = median_filter(values)
    if values.shape[-1] <= 3:
        assert np.array_equal(found, values)
        return
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(3, 3)], mode="reflect")
    wanted = np.median(np.lib.stride_tricks.sliding_window_view(padded, 7, axis=-1), axis=-1)
    assert np.array_equal(found, wanted)


@given(
    costs=st.lists(
        hnp.arrays(np.float32, SHAPES, elements=st.integers(-2, 2).map(float) | st.floats(-3, 3, width=32)),
        max_size=5,
    ),
    cells=st.sampled_from([1, 200, 1 << 25]),
)
def test_matrices_of_any_sizes_are_walked_together(costs, cells):
    """Whatever they are filled up with, and however few fit into memory at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warping, "_CELLS", cells)
        found = dtw(costs)
    assert [(rows.tolist(), columns.tolist()) for rows, columns in found] == [dtw_plainly(c) for c in costs]


@pytest.mark.parametrize("xp", [np, mx])
def test_alignment_matrix_is_normalised_over_tokens(xp):
    """The same in numpy, which a CPU takes, and on MLX's device, which a GPU takes."""
    scores = np.random.default_rng(0).normal(0, 3, (3, 9, 40)).astype(np.float32)
    weights = np.exp(scores.astype(np.float64)) / np.exp(scores.astype(np.float64)).sum(-1, keepdims=True)
    scaled = (weights - weights.mean(-2, keepdims=True)) / weights.std(-2, keepdims=True)
    found = np.array(warping._matrix(xp.array(scores), xp))
    np.testing.assert_allclose(found, median_filter(scaled).mean(0), atol=2e-6)
    assert np.isfinite(np.array(warping._matrix(xp.zeros((2, 5, 20)), xp))).all()


def test_attention_of_a_batch_is_the_same_where_a_gpu_smooths_it(monkeypatch):
    random = np.random.default_rng(1)
    scores = mx.array(random.normal(0, 3, (3, 2, 9, 40)).astype(np.float32))
    sizes = [(9, 40), (5, 31), (7, 3)]  # three frames or fewer are not smoothed
    on_host = warping.alignment_matrices(scores, sizes)
    monkeypatch.setattr(warping.runtime, "on_cpu", lambda: False)
    on_device = warping.alignment_matrices(scores, sizes)
    for one, other, size in zip(on_host, on_device, sizes, strict=True):
        assert one.shape == other.shape == size
        np.testing.assert_allclose(one, other, atol=2e-6)


def word(text: str, start: float, end: float) -> timing._Timed:
    return timing._Timed(text, [ord(c) for c in text], start, end, 0.5)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([" Hello", ",", " you", "!"], [" Hello,", " you!"]),
        ([' "', "Hi", '"', " there", "..."], [' "Hi"', " there..."]),
        ([" (", "so", ")", "."], [" (so)."]),
        ([" ¿", "Qué", "?"], [" ¿Qué?"]),
        (["Yes", "!", "?"], ["Yes!?"]),
        ([" ill", "-", "disposed"], [" ill-disposed"]),
        ([" -", " x"], [" -x"]),
        (["!"], ["!"]),
        ([], []),
    ],
)
def test_marks_join_their_words(texts, wanted):
    timed = timing._join_punctuation([word(t, n, n + 1) for n, t in enumerate(texts)], spaced=True)
    assert [w.text for w in timed] == wanted
    assert [t for w in timed for t in w.tokens] == [ord(c) for t in texts for c in t]
    assert all(w.start < w.end for w in timed)


def test_marks_join_without_taking_time_and_pieces_with_theirs():
    timed = timing._join_punctuation(
        [word(t, n, n + 1) for n, t in enumerate([" a", ",", " b", "-c", " d"])], True
    )
    assert [(w.text, w.start, w.end) for w in timed] == [(" a,", 0, 1), (" b-c", 2, 4), (" d", 4, 5)]


def test_unspaced_words_stay_apart():
    timed = timing._join_punctuation([word(t, n, n + 1) for n, t in enumerate("今天好。")], spaced=False)
    assert [w.text for w in timed] == ["今", "天", "好。"]


def test_silence_around_a_sentences_end_goes_to_no_word():
    timed = [word(" a", 0, 1), word(".", 1, 6), word(" b", 6, 12), word(" c", 12, 18)]
    timing._shorten_at_sentence_ends(timed, 2.0)
    assert [(w.start, w.end) for w in timed] == [(0, 1), (1, 3), (10, 12), (12, 18)]


@pytest.mark.parametrize(
    ("lengths", "limits"), [([], (0, 0)), ([0.2, 0.0, 0.4], (0.3, 0.6)), ([2, 2, 0.5], (0.7, 1.4))]
)
def test_a_median_word_is_believed_up_to_700_ms(lengths, limits):
    assert timing._limits([word(" a", 1, 1 + n) for n in lengths]) == pytest.approx(limits)


def fitted(words: list[tuple[float, float]], start: float, end: float, spoken_until: float, median: float):
    """A segment's words at its edges, by the original's rules."""
    found = timing._fit(
        Segment(start, end, "x"), [word(" a", *w) for w in words], spoken_until, median, 2 * median
    )
    return [(round(w.start, 3), round(w.end, 3)) for w in found.words]


def test_the_first_word_after_a_pause_is_shortened():
    """Where its end is more than four median words behind the last one's, and it is longer than two."""
    assert fitted([(0.0, 2.0)], 0.0, 2.0, 0.0, 0.5) == [(0.0, 2.0)]
    assert fitted([(0.0, 2.0)], 0.0, 2.0, -0.1, 0.5) == [(1.0, 2.0)]
    assert fitted([(1.0, 2.0)], 1.0, 2.0, -0.1, 0.5) == [(1.0, 2.0)]
    # two of them share what is too long, the second no longer than two median words
    assert fitted([(0.0, 1.0), (1.0, 5.0)], 0.0, 5.0, -9.0, 0.5) == [(3.0, 4.0), (4.0, 5.0)]
    assert fitted([(0.0, 0.5), (0.5, 2.1)], 0.0, 2.1, -9.0, 0.5) == [(0.1, 1.1), (1.1, 2.1)]
    assert fitted([(0.0, 0.5), (0.5, 2.0)], 0.0, 2.0, -9.0, 0.5) == [(0.0, 0.5), (0.5, 2.0)]


def test_a_word_that_leaves_its_segment_far_follows_the_segments_time():
    """Far is more than half a second; a word keeps a median word's length."""
    assert fitted([(0.0, 3.0)], 0.5, 3.0, 2.9, 0.4) == [(0.0, 3.0)]
    assert fitted([(0.0, 3.0)], 0.6, 3.0, 2.9, 0.4) == [(0.6, 3.0)]
    assert fitted([(0.0, 3.0)], 2.8, 3.0, 2.9, 0.4) == [(2.6, 3.0)]
    assert fitted([(0.0, 3.0)], 0.0, 2.5, 2.9, 0.4) == [(0.0, 3.0)]
    assert fitted([(0.0, 3.0)], 0.0, 2.4, 2.9, 0.4) == [(0.0, 2.4)]
    assert fitted([(0.0, 3.0)], 0.0, 0.1, 2.9, 0.4) == [(0.0, 0.4)]

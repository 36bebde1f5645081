"""Silero VAD: the original's weights and numbers, streaming, segmenting, merging. The fixture is made by
parity/fixtures_silero.py with the original under torch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_speech.converters._read import open_tensors
from mlx_speech.converters.silero import FAMILY, JIT
from mlx_speech.errors import AudioError, CheckpointError, OptionError
from mlx_speech.layers.lstm import LSTM
from mlx_speech.models.vad import SileroVAD
from mlx_speech.stages.speech import SpeechOptions, detect, merge_spans, spans_from_probabilities
from mlx_speech.types import Span
from mlx_speech.weights import Rule, convert, find_layout, plan

ASSETS = Path(mlx_speech.__file__).parent / "assets/silero-vad"
EXPECTED = Path(__file__).parent / "fixtures/silero/expected.npz"
ATOL = 1e-5  # ours and the original are each up to 3e-6 off float64, by the BLAS they run on

# the parameter sets of parity/fixtures_silero.py
OPTIONS = {
    "default": SpeechOptions(),
    "loose": SpeechOptions(threshold=0.3, min_silence_duration=0.5, speech_pad=0.2),
    "short": SpeechOptions(max_speech_duration=8),
    "short_loose": SpeechOptions(max_speech_duration=3, min_silence_duration=0.5, speech_pad=0.1),
    "hard_cuts": SpeechOptions(max_speech_duration=1, neg_threshold=0.02, min_speech_duration=0),
    "last_pause": SpeechOptions(
        max_speech_duration=2,
        min_silence_duration=0.3,
        min_silence_at_max_speech=0.03,
        cut_at_longest_pause=False,
        neg_threshold=0.49,
    ),
}


def assemble(tensors: dict[str, mx.array], rules: tuple[Rule, ...] | None = None) -> SileroVAD:
    """A model from original tensors, by the family's rules."""
    model = SileroVAD()
    rules = rules or find_layout(FAMILY.layouts, tensors).rules
    shapes = {k: v.shape for k, v in tree_flatten(model.parameters())}
    model.load_weights(list(convert(plan(rules, tensors), tensors, shapes).items()))
    return model


@pytest.fixture(scope="module")
def original() -> dict[str, mx.array]:
    return dict(open_tensors(ASSETS))


@pytest.fixture(scope="module")
def model(original) -> SileroVAD:
    return assemble(original)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(EXPECTED) as file:
        return {k: file[k].astype(np.float32) if k == "audio" else file[k] for k in file}


# --- against the original -------------------------------------------------------------------------


def test_probabilities_equal_the_original(model, expected):
    found = np.array(model(mx.array(expected["audio"])))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected["probabilities"], rtol=0, atol=ATOL)


@pytest.mark.parametrize("name", OPTIONS)
def test_segments_equal_the_original_to_the_sample(model, expected, name):
    spans = detect(model, expected["audio"], OPTIONS[name])
    found = [[round(s.start * 16000), round(s.end * 16000)] for s in spans]
    assert found == expected[f"segments_{name}"].tolist()


def test_parameter_sets_of_the_fixture_differ(expected):
    found = {name: str(expected[f"segments_{name}"].tolist()) for name in OPTIONS}
    assert len(set(found.values())) >= 5, "the fixture's audio no longer tells the settings apart"


# --- the checkpoint -------------------------------------------------------------------------------


def test_missing_key_is_named(original):
    for key in original:
        tensors = {k: v for k, v in original.items() if k != key}
        with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
            assemble(tensors)


def test_unexpected_key_is_named(original):
    with pytest.raises(CheckpointError, match=r"unexpected: _model\.encoder\.4\.bias"):
        assemble({**original, "_model.encoder.4.bias": mx.zeros(3)})


def test_misshaped_tensor_is_named(original):
    key = "_model.encoder.2.reparam_conv.weight"
    with pytest.raises(CheckpointError, match=r"encoder\.2\.weight \(64, 5, 64\), expected \(64, 3, 64\)"):
        assemble({**original, key: mx.zeros((64, 64, 5))})


@pytest.mark.parametrize("number", [n for n, rule in enumerate(JIT.rules) if rule.targets])
def test_a_renamed_target_is_named(original, number):
    rules = list(JIT.rules)
    wrong = f"{rules[number].targets}_renamed"
    rules[number] = replace(rules[number], targets=wrong)
    with pytest.raises(CheckpointError, match=wrong.replace(".", r"\.")):
        assemble(original, tuple(rules))


def test_tinygrad_names_are_read_too(original, model):
    names = {
        "_model.stft.forward_basis_buffer": "stft_conv.weight",
        "_model.decoder.rnn.": "lstm_cell.",
        "_model.decoder.decoder.2.": "final_conv.",
        **{f"_model.encoder.{n}.reparam_conv.": f"conv{n + 1}." for n in range(4)},
    }
    renamed = {
        next(k.replace(a, b) for a, b in names.items() if k.startswith(a)): v for k, v in original.items()
    }
    again = assemble(renamed)
    for (key, a), (_, b) in zip(
        tree_flatten(model.parameters()), tree_flatten(again.parameters()), strict=True
    ):
        assert mx.array_equal(a, b), key


# --- streaming, batches, odd input ----------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 511, 512, 777, 40000])
def test_stream_equals_whole(model, expected, size):
    audio = mx.array(expected["audio"][:50000])
    blocks = [audio[n : n + size] for n in range(0, audio.size, size)]
    found = mx.concatenate([*model.stream(blocks), *model.stream([])])
    np.testing.assert_allclose(found, model(audio), rtol=0, atol=ATOL)


def test_forward_in_parts_equals_whole(model, expected):
    audio = mx.array(expected["audio"][: 512 * 90])[None]
    first, state = model.forward(audio[:, : 512 * 37], model.initial_state())
    nothing, state = model.forward(audio[:, :0], state)
    second, _ = model.forward(audio[:, 512 * 37 :], state)
    assert nothing.shape == (1, 0)
    np.testing.assert_allclose(mx.concatenate([first, second], 1)[0], model(audio[0]), rtol=0, atol=ATOL)


def test_memory_blocks_do_not_show(model, expected, monkeypatch):
    audio = mx.array(expected["audio"][:40000])
    whole = model(audio)
    monkeypatch.setattr("mlx_speech.models.vad._BLOCK", 7)
    np.testing.assert_allclose(model(audio), whole, rtol=0, atol=ATOL)


def test_batch_equals_single(model, expected):
    audio = expected["audio"]
    batch = np.stack([audio[:30000], audio[50000:80000], np.zeros(30000, np.float32)])
    found = model(mx.array(batch))
    assert found.shape == (3, 59)
    for row, single in zip(found, batch, strict=True):
        np.testing.assert_allclose(row, model(mx.array(single)), rtol=0, atol=ATOL)


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 513, 1600])
def test_short_silence(model, samples):
    found = model(mx.zeros(samples))
    assert found.shape == (math.ceil(samples / 512),)
    assert detect(model, np.zeros(samples, np.float32)) == []


def test_long_silence_and_loud_noise_are_not_speech(model):
    noise = np.random.default_rng(0).uniform(-1, 1, 48000).astype(np.float32)
    assert detect(model, np.zeros(48000, np.float32)) == []
    assert detect(model, noise) == []
    beyond = np.array(model(mx.array(noise * 1e6)))
    assert np.isfinite(beyond).all()


def test_unusable_audio_is_refused(model):
    with pytest.raises(AudioError, match="dimensions"):
        model(mx.zeros((1, 2, 512)))
    with pytest.raises(AudioError, match="int16"):
        model(mx.zeros(512, mx.int16))
    with pytest.raises(AudioError, match="multiple of 512"):
        model.forward(mx.zeros((1, 500)), model.initial_state())
    with pytest.raises(AudioError):
        detect(model, np.array([0.0, math.nan], np.float32))


def test_lstm_equals_its_equations():
    lstm = LSTM(3, 5)
    lstm.bias = mx.random.normal((20,))
    x = mx.random.normal((2, 130, 3))
    found, state = lstm(x)
    w, u, b = (np.array(v, np.float64) for v in (lstm.weight_ih, lstm.weight_hh, lstm.bias))
    h = c = np.zeros((2, 5))
    for t in range(130):
        i, f, g, o = np.split(np.array(x[:, t]) @ w.T + h @ u.T + b, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        np.testing.assert_allclose(found[:, t], h, atol=1e-5)
    np.testing.assert_allclose(state.c, c, atol=1e-5)
    np.testing.assert_array_equal(state.h, found[:, -1])


# --- options and spans ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5},
        {"threshold": math.nan},
        {"threshold": "0.5"},
        {"threshold": True},
        {"neg_threshold": -0.1},
        {"neg_threshold": 0.6},
        {"min_speech_duration": -1},
        {"min_speech_duration": math.inf},
        {"max_speech_duration": 0},
        {"max_speech_duration": 0.09},
        {"min_silence_duration": math.nan},
        {"speech_pad": -0.03},
        {"min_silence_at_max_speech": -1},
        {"cut_at_longest_pause": None},
    ],
)
def test_options_are_checked_and_named(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        SpeechOptions(**wrong)


def test_probabilities_must_fit_the_length():
    with pytest.raises(OptionError, match="probabilities"):
        spans_from_probabilities(np.zeros(3), 512 * 3 + 1)


@settings(max_examples=200, deadline=None)
@given(
    probabilities=st.lists(st.floats(0, 1), max_size=120),
    missing=st.integers(0, 511),
    threshold=st.floats(0.1, 0.9),
    longest=st.sampled_from([0.5, 1.0, math.inf]),
    silence=st.sampled_from([0.0, 0.1, 0.5]),
    pad=st.sampled_from([0.0, 0.03, 0.2]),
    at_longest=st.booleans(),
)
def test_spans_are_ordered_and_inside(probabilities, missing, threshold, longest, silence, pad, at_longest):
    options = SpeechOptions(
        threshold=threshold,
        max_speech_duration=longest,
        min_silence_duration=silence,
        speech_pad=pad,
        cut_at_longest_pause=at_longest,
    )
    samples = max(0, 512 * len(probabilities) - missing)
    spans = spans_from_probabilities(np.array(probabilities), samples, options)
    edges = [e for s in spans for e in (s.start, s.end)]
    assert edges == sorted(edges)
    assert not edges or (edges[0] >= 0 and edges[-1] <= samples / 16000)


def _spans(steps: list[tuple[float, float]]) -> list[Span]:
    spans, now = [], 0.0
    for gap, length in steps:
        spans.append(Span(now + gap, now + gap + length))
        now = spans[-1].end
    return spans


SPANS = st.lists(st.tuples(st.floats(0, 40), st.floats(0.01, 100)), max_size=20).map(_spans)


@settings(max_examples=200, deadline=None)
@given(
    spans=SPANS,
    max_duration=st.floats(0.5, 60),
    known=st.one_of(st.none(), st.integers(0, 99)),
)
def test_merged_spans_are_short_ordered_and_cover(spans, max_duration, known):
    probabilities = None if known is None else np.random.default_rng(known).random(31 * 50 * known)
    merged = merge_spans(spans, max_duration, probabilities=probabilities)
    for window in merged:
        assert 0 <= window.duration <= max_duration + 2e-6
    for before, after in pairwise(merged):
        assert before.end <= after.start
    for span in spans:  # windows that touch the span leave no gap in it
        inside = [w for w in merged if w.start < span.end and span.start < w.end]
        assert inside
        assert inside[0].start <= span.start
        assert inside[-1].end >= span.end
        assert all(a.end == b.start for a, b in pairwise(inside))


def ends(probabilities: list[float], **options: float) -> list[tuple[int, int]]:
    """Spans without padding, in chunks."""
    found = spans_from_probabilities(
        np.array(probabilities), len(probabilities) * 512, SpeechOptions(speech_pad=0.0, **options)
    )
    return [(round(s.start * 31.25), round(s.end * 31.25)) for s in found]


def test_limits_are_the_originals_to_the_chunk():
    """What lies exactly on a limit: from the threshold on there is speech, below the lower one there is none."""
    assert ends([0.5] * 20) == [(0, 20)]
    assert ends([0.9] * 10 + [0.35] * 10) == [(0, 20)]  # 0.15 less than the threshold
    assert ends([0.9] * 10 + [0.349] * 10) == [(0, 10)]
    assert ends([0.9] * 10 + [0.015] * 10, threshold=0.1) == [(0, 20)]  # but never below 0.01
    assert ends([0.9] * 10 + [0.009] * 10, threshold=0.1) == [(0, 10)]
    for count, found in ((8, []), (9, [(0, 9)])):  # as long as the shortest stretch is too short
        assert ends([0.9] * count + [0.0] * 10, min_speech_duration=8 * 0.032) == found
    for count, found in (
        (3, [(0, 23)]),
        (4, [(0, 10), (14, 24)]),
    ):  # as long as the shortest silence ends a span
        assert ends([0.9] * 10 + [0.0] * count + [0.9] * 10, min_silence_duration=3 * 0.032) == found


@pytest.mark.parametrize(("pause", "cut"), [(2, 31), (3, 10)])
def test_too_long_speech_is_cut_at_pauses_longer_than_the_limit(pause, cut):
    limits = {"max_speech_duration": 1.0, "min_silence_duration": 1.0, "min_silence_at_max_speech": 2 * 0.032}
    found = ends([0.9] * 10 + [0.0] * pause + [0.9] * 40, **limits)
    assert found[0] == (0, cut)


def test_merge_joins_greedily_and_cuts_at_the_quietest_chunk():
    spans = [Span(0, 10), Span(11, 29), Span(31, 40)]
    assert merge_spans(spans) == [Span(0, 29), Span(31, 40)]
    assert merge_spans([Span(0, 60)]) == [Span(0, 30), Span(30, 60)]
    probabilities = np.ones(1875)
    probabilities[700] = 0.1
    assert merge_spans([Span(0, 40)], probabilities=probabilities) == [Span(0, 22.416), Span(22.416, 40)]
    equal = merge_spans([Span(0, 40)], probabilities=np.ones(1875))
    assert equal == [Span(0, 30), Span(30, 40)]  # of equals the last


def test_merge_takes_overlaps_once_and_refuses_disorder():
    assert merge_spans([Span(0, 5), Span(1, 2), Span(3, 8)], 6) == [Span(0, 5), Span(5, 8)]
    with pytest.raises(OptionError, match="spans"):
        merge_spans([Span(3, 4), Span(1, 2)])
    with pytest.raises(OptionError, match="max_duration"):
        merge_spans([], 0)

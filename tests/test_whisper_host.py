"""The decoder's step of a Linux CPU against MLX's own: the same scores, and the same tokens."""

from __future__ import annotations

from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_speech import runtime
from mlx_speech.layers import fused
from mlx_speech.loading import load
from mlx_speech.models.whisper_host import HostState, host_decoder
from mlx_speech.runtime import Team
from mlx_speech.stages import steps
from mlx_speech.stages.decode import decode
from mlx_speech.stages.options import DecodeOptions

pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(fused.decoding() is None, reason="a Linux CPU's own")

FOLDER = Path(__file__).parent / "fixtures" / "whisper" / "huggingface"
PROMPT = [50258, 50259, 50359]
# scores of 30 in float32, of another order of sums: 3e-5 is the most that was seen
CLOSE = 1e-4


@pytest.fixture(scope="module")
def features(whisper, expected) -> mx.array:
    return whisper.encode(mx.array(expected["mel"]))


@pytest.fixture(params=[1, 3])
def team(request, monkeypatch):
    monkeypatch.setenv(runtime.THREADS_VARIABLE, str(request.param))
    with Team() as found:
        assert found.size == request.param
        yield found


def begun(model, features, width: int = 1):
    """Both decoders after the same prompt."""
    state = model.start(features)
    model.step(mx.array([PROMPT] * len(features), mx.int32), state)
    host = HostState(host_decoder(model), state, width, 60)
    return state.repeat(width), host


def both(model, state, host, tokens, team) -> np.ndarray:
    """Feed both the same; MLX's scores and ours agree, and ours come back."""
    wanted = model.logits(model.step(mx.array(tokens, mx.int32)[:, None], state)[:, -1])
    found = host.step(np.array(tokens), team)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)
    return found


def test_steps_equal_mlx(whisper, features, team):
    state, host = begun(whisper, features)
    for tokens in ([1000, 1001], [400, 50300], [50364, 50864], [5, 17]):
        both(whisper, state, host, tokens, team)


@pytest.mark.parametrize("frames", [1, 8, 43])
def test_audio_may_be_shorter_than_the_text(whisper, features, team, frames):
    state, host = begun(whisper, features[:, :frames])
    for tokens in ([1000, 1001], [400, 50300]):
        both(whisper, state, host, tokens, team)


@pytest.mark.parametrize("width", [2, 3, 5])  # with two windows: four rows at once, and those that are left
def test_beams_change_places_and_windows_leave(whisper, features, team, width):
    state, host = begun(whisper, features, width)
    rng = np.random.default_rng(width)
    rows = np.arange(2 * width)
    for _ in range(4):
        tokens = rng.integers(0, 50000, len(rows))
        both(whisper, state, host, tokens, team)
        chosen = np.concatenate([rng.integers(0, width, width), width + rng.integers(0, width, width)])
        state = state.take(mx.array(chosen))
        host.take(chosen)
    second = np.arange(width, 2 * width)  # the first window leaves
    state = state.take(mx.array(second), mx.array([1]))
    host.take(second)
    for _ in range(2):
        both(whisper, state, host, rng.integers(0, 50000, width), team)


def test_the_prompts_scores_equal_mlx(whisper, features, team):
    hidden = whisper.step(mx.array([PROMPT] * 2, mx.int32), whisper.start(features))[:, -1]
    found = host_decoder(whisper).logits(np.array(hidden), team)
    np.testing.assert_allclose(found, whisper.logits(hidden), rtol=0, atol=CLOSE)


def test_threads_do_not_change_a_bit(whisper, features, monkeypatch):
    found = []
    for threads in ("1", "2", "7"):
        monkeypatch.setenv(runtime.THREADS_VARIABLE, threads)
        _, host = begun(whisper, features)
        with Team() as team:
            found.append([host.step(np.array([n, n + 1]), team) for n in range(3)])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


OPTIONS = {
    "greedy": {},
    "words only": {"timestamps": False},
    "beams": {"beam_size": 3},
    "patient beams": {"beam_size": 2, "patience": 2.0, "length_penalty": 0.6},
    "prompt": {"prompt": "Anna and Ben talk about whales."},
    "prefix": {"prefix": "They said"},
    "sampled": {"temperatures": (0.7,), "seed": 3},
    "best of": {"temperatures": (0.5,), "best_of": 3},
    "no repeats": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beams without repeats": {"beam_size": 2, "no_repeat_ngram_size": 2},
    "fallback": {"temperatures": (0.0, 0.4), "logprob_threshold": 0.0, "no_speech_threshold": None},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_tokens_equal_mlx(whisper, tokenizer, features, monkeypatch, options):
    chosen = DecodeOptions(**{"max_tokens": 30, "temperatures": (0.0,)} | options)
    windows = mx.concatenate([features, 0.5 * features, -features])  # rows that end at different steps
    found = decode(whisper, tokenizer, windows, "en", chosen)
    monkeypatch.setattr(steps, "host_decoder", lambda model: None)
    wanted = decode(whisper, tokenizer, windows, "en", chosen)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=CLOSE)
        assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=CLOSE)


def test_the_windows_end_at_different_steps(whisper, tokenizer, features):
    windows = mx.concatenate([features, 0.5 * features, -features])
    found = decode(whisper, tokenizer, windows, "en", DecodeOptions(max_tokens=30, temperatures=(0.0,)))
    assert len({len(d.tokens) for d in found}) > 2


# --- which weights ----------------------------------------------------------------------------------------


def test_weights_that_float16_does_not_hold_stay_float32(features):
    model = load(f"path:{FOLDER}", dtype="float32")
    assert host_decoder(model).head.dtype == np.uint16
    model.decoder.blocks[0].fc1.weight = model.decoder.blocks[0].fc1.weight * 1.0001
    assert host_decoder(model).head.dtype == np.float32  # made anew: the weights are others
    state, host = begun(model, features)
    with Team() as team:
        both(model, state, host, [300, 301], team)


def test_it_is_made_once(whisper):
    assert host_decoder(whisper) is host_decoder(whisper)


def test_other_weights_take_mlx(whisper, monkeypatch):
    assert host_decoder(load(f"path:{FOLDER}", dtype="float16")) is None
    quantised = load(f"path:{FOLDER}", dtype="float32")
    nn.quantize(quantised.decoder, 32, 8, class_predicate=lambda name, _: name.endswith("fc2"))
    assert host_decoder(quantised) is None
    monkeypatch.setattr(fused, "_loops", lambda: None)  # as without numba
    assert host_decoder(whisper) is None

"""Whisper's numbers: three original layouts of the same weights against the original's, and the layers.

The fixtures are made by parity/fixtures_whisper.py with the originals under torch; their expected numbers are
computed in float64, so that what differs is ours alone.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_speech import runtime
from mlx_speech.converters._whisper_tables import NON_SPEECH_ENGLISH, NON_SPEECH_MULTILINGUAL
from mlx_speech.errors import CheckpointError
from mlx_speech.features import log_mel, pad_or_trim
from mlx_speech.layers import attention, elementwise
from mlx_speech.layers.attention import KVCache, attend
from mlx_speech.layers.layout import by_columns
from mlx_speech.loading import load
from mlx_speech.models.whisper import Whisper, WhisperConfig

FIXTURES = Path(__file__).parent / "fixtures" / "whisper"
CHECKPOINTS = {
    "whisper-huggingface": FIXTURES / "huggingface",
    "whisper-openai": FIXTURES / "openai" / "model.pt",
    "whisper-ctranslate2": FIXTURES / "ctranslate2",
}
# float32 sums of up to 240 terms of size 1 in another order, through four blocks; measured 4e-6 and 7e-6
ATOL = 3e-5
# half precision rounds each of those to 3e-4 or 3e-3 of itself; measured 1e-3 and 9e-3 in the logits
HALF = {"float16": 5e-3, "bfloat16": 4e-2}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(layout: str) -> Whisper:
    return load(f"path:{CHECKPOINTS[layout]}", dtype="float32")


def relative(found: mx.array, wanted: np.ndarray) -> float:
    found = np.array(found.astype(mx.float32))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


# --- against the originals --------------------------------------------------------------------------------


def test_layout_is_found(model, layout):
    assert model.origin.layout == layout
    assert model.origin.family == "whisper"


def test_audio_features_equal_the_original(model, expected):
    found = model.encode(mx.array(expected["mel"]))
    np.testing.assert_allclose(found, expected["encoded"], rtol=0, atol=ATOL)


@pytest.mark.parametrize(("windows", "threads"), [(1, "2"), (1, "3"), (3, "2")])
def test_cores_share_a_windows_frames(model, expected, monkeypatch, windows, threads):
    mel = mx.array(expected["mel"])[mx.array([0, 1, 0][:windows])]
    alone = np.array(model.encoder(mel))
    monkeypatch.setenv(runtime.THREADS_VARIABLE, threads)
    found = model.encode(mel)
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)  # sums in another order: 2.4e-6
    np.testing.assert_allclose(found, expected["encoded"][[0, 1, 0][:windows]], rtol=0, atol=ATOL)


def test_logits_equal_the_original(model, expected):
    found = model(mx.array(expected["mel"]), mx.array(expected["tokens"]))
    assert found.dtype == mx.float32
    np.testing.assert_allclose(found[..., :100], expected["logits"], rtol=0, atol=ATOL)


def test_cross_attention_equals_the_original(model, expected):
    features = model.encode(mx.array(expected["mel"]))
    scores, logits = model.cross_attention(features, mx.array(expected["tokens"]))
    wanted = np.stack([expected["attention"][pair] for pair in model.config.alignment_heads])
    # softmax weights of at most 0.06: the scores' errors of 1e-5 times that
    np.testing.assert_allclose(mx.softmax(scores[0], axis=-1), wanted, rtol=0, atol=2e-6)
    np.testing.assert_allclose(logits[..., :100], expected["logits"], rtol=0, atol=ATOL)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_comes_close(layout, expected, dtype):
    model = load(f"path:{CHECKPOINTS[layout]}", dtype=dtype)
    assert str(model.dtype).endswith(dtype)
    found = model(mx.array(expected["mel"]), mx.array(expected["tokens"]))
    assert relative(found[..., :100], expected["logits"]) < HALF[dtype]


def test_settings_survive(model, layout):
    sizes = {k: v for k, v in asdict(model.config).items() if k.startswith("n_")}
    assert sizes == {
        "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 2,
        "n_vocab": 51865 if layout == "whisper-huggingface" else 100,
        "n_text_ctx": 448, "n_text_state": 8, "n_text_head": 2, "n_text_layer": 2,
    }  # fmt: skip
    if (
        layout == "whisper-openai"
    ):  # such a file tells nothing more: all heads of the upper half, as the original
        assert model.config.alignment_heads == ((1, 0), (1, 1))
        assert model.config.suppress_tokens == NON_SPEECH_ENGLISH
        assert model.config.begin_suppress_tokens == (220, 50256)
    else:
        special = (50258, 50358, 50359, 50360, 50361, 50362)
        assert model.config.alignment_heads == ((0, 1), (1, 0))
        assert model.config.suppress_tokens == (*NON_SPEECH_MULTILINGUAL, *special)
        assert model.config.begin_suppress_tokens == (220, 50257)


def test_layouts_hold_the_same_weights(whisper):
    ours = dict(tree_flatten(whisper.parameters()))
    for path in list(CHECKPOINTS.values())[1:]:
        for key, value in tree_flatten(load(f"path:{path}", dtype="float32").parameters()):
            assert mx.array_equal(value, ours[key][: value.shape[0]]), key


def test_openai_files_get_their_sizes_heads(tmp_path):
    path = tmp_path / "tiny.pt"
    shutil.copyfile(CHECKPOINTS["whisper-openai"], path)
    with pytest.raises(CheckpointError, match=r"tiny\.pt.*alignment heads \[\(2, 2\)"):
        load(f"path:{path}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_audio_head": 3},
        {"n_text_head": 5},
        {"n_mels": 0},
        {"n_vocab": 1.5},
        {"alignment_heads": ((2, 0),)},
        {"alignment_heads": ((0, 2),)},
    ],
)
def test_configuration_is_checked(whisper, wrong):
    with pytest.raises(ValueError, match=r"heads|positive"):
        WhisperConfig(**(asdict(whisper.config) | wrong))


# --- batches and steps ------------------------------------------------------------------------------------


def test_batch_equals_single(whisper, expected):
    mel, tokens = mx.array(expected["mel"]), mx.array(expected["tokens"])
    both = whisper(mel, tokens)
    for n in range(2):
        np.testing.assert_allclose(both[n], whisper(mel[n : n + 1], tokens[n : n + 1])[0], rtol=0, atol=ATOL)


@pytest.mark.parametrize("sizes", [[1] * 6, [3, 1, 2], [5, 1]])
def test_steps_equal_one_pass(whisper, expected, sizes):
    features = whisper.encode(mx.array(expected["mel"]))
    state, parts = whisper.start(features), []
    for tokens in np.split(expected["tokens"], np.cumsum(sizes)[:-1], axis=1):
        parts.append(whisper.logits(whisper.step(mx.array(tokens), state)))
    assert state.length == 6
    whole = whisper.logits(whisper.step(mx.array(expected["tokens"]), whisper.start(features)))
    np.testing.assert_allclose(mx.concatenate(parts, axis=1), whole, rtol=0, atol=ATOL)


def test_later_tokens_do_not_change_earlier_logits(whisper, expected):
    mel, tokens = mx.array(expected["mel"]), expected["tokens"].copy()
    before = whisper(mel, mx.array(tokens))
    tokens[:, 4:] = 11
    after = whisper(mel, mx.array(tokens))
    np.testing.assert_allclose(after[:, :4], before[:, :4], rtol=0, atol=ATOL)
    assert np.abs(np.array(after[:, 4:]) - np.array(before[:, 4:])).max() > 1


def test_the_audios_keys_are_made_layer_by_layer(monkeypatch):
    monkeypatch.setenv(runtime.THREADS_VARIABLE, "1")
    monkeypatch.setattr("mlx_speech.models.whisper._LARGE", 1 << 16)
    model = Whisper(WhisperConfig(80, 1500, 64, 2, 1, 100, 448, 64, 2, 8))
    features = mx.zeros((4, 1500, 64))
    mx.eval(model.parameters(), features)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    state = model.start(features)
    mx.eval(state.cross_attention)
    kept = sum(x.nbytes for pair in state.cross_attention for x in pair)
    assert mx.get_peak_memory() - before < 1.5 * kept  # all layers at once take twice as much


def test_cache_grows_beyond_its_first_buffer():
    rng = np.random.default_rng(0)
    keys, values = (rng.standard_normal((2, 2, 150, 4)).astype(np.float32) for _ in range(2))
    cache, done = KVCache(), 0
    for size in (60, 5, 1, 70, 1, 13):
        cut = slice(done, done + size)
        k, v = cache.extend(mx.array(keys[:, :, cut]), mx.array(values[:, :, cut]))
        done += size
        assert cache.length == done
        assert np.array_equal(k, keys[:, :, :done])
        assert np.array_equal(v, values[:, :, :done])


# --- layers against float64 -------------------------------------------------------------------------------


def attend64(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        rows, columns = scores.shape[-2:]
        scores[..., np.arange(columns) > np.arange(rows)[:, None] + columns - rows] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize(("length", "width"), [(400, 8), (1500, 64)])
@pytest.mark.parametrize("loudness", [1.0, 6.0])  # the second makes scores of up to ±400: weights vanish
def test_blocked_attention_equals_float64(length, width, loudness):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 2, length, width)).astype(np.float32) for _ in range(3))
    q, k = q * loudness, k * loudness
    wanted = attend64(q, k, v, causal=False)
    found = attention._attend_in_blocks(*map(mx.array, (q, k, v)))
    # a score of 400 in float32 is known to 2e-5; so is then its weight
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-6 if loudness == 1 else 2e-4)
    np.testing.assert_allclose(attend(*map(mx.array, (q, k, v))), wanted, rtol=0, atol=2e-4)


def test_long_attention_on_a_linux_cpu_goes_by_blocks(monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "_attend_in_blocks", lambda *a: calls.append(a))
    monkeypatch.setattr(attention, "slow_functions", lambda: True)
    monkeypatch.setattr(attention, "kernels", lambda: None)  # as without numba
    long, short = mx.zeros((1, 1, 400, 4)), mx.zeros((1, 1, 8, 4))
    attend(long, long, long)
    attend(short, short, short)
    attend(long, long, long, causal=True)
    attend(*(x.astype(mx.float16) for x in (long, long, long)))
    assert len(calls) == 1


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 5), (3, 9)])
def test_causal_attention_equals_float64(queries, keys):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, 3, queries, 4)).astype(np.float32)
    k, v = (rng.standard_normal((2, 3, keys, 4)).astype(np.float32) for _ in range(2))
    found = attend(*map(mx.array, (q, k, v)), causal=True)
    np.testing.assert_allclose(found, attend64(q, k, v, causal=True), rtol=0, atol=1e-6)


def erf64(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


@pytest.mark.parametrize("function", [elementwise.gelu, elementwise._gelu_rational])
def test_gelu_equals_float64(function):
    x = np.concatenate([np.linspace(-12, 12, 20001), [0.0, 1e4, -1e4, 1e-20]]).astype(np.float32)
    wanted = x * 0.5 * (1 + erf64(x.astype(np.float64) / math.sqrt(2)))
    # erf is off by up to two roundings of 1, 1.2e-7 each, times |x| / 2 where the tail vanishes, |x| < 6
    np.testing.assert_allclose(function(mx.array(x)), wanted, rtol=4e-7, atol=8e-7)


def test_gelu_in_blocks_and_half_precision():
    x = mx.random.normal((3, elementwise.BLOCK // 2 + 11), key=mx.random.key(0))
    np.testing.assert_allclose(elementwise.gelu(x), nn.gelu(x), rtol=0, atol=1e-6)
    half = x[:, :100].astype(mx.float16)
    assert elementwise.gelu(half).dtype == mx.float16
    assert mx.array_equal(elementwise.gelu(half), nn.gelu(half))


@settings(max_examples=50)
@given(st.lists(st.floats(-126, 0, width=32), min_size=1, max_size=50))
def test_exp2_equals_float64(values):
    x = np.array([*values, 0.0, -0.5, -1.0, -125.5, -126.0], np.float32)
    # the polynomial's 8e-8 and the rounding of its five steps
    np.testing.assert_allclose(
        elementwise.exp2_nonpositive(mx.array(x)), 2.0 ** x.astype(np.float64), rtol=4e-7
    )


def test_exp2_below_its_range_is_next_to_nothing():
    found = np.array(elementwise.exp2_nonpositive(mx.array([-127.0, -1e9, -np.inf])))
    np.testing.assert_allclose(found, 2.0**-126, rtol=4e-7)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 30.0, 1000.0]))
def test_logsumexp_equals_float64(seed, spread):
    x = np.random.default_rng(seed).normal(0, spread, (3, 257)).astype(np.float32)
    x[1, ::2] = -1e9
    wide = x.astype(np.float64)
    top = wide.max(-1)
    wanted = top + np.log(np.exp(wide - top[:, None]).sum(-1))
    np.testing.assert_allclose(elementwise.logsumexp(mx.array(x)), wanted, rtol=3e-7, atol=1e-6)


def test_layout_by_columns_keeps_the_numbers():
    x = mx.random.normal((2, 5, 7), key=mx.random.key(0))
    assert mx.array_equal(by_columns(x), x)
    assert mx.array_equal(by_columns(x[0]), x[0])


# --- log-mel ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heard() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "log_mel.npz") as file:
        return {k: file[k] for k in file}


@pytest.mark.parametrize("bands", [80, 128])
def test_log_mel_equals_the_original(heard, bands):
    found = log_mel(mx.array(heard["audio"].astype(np.float32) / 4096), bands)
    assert found.shape == (100, bands)
    # a quarter of a log10; weak bands lose digits in both float32 transforms: measured 1e-5 and 2e-5
    np.testing.assert_allclose(found, heard[f"mel{bands}"], rtol=0, atol=1e-4)


def test_log_mel_rows_do_not_touch(heard):
    audio = heard["audio"].astype(np.float32) / 4096
    rows = np.stack([audio, audio * 0.01, np.zeros_like(audio)])
    found = log_mel(mx.array(rows))
    for row, single in zip(found, rows, strict=True):
        np.testing.assert_allclose(row, log_mel(mx.array(single)), rtol=0, atol=1e-6)
    assert (np.array(found[2]) == -1.5).all()


def test_pad_or_trim():
    assert np.array_equal(pad_or_trim(np.ones(3), 5), [1, 1, 1, 0, 0])
    assert np.array_equal(pad_or_trim(np.arange(9), 5), range(5))
    assert pad_or_trim(np.ones(7, np.float32)).shape == (480_000,)

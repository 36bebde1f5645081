"""Whisper's step as one launch: its source run as C++, and the decoder with it."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_speech import runtime
from mlx_speech.layers import gpu
from mlx_speech.layers.attention import attend
from mlx_speech.models import whisper_rows, whisper_step
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.models.whisper_step import Joined, Turn
from mlx_speech.runtime import SlowRecurrenceWarning
from mlx_speech.stages.prompt import Prompt
from mlx_speech.stages.steps import begin

HOST = """
constexpr int WARPS = 4;
#include "%(emulated)s"
#include "%(source)s"
int main() {
  int n[11];
  if (fread(n, 4, 11, stdin) != 11) return 1;
  const int R = n[0], W = n[1], H = n[2], L = n[3], length = n[4], C = n[5], F = n[6], shares = n[7], V = n[8];
  const int D = 64 * H, blocks = n[9];
  auto read = [](auto kind, size_t n) {
    std::vector<decltype(kind)> x(n);
    if (fread(x.data(), sizeof kind, n, stdin) != n) exit(1);
    return x;
  };
  auto tokens = read(int(), R);
  auto embedding = read(Half(), V * D), positions = read(Half(), (length + 1) * D);
  auto gains = read(Half(), (3 * L + 1) * D);
  auto vectors = read(float(), L * 19 * D), ends = read(float(), 2 * V);
  auto cache = read(Half(), L * 2 * R * D * C);
  std::vector<std::vector<Half>> many;
  for (int i = 0; i < 3 * L; ++i) many.push_back(read(Half(), i < L ? 14 * D * D : W * F * D));
  std::vector<const Half*> places;
  for (auto& a : many) places.push_back(a.data());
  std::vector<Half> kv(L * 2 * R * D), room(7 * R * D);
  std::vector<float> scores(R * V, NAN), part(R * H * shares * PART, NAN);
  int arrived = 7 * blocks;
  known = {of(tokens), of(embedding), of(positions), of(gains), of(vectors), of(ends), of(cache), of(kv), of(room),
           of(part)};
  for (auto& a : many) known.push_back(of(a));
  Step<Half> s{tokens.data(), embedding.data(), positions.data(), places.data(), gains.data(), vectors.data(),
               ends.data(), cache.data(), places.data() + L, scores.data(), kv.data(), room.data(), part.data(),
               R, W, H, L, length, C, F, shares, V};
  run_blocks(blocks, WARPS, memory_of(n[10]), &arrived,
             [&](Here& me) { n[10] == 1 ? step<1>(me, s) : step<4>(me, s); });
  fwrite(scores.data(), 4, scores.size(), stdout);
  fwrite(kv.data(), 2, kv.size(), stdout);
}
"""


def whisper(layers=2, heads=2, dtype=mx.float16):
    width = 64 * heads
    mx.random.seed(0)
    model = Whisper(WhisperConfig(80, 20, width, heads, 1, 60, 80, width, heads, layers))
    values = {}
    for key, old in nn.utils.tree_flatten(model.parameters()):
        new = mx.random.normal(old.shape) * (0.1 if old.ndim > 1 else 0.3)
        values[key] = (new + 1 if "ln" in key and key.endswith("weight") else new).astype(mx.float16)
    model.load_weights([(k, v.astype(dtype)) for k, v in values.items()])
    return model


@pytest.fixture(scope="module")
def program(as_program):
    folder = Path(whisper_step.__file__).parent
    return as_program(
        HOST % {"emulated": Path(__file__).parent / "emulated.h", "source": folder / "whisper_step.cu"}
    )


def run(program, known, tokens, cache, audio, shares, blocks, tiles):
    """What :func:`mlx_speech.models.whisper_step.launch` gives, from the C++ program."""
    layers, _, rows, heads, room, _ = cache.memory.shape
    windows, _, frames, _ = audio[0][0].shape
    vocabulary = len(known.embedding)
    sizes = [rows, windows, heads, layers, cache.length, room, frames, shares, vocabulary, blocks, tiles]
    half = lambda *some: [np.array(a.astype(mx.float16)) for a in some]  # noqa: E731
    given = [
        np.array(sizes, np.int32), np.array(tokens.astype(mx.int32)),
        *half(known.embedding, known.positions[: cache.length + 1], known.gains),
        np.array(known.vectors), np.array(known.ends),
        *half(cache.memory, *known.weights, *(a for pair in audio for a in pair)),
    ]  # fmt: skip
    found = program(given)
    scores = np.frombuffer(found, np.float32, rows * vocabulary)
    kv = np.frombuffer(found, np.float16, offset=scores.nbytes)
    return scores.reshape(rows, -1), mx.array(kv.reshape(layers, 2, rows, heads, 1, 64))


def plain(model, tokens, state):
    """Scores (R, V) after tokens (R, L), by MLX's own operations."""
    return model.logits(model.step(tokens, state)[:, -1])


@pytest.mark.parametrize(
    ("windows", "width", "shares", "blocks", "tiles"),
    [
        (1, 1, 3, 3, 1),  # shares of unlike sizes
        (2, 3, 2, 5, 1),  # rows that hear the same
        (3, 1, 1, 2, 1),
        (9, 2, 1, 3, 4),
        (35, 2, 2, 3, 4),  # more than 64 rows
    ],
)
def test_the_kernel_run_as_coroutines(program, windows, width, shares, blocks, tiles):
    model = whisper(dtype=mx.float32)
    known = whisper_step.layout(model)
    features = mx.random.normal((windows, 20, 128))
    rows = windows * width
    prompt = mx.arange(3 * windows).reshape(windows, 3) % 60
    states = []
    for _ in range(2):
        state = model.begin(features)
        model.step(prompt, state)
        states.append(state.repeat(width))
    state, other = states
    joined = Joined.of(other.self_attention, None)
    for number in range(2):
        tokens = (mx.arange(rows) + 5 * number) % 60
        wanted = np.array(plain(model, tokens[:, None], state))
        joined.grow()
        found, kv = run(program, known, tokens, joined, other.cross_attention, shares, blocks, tiles)
        joined.write(kv.astype(mx.float32))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())


# --- the decoder with it, the launch computed by MLX on the CPU ----------------------------------------------


class Device:
    """Stands for a GPU: what the kernel computes from a layout, in MLX's operations, or something wrong."""

    def __init__(self, error=0.0, failure=None):
        self.error, self.failure, self.rows = error, failure, []

    def launch(self, known, tokens, cache, audio):
        if self.failure:
            raise self.failure
        assert cache.memory.shape[4] > cache.length
        self.rows.append(len(tokens))
        layers, _, rows, heads, _, size = cache.memory.shape
        width = heads * size
        vectors = known.vectors.reshape(layers, 19, width)
        x = known.embedding[tokens] + known.positions[cache.length]
        kept = []
        for n in range(layers):
            words = cache.memory[n, :, :, :, : cache.length]
            gains = known.gains[3 * n : 3 * n + 3]
            weights = known.weights[n].reshape(14, width, width)
            x, *new = layer(x, weights, vectors[n], gains, words, audio[n])
            kept += new
        scores = normed(x, known.gains[-1], known.embedding, *known.ends)
        kv = mx.stack(kept).reshape(layers, 2, rows, heads, 1, size)
        return scores.astype(mx.float32) + self.error, kv.astype(cache.memory.dtype)


def layer(x, w, f, gains, words, audio):
    """A block of the decoder as the kernel's layout has it: weights (14, D, D), vectors (19, D)."""
    rows, width = x.shape
    heads = words.shape[2]

    def split(y):
        return y.reshape(rows, heads, 1, -1)

    ask = normed(x, gains[0], w[:3].reshape(-1, width), f[:3].reshape(-1), f[3:6].reshape(-1))
    q, *new = (split(y) for y in mx.split(ask, 3, axis=1))
    seen = [mx.concatenate(pair, axis=2) for pair in zip(words, new, strict=True)]
    x = x + attend(q, *seen).reshape(rows, width) @ w[3].T + f[6]
    q = split(normed(x, gains[1], w[4], f[7], f[8]))
    heard = [mx.repeat(a, rows // len(a), axis=0) for a in audio]
    x = x + attend(q, *heard).reshape(rows, width) @ w[5].T + f[9]
    inner = normed(x, gains[2], w[6:10].reshape(-1, width), f[10:14].reshape(-1), f[14:18].reshape(-1))
    return x + nn.gelu(inner) @ w[10:].reshape(width, -1).T + f[18], *new


def normed(x, gain, weight, shift, centre):
    """A linear layer after a norm, as the kernel computes it."""
    mean = x.mean(axis=1, keepdims=True)
    deviation = mx.rsqrt(x.var(axis=1, keepdims=True) + 1e-5)
    return ((x * gain) @ weight.T - mean * centre) * deviation + shift


@pytest.fixture
def device(monkeypatch):
    """Installs a GPU on which float32 counts as half precision, so that tokens can be compared."""

    def install(**how):
        found = Device(**how)
        monkeypatch.setattr(runtime, "on_cpu", lambda: False)
        monkeypatch.setattr(whisper_rows.rows, "available", lambda *_: False)
        monkeypatch.setattr(gpu, "on_cuda", lambda: True)
        monkeypatch.setattr(gpu, "capability", lambda: 9)
        monkeypatch.setattr(whisper_step, "_DTYPES", (mx.float32,))
        monkeypatch.setattr(whisper_step, "launch", found.launch)
        return found

    return install


def decode(model, features, width=1, count=4, order=None):
    """Scores (count, R, V) of fixed tokens, the rows taken in another order on the way."""
    state = model.start(features)
    model.step(mx.arange(3)[None] + mx.arange(len(features))[:, None], state)
    state = state.repeat(width) if width > 1 else state
    found = []
    for number in range(count):
        if order is not None:
            state = state.take(mx.array(order))
        tokens = (mx.arange(len(features) * width) * 7 + number) % 60
        found.append(np.array(model.next(tokens, state)))
    state.end()
    return np.stack(found)


@pytest.mark.parametrize(
    ("windows", "width", "order"), [(1, 1, None), (3, 1, None), (2, 3, [1, 0, 0, 5, 3, 3]), (9, 2, None)]
)
def test_the_decoder_takes_the_launch(device, windows, width, order):
    model, features = whisper(dtype=mx.float32), mx.random.normal((windows, 20, 128))
    wanted = decode(model, features, width, order=order)
    gpu_ = device()
    found = decode(model, features, width, order=order)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert gpu_.rows[-4:] == [windows * width] * 4


def test_the_cache_grows(device):
    model, features = whisper(dtype=mx.float32), mx.random.normal((1, 20, 128))
    wanted = decode(model, features, count=70)
    gpu_ = device()
    np.testing.assert_allclose(decode(model, features, count=70), wanted, atol=5e-4)
    assert len(gpu_.rows) == 2 + 70  # with the trial


def test_windows_that_are_done_are_left(device):
    model, features = whisper(dtype=mx.float32), mx.random.normal((3, 20, 128))

    def run():
        prompt = Prompt(rows=((1, 2, 3),) * 3, start=0)
        with begin(model, features, prompt, 2, 10) as steps:
            steps.feed(mx.arange(6))
            steps.keep(mx.array([0, 1, 4, 5]), np.array([0, 2]))
            steps.feed(mx.arange(4))
            return np.array(steps.logits)

    runtime_says = runtime.on_cpu
    device()
    found = run()
    assert Turn._taken.acquire(blocking=False)  # it was given back
    wanted = run()  # somebody else has it
    Turn._taken.release()
    assert runtime_says()
    assert found.shape == (4, 60)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_one_decoding_at_a_time_has_the_launch(device):
    model, features = whisper(dtype=mx.float32), mx.random.normal((1, 20, 128))
    gpu_ = device()
    prompt, token = mx.array([[1, 2]]), mx.array([3])
    first, second = model.start(features), model.start(features)
    for state in (first, second):
        model.step(prompt, state)
    gpu_.rows.clear()
    mine, other = model.next(token, first), model.next(token, second)
    assert gpu_.rows == [7, 7, 1]  # after the trial
    np.testing.assert_allclose(np.array(mine), np.array(other), atol=2e-4)
    first.end()
    again, more = model.next(token, second), model.next(token, first)  # now it is the other way round
    assert gpu_.rows == [7, 7, 1, 1]
    np.testing.assert_allclose(np.array(more), np.array(again), atol=2e-4)
    del first, second, state  # whoever forgets to end it loses it with the state
    assert Turn.take() is not None


def test_the_first_token_may_be_one(device):
    model, features = whisper(dtype=mx.float32), mx.random.normal((2, 20, 128))

    def run():
        state = model.start(features)
        return np.stack([np.array(model.next(mx.array([n, n + 1]), state)) for n in range(3)])

    wanted = run()
    device()
    np.testing.assert_allclose(run(), wanted, atol=2e-4)


def test_several_tokens_may_follow(device):
    model, features = whisper(dtype=mx.float32), mx.random.normal((2, 20, 128))

    def run():
        state = model.start(features)
        model.step(mx.array([[1, 2], [3, 4]]), state)
        model.next(mx.array([5, 6]), state)
        return np.array(plain(model, mx.array([[7, 8], [9, 10]]), state))

    wanted = run()
    device()
    np.testing.assert_allclose(run(), wanted, atol=2e-4)


def test_weights_given_later_count(device):
    model, features = whisper(dtype=mx.float32), mx.random.normal((1, 20, 128))
    device()
    decode(model, features)
    model.decoder.blocks[0].fc2.weight = model.decoder.blocks[0].fc2.weight * 2
    other = Whisper(model.config)
    other.update(model.parameters())
    np.testing.assert_allclose(decode(model, features), decode(other, features), atol=1e-5)


def test_the_model_s_weights_are_views():
    model = whisper(dtype=mx.float32)
    before = {k: np.array(v) for k, v in nn.utils.tree_flatten(model.parameters())}
    known = whisper_step.layout(model)
    for key, value in nn.utils.tree_flatten(model.parameters()):
        np.testing.assert_array_equal(np.array(value), before[key], err_msg=key)
    # a view is made of no memory: what it is written to is the whole
    whole = np.array(known.weights[1], copy=False)
    view = np.array(model.decoder.blocks[1].fc1.weight, copy=False)
    assert np.shares_memory(whole, view)


def misfits():
    quantised = whisper(dtype=mx.float32)
    nn.quantize(quantised.decoder, 64, 8, class_predicate=lambda _, m: isinstance(m, nn.Linear))
    narrow = Whisper(WhisperConfig(80, 20, 96, 3, 1, 60, 80, 96, 3, 2))
    return {"quantised": quantised, "heads of 32": narrow, "half": whisper(dtype=mx.float16)}


@pytest.mark.parametrize("name", ["quantised", "heads of 32", "half"])
def test_what_does_not_fit_takes_mlx_s_own(device, name):
    model = misfits()[name]
    gpu_ = device()
    decode(model, mx.random.normal((1, 20, model.config.n_text_state)).astype(model.dtype))
    assert gpu_.rows == []


def test_an_old_gpu_takes_mlx_s_own(device, monkeypatch):
    gpu_ = device()
    monkeypatch.setattr(gpu, "capability", lambda: 7)
    decode(whisper(dtype=mx.float32), mx.random.normal((1, 20, 128)))
    assert gpu_.rows == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"error": 5.0}, "of the largest number off"),
        ({"error": float("nan")}, "nan of the largest number off"),
        ({"failure": RuntimeError("too many resources")}, "too many resources"),
    ],
)
def test_a_launch_that_does_not_work_is_left(device, how, message):
    model, features = whisper(dtype=mx.float32), mx.random.normal((1, 20, 128))
    wanted = decode(model, features)
    device(**how)
    with pytest.warns(SlowRecurrenceWarning, match=message):
        found = decode(model, features)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert Turn.take() is not None


def test_what_the_kernel_is_given(monkeypatch):
    calls = []

    def kernel(name, names, outputs, body, header, shared_memory):
        def call(inputs, output_shapes, output_dtypes, **how):
            given = dict(zip(names, inputs, strict=True))
            calls.append((given, dict(zip(outputs, output_shapes, strict=True)), how))
            return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return call

    monkeypatch.setattr(gpu, "cuda_kernel", kernel)
    monkeypatch.setattr(gpu, "processors", lambda: 132)
    whisper_step._kernel.cache_clear()
    model = whisper()
    known = whisper_step.layout(model)
    for rows, tiles, shares in ((2, 1, 8), (9, 4, 7)):
        state = model.begin(mx.zeros((rows, 20, 128), mx.float16))
        model.step(mx.zeros((rows, 3), mx.int32), state)
        joined = Joined.of(state.self_attention, Turn.take())
        scores, kv = whisper_step.launch(known, mx.arange(rows), joined, state.cross_attention)
        given, shapes, how = calls.pop()
        assert [given[f"w{n}"] for n in range(2)] == [*known.weights]
        assert [given[f"audio{n}"] for n in range(4)] == [a for pair in state.cross_attention for a in pair]
        assert given["cache"] is joined.memory
        assert given["arrived"] is joined.turn.arrived
        assert (given["length"][0].item(), given["shares"][0].item()) == (3, shares)
        assert (given["tokens"].dtype, given["embedding"]) == (mx.int32, known.embedding)
        assert shapes["part"] == (rows * 2 * shares, whisper_step.PART)
        assert (scores.shape, kv.shape) == ((rows, 60), (2, 2, rows, 2, 1, 64))
        assert how["template"] == [("T", mx.float16), ("NT", tiles)]
        assert how["grid"] == (132 * 256, 1, 1)
        del joined
    whisper_step._kernel.cache_clear()


def test_audio_is_cut_so_that_few_blocks_are_idle():
    assert whisper_step._shares(8, 1500, 132) == 8  # the most
    assert whisper_step._shares(64, 1500, 132) == 2
    assert whisper_step._shares(132, 1500, 132) == 1
    assert whisper_step._shares(1280, 1500, 132) == 1


def test_the_source_travels_with_the_package():
    source = whisper_step.source()
    assert "__launch_bounds__(256)" in source
    assert "void step(" in source
    assert "//" not in source

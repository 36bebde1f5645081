"""Linear layers for few rows: the kernel's source run as C++ by as many threads, and the decoder with it."""

from __future__ import annotations

import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_speech.layers import rows
from mlx_speech.models import whisper_rows
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.runtime import SlowRecurrenceWarning

HOST = """
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>
using std::min;
using T = float;
constexpr int R = %(R)d, WARPS = %(WARPS)d;
const int what[] = {%(what)s};
std::barrier<> together(32 * WARPS);
struct Warp { std::barrier<> all{32}; float passed[32]; };
std::unique_ptr<Warp> warps[WARPS];
float known[2 * R];
static float sum_of_warp(int thread, float x) {
  Warp& w = *warps[thread / 32];
  w.passed[thread %% 32] = x;
  w.all.arrive_and_wait();
  float total = 0;
  for (float y : w.passed) total += y;
  w.all.arrive_and_wait();
  return total;
}
#define GLOBAL
#define UNROLL
#define BARRIER together.arrive_and_wait()
#define SQRT(x) std::sqrt(x)
#define EXP(x) std::exp(x)
#define SUM(x) sum_of_warp(thread, x)
static void work(int thread, int group, const T* x, const int* x_shape, const T* w, const int* w_shape,
                 const T* bias, const T* gamma, const T* beta, const T* onto, T* y) {
%(body)s
}
int main() {
  int shape[3];
  if (fread(shape, 4, 3, stdin) != 3) return 1;
  const int B = shape[0], K = shape[1], O = shape[2];
  auto read = [](size_t n) { std::vector<float> x(n); if (fread(x.data(), 4, n, stdin) != n) exit(1); return x; };
  auto x = read(B * K), w = read(O * K), bias = read(O), gamma = read(K), beta = read(K), onto = read(B * O);
  const int x_shape[] = {B, K}, w_shape[] = {O, K};
  std::vector<float> y(B * O, NAN);
  for (auto& w : warps) w = std::make_unique<Warp>();
  for (int group = 0; group < (O + WARPS - 1) / WARPS; ++group) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 32 * WARPS; ++t)
      threads.emplace_back(work, t, group, x.data(), x_shape, w.data(), w_shape, bias.data(), gamma.data(),
                           beta.data(), onto.data(), y.data());
    for (auto& t : threads) t.join();
  }
  fwrite(y.data(), 4, y.size(), stdout);
}
"""


def problem(count, inputs, outputs):
    random = np.random.default_rng(inputs)
    shapes = [(count, inputs), (outputs, inputs), (outputs,), (inputs,), (inputs,), (count, outputs)]
    return [
        (random.normal(size=s) / (inputs**0.5 if n == 1 else 1)).astype(np.float32)
        for n, s in enumerate(shapes)
    ]


@pytest.mark.parametrize(
    ("shape", "size", "what"),
    [
        ((1, 16, 9), 1, (0, 0, 1)),  # most lanes have nothing to do, and the second block's warps
        ((3, 264, 11), 4, (1, 1, 0)),  # a row that is not there, a second round for one lane
        ((2, 256, 8), 2, (1, 0, 0)),
    ],
)
def test_the_kernel_run_by_threads(as_program, shape, size, what):
    given = problem(*shape)
    about = {"what": ", ".join(map(str, what)), "R": size, "WARPS": rows._WARPS, "body": rows._BODY}
    found = np.frombuffer(as_program(HOST % about)([np.array(shape, np.int32), *given]), np.float32)
    found = found.reshape(shape[0], shape[2])
    wanted = rows.reference(what, *(a.astype(np.float64) for a in given))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6)


class Device:
    """Stands for a GPU: kernels are computed by MLX on the CPU, so that they can be traced, or fail."""

    def __init__(self, error=0.0, failure=None):
        self.error, self.failure, self.shapes = error, failure, []

    def launch(self, inputs):
        if self.failure:
            raise self.failure
        x, weight, bias, gamma, beta, onto, what = inputs
        norm, gelu, added = what.tolist()
        self.shapes.append(x.shape)
        x = mx.fast.layer_norm(x, gamma, beta, 1e-5) if norm else x
        y = x @ weight.T + bias
        y = nn.gelu(y) if gelu else y
        return (y + onto if added else y) + self.error


@pytest.fixture
def device(monkeypatch):
    def install(**how):
        found = Device(**how)
        monkeypatch.setattr(rows.runtime, "on_cpu", lambda: False)
        monkeypatch.setattr(rows, "_launch", found.launch)
        rows._works.cache_clear()
        whisper_rows._parts.cache_clear()
        return found

    yield install
    rows._works.cache_clear()
    whisper_rows._parts.cache_clear()


@pytest.fixture
def whisper():
    mx.random.seed(0)
    model = Whisper(WhisperConfig(80, 20, 32, 2, 1, 60, 24, 32, 2, 2))
    model.load_weights([(k, mx.random.normal(v.shape)) for k, v in nn.utils.tree_flatten(model.parameters())])
    return model


def steps(model, features, width=1):
    state = model.start(features).repeat(width) if width > 1 else model.start(features)
    rows_of = len(features) * width
    tokens = [mx.arange(rows_of)[:, None] + n for n in range(3)]
    return np.array(mx.concatenate([model.step(t, state) for t in tokens], axis=1))


@pytest.mark.parametrize(("windows", "width"), [(1, 1), (3, 1), (2, 3)])
def test_the_decoder_takes_the_kernels(device, monkeypatch, whisper, windows, width):
    features = mx.random.normal((windows, 20, 32))
    plain = steps(whisper, features, width)
    gpu = device()
    found = steps(whisper, features, width)
    np.testing.assert_allclose(found, plain, atol=2e-5)
    # a part is traced once for all layers: before, between and after
    assert gpu.shapes.count((windows * width, 32)) >= 10


def test_many_rows_and_prompts_take_products(device, whisper):
    gpu = device()
    steps(whisper, mx.random.normal((rows.MOST + 1, 20, 32)))
    assert rows.MOST + 1 not in {count for count, _ in gpu.shapes}
    gpu.shapes.clear()
    whisper.step(mx.zeros((1, 4), mx.int32), whisper.start(mx.zeros((1, 20, 32))))
    assert gpu.shapes == []


def test_quantised_layers_take_mlx_s_own(device, whisper):
    gpu = device()
    whisper.start(mx.zeros((1, 20, 32)))
    nn.quantize(whisper.decoder, group_size=32, bits=8, class_predicate=lambda _, m: isinstance(m, nn.Linear))
    gpu.shapes.clear()
    steps(whisper, mx.zeros((1, 20, 32)))
    assert gpu.shapes == []


def test_weights_given_later_count(device, whisper):
    features = mx.random.normal((1, 20, 32))
    device()
    steps(whisper, features)
    query = whisper.decoder.blocks[0].attn.query
    query.weight = query.weight * 2
    found = steps(whisper, features)
    other = Whisper(whisper.config)
    other.update(whisper.parameters())
    np.testing.assert_allclose(found, steps(other, features), atol=1e-6)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"error": 1e-2}, "1.0e-02 off"),
        ({"error": float("nan")}, "nan off"),
        ({"failure": RuntimeError("too many resources")}, "too many resources"),
    ],
)
def test_a_kernel_that_does_not_work_is_left(device, whisper, how, message):
    features = mx.random.normal((1, 20, 32))
    plain = steps(whisper, features)
    device(**how)
    with pytest.warns(SlowRecurrenceWarning, match=message):
        found = steps(whisper, features)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(whisper, features)


def test_a_step_that_comes_out_otherwise_is_left(device, monkeypatch, whisper):
    features = mx.random.normal((1, 20, 32))
    plain = steps(whisper, features)
    device()
    ask = whisper_rows._ask
    monkeypatch.setattr(whisper_rows, "_ask", lambda *given: ask(*given)[::-1])
    with pytest.warns(SlowRecurrenceWarning, match="of the largest number off"):
        found = steps(whisper, features)
    np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize("way", rows._WAYS)
def test_the_trial_meets_all_inputs(device, way):
    device()
    assert rows._error(8, mx.float32, *way) < 1e-5
    device(error=0.5)
    assert rows._error(8, mx.float32, *way) == pytest.approx(0.5, abs=1e-5)

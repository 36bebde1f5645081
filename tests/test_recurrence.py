"""The kernel of LSTMs on a GPU: its source run as C++ by as many threads, and when the plain loop is taken."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_speech.errors import OptionError
from mlx_speech.layers import recurrence
from mlx_speech.layers.lstm import LSTM, LSTMLayer
from mlx_speech.runtime import SlowRecurrenceWarning

HOST = """
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <thread>
#include <vector>
using std::min;
struct float4 { float x, y, z, w; };
constexpr int H = %(H)d, N = %(N)d, KR = %(KR)d, KS = %(KS)d;
std::barrier<> together(2 * H);
float passed[2 * H];
float4 shared[4 * KS * 2 * H + 2 * N * H / 4];
static float exchange(int thread, float x) {
  passed[thread] = x;
  together.arrive_and_wait();
  const float y = passed[thread ^ 1];
  together.arrive_and_wait();
  return y;
}
#define GLOBAL
#define SHARED
#define UNROLL
#define BARRIER together.arrive_and_wait()
#define EXCHANGE(x) exchange(thread, x)
#define SIGMOID(x) (1.0f / (1.0f + std::exp(-(x))))
#define DOT(a, b, sum) ((sum) + (a).x * (b).x + (a).y * (b).y + (a).z * (b).z + (a).w * (b).w)
static void work(int thread, int group, const float* gates, const int* gates_shape, const float* weight,
                 const float* h, const float* c, float* y, float* h_last, float* c_last) {
%(body)s
}
int main() {
  int shape[4];
  if (fread(shape, 4, 4, stdin) != 4) return 1;
  const int B = shape[0], T = shape[1], D = shape[2];
  auto read = [](size_t n) { std::vector<float> x(n); if (fread(x.data(), 4, n, stdin) != n) exit(1); return x; };
  auto gates = read(B * T * D * 4 * H), weight = read(D * 4 * H * H), h = read(D * B * H), c = read(D * B * H);
  std::vector<float> y(B * T * D * H, NAN), hl(D * B * H, NAN), cl(D * B * H, NAN);
  for (int group = 0; group < D * ((B + N - 1) / N); ++group) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 2 * H; ++t)
      threads.emplace_back(work, t, group, gates.data(), shape, weight.data(), h.data(), c.data(), y.data(),
                           hl.data(), cl.data());
    for (auto& t : threads) t.join();
  }
  for (auto* x : {&y, &hl, &cl}) fwrite(x->data(), 4, x->size(), stdout);
}
"""


def problem(batch, steps, directions, hidden):
    random = np.random.default_rng(hidden)
    gates = random.normal(size=(batch, steps, directions, 4 * hidden))
    weight = random.normal(size=(directions, 4 * hidden, hidden)) / hidden**0.5
    h, c = random.normal(size=(2, directions, batch, hidden)) / 2
    return [x.astype(np.float32) for x in (gates, weight, h, c)]


@pytest.mark.parametrize(
    ("shape", "constants"),
    [
        ((1, 5, 1, 32), {"N": 1, "KR": 1, "KS": 1}),  # the rest of the weights from memory
        ((3, 4, 2, 32), {"N": 2, "KR": 2, "KS": 1}),  # a block that is not full
        ((5, 3, 2, 16), {"N": 4, "KR": 0, "KS": 0}),  # as on Metal
    ],
)
def test_the_kernel_run_by_threads(as_program, shape, constants):
    gates, weight, h, c = problem(*shape)
    body = recurrence._BODY.replace("constexpr int THREADS", "[[maybe_unused]] constexpr int THREADS")
    program = as_program(HOST % {**constants, "H": shape[3], "body": body})
    ordered = np.array(recurrence._by_thread(mx.array(weight)))
    found = np.frombuffer(program([np.array(gates.shape, np.int32), gates, ordered, h, c]), np.float32)
    wanted = recurrence.reference(*(x.astype(np.float64) for x in (gates, weight, h, c)))
    np.testing.assert_allclose(found, np.concatenate([x.ravel() for x in wanted]), rtol=0, atol=1e-6)


def test_the_order_of_the_weights():
    """Thread (unit, lane) finds its groups of four columns one after the other, gate by gate."""
    weight = np.arange(4 * 32 * 32, dtype=np.float32).reshape(1, 128, 32)
    ordered = np.array(recurrence._by_thread(mx.array(weight))).reshape(4, 4, 64, 4)
    for group, gate, unit, lane in ((0, 0, 0, 0), (3, 2, 31, 1), (1, 3, 7, 0)):
        begin = 8 * group + 4 * lane
        wanted = weight[0, gate * 32 + unit, begin : begin + 4]
        assert np.array_equal(ordered[group, gate, 2 * unit + lane], wanted)


class Device:
    """Stands for a GPU: the kernel is computed by numpy, or fails."""

    def __init__(self, error=0.0, failure=None):
        self.error, self.failure, self.shapes = error, failure, []

    def launch(self, gates, weight, h, c, sequences):
        if self.failure:
            raise self.failure
        self.shapes.append(gates.shape)
        found = recurrence.reference(*(np.array(x, np.float64) for x in (gates, weight, h, c)))
        return tuple(mx.array((x + self.error).astype(np.float32)) for x in found)


@pytest.fixture
def device(monkeypatch):
    def install(**how):
        found = Device(**how)
        monkeypatch.setattr(recurrence.runtime, "on_cpu", lambda: False)
        monkeypatch.setattr(recurrence, "_launch", found.launch)
        recurrence._works.cache_clear()
        return found

    yield install
    recurrence._works.cache_clear()


@pytest.mark.parametrize("hidden", [16, 20])  # 20 is filled up to 32
@pytest.mark.parametrize("directions", [1, 2])
def test_layers_take_the_kernel(device, monkeypatch, hidden, directions):
    mx.random.seed(0)
    layer = LSTMLayer(7, hidden, directions)
    layer.bias = mx.random.normal(layer.bias.shape)
    x = mx.random.normal((3, 5, 7))
    wanted = np.array(layer(x))
    gpu = device()
    np.testing.assert_allclose(np.array(layer(x)), wanted, atol=1e-6)
    assert gpu.shapes[-1] == (3, 5, directions, 4 * (32 if hidden == 20 else 16))
    monkeypatch.setenv("MLX_SPEECH_LSTM", "plain")
    before = len(gpu.shapes)
    np.testing.assert_allclose(np.array(layer(x)), wanted, atol=1e-6)
    assert len(gpu.shapes) == before


def test_a_state_is_carried_through_the_kernel(device):
    mx.random.seed(1)
    lstm = LSTM(4, 20)
    x = mx.random.normal((2, 6, 4))
    whole, last = lstm(x)
    device()
    first, state = lstm(x[:, :2])
    second, end = lstm(x[:, 2:], state)
    np.testing.assert_allclose(np.array(mx.concatenate([first, second], axis=1)), np.array(whole), atol=1e-6)
    np.testing.assert_allclose(np.array(end.h), np.array(last.h), atol=1e-6)
    np.testing.assert_allclose(np.array(end.c), np.array(last.c), atol=1e-6)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"error": 1e-4}, "1.0e-04 off"),
        ({"error": float("nan")}, "nan off"),
        ({"failure": RuntimeError("too many resources")}, "too many resources"),
    ],
)
def test_a_kernel_that_is_wrong_is_not_used(device, how, message):
    mx.random.seed(2)
    layer = LSTMLayer(3, 16, 2)
    x = mx.random.normal((2, 4, 3))
    wanted = np.array(layer(x))
    device(**how)
    with pytest.warns(SlowRecurrenceWarning, match=message):
        found = layer(x)
    np.testing.assert_allclose(np.array(found), wanted, atol=1e-6)
    assert np.array_equal(np.array(layer(x)), np.array(found))  # and it is said once


def test_too_many_features_take_the_loop(device):
    gpu = device()
    layer = LSTMLayer(3, recurrence.MAX_HIDDEN + 1, 1)
    assert layer(mx.zeros((1, 2, 3))).shape == (1, 2, recurrence.MAX_HIDDEN + 1)
    assert not gpu.shapes


def test_the_variable_takes_one_value(monkeypatch):
    monkeypatch.setenv("MLX_SPEECH_LSTM", "fast")
    with pytest.raises(OptionError, match="MLX_SPEECH_LSTM"):
        recurrence.runtime.plain_recurrence()


@pytest.mark.parametrize("size", [16, 128, 144, 256, 272, 512])
def test_blocks_fit_a_gpu(size, monkeypatch):
    """Registers and shared memory of a block, as the CUDA kernel asks for them."""
    monkeypatch.setattr(recurrence.gpu, "on_cuda", lambda: True)
    for batch in (1, 100, 1000):
        sequences = recurrence._sequences(size, batch, 2)
        kept, stored = recurrence._kept(size, sequences)
        assert kept + stored <= size // 8
        assert 128 * size * stored + 8 * sequences * size <= recurrence._SHARED_BYTES
        assert 2 * size * 16 * kept < 65536
        assert 2 * size <= 1024

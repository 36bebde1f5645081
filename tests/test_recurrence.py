"""The kernel of LSTMs on a GPU: its source run as C++ by as many threads, and when the plain loop is taken."""

from __future__ import annotations

import re
import shutil
import subprocess

import mlx.core as mx
import numpy as np
import pytest

from mlx_speech.errors import OptionError
from mlx_speech.layers import recurrence
from mlx_speech.layers.lstm import DeepLSTM, LSTMLayer, recur

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
compiler = shutil.which("g++") or shutil.which("clang++")


def problem(batch, steps, directions, hidden):
    random = np.random.default_rng(hidden)
    gates = random.normal(size=(batch, steps, directions, 4 * hidden))
    weight = random.normal(size=(directions, 4 * hidden, hidden)) / hidden**0.5
    h, c = random.normal(size=(2, directions, batch, hidden)) / 2
    return [x.astype(np.float32) for x in (gates, weight, h, c)]


@pytest.mark.skipif(not compiler, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("shape", "constants"),
    [
        ((1, 5, 1, 32), {"N": 1, "KR": 1, "KS": 1}),  # the rest of the weights from memory
        ((3, 4, 2, 32), {"N": 2, "KR": 2, "KS": 1}),  # a block that is not full
        ((5, 3, 2, 16), {"N": 4, "KR": 0, "KS": 0}),  # as on Metal
    ],
)
def test_the_kernel_run_by_threads(tmp_path, shape, constants):
    gates, weight, h, c = problem(*shape)
    body = recurrence._BODY.replace("constexpr int THREADS", "[[maybe_unused]] constexpr int THREADS")
    source = tmp_path / "kernel.cpp"
    source.write_text(HOST % constants | {"H": shape[3], "body": body} if False else HOST % {**constants, "H": shape[3], "body": body})
    program = tmp_path / "kernel"
    subprocess.run([compiler, "-std=c++20", "-O1", "-pthread", source, "-o", program], check=True)
    ordered = np.array(recurrence._by_thread(mx.array(weight)))
    data = b"".join([np.array(gates.shape, np.int32).tobytes(), *(x.tobytes() for x in (gates, ordered, h, c))])
    done = subprocess.run([program], input=data, capture_output=True, check=True, timeout=120)
    found = np.frombuffer(done.stdout, np.float32)
    wanted = recurrence.reference(*(x.astype(np.float64) for x in (gates, weight, h, c)))
    np.testing.assert_allclose(found, np.concatenate([x.ravel() for x in wanted]), rtol=0, atol=1e-6)

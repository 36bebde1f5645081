"""The kernel that places letters on a GPU: its source run as C++ by threads, and what happens without it."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS)

import mlx.core as mx

from mlx_speech.layers import trellis
from mlx_speech.runtime import SlowPlacingWarning
from mlx_speech.stages import ctc, walk

HOST = """
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>
using std::max;
#define SHARED
#define NEVER -INFINITY
#define THREADS 8
#define BARRIER together.arrive_and_wait()
std::barrier<> together(THREADS);
float shared[4 * 1024 + THREADS];
static void work(int thread, int group, const float* relative, const int* relative_shape, const float* outside,
                 const int* tokens, const int* table, int* states, uint8_t* codes) {
%s
}
int main() {
  int n[5];  // texts, rows, columns, tokens, cells
  if (fread(n, 4, 5, stdin) != 5) return 1;
  std::vector<float> relative(n[1] * n[2]), outside(n[1]);
  std::vector<int> tokens(n[3]), table(6 * n[0]), states(n[1], -9);
  std::vector<uint8_t> codes(n[4], 99);
  auto read = [](auto& x) { if (fread(x.data(), 4, x.size(), stdin) != x.size()) exit(1); };
  read(relative); read(outside); read(tokens); read(table);
  const int shape[2] = {n[1], n[2]};
  for (int group = 0; group < n[0]; ++group) {
    std::vector<std::thread> threads;
    for (int t = 0; t < THREADS; ++t)
      threads.emplace_back(work, t, group, relative.data(), shape, outside.data(), tokens.data(), table.data(),
                           states.data(), codes.data());
    for (auto& t : threads) t.join();
  }
  fwrite(states.data(), 4, states.size(), stdout);
}
"""


def problems() -> list[walk.Problem]:
    """Texts in noise: with room, with just enough frames, one token, with and without open ends."""
    rng = np.random.default_rng(0)
    found = []
    for n, (spare, count) in enumerate(((150, 37), (0, 12), (9, 1), (60, 20))):
        tokens = rng.integers(1, 4, count)
        frames = ctc.frames_needed(tokens) + spare
        log_probs = np.log(rng.dirichlet(np.ones(6), frames)).astype(np.float32)
        found.append(walk.Problem(log_probs, tokens, log_probs[:, 1:].max(1) - 2 if n % 2 else None))
    return found


class Device:
    """Stands for a GPU: the kernel's source is run by threads of this machine."""

    def __init__(self, program) -> None:
        self.program, self.launches = program, 0

    def __call__(self, inputs, output_shapes, **_):
        self.launches += 1
        relative, outside, tokens, table = map(np.array, inputs)
        sizes = [len(table), *relative.shape, len(tokens), output_shapes[1][0]]
        found = self.program([np.array(sizes, np.int32), relative, outside, tokens, table])
        return mx.array(np.frombuffer(found, np.int32)), None


@pytest.fixture(scope="module")
def program(as_program):
    return as_program(HOST % trellis._BODY)


@pytest.fixture
def device(monkeypatch):
    forget = walk._kernel_works.cache_clear

    def install(kernel):
        monkeypatch.setattr(trellis, "available", lambda: True)
        monkeypatch.setattr(trellis, "_kernel", lambda: kernel)
        forget()

    yield install
    forget()


def same(a: ctc.Path | None, b: ctc.Path | None) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("starts", "ends", "scores", "along"))


@pytest.mark.parametrize("block", [2048, 53])
def test_the_kernel_run_by_threads_finds_the_same_paths(device, program, monkeypatch, block):
    monkeypatch.setattr(ctc, "BLOCK", block)
    wanted = walk.viterbi_each(problems())
    kernel = Device(program)
    device(kernel)
    monkeypatch.setattr(walk, "_kernel_works", lambda: True)
    assert all(map(same, walk.viterbi_each(problems()), wanted))
    assert kernel.launches == 1
    monkeypatch.setattr(trellis, "MAX_TOKENS", 20)  # longer texts are left to the host
    assert all(map(same, walk.viterbi_each(problems()), wanted))
    monkeypatch.setattr(trellis, "MAX_CELLS", 1)
    assert all(map(same, walk.viterbi_each(problems()), wanted))
    assert kernel.launches == 2 + 3


def test_a_kernel_that_finds_the_same_is_taken(device, program, monkeypatch):
    monkeypatch.setattr(ctc, "BLOCK", 700)
    device(Device(program))
    assert walk._kernel_works()


@pytest.mark.parametrize("failure", [RuntimeError("no compiler\nfor this device"), None])
def test_a_kernel_that_fails_is_left_with_a_warning(device, failure):
    def kernel(inputs, output_shapes, **_):
        if failure:
            raise failure
        return mx.zeros(output_shapes[0], mx.int32), None

    wanted = walk.viterbi_each(problems())
    device(kernel)
    with pytest.warns(SlowPlacingWarning, match="for this device" if failure else "other paths"):
        assert all(map(same, walk.viterbi_each(problems()), wanted))

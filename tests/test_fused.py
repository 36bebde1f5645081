"""A Linux CPU's loops by numba against float64 and against what runs without numba, and work spread over cores."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import mlx_speech  # noqa: F401  isort: skip  (first: it loads the BLAS)

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_speech import runtime
from mlx_speech.errors import OptionError
from mlx_speech.layers import elementwise, fused
from mlx_speech.layers.attention import attend
from mlx_speech.layers.conv import conv1d
from mlx_speech.layers.norm import LayerNorm

pytestmark = pytest.mark.skipif(
    not fused.slow_functions(), reason="Metal, CUDA and Accelerate have functions of their own"
)


@pytest.fixture(params=["numba", "plain"])
def either(request, monkeypatch):
    """Both ways: with numba's loops, and as on a machine without numba."""
    if request.param == "numba":
        pytest.importorskip("numba")
        assert fused.kernels() is not None
    else:
        monkeypatch.setattr(fused, "_loops", lambda: None)
        assert fused.kernels() is None


@pytest.mark.usefixtures("either")
def test_gelu_of_strided_arrays_equals_float64():
    x = mx.random.normal((70, 3, 200), key=mx.random.key(0)) * 3
    x = x.swapaxes(0, 1)[:, ::2]  # neither contiguous nor evaluated
    exact = np.array(x, np.float64)
    exact = exact * 0.5 * (1 + np.vectorize(math.erf)(exact / math.sqrt(2)))
    np.testing.assert_allclose(elementwise.gelu(x), exact, rtol=4e-7, atol=8e-7)


@pytest.mark.usefixtures("either")
def test_gelu_leaves_its_input_alone():
    x = mx.random.normal((100, 100), key=mx.random.key(0))
    before = np.array(x)
    mx.eval(elementwise.gelu(x))
    np.testing.assert_array_equal(x, before)


@pytest.mark.usefixtures("either")
def test_attention_equals_float64():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 3, n, 16)).astype(np.float32) for n in (300, 700, 700))
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / 4
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(attend(*map(mx.array, (q, k, v))), wanted, rtol=0, atol=2e-6)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("shape", [(2, 3, 300, 700), (1, 5, 90, 4500), (1, 2, 400, 1200)])
def test_attention_of_any_length_equals_float64(shape):
    """Some heads at once, one head, a head's rows; keys that lie apart, and scores far below a row's maximum."""
    batch, heads, length, size = shape
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((batch, n, heads, 16)).astype(np.float32) for n in (length, size, size))
    k[:, 0] *= 10
    scores = np.einsum("bthd,bshd->bhts", q.astype(np.float64), k) / 4
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = np.einsum("bhts,bshd->bhtd", weights / weights.sum(-1, keepdims=True), v)
    found = attend(*(mx.array(x).swapaxes(1, 2) for x in (q, k, v)))
    # scores of 60 are 4e-6 off in float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-5)


@pytest.mark.usefixtures("either")
def test_layer_norm_equals_float64():
    layer = LayerNorm(200, eps=1e-5)
    layer.weight, layer.bias = mx.random.normal((2, 200), key=mx.random.key(1))
    x = (3 + mx.random.normal((200, 4, 70), key=mx.random.key(0))).swapaxes(0, 2)  # in another order
    exact = np.array(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    wanted = exact * np.array(layer.weight) + np.array(layer.bias)
    np.testing.assert_allclose(layer(x), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(layer(x[:2]), wanted[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_a_convolution_equals_mlx(stride, padding, bias):
    conv = nn.Conv1d(6, 5, 4, stride, padding, bias=bias)
    x = mx.random.normal((6, 40, 3), key=mx.random.key(0)).swapaxes(0, 2)
    np.testing.assert_allclose(conv1d(x, conv), conv(x), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", [np.array, mx.array])
def test_logsumexp_of_a_vocabulary_equals_float64(kind):
    x = (np.random.default_rng(0).standard_normal((3, 51865)) * 4).astype(np.float32)
    x[1, ::2] = -1e9
    wide = x.astype(np.float64)
    wanted = wide.max(-1) + np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1))
    np.testing.assert_allclose(elementwise.logsumexp(kind(x)), wanted, rtol=5e-7)


def test_a_numba_that_does_not_import_is_done_without(monkeypatch):
    fused._compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "mlx_speech.layers._loops", None)
    assert fused.kernels() is None
    fused._compiled.cache_clear()


# --- work spread over cores -------------------------------------------------------------------------------


@pytest.fixture
def three_cores(monkeypatch):
    monkeypatch.setenv(runtime.THREADS_VARIABLE, "3")


@pytest.mark.usefixtures("three_cores")
def test_spread_work_comes_back_in_order_from_several_threads():
    together = threading.Barrier(3, timeout=20)  # breaks unless three are at work at once

    def square(n: int) -> tuple[float, str]:
        together.wait()
        y = mx.array(float(n)) ** 2
        mx.eval(y)
        return y.item(), threading.current_thread().name

    found = runtime.spread(square, range(6))
    assert [value for value, _ in found] == [0, 1, 4, 9, 16, 25]
    assert len({name for _, name in found}) == 3


@pytest.mark.usefixtures("three_cores")
def test_spread_within_spread_runs_where_it_is():
    def inner(n: int) -> str:
        return threading.current_thread().name

    def outer(n: int) -> bool:
        return set(runtime.spread(inner, range(4))) == {threading.current_thread().name}

    assert all(runtime.spread(outer, range(3)))


@pytest.mark.usefixtures("three_cores")
def test_spread_raises_what_was_raised():
    with pytest.raises(ZeroDivisionError):
        runtime.spread(lambda n: 1 // n, [1, 0, 2])


@pytest.mark.usefixtures("three_cores")
def test_spread_leaves_no_threads_behind():
    """MLX starts a thread for each stream, and ends none."""

    def work(n: int) -> None:
        mx.eval(mx.ones(4) * n)

    def threads() -> int:
        runtime.spread(work, range(9))
        return len(list(Path("/proc/self/task").iterdir()))

    assert len({threads() for _ in range(5)} | {threads()}) <= 2  # a thread of the crew may begin late


@pytest.mark.usefixtures("three_cores")
def test_who_waits_for_others_work_is_not_waited_for():
    """Three threads are busy for somebody else, but for one that gets free."""
    free, begun = threading.Event(), threading.Barrier(4, timeout=20)

    def long(n: int) -> None:
        begun.wait()
        if n:
            free.wait(20)

    other = threading.Thread(target=runtime.spread, args=(long, range(3)))
    other.start()
    begun.wait()
    assert runtime.spread(lambda n: n, range(4)) == [0, 1, 2, 3]
    assert other.is_alive()
    free.set()
    other.join()


@pytest.mark.usefixtures("three_cores")
def test_ctrl_c_ends_spread_work():
    begun = []

    def work(n: int) -> None:
        if n == 0:  # once: a second one would meet what the first has set off
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        begun.append(n)
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        runtime.spread(work, range(60))
    time.sleep(0.2)
    so_far = len(begun)
    time.sleep(0.2)
    assert so_far == len(begun) < 30


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(0, 4, []), (2, 4, [1, 1]), (9, 4, [3, 3, 3]), (10, 2, [2] * 5)]
)
def test_shares_cover_everything_once(count, most, sizes):
    found = runtime.shares(count, most)
    assert [s.stop - s.start for s in found] == sizes
    assert [n for s in found for n in range(count)[s]] == list(range(count))


def test_a_process_ends_well_after_work_in_threads():
    program = """
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        import mlx_speech

        detector = mlx_speech.load("silero-vad")
        list(ThreadPoolExecutor(2).map(lambda n: mlx_speech.detect_speech(np.zeros(16000), detector), range(2)))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_wrong_number_of_threads_is_named(monkeypatch):
    monkeypatch.setenv(runtime.THREADS_VARIABLE, "many")
    with pytest.raises(OptionError, match=runtime.THREADS_VARIABLE):
        runtime.cores()


def test_other_libraries_keep_their_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with runtime._one_thread_each():
        assert runtime.os.environ["OMP_NUM_THREADS"] == runtime.os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in runtime.os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with runtime._one_thread_each():
        assert runtime.os.environ["OMP_NUM_THREADS"] == "5"
        assert "OPENBLAS_NUM_THREADS" not in runtime.os.environ

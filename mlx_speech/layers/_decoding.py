"""A transformer decoder's step for a few rows, as loops that stream the weights once.

Like :mod:`mlx_speech.layers._loops`, imported by way of :mod:`mlx_speech.layers.fused` alone: numba is an extra.
numba's cache on disk looks at no other file's changes: delete it after a change of what is taken from there.

A product of one row is bound by memory: a BLAS copies the matrix into another order first, which costs several
times as much as the product. Here a matrix lies in panels of :data:`PANEL` outputs, (P, K, PANEL), in half
precision where that holds its numbers exactly (they are widened to float32 in registers), and threads take panels
one after another, as they are free.

Letters: R rows, D width (padded to whole panels, as every size here), L layers, H heads, T audio frames.
"""

# numba finds the types: arrays are float32 and contiguous
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mlx_speech.layers._loops import _LOOSE, _exp2, _gelu_of, _loop
from mlx_speech.layers.elementwise import LOG2E

PANEL = 64
_F = np.float32
_LOG2E, _ZERO, _ONE, _EPS = _F(LOG2E), _F(0), _F(1), _F(1e-5)
_SPINS = 4000  # looks at the counter before the core is offered to others

_inline = numba.njit(inline="always", fastmath=_LOOSE, error_model="numpy", nogil=True)
_yield_core = types.ExternalFunction("sched_yield", types.int32())


# --- what numba lacks: half precision, addresses, counting together ------------------------------------------


@intrinsic
def _widen(typing, x):
    """The float32 that a float16's bits (uint16), or a float32 itself, stand for."""

    def half(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    def same(context, builder, signature, arguments):
        return arguments[0]

    return types.float32(x), half if x == types.uint16 else same


@intrinsic
def _narrow(typing, x):
    """The bits (uint16) of the float16 nearest to a float32."""

    def bits(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(x), bits


@intrinsic
def _at(typing, address):
    """A pointer to float32 from an address (int64)."""

    def pointer(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(address), pointer


def _place(context, builder, signature, arguments):
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return cgutils.get_item_pointer(context, builder, signature.args[0], array, [arguments[1]])


@intrinsic
def _count(typing, counts, index):
    """Add 1 to an int64 that threads share; what it was before."""

    def add(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments)
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(counts, types.int64), add


@intrinsic
def _counted(typing, counts, index):
    """An int64 that threads share, as it is now."""

    def read(context, builder, signature, arguments):
        return builder.load_atomic(_place(context, builder, signature, arguments), "seq_cst", 8)

    return types.int64(counts, types.int64), read


@_inline
def _wait(counts, stage, pieces):
    """Go on once all pieces of a stage are done, whoever did them."""
    spins = 0
    while _counted(counts, 2 * stage + 1) < pieces:
        spins += 1
        if spins > _SPINS:
            _yield_core()


# --- parts of a layer ----------------------------------------------------------------------------------------


@_loop
def pack_half(matrix: np.ndarray, out: np.ndarray) -> bool:
    """A matrix (K, N) float32 in panels (P, K', PANEL) of float16's bits; whether they hold it exactly."""
    exact = True
    for k in range(matrix.shape[0]):
        row = matrix[k]
        for p in range(out.shape[0]):
            to, first = out[p, k], p * PANEL
            some = min(PANEL, row.size - first)
            wrong = 0
            for n in range(some):
                to[n] = _narrow(row[first + n])
                wrong += _widen(to[n]) != row[first + n]
            exact = exact and not wrong
    return exact


@_loop
def pack_single(matrix: np.ndarray, out: np.ndarray) -> bool:
    """A matrix (K, N) float32 in panels (P, K', PANEL) of float32."""
    for k in range(matrix.shape[0]):
        for p in range(out.shape[0]):
            first = p * PANEL
            for n in range(min(PANEL, matrix.shape[1] - first)):
                out[p, k, n] = matrix[k, first + n]
    return True


@_loop
def _one_row(x, w, out):
    """``out`` (PANEL,) += x (K,) of a panel (K, PANEL)."""
    for k in range(0, w.shape[0], 8):
        a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
        e, f, g, h = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        p, q, r, s = w[k], w[k + 1], w[k + 2], w[k + 3]
        t, u, v, y = w[k + 4], w[k + 5], w[k + 6], w[k + 7]
        for n in range(PANEL):
            first = a * _widen(p[n]) + b * _widen(q[n]) + c * _widen(r[n]) + d * _widen(s[n])
            second = e * _widen(t[n]) + f * _widen(u[n]) + g * _widen(v[n]) + h * _widen(y[n])
            out[n] += first + second


@_loop
def _four_rows(x, w, y0, y1, y2, y3):
    """The same for x (4, K) and four of ``out``: each weight is widened once."""
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    for k in range(0, w.shape[0], 4):
        a0, b0, c0, d0 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
        a1, b1, c1, d1 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
        a2, b2, c2, d2 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3]
        a3, b3, c3, d3 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3]
        w0, w1, w2, w3 = w[k], w[k + 1], w[k + 2], w[k + 3]
        for n in range(PANEL):
            p, q, r, s = _widen(w0[n]), _widen(w1[n]), _widen(w2[n]), _widen(w3[n])
            y0[n] += a0 * p + b0 * q + c0 * r + d0 * s
            y1[n] += a1 * p + b1 * q + c1 * r + d1 * s
            y2[n] += a2 * p + b2 * q + c2 * r + d2 * s
            y3[n] += a3 * p + b3 * q + c3 * r + d3 * s


@_loop
def _product(x, w, bias, out, first, last):
    """Panels ``first`` to ``last`` of x (R, K) · w (P, K, PANEL) + bias (P · PANEL,), into ``out``."""
    rows = x.shape[0]
    for p in range(first, last):
        a, b = p * PANEL, (p + 1) * PANEL
        for r in range(rows):
            out[r, a:b] = bias[a:b]
        whole = rows // 4 * 4
        for r in range(0, whole, 4):
            _four_rows(x[r : r + 4], w[p], out[r, a:b], out[r + 1, a:b], out[r + 2, a:b], out[r + 3, a:b])
        for r in range(whole, rows):
            _one_row(x[r], w[p], out[r, a:b])


@_loop
def _norm(x, weight, bias, width, out):
    """Layer norm of each row's first ``width`` numbers."""
    for r in range(x.shape[0]):
        row, y = x[r], out[r]
        total = _ZERO
        for n in range(width):
            total += row[n]
        mean = total / _F(width)
        square = _ZERO
        for n in range(width):
            square += (row[n] - mean) * (row[n] - mean)
        scale = _ONE / np.sqrt(square / _F(width) + _EPS)
        for n in range(width):
            y[n] = (row[n] - mean) * scale * weight[n] + bias[n]


@_loop
def _weigh(scores):
    """Softmax of scores that are powers of two, but for its division: in their place; answers 1 / Σ."""
    top = scores[0]
    for t in range(scores.size):
        top = max(top, scores[t])
    for t in range(scores.size):
        scores[t] = _exp2(scores[t] - top)
    total = _ZERO
    for t in range(scores.size):
        total += scores[t]
    return _ONE / total


@_loop
def _own_head(query, key, value, keys, values, source, scores, out):
    """One head of one row over the positions so far.

    ``query``, ``key`` and ``value`` (Dh,) are this position's; those so far lie at (row, position), of which
    ``source`` (n,) names the row at each position, the last one being this.
    """
    size, here = out.size, source.size - 1
    for n in range(size):
        keys[source[here], here, n] = key[n]
        values[source[here], here, n] = value[n]
    scale = _LOG2E / np.sqrt(_F(size))
    for t in range(here + 1):
        past, total = keys[source[t], t], _ZERO
        for n in range(size):
            total += query[n] * past[n]
        scores[t] = total * scale
    share = _weigh(scores[: here + 1])
    for n in range(size):
        out[n] = _ZERO
    for t in range(here + 1):
        past, weight = values[source[t], t], scores[t] * share
        for n in range(size):
            out[n] += weight * past[n]


@_inline
def _add_product(x, scale, w, out):
    """``out`` (N,) += scale · x (K,) · w (K, N), eight rows at a time. Inlined, a scale of one costs nothing."""
    whole = x.size // 8 * 8
    for k in range(0, whole, 8):
        a, b, c, d = x[k] * scale, x[k + 1] * scale, x[k + 2] * scale, x[k + 3] * scale
        e, f, g, h = x[k + 4] * scale, x[k + 5] * scale, x[k + 6] * scale, x[k + 7] * scale
        p, q, r, s = w[k], w[k + 1], w[k + 2], w[k + 3]
        t, u, v, y = w[k + 4], w[k + 5], w[k + 6], w[k + 7]
        for n in range(out.size):
            first = a * p[n] + b * q[n] + c * r[n] + d * s[n]
            out[n] += first + (e * t[n] + f * u[n] + g * v[n] + h * y[n])
    for k in range(whole, x.size):
        for n in range(out.size):
            out[n] += x[k] * scale * w[k, n]


@_loop
def _audio_head(query, keys, values, scores, out):
    """One head of one row over the audio: keys (Dh, T), values (T, Dh), scores (T,) to work in."""
    for t in range(scores.size):
        scores[t] = _ZERO
    for n in range(out.size):
        out[n] = _ZERO
    _add_product(query, _LOG2E / np.sqrt(_F(query.size)), keys, scores)
    share = _weigh(scores)
    _add_product(scores, _ONE, values, out)
    for n in range(out.size):
        out[n] *= share


# --- the step ------------------------------------------------------------------------------------------------


@_loop
def _shared(x, w, bias, out, then, onto, counts, stage, pieces):
    """A product of all, piece by piece by whoever is free; ``then`` 1 adds it to ``onto``, 2 takes its GELU."""
    panels = w.shape[0]
    while True:
        i = _count(counts, 2 * stage)
        if i >= pieces:
            break
        first, last = panels * i // pieces, panels * (i + 1) // pieces
        _product(x, w, bias, out, first, last)
        for r in range(x.shape[0]):
            row, total = out[r], onto[r]
            if then == 1:
                for n in range(first * PANEL, last * PANEL):
                    total[n] += row[n]
            if then == 2:
                for n in range(first * PANEL, last * PANEL):
                    row[n] = _gelu_of(row[n])
        _count(counts, 2 * stage + 1)
    _wait(counts, stage, pieces)


@_loop
def logits(hidden, head, zeros, out, counts, stage, pieces):
    """Scores (R, P · PANEL) of hidden states (R, D): this thread's part, and the others' are done too then."""
    _shared(hidden, head, zeros, out, 0, out, counts, stage, pieces)


@_loop
def step(x, weights, cache, audio, room, sizes, counts, me, pieces):
    """A thread's part of a decoder's step: as many as like call it, with the same arrays.

    The work of a stage lies in pieces, which threads take one after another; once all are done, the next stage
    begins. A thread that comes late, or not at all because the core is busy, is not waited for.

    Args:
        x: (R, D), the embedded tokens; all layers' sums then.
        weights: matrices (L, P, K, PANEL) and biases (L, P · PANEL) of query, key and value side by side, of the
            output, of the audio's query, its output and the perceptron's two; norms (L, 3, 2, D), the last norm
            (2, D), and the vocabulary's matrix with as many zeros.
        cache: keys and values (L, H, R', positions, Dh), and the row (R, n) of each position; the last is this one.
        audio: addresses (L, 2) of keys (W, H, Dh, T) and values (W, H, T, Dh), their T, each row's window (R,), W.
        room: to work in: (threads, R, D), (R, 3D), (R, D), (R, D), (R, 4D), (threads, scores); the logits (R, V).
        sizes: D without padding, and its heads H.
        counts: (2 · (8L + 1),) zeros that the threads share: a stage's pieces that were taken and that are done.
        me: this thread.
        pieces: how many a stage's work is cut into at most.
    """
    qkv_w, qkv_b, out_w, out_b, ask_w, ask_b, tell_w, tell_b, up_w, up_b, down_w, down_b = weights[:12]
    norms, last, head, zeros = weights[12:]
    own_keys, own_values, source = cache
    addresses, length, window, windows = audio
    normed, qkv, mixed, added, wide, scores, scored = room
    width, heads = sizes
    rows, padded = x.shape
    size = width // heads
    h, score = normed[me], scores[me]
    some = min(rows * heads, pieces)
    for layer in range(qkv_w.shape[0]):
        at = 8 * layer
        _norm(x, norms[layer, 0, 0], norms[layer, 0, 1], width, h)
        _shared(h, qkv_w[layer], qkv_b[layer], qkv, 0, x, counts, at, min(qkv_w.shape[1], pieces))
        while True:
            i = _count(counts, 2 * at + 2)
            if i >= some:
                break
            for j in range(rows * heads * i // some, rows * heads * (i + 1) // some):
                n, r = j // rows, j % rows
                part, row = slice(n * size, (n + 1) * size), qkv[r]
                _own_head(
                    row[part], row[padded:][part], row[2 * padded :][part],
                    own_keys[layer, n], own_values[layer, n], source[r], score, mixed[r, part],
                )  # fmt: skip
            _count(counts, 2 * at + 3)
        _wait(counts, at + 1, some)
        _shared(mixed, out_w[layer], out_b[layer], added, 1, x, counts, at + 2, min(out_w.shape[1], pieces))
        _norm(x, norms[layer, 1, 0], norms[layer, 1, 1], width, h)
        _shared(h, ask_w[layer], ask_b[layer], added, 0, x, counts, at + 3, min(ask_w.shape[1], pieces))
        keys = numba.carray(_at(addresses[layer, 0]), (windows, heads, size, length))
        values = numba.carray(_at(addresses[layer, 1]), (windows, heads, length, size))
        while True:
            i = _count(counts, 2 * at + 8)
            if i >= some:
                break
            for j in range(rows * heads * i // some, rows * heads * (i + 1) // some):
                n, r = j // rows, j % rows
                part = slice(n * size, (n + 1) * size)
                w = window[r]
                _audio_head(added[r, part], keys[w, n], values[w, n], score[:length], mixed[r, part])
            _count(counts, 2 * at + 9)
        _wait(counts, at + 4, some)
        _shared(
            mixed, tell_w[layer], tell_b[layer], added, 1, x, counts, at + 5, min(tell_w.shape[1], pieces)
        )
        _norm(x, norms[layer, 2, 0], norms[layer, 2, 1], width, h)
        _shared(h, up_w[layer], up_b[layer], wide, 2, x, counts, at + 6, min(up_w.shape[1], pieces))
        _shared(wide, down_w[layer], down_b[layer], added, 1, x, counts, at + 7, min(down_w.shape[1], pieces))
    _norm(x, last[0], last[1], width, h)
    logits(h, head, zeros, scored, counts, 8 * qkv_w.shape[0], min(head.shape[0], 2 * pieces))

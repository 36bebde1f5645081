"""Long short-term memory: one direction, or several layers in one or both.

On a GPU the recurrence is one kernel (:mod:`mlx_speech.layers.recurrence`), elsewhere a loop over the steps.
Equations and gate order (input, forget, cell, output) are those of ``torch.nn.LSTM``, BSD-3-Clause:
https://github.com/pytorch/pytorch/blob/v2.8.0/torch/nn/modules/rnn.py

B batch, T time steps, I input features, H hidden features, D directions (1 or 2).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech import runtime
from mlx_speech.layers import recurrence
from mlx_speech.layers.elementwise import LOG2E, exp2_nonpositive
from mlx_speech.layers.fused import fresh, kernels, slow_functions, view

_STEPS = 64  # steps handed to the device at a time: enough to keep it busy, a graph small enough to build


_Step = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
_POLYNOMIAL = 1 << 14  # gates a step from which the polynomial below is worth its two dozen operations


class LSTMState(NamedTuple):
    """What an LSTM remembers: ``h`` (B, H) float32, its last output, and ``c`` (B, H) float32, its cell."""

    h: mx.array
    c: mx.array


class LSTM(nn.Module):
    """One LSTM layer in one direction.

    Parameters are ``weight_ih`` (4H, I), ``weight_hh`` (4H, H) and ``bias`` (4H,); the gates' rows come in
    the order input, forget, cell, output. PyTorch's two biases are summed into the one here.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        bound = hidden_size**-0.5
        self.weight_ih = mx.random.uniform(-bound, bound, (4 * hidden_size, input_size))
        self.weight_hh = mx.random.uniform(-bound, bound, (4 * hidden_size, hidden_size))
        self.bias = mx.zeros((4 * hidden_size,))

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.weight_hh.shape[1])

    def initial_state(self, batch: int) -> LSTMState:
        """The all-zero state for a batch of ``batch`` sequences."""
        zeros = mx.zeros((batch, self.hidden_size), self.weight_hh.dtype)
        return LSTMState(zeros, zeros)

    def __call__(self, x: mx.array, state: LSTMState | None = None) -> tuple[mx.array, LSTMState]:
        """Run over a batch of sequences of equal length.

        Args:
            x: (B, T, I) float32; T may be 0.
            state: where to go on from; all zeros by default.

        Returns:
            the outputs (B, T, H) float32 and the state after the last step.
        """
        gates = mx.addmm(self.bias, x, self.weight_ih.T)  # no step depends on another here
        return recur(gates, self.weight_hh, state or self.initial_state(x.shape[0]))


def recur(gates: mx.array, weight_hh: mx.array, state: LSTMState) -> tuple[mx.array, LSTMState]:
    """The sequential half of an LSTM.

    Args:
        gates: (B, T, 4H) float32, the inputs' and the bias's part of the gates before their activation.
        weight_hh: (4H, H) float32.
        state: the state before the first step.

    Returns:
        the outputs (B, T, H) float32 and the state after the last step.
    """
    batch, steps, width = gates.shape
    if steps == 0:
        return mx.zeros((batch, 0, width // 4), gates.dtype), state
    fused = recurrence.recur(gates[:, :, None], weight_hh[None], state.h[None], state.c[None])
    if fused:
        y, h, c = fused
        return y[:, :, 0], LSTMState(h[0], c[0])
    if loops := kernels():
        bias = mx.zeros((1, width))  # the gates have it already
        y, h, c = _by_loops(gates[:, :, None], bias, weight_hh[None], state.h[None], state.c[None], loops)
        return y[:, :, 0], LSTMState(h[0], c[0])
    by_step = gates.swapaxes(0, 1)
    weight = mx.contiguous(weight_hh.T)
    h, c = state
    blocks = []
    for start in range(0, steps, _STEPS):
        outputs = []
        for gate in by_step[start : start + _STEPS]:
            h, c = _step(mx.addmm(gate, h, weight), c)
            outputs.append(h)
        blocks.append(mx.stack(outputs, axis=1))
        mx.async_eval(blocks[-1], c)  # the device works while Python builds the next block
    return mx.concatenate(blocks, axis=1), LSTMState(h, c)


def _step(gates: mx.array, c: mx.array) -> tuple[mx.array, mx.array]:
    """One step from complete gates (B, 4H) and cell (B, H) to output and cell, in few operations."""
    size = c.shape[-1]
    i, f, _, o = mx.split(mx.sigmoid(gates), 4, axis=-1)  # one sigmoid with an unused quarter beats three
    c = f * c + i * mx.tanh(gates[..., 2 * size : 3 * size])
    return o * mx.tanh(c), c


class LSTMLayer(nn.Module):
    """One layer whose D directions take their steps together.

    Parameters are ``weight_ih`` (D, 4H, I), ``weight_hh`` (D, 4H, H) and ``bias`` (D, 4H), each direction's
    as in :class:`LSTM`; the second direction reads backwards.
    """

    def __init__(self, input_size: int, hidden_size: int, directions: int) -> None:
        super().__init__()
        bound = hidden_size**-0.5
        self.weight_ih = mx.random.uniform(-bound, bound, (directions, 4 * hidden_size, input_size))
        self.weight_hh = mx.random.uniform(-bound, bound, (directions, 4 * hidden_size, hidden_size))
        self.bias = mx.zeros((directions, 4 * hidden_size))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, I) float32 → (B, T, D·H) float32, from zero states."""
        directions, _, hidden = self.weight_hh.shape
        zeros = mx.zeros((directions, x.shape[0], hidden))
        weight, shape = self.weight_ih.flatten(0, 1).T, (*x.shape[:2], directions, 4 * hidden)
        if loops := kernels():
            gates = (x @ weight).reshape(shape)
            return _by_loops(gates, self.bias, self.weight_hh, zeros, zeros, loops)[0].flatten(2)
        if recurrence.available(hidden):
            gates = mx.addmm(self.bias.flatten(), x, weight).reshape(shape)
            fused = recurrence.recur(gates, self.weight_hh, zeros, zeros)
            if fused:
                return fused[0].flatten(2)
        return self._step_by_step(x.swapaxes(0, 1)).swapaxes(0, 1)

    def _step_by_step(self, x: mx.array) -> mx.array:
        """(T, B, I) → (T, B, D·H) by a loop over the steps."""
        directions, _, features = self.weight_ih.shape
        steps, batch, _ = x.shape
        both = mx.stack([x, x[::-1]][:directions]).reshape(directions, steps * batch, features)
        poly = slow_functions() and batch * self.weight_hh.shape[1] * directions >= _POLYNOMIAL
        gates = mx.addmm(self.bias[:, None], both, self.weight_ih.swapaxes(1, 2))
        gates = gates.reshape(directions, steps, batch, -1)
        weight = mx.contiguous(self.weight_hh.swapaxes(1, 2))
        y = _recur_together(gates, weight, _step_of(poly))
        return y[0] if directions == 1 else mx.concatenate([y[0], y[1, ::-1]], axis=-1)


class DeepLSTM(nn.Module):
    """Layers of LSTM on top of each other, in one or both directions, as ``torch.nn.LSTM`` has them."""

    def __init__(self, input_size: int, hidden_size: int, layers: int, *, bidirectional: bool) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        sizes = [input_size] + [directions * hidden_size] * (layers - 1)
        self.layers = [LSTMLayer(size, hidden_size, directions) for size in sizes]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, I) float32 → (B, T, D·H) float32, from zero states; T may not be 0."""
        for layer in self.layers:
            x = layer(x)
        return x


def _recur_together(gates: mx.array, weight: mx.array, step: _Step) -> mx.array:
    """From gates (D, T, B, 4H) and recurrent weights (D, H, 4H) to outputs (D, T, B, H)."""
    directions, steps, batch, width = gates.shape
    h = c = mx.zeros((directions, batch, width // 4))
    blocks = []
    for start in range(0, steps, _STEPS):
        outputs = []
        for n in range(start, min(start + _STEPS, steps)):
            h, c = step(mx.addmm(gates[:, n], h, weight), c)
            outputs.append(h)
        blocks.append(mx.stack(outputs, axis=1))
        mx.async_eval(blocks[-1], c)
    return mx.concatenate(blocks, axis=1)


def _by_loops(
    gates: mx.array, bias: mx.array, weight: mx.array, h: mx.array, c: mx.array, loops: ModuleType
) -> tuple[mx.array, mx.array, mx.array]:
    """:func:`mlx_speech.layers.recurrence.recur` by one of numba's loops; ``bias`` (D, 4H) is still to be added."""
    batch, steps, directions, width = gates.shape
    out, outputs = fresh(batch, steps, directions, width // 4)
    last, cells = np.array(h), np.array(c)
    loops.lstm(view(gates), view(bias), view(weight.swapaxes(1, 2)), last, cells, outputs)
    return out, mx.array(last), mx.array(cells)


@functools.cache
def _compiled_step() -> _Step:
    return mx.compile(_step)


def _step_of(poly: bool) -> _Step:
    """The step for the device: by a polynomial, MLX's own functions, or as one kernel on a GPU."""
    if poly:
        return _step_by_polynomial
    return _step if runtime.on_cpu() else _compiled_step()


def _step_by_polynomial(gates: mx.array, c: mx.array) -> tuple[mx.array, mx.array]:
    """:func:`_step` with one kind of function, tanh(x) being 2 sigmoid(2x) - 1."""
    size = c.shape[-1]
    i, f, g, o = mx.split(_sigmoid(gates * _exponents(size)), 4, axis=-1)
    c = f * c + i * (2 * g - 1)
    return o * (2 * _sigmoid(c * (-2 * LOG2E)) - 1), c


@functools.cache
def _exponents(size: int) -> mx.array:
    """(4H,): what makes gates exponents of two, twice as much for the cell's."""
    one = mx.full((size,), -LOG2E)
    exponents = mx.concatenate([one, one, 2 * one, one])
    mx.eval(exponents)  # kept for all threads
    return exponents


def _sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + 2**x) of float32 from additions, products and one division, for a Linux CPU.

    Its distance to 1 keeps its relative accuracy, which a rational approximation of tanh would lose: a forget
    gate just below 1 decides over hundreds of steps, and log-probabilities would move by 3e-4.
    """
    return mx.reciprocal(1.0 + exp2_nonpositive(mx.minimum(x, 126.0)))  # as exact up to 2**126

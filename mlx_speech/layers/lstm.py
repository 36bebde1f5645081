"""Long short-term memory, one direction.

Equations and gate order (input, forget, cell, output) are those of ``torch.nn.LSTM``, BSD-3-Clause:
https://github.com/pytorch/pytorch/blob/v2.8.0/torch/nn/modules/rnn.py

B batch, T time steps, I input features, H hidden features.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

_STEPS = 64  # steps handed to the device at a time: enough to keep it busy, a graph small enough to build


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
    c = f * c + i * mx.tanh(gates[:, 2 * size : 3 * size])
    return o * mx.tanh(c), c

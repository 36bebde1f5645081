"""Whisper's decoder on a Linux CPU: a step for a few rows as one function of numba's.

The same mathematics as :meth:`mlx_speech.models.whisper.Whisper.step`, and the same weights, laid out to be read
once a step: :mod:`mlx_speech.layers._decoding` tells how. The model itself reads prompts: many rows at once.

Letters: R rows, W windows of audio, L layers, H heads, T audio frames, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_speech.layers import fused
from mlx_speech.models.whisper import DecoderState, Whisper
from mlx_speech.runtime import Team


class HostDecoder:
    """A decoder's weights in panels: float16's bits where these hold them exactly, else float32."""

    def __init__(self, model: Whisper, loops: Any) -> None:
        self.loops = loops
        self.config = model.config
        self.origin = _weights(model)
        self.positions = fused.view(model.decoder.positional_embedding)
        self.width = model.config.n_text_state
        self.padded = self._padded(self.width)
        packed = self._pack(model, np.uint16) or self._pack(model, np.float32)
        assert packed is not None  # float32 holds float32
        self.weights = packed
        self.head = packed[-2]

    def embed(self, tokens: np.ndarray, position: int) -> np.ndarray:
        """Tokens (R,) at a position, as the first layer reads them: (R, D) with padding."""
        panel = self.loops.PANEL
        rows = np.ascontiguousarray(self.head[tokens // panel, :, tokens % panel])
        x = rows.view(np.float16).astype(np.float32) if rows.dtype == np.uint16 else rows
        x[:, : self.width] += self.positions[position]
        return x

    def logits(self, hidden: np.ndarray, team: Team) -> np.ndarray:
        """Hidden states (R, D) → scores over the vocabulary (R, V)."""
        x = np.zeros((len(hidden), self.padded), np.float32)
        x[:, : self.width] = hidden
        out = self.scores(len(hidden))
        counts, pieces = np.zeros(2, np.int64), min(len(self.head), 2 * team.pieces)
        team.run(lambda me: self.loops.logits(x, self.head, self.weights[-1], out, counts, 0, pieces))
        return out[:, : self.config.n_vocab]

    def scores(self, rows: int) -> np.ndarray:
        """Room for the vocabulary's scores, in whole panels."""
        return np.empty((rows, len(self.head) * self.loops.PANEL), np.float32)

    def _padded(self, size: int) -> int:
        return -(-size // self.loops.PANEL) * self.loops.PANEL

    def _pack(self, model: Whisper, dtype: type) -> tuple[np.ndarray, ...] | None:
        """Everything in the order that the loops take it; ``None`` where the dtype does not hold it exactly."""
        blocks = model.decoder.blocks
        parts: list[np.ndarray] = []
        for layers in (
            [[b.attn.query, b.attn.key, b.attn.value] for b in blocks],
            [[b.attn.out] for b in blocks],
            [[b.cross_attn.query] for b in blocks],
            [[b.cross_attn.out] for b in blocks],
            [[b.fc1] for b in blocks],
            [[b.fc2] for b in blocks],
        ):
            found = self._matrices(layers, dtype)
            if found is None:
                return None
            parts += found
        norms = np.zeros((len(blocks), 3, 2, self.padded), np.float32)
        for n, b in enumerate(blocks):
            for m, norm in enumerate((b.attn_ln, b.cross_attn_ln, b.mlp_ln)):
                norms[n, m, :, : self.width] = norm.weight, norm.bias
        last = np.zeros((2, self.padded), np.float32)
        last[:, : self.width] = model.decoder.ln.weight, model.decoder.ln.bias
        head = self._matrices([[model.decoder.token_embedding]], dtype)
        return None if head is None else (*parts, norms, last, head[0][0], head[1][0])

    def _matrices(self, layers: list[list[nn.Module]], dtype: type) -> list[np.ndarray] | None:
        """Each layer's matrices side by side in panels, and their biases."""
        outputs, inputs = layers[0][0].weight.shape
        panel, beside = self.loops.PANEL, len(layers[0])
        count = self._padded(outputs) // panel
        packed: np.ndarray = np.zeros((len(layers), beside * count, self._padded(inputs), panel), dtype)
        biases = np.zeros((len(layers), beside * count * panel), np.float32)
        pack = self.loops.pack_half if dtype == np.uint16 else self.loops.pack_single
        for n, layer in enumerate(layers):
            for m, part in enumerate(layer):
                if not pack(fused.view(part.weight.T), packed[n, m * count : (m + 1) * count]):
                    return None
                if "bias" in part:
                    biases[n, m * count * panel :][:outputs] = part.bias
        return [packed, biases]


def host_decoder(model: Whisper) -> HostDecoder | None:
    """The model's decoder for this machine's CPU, made at the first call.

    ``None`` where MLX's own steps are to be taken: on a GPU, without numba, and for weights that are quantised or
    of half precision.
    """
    loops = fused.decoding()
    weights = _weights(model)
    if loops is None or any(w.dtype != mx.float32 for w in weights):
        return None
    known: HostDecoder | None = model.__dict__.get("_host_decoder")
    if known is None or any(a is not b for a, b in zip(known.origin, weights, strict=True)):
        known = HostDecoder(model, loops)
        object.__setattr__(model, "_host_decoder", known)
    return known


def _weights(model: Whisper) -> list[mx.array]:
    return [w for _, w in tree_flatten(model.decoder.parameters())]


class HostState:
    """What decoding carries from step to step.

    Keys and values of words, (L, H, R, positions, D/H), are written once and never moved: ``source`` (R, positions)
    names the row that a row's words lie in, so that beams change places by it alone. ``window`` (R,) is what each
    row hears.
    """

    def __init__(self, decoder: HostDecoder, state: DecoderState, width: int, room: int) -> None:
        """Go on from the model's own state, with ``width`` rows for each of its and room for so many positions."""
        caches = [tuple(map(fused.view, c.filled())) for c in state.self_attention]
        batch, heads, self.length, size = caches[0][0].shape
        rows, layers = batch * width, len(caches)
        self.decoder = decoder
        self.keys = np.empty((layers, heads, rows, room, size), np.float32)
        self.values = np.empty_like(self.keys)
        for n, (k, v) in enumerate(caches):
            self.keys[n, :, :batch, : self.length] = k.swapaxes(0, 1)
            self.values[n, :, :batch, : self.length] = v.swapaxes(0, 1)
        self.source = np.empty((rows, room), np.int32)
        self.window = np.repeat(np.arange(batch, dtype=np.int32), width)
        self.source[:, : self.length] = self.window[:, None]
        self._audio = [(fused.view(k.swapaxes(-1, -2)), fused.view(v)) for k, v in state.cross_attention]
        self._addresses = np.array([[x.ctypes.data for x in pair] for pair in self._audio], np.int64)

    def take(self, rows: np.ndarray) -> None:
        """Go on with these rows (N,), in this order."""
        self.source, self.window = self.source[rows], self.window[rows]

    def step(self, tokens: np.ndarray, team: Team) -> np.ndarray:
        """Decode the next token of each row (R,); its scores over the vocabulary (R, V)."""
        decoder, rows = self.decoder, len(tokens)
        self.source[:, self.length] = np.arange(rows)
        x = decoder.embed(tokens, self.length)
        self.length += 1
        windows, heads, length, _ = self._audio[0][1].shape
        cache = self.keys, self.values, np.ascontiguousarray(self.source[:, : self.length])
        audio = self._addresses, length, self.window, windows
        scores = decoder.scores(rows)
        room = (*self._room(rows, x.shape[1], max(length, self.source.shape[1]), team.size), scores)
        sizes = decoder.width, heads
        counts = np.zeros(2 * (8 * len(self.keys) + 1), np.int64)
        team.run(
            lambda me: decoder.loops.step(
                x, decoder.weights, cache, audio, room, sizes, counts, me, team.pieces
            )
        )
        return scores[:, : decoder.config.n_vocab]

    def _room(self, rows: int, width: int, scores: int, team: int) -> tuple[np.ndarray, ...]:
        shapes = (
            (team, rows, width), (rows, 3 * width), (rows, width), (rows, width), (rows, 4 * width), (team, scores),
        )  # fmt: skip
        return tuple(np.zeros(shape, np.float32) for shape in shapes)

"""Whisper's decoder on a GPU where it writes a token for few rows: eight kernels a layer.

The same mathematics as :meth:`mlx_speech.models.whisper.Whisper.step`, and the same weights. Each linear layer is
one kernel with the norm before it and the GELU or the residual after it (:mod:`mlx_speech.layers.rows`). What lies
between two attentions to the words so far is one compiled function, the same for all layers.

Letters: B rows, W windows of audio, H heads, T audio frames, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech import runtime
from mlx_speech.layers import gpu, rows
from mlx_speech.layers.attention import attend

if TYPE_CHECKING:
    from mlx_speech.models.whisper import DecoderBlock, DecoderState, Whisper

_FRAMES = 16  # of audio that the trial hears
_TOLERANCE = 0.05  # of the largest number: what MLX multiplies may be rounded to TF32 or half precision

Arrays = list[mx.array]


@dataclass(frozen=True)
class Layer:
    """A block's weights: those before its attention to the words so far, and those after it."""

    asking: Arrays
    answering: Arrays


def prepare(model: Whisper) -> None:
    """Lay out the weights for few rows, where the device has kernels for them; tried at first use of a model."""
    blocks = model.decoder.blocks
    for block in blocks:
        block.attn.join()
    layers = [_layer(b) for b in blocks] if all(map(_plain, blocks)) else []
    known = model.__dict__.get("_row_layers") or []
    if layers and len(known) == len(layers) and all(map(_same, layers, known)):
        return
    object.__setattr__(model, "_row_layers", layers)
    if layers and rows.available(1, model.config.n_text_state, model.dtype) and not _works(model):
        object.__setattr__(model, "_row_layers", [])


def step_rows(model: Whisper, x: mx.array, state: DecoderState) -> mx.array | None:
    """The blocks of a decoder for one token of each row.

    Args:
        model: a Whisper that was prepared; its layers may be quantised: then there is nothing for it here.
        x: (B, D), the embedded tokens.
        state: advanced.

    Returns:
        (B, D) before the last norm; ``None`` where MLX's own operations are to be taken.
    """
    layers = model.__dict__.get("_row_layers")
    if not layers or not rows.available(len(x), x.shape[1], x.dtype):
        return None
    ask, between, answer = _parts(model.config.n_text_head)
    q, k, v = ask(x, layers[0].asking)
    heard = zip(layers, [*layers[1:], None], state.self_attention, state.cross_attention, strict=True)
    for layer, after, cache, audio in heard:
        found = attend(q, *cache.extend(k, v))
        if after is None:
            x = answer(x, found, *audio, layer.answering)
        else:
            x, q, k, v = between(x, found, *audio, layer.answering, after.asking)
    return x


def _plain(block: DecoderBlock) -> bool:
    """Whether all layers of a block are plain ones."""
    layers = (block.cross_attn.query, block.cross_attn.out, block.attn.out, block.fc1, block.fc2)
    return block.attn.joined is not None and all(type(layer) is nn.Linear for layer in layers)


def _layer(block: DecoderBlock) -> Layer:
    joined = block.attn.joined
    assert joined is not None
    pairs = (
        block.attn.out, block.cross_attn_ln, block.cross_attn.query, block.cross_attn.out, block.mlp_ln, block.fc1,
        block.fc2,
    )  # fmt: skip
    asking = [block.attn_ln.weight, block.attn_ln.bias, *joined]
    return Layer(asking, [a for p in pairs for a in (p.weight, p.bias)])


def _same(one: Layer, other: Layer) -> bool:
    mine, theirs = [*one.asking, *one.answering], [*other.asking, *other.answering]
    return all(a is b for a, b in zip(mine, theirs, strict=True))


# --- the parts, as functions of arrays alone ----------------------------------------------------------------


def _ask(heads: int, x: mx.array, weights: Arrays) -> tuple[mx.array, mx.array, mx.array]:
    """Queries, keys and values (B, H, 1, D/H) of x (B, D)."""
    gamma, beta, joined, bias = weights
    y = rows.linear(x, joined, bias, norm=(gamma, beta)).reshape(len(x), 3, heads, 1, -1)
    q, k, v = mx.split(y, 3, axis=1)
    return q.squeeze(1), k.squeeze(1), v.squeeze(1)


def _answer(heads: int, x: mx.array, found: mx.array, k: mx.array, v: mx.array, weights: Arrays) -> mx.array:
    """The rest of a block: x (B, D), what was found among the words (B, H, 1, D/H), the audio's keys and values."""
    out, out_b, gamma, beta, query, query_b, cross, cross_b, gain, shift, fc1, fc1_b, fc2, fc2_b = weights
    count, width = x.shape
    x = rows.linear(found.reshape(count, width), out, out_b, onto=x)
    # rows that hear the same window ask as one: its keys are read once
    q = rows.linear(x, query, query_b, norm=(gamma, beta)).reshape(len(k), -1, heads, width // heads)
    heard = attend(q.swapaxes(1, 2), k, v).swapaxes(1, 2).reshape(count, width)
    x = rows.linear(heard, cross, cross_b, onto=x)
    return rows.linear(rows.linear(x, fc1, fc1_b, norm=(gain, shift), gelu=True), fc2, fc2_b, onto=x)


def _between(
    heads: int, x: mx.array, found: mx.array, k: mx.array, v: mx.array, weights: Arrays, after: Arrays
) -> tuple[mx.array, ...]:
    x = _answer(heads, x, found, k, v, weights)
    return x, *_ask(heads, x, after)


@functools.cache
def _parts(heads: int) -> tuple[Callable[..., Any], ...]:
    """The parts compiled: what Python does for an operation takes as long as its launch."""
    return tuple(mx.compile(functools.partial(part, heads)) for part in (_ask, _between, _answer))


# --- the trial ----------------------------------------------------------------------------------------------


def _works(model: Whisper) -> bool:
    """Whether a step of the model comes out as by MLX's own operations, with a warning if not."""
    return gpu.works(
        lambda: gpu.off(_error(model), _TOLERANCE, " of the largest number"),
        "Whisper's step for few rows",
        "MLX's own operations are taken, which decode a few windows at half the speed",
        runtime.SlowRecurrenceWarning,
    )


def _error(model: Whisper) -> float:
    """The largest difference to the plain step, as a share of its largest number; NaN counts."""
    config = model.config
    features = mx.random.normal((1, _FRAMES, config.n_text_state), key=mx.random.key(0)).astype(model.dtype)
    x = model.embed(mx.zeros((1, 1), mx.int32), 0)
    wanted = model.blocks(x, model.begin(features))[:, 0].astype(mx.float32)
    found = step_rows(model, x[:, 0], model.begin(features))
    assert found is not None  # asked for where there are kernels alone
    return float(np.array(mx.max(mx.abs(found - wanted)) / mx.max(mx.abs(wanted))))

"""Whisper's decoder on a GPU where it writes a token for few rows: eight launches a layer instead of thirty.

The same mathematics as :meth:`mlx_speech.models.whisper.Whisper.step`, and the same weights. Each linear layer is
one kernel with the norm before it and the GELU or the residual after it (:mod:`mlx_speech.layers.rows`).

Letters: B rows, W windows of audio, H heads, T audio frames, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from mlx_speech.layers import rows
from mlx_speech.layers.attention import KVCache, attend

if TYPE_CHECKING:
    from mlx_speech.models.whisper import DecoderBlock, DecoderState, Whisper


def step_rows(model: Whisper, x: mx.array, state: DecoderState) -> mx.array | None:
    """The blocks of a decoder for one token of each row.

    Args:
        model: its layers may be quantised; then there is nothing for it here.
        x: (B, D), the embedded tokens.
        state: advanced.

    Returns:
        (B, D) before the last norm; ``None`` where MLX's own operations are to be taken.
    """
    blocks = model.decoder.blocks
    if not rows.available(len(x), x.shape[1], x.dtype) or not _plain(blocks[0]):
        return None
    for block, cache, (k, v) in zip(blocks, state.self_attention, state.cross_attention, strict=True):
        x = _block(block, x, cache, k, v)
    return x


def _plain(block: DecoderBlock) -> bool:
    """Whether all layers of a block are plain ones."""
    layers = (block.cross_attn.query, block.cross_attn.out, block.attn.out, block.fc1, block.fc2)
    return block.attn.joined is not None and all(type(layer) is nn.Linear for layer in layers)


def _block(block: DecoderBlock, x: mx.array, cache: KVCache, k: mx.array, v: mx.array) -> mx.array:
    """(B, D) → (B, D); keys and values of the audio (W, H, T, D/H)."""
    count, width = x.shape
    heads = block.attn.heads
    joined = block.attn.joined
    assert joined is not None
    qkv = rows.linear(x, *joined, norm=block.attn_ln).reshape(count, 3, heads, 1, width // heads)
    keys, values = cache.extend(qkv[:, 1], qkv[:, 2])
    found = attend(qkv[:, 0], keys, values)
    x = rows.linear(found.reshape(count, width), block.attn.out.weight, block.attn.out.bias, onto=x)
    cross = block.cross_attn
    q = rows.linear(x, cross.query.weight, cross.query.bias, norm=block.cross_attn_ln)
    # rows that hear the same window ask as one: its keys are read once
    q = q.reshape(len(k), -1, heads, width // heads).swapaxes(1, 2)
    found = attend(q, k, v).swapaxes(1, 2).reshape(count, width)
    x = rows.linear(found, cross.out.weight, cross.out.bias, onto=x)
    wide = rows.linear(x, block.fc1.weight, block.fc1.bias, norm=block.mlp_ln, gelu=True)
    return rows.linear(wide, block.fc2.weight, block.fc2.bias, onto=x)

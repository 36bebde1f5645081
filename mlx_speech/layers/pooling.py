"""Statistics pooling: mean and standard deviation over time, under weights.

Original, MIT:
https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/models/blocks/pooling.py

B batch, T frames, C features, S weightings (speakers), M frames of the weights.
"""

from __future__ import annotations

import functools

import mlx.core as mx
import numpy as np

_EPS = 1e-8


def pool_statistics(x: mx.array, weights: mx.array | None = None) -> mx.array:
    """Means and unbiased standard deviations over time.

    Args:
        x: (B, T, C) float32.
        weights: (B, S, M) float32, at least 0, resized to T by :func:`resize_nearest`; all ones where
            ``None``, and then T is at least 2.

    Returns:
        (B, S, 2C) float32, means first; S is 1 without weights. A weighting of zeros gives zeros.
    """
    if weights is None:
        mean = mx.mean(x, axis=1, keepdims=True)
        variance = mx.sum(mx.square(x - mean), axis=1, keepdims=True) / (x.shape[1] - 1)
        return mx.concatenate([mean, mx.sqrt(variance)], axis=-1)
    weights = resize_nearest(weights.astype(mx.float32), x.shape[1])
    pooled = [_pool(x, weights[:, n : n + 1]) for n in range(weights.shape[1])]
    return mx.concatenate(pooled, axis=1) if pooled else mx.zeros((x.shape[0], 0, 2 * x.shape[2]))


def _pool(x: mx.array, weight: mx.array) -> mx.array:
    """(B, T, C) under (B, 1, T) → (B, 1, 2C)."""
    total = mx.sum(weight, axis=-1, keepdims=True) + _EPS
    squares = mx.sum(mx.square(weight), axis=-1, keepdims=True)
    mean = weight @ x / total
    variance = weight @ mx.square(x - mean) / (total - squares / total + _EPS)
    return mx.concatenate([mean, mx.sqrt(variance)], axis=-1)


def resize_nearest(weights: mx.array, size: int) -> mx.array:
    """(…, M) → (…, size) by repeating or dropping frames, as torch's ``interpolate(mode="nearest")`` does.

    Frame ``n`` is frame ``floor(n · M / size)`` of the input, the ratio and the product taken in float32.
    """
    have = weights.shape[-1]
    return weights if have == size else weights[..., _nearest(have, size)]


@functools.lru_cache(64)
def _nearest(have: int, size: int) -> mx.array:
    ratio = np.float32(have) / np.float32(size)
    index = np.floor(np.arange(size, dtype=np.float32) * ratio).astype(np.int32)
    return mx.array(np.minimum(index, have - 1))

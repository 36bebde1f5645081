"""Scaled dot-product attention over heads, and the caches of keys and values it reads."""

from __future__ import annotations

from itertools import product
from types import ModuleType

import mlx.core as mx

from mlx_speech.layers.elementwise import BLOCK, LOG2E, exp2_nonpositive
from mlx_speech.layers.fused import fresh, kernels, slow_functions, view

_SCORES = 3 << 17  # scores that a softmax of numba's takes at once: 1.5 MiB, which a core's cache holds
_GROWTH = 64  # positions by which a cache grows


def attend(q: mx.array, k: mx.array, v: mx.array, *, causal: bool = False) -> mx.array:
    """softmax(q kᵀ / √D) v.

    Args:
        q: (B, H, T, D).
        k: (B, H, S, D).
        v: (B, H, S, D).
        causal: position t sees keys up to S - T + t.

    Returns:
        (B, H, T, D), the dtype of ``q``.
    """
    long = q.shape[2] * k.shape[2] >= BLOCK
    if long and not causal and q.dtype == mx.float32 and slow_functions():
        return _attend_by_heads(q, k, v, loops) if (loops := kernels()) else _attend_in_blocks(q, k, v)
    mask = "causal" if causal and q.shape[2] > 1 else None
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


def _attend_by_heads(q: mx.array, k: mx.array, v: mx.array, loops: ModuleType) -> mx.array:
    """The same numbers on a Linux CPU with numba: a few heads, or a head's rows, whose scores fit the cache."""
    batch, heads, length, width = q.shape
    # in order by numpy: MLX would copy each head that is not, slowly
    q, k, v = (mx.array(view(x)) for x in (q * width**-0.5, k, v))
    k = k.swapaxes(-1, -2)
    some = max(1, _SCORES // (length * k.shape[-1]))
    rows = length if some > 1 else max(1, _SCORES // k.shape[-1])
    out, outputs = fresh(batch, length, heads, v.shape[-1])
    for b, h, first in product(range(batch), range(0, heads, some), range(0, length, rows)):
        scores = q[b, h : h + some, first : first + rows] @ k[b, h : h + some]
        memory = view(scores).reshape(-1, scores.shape[-1])
        scale = memory.max(axis=-1)  # numba's maxima are slow
        loops.softmax_terms(memory, scale)
        loops.scale_rows(view(scores @ v[b, h : h + some]), scale, b, first, h, outputs)
    return out.swapaxes(1, 2)


def _attend_in_blocks(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """The same numbers on a Linux CPU, a few rows at a time so that the scores stay in the cache.

    A column of ones beside the values gives each row's sum in the same product.
    """
    batch, heads, length, width = q.shape
    q = q * (width**-0.5 * LOG2E)
    k = k.swapaxes(-1, -2)
    v = mx.concatenate([v, mx.ones_like(v[..., :1])], axis=-1)
    rows = max(BLOCK // k.shape[-1] * 2, 1)

    def one_head(b: int, h: int) -> mx.array:
        parts = []
        for start in range(0, length, rows):
            scores = q[b, h, start : start + rows] @ k[b, h]
            parts.append(exp2_nonpositive(scores - mx.max(scores, axis=-1, keepdims=True)) @ v[b, h])
        return mx.concatenate(parts)

    out = mx.stack([one_head(b, h) for b in range(batch) for h in range(heads)])
    out = out.reshape(batch, heads, length, width + 1)
    return out[..., :width] / out[..., width:]


class KVCache:
    """Keys and values of the positions decoded so far, in a buffer that grows by steps."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    @classmethod
    def of(cls, k: mx.array, v: mx.array, length: int) -> KVCache:
        """A cache with so many positions of keys and values (B, H, T, D), T at least as many."""
        cache = cls()
        cache.length, cache._keys, cache._values = length, k, v
        return cache

    @property
    def batch(self) -> int:
        """Number of rows."""
        return 0 if self._keys is None else self._keys.shape[0]

    def take(self, rows: mx.array) -> KVCache:
        """A cache of some of the rows (N,)."""
        if self._keys is None or self._values is None:
            return KVCache()
        return KVCache.of(self._keys[rows], self._values[rows], self.length)

    def filled(self) -> tuple[mx.array, mx.array]:
        """Keys and values so far, (B, H, length, D)."""
        if self._keys is None or self._values is None:
            raise ValueError("nothing has been decoded yet")
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def extend(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values (B, H, T, D); returns all so far, (B, H, length, D)."""
        end = self.length + k.shape[2]
        if self._keys is None or self._values is None or end > self._keys.shape[2]:
            self._keys, self._values = (
                _grown(old, new, end) for old, new in ((self._keys, k), (self._values, v))
            )
        self._keys[:, :, self.length : end] = k
        self._values[:, :, self.length : end] = v
        self.length = end
        return self.filled()


def _grown(old: mx.array | None, new: mx.array, end: int) -> mx.array:
    batch, heads, _, width = new.shape
    size = (end + _GROWTH - 1) // _GROWTH * _GROWTH
    have = 0 if old is None else old.shape[2]
    fresh = mx.zeros((batch, heads, size - have, width), new.dtype)
    return fresh if old is None else mx.concatenate([old, fresh], axis=2)

"""Layer norm at the speed of the device."""

from __future__ import annotations

from typing import cast

import mlx.core as mx
import mlx.nn as nn

from mlx_speech.layers.fused import fresh, kernels, view

_FEW = 1 << 15  # elements up to which MLX's own, which nobody waits for, is as quick


class LayerNorm(nn.LayerNorm):
    """:class:`mlx.nn.LayerNorm` in one pass over memory on a Linux CPU, where MLX takes eight."""

    def __call__(self, x: mx.array) -> mx.array:
        """(…, N) → (…, N), the dtype of ``x``."""
        loops = kernels() if x.size > _FEW and x.dtype == mx.float32 else None
        if loops is None or "bias" not in self:
            return cast(mx.array, super().__call__(x))
        out, memory = fresh(*x.shape)
        rows = (-1, x.shape[-1])
        loops.layer_norm(
            view(x).reshape(rows), view(self.weight), view(self.bias), self.eps, memory.reshape(rows)
        )
        return out

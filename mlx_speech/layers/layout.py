"""How matrices lie in memory: the same numbers, read faster."""

from __future__ import annotations

import mlx.core as mx

from mlx_speech.layers.fused import slow_functions


def by_columns(x: mx.array) -> mx.array:
    """Lay out (…, N, K) column by column, for many products ``q @ x.T`` with few rows in ``q``.

    On a Linux CPU such a product is bound by how fast the BLAS reads ``x``: 1.2 to 3 times faster this way.
    Elsewhere the array is only made contiguous.
    """
    if slow_functions():
        return mx.contiguous(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    return mx.contiguous(x)

"""Whisper's decoder of transformers as one step over static buffers: what a CUDA graph can hold.

The weights, sizes and arithmetic are transformers' (its modules are called, SDPA for attention); the loop is not:
no mask is made anew, no cache grows, and nothing is asked of the GPU between two tokens. It stands for the best
that PyTorch can do with these weights, where ``generate()`` with a static cache does not get through
``torch.compile``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import gelu, scaled_dot_product_attention


class StaticDecoder:
    """Greedy decoding of a batch (B) to a fixed number of tokens; the end token is never chosen.

    ``tokens`` (B, n + 1) int64 holds the start and what was written.
    """

    def __init__(self, model: Any, batch: int, count: int, start: int, end: int) -> None:
        self.model, self.layers = model, list(model.model.decoder.layers)
        attention = self.layers[0].self_attn
        self.heads, width = attention.num_heads, attention.head_dim
        kept = {"device": model.device, "dtype": model.dtype}
        frames, number = model.config.max_source_positions, len(self.layers)
        # a tensor each: what torch.compile changes in place may not be parts of one
        self.audio = _pairs(number, (batch, self.heads, frames, width), kept)
        self.said = _pairs(number, (batch, self.heads, count, width), kept)
        self.start = start
        self.token = torch.zeros((batch, 1), dtype=torch.int64, device=model.device)
        self.tokens = torch.zeros((batch, count + 1), dtype=torch.int64, device=model.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=model.device)
        self.places = torch.arange(count, device=model.device)
        self.never = torch.zeros(model.config.vocab_size, **kept)
        self.never[end] = -torch.inf

    def hear(self, mel: torch.Tensor) -> None:
        """Encode (B, M, 3000), keep each layer's keys and values, and go back to the start."""
        features = self.model.get_encoder()(mel).last_hidden_state
        for layer, (k, v) in zip(self.layers, self.audio, strict=True):
            k.copy_(self._split(layer.encoder_attn.k_proj(features)))
            v.copy_(self._split(layer.encoder_attn.v_proj(features)))
        self.token.fill_(self.start)
        self.tokens.fill_(self.start)
        self.at.zero_()

    def step(self) -> None:
        """One token more, in place."""
        decoder = self.model.model.decoder
        x = decoder.embed_tokens(self.token) + decoder.embed_positions.weight[self.at]
        past = (self.places <= self.at)[None, None, None]
        for layer, heard, said in zip(self.layers, self.audio, self.said, strict=True):
            y = layer.self_attn_layer_norm(x)
            for kept, make in zip(said, (layer.self_attn.k_proj, layer.self_attn.v_proj), strict=True):
                kept.index_copy_(2, self.at, self._split(make(y)))
            x = x + self._attend(layer.self_attn, y, said, past)
            x = x + self._attend(layer.encoder_attn, layer.encoder_attn_layer_norm(x), heard, None)
            x = x + layer.fc2(gelu(layer.fc1(layer.final_layer_norm(x))))
        scores = self.model.proj_out(decoder.layer_norm(x))[:, -1] + self.never
        self.token.copy_(scores.argmax(-1, keepdim=True))
        self.at.add_(1)
        self.tokens.index_copy_(1, self.at, self.token)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _attend(self, attention: Any, x: torch.Tensor, kept: Any, mask: Any) -> torch.Tensor:
        y = scaled_dot_product_attention(self._split(attention.q_proj(x)), *kept, attn_mask=mask)
        return attention.out_proj(y.transpose(1, 2).reshape(x.shape))


def _pairs(number: int, shape: tuple[int, ...], kept: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.zeros(shape, **kept), torch.zeros(shape, **kept)) for _ in range(number)]


def decoding(
    model: Any, mel: torch.Tensor, count: int, start: int, end: int, *, compiled: bool, graph: bool
) -> Callable[[], torch.Tensor]:
    """A function that decodes ``mel``: its step compiled, and captured as a CUDA graph, beforehand."""
    static = StaticDecoder(model, len(mel), count, start, end)
    step = torch.compile(static.step) if compiled else static.step
    replay: Callable[[], Any] = step
    static.hear(mel)
    if graph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            step()
        replay = captured.replay

    def run() -> torch.Tensor:
        static.hear(mel)
        for _ in range(count):
            replay()
        return static.tokens

    return run

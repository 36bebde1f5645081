"""wav2vec 2.0 with a CTC head: scores of letters every 20 ms.

Original: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/wav2vec2/modeling_wav2vec2.py
(Apache-2.0), from Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
Representations" (2020), https://arxiv.org/abs/2006.11477. HuBERT's CTC models are the same network. Attention
adapters are those of MMS (Pratap et al., 2023), https://arxiv.org/abs/2305.13516.

Letters: B batch, S samples, T frames, C channels of the convolutions, D width, H heads, K kernel length,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech import runtime
from mlx_speech.errors import AudioError, OptionError
from mlx_speech.layers.attention import attend
from mlx_speech.layers.conv import conv1d, grouped_conv1d, windows
from mlx_speech.layers.elementwise import gelu
from mlx_speech.layers.fused import slow_functions
from mlx_speech.layers.norm import LayerNorm

_NORM_EPS = 1e-5  # of the convolutions' and the adapters' norms; the configuration's is for the others
_BLOCK = 1 << 21  # elements of the first convolution's output worked on at a time: bounds memory


@dataclass(frozen=True)
class Wav2Vec2Config:
    """The original's sizes, and what belongs to the weights beside them.

    ``vocabulary`` holds the token strings by id, ``blank`` the id of CTC's blank (the padding token),
    ``word_delimiter`` the token between words, which models of languages without spaces may lack.
    ``do_normalize`` tells whether the model heard recordings of zero mean and unit variance.
    ``feat_extract_norm`` is ``"group"`` (statistics over the whole recording, first convolution only) or
    ``"layer"`` (each frame for itself, every convolution).
    """

    vocabulary: tuple[str, ...]
    blank: int
    word_delimiter: str
    do_normalize: bool
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5
    adapter_attn_dim: int | None = None
    sampling_rate: int = 16_000

    def __post_init__(self) -> None:
        if not 0 <= self.blank < len(self.vocabulary):
            raise ValueError(f"blank {self.blank} is not one of {len(self.vocabulary)} tokens")
        if not self.conv_dim or not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError("conv_dim, conv_kernel and conv_stride are not equally long")
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"feat_extract_norm {self.feat_extract_norm!r} is neither 'group' nor 'layer'")
        if self.adapter_attn_dim is not None and not self.do_stable_layer_norm:
            raise ValueError("attention adapters go with do_stable_layer_norm")
        for parts in (self.num_attention_heads, self.num_conv_pos_embedding_groups):
            if parts < 1 or self.hidden_size % parts:
                raise ValueError(f"width {self.hidden_size} does not divide into {parts} parts")

    @property
    def frame_stride(self) -> int:
        """Samples from one frame to the next (320)."""
        stride = 1
        for s in self.conv_stride:
            stride *= s
        return stride

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the convolutions hears, the least that the model takes (400)."""
        field, stride = 1, 1
        for kernel, s in zip(self.conv_kernel, self.conv_stride, strict=True):
            field += (kernel - 1) * stride
            stride *= s
        return field

    @property
    def first_middle(self) -> int:
        """The sample in the middle of what the first frame hears (200)."""
        return self.receptive_field // 2

    def output_length(self, samples: int) -> int:
        """Frames of a recording of ``samples`` samples; 0 where it is too short for one."""
        return max(0, (samples - self.receptive_field) // self.frame_stride + 1)

    def input_length(self, frames: int) -> int:
        """The fewest samples that make so many frames, at least one."""
        return (frames - 1) * self.frame_stride + self.receptive_field

    @property
    def batchable(self) -> bool:
        """Whether recordings of different lengths can share a batch without changing each other's scores."""
        return self.feat_extract_norm == "layer"


class ConvLayer(nn.Module):
    """Convolution, layer norm where ``norm`` says so, GELU."""

    def __init__(self, c: Wav2Vec2Config, number: int) -> None:
        super().__init__()
        inputs = c.conv_dim[number - 1] if number else 1
        self.conv = nn.Conv1d(
            inputs, c.conv_dim[number], c.conv_kernel[number], c.conv_stride[number], bias=c.conv_bias
        )
        if c.feat_extract_norm == "layer":
            self.layer_norm = LayerNorm(c.conv_dim[number], eps=_NORM_EPS)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) → (B, about T / stride, C)."""
        return self.finish(conv1d(x, self.conv))

    def finish(self, x: mx.array) -> mx.array:
        """What follows the convolution."""
        return gelu(self.layer_norm(x) if "layer_norm" in self else x)

    def kernel(self, audio: mx.array) -> tuple[mx.array, mx.array]:
        """The first layer's convolution as a product with windows of the audio.

        Returns:
            weight (1, K, C) and bias (1, 1, C), float32.
        """
        weight = self.conv.weight.squeeze(2).T.astype(mx.float32)[None]
        bias = self.conv.bias.astype(mx.float32) if "bias" in self.conv else mx.zeros(weight.shape[2])
        return weight, bias[None, None]


class GroupNormConvLayer(ConvLayer):
    """The first convolution of the base models: each channel has zero mean and unit variance over time.

    Mean and variance of a convolution's output follow from the audio alone, so the norm is folded into each
    recording's own weight and bias, and the output is never there in full.
    """

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__(c, 0)
        self.layer_norm = nn.GroupNorm(c.conv_dim[0], c.conv_dim[0], eps=_NORM_EPS, pytorch_compatible=True)

    def finish(self, x: mx.array) -> mx.array:
        """What follows the convolution and the norm."""
        return gelu(x)

    def kernel(self, audio: mx.array) -> tuple[mx.array, mx.array]:
        """Weight (B, K, C) and bias (B, 1, C), float32, that convolve and normalise (B, S) at once."""
        weight, _ = super().kernel(audio)  # the convolution's bias falls out with the mean
        view = windows(audio, weight.shape[1], self.conv.stride)
        mean, variance = _moments_of_audio(view, weight) if slow_functions() else _moments(view @ weight)
        scale = self.layer_norm.weight.astype(mx.float32) * mx.rsqrt(variance + _NORM_EPS)
        return weight * scale, self.layer_norm.bias.astype(mx.float32) - mean * scale


def _moments(x: mx.array) -> tuple[mx.array, mx.array]:
    """Mean and variance over time of (B, T, C): (B, 1, C) each."""
    mean = mx.mean(x, axis=1, keepdims=True)
    return mean, mx.mean(mx.square(x - mean), axis=1, keepdims=True)


def _moments_of_audio(view: mx.array, weight: mx.array) -> tuple[mx.array, mx.array]:
    """The same of ``view @ weight``, (B, T, K) and (1, K, C), from the K × K covariance of the windows.

    In float64: a filter's output can be a millionth of the audio. Thirty times cheaper than the product.
    """
    view, weight = view.astype(mx.float64), weight.astype(mx.float64)
    centre = mx.mean(view, axis=1, keepdims=True)
    view = view - centre
    covariance = view.swapaxes(1, 2) @ view / view.shape[1]
    variance = mx.sum(weight * (covariance @ weight), axis=1, keepdims=True)
    return (centre @ weight).astype(mx.float32), variance.astype(mx.float32)


class FeatureEncoder(nn.Module):
    """Seven convolutions: from samples to frames, 20 ms each."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = c
        first = GroupNormConvLayer(c) if c.feat_extract_norm == "group" else ConvLayer(c, 0)
        self.conv_layers = [first, *(ConvLayer(c, n) for n in range(1, len(c.conv_dim)))]

    def __call__(self, audio: mx.array) -> mx.array:
        """(B, S) float32 → (B, T, C), worked on a few frames at a time: the numbers are the same."""
        c = self.config
        kernel = self.conv_layers[0].kernel(audio)
        frames = c.output_length(audio.shape[1])
        per_frame = audio.shape[0] * c.conv_dim[0] * c.frame_stride // c.conv_stride[0]
        step = max(1, (_BLOCK if runtime.on_cpu() else 32 * _BLOCK) // per_frame)
        parts = []
        for start in range(0, frames, step):
            stop = min(start + step, frames)
            first, last = start * c.frame_stride, (stop - 1) * c.frame_stride + c.receptive_field
            *_, x = self.layers(audio[:, first:last], kernel)
            parts.append(x)
        return mx.concatenate(parts, axis=1)

    def layers(self, audio: mx.array, kernel: tuple[mx.array, mx.array]) -> Iterator[mx.array]:
        """Each convolution's output in turn, (B, T, C), for the first one's :meth:`ConvLayer.kernel`."""
        first, *rest = self.conv_layers
        weight, bias = kernel
        x = windows(audio, weight.shape[1], first.conv.stride) @ weight + bias
        yield (x := first.finish(x.astype(first.conv.weight.dtype)))
        for layer in rest:
            yield (x := layer(x))


class FeatureProjection(nn.Module):
    """Layer norm and a linear map to the transformer's width."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(c.conv_dim[-1], eps=c.layer_norm_eps)
        self.projection = nn.Linear(c.conv_dim[-1], c.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, C) → (B, T, D)."""
        return self.projection(self.layer_norm(x))


class PositionalConvEmbedding(nn.Module):
    """Positions from the neighbourhood: a wide grouped convolution.

    An even kernel makes one frame too many; the last is dropped.
    """

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.groups = c.num_conv_pos_embedding_groups
        self.weight = mx.zeros((c.hidden_size, c.num_conv_pos_embeddings, c.hidden_size // self.groups))
        self.bias = mx.zeros((c.hidden_size,))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, D) → (B, T, D), to be added."""
        y = grouped_conv1d(x, self.weight, self.groups, padding=self.weight.shape[1] // 2)
        return gelu(y[:, : x.shape[1]] + self.bias)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def __call__(self, x: mx.array, frames: tuple[int, ...] | None) -> mx.array:
        """(B, T, D) → (B, T, D); item b's frames see its first ``frames[b]`` ones only."""
        q, k, v = (self._split(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = attend(q, k, v) if frames is None else _attend_within(q, k, v, frames)
        return self.out_proj(y.swapaxes(1, 2).reshape(x.shape))

    def _split(self, x: mx.array) -> mx.array:
        """(B, T, D) → (B, H, T, D / H)."""
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)


def _attend_within(q: mx.array, k: mx.array, v: mx.array, frames: tuple[int, ...]) -> mx.array:
    """Attention of (B, H, T, D / H) that leaves out what lies behind each item's own frames."""
    length = q.shape[2]
    if slow_functions():
        own = [attend(*(x[b : b + 1, :, :n] for x in (q, k, v))) for b, n in enumerate(frames)]
        return mx.concatenate([mx.pad(y, [(0, 0), (0, 0), (0, length - y.shape[2]), (0, 0)]) for y in own])
    inside = mx.arange(length) < mx.array(frames)[:, None]
    mask = inside[:, None, None, :]
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(c.hidden_size, c.intermediate_size)
        self.output_dense = nn.Linear(c.intermediate_size, c.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, D) → (B, T, D)."""
        return self.output_dense(gelu(self.intermediate_dense(x)))


class EncoderLayer(nn.Module):
    """Transformer layer with its norms behind attention and perceptron (base)."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.attention = Attention(c.hidden_size, c.num_attention_heads)
        self.layer_norm = LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.feed_forward = FeedForward(c)
        self.final_layer_norm = LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def __call__(self, x: mx.array, frames: tuple[int, ...] | None) -> mx.array:
        """(B, T, D) → (B, T, D)."""
        x = self.layer_norm(x + self.attention(x, frames))
        return self.final_layer_norm(x + self.feed_forward(x))


class AttentionAdapter(nn.Module):
    """What MMS trains for each language: a narrow perceptron behind each layer."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width, eps=_NORM_EPS)
        self.linear_1 = nn.Linear(width, narrow)
        self.linear_2 = nn.Linear(narrow, width)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, D) → (B, T, D), to be added."""
        return self.linear_2(nn.relu(self.linear_1(self.norm(x))))


class StableEncoderLayer(EncoderLayer):
    """Transformer layer with its norms in front (large-lv60, XLS-R, MMS)."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__(c)
        if c.adapter_attn_dim is not None:
            self.adapter_layer = AttentionAdapter(c.hidden_size, c.adapter_attn_dim)

    def __call__(self, x: mx.array, frames: tuple[int, ...] | None) -> mx.array:
        """(B, T, D) → (B, T, D)."""
        x = x + self.attention(self.layer_norm(x), frames)
        x = x + self.feed_forward(self.final_layer_norm(x))
        return x + self.adapter_layer(x) if "adapter_layer" in self else x


class Encoder(nn.Module):
    """Positions, then transformer layers; the norm stands before them (base) or behind (stable)."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.stable = c.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvEmbedding(c)
        self.layer_norm = LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        kind = StableEncoderLayer if self.stable else EncoderLayer
        self.layers = [kind(c) for _ in range(c.num_hidden_layers)]

    def __call__(self, x: mx.array, frames: tuple[int, ...] | None = None) -> mx.array:
        """(B, T, D) → (B, T, D); frames behind an item's own are silence to the others."""
        x = self.embed(x, frames)
        for layer in self.layers:
            x = layer(x, frames)
        return self.layer_norm(x) if self.stable else x

    def embed(self, x: mx.array, frames: tuple[int, ...] | None = None) -> mx.array:
        """What the first layer takes: (B, T, D) with positions added."""
        if frames is not None:
            x = mx.where((mx.arange(x.shape[1]) < mx.array(frames)[:, None])[..., None], x, 0)
        x = x + self.pos_conv_embed(x)
        return x if self.stable else self.layer_norm(x)


class Wav2Vec2ForCTC(nn.Module):
    """wav2vec 2.0, HuBERT or MMS with a CTC head.

    Weights are float32 or half precision, see :func:`mlx_speech.load`; the audio, the first convolution and
    the scores are float32 in any case.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)
        self.lm_head = nn.Linear(config.hidden_size, len(config.vocabulary))

    @property
    def batchable(self) -> bool:
        """Whether recordings of different lengths can share a batch; see :class:`Wav2Vec2Config`."""
        return self.config.batchable

    def normalize(self, audio: mx.array, lengths: mx.array | None = None) -> mx.array:
        """What the checkpoint wants done to the audio: zero mean and unit variance, or nothing.

        Calling the model does not do it.

        Args:
            audio: (B, S) float32 samples at 16 kHz.
            lengths: (B,) samples that each item holds; all S by default.

        Returns:
            (B, S) float32, zeros behind each item's samples.

        Raises:
            AudioError, OptionError: as in :meth:`__call__`.
        """
        counts = self._lengths(audio, lengths)
        audio = audio.astype(mx.float32)
        if not self.config.do_normalize:
            return audio
        inside = mx.arange(audio.shape[1]) < mx.array(counts)[:, None]
        count = mx.array(counts, mx.float32)[:, None]
        audio = mx.where(inside, audio, 0)
        audio = mx.where(inside, audio - _total(audio) / count, 0)
        return audio * mx.rsqrt(_total(mx.square(audio)) / count + 1e-7)

    def __call__(self, audio: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Scores of the vocabulary in each frame.

        Args:
            audio: (B, S) float32 samples at 16 kHz, normalised (:meth:`normalize`); zeros behind an item
                that is shorter than S.
            lengths: (B,) samples that each item holds; all S by default. They may differ only where
                ``batchable`` is true: then each item's scores are those it gets alone.

        Returns:
            (B, T, V) float32 logits, T = ``config.output_length(S)``; those behind an item's own
            ``config.output_length(length)`` mean nothing. Not evaluated.

        Raises:
            AudioError: another rank, samples that are not floating point, or an item with less than one
                frame (400 samples).
            OptionError: lengths that do not fit the audio, or that differ where they must not.
        """
        counts = self._lengths(audio, lengths)
        frames = None
        if any(n != audio.shape[1] for n in counts):
            if not self.batchable:
                raise OptionError(
                    f"lengths {list(counts)} differ from the batch's {audio.shape[1]} samples: this model's "
                    "norm runs over the whole recording, so only recordings of equal length can share a batch"
                )
            frames = tuple(self.config.output_length(n) for n in counts)
        x = self.feature_projection(self.feature_extractor(audio.astype(mx.float32)))
        return cast(mx.array, self.lm_head(self.encoder(x, frames)).astype(mx.float32))

    def _lengths(self, audio: mx.array, lengths: mx.array | None) -> tuple[int, ...]:
        """Each item's number of samples, checked against the audio."""
        if audio.ndim != 2:
            raise AudioError(f"audio has {audio.ndim} dimensions; give (batch, samples)")
        if not mx.issubdtype(audio.dtype, mx.floating):
            raise AudioError(f"audio holds {audio.dtype}; give float32 samples")
        batch, samples = audio.shape
        counts = (samples,) * batch if lengths is None else tuple(int(n) for n in np.array(lengths).ravel())
        if len(counts) != batch or any(n > samples for n in counts):
            raise OptionError(f"lengths {list(counts)} do not fit audio of shape {audio.shape}")
        least = self.config.receptive_field
        if min(counts, default=0) < least:
            raise AudioError(
                f"audio has {min(counts, default=0)} samples, fewer than the {least} of one frame"
            )
        return counts


def _total(x: mx.array) -> mx.array:
    """Sum over the last axis, (B, S) → (B, 1), in two stages: a long sum in float32 loses digits."""
    x = mx.pad(x, [(0, 0), (0, -x.shape[1] % 1024)])
    return mx.sum(mx.sum(x.reshape(x.shape[0], -1, 1024), axis=-1), axis=-1, keepdims=True)

"""Whisper: an audio encoder and an autoregressive text decoder.

Original: https://github.com/openai/whisper/blob/v20250625/whisper/model.py (MIT), from Radford et al.,
"Robust Speech Recognition via Large-Scale Weak Supervision" (2022), https://arxiv.org/abs/2212.04356.

Letters: B batch, T audio frames (10 ms before, 20 ms after the convolutions), M mel bands, L tokens,
D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_speech import runtime
from mlx_speech.layers.attention import KVCache, attend
from mlx_speech.layers.conv import conv1d
from mlx_speech.layers.elementwise import gelu
from mlx_speech.layers.layout import by_columns
from mlx_speech.layers.norm import LayerNorm
from mlx_speech.models import whisper_rows, whisper_step


@dataclass(frozen=True)
class WhisperConfig:
    """The original's dimensions, and the decoding settings that belong to the weights.

    ``alignment_heads`` are the (layer, head) pairs of the decoder whose cross-attention follows time;
    ``suppress_tokens`` are never sampled, ``begin_suppress_tokens`` not as the first one.
    """

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    alignment_heads: tuple[tuple[int, int], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_sizes(self)
        outside = [p for p in self.alignment_heads if p[0] >= self.n_text_layer or p[1] >= self.n_text_head]
        if outside:
            raise ValueError(f"alignment heads {outside} lie outside the decoder")

    @property
    def multilingual(self) -> bool:
        """Whether the vocabulary has languages other than English."""
        return self.n_vocab >= 51865

    @property
    def num_languages(self) -> int:
        """Number of language tokens."""
        return self.n_vocab - 51765 - int(self.multilingual)


def check_sizes(config: Any) -> None:
    """Refuse, with ``ValueError``, dimensions ``n_…`` that are no sizes or do not divide into their heads."""
    sizes = {k: getattr(config, k) for k in config.__dataclass_fields__ if k.startswith("n_")}
    wrong = [f"{k}={v!r}" for k, v in sizes.items() if not isinstance(v, int) or v < 1]
    if wrong:
        raise ValueError(f"not a positive whole number: {', '.join(wrong)}")
    for side in ("audio", "text"):
        width, heads = sizes.get(f"n_{side}_state", 1), sizes.get(f"n_{side}_head", 1)
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")


_LARGE = 16 << 20  # bytes of a layer's keys: beyond, waiting for each layer costs next to nothing


class MultiHeadAttention(nn.Module):
    """Attention whose keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: mx.array) -> mx.array:
        """(B, L, D) → (B, H, L, D/H)."""
        batch, length, width = x.shape
        return x.reshape(batch, length, self.heads, width // self.heads).swapaxes(1, 2)

    def keys_values(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values of ``x``, each (B, H, T, D/H)."""
        return self.split(self.key(x)), self.split(self.value(x))

    def queries_keys_values(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """All three of ``x``, each (B, H, T, D/H); in one product once :meth:`join` was called."""
        if self.joined is None:
            return self.split(self.query(x)), *self.keys_values(x)
        weight, bias = self.joined
        q, k, v = mx.split(mx.addmm(bias, x, weight.T), 3, axis=-1)
        return self.split(q), self.split(k), self.split(v)

    @property
    def joined(self) -> tuple[mx.array, mx.array] | None:
        """Weights (3D, D) and biases (3D,) of all three, once :meth:`join` was called and if they are plain."""
        found: tuple[mx.array, mx.array] | None = self.__dict__.get("_joined")
        return found

    def join(self) -> None:
        """Multiply by all three at once from now on, where they are plain: on a GPU each product costs its launch.

        The weights become views of one array, so that they take no more memory. Called again, it looks whether
        they are the same still.
        """
        parts = (self.query, self.key, self.value)
        plain = all(type(p) is nn.Linear for p in parts)
        known = self.__dict__.get("_views")
        if plain and known and all(p.weight is v for p, v in zip(parts, known, strict=True)):
            return
        if plain:
            self.share(mx.concatenate([p.weight for p in parts]))
        else:
            object.__setattr__(self, "_joined", None)
            object.__setattr__(self, "_views", None)

    def share(self, whole: mx.array) -> None:
        """Make the three weights views of an array that holds them all, one after another: (3D, D) or flat."""
        bias = mx.concatenate([self.query.bias, mx.zeros_like(self.query.bias), self.value.bias])
        whole = whole.reshape(-1, self.query.weight.shape[1])
        views = mx.split(whole, 3)
        mx.eval(whole, bias, views)
        for part, view in zip((self.query, self.key, self.value), views, strict=True):
            part.weight = view
        object.__setattr__(self, "_joined", (whole, bias))
        object.__setattr__(self, "_views", views)

    def __call__(self, x: mx.array, k: mx.array, v: mx.array, *, causal: bool = False) -> mx.array:
        """Attend from (B, L, D) to given keys and values; (B, L, D)."""
        return self.mix(self.split(self.query(x)), k, v, causal=causal)

    def mix(self, q: mx.array, k: mx.array, v: mx.array, *, causal: bool = False) -> mx.array:
        """Queries (B, H, L, D/H), keys and values → (B, L, D)."""
        y = attend(q, k, v, causal=causal).swapaxes(1, 2)
        return self.out(y.reshape(*y.shape[:2], -1))


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and a four times wider perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = MultiHeadAttention(width, heads)
        self.attn_ln = LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.mlp_ln = LayerNorm(width)

    def mlp(self, x: mx.array) -> mx.array:
        """The perceptron with its norm and residual."""
        return x + self.fc2(gelu(self.fc1(self.mlp_ln(x))))

    def ask(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """The attention's queries, keys and values, each (B, H, T, D/H)."""
        return self.attn.queries_keys_values(self.attn_ln(x))

    def answer(self, x: mx.array, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """All that follows, for frames ``x`` with their queries; keys and values may be those of more frames."""
        return self.mlp(x + self.attn.mix(q, k, v))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, D) → (B, T, D)."""
        return self.answer(x, *self.ask(x))


class DecoderBlock(EncoderBlock):
    """Adds attention to the audio between the two."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.cross_attn = MultiHeadAttention(width, heads)
        self.cross_attn_ln = LayerNorm(width)

    def attend_audio(self, x: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Attention of (B, L, D) to the audio's keys and values (W, H, T, D/H), B a multiple of W."""
        y = self.cross_attn_ln(x)
        if len(k) == len(x):
            return self.cross_attn(y, k, v)
        # rows that hear the same window ask as one: its keys are read once
        return self.cross_attn(y.reshape(len(k), -1, y.shape[-1]), k, v).reshape(x.shape)

    def attend_self(self, x: mx.array, cache: KVCache) -> mx.array:
        """Causal self-attention over the cached positions and these; with residual."""
        q, k, v = self.attn.queries_keys_values(self.attn_ln(x))
        return x + self.attn.mix(q, *cache.extend(k, v), causal=True)


class AudioSizes(Protocol):
    """What a configuration tells of an encoder; see :class:`WhisperConfig`."""

    @property
    def n_mels(self) -> int:
        """Mel bands."""

    @property
    def n_audio_ctx(self) -> int:
        """Positions: frames of 20 ms that it can hear at once."""

    @property
    def n_audio_state(self) -> int:
        """Width."""

    @property
    def n_audio_head(self) -> int:
        """Heads of attention."""

    @property
    def n_audio_layer(self) -> int:
        """Blocks."""


class AudioEncoder(nn.Module):
    """Two convolutions, the second halving the rate, then transformer blocks."""

    def __init__(self, c: AudioSizes) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(c.n_mels, c.n_audio_state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(c.n_audio_state, c.n_audio_state, kernel_size=3, stride=2, padding=1)
        self.positional_embedding = mx.zeros((c.n_audio_ctx, c.n_audio_state))
        self.blocks = [EncoderBlock(c.n_audio_state, c.n_audio_head) for _ in range(c.n_audio_layer)]
        self.ln_post = LayerNorm(c.n_audio_state)

    def __call__(self, mel: mx.array) -> mx.array:
        """Log-mel (B, 2T, M) → features (B, T, D), T at most the positions that there are."""
        x = self.embed(mel)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)

    def embed(self, mel: mx.array) -> mx.array:
        """What the first block hears: (B, 2T, M) → (B, T, D)."""
        x = gelu(conv1d(gelu(conv1d(mel, self.conv1)), self.conv2))
        return x + self.positional_embedding[: x.shape[1]]

    def shared(self, mel: mx.array) -> mx.array:
        """The same for few windows on a CPU's cores, each of which takes a share of the frames; evaluated."""
        x = self.embed(mel)
        parts = [x[:, some] for some in runtime.shares(x.shape[1], x.shape[1])]
        mx.eval(parts, self.parameters())  # nothing lazy may cross threads
        asked = runtime.spread(lambda x: _evaluated(*self.blocks[0].ask(x)), parts)
        for block, after in zip(self.blocks, [*self.blocks[1:], None], strict=True):
            k, v = _evaluated(*(mx.concatenate([a[n] for a in asked], axis=2) for n in (1, 2)))
            work = partial(_between, block, after, k, v)
            found = runtime.spread(work, list(zip(parts, asked, strict=True)))
            parts, asked = [x for x, _ in found], [a for _, a in found]
        return self.ln_post(mx.concatenate(parts, axis=1))


def _between(
    block: EncoderBlock,
    after: EncoderBlock | None,
    k: mx.array,
    v: mx.array,
    part: tuple[mx.array, tuple[mx.array, ...]],
) -> tuple[mx.array, tuple[mx.array, ...]]:
    """From one attention to the next, for some of the frames and their queries."""
    x = block.answer(part[0], part[1][0], k, v)
    asked = after.ask(x) if after else ()
    _evaluated(x, *asked)
    return x, asked


def _evaluated(*arrays: mx.array) -> tuple[mx.array, ...]:
    mx.eval(*arrays)
    return arrays


class TextDecoder(nn.Module):
    """Causal transformer blocks that attend to the audio; its output layer is its embedding."""

    def __init__(self, c: WhisperConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(c.n_vocab, c.n_text_state)
        self.positional_embedding = mx.zeros((c.n_text_ctx, c.n_text_state))
        self.blocks = [DecoderBlock(c.n_text_state, c.n_text_head) for _ in range(c.n_text_layer)]
        self.ln = LayerNorm(c.n_text_state)


@dataclass
class DecoderState:
    """What decoding carries from step to step: self-attention caches, and the audio's keys and values.

    The caches may hold several rows for each window of audio, one after another. ``joined`` holds the words in
    their place where a step is one launch.
    """

    self_attention: tuple[KVCache, ...]
    cross_attention: tuple[tuple[mx.array, mx.array], ...]
    joined: whisper_step.Joined | None = None

    @property
    def length(self) -> int:
        """Number of positions decoded so far."""
        return (self.joined or self.self_attention[0]).length

    @property
    def batch(self) -> int:
        """Number of rows."""
        return (self.joined or self.self_attention[0]).batch

    def separate(self) -> None:
        """Keep each layer's words by themselves again."""
        if self.joined:
            self.self_attention, self.joined = self.joined.separate(), None

    def end(self) -> None:
        """Let other decodings have what this one had to itself; it may go on still."""
        if self.joined:
            self.joined.turn.end()

    def take(self, rows: mx.array, windows: mx.array | None = None) -> DecoderState:
        """The state of some rows (N,), and of some of the windows that they hear; all of them by default."""
        cross = self.cross_attention
        if windows is not None:
            cross = tuple((_settled(k[windows], v[windows])) for k, v in cross)
        joined = self.joined and self.joined.take(rows)
        return DecoderState(tuple(c.take(rows) for c in self.self_attention), cross, joined)

    def repeat(self, times: int) -> DecoderState:
        """Each row so many times in a row. They go on hearing the same window: its keys are not repeated."""
        rows = mx.repeat(mx.arange(self.batch), times)
        return self.take(rows)


def _settled(k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
    """The audio's keys and values, laid out for the many single queries to come."""
    return by_columns(k), mx.contiguous(v)


class Whisper(nn.Module):
    """Whisper of any size. Weights are float32 or half precision; see :func:`mlx_speech.load`."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.decoder = TextDecoder(config)

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that the model computes in."""
        return self.encoder.conv1.bias.dtype

    def encode(self, mel: mx.array) -> mx.array:
        """Audio features of 30 s windows.

        Args:
            mel: log-mel spectrogram (B, 3000, n_mels), see :func:`mlx_speech.features.log_mel`.

        Returns:
            (B, 1500, n_audio_state), one frame every 20 ms; on a CPU's cores a window each, and evaluated.
        """
        mel = mel.astype(self.dtype)
        cores = runtime.free_cores()
        if cores == 1:
            return self.encoder(mel)
        mx.eval(mel, self.encoder.parameters())  # nothing lazy may cross threads
        whole = len(mel) // cores * cores
        windows = [mel[n : n + 1] for n in range(len(mel))]
        mx.eval(windows)
        found = runtime.spread(lambda one: _evaluated(self.encoder(one))[0], windows[:whole])
        return mx.concatenate([*found, *map(self.encoder.shared, windows[whole:])])

    def start(self, features: mx.array) -> DecoderState:
        """A fresh decoding state for audio features (B, T, D)."""
        if not runtime.on_cpu() and not whisper_step.prepare(self):
            whisper_rows.prepare(self)
        return self.begin(features)

    def begin(self, features: mx.array) -> DecoderState:
        """:meth:`start` without its preparations."""
        blocks = self.decoder.blocks
        if runtime.cores() > 1:
            mx.eval(features, self.decoder.parameters())  # nothing lazy may cross threads
        audio = runtime.spread(partial(self._audio, features), blocks)
        return DecoderState(tuple(KVCache() for _ in blocks), tuple(audio))

    def _audio(self, features: mx.array, block: DecoderBlock) -> tuple[mx.array, mx.array]:
        k, v = _settled(*block.cross_attn.keys_values(features))
        # nothing lazy may cross threads; and of several large layers at once MLX keeps what each was made from, too
        if runtime.cores() > 1 or k.nbytes >= _LARGE:
            mx.eval(k, v)
        return k, v

    def step(self, tokens: mx.array, state: DecoderState) -> mx.array:
        """Decode the next tokens (B, L) int32; returns hidden states (B, L, D) and advances ``state``."""
        state.separate()
        x = self.embed(tokens, state.length)
        y = whisper_rows.step_rows(self, x[:, 0], state) if x.shape[1] == 1 else None
        return self.decoder.ln(self.blocks(x, state) if y is None else y[:, None])

    def next(self, tokens: mx.array, state: DecoderState) -> mx.array:
        """Decode one more token of each row (B,) int32; scores of what may follow (B, V) float32."""
        scores = whisper_step.step(self, tokens, state)
        return self.logits(self.step(tokens[:, None], state)[:, -1]) if scores is None else scores

    def blocks(self, x: mx.array, state: DecoderState) -> mx.array:
        """The decoder's blocks for embedded tokens (B, L, D); (B, L, D), and ``state`` is advanced."""
        for block, cache, (k, v) in zip(
            self.decoder.blocks, state.self_attention, state.cross_attention, strict=True
        ):
            x = block.attend_self(x, cache)
            x = block.mlp(x + block.attend_audio(x, k, v))
        return x

    def logits(self, hidden: mx.array) -> mx.array:
        """Hidden states (..., D) → scores over the vocabulary (..., V), float32."""
        return self.decoder.token_embedding.as_linear(hidden).astype(mx.float32)

    def __call__(self, mel: mx.array, tokens: mx.array) -> mx.array:
        """Log-mel (B, 3000, M) and tokens (B, L) int32 → logits (B, L, V) float32."""
        return self.logits(self.step(tokens, self.start(self.encode(mel))))

    def cross_attention(self, features: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """Attention scores of the alignment heads over the audio, and the logits, in one forced pass.

        Args:
            features: (B, T, D) from :meth:`encode`.
            tokens: (B, L) int32.

        Returns:
            Scores before the softmax, (B, number of alignment heads, L, T) float32, and logits (B, L, V).
        """
        state = self.start(features)
        x = self.embed(tokens, 0)
        heads: dict[tuple[int, int], mx.array] = {}
        wanted = self.config.alignment_heads
        layers = zip(self.decoder.blocks, state.self_attention, state.cross_attention, strict=True)
        for layer, (block, cache, (k, v)) in enumerate(layers):
            x = block.attend_self(x, cache)
            y = block.cross_attn_ln(x)
            q = block.cross_attn.split(block.cross_attn.query(y))
            for pair in (p for p in wanted if p[0] == layer):
                scores = q[:, pair[1]] @ k[:, pair[1]].swapaxes(-1, -2) / math.sqrt(q.shape[-1])
                heads[pair] = scores.astype(mx.float32)
            x = block.mlp(x + block.cross_attn(y, k, v))
        return mx.stack([heads[p] for p in wanted], axis=1), self.logits(self.decoder.ln(x))

    def embed(self, tokens: mx.array, offset: int) -> mx.array:
        """Tokens (B, L) from a position on, as the first block reads them: (B, L, D)."""
        positions = self.decoder.positional_embedding[offset : offset + tokens.shape[1]]
        return self.decoder.token_embedding(tokens) + positions

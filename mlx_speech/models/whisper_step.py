"""Whisper's decoder on CUDA: a token of each row through all layers as one launch.

The same mathematics as :meth:`mlx_speech.models.whisper.Whisper.step` and its scores. A step of many small
operations waits for their launches, and for each one's slowest part; here the GPU's blocks of threads go through
the layers together, and meet between two of them (``whisper_step.cu``). A layer's weights lie in one array, of
which the model holds views.

The launch fills the GPU, and its blocks wait for each other: a second one beside it, from another thread, might
leave both waiting. So one decoding at a time has it; others take MLX's own operations meanwhile.

Letters: R rows, W windows of audio, L layers, H heads, D width, C positions that there is room for, V vocabulary.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_speech import runtime
from mlx_speech.layers import gpu
from mlx_speech.layers.attention import KVCache

if TYPE_CHECKING:
    from mlx_speech.models.whisper import DecoderBlock, DecoderState, Whisper

_WARPS = 8  # of a block of threads
_WIDTH = 64  # of a head, as in every Whisper
PART = _WIDTH + 4  # floats of a head's share, as in the source
_MOST_SHARES = 8  # as in the source
_MEMORY = 100480  # bytes of a block, as the source needs; a GPU of these generations has at least 101,376
_INPUTS = (
    "tokens", "embedding", "positions", "gains", "vectors", "ends", "cache", "length", "shares", "arrived",
)  # fmt: skip
_TILES = (1, 4)  # groups of eight rows that a kernel takes at once: one for few, one for many
_TRIED = {1: 7, 4: 19}  # rows that its trial takes: no whole groups
_DTYPES = (mx.float16, mx.bfloat16)
_FRAMES = 40  # of audio that the trial hears
_TOLERANCE = 0.05  # of the largest number: half precision on both sides, rounded at different places
_DEVICE = 64  # numbers: MLX keeps arrays of one or two where the host reaches them, and the GPU slowly
_GROWTH = 64  # positions by which the cache grows
_CAPABLE = 8  # the first generation whose matrix units take bfloat16


@dataclass(frozen=True)
class Layout:
    """A decoder's weights as the kernel reads them, and the arrays that they were made from.

    embedding (V, D), positions (contexts, D), weights (14 D²) of each layer, and gains (3 L + 1, D) are of the
    model's dtype, vectors (L, 19 D) and ends (2, V) float32.
    """

    embedding: mx.array
    positions: mx.array
    weights: tuple[mx.array, ...]
    gains: mx.array
    vectors: mx.array
    ends: mx.array
    origin: tuple[mx.array, ...]
    trials: dict[int, bool] = field(default_factory=dict)
    """Whether the kernel for so many groups of rows was found to work."""


class Joined:
    """The words' keys and values of all layers in one array (L, 2, R, H, C, D/H), in place of :class:`KVCache`."""

    def __init__(self, memory: mx.array, length: int, turn: Turn) -> None:
        self.memory, self.length, self.turn = memory, length, turn

    @classmethod
    def of(cls, caches: Sequence[KVCache], turn: Turn) -> Joined:
        """The same as these caches, one a layer."""
        return cls(mx.stack([mx.stack([*c.filled()]) for c in caches]), caches[0].length, turn)

    @property
    def batch(self) -> int:
        """Number of rows."""
        return int(self.memory.shape[2])

    def take(self, rows: mx.array) -> Joined:
        """A cache of some of the rows (N,)."""
        return Joined(self.memory[:, :, rows], self.length, self.turn)

    def separate(self) -> tuple[KVCache, ...]:
        """The same as a cache a layer."""
        return tuple(KVCache.of(k, v, self.length) for k, v in self.memory)

    def grow(self) -> None:
        """See to it that there is room for another position."""
        if self.length == self.memory.shape[4]:
            more = [*self.memory.shape]
            more[4] = _GROWTH
            self.memory = mx.concatenate([self.memory, mx.zeros(more, self.memory.dtype)], axis=4)

    def write(self, kv: mx.array) -> None:
        """Append keys and values (L, 2, R, H, 1, D/H)."""
        self.memory[..., self.length : self.length + 1, :] = kv
        self.length += 1


class Turn:
    """The right to launch steps: while it is held no other decoding has it."""

    _taken = threading.Lock()

    def __init__(self) -> None:
        self.arrived = mx.zeros((_DEVICE,), mx.int32)  # how often blocks have met: the kernel writes there
        mx.eval(self.arrived)
        self.last = self.arrived  # what was launched last
        self.over = False

    @classmethod
    def take(cls) -> Turn | None:
        """The turn, unless somebody has it."""
        return cls() if cls._taken.acquire(blocking=False) else None

    def end(self) -> None:
        """Let others have it, once the last launch is done."""
        if not self.over:
            mx.eval(self.last)
            self._release()

    def _release(self) -> None:
        if not self.over:
            self.over = True
            self._taken.release()

    def __del__(self) -> None:
        self._release()  # without waiting: an interpreter that ends may be past it


def prepare(model: Whisper) -> bool:
    """Lay out the weights, where the device can take a step as one launch; whether it can, as far as is known."""
    known: Layout | None = model.__dict__.get("_step_layout")
    if not suits(model):
        known = None
    elif known is None or not _same(known.origin, _sources(model)):
        known = layout(model)
    object.__setattr__(model, "_step_layout", known)
    return known is not None and all(known.trials.values())


def step(model: Whisper, tokens: mx.array, state: DecoderState) -> mx.array | None:
    """Decode the next token of each row.

    Args:
        model: a Whisper that was prepared. The kernel is tried at its first use with it.
        tokens: (R,) int32.
        state: advanced; its caches are joined by the first call.

    Returns:
        Scores over the vocabulary (R, V) float32; ``None`` where other operations are to be taken.
    """
    known: Layout | None = model.__dict__.get("_step_layout")
    if known is None or runtime.on_cpu() or not state.length:
        return None
    tiles = _tiles(len(tokens))
    cache = state.joined
    turn = Turn.take() if cache is None or cache.turn.over else cache.turn
    if not turn:
        return None
    if tiles not in known.trials:
        known.trials[tiles] = _works(model, known, turn, tiles)
    if not known.trials[tiles]:
        turn.end()
        return None
    if cache is None or cache.turn is not turn:
        state.separate()
        cache, state.self_attention = Joined.of(state.self_attention, turn), ()
        state.joined = cache
    return _advance(known, tokens, cache, state.cross_attention)


def _tiles(rows: int) -> int:
    """Groups of eight rows that the kernel for so many takes at once."""
    return _TILES[rows > 8 * _TILES[0]]


def _advance(
    known: Layout, tokens: mx.array, cache: Joined, audio: Sequence[tuple[mx.array, mx.array]]
) -> mx.array:
    """The scores; the cache is advanced."""
    cache.grow()
    scores, kv = launch(known, tokens, cache, audio)
    cache.write(kv)
    cache.turn.last = scores
    return scores


# --- the layout ---------------------------------------------------------------------------------------------


def suits(model: Whisper) -> bool:
    """Whether the device and the model are such that a step can be one launch."""
    config = model.config
    if runtime.on_cpu() or not gpu.on_cuda() or model.dtype not in _DTYPES:
        return False
    return (
        config.n_text_state == _WIDTH * config.n_text_head
        and gpu.capability() >= _CAPABLE
        and type(model.decoder.token_embedding) is nn.Embedding
        and all(type(layer) is nn.Linear for block in model.decoder.blocks for layer in _linear(block))
    )


def _linear(block: DecoderBlock) -> tuple[nn.Linear, ...]:
    """The layers whose weights lie side by side."""
    attn, cross = block.attn, block.cross_attn
    return attn.query, attn.key, attn.value, attn.out, cross.query, cross.out, block.fc1, block.fc2


def _sources(model: Whisper) -> tuple[mx.array, ...]:
    """All that a layout is made from."""
    decoder = model.decoder
    found = [decoder.token_embedding.weight, decoder.positional_embedding, decoder.ln.weight, decoder.ln.bias]
    for block in decoder.blocks:
        for layer in _linear(block):
            found += [layer[name] for name in ("weight", "bias") if name in layer]
        for norm in (block.attn_ln, block.cross_attn_ln, block.mlp_ln):
            found += [norm.weight, norm.bias]
    return tuple(found)


def _same(some: Sequence[mx.array], others: Sequence[mx.array]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def layout(model: Whisper) -> Layout:
    """The weights as the kernel reads them. The model's own become views of them: they take no more memory."""
    decoder, blocks = model.decoder, model.decoder.blocks
    norms = [norm for b in blocks for norm in (b.attn_ln, b.cross_attn_ln, b.mlp_ln)]
    gains = mx.stack([norm.weight for norm in (*norms, decoder.ln)])
    ends = mx.stack([*_folded([decoder.token_embedding], decoder.ln)])
    weights, vectors = zip(*map(_joined, blocks), strict=True)
    mx.eval(gains, ends)
    embedding, positions = decoder.token_embedding.weight, decoder.positional_embedding
    return Layout(embedding, positions, weights, gains, mx.stack([*vectors]), ends, _sources(model))


def _joined(block: DecoderBlock) -> tuple[mx.array, mx.array]:
    """A block's weights in one array, of which it holds views from now on, and its vectors.

    Evaluated, so that no more than a layer is in memory twice.
    """
    layers = _linear(block)
    vectors = _vectors(block)
    whole = mx.concatenate([layer.weight.reshape(-1) for layer in layers])
    mx.eval(vectors, whole)
    start = 3 * block.attn.query.weight.size
    block.attn.share(whole[:start])
    for layer in layers[3:]:
        end = start + layer.weight.size
        layer.weight, start = whole[start:end].reshape(layer.weight.shape), end
    mx.eval([layer.weight for layer in layers])
    return whole, vectors


def _vectors(block: DecoderBlock) -> mx.array:
    """Shifts, and centres where a norm comes first, (19 D) float32, in the order in which they are used."""
    attn, cross = block.attn, block.cross_attn
    ask = _folded([attn.query, attn.key, attn.value], block.attn_ln)
    query, fc1 = _folded([cross.query], block.cross_attn_ln), _folded([block.fc1], block.mlp_ln)
    parts = [*ask, attn.out.bias, *query, cross.out.bias, *fc1, block.fc2.bias]
    return mx.concatenate([p.astype(mx.float32) for p in parts])


def _folded(layers: Sequence[Any], norm: Any) -> tuple[mx.array, mx.array]:
    """What a norm before them adds to layers' outputs, with their biases, and what its mean is taken times."""
    gain, offset = norm.weight.astype(mx.float32), norm.bias.astype(mx.float32)
    shifts, centres = [], []
    for layer in layers:
        weight = layer.weight.astype(mx.float32)
        # sums rather than products of matrices, which MLX may round to TF32
        centres.append((weight * gain).sum(axis=1))
        shifts.append((weight * offset).sum(axis=1) + (layer.bias if "bias" in layer else 0.0))
    return mx.concatenate(shifts), mx.concatenate(centres)


# --- the launch ---------------------------------------------------------------------------------------------


def launch(
    known: Layout, tokens: mx.array, cache: Joined, audio: Sequence[tuple[mx.array, mx.array]]
) -> tuple[mx.array, mx.array]:
    """Scores (R, V) float32, and the keys and values (L, 2, R, H, 1, D/H) of the tokens (R,) that were read."""
    scores, kv, *_ = run(_kernel(len(audio)), known, tokens, cache, audio)
    return scores, kv


def run(
    kernel: Any,
    known: Layout,
    tokens: mx.array,
    cache: Joined,
    audio: Sequence[tuple[mx.array, mx.array]],
    spare: int = 0,
) -> list[mx.array]:
    """All that a kernel writes; ``spare`` more rows (PART) of shares than it needs."""
    (vocabulary, width), dtype = known.embedding.shape, known.embedding.dtype
    rows, layers, heads = len(tokens), len(audio), cache.memory.shape[3]
    shares = _shares(rows * heads, audio[0][0].shape[2], gpu.processors())
    found: list[mx.array] = kernel(
        inputs=[
            tokens.astype(mx.int32), known.embedding, known.positions, known.gains, known.vectors, known.ends,
            cache.memory, _number(cache.length), _number(shares), cache.turn.arrived,
            *known.weights, *(a for pair in audio for a in pair),
        ],
        template=[("T", dtype), ("NT", _tiles(rows))],
        grid=(gpu.processors() * 32 * _WARPS, 1, 1),
        threadgroup=(32 * _WARPS, 1, 1),
        output_shapes=[
            (rows, vocabulary), (layers, 2, rows, heads, 1, _WIDTH), (7, rows, width),
            (rows * heads * shares + spare, PART),
        ],
        output_dtypes=[mx.float32, dtype, dtype, mx.float32],
    )  # fmt: skip
    return found


@functools.cache
def _number(value: int) -> mx.array:
    found = mx.full((_DEVICE,), value, mx.int32)
    mx.eval(found)
    return found


@functools.cache
def _shares(units: int, frames: int, blocks: int) -> int:
    """Into how many shares the audio is best cut for so many rows' heads, that few blocks are idle at the end."""
    if units >= 8 * blocks:
        return 1
    return min(range(1, _MOST_SHARES + 1), key=lambda n: -(-units * n // blocks) * (frames / n + 300))


BODY = """
extern __shared__ uint4 memory[];
static_assert(memory_of(NT) * 4 <= MEMORY, "a block's memory");
__shared__ const T *weights[LAYERS], *audio[2 * LAYERS];
if (threadIdx.x == 0) {
  PLACES
}
__syncthreads();
int* const met = const_cast<int*>(arrived);
Here me{int(threadIdx.x), int(threadIdx.x) / 32, int(threadIdx.x) % 32, int(blockIdx.x), int(gridDim.x),
        reinterpret_cast<float*>(memory), met, *static_cast<volatile int*>(met) / int(gridDim.x)};
Step<T> s{tokens, embedding, positions, weights, gains, vectors, ends, cache, audio, scores, kv, room, part};
s.rows = tokens_shape[0];
s.windows = audio0_shape[0];
s.heads = cache_shape[3];
s.layers = vectors_shape[0];
s.length = length[0];
s.capacity = cache_shape[4];
s.frames = audio0_shape[2];
s.shares = shares[0];
s.vocabulary = embedding_shape[0];
step<NT>(me, s);
"""


@functools.cache
def _kernel(layers: int) -> Any:
    """The compiled kernel's launcher, for so many layers."""
    return kernel_of(layers, source(), BODY)


def kernel_of(layers: int, source: str, body: str) -> Any:
    """A launcher of this source for so many layers."""
    places = {f"w{n}": f"weights[{n}]" for n in range(layers)}
    places |= {f"audio{n}": f"audio[{n}]" for n in range(2 * layers)}
    lines = [f"{place} = {name};" for name, place in places.items()]
    body = body.replace("LAYERS", str(layers)).replace("PLACES", "\n  ".join(lines))
    names = [*_INPUTS, *places]
    return gpu.cuda_kernel("step", names, ["scores", "kv", "room", "part"], body, source, _MEMORY)


@functools.cache
def source() -> str:
    """What the kernel is compiled from, but for its body."""
    folder = resources.files("mlx_speech.models")
    files = [(folder / name).read_text(encoding="utf-8") for name in ("whisper_step.cuh", "whisper_step.cu")]
    lines = [line.split("//")[0].rstrip() for file in files for line in file.splitlines()]
    sizes = f"constexpr int WARPS = {_WARPS}, MEMORY = {_MEMORY};"
    return "\n".join([gpu.bounded(32 * _WARPS), sizes, *filter(None, lines)])


# --- the trial ----------------------------------------------------------------------------------------------


def _works(model: Whisper, known: Layout, turn: Turn, tiles: int) -> bool:
    """Whether a step of the model comes out as by MLX's own operations, with a warning if not."""
    return gpu.works(
        lambda: gpu.off(_error(model, known, turn, _TRIED[tiles]), _TOLERANCE, " of the largest number"),
        "Whisper's step as one launch",
        "MLX's own operations are taken, which decode at a fraction of the speed",
        runtime.SlowRecurrenceWarning,
    )


def _error(model: Whisper, known: Layout, turn: Turn, windows: int) -> float:
    """The largest difference to the plain steps, as a share of their largest number; NaN counts."""
    config = model.config
    features = mx.random.normal((windows, _FRAMES, config.n_text_state), key=mx.random.key(0))
    tokens = mx.arange(windows) * 7 % config.n_vocab
    plain, other = (model.begin(features.astype(model.dtype)) for _ in range(2))
    for state in (plain, other):
        _plain(model, mx.repeat(tokens[:, None], 3, axis=1), state)
    joined = Joined.of(other.self_attention, turn)
    errors = []
    for _ in range(2):
        wanted = _plain(model, tokens[:, None], plain)
        off = mx.abs(_advance(known, tokens, joined, other.cross_attention) - wanted)
        errors.append(np.array(mx.max(off) / mx.max(mx.abs(wanted))))
    return float(np.max(errors))


def _plain(model: Whisper, tokens: mx.array, state: DecoderState) -> mx.array:
    """Scores (R, V) after tokens (R, L), by MLX's own operations."""
    hidden = model.blocks(model.embed(tokens, state.length), state)[:, -1]
    return model.logits(model.decoder.ln(hidden))

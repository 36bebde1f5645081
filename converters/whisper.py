"""Whisper's checkpoint layouts: Hugging Face, OpenAI's ``.pt``, CTranslate2's ``model.bin``, mlx-whisper's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech.converters._family import Family
from mlx_speech.converters._tensors import Tensors
from mlx_speech.converters._whisper_tables import ALIGNMENT_HEADS, NON_SPEECH_ENGLISH, NON_SPEECH_MULTILINGUAL
from mlx_speech.errors import CheckpointError
from mlx_speech.loading import read_config as read_json
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.weights import Layout, Rule, conv, split

_PROJECTIONS = ("query", "key", "value", "out")


def _linear(source: str, target: str, bias: bool = True) -> list[Rule]:
    kinds = ("weight", "bias") if bias else ("weight",)
    return [Rule(f"{source}.{k}", f"{target}.{k}") for k in kinds]


def _attention(source: str, target: str, names: tuple[str, str, str, str]) -> list[Rule]:
    pairs = zip(names, _PROJECTIONS, strict=True)
    return [
        r
        for theirs, our in pairs
        for r in _linear(f"{source}.{theirs}", f"{target}.{our}", bias=our != "key")
    ]


def _convolutions(source: str, separator: str = ".") -> list[Rule]:
    return [
        rule
        for n in (1, 2)
        for rule in (
            Rule(f"{source}{separator}conv{n}{separator}weight", f"encoder.conv{n}.weight", conv),
            Rule(f"{source}{separator}conv{n}{separator}bias", f"encoder.conv{n}.bias"),
        )
    ]


_HF_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def _hf_block(source: str, side: str) -> list[Rule]:
    theirs, ours = f"{source}.layers.{{i}}", f"{side}.blocks.{{i}}"
    rules = [
        *_attention(f"{theirs}.self_attn", f"{ours}.attn", _HF_PROJECTIONS),
        *_linear(f"{theirs}.self_attn_layer_norm", f"{ours}.attn_ln"),
        *_linear(f"{theirs}.fc1", f"{ours}.fc1"),
        *_linear(f"{theirs}.fc2", f"{ours}.fc2"),
        *_linear(f"{theirs}.final_layer_norm", f"{ours}.mlp_ln"),
    ]
    if side == "decoder":
        rules += _attention(f"{theirs}.encoder_attn", f"{ours}.cross_attn", _HF_PROJECTIONS)
        rules += _linear(f"{theirs}.encoder_attn_layer_norm", f"{ours}.cross_attn_ln")
    return rules


def hf_encoder(source: str) -> list[Rule]:
    """The rules of an encoder whose keys begin with ``source``, as Hugging Face names what follows."""
    return [
        *_convolutions(source),
        Rule(f"{source}.embed_positions.weight", "encoder.positional_embedding"),
        *_hf_block(source, "encoder"),
        *_linear(f"{source}.layer_norm", "encoder.ln_post"),
    ]


HUGGING_FACE = Layout(
    "whisper-huggingface",
    (
        *hf_encoder("model.encoder"),
        Rule("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
        Rule("model.decoder.embed_positions.weight", "decoder.positional_embedding"),
        *_hf_block("model.decoder", "decoder"),
        *_linear("model.decoder.layer_norm", "decoder.ln"),
        Rule("proj_out.weight", None, required=False),  # tied to the embedding
    ),
)


def _openai_block(side: str) -> list[Rule]:
    at = f"{side}.blocks.{{i}}"
    rules = [
        *_attention(f"{at}.attn", f"{at}.attn", _PROJECTIONS),
        *_linear(f"{at}.attn_ln", f"{at}.attn_ln"),
        *_linear(f"{at}.mlp.0", f"{at}.fc1"),
        *_linear(f"{at}.mlp.2", f"{at}.fc2"),
        *_linear(f"{at}.mlp_ln", f"{at}.mlp_ln"),
    ]
    if side == "decoder":
        rules += _attention(f"{at}.cross_attn", f"{at}.cross_attn", _PROJECTIONS)
        rules += _linear(f"{at}.cross_attn_ln", f"{at}.cross_attn_ln")
    return rules


OPENAI = Layout(
    "whisper-openai",
    (
        *_convolutions("encoder"),
        Rule("encoder.positional_embedding", "encoder.positional_embedding"),
        *_openai_block("encoder"),
        *_linear("encoder.ln_post", "encoder.ln_post"),
        Rule("decoder.token_embedding.weight", "decoder.token_embedding.weight"),
        Rule("decoder.positional_embedding", "decoder.positional_embedding"),
        *_openai_block("decoder"),
        *_linear("decoder.ln", "decoder.ln"),
    ),
)


def _ct2_norm(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}/gamma", f"{target}.weight"), Rule(f"{source}/beta", f"{target}.bias")]


def _ct2_linear(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}/{k}", f"{target}.{k}") for k in ("weight", "bias")]


def _ct2_fused(source: str, target: str, names: tuple[str, ...]) -> list[Rule]:
    """A fused projection; CTranslate2 stores zeros for the bias that Whisper's keys do not have."""
    biased = tuple(f"{target}.{n}.bias" for n in names if n != "key")
    without_key = split(len(names), drop=[names.index("key")] if "key" in names else [])
    return [
        Rule(f"{source}/weight", tuple(f"{target}.{n}.weight" for n in names), split(len(names))),
        Rule(f"{source}/bias", biased, without_key),
    ]


def _ct2_block(side: str) -> list[Rule]:
    theirs, ours = f"{side}/layer_{{i}}", f"{side}.blocks.{{i}}"
    rules = [
        *_ct2_fused(f"{theirs}/self_attention/linear_0", f"{ours}.attn", ("query", "key", "value")),
        *_ct2_linear(f"{theirs}/self_attention/linear_1", f"{ours}.attn.out"),
        *_ct2_norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln"),
        *_ct2_linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1"),
        *_ct2_linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2"),
        *_ct2_norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln"),
    ]
    if side == "decoder":
        rules += _ct2_linear(f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
        rules += _ct2_fused(f"{theirs}/attention/linear_1", f"{ours}.cross_attn", ("key", "value"))
        rules += _ct2_linear(f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
        rules += _ct2_norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
    return rules


# the library's own switches; num_heads is read as configuration, the projection is tied to the embedding
_CT2_DROPPED = (
    *(
        f"decoder/{n}"
        for n in ("activation", "alibi", "alignment_heads", "alignment_layer", "num_heads", "pre_norm")
    ),
    *(f"decoder/{n}" for n in ("scale_embeddings", "start_from_zero_embedding", "projection/weight")),
    *(f"decoder/{n}" for n in ("alibi_use_positive_positions", "scale_alibi")),
    *(f"encoder/{n}" for n in ("num_heads", "activation", "pre_norm", "alibi")),
)

CTRANSLATE2 = Layout(
    "whisper-ctranslate2",
    (
        *_convolutions("encoder", "/"),
        Rule("encoder/position_encodings/encodings", "encoder.positional_embedding"),
        *_ct2_block("encoder"),
        *_ct2_norm("encoder/layer_norm", "encoder.ln_post"),
        Rule("decoder/embeddings/weight", "decoder.token_embedding.weight"),
        Rule("decoder/position_encodings/encodings", "decoder.positional_embedding"),
        *_ct2_block("decoder"),
        *_ct2_norm("decoder/layer_norm", "decoder.ln"),
        *(Rule(k, None, required=False) for k in _CT2_DROPPED),
    ),
)

_PACKED = ("scales", "biases")  # beside the weight of a layer that is quantised


def with_positions(x: mx.array) -> list[mx.array]:
    """A norm's weight (D,), and the encoder's sinusoids (1500, D), which MLX's own port computes anew."""
    half = x.shape[0] // 2
    rates = np.exp(-np.log(10_000) / (half - 1) * np.arange(half))
    angles = np.arange(_AUDIO_CONTEXT)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return [x, mx.array(table).astype(x.dtype)]


_AUDIO_CONTEXT = 1500


def _mlx_linear(source: str, target: str, bias: bool = True) -> list[Rule]:
    packed = [Rule(f"{source}.{k}", f"{target}.{k}", required=False) for k in _PACKED]
    return [*_linear(source, target, bias), *packed]


def _mlx_block(side: str) -> list[Rule]:
    at = f"{side}.blocks.{{i}}"
    kinds = ("attn", "cross_attn") if side == "decoder" else ("attn",)
    rules = [
        *_mlx_linear(f"{at}.mlp1", f"{at}.fc1"),
        *_mlx_linear(f"{at}.mlp2", f"{at}.fc2"),
        *_linear(f"{at}.mlp_ln", f"{at}.mlp_ln"),
    ]
    for kind in kinds:
        rules += _linear(f"{at}.{kind}_ln", f"{at}.{kind}_ln")
        for p in _PROJECTIONS:
            rules += _mlx_linear(f"{at}.{kind}.{p}", f"{at}.{kind}.{p}", bias=p != "key")
    return rules


MLX = Layout(
    "whisper-mlx",
    (
        *(Rule(f"encoder.conv{n}.{k}", f"encoder.conv{n}.{k}") for n in (1, 2) for k in ("weight", "bias")),
        *_mlx_block("encoder"),
        Rule(
            "encoder.ln_post.weight",
            ("encoder.ln_post.weight", "encoder.positional_embedding"),
            with_positions,
        ),
        Rule("encoder.ln_post.bias", "encoder.ln_post.bias"),
        *_mlx_linear("decoder.token_embedding", "decoder.token_embedding", bias=False),
        Rule("decoder.positional_embedding", "decoder.positional_embedding"),
        *_mlx_block("decoder"),
        *_linear("decoder.ln", "decoder.ln"),
        Rule("alignment_heads", None, required=False),  # read as configuration
    ),
)

# where each layout keeps the tensors that tell the dimensions, and its layer keys
_PROBES = {
    HUGGING_FACE.name: (
        "model.{}.layers.",
        "model.{}.embed_positions.weight",
        "model.encoder.conv1.weight",
        "model.decoder.embed_tokens.weight",
    ),
    OPENAI.name: (
        "{}.blocks.",
        "{}.positional_embedding",
        "encoder.conv1.weight",
        "decoder.token_embedding.weight",
    ),
    CTRANSLATE2.name: (
        "{}/layer_",
        "{}/position_encodings/encodings",
        "encoder/conv1/weight",
        "decoder/embeddings/weight",
    ),
    MLX.name: (
        "{}.blocks.",
        "decoder.positional_embedding",  # the encoder's is computed
        "encoder.conv1.weight",
        "decoder.token_embedding.weight",
    ),
}


def read_config(tensors: Tensors, folder: Path, layout: Layout) -> WhisperConfig:
    """Whisper's configuration: sizes from the tensors, heads and token settings from the files beside."""
    where = str(tensors.path)
    layers, positions, conv1, embedding = _PROBES[layout.name]
    shape = {k: spec.shape for k, spec in tensors.specs.items()}
    try:
        audio_ctx, audio_state = _AUDIO_CONTEXT, shape[conv1][0]
        if layout is not MLX:
            audio_ctx, audio_state = shape[positions.format("encoder")]
        text_ctx, text_state = shape[positions.format("decoder")]
        sizes: dict[str, Any] = {
            "n_mels": shape[conv1][2 if layout is MLX else 1],
            "n_audio_ctx": audio_ctx,
            "n_audio_state": audio_state,
            "n_audio_layer": count_layers(shape, layers.format("encoder")),
            "n_vocab": shape[embedding][0],
            "n_text_ctx": text_ctx,
            "n_text_state": text_state,
            "n_text_layer": count_layers(shape, layers.format("decoder")),
        }
        return WhisperConfig(**sizes, **_SETTINGS[layout.name](tensors, folder, sizes))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise CheckpointError(f"{where}: its configuration does not fit its tensors: {error}") from error


def count_layers(shape: Mapping[str, Any], prefix: str) -> int:
    """Layers are numbered from 0: one more than the highest number behind the prefix."""
    found = (re.match(re.escape(prefix) + r"(\d+)", key) for key in shape)
    return 1 + max((int(m[1]) for m in found if m), default=-1)


def _hf_settings(tensors: Tensors, folder: Path, sizes: Mapping[str, Any]) -> dict[str, Any]:
    config, generation = read_json(folder), read_json(folder, "generation_config.json")
    if "encoder_attention_heads" not in config:
        raise CheckpointError(
            f"{folder / 'config.json'}: no 'encoder_attention_heads'; put the original file beside it"
        )
    both = config | generation
    return {
        "n_audio_head": int(config["encoder_attention_heads"]),
        "n_text_head": int(config["decoder_attention_heads"]),
        "alignment_heads": _pairs(
            generation.get("alignment_heads"), sizes, int(config["decoder_attention_heads"])
        ),
        "suppress_tokens": tuple(both.get("suppress_tokens") or _non_speech(sizes)),
        "begin_suppress_tokens": tuple(both.get("begin_suppress_tokens") or _begin(sizes)),
    }


def _openai_settings(tensors: Tensors, folder: Path, sizes: Mapping[str, Any]) -> dict[str, Any]:
    dims = tensors.extra.get("dims")
    if not isinstance(dims, Mapping):
        raise CheckpointError(f"{tensors.path}: has no 'dims'; it was not saved by openai/whisper")
    stem = tensors.path.stem
    heads = ALIGNMENT_HEADS.get({"large": "large-v3", "turbo": "large-v3-turbo"}.get(stem, stem))
    return {
        "n_audio_head": int(dims["n_audio_head"]),
        "n_text_head": int(dims["n_text_head"]),
        "alignment_heads": _pairs(heads, sizes, int(dims["n_text_head"])),
        "suppress_tokens": _non_speech(sizes),
        "begin_suppress_tokens": _begin(sizes),
    }


def _ct2_settings(tensors: Tensors, folder: Path, sizes: Mapping[str, Any]) -> dict[str, Any]:
    config = read_json(folder)
    text_heads = int(tensors["decoder/num_heads"].item())
    return {
        "n_audio_head": int(tensors["encoder/num_heads"].item()),
        "n_text_head": text_heads,
        "alignment_heads": _pairs(config.get("alignment_heads"), sizes, text_heads),
        "suppress_tokens": tuple(config.get("suppress_ids") or _non_speech(sizes)),
        "begin_suppress_tokens": tuple(config.get("suppress_ids_begin") or _begin(sizes)),
    }


def _mlx_settings(tensors: Tensors, folder: Path, sizes: Mapping[str, Any]) -> dict[str, Any]:
    dims = read_json(folder)
    if "n_audio_head" not in dims:
        raise CheckpointError(f"{folder / 'config.json'}: no 'n_audio_head'; put the original file beside it")
    text_heads = int(dims["n_text_head"])
    heads = tensors["alignment_heads"].tolist() if "alignment_heads" in tensors else None
    return {
        "n_audio_head": int(dims["n_audio_head"]),
        "n_text_head": text_heads,
        "alignment_heads": _pairs(heads, sizes, text_heads),
        "suppress_tokens": _non_speech(sizes),
        "begin_suppress_tokens": _begin(sizes),
    }


_SETTINGS = {
    MLX.name: _mlx_settings,
    HUGGING_FACE.name: _hf_settings,
    OPENAI.name: _openai_settings,
    CTRANSLATE2.name: _ct2_settings,
}


def _pairs(heads: Any, sizes: Mapping[str, Any], num_heads: int) -> tuple[tuple[int, int], ...]:
    """The given heads; where none are known, every head of the upper half, as the original does."""
    if heads:
        return tuple((int(layer), int(head)) for layer, head in heads)
    layers = int(sizes["n_text_layer"])
    return tuple((layer, head) for layer in range(layers // 2, layers) for head in range(num_heads))


def _non_speech(sizes: Mapping[str, Any]) -> tuple[int, ...]:
    return NON_SPEECH_MULTILINGUAL if sizes["n_vocab"] >= 51865 else NON_SPEECH_ENGLISH


def _begin(sizes: Mapping[str, Any]) -> tuple[int, ...]:
    """A lone space and the end of the text."""
    return (220, 50257 if sizes["n_vocab"] >= 51865 else 50256)


# every matrix of the blocks, and the embedding, which is the output layer too: half of tiny's weights
def quantised_blocks(side: str) -> tuple[str, ...]:
    """The matrices of one side's blocks."""
    names = (*(f"attn.{p}" for p in _PROJECTIONS), "fc1", "fc2")
    return tuple(f"{side}.blocks.{{i}}.{name}" for name in names)


QUANTISED = (
    *quantised_blocks("encoder"),
    *quantised_blocks("decoder"),
    *(f"decoder.blocks.{{i}}.cross_attn.{p}" for p in _PROJECTIONS),
    "decoder.token_embedding",
)

FAMILY = Family(
    name="whisper",
    config_type=WhisperConfig,
    build=Whisper,
    layouts=(HUGGING_FACE, OPENAI, CTRANSLATE2, MLX),
    read_config=read_config,
    companions=(
        *("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"),
        *("vocabulary.json", "vocab.json", "merges.txt"),
    ),
    half=True,
    quantised=QUANTISED,
)

"""wav2vec 2.0, HuBERT and MMS with a CTC head: Hugging Face's checkpoints.

The positional convolution is stored as a weight norm, under the names of PyTorch's old function
(``weight_g``, ``weight_v``) or of its parametrization; both are resolved into one weight. What only training
needs (the mask embedding, the quantizer and its projections) is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_speech.converters._family import Family
from mlx_speech.converters._tensors import Tensors
from mlx_speech.errors import CheckpointError
from mlx_speech.loading import read_config as read_json
from mlx_speech.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2ForCTC
from mlx_speech.weights import Layout, Rule, conv


def weight_norm(g: mx.array, v: mx.array) -> mx.array:
    """Each tap's direction v / ‖v‖ times its length g: (1, 1, K) and (O, I, K) → (O, K, I) float32."""
    g, v = g.astype(mx.float32), v.astype(mx.float32)
    return conv(v * (g / mx.sqrt(mx.sum(mx.square(v), axis=(0, 1), keepdims=True))))


_OLD_NAMES = ("weight_g", "weight_v")
_NEW_NAMES = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def _pair(source: str, target: str, required: bool = True) -> list[Rule]:
    """Weight and bias, as they are."""
    return [Rule(f"{source}.{k}", f"{target}.{k}", required=required) for k in ("weight", "bias")]


def _rules(model: str, names: tuple[str, str]) -> tuple[Rule, ...]:
    convolutions, layers = "feature_extractor.conv_layers.{i}", "encoder.layers.{i}"
    positions = "encoder.pos_conv_embed"
    blocks = (
        *(f"attention.{p}_proj" for p in ("q", "k", "v", "out")),
        *("layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense", "final_layer_norm"),
    )
    adapters = (f"adapter_layer.{n}" for n in ("norm", "linear_1", "linear_2"))
    same = ("feature_projection.layer_norm", "feature_projection.projection", "encoder.layer_norm")
    training = ("quantizer.codevectors", *(f"{n}.{k}" for n in _TRAINING for k in ("weight", "bias")))
    return (
        Rule(f"{model}.{convolutions}.conv.weight", f"{convolutions}.conv.weight", conv),
        Rule(f"{model}.{convolutions}.conv.bias", f"{convolutions}.conv.bias", required=False),
        *_pair(f"{model}.{convolutions}.layer_norm", f"{convolutions}.layer_norm"),
        *(rule for name in same for rule in _pair(f"{model}.{name}", name)),
        Rule(
            (f"{model}.{positions}.conv.{names[0]}", f"{model}.{positions}.conv.{names[1]}"),
            f"{positions}.weight",
            weight_norm,
        ),
        Rule(f"{model}.{positions}.conv.bias", f"{positions}.bias"),
        *(rule for name in blocks for rule in _pair(f"{model}.{layers}.{name}", f"{layers}.{name}")),
        *(
            rule
            for name in adapters
            for rule in _pair(f"{model}.{layers}.{name}", f"{layers}.{name}", required=False)
        ),
        *_pair("lm_head", "lm_head"),
        Rule(f"{model}.masked_spec_embed", None, required=False),
        *(Rule(key, None, required=False) for key in training),
    )


_TRAINING = ("quantizer.weight_proj", "project_hid", "project_q")

LAYOUTS = (
    Layout("wav2vec2-huggingface", _rules("wav2vec2", _NEW_NAMES)),
    Layout("wav2vec2-huggingface-weight_g", _rules("wav2vec2", _OLD_NAMES)),
    Layout("wav2vec2-hubert", _rules("hubert", _NEW_NAMES)),
    Layout("wav2vec2-hubert-weight_g", _rules("hubert", _OLD_NAMES)),
)

_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "adapter_attn_dim"),
)
# what another value of would make it another network, and the value that is ours
_FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "conv_pos_batch_norm": False,
    "feat_proj_layer_norm": True,
}


def read_config(tensors: Tensors, folder: Path, layout: Layout) -> Wav2Vec2Config:
    """The configuration, from ``config.json`` and the extractor's and the tokenizer's files beside it."""
    file = folder / "config.json"
    data = read_json(folder)
    for key, ours in _FIXED.items():
        if data.get(key, ours) != ours:
            raise CheckpointError(f"{file}: {key} is {data[key]!r}; only {ours!r} is supported")
    rows = tensors.specs["lm_head.weight"].shape[0]
    try:
        return Wav2Vec2Config(
            **ctc_tokenizer(folder, data, rows),
            do_normalize=_do_normalize(folder),
            **{k: data[k] for k in _SIZES if k in data},
            **{k: tuple(data[k]) for k in ("conv_dim", "conv_kernel", "conv_stride") if k in data},
            conv_bias=bool(data.get("conv_bias", False)),
            feat_extract_norm=str(data.get("feat_extract_norm", "group")),
            do_stable_layer_norm=bool(data.get("do_stable_layer_norm", False)),
            layer_norm_eps=float(data.get("layer_norm_eps", 1e-5)),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file}: not a usable configuration: {error}") from error


def _do_normalize(folder: Path) -> bool:
    """From the feature extractor's settings, which newer checkpoints keep inside the processor's."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        data = read_json(folder, name)
        data = data.get("feature_extractor", data)
        if "do_normalize" in data:
            return bool(data["do_normalize"])
    raise CheckpointError(
        f"{folder / 'preprocessor_config.json'}: no 'do_normalize'; put the original file beside the weights"
    )


def ctc_tokenizer(folder: Path, config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Vocabulary, blank and word delimiter, for a head with so many rows."""
    settings = read_json(folder, "tokenizer_config.json")
    special = read_json(folder, "special_tokens_map.json")
    ids = _vocabulary(folder, str(settings.get("target_lang") or "eng"))
    if max(ids.values(), default=-1) >= rows:
        raise CheckpointError(
            f"{folder / 'vocab.json'}: has ids up to {max(ids.values())}, but the head has {rows} rows"
        )
    # the tokenizer may know more than vocab.json lists, with or without rows of the head
    for token, number in read_json(folder, "added_tokens.json").items():
        if number < rows and number not in ids.values():
            ids.setdefault(token, number)
    names = {number: token for token, number in ids.items()}
    pad = _content(settings.get("pad_token") or special.get("pad_token"))
    delimiter = _content(settings.get("word_delimiter_token") or special.get("word_delimiter_token"))
    return {
        "vocabulary": tuple(names.get(n, f"<unused {n}>") for n in range(rows)),
        "blank": ids[pad] if pad in ids else int(config.get("pad_token_id", 0)),
        "word_delimiter": delimiter or "|",
    }


def _vocabulary(folder: Path, language: str) -> dict[str, int]:
    """``vocab.json``: ids by token; MMS has one such table a language."""
    file = folder / "vocab.json"
    ids = read_json(folder, "vocab.json")
    if any(isinstance(v, dict) for v in ids.values()):
        if language not in ids:
            raise CheckpointError(f"{file}: has no language {language!r}; it knows {', '.join(ids)[:200]}")
        ids = ids[language]
    if not ids:
        raise CheckpointError(f"{file}: missing or empty; put the original file beside the weights")
    if not all(isinstance(v, int) and v >= 0 for v in ids.values()) or len({*ids.values()}) != len(ids):
        raise CheckpointError(f"{file}: its ids are not distinct whole numbers")
    return dict(ids)


def _content(token: Any) -> str | None:
    """A special token's text, which is also written as an object."""
    return token.get("content") if isinstance(token, Mapping) else token


# the transformer's matrices; the head is small, and the convolutions hear the waveform itself
QUANTISED = (
    *(f"encoder.layers.{{i}}.attention.{p}_proj" for p in ("q", "k", "v", "out")),
    *(f"encoder.layers.{{i}}.feed_forward.{n}_dense" for n in ("intermediate", "output")),
)

FAMILY = Family(
    name="wav2vec2",
    config_type=Wav2Vec2Config,
    build=Wav2Vec2ForCTC,
    layouts=LAYOUTS,
    read_config=read_config,
    companions=("vocab.json", "preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    half=True,
    quantised=QUANTISED,
)

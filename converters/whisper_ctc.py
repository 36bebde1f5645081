"""Whisper's encoder with a CTC head: Hugging Face's names of the encoder, and ``lm_head`` as wav2vec 2.0 has it."""

from __future__ import annotations

from pathlib import Path

from mlx_speech.converters._family import Family
from mlx_speech.converters._tensors import Tensors
from mlx_speech.converters.wav2vec2 import ctc_tokenizer
from mlx_speech.converters.whisper import count_layers, hf_encoder, quantised_blocks
from mlx_speech.errors import CheckpointError
from mlx_speech.loading import read_config as read_json
from mlx_speech.models.whisper_ctc import WhisperCTCConfig, WhisperForCTC
from mlx_speech.weights import Layout, Rule

HUGGING_FACE = Layout(
    "whisper-ctc-huggingface",
    (*hf_encoder("encoder"), *(Rule(f"lm_head.{k}", f"lm_head.{k}") for k in ("weight", "bias"))),
)


def read_config(tensors: Tensors, folder: Path, layout: Layout) -> WhisperCTCConfig:
    """The configuration: sizes from the tensors, heads from ``config.json``, symbols from the tokenizer's files."""
    file = folder / "config.json"
    data = read_json(folder)
    if "encoder_attention_heads" not in data:
        raise CheckpointError(
            f"{file}: no 'encoder_attention_heads'; put the original file beside the weights"
        )
    if data.get("activation_function", "gelu") != "gelu":
        raise CheckpointError(
            f"{file}: activation_function is {data['activation_function']!r}; only 'gelu' is supported"
        )
    shape = {k: spec.shape for k, spec in tensors.specs.items()}
    try:
        positions, width = shape["encoder.embed_positions.weight"]
        return WhisperCTCConfig(
            **ctc_tokenizer(folder, data, shape["lm_head.weight"][0]),
            n_mels=shape["encoder.conv1.weight"][1],
            n_audio_ctx=positions,
            n_audio_state=width,
            n_audio_head=int(data["encoder_attention_heads"]),
            n_audio_layer=count_layers(shape, "encoder.layers."),
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise CheckpointError(f"{file}: its configuration does not fit its tensors: {error}") from error


FAMILY = Family(
    name="whisper-ctc",
    config_type=WhisperCTCConfig,
    build=WhisperForCTC,
    layouts=(HUGGING_FACE,),
    read_config=read_config,
    companions=("vocab.json", "tokenizer_config.json", "special_tokens_map.json"),
    half=True,
    quantised=quantised_blocks("encoder"),
)

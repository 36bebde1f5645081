"""Silero VAD, 16 kHz: from the original's parameter names to ours.

Original: https://github.com/snakers4/silero-vad/tree/v6.2.3/src/silero_vad/data, MIT, Copyright (c)
2020-present Silero Team.

The release holds two sets of weights: ``silero_vad.jit`` (and every ``.onnx``), which its functions use, and
``silero_vad_16k.safetensors``, another training of the same architecture whose probabilities differ by up to
0.4. Both layouts are read; what this library bundles is the first, taken out of the TorchScript archive by
``parity/fixtures_silero.py``.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_speech.converters._family import Family
from mlx_speech.converters._tensors import Tensors
from mlx_speech.models.vad import SileroVAD, VADConfig
from mlx_speech.weights import Layout, Rule, add, conv, squeeze

_CONVOLUTIONS = tuple(f"encoder.{n}.reparam_conv.{k}" for n in range(4) for k in ("weight", "bias"))
_CELL = tuple(f"decoder.rnn.{k}" for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
_STEMS = (
    *("stft.forward_basis_buffer", *_CONVOLUTIONS, *_CELL),
    *("decoder.decoder.2.weight", "decoder.decoder.2.bias"),
)


def _rules(prefix: str, conv_name: str, output: str) -> tuple[Rule, ...]:
    """All but the LSTM, whose names differ more."""
    return (
        Rule(f"{prefix}stft.forward_basis_buffer", "stft.weight", squeeze(1)),
        *(
            rule
            for n in range(4)
            for rule in (
                Rule(f"{prefix}encoder.{n}.{conv_name}weight", f"encoder.{n}.weight", conv),
                Rule(f"{prefix}encoder.{n}.{conv_name}bias", f"encoder.{n}.bias"),
            )
        ),
        Rule(f"{prefix}{output}.weight", "output.weight", squeeze(2)),
        Rule(f"{prefix}{output}.bias", "output.bias"),
    )


def _original(name: str, prefix: str, other: str = "", state: tuple[str, ...] = ()) -> Layout:
    """The 16 kHz model under a prefix; the 8 kHz one under another, and what a graph remembers, are dropped."""
    cell = f"{prefix}decoder.rnn"
    return Layout(
        name,
        (
            *_rules(prefix, "reparam_conv.", "decoder.decoder.2"),
            Rule(f"{cell}.weight_ih", "lstm.weight_ih"),
            Rule(f"{cell}.weight_hh", "lstm.weight_hh"),
            Rule((f"{cell}.bias_ih", f"{cell}.bias_hh"), "lstm.bias", add),
            *(Rule(f"{other}{stem}", None, required=False) for stem in (_STEMS if other else ())),
            *(Rule(key, None, required=False) for key in state),
        ),
    )


def from_onnx_gates(x: mx.array) -> mx.array:
    """ONNX's gates i, o, f, c, stacked in (1, 4H, ·), to PyTorch's i, f, c, o in (4H, ·)."""
    i, o, f, c = mx.split(x[0], 4, axis=0)
    return mx.concatenate([i, f, c, o])


def sum_onnx_biases(x: mx.array) -> mx.array:
    """The input's and the recurrent bias, one behind the other in (1, 8H), summed: (4H,)."""
    return add(*(from_onnx_gates(part) for part in mx.split(x, 2, axis=1)))


JIT = _original("silero-jit", "_model.", "_model_8k.", ("_state", "_context"))
ONNX = (
    _original("silero-onnx", "If_0_then_branch__Inline_0__", "If_0_else_branch__Inline_0__"),
    # one graph for both rates: the lengths of the spectra stand in it as numbers
    _original("silero-onnx-model", "model.", "model_8k.", ("val_{i}", "val_{i}_{j}")),
    _original("silero-onnx-bare", ""),
    _original("silero-onnx-openvino", "F0::If_0_then_branch__Inline_0__"),
    Layout(
        "silero-onnx-sequence",
        (
            *_rules("", "", "output"),
            Rule("/recurrent/LSTM:1", "lstm.weight_ih", from_onnx_gates),
            Rule("/recurrent/LSTM:2", "lstm.weight_hh", from_onnx_gates),
            Rule("/recurrent/LSTM:3", "lstm.bias", sum_onnx_biases),
        ),
    ),
)

TINYGRAD = Layout(
    "silero-tinygrad",
    (
        Rule("stft_conv.weight", "stft.weight", squeeze(1)),
        *(Rule(f"conv{n + 1}.weight", f"encoder.{n}.weight", conv) for n in range(4)),
        *(Rule(f"conv{n + 1}.bias", f"encoder.{n}.bias") for n in range(4)),
        Rule("lstm_cell.weight_ih", "lstm.weight_ih"),
        Rule("lstm_cell.weight_hh", "lstm.weight_hh"),
        Rule(("lstm_cell.bias_ih", "lstm_cell.bias_hh"), "lstm.bias", add),
        Rule("final_conv.weight", "output.weight", squeeze(2)),
        Rule("final_conv.bias", "output.bias"),
    ),
)


def _read_config(tensors: Tensors, folder: Path, layout: Layout) -> VADConfig:
    """The one size that was published; the check of shapes refuses any other."""
    return VADConfig()


FAMILY = Family(
    name="silero-vad",
    config_type=VADConfig,
    build=SileroVAD,
    layouts=(JIT, *ONNX, TINYGRAD),
    read_config=_read_config,
)

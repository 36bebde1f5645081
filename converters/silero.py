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

from mlx_speech.converters._family import Family
from mlx_speech.converters._read import Tensors
from mlx_speech.models.vad import SileroVAD, VADConfig
from mlx_speech.weights import Layout, Rule, add, conv, squeeze

JIT = Layout(
    "silero-jit",
    (
        Rule("_model.stft.forward_basis_buffer", "stft.weight", squeeze(1)),
        *(Rule(f"_model.encoder.{n}.reparam_conv.weight", f"encoder.{n}.weight", conv) for n in range(4)),
        *(Rule(f"_model.encoder.{n}.reparam_conv.bias", f"encoder.{n}.bias") for n in range(4)),
        Rule("_model.decoder.rnn.weight_ih", "lstm.weight_ih"),
        Rule("_model.decoder.rnn.weight_hh", "lstm.weight_hh"),
        Rule(("_model.decoder.rnn.bias_ih", "_model.decoder.rnn.bias_hh"), "lstm.bias", add),
        Rule("_model.decoder.decoder.2.weight", "output.weight", squeeze(2)),
        Rule("_model.decoder.decoder.2.bias", "output.bias"),
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
    layouts=(JIT, TINYGRAD),
    read_config=_read_config,
)

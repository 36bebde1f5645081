"""PyanNet: pyannote.audio's Lightning checkpoints.

Original: https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/core/model.py (MIT). Beside
the weights a checkpoint holds the hyper-parameters and, as a pickled ``Specifications``, the task it was
trained for: that alone tells a powerset from independent speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech.converters._family import Family
from mlx_speech.converters._tensors import Tensors
from mlx_speech.converters._torch import Record
from mlx_speech.errors import CheckpointError
from mlx_speech.layers.sincnet import band_pass_kernels
from mlx_speech.models.pyannet import PyanNet, PyanNetConfig
from mlx_speech.weights import Layout, Rule, conv

_MONO_LABEL, _MULTI_LABEL = 1, 2  # values of pyannote.audio.core.task.Problem
_FRAME = 1  # of Resolution


def _kernels(*parameters: mx.array) -> mx.array:
    return mx.array(band_pass_kernels(*(np.array(p, np.float32) for p in parameters)))


def _stack(*directions: mx.array) -> mx.array:
    return mx.stack(directions)


def _stack_sums(*biases: mx.array) -> mx.array:
    """The input's and the recurrent bias of each direction, summed as MLX has one."""
    return mx.stack([a + b for a, b in zip(biases[::2], biases[1::2], strict=True)])


_PARAMETERS = ("low_hz_", "band_hz_", "window_", "n_")
_SINCNET = (
    Rule("sincnet.wav_norm1d.weight", "sincnet.wav_norm.weight"),
    Rule("sincnet.wav_norm1d.bias", "sincnet.wav_norm.bias"),
    Rule(tuple(f"sincnet.conv1d.0.filterbank.{p}" for p in _PARAMETERS), "sincnet.filters", _kernels),
    *(Rule(f"sincnet.conv1d.{n + 1}.weight", f"sincnet.convs.{n}.weight", conv) for n in range(2)),
    *(Rule(f"sincnet.conv1d.{n + 1}.bias", f"sincnet.convs.{n}.bias") for n in range(2)),
    *(
        Rule(f"sincnet.norm1d.{n}.{k}", f"sincnet.norms.{n}.{k}")
        for n in range(3)
        for k in ("weight", "bias")
    ),
)
_HEAD = (
    *(Rule(f"linear.{{i}}.{k}", f"linear.{{i}}.{k}", required=False) for k in ("weight", "bias")),
    *(Rule(f"classifier.{k}", f"classifier.{k}") for k in ("weight", "bias")),
)


def _layout(name: str, prefix: str, layer: str, directions: tuple[str, ...]) -> Layout:
    """``layer`` is how the original numbers the layers behind a parameter's name."""

    def keys(*kinds: str) -> tuple[str, ...]:
        return tuple(f"{prefix}.{kind}_{layer}{d}" for d in directions for kind in kinds)

    lstm = (
        Rule(keys("weight_ih"), "lstm.layers.{i}.weight_ih", _stack),
        Rule(keys("weight_hh"), "lstm.layers.{i}.weight_hh", _stack),
        Rule(keys("bias_ih", "bias_hh"), "lstm.layers.{i}.bias", _stack_sums),
    )
    return Layout(name, (*_SINCNET, *lstm, *_HEAD))


_BOTH, _ONE = ("", "_reverse"), ("",)
LIGHTNING = _layout("pyannet-lightning", "lstm", "l{i}", _BOTH)
LAYOUTS = (
    LIGHTNING,
    _layout("pyannet-lightning-forward", "lstm", "l{i}", _ONE),
    _layout("pyannet-lightning-split", "lstm.{i}", "l0", _BOTH),  # "monolithic: false"
    _layout("pyannet-lightning-split-forward", "lstm.{i}", "l0", _ONE),
)


def read_config(tensors: Tensors, folder: Path, layout: Layout) -> PyanNetConfig:
    """Hyper-parameters and specifications as Lightning saved them."""
    where = str(tensors.path)
    hyper, about = tensors.extra.get("hyper_parameters"), tensors.extra.get("pyannote.audio")
    if not isinstance(hyper, Mapping) or not isinstance(about, Mapping):
        raise CheckpointError(
            f"{where}: has no hyper-parameters or no pyannote.audio specifications; PyanNet is read from the "
            "checkpoint that pyannote.audio saved (pytorch_model.bin), not from its bare weights"
        )
    task = _specifications(about.get("specifications"), where)
    parts = {k: _mapping(hyper, k, where) for k in ("sincnet", "lstm", "linear")}
    lstm, linear = parts["lstm"], parts["linear"]
    try:
        config = PyanNetConfig(
            **task,
            stride=parts["sincnet"].get("stride", 10),
            lstm_hidden=lstm.get("hidden_size", 128),
            lstm_layers=lstm.get("num_layers", 2),
            bidirectional=bool(lstm.get("bidirectional", True)),
            linear_hidden=linear.get("hidden_size", 128),
            linear_layers=linear.get("num_layers", 2),
            sampling_rate=hyper.get("sample_rate", 16_000),
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: its hyper-parameters make no PyanNet: {error}") from error
    return config


def _mapping(hyper: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = hyper.get(key) or {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where}: hyper-parameter {key!r} is not a table of values")
    return value


def _specifications(record: Any, where: str) -> dict[str, Any]:
    """Classes, powerset and duration out of a pickled ``Specifications``, which was not run."""
    if not isinstance(record, Record) or not isinstance(record.state.get("classes"), (list, tuple)):
        raise CheckpointError(f"{where}: its specifications name no classes; one task with classes is needed")
    state = record.state
    problem, resolution = (_value(state.get(k)) for k in ("problem", "resolution"))
    most = state.get("powerset_max_classes")
    if resolution != _FRAME or problem != (_MONO_LABEL if most else _MULTI_LABEL):
        raise CheckpointError(
            f"{where}: a model for problem {problem} at resolution {resolution}; only powerset or multilabel "
            "segmentation of frames is read"
        )
    warm_up = state.get("warm_up") or (0.0, 0.0)
    return {
        "num_speakers": len(state["classes"]),
        "max_simultaneous": most,
        "duration": float(state.get("duration", 10.0)),
        "warm_up": tuple(float(v) for v in warm_up),
    }


def _value(member: Any) -> Any:
    """The value of a pickled member of an Enum."""
    return member.args[0] if isinstance(member, Record) and member.args else None


FAMILY = Family(
    name="pyannet",
    config_type=PyanNetConfig,
    build=PyanNet,
    layouts=LAYOUTS,
    read_config=read_config,
)

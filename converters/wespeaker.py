"""WeSpeaker's ResNets: its own ``.pt``, pyannote.audio's wrapper of it, and the int8 form bundled here.

Originals: https://github.com/wenet-e2e/wespeaker (Apache-2.0) and
https://github.com/pyannote/pyannote-audio/tree/4.0.7/src/pyannote/audio/models/embedding/wespeaker (MIT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_speech.converters._family import Family
from mlx_speech.converters._tensors import Tensors
from mlx_speech.errors import CheckpointError
from mlx_speech.models.wespeaker import WeSpeaker, WeSpeakerConfig
from mlx_speech.weights import Layout, Rule, conv

_EPS = 1e-5  # of torch's batch norms
_NORM = ("weight", "bias", "running_mean", "running_var")


def fold(
    weight: mx.array, scale: mx.array, shift: mx.array, mean: mx.array, variance: mx.array
) -> list[mx.array]:
    """A convolution (out, in, *kernel) and the batch norm behind it as one convolution and its bias."""
    factor = scale / mx.sqrt(variance + _EPS)
    factors = factor.reshape(-1, *[1] * (weight.ndim - 1))
    return [conv(weight * factors), shift - mean * factor]


def fold_before(mean: mx.array, variance: mx.array, weight: mx.array, bias: mx.array) -> list[mx.array]:
    """A batch norm without parameters and the linear layer behind it as one linear layer."""
    weight = weight / mx.sqrt(variance + _EPS)
    return [weight, bias - weight @ mean]


def dequantise(weight: mx.array, scale: mx.array, offset: mx.array) -> mx.array:
    """An int8 tensor by its one scale and offset, in float32."""
    return weight.astype(mx.float32) * scale + offset


def _dequantise_conv(weight: mx.array, scale: mx.array, offset: mx.array) -> mx.array:
    return conv(dequantise(weight, scale, offset))


# (convolution, batch norm behind it, our name) within a block, and whether every block has it
_IN_BLOCK = (
    ("conv1", "bn1", "convs.0", True),
    ("conv2", "bn2", "convs.1", True),
    ("conv3", "bn3", "convs.2", False),
    ("shortcut.0", "shortcut.1", "shortcut", False),
)


def _places() -> list[tuple[str, str, str, bool]]:
    found = [("conv1", "bn1", "conv1", True)]
    for n in range(4):
        found += [
            (f"layer{n + 1}.{{i}}.{c}", f"layer{n + 1}.{{i}}.{b}", f"stages.{n}.{{i}}.{ours}", required)
            for c, b, ours, required in _IN_BLOCK
        ]
    return found


def _original(name: str, prefix: str, *extra: Rule) -> Layout:
    rules = []
    for source, norm, target, required in _places():
        keys = (f"{prefix}{source}.weight", *(f"{prefix}{norm}.{k}" for k in _NORM))
        rules.append(Rule(keys, (f"{target}.weight", f"{target}.bias"), fold, required))
        rules.append(Rule(f"{prefix}{norm}.num_batches_tracked", None, required=False))
    rules += [Rule(f"{prefix}seg_1.{k}", f"seg_1.{k}") for k in ("weight", "bias")]
    second = (
        *(f"{prefix}seg_bn_1.{k}" for k in ("running_mean", "running_var")),
        *(f"{prefix}seg_2.{k}" for k in ("weight", "bias")),
    )
    rules.append(Rule(second, ("seg_2.weight", "seg_2.bias"), fold_before, required=False))
    rules.append(Rule(f"{prefix}seg_bn_1.num_batches_tracked", None, required=False))
    return Layout(name, (*rules, *extra))


PYANNOTE = _original("wespeaker-pyannote", "resnet.")
# the classifier that training ends in is no part of the embedding
WESPEAKER = _original("wespeaker", "", Rule("projection.weight", None, required=False))


_QUANTISED = ("int8", "scale", "offset")


def _int8() -> Layout:
    rules = []
    for source, _, target, _ in _places():
        quantised = tuple(f"resnet.{source}.weight_{k}" for k in _QUANTISED)
        rules += [
            Rule(f"resnet.{source}.weight", f"{target}.weight", conv, required=False),
            Rule(quantised, f"{target}.weight", _dequantise_conv, required=False),
            Rule(f"resnet.{source}.bias", f"{target}.bias", required=False),
        ]
    seg_1 = tuple(f"resnet.seg_1.weight_{k}" for k in _QUANTISED)
    return Layout(
        "wespeaker-int8",
        (*rules, Rule(seg_1, "seg_1.weight", dequantise), Rule("resnet.seg_1.bias", "seg_1.bias")),
    )


INT8 = _int8()

# what the features here are made with; a checkpoint that says otherwise was trained on others
_FBANK = {
    "sample_rate": 16_000,
    "num_channels": 1,
    "frame_length": 25,
    "frame_shift": 10,
    "round_to_power_of_two": True,
    "snip_edges": True,
    "dither": 0.0,
    "window_type": "hamming",
    "use_energy": False,
    "fbank_centering_span": None,
}


def read_config(tensors: Tensors, folder: Path, layout: Layout) -> WeSpeakerConfig:
    """Sizes from the tensors; the features' settings, where the checkpoint tells them, are checked."""
    where = str(tensors.path)
    _check_features(tensors.extra.get("hyper_parameters"), where)
    prefix = "" if layout is WESPEAKER else "resnet."
    keys = {k.removeprefix(prefix): spec.shape for k, spec in tensors.specs.items()}
    found = [re.match(r"layer([1-4])\.(\d+)\.", k) for k in keys]
    places = [(int(m[1]), int(m[2])) for m in found if m]
    blocks = [1 + max((b for stage, b in places if stage == n), default=-1) for n in range(1, 5)]
    bottleneck = any(k.startswith("layer1.0.conv3.") for k in keys)
    channels = keys.get("conv1.weight", (0,))[0]
    rows = next((s for k, s in keys.items() if k.startswith("seg_1.weight") and len(s) == 2), (0, 0))
    # stem and pooling: two statistics of n_mels / 8 bands of 8 · channels · expansion features
    width = 2 * 8 * channels * (4 if bottleneck else 1)
    if not width or rows[1] % width or not rows[1]:
        raise CheckpointError(f"{where}: {rows[1]} statistics do not belong to {channels} channels")
    try:
        return WeSpeakerConfig(
            blocks=tuple(blocks),
            bottleneck=bottleneck,
            channels=channels,
            n_mels=rows[1] // width * 8,
            embedding=rows[0],
            two_layers="seg_2.weight" in keys,
        )
    except ValueError as error:
        raise CheckpointError(f"{where}: its tensors make no ResNet of WeSpeaker: {error}") from error


def _check_features(hyper: Any, where: str) -> None:
    if not isinstance(hyper, Mapping):
        return
    wrong = [f"{k}={hyper[k]!r}" for k, value in _FBANK.items() if k in hyper and hyper[k] != value]
    if wrong:
        raise CheckpointError(
            f"{where}: trained on other features ({', '.join(wrong)}), which are not made here"
        )


FAMILY = Family(
    name="wespeaker",
    config_type=WeSpeakerConfig,
    build=WeSpeaker,
    layouts=(PYANNOTE, WESPEAKER, INT8),
    read_config=read_config,
)

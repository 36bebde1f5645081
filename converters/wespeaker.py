"""WeSpeaker's ResNets: its ``.pt``, its ONNX export, pyannote.audio's wrapper, and the int8 form bundled here.

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
from mlx_speech.models.wespeaker import VARIANTS, WeSpeaker, WeSpeakerConfig
from mlx_speech.weights import Layout, Rule, conv, plan

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
    rules.append(Rule(_second(prefix), ("seg_2.weight", "seg_2.bias"), fold_before, required=False))
    rules.append(Rule(f"{prefix}seg_bn_1.num_batches_tracked", None, required=False))
    return Layout(name, (*rules, *extra))


def _second(prefix: str) -> tuple[str, ...]:
    """The keys of the second linear layer and of the batch norm before it."""
    norm = (f"{prefix}seg_bn_1.{k}" for k in ("running_mean", "running_var"))
    return (*norm, *(f"{prefix}seg_2.{k}" for k in ("weight", "bias")))


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

# --- ONNX -------------------------------------------------------------------------------------------------
# the exporter folds the batch norms into the convolutions, whose weights then have no names but their nodes'


def subtract(bias: mx.array, mean: mx.array) -> mx.array:
    """The bias less the mean embedding, which WeSpeaker's export takes off at the end."""
    if bias.shape != mean.shape:
        raise ValueError(f"shapes {bias.shape} and {mean.shape} differ")
    return bias - mean


def fold_around(
    mean: mx.array, variance: mx.array, weight: mx.array, bias: mx.array, centre: mx.array
) -> list[mx.array]:
    """:func:`fold_before`, and the mean embedding taken off."""
    weight, bias = fold_before(mean, variance, weight, bias)
    return [weight, subtract(bias, centre)]


def _head(prefix: str, centred: bool, two_layers: bool) -> tuple[Rule, ...]:
    """The linear layers; ``centred`` where the export subtracts a mean embedding."""
    first = tuple(f"{prefix}seg_1.{k}" for k in ("weight", "bias"))
    second = _second(prefix)
    rules = [Rule(first[0], "seg_1.weight")]
    if not centred:
        rules.append(Rule(first[1], "seg_1.bias"))
        rules.append(Rule(second, ("seg_2.weight", "seg_2.bias"), fold_before, required=False))
    elif two_layers:
        rules.append(Rule(first[1], "seg_1.bias"))
        rules.append(Rule((*second, "mean_vec"), ("seg_2.weight", "seg_2.bias"), fold_around))
    else:
        rules.append(Rule((first[1], "mean_vec"), "seg_1.bias", subtract))
    return tuple(rules)


def _onnx(name: str, scope: str, *, centred: bool = False, two_layers: bool = False) -> Layout:
    """Nodes that tell their place: ``/model/layer1/layer1.0/conv1/Conv``."""
    rules = []
    for source, _, target, required in _places():
        # "layer1.{i}.shortcut.0" → "layer1/layer1.{i}/shortcut/shortcut.0"
        stage, _, rest = source.partition(".{i}.")
        inner = f"{rest.partition('.')[0]}/{rest}" if "." in rest else rest
        node = f"{scope}/{f'{stage}/{stage}.{{i}}/{inner}' if rest else stage}/Conv"
        rules += [
            Rule(f"{node}:1", f"{target}.weight", conv, required),
            Rule(f"{node}:2", f"{target}.bias", required=required),
        ]
    prefix = f"{scope[1:]}." if scope else ""
    return Layout(name, (*rules, *_head(prefix, centred, two_layers)))


def _onnx_by_order(variant: str) -> Layout:
    """Nodes that tell only their order, which is that of computing; of WeSpeaker's own export."""
    blocks, bottleneck = VARIANTS[variant]
    targets = ["conv1"]
    for stage, count in enumerate(blocks):
        for block in range(count):
            at = f"stages.{stage}.{block}"
            targets += [f"{at}.convs.{n}" for n in range(3 if bottleneck else 2)]
            if not block and (stage or bottleneck):
                targets.append(f"{at}.shortcut")
    rules = [
        rule
        for n, target in enumerate(targets)
        for rule in (Rule(f"Conv.{n}:1", f"{target}.weight", conv), Rule(f"Conv.{n}:2", f"{target}.bias"))
    ]
    return Layout(f"wespeaker-onnx-by-order-{variant}", (*rules, *_head("model.", True, False)))


ONNX = (
    _onnx("wespeaker-onnx", "/model", centred=True),
    _onnx("wespeaker-onnx-two-layers", "/model", centred=True, two_layers=True),
    _onnx("wespeaker-onnx-bare", ""),
    _onnx("wespeaker-onnx-pyannote", "/resnet"),
    *(_onnx_by_order(variant) for variant in VARIANTS),
)

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
    steps = {t: s.sources[0] for s in plan(layout.rules, tensors, where).steps for t in s.targets}
    found = [re.match(r"stages\.(\d)\.(\d+)\.", t) for t in steps]
    places = [(int(m[1]), int(m[2])) for m in found if m]
    blocks = [1 + max((b for stage, b in places if stage == n), default=-1) for n in range(4)]
    bottleneck = any(".convs.2." in t for t in steps)
    channels, *_ = tensors.specs[steps["conv1.weight"]].shape or (0,)
    rows = tensors.specs[steps["seg_1.weight"]].shape
    rows = rows if len(rows) == 2 else (0, 0)
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
            two_layers="seg_2.weight" in steps,
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
    layouts=(PYANNOTE, WESPEAKER, INT8, *ONNX),
    read_config=read_config,
)

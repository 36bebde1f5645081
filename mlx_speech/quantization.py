"""Weights in 4 or 8 bits: how many, in groups of how many, and which layers.

MLX's affine scheme: each row of a matrix is cut into groups; a group of N weights is stored as N whole numbers
of ``bits`` bits with one scale and one bias. A quantised layer has ``weight`` (packed, uint32), ``scales`` and
``biases``. Which layers of a family are quantised is data: patterns over the names of its modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_speech.errors import CheckpointError, OptionError
from mlx_speech.weights import compile_pattern

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
DEFAULT_GROUP_SIZE = 64
PARTS = ("weight", "scales", "biases")  # of a quantised matrix, in the order that MLX gives them


@dataclass(frozen=True)
class Quantization:
    """Bits a weight, and weights that share a scale.

    Raises:
        OptionError: numbers that MLX does not know.
    """

    bits: int
    group_size: int = DEFAULT_GROUP_SIZE

    def __post_init__(self) -> None:
        for name, known in (("bits", BITS), ("group_size", GROUP_SIZES)):
            value = getattr(self, name)
            if not isinstance(value, int) or value not in known:
                raise OptionError(f"{name}={value!r}: choose from {', '.join(map(str, known))}")

    def __str__(self) -> str:
        return f"{self.bits} bits in groups of {self.group_size}"

    def as_dict(self) -> dict[str, int]:
        """As ``config.json`` holds it."""
        return asdict(self)

    def quantize(self, matrix: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """A matrix (N, K) → packed (N, K · bits / 32) uint32, scales and biases (N, K / group_size)."""
        weight, scales, biases = mx.quantize(matrix, self.group_size, self.bits)
        return weight, scales, biases


def read_quantization(data: Mapping[str, Any], where: str) -> Quantization | None:
    """What a ``config.json`` says under ``quantization``; ``None`` where it says nothing.

    Raises:
        CheckpointError: another scheme than MLX's affine one, or numbers that it does not know.
    """
    value = data.get("quantization")
    if value is None:
        return None
    given = dict(value) if isinstance(value, Mapping) else {}
    mode = given.pop("mode", "affine")
    if set(given) != {"bits", "group_size"} or mode != "affine":
        raise CheckpointError(
            f"{where}: 'quantization' is {value!r}; only {{'bits': …, 'group_size': …}} of MLX's affine mode "
            "is read: convert the original again"
        )
    try:
        return Quantization(**given)
    except OptionError as error:
        raise CheckpointError(f"{where}: 'quantization': {error}") from error


def layers_to_quantize(model: nn.Module, patterns: Sequence[str], q: Quantization) -> tuple[str, ...]:
    """The modules that the patterns name and whose rows divide into groups; the others stay as they are."""
    regexes = [compile_pattern(p) for p in patterns]
    named = ((k, m) for k, m in model.named_modules() if any(r.fullmatch(k) for r in regexes))
    return tuple(sorted(k for k, m in named if _divides(m, q)))


def quantized_layers(keys: Iterable[str]) -> tuple[str, ...]:
    """The modules that a checkpoint of MLX's own names holds quantised: those with scales."""
    return tuple(sorted(k.removesuffix(".scales") for k in keys if k.endswith(".scales")))


def quantize_layers(model: nn.Module, layers: Iterable[str], q: Quantization) -> nn.Module:
    """Put quantised layers of the same sizes in the place of these; what cannot be quantised stays.

    The weights are not computed: they are there to be loaded over.
    """
    wanted = frozenset(layers)
    nn.quantize(
        model, q.group_size, q.bits, class_predicate=lambda name, m: name in wanted and _divides(m, q)
    )
    return model


def _divides(module: nn.Module, q: Quantization) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % q.group_size == 0

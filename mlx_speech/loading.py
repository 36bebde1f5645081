"""From a model's name to a model: strictly loaded, whatever layout its checkpoint is in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_speech import hub, runtime, weights
from mlx_speech.errors import CheckpointError
from mlx_speech.layers.layout import by_columns
from mlx_speech.quantization import Quantization, quantize_layers, quantized_layers, read_quantization
from mlx_speech.registry import find_card

if TYPE_CHECKING:
    from mlx_speech.converters._family import Family
    from mlx_speech.converters._tensors import Tensors

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """Where a loaded model came from: the name asked for, its folder, family and checkpoint layout."""

    name: str
    folder: Path
    family: str
    layout: str


@dataclass(frozen=True)
class Opened:
    """A checkpoint that is understood but not yet read: its family, configuration, plan and tensors."""

    family: Family
    layout: str
    config: Any
    plan: weights.Plan
    tensors: Tensors
    folder: Path
    quantization: Quantization | None = None

    def build(self) -> nn.Module:
        """The model, its weights yet to be loaded; quantised layers are those whose scales are there."""
        model = self.family.build(self.config)
        if self.quantization:
            quantize_layers(model, quantized_layers(self.plan.targets), self.quantization)
        return model

    def outline(self, model: nn.Module | None = None) -> dict[str, mx.array]:
        """Stand-ins for all parameters, in their shapes and dtypes and never computed. Nothing is read.

        Args:
            model: from :meth:`build`, where it is there already.

        Raises:
            CheckpointError: the checkpoint's tensors do not make this model.
        """
        where = str(self.tensors.path)
        model = model or self.build()
        made = weights.convert(self.plan, self.tensors.outline(), parameter_shapes(model), where)
        _check_numbers(made, model, where)
        return made


def load(name: str, *, dtype: str | None = None) -> Any:
    """Load a pretrained model.

    Args:
        name: an alias (``mlx-speech models`` lists them), ``"hub:org/name[@revision]"``,
            ``"path:/folder"``, a path, or ``"org/name"``. Folders may be this library's own format or an
            original checkpoint, which is converted in memory by the same rules as ``mlx-convert``.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``; by default what suits the device.

    Returns:
        The model (:class:`~mlx_speech.models.whisper.Whisper`,
        :class:`~mlx_speech.models.vad.SileroVAD` …) in inference mode; ``model.origin`` tells its source.

    Raises:
        ModelNotFoundError: the name names nothing, or the weights are not here and cannot be fetched.
        CheckpointError: the checkpoint is damaged, incomplete, or has keys that no rule accounts for.
        OptionError: an unknown dtype.
    """
    runtime.prepare()
    path = hub.locate(name)
    card = find_card(name)
    return read_model(open_checkpoint(path, card.family if card else None), name, dtype)


def read_model(opened: Opened, name: str, dtype: str | None = None) -> Any:
    """The model of a checkpoint that was opened; see :func:`load`."""
    model = opened.build()
    opened.outline(model)  # all that is wrong is told before anything is read
    wanted = runtime.resolve_dtype(dtype, opened.family.half)
    packed = frozenset(quantized_layers(opened.plan.targets))
    settled: list[tuple[str, mx.array]] = []
    for key, array in weights.stream(opened.plan, opened.tensors, str(opened.tensors.path)):
        settled.append((key, _settle(key, array, wanted, packed)))
        mx.eval(settled[-1][1])  # so that the original's tensor can go before the next one comes
    model.load_weights(settled, strict=True)
    model.eval()
    object.__setattr__(model, "origin", Origin(name, opened.folder, opened.family.name, opened.layout))
    return model


def _check_numbers(arrays: Mapping[str, mx.array], model: nn.Module, where: str) -> None:
    """Refuse whole numbers where the model has fractions, and fractions where it has packed weights."""
    parameters: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    whole = [
        f"{k} ({arrays[k].dtype})"
        for k, v in parameters
        if mx.issubdtype(v.dtype, mx.floating) and not mx.issubdtype(arrays[k].dtype, mx.floating)
    ]
    if whole:  # a quantised checkpoint of another scheme, or one without its scales
        raise CheckpointError(
            f"{where}: whole numbers in {', '.join(whole[:4])}; take the checkpoint that is not quantised"
        )
    unpacked = [
        f"{k} ({arrays[k].dtype})"
        for k, v in parameters
        if v.dtype == mx.uint32 and arrays[k].dtype != mx.uint32
    ]
    if unpacked:
        raise CheckpointError(f"{where}: not packed as quantised weights are: {', '.join(unpacked[:4])}")


def _settle(key: str, x: mx.array, dtype: mx.Dtype, packed: AbstractSet[str]) -> mx.array:
    """A tensor in the dtype to compute in; matrices laid out for products, packed ones as they are."""
    if mx.issubdtype(x.dtype, mx.floating):
        x = x.astype(dtype)
    return by_columns(x) if x.ndim == 2 and key.rpartition(".")[0] not in packed else x


def open_checkpoint(path: Path, family_name: str | None = None) -> Opened:
    """Recognise a checkpoint and plan its conversion, without reading a tensor.

    Raises:
        CheckpointError: not a checkpoint of a known family, or one that does not resolve fully.
    """
    from mlx_speech.converters._read import open_tensors
    from mlx_speech.converters._table import families, get_family

    folder = path if path.is_dir() else path.parent
    native = read_config(folder) if path.is_dir() else {}
    if "format_version" in native:
        return _open_native(folder, native)
    tensors = open_tensors(path)
    candidates = [get_family(family_name)] if family_name else families()
    owners = {layout.name: family for family in candidates for layout in family.layouts}
    layout = weights.find_layout([x for f in candidates for x in f.layouts], tensors, str(tensors.path))
    family = owners[layout.name]
    config = family.read_config(tensors, folder, layout)
    plan = weights.plan(layout.rules, tensors)
    quantization = _quantization(plan, read_config(folder), tensors.path)
    return Opened(family, layout.name, config, plan, tensors, folder, quantization)


def _open_native(folder: Path, data: Mapping[str, Any]) -> Opened:
    from mlx_speech.converters._read import open_tensors
    from mlx_speech.converters._table import get_family

    where = str(folder / "config.json")
    if data["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format version {data['format_version']!r}, where this release reads {FORMAT_VERSION}; "
            "update mlx_speech or convert again"
        )
    family = get_family(str(data.get("family")), where)
    config = config_from_dict(family.config_type, data.get("config"), where)
    index = folder / "model.safetensors.index.json"
    tensors = open_tensors(index if index.is_file() else folder / "model.safetensors")
    plan = weights.Plan(tuple(weights.Step((k,), (k,), weights.keep) for k in sorted(tensors)), ())
    quantization = _quantization(plan, data, tensors.path)
    return Opened(family, "mlx_speech", config, plan, tensors, folder, quantization)


def _quantization(plan: weights.Plan, data: Mapping[str, Any], path: Path) -> Quantization | None:
    """What the configuration says, held against the layers that have scales.

    Raises:
        CheckpointError: one tells of quantised layers and the other does not.
    """
    where = str(path.parent / "config.json")
    packed = quantized_layers(plan.targets)
    told = read_quantization(data, where)
    if bool(packed) != bool(told):
        raise CheckpointError(
            f"{where}: {'no' if packed else 'has a'} 'quantization', but {len(packed)} layers of "
            f"{path.name} have scales; convert the original again"
        )
    return told


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a checkpoint's folder as a dictionary; empty where the file is not there.

    Raises:
        CheckpointError: it is not a JSON object.
    """
    file = folder / name
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return data


def config_from_dict(kind: type[Any], data: Any, where: str) -> Any:
    """A configuration dataclass from its JSON form, strictly: no key too many, none missing.

    Raises:
        CheckpointError: the keys or a value's type do not fit.
    """
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{where}: 'config' is missing or not an object")
    names = {f.name for f in dataclasses.fields(kind)}
    required = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    unknown, missing = set(data) - names, required - set(data)
    if unknown or missing:
        raise CheckpointError(f"{where}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")
    try:
        return kind(**{k: _tuples(v) for k, v in data.items()})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter of a model and its shape."""
    flat: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    return {k: tuple(v.shape) for k, v in flat}

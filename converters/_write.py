"""Our own checkpoint format: ``config.json``, ``model.safetensors`` and what travels beside them."""

from __future__ import annotations

import fnmatch
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import mlx_speech
from mlx_speech import weights
from mlx_speech.converters import _certificate
from mlx_speech.converters._record import config_of, licence_of, model_card
from mlx_speech.converters._store import SHARD_BYTES, write_safetensors
from mlx_speech.errors import CheckpointError, OptionError, OutputError
from mlx_speech.loading import Opened, read_model
from mlx_speech.quantization import PARTS, Quantization, layers_to_quantize

_LARGE = 2 * 10**9  # bytes of weights beyond which a conversion takes less memory than the model


@dataclass(frozen=True)
class ConvertOptions:
    """How a checkpoint is written.

    Args:
        dtype: of the floating-point tensors; as in the source where ``None``.
        quantization: of the layers that the family names; none where ``None``.
        keep_float: names of layers that are not quantised all the same, with ``*`` for any part of a name.
        shard_bytes: the most bytes of tensors in one file.
        force: replace a converted checkpoint that is there.
        original: what ran the original, and what it made of the certificate's inputs.
        goldens: whether to run the result and write its certificate, which takes its weights in float32 in
            memory; where ``None``, for weights of at most 2 GB before and after.
    """

    dtype: mx.Dtype | None = None
    quantization: Quantization | None = None
    keep_float: tuple[str, ...] = ()
    shard_bytes: int = SHARD_BYTES
    force: bool = False
    original: tuple[str, dict[str, np.ndarray]] | None = None
    goldens: bool | None = None


def convert_checkpoint(
    opened: Opened, target: Path, source: str, options: ConvertOptions | None = None
) -> tuple[str, ...]:
    """Convert an opened checkpoint into a new folder, one tensor at a time: written beside, then renamed.

    Args:
        opened: from :func:`mlx_speech.loading.open_checkpoint`.
        target: the folder to make.
        source: the name the checkpoint was asked for by, for the record.
        options: dtype, quantisation and size of the files.

    Returns:
        The layers that were quantised.

    Raises:
        OutputError: the folder is there and not to be replaced, or cannot be written.
        CheckpointError: the tensors do not fit the model, or are no numbers.
        OptionError: a quantisation that this checkpoint cannot have.
    """
    options = options or ConvertOptions()
    check_target(target, options.force)
    model = opened.build()
    made = opened.outline(model)
    recipe = _Recipe(options.dtype, options.quantization, _layers(opened, model, options))
    outline = dict(recipe.apply(made.items()))
    where = str(opened.tensors.path)
    with _beside(target) as work:
        stream = weights.stream(opened.plan, opened.tensors, where)
        tensors = _finite(recipe.apply(stream), where)
        metadata = {"format": "mlx", "family": opened.family.name}
        write_safetensors(work, outline, tensors, metadata, options.shard_bytes)
        text = config_of(
            opened, outline, source, recipe.quantization or opened.quantization, options.keep_float
        )
        (work / "config.json").write_text(text, encoding="utf-8")
        _copy_companions(opened, work)
        told = None
        small = max(sum(x.nbytes for x in part.values()) for part in (made, outline)) <= _LARGE
        if small if options.goldens is None else options.goldens:
            told = _certificate.certificate(work, options.original or _before(opened, outline, made))
            _certificate.write(work, told)
        card = model_card(work, source, licence_of(source, opened.folder), told)
        (work / "README.md").write_text(card, encoding="utf-8")
    return recipe.layers


def _copy_companions(opened: Opened, work: Path) -> None:
    """The small files that travel with the weights, and licences; a link that leads elsewhere is refused.

    Raises:
        CheckpointError: a file is a link out of the checkpoint's folder.
    """
    licences = sorted(p.name for p in opened.folder.glob("LICEN[CS]E*") if p.is_file())
    own = opened.folder.resolve()
    homes = {own, own.parent.parent / "blobs"}  # the Hub's cache links into its blobs
    for name in dict.fromkeys((*opened.family.companions, *licences)):
        file = opened.folder / name
        if not file.is_file():
            continue
        if file.resolve().parent not in homes:
            raise CheckpointError(f"{file}: a link to a file elsewhere; put the file itself there")
        shutil.copyfile(file, work / name)


def _before(
    opened: Opened, outline: Mapping[str, mx.array], made: Mapping[str, mx.array]
) -> tuple[str, _certificate.Stages] | None:
    """What the weights give as they were, where fewer bits are kept of them: the certificate tells the cost."""
    lost = any(
        k not in outline or (outline[k].dtype != x.dtype and outline[k].dtype.size <= x.dtype.size)
        for k, x in made.items()
    )
    if not lost or sum(4 * x.size for x in made.values()) > _LARGE:
        return None
    model = read_model(opened, str(opened.tensors.path), "float32")
    inputs = _certificate.fixed_inputs(opened.family.name, opened.config)
    whose = f"mlx_speech {mlx_speech.__version__}, the weights as they were"
    return whose, _certificate.run_stages(opened.family.name, model, inputs)


def _layers(opened: Opened, model: nn.Module, options: ConvertOptions) -> tuple[str, ...]:
    """The layers to quantise.

    Raises:
        OptionError: there are none, the checkpoint is quantised already, or a layer to keep is none of them.
    """
    q = options.quantization
    if q is None:
        if options.keep_float:
            raise OptionError("--keep-float names layers that --quantize is to leave; give both")
        return ()
    if opened.quantization:
        raise OptionError(
            f"{opened.tensors.path}: has {opened.quantization} already; quantise the original instead"
        )
    found = layers_to_quantize(model, opened.family.quantised, q)
    if not found:
        why = (
            "has no layers worth it" if not opened.family.quantised else "no layer's width divides into them"
        )
        raise OptionError(f"--quantize {q.bits} --group-size {q.group_size}: {opened.family.name} {why}")
    for pattern in options.keep_float:
        if not fnmatch.filter(found, pattern):
            raise OptionError(
                f"--keep-float {pattern}: no layer of that name would be quantised; there are "
                f"{found[0]} … {found[-1]}"
            )
    left = tuple(n for n in found if not any(fnmatch.fnmatchcase(n, p) for p in options.keep_float))
    if not left:
        raise OptionError(f"--keep-float {' '.join(options.keep_float)}: no layer is left to quantise")
    return left


@dataclass(frozen=True)
class _Recipe:
    """What becomes of a parameter on its way to the file."""

    dtype: mx.Dtype | None
    quantization: Quantization | None
    layers: tuple[str, ...]

    def apply(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Cast fractions; a quantised layer's matrix becomes its three parts."""
        packed = frozenset(f"{name}.weight" for name in self.layers)
        for key, x in tensors:
            if self.dtype and mx.issubdtype(x.dtype, mx.floating):
                x = x.astype(self.dtype)
            if self.quantization and key in packed:
                parts = zip(PARTS, self.quantization.quantize(x), strict=True)
                yield from ((f"{key.removesuffix('weight')}{part}", y) for part, y in parts)
            else:
                yield key, x


def _finite(tensors: Iterable[tuple[str, mx.array]], where: str) -> Iterator[tuple[str, mx.array]]:
    """The same tensors, each computed and found free of NaN and infinity.

    Raises:
        CheckpointError: one is not.
    """
    for key, x in tensors:
        mx.eval(x)
        if mx.issubdtype(x.dtype, mx.floating) and not mx.all(mx.isfinite(x)).item():
            raise CheckpointError(
                f"{where}: {key} holds NaN or infinity; fetch the checkpoint again, or where float16 is too "
                "narrow for it ask for --dtype bfloat16 or float32"
            )
        yield key, x
        mx.clear_cache()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder to work in that takes the target's place if all goes well, and is gone if not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target}: cannot be made ({error})") from error
    try:
        yield work
        work.chmod(0o755)
        _replace(work, target)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written ({error}); check its folder's space and rights"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_target(target: Path, force: bool) -> None:
    """Refuse to overwrite anything but a converted checkpoint, and that only when forced.

    Raises:
        OutputError: there is something that must stay.
    """
    if not target.exists():
        return
    ours = target.is_dir() and (target / "config.json").is_file() and "format_version" in _read(target)
    if not force or not ours:
        why = "--force replaces it" if ours else "it is not a converted checkpoint, so it is not replaced"
        raise OutputError(f"{target} is there already; {why}")


def _read(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _replace(work: Path, target: Path) -> None:
    if not target.exists():
        work.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(old / "was")
    try:
        work.rename(target)
    except OSError:
        (old / "was").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)

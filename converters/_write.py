"""Our own checkpoint format: ``config.json``, ``model.safetensors`` and what travels beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_speech
from mlx_speech import weights
from mlx_speech.errors import OutputError
from mlx_speech.loading import FORMAT_VERSION, Opened


def convert_checkpoint(
    opened: Opened, target: Path, *, dtype: mx.Dtype | None, source: str, force: bool
) -> None:
    """Convert an opened checkpoint into a new folder: written beside, then renamed.

    Args:
        opened: from :func:`mlx_speech.loading.open_checkpoint`.
        target: the folder to make.
        dtype: of the floating-point tensors; as in the source where ``None``.
        source: the name the checkpoint was asked for by, for the record.
        force: replace a converted checkpoint that is there.

    Raises:
        OutputError: the folder is there and not to be replaced, or cannot be written.
        CheckpointError: the tensors do not fit the model.
    """
    check_target(target, force)
    arrays = weights.convert(opened.plan, opened.tensors, opened.shapes(), str(opened.tensors.path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target}: cannot be made ({error})") from error
    try:
        cast = {k: _cast(arrays[k], dtype) for k in sorted(arrays)}
        metadata = {"format": "mlx", "family": opened.family.name}
        mx.save_safetensors(str(work / "model.safetensors"), cast, metadata)
        (work / "config.json").write_text(_config(opened, cast, source), encoding="utf-8")
        for name in opened.family.companions:
            if (opened.folder / name).is_file():
                shutil.copyfile(opened.folder / name, work / name)
        work.chmod(0o755)
        _replace(work, target)
    except (OSError, RuntimeError) as error:
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


def _cast(x: mx.array, dtype: mx.Dtype | None) -> mx.array:
    return x.astype(dtype) if dtype and mx.issubdtype(x.dtype, mx.floating) else x


def _config(opened: Opened, arrays: dict[str, mx.array], source: str) -> str:
    data = {
        "format_version": FORMAT_VERSION,
        "family": opened.family.name,
        "config": dataclasses.asdict(opened.config),
        "provenance": {
            "source": Path(source).name if Path(source).exists() else source,
            "layout": opened.layout,
            "sha256": digest(opened.tensors.path),
            "dtypes": sorted({str(a.dtype).removeprefix("mlx.core.") for a in arrays.values()}),
            "converter": mlx_speech.__version__,
        },
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()

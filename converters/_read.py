"""Foreign checkpoint files, read without running any code from them.

:func:`open_tensors` gives a mapping from key to a tensor that is read only when asked for, with its shape
and dtype known beforehand. One format a file: safetensors (also sharded), PyTorch's zip archives (``.pt``,
``.bin``, ``.ckpt``, ``.jit``), CTranslate2's ``model.bin``, ONNX, NumPy's ``.npz``.
"""

from __future__ import annotations

from pathlib import Path

from mlx_speech.converters._ctranslate2 import read_ctranslate2
from mlx_speech.converters._npz import read_npz
from mlx_speech.converters._onnx import read_onnx
from mlx_speech.converters._safetensors import read_safetensors, read_shards
from mlx_speech.converters._tensors import Tensors
from mlx_speech.converters._torch import read_torch
from mlx_speech.errors import CheckpointError


def open_tensors(path: Path) -> Tensors:
    """Open a checkpoint file, or the weights in a folder, whatever its format.

    Raises:
        CheckpointError: no weights there, a damaged file, or a format this library does not read.
    """
    file = find_weights(path) if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    with file.open("rb") as stream:
        head = stream.read(4)
    if file.name.endswith(".index.json"):
        return read_shards(file)
    if file.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[file.suffix](file)
    if head == b"PK\x03\x04":
        return read_torch(file)
    if head[:2] == b"\x80\x02":
        raise CheckpointError(
            f"{file}: a PyTorch file older than 1.6 (not a zip archive); save it again with torch.save"
        )
    if file.suffix == ".bin":
        return read_ctranslate2(file)
    raise CheckpointError(
        f"{file}: unknown checkpoint format; expected safetensors, a PyTorch archive, CTranslate2, ONNX or npz"
    )


_BY_SUFFIX = {".safetensors": read_safetensors, ".onnx": read_onnx, ".npz": read_npz}
_WEIGHT_FILES = (
    *("model.safetensors", "model.safetensors.index.json", "model.bin", "pytorch_model.bin"),
    *("weights.safetensors", "weights.npz"),
)
_OTHERS = ("*.safetensors", "*.pt", "*.ckpt", "*.bin", "*.npz", "*.jit", "*.onnx")


def find_weights(folder: Path) -> Path:
    """The weights file of a folder: by its usual name, else the only one there is.

    Raises:
        CheckpointError: none, or several and none of the usual name.
    """
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for s in _OTHERS for p in folder.glob(s))
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{folder}: several weight files ({', '.join(p.name for p in others)}); name one of them"
        )
    raise CheckpointError(f"{folder}: no weights found; looked for {', '.join(_WEIGHT_FILES + _OTHERS)}")

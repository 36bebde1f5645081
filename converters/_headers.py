"""A checkpoint on the Hub by its headers alone: what ``mlx-convert inspect`` needs of files of gigabytes.

A file of safetensors begins with its tensors' names, shapes and places. That much is fetched, and written into a
file with a hole in place of the numbers: it opens as the whole one does, and takes no space.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_speech import hub

_CONFIGURATION = "alignment_heads"  # a tensor whose numbers are read as configuration: MLX's port of Whisper
_INDEX = "model.safetensors.index.json"
_WHOLE = ("model.safetensors", "weights.safetensors")
_BESIDE = ("*.json", "README.md")


@contextmanager
def located(source: str) -> Iterator[Path]:
    """A source's files; of a Hub repository that is not here, and has safetensors, their headers only.

    Raises:
        ModelNotFoundError: as :func:`mlx_speech.hub.locate`.
    """
    wanted = hub.absent(source)
    names = _safetensors(*wanted) if wanted else []
    if not wanted or not names:
        yield hub.locate(source)
        return
    with tempfile.TemporaryDirectory(prefix="mlx-convert-") as work:
        yield Path(work) if _fetch(*wanted, names, Path(work)) else hub.locate(source)


def _safetensors(repo: str, revision: str | None) -> list[str]:
    """The weights of a repository where they are safetensors, else none."""
    from huggingface_hub import HfApi

    with hub.told(repo):
        found = {str(f.rfilename) for f in HfApi().model_info(repo, revision=revision).siblings or []}
    for name in _WHOLE:
        if name in found:
            return [name]
    shards = sorted(n for n in found if "/" not in n and Path(n).match("model-*-of-*.safetensors"))
    return shards if _INDEX in found else []


def _fetch(repo: str, revision: str | None, names: list[str], folder: Path) -> bool:
    """Whether the headers are enough."""
    from huggingface_hub import HfApi, snapshot_download

    with hub.told(repo):
        snapshot_download(repo, revision=revision, allow_patterns=[*_BESIDE], local_dir=folder)
        for name in names:
            about = HfApi().parse_safetensors_file_metadata(repo, name, revision=revision)
            entries = {k: dataclasses.asdict(v) for k, v in about.tensors.items()}
            if _CONFIGURATION in entries:
                return False
            for entry in entries.values():
                entry.pop("parameter_count", None)
            _write(folder / name, entries)
    return True


def _write(path: Path, entries: dict[str, dict[str, object]]) -> None:
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    end = max((int(e["data_offsets"][1]) for e in entries.values()), default=0)  # type: ignore[index]
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)

"""Finished parts of a run, kept beside its output: a run that was broken off goes on from them.

A journal is a folder whose name is made of the samples, the options, the models and the code, so that parts of
another run, or of another version, are never taken for one's own. Parts are put there whole, and one run at a time
holds the folder's lock; a second one works without. What a part is made of comes back exactly: JSON keeps every
float, NumPy every array.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_speech.atomic import write_atomically
from mlx_speech.stages.segmentation import Grid, Segmentation
from mlx_speech.stages.sequential import Passage
from mlx_speech.stages.transcribe import Batch
from mlx_speech.types import Character, Segment, Span, Word

T = TypeVar("T")


class JournalWarning(UserWarning):
    """Finished parts cannot be kept; the run goes on without."""


class Codec(Generic[T]):
    """How one kind of part becomes bytes and comes back."""

    def __init__(self, encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        self.encode, self.decode = encode, decode


class Journal:
    """The parts of one run.

    Whoever makes it ends it, by ``with``: the parts are removed then, unless an error ended the block. Results
    that are written belong into the block.

    Args:
        folder: where the journal's own folder is made; ``None`` keeps nothing.
        key: what the run is made of, from :func:`journal_key`; otherwise :meth:`start` is told.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, key: str | None = None) -> None:
        self.root = None if folder is None else Path(folder)
        self.folder: Path | None = None
        self.taken = 0  # parts that an earlier run had left
        self._locks: dict[Path, int] = {}  # of each recording's folder
        if key is not None:
            self.start(key)

    def start(self, key: str) -> None:
        """Begin to keep parts of the run of this key, and find those that are there.

        Several recordings may follow each other; all their parts stay until the journal ends.
        """
        if self.root is not None:
            self.folder = self.root / f"{_PREFIX}{key[:16]}"
            if self.folder not in self._locks:
                self._open(self.folder)
                _sweep(self.root)

    def _open(self, folder: Path) -> None:
        try:
            for _ in range(_PATIENCE):
                if self._locked(folder):
                    return
                self._release(folder)
            raise OSError("other runs keep removing it")
        except BlockingIOError:
            self._give_up(folder, "another run is at work on the same recording in the same way")
        except OSError as error:
            self._give_up(folder, str(error))

    def _locked(self, folder: Path) -> bool:
        """Take the lock; false if the folder, or the lock in it, was removed meanwhile."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._locks[folder] = lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(lock, code_digest(_PACKAGE).encode(), 0)  # whose parts these are
            return os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK))
        except FileNotFoundError:
            return False

    def _give_up(self, folder: Path, why: str) -> None:
        warnings.warn(f"{folder}: finished parts are not kept ({why}).", JournalWarning, stacklevel=4)
        self.folder = None
        self._release(folder)

    def _release(self, folder: Path) -> None:
        lock = self._locks.pop(folder, None)
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the parts if the result is there; otherwise leave them for the next run."""
        for folder in list(self._locks):
            if kind is None:
                _remove(folder)
            self._release(folder)

    def keep(self, name: str, compute: Callable[[], T], codec: Codec[T]) -> T:
        """The part of that name: as an earlier run left it, or computed now and kept."""
        if self.folder is None:
            return compute()
        path = self.folder / name
        # it is not there, or was cut short by a power failure
        with suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            found = codec.decode(path.read_bytes())
            self.taken += 1
            return found
        value = compute()
        try:
            write_atomically(path, codec.encode(value))
        except OSError as error:
            self._give_up(self.folder, str(error))
        return value


_PACKAGE = Path(__file__).resolve().parents[1]
_LOCK = "lock"
_PREFIX = ".mlx-speech-"
_OLD = 24 * 3600.0  # seconds after which parts of other code are removed: nobody will go on from them
_PATIENCE = 100  # times that a run may find the folder just removed by the one before it


def _remove(folder: Path) -> None:
    """Remove a journal whose lock is held; the lock goes last, so that no other run begins among its parts."""
    try:
        for path in folder.iterdir():
            if path.name != _LOCK:
                path.unlink()
        (folder / _LOCK).unlink()
        folder.rmdir()  # fails where the next run was quicker, whose folder it then is
    except OSError:
        return


def _sweep(root: Path) -> None:
    """Remove what runs of other code left behind, such as of a version before the last update."""
    ours = code_digest(_PACKAGE).encode()
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError), open(folder / _LOCK, "rb") as lock:
            if lock.read() != ours and time.time() - folder.stat().st_mtime > _OLD:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not while its run is at work
                _remove(folder)


def journal_key(samples: np.ndarray, models: Sequence[Any], options: Sequence[Any]) -> str:
    """A digest of the samples, of the files and dtypes of the models, of the options' text and of the code."""
    digest = hashlib.sha256(np.ascontiguousarray(samples).data)
    digest.update(code_digest(_PACKAGE).encode())
    for model in models:
        origin = getattr(model, "origin", None)
        files = sorted(origin.folder.iterdir()) if origin is not None and origin.folder.is_dir() else []
        stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
        parameters = tree_flatten(model.parameters()) if isinstance(model, nn.Module) else []
        kinds = sorted({str(x.dtype) for _, x in parameters})
        digest.update(repr((type(model).__name__, getattr(model, "config", None), kinds, stats)).encode())
    digest.update(repr(list(options)).encode())
    return digest.hexdigest()


@cache
def code_digest(package: Path) -> str:
    """What computes the parts: a package's sources, which hold its version, and MLX's version."""
    digest = hashlib.sha256(importlib.metadata.version("mlx").encode())
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def _word(value: dict[str, Any]) -> Word:
    characters = tuple(Character(**c) for c in value["characters"])
    return Word(**value | {"characters": characters, "overlap_speakers": tuple(value["overlap_speakers"])})


def _segment(value: dict[str, Any]) -> Segment:
    words = tuple(_word(word) for word in value["words"])
    return Segment(**value | {"words": words, "tokens": tuple(value["tokens"])})


def _plain(value: Any) -> bytes:
    return json.dumps(value, default=lambda x: x.item()).encode()  # NumPy's scalars


def _arrays(segmentation: Segmentation) -> bytes:
    buffer = io.BytesIO()
    names = ("scores", "active", "votes", "speech")
    grid = np.array(list(asdict(segmentation.grid).values()))
    np.savez(buffer, grid=grid, **{n: getattr(segmentation, n) for n in names})
    return buffer.getvalue()


def _segmentation(data: bytes) -> Segmentation:
    with np.load(io.BytesIO(data)) as found:
        arrays = {name: found[name] for name in found.files}
    return Segmentation(grid=Grid(*map(float, arrays.pop("grid"))), **arrays)


def _batch(data: bytes) -> Batch:
    value = json.loads(data)
    return Batch(
        [_segment(s) for s in value["segments"]],
        [Span(**s) for s in value["leftovers"]],
        list(value["languages"]),
    )


def _passage(data: bytes) -> Passage:
    value = json.loads(data)
    return Passage(**value | {"segments": [_segment(s) for s in value["segments"]]})


BATCH: Codec[Batch] = Codec(lambda batch: _plain(asdict(batch)), _batch)
PASSAGE: Codec[Passage] = Codec(lambda passage: _plain(asdict(passage)), _passage)
SEGMENTATION: Codec[Segmentation] = Codec(_arrays, _segmentation)

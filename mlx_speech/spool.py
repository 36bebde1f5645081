"""Samples that stay out of memory: a long recording lies in a temporary file, and is read where it is heard.

The file is mapped, so that all of it looks like one array; what was read of it can be forgotten again, and then
takes no memory. It has no name and is gone with its last array. It lies where the system keeps temporary files,
which ``TMPDIR`` changes; where there is no room for it, the samples stay in memory.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

IN_MEMORY = 16000 * 600
"""Samples that are kept in memory, 38 MB: ten minutes at 16 kHz. Longer recordings lie in a file."""


def spooled(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks of float32 samples as one (T,) float32 array; beyond ``IN_MEMORY`` it is mapped and read-only."""
    spool = _Spool()
    try:
        for block in blocks:
            spool.add(block)
        return spool.samples()
    finally:
        spool.close()


def forget(samples: np.ndarray) -> None:
    """Give back the memory that reading a spooled recording took; of other arrays nothing."""
    mapping = _mapping_of(samples)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def is_spooled(samples: object) -> bool:
    """Whether an array is a spooled recording, or a part of one."""
    return isinstance(samples, np.ndarray) and _mapping_of(samples) is not None


class _Mapping(mmap.mmap):
    """A recording's file: nobody else has it, nobody writes to it, and it holds what the decoder checked."""


def _mapping_of(samples: np.ndarray) -> _Mapping | None:
    base: object = samples
    while isinstance(base, np.ndarray):
        base = base.base
    owner = base.obj if isinstance(base, memoryview) else base
    return owner if isinstance(owner, _Mapping) else None


class _Spool:
    """Blocks on their way into a file, or into memory while they are few or the disk is full."""

    def __init__(self) -> None:
        self.held: list[np.ndarray] = []
        self.count = self.saved = 0  # samples in all, and in the file
        self.file: Any = None
        self.full = False

    def add(self, block: np.ndarray) -> None:
        """Take the next block."""
        self.held.append(block)
        self.count += len(block)
        if self.count > IN_MEMORY and not self.full:
            try:
                self._save()
            except OSError:
                self._bring_back()

    def _save(self) -> None:
        self.file = self.file or tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (close() does)
        for block in self.held:
            if self.file.write(block.data) != block.nbytes:
                raise OSError("the disk is full")
            self.saved += len(block)
        self.held = []

    def _bring_back(self) -> None:
        """What the file holds goes into memory; blocks that were not written whole still are there."""
        self.full = True
        written = sum(map(len, self.held)) - (self.count - self.saved)
        held = np.concatenate([np.zeros(0, np.float32), *self.held])[written:]
        self.held = [held]
        if self.saved:
            self.file.seek(0)
            self.held = [np.frombuffer(self.file.read(4 * self.saved), np.float32), held]
        self.close()

    def samples(self) -> np.ndarray:
        """All of them."""
        if self.file is not None:
            try:
                return np.frombuffer(_Mapping(self.file.fileno(), 0, access=mmap.ACCESS_READ), np.float32)
            except OSError:  # a file system without mappings
                self._bring_back()
        return np.concatenate(self.held) if self.held else np.zeros(0, np.float32)

    def close(self) -> None:
        """Close the file; its mapping keeps it."""
        if self.file is not None:
            self.file.close()
            self.file = None

"""The table of model families; each is imported only when asked for."""

from __future__ import annotations

import importlib

from mlx_speech.converters._family import Family
from mlx_speech.errors import CheckpointError

_MODULES = {
    "whisper": "mlx_speech.converters.whisper",
    "silero-vad": "mlx_speech.converters.silero",
    "pyannet": "mlx_speech.converters.pyannet",
    "wespeaker": "mlx_speech.converters.wespeaker",
    "wav2vec2": "mlx_speech.converters.wav2vec2",
    "whisper-ctc": "mlx_speech.converters.whisper_ctc",
}


def get_family(name: str, where: str = "model") -> Family:
    """A family by its name.

    Raises:
        CheckpointError: there is none of that name.
    """
    if name not in _MODULES:
        raise CheckpointError(f"{where}: unknown family {name!r}; this release knows {', '.join(_MODULES)}")
    family: Family = importlib.import_module(_MODULES[name]).FAMILY
    return family


def families() -> list[Family]:
    """All families."""
    return [get_family(name) for name in _MODULES]

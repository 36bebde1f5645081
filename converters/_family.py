"""What a model family tells the loader and the converter about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn

from mlx_speech.converters._tensors import Tensors
from mlx_speech.weights import Layout


@dataclass(frozen=True)
class Family:
    """One family of models: its configuration, its model class and the checkpoint layouts it comes in.

    Args:
        name: the family's name in ``config.json``.
        config_type: a frozen dataclass of plain values.
        build: from a configuration to a model with parameters of the right shapes.
        layouts: foreign layouts, found by which rules resolve fully.
        read_config: from a foreign checkpoint's tensors, its folder and its layout to a configuration.
        companions: names of files that travel beside the weights where they exist.
        half: whether the family's numbers bear float16 on a GPU.
        quantised: patterns of the modules that ``--quantize`` packs; none where the family gains nothing.
    """

    name: str
    config_type: type[Any]
    build: Callable[[Any], nn.Module]
    layouts: tuple[Layout, ...]
    read_config: Callable[[Tensors, Path, Layout], Any]
    companions: tuple[str, ...] = ()
    half: bool = False
    quantised: tuple[str, ...] = ()

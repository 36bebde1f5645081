"""A checkpoint of large-v3's size, 3.1 GB of seeded numbers: how long to inspect it, what memory to convert it."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from harness import Row
from mlx.utils import tree_flatten

from mlx_speech.converters._store import NAMES
from mlx_speech.converters.whisper import HUGGING_FACE
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.weights import plan

LARGE = WhisperConfig(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 32)
# runs in a process of its own; VmHWM is the most memory that was resident, mapped pages of files among it
CONVERT = """if True:
    import re, sys
    from pathlib import Path
    from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
    from mlx_speech.loading import open_checkpoint
    from mlx_speech.quantization import Quantization
    def peak():
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    before = peak()
    bits = int(sys.argv[3])
    options = ConvertOptions(quantization=Quantization(bits) if bits else None)
    convert_checkpoint(open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), "large", options)
    print(before, peak())
"""


def rows() -> list[Row]:
    """Seconds of the whole command ``inspect``, and peak memory of converting, whole and in 4 bits."""
    with tempfile.TemporaryDirectory() as work:
        source = large_checkpoint(Path(work))
        found = [_inspect(source)]
        for bits in (0, 4):
            found.append(_convert(source, Path(work) / f"made-{bits}", bits))
    return found


def _inspect(source: Path, tries: int = 5) -> Row:
    command = [
        sys.executable,
        "-c",
        "from mlx_speech.converters.cli import main; main()",
        "inspect",
        str(source),
    ]
    walls, cpus = [], []
    for _ in range(tries):
        begin, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        walls.append(time.perf_counter() - begin)
        cpus.append(sum(after[2:4]) - sum(before[2:4]))
    return Row(
        "large-v3-sized: mlx-convert inspect, the whole command",
        "seconds",
        f"{min(walls):.2f}",
        "1",
        min(walls) < 1,
        f"least of {tries}; CPU time {min(cpus):.2f} s",
    )


def _convert(source: Path, target: Path, bits: int) -> Row:
    begin = time.perf_counter()
    command = [sys.executable, "-c", CONVERT, str(source), str(target), str(bits)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    before, peak = map(int, done.stdout.split())
    size = sum(p.stat().st_size for p in target.glob("*.safetensors"))
    return Row(
        f"large-v3-sized: convert{f', {bits} bits' if bits else ''}",
        "peak memory / output",
        f"{peak / size:.2f}",
        "1",
        peak < size,
        f"{peak / 1e9:.2f} GB at most, {before / 1e9:.2f} before it; {size / 1e9:.2f} GB in {seconds:.0f} s",
    )


def large_checkpoint(folder: Path) -> Path:
    """Hugging Face's layout of large-v3's sizes, float16, filled with numbers."""
    source = folder / "large"
    source.mkdir()
    shapes = {k: tuple(v.shape) for k, v in tree_flatten(Whisper(LARGE).parameters())}
    entries: dict[str, Any] = {}
    at = 0
    for step in plan(HUGGING_FACE.rules, _huggingface_keys()).steps:
        shape = shapes[step.targets[0]]
        if "conv" in step.targets[0] and len(shape) == 3:
            shape = (shape[0], shape[2], shape[1])
        end = at + 2 * math.prod(shape)
        entries[step.sources[0]] = {"dtype": NAMES[mx.float16], "shape": shape, "data_offsets": [at, end]}
        at = end
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    block = np.random.default_rng(0).uniform(-1, 1, 1 << 24).astype(np.float16).tobytes()
    with (source / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        while at > 0:
            file.write(block[:at])
            at -= len(block)
    heads = {"encoder_attention_heads": 20, "decoder_attention_heads": 20}
    (source / "config.json").write_text(json.dumps(heads))
    return source


def _huggingface_keys() -> list[str]:
    """Every key of the layout for large-v3's layers."""
    found = []
    for rule in HUGGING_FACE.rules:
        for pattern in rule.source_patterns if rule.targets else ():
            layers = range(32) if "{i}" in pattern else (0,)
            found += [pattern.replace("{i}", str(n)) for n in layers]
    return found

"""mlx-convert: every family, layout, dtype and quantisation converted, certified against its original, verified.

A row's pass is that the certificate can be made again, and for float32 that the stage lies within its limit of the
original; what 16 bits, 8 and 4 cost is told as it is, on noise, which no model was trained for.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

import mlx.core as mx
from harness import Row
from mlx.utils import tree_flatten
from tolerances import TOLERANCES

from mlx_speech import hub
from mlx_speech.converters import _certificate
from mlx_speech.converters._originals import run_original
from mlx_speech.converters._store import NAMES
from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
from mlx_speech.converters.whisper import HUGGING_FACE
from mlx_speech.errors import OptionError
from mlx_speech.loading import open_checkpoint
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.quantization import Quantization
from mlx_speech.weights import plan

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
WEIGHTS = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "weights"
PLAIN = ConvertOptions()
HALVES = (ConvertOptions(dtype=mx.float16), ConvertOptions(dtype=mx.bfloat16))
PACKED = tuple(ConvertOptions(quantization=Quantization(b)) for b in (8, 4))


def cases() -> list[tuple[str, Path, tuple[ConvertOptions, ...]]]:
    """(name of the weights, where they are, how to convert them)."""
    silero = Path(str(resources.files("silero_vad.data")))
    released = ("silero_vad.jit", "silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_16k.safetensors")
    return [
        ("tiny.en", hub.locate("whisper-tiny.en"), (PLAIN, *HALVES, *PACKED)),
        ("seeded", FIXTURES / "whisper/huggingface", (PLAIN,)),
        ("seeded", FIXTURES / "whisper/openai/model.pt", (PLAIN,)),
        ("seeded int8", FIXTURES / "whisper/ctranslate2-int8_float16", (PLAIN,)),
        ("mini-en", WEIGHTS / "wav2vec2-mini-en", (PLAIN, *HALVES, *PACKED)),
        *((f"seeded {n}", FIXTURES / "wav2vec2" / n, (PLAIN,)) for n in ("base", "stable", "hubert", "mms")),
        ("segmentation-3.0", WEIGHTS / "segmentation-3.0/pytorch_model.bin", (PLAIN,)),
        ("resnet34-LM int8", hub.ASSETS / "wespeaker-resnet34-LM", (PLAIN,)),
        ("seeded", FIXTURES / "wespeaker/basic.bin", (PLAIN,)),
        *((n, silero / n, (PLAIN,)) for n in released),
    ]


def run() -> list[Row]:
    """Rows of all certificates, of repeated conversion, and of a checkpoint of large-v3's size."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for number, (name, path, many) in enumerate(cases()):
            for kind, option in enumerate(many):
                rows += _certified(name, path, option, Path(work) / f"{number}-{kind}")
        rows.append(_twice(Path(work)))
    return [*rows, *_large()]


def _certified(name: str, path: Path, option: ConvertOptions, target: Path) -> list[Row]:
    opened = open_checkpoint(path)
    inputs = _certificate.fixed_inputs(opened.family.name, opened.config)
    note = ""
    try:
        original = run_original(opened, inputs)
    except OptionError as error:
        original, note = None, "original not run: " + str(error).split(";")[0].rpartition("/")[2][:80]
    convert_checkpoint(
        opened, target, name, ConvertOptions(option.dtype, option.quantization, original=original)
    )
    told = json.loads((target / _certificate.FILE).read_text())
    again = _certificate.verify(target)
    dtypes = ",".join(json.loads((target / "config.json").read_text())["provenance"]["dtypes"])
    how = f"{option.quantization}" if option.quantization else dtypes
    exact = not option.quantization and not option.dtype
    rows = []
    for stage, found in told["stages"].items():
        against = found.get("against_original")
        value = against["relative_l2"] if against else math.nan
        limit = TOLERANCES["convert"].limit
        tight = exact and against is not None
        rows.append(
            Row(
                f"{opened.layout} {name}, {how}: {stage}",
                "relative L2",
                f"{value:.1e}" if against else "–",
                f"{limit:.0e}" if tight else "–",
                again[stage] <= _certificate.LIMIT and (not tight or value <= limit),
                f"goldens again {again[stage]:.0e}; "
                + (
                    f"cosine {against['cosine']:.6f}; {told['original']}"
                    if against
                    else note or "goldens only"
                ),
            )
        )
    return rows


def _twice(work: Path) -> Row:
    opened = open_checkpoint(hub.locate("whisper-tiny.en"))
    for name in ("a", "b"):
        convert_checkpoint(opened, work / name, "whisper-tiny.en", PACKED[0])
    files = sorted(p.name for p in (work / "a").iterdir())
    equal = all((work / "a" / n).read_bytes() == (work / "b" / n).read_bytes() for n in files)
    return Row(
        "tiny.en in 8 bits, converted twice",
        "identical bytes",
        "yes" if equal else "no",
        "yes",
        equal,
        ", ".join(files),
    )


LARGE = WhisperConfig(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 32)
CONVERT = """if True:
    import resource, sys
    from pathlib import Path
    from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
    from mlx_speech.loading import open_checkpoint
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    convert_checkpoint(open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), "large", ConvertOptions())
    print(before * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def _large() -> list[Row]:
    """A float16 checkpoint of zeros of large-v3's size: a file with a hole, so that only the header takes space."""
    with tempfile.TemporaryDirectory() as work:
        source = large_checkpoint(Path(work))
        begin = time.perf_counter()
        code = "from mlx_speech.converters.cli import main; main()"
        command = [sys.executable, "-c", code, "inspect", str(source)]
        subprocess.run(command, check=True, capture_output=True)
        whole = time.perf_counter() - begin
        begin = time.perf_counter()
        open_checkpoint(source).outline()
        warm = time.perf_counter() - begin
        target = Path(work) / "made"
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", CONVERT, str(source), str(target)],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - begin
        before, peak = map(int, done.stdout.split())
        size = sum(p.stat().st_size for p in target.glob("*.safetensors"))
    share = peak / size
    return [
        Row("large-v3-sized: open and plan", "seconds", f"{warm:.2f}", "1", warm < 1, f"the command {whole:.2f} s"),
        Row(
            "large-v3-sized: convert", "peak memory / output", f"{share:.2f}", "1", share < 1,
            f"{peak / 1e9:.2f} GB ({before / 1e9:.2f} before) for {size / 1e9:.2f} GB; {seconds:.0f} s",
        ),
    ]  # fmt: skip


def large_checkpoint(folder: Path) -> Path:
    """Hugging Face's layout of large-v3's sizes, float16."""
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
    with (source / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + at)
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


if __name__ == "__main__":
    from harness import table

    print(table(run()))

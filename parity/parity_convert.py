"""mlx-convert: every family, layout, dtype and quantisation converted, certified against its original, verified.

Of each checkpoint: converted twice (the same bytes), its certificate made and made again, the original's outputs
beside those of the converted folder as it loads, and those beside the original checkpoint's as it loads. A row's
pass is that the certificate can be made again, and for whole weights that the stage lies within its limit of the
original; what 16 bits, 8 and 4 cost is told as it is, on noise, which no model was trained for.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import convert_large
import mlx.core as mx
import numpy as np
from convert_sources import FIXTURES, seeded
from harness import Row, close
from tolerances import TOLERANCES

from mlx_speech import hub
from mlx_speech.converters import _certificate
from mlx_speech.converters._originals import run_original
from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
from mlx_speech.errors import OptionError
from mlx_speech.loading import load, open_checkpoint, read_model
from mlx_speech.quantization import Quantization

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "weights"
PLAIN = ConvertOptions()
HALVES = (ConvertOptions(dtype=mx.float16), ConvertOptions(dtype=mx.bfloat16))
PACKED = tuple(ConvertOptions(quantization=Quantization(b)) for b in (8, 4))
KEPT = tuple(
    ConvertOptions(quantization=Quantization(4), keep_float=keep)
    for keep in (("decoder.token_embedding",), ("encoder.*",), ("*.blocks.0.*",))
)
SILERO = (
    *("silero_vad.jit", "silero_vad.onnx", "silero_vad_half.onnx", "silero_vad_16k_op15.onnx"),
    *("silero_vad_op18_ifless.onnx", "silero_vad_openvino_16k.onnx", "silero_vad_16k_sequence.onnx"),
    "silero_vad_16k.safetensors",
)


def cases(work: Path) -> Iterator[tuple[str, Path, tuple[ConvertOptions, ...]]]:
    """(name of the weights, where they are, how to convert them)."""
    yield "tiny.en", hub.locate("whisper-tiny.en"), (PLAIN, *HALVES, *PACKED, *KEPT)
    yield "seeded", FIXTURES / "whisper/huggingface", (PLAIN,)
    yield "seeded", FIXTURES / "whisper/openai/model.pt", (PLAIN,)
    yield "mini-en", WEIGHTS / "wav2vec2-mini-en", (PLAIN, *HALVES, *PACKED)
    for name in ("base", "stable", "hubert", "mms"):
        yield f"seeded {name}", FIXTURES / "wav2vec2" / name, (PLAIN,)
    yield "seeded", FIXTURES / "whisper_ctc", (PLAIN,)
    yield "segmentation-3.0", WEIGHTS / "segmentation-3.0/pytorch_model.bin", (PLAIN, *HALVES)
    yield "resnet34-LM int8", hub.ASSETS / "wespeaker-resnet34-LM", (PLAIN, *HALVES)
    yield "seeded bottlenecks, two layers", FIXTURES / "wespeaker/bottleneck.pt", (PLAIN,)
    for name in ("model", "two-layers", "by-order"):
        yield f"seeded {name}", FIXTURES / f"wespeaker/{name}.onnx", (PLAIN,)
    silero = Path(str(resources.files("silero_vad.data")))
    for file in SILERO:
        yield file, silero / file, (PLAIN,)
    for name, path in seeded(work):
        yield name, path, (PLAIN,)


def run() -> list[Row]:
    """Rows of all certificates and round trips, of what needs its own way to run, and of large-v3's size."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for number, (name, path, many) in enumerate(cases(Path(work))):
            for kind, option in enumerate(many):
                rows += _certified(name, path, option, Path(work) / f"{number}-{kind}")
    return [*rows, *_ctranslate2_logits(), *_ort_embeddings(), *_tinygrad(), *convert_large.rows()]


def _certified(name: str, path: Path, option: ConvertOptions, target: Path) -> list[Row]:
    opened = open_checkpoint(path)
    inputs = _certificate.fixed_inputs(opened.family.name, opened.config)
    note = ""
    try:
        original = run_original(opened, inputs)
    except OptionError as error:
        original, note = None, "original not run: " + str(error).split(";")[0].rpartition("/")[2][:80]
    options = ConvertOptions(option.dtype, option.quantization, option.keep_float, original=original)
    second = target.with_name(f"{target.name}-again")
    for folder in (target, second):
        convert_checkpoint(opened, folder, name, options)
    told = json.loads((target / _certificate.FILE).read_text())
    again = _certificate.verify(target)
    dtypes = ",".join(json.loads((target / "config.json").read_text())["provenance"]["dtypes"])
    how = f"{option.quantization}" if option.quantization else dtypes
    how += "".join(f" but {k}" for k in option.keep_float)
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
                    f"max {against['max_abs']:.1e}, cosine {against['cosine']:.6f}; {told['original']}"
                    if against
                    else note or "goldens only"
                ),
            )
        )
    return [*rows, _round_trip(f"{opened.layout} {name}, {how}", path, target, second, exact)]


def _round_trip(what: str, path: Path, target: Path, second: Path, exact: bool) -> Row:
    """Converted twice the bytes are the same, and the converted folder's outputs are the original checkpoint's."""
    files = sorted(p.name for p in target.iterdir())
    twice = all((target / n).read_bytes() == (second / n).read_bytes() for n in files)
    equal = "–"
    if exact:
        opened = open_checkpoint(path)
        inputs = _certificate.fixed_inputs(opened.family.name, opened.config)
        models = read_model(opened, str(path), "float32"), load(f"path:{target}", dtype="float32")
        first, loaded = (_certificate.run_stages(opened.family.name, m, inputs) for m in models)
        equal = "yes" if all(np.array_equal(first[k], loaded[k]) for k in first) else "no"
    return Row(
        f"{what}: converted twice; loaded beside its original",
        "identical bytes; outputs",
        f"{'yes' if twice else 'no'}; {equal}",
        "yes",
        twice and equal != "no",
        f"{len(files)} files",
    )


# --- originals that want more than the fixed inputs -------------------------------------------------------


def _ctranslate2_logits() -> list[Row]:
    """CTranslate2 gives logits of what follows the start of a transcript only."""
    import ctranslate2

    folder = hub.locate("whisper-tiny.en")
    model = load("whisper-tiny.en", dtype="float32")
    mel = _certificate.fixed_inputs("whisper", model.config)["mel"]
    prompt = [50257, 50362]  # start of transcript, no timestamps
    ours = model.logits(model.step(mx.array([prompt]), model.start(model.encode(mx.array(mel)))))
    theirs = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32")
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.transpose(0, 2, 1)))
    made = theirs.generate(
        features, [prompt], beam_size=1, max_length=3, return_logits_vocab=True, suppress_blank=False,
        suppress_tokens=[],
    )[0]  # fmt: skip
    logits = np.array(made.logits[0][0]).ravel()
    check = "whisper-ctranslate2 tiny.en: logits behind the start of a transcript"
    return [
        close(check, np.array(ours[0, -1]), logits, "convert.ctranslate2", "ctranslate2's own arithmetic")
    ]


def _ort_embeddings() -> list[Row]:
    """The bundled int8 weights beside the ONNX Runtime file that they were taken from."""
    import onnxruntime

    model = load("wespeaker-resnet34-LM", dtype="float32")
    audio = _certificate.fixed_inputs("wespeaker", model.config)["audio"]
    path = WEIGHTS / "wespeaker-resnet34-LM-int8/community1_embedding_int8.ort"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    features = np.array(model.fbank(mx.array(audio)))
    fed = {"fbank": features, "weights": np.ones(features.shape[:2], np.float32)}
    (theirs,) = session.run(None, fed)
    check = "wespeaker-int8 resnet34-LM int8: embedding of the same features"
    return [
        close(check, np.array(model.embed(mx.array(audio))[:, 0]), theirs, "convert", "onnxruntime, the .ort")
    ]


TINYGRAD = """if True:
    import importlib.util, sys
    import numpy as np
    from tinygrad import Tensor
    from tinygrad.nn.state import load_state_dict, safe_load
    folder = importlib.util.find_spec("silero_vad").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("theirs", folder + "/tinygrad_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net, state, found = module.TinySileroVAD(), None, []
    load_state_dict(net, safe_load(folder + "/data/silero_vad_16k.safetensors"))
    audio = np.load(sys.argv[1])
    for start in range(64, audio.shape[1], 512):
        chunk, state = net(Tensor(audio[:, start - 64 : start + 512]), state)
        found.append(chunk.numpy().item())
    print(*found)
"""


def _tinygrad(chunks: int = 2) -> list[Row]:
    """Silero's own model of its safetensors, in tinygrad's emulator: 20 s a chunk, and needs no compiler."""
    check = "silero-tinygrad silero_vad_16k.safetensors: probabilities"
    if importlib.util.find_spec("tinygrad") is None:
        return []
    path = Path(str(resources.files("silero_vad.data"))) / "silero_vad_16k.safetensors"
    model = load(str(path), dtype="float32")
    audio = _certificate.fixed_inputs("silero-vad", model.config)["audio"][:, : 512 * chunks]
    with tempfile.TemporaryDirectory() as work:
        np.save(f"{work}/audio.npy", np.pad(audio, [(0, 0), (64, 0)]))
        command = [sys.executable, "-W", "ignore", "-c", TINYGRAD, f"{work}/audio.npy"]
        environment = {**os.environ, "DEV": "PYTHON"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    theirs = np.array([[float(v) for v in done.stdout.split("\n")[-2].split()]])
    return [close(check, np.array(model(mx.array(audio))), theirs, "convert", f"tinygrad, {chunks} chunks")]


if __name__ == "__main__":
    from harness import table

    print(table(run()))

"""Who takes part in bench_asr.py: how each loads its model and makes text of samples, in a process of its own.

A worker is ``python asr_contestants.py worker INDEX MODEL FOLDER``; clips are named on its standard input, answers
are JSON lines. ``python asr_contestants.py prepare MODEL FOLDER`` writes what they read.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
MODELS = ("tiny.en", "base")
MARK = "@@"  # begins a worker's lines among what libraries print
Run = Callable[[np.ndarray], str]

# --- contestants: each loads its model and returns what turns samples into text -----------------------------


def ours(
    work: Path,
    model: str,
    words: bool = False,
    pipeline: bool = True,
    batch_size: int = 8,
    timestamps: bool = True,
) -> Run:
    from mlx_speech.pipeline import Transcriber
    from mlx_speech.stages.options import DecodeOptions, TranscribeOptions
    from mlx_speech.stages.transcribe import transcribe_spans
    from mlx_speech.types import Span

    transcriber = Transcriber.load(f"whisper-{model}", align="none", dtype="float32")
    decode = DecodeOptions(temperatures=(0.0,), beam_size=1, timestamps=timestamps)
    options = TranscribeOptions(language="en", words=words, batch_size=batch_size, decode=decode)

    def window(audio: np.ndarray) -> str:
        whole = len(audio) / RATE
        step = whole if timestamps else 30.0  # without timestamps a window's end is where the next begins
        spans = [Span(t, min(t + step, whole)) for t in np.arange(0.0, whole, step).tolist()]
        found, _ = transcribe_spans(transcriber.whisper, transcriber.tokenizer, audio, spans, options)
        return " ".join(s.text for s in found)

    def recording(audio: np.ndarray) -> str:
        return " ".join(s.text for s in transcriber.transcribe(audio, options).segments)

    return recording if pipeline else window


def mlx_whisper(work: Path, model: str) -> Run:
    import mlx.core as mx
    import mlx_whisper.transcribe  # noqa: F401  (a module that the package hides behind a function)

    transcribe = sys.modules["mlx_whisper.transcribe"]
    folder = str(work / "mlx_whisper")
    transcribe.ModelHolder.get_model(folder, mx.float32)

    def run(audio: np.ndarray) -> str:
        options: dict[str, Any] = {"temperature": 0.0, "condition_on_previous_text": False, "language": "en"}
        return str(transcribe.transcribe(audio, path_or_hf_repo=folder, fp16=False, **options)["text"])

    return run


def faster_whisper(
    work: Path, model: str, words: bool = False, batched: bool = False, compute: str = "float32"
) -> Run:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    folder = str(work / "ctranslate2")
    loaded = WhisperModel(folder, device="cpu", compute_type=compute, cpu_threads=os.cpu_count() or 1)
    options: dict[str, Any] = {"beam_size": 1, "best_of": 1, "temperature": 0.0, "language": "en"}
    options |= {"condition_on_previous_text": False, "word_timestamps": words}
    if batched:
        options |= {"batch_size": 8, "without_timestamps": False}
    engine = BatchedInferencePipeline(loaded) if batched else loaded

    def run(audio: np.ndarray) -> str:
        segments, _ = engine.transcribe(audio, **options)
        return " ".join(s.text for s in segments)

    return run


def openai_whisper(work: Path, model: str) -> Run:
    import whisper

    loaded = whisper.load_model(str(work / "openai.pt"), device="cpu")
    options: dict[str, Any] = {"temperature": 0.0, "condition_on_previous_text": False, "language": "en"}
    return lambda audio: str(loaded.transcribe(audio, fp16=False, **options)["text"])


def transformers(work: Path, model: str, batch_size: int = 1) -> Run:
    import torch
    from transformers import GenerationConfig, GenerationMixin, WhisperFeatureExtractor
    from transformers import WhisperForConditionalGeneration as Loaded
    from transformers.modeling_outputs import BaseModelOutput
    from whisper.tokenizer import get_tokenizer

    torch.set_grad_enabled(False)
    loaded = Loaded.from_pretrained(work / "transformers", attn_implementation="sdpa").eval()
    told = json.loads((work / "prompt.json").read_text())
    extractor = WhisperFeatureExtractor(feature_size=80)
    tokenizer = get_tokenizer(not model.endswith(".en"))
    config = GenerationConfig(
        max_new_tokens=224,
        do_sample=False,
        eos_token_id=told["eot"],
        pad_token_id=told["eot"],
        suppress_tokens=told["suppress"],
        begin_suppress_tokens=told["first"],
    )

    def some(windows: list[np.ndarray]) -> list[str]:
        features = extractor(windows, sampling_rate=RATE, return_tensors="pt").input_features
        encoded = BaseModelOutput(last_hidden_state=loaded.get_encoder()(features).last_hidden_state)
        start = torch.tensor([told["prompt"]] * len(windows))
        found = GenerationMixin.generate(
            loaded, decoder_input_ids=start, encoder_outputs=encoded, generation_config=config
        )
        return [tokenizer.decode([t for t in row if t < told["eot"]]) for row in found.tolist()]

    def run(audio: np.ndarray) -> str:
        windows = [audio[n : n + 30 * RATE] for n in range(0, len(audio), 30 * RATE)]
        parts = [windows[n : n + batch_size] for n in range(0, len(windows), batch_size)]
        return " ".join(text.strip() for part in parts for text in some(part))

    return run


@dataclass(frozen=True)
class Contestant:
    """How one line of the tables is made; ``blas`` is loaded before MLX, as mlx_speech does by itself."""

    name: str
    build: Callable[..., Run]
    options: dict[str, Any] = field(default_factory=dict)
    clips: tuple[str, ...] = ("short", "long")
    blas: bool = False
    slow: bool = False


WINDOW, PIPELINE = "mlx_speech, one window, no VAD", "mlx_speech, VAD + Whisper"
PLAIN = WINDOW + ", no timestamps"  # as transformers runs: the same tokens
FASTER, SAME_BLAS = "faster-whisper, float32", "mlx-whisper, the same OpenBLAS"
TRANSFORMERS = "transformers, windows of 30 s"
TRANSFORMERS_8 = TRANSFORMERS + ", 8 at once"
CONTESTANTS = (
    Contestant(WINDOW, ours, {"pipeline": False}, ("short",)),
    Contestant(WINDOW + ", word times", ours, {"pipeline": False, "words": True}, ("short",)),
    Contestant(PLAIN, ours, {"pipeline": False, "timestamps": False}),
    Contestant(PIPELINE, ours),
    Contestant(PIPELINE + ", one window at a time", ours, {"batch_size": 1}, ("long",)),
    Contestant(PIPELINE + ", word times", ours, {"words": True}),
    Contestant(FASTER, faster_whisper),
    Contestant("faster-whisper, float32, word times", faster_whisper, {"words": True}),
    Contestant("faster-whisper, float32, batched, its VAD", faster_whisper, {"batched": True}, ("long",)),
    Contestant("faster-whisper, int8", faster_whisper, {"compute": "int8"}),
    Contestant(
        "faster-whisper, int8, batched, its VAD",
        faster_whisper,
        {"compute": "int8", "batched": True},
        ("long",),
    ),
    Contestant(SAME_BLAS, mlx_whisper, blas=True),
    Contestant(TRANSFORMERS, transformers),
    Contestant(TRANSFORMERS_8, transformers, {"batch_size": 8}, ("long",)),
    Contestant("openai-whisper (torch)", openai_whisper),
    Contestant("mlx-whisper as installed (reference BLAS)", mlx_whisper, clips=("short",), slow=True),
)
BASE = {"short": WINDOW, "long": PIPELINE}

# --- a worker: one contestant in its own process ------------------------------------------------------------


def worker(index: int, model: str, work: Path) -> None:
    """Load, then transcribe each clip named on standard input; answers are JSON lines."""
    begin = time.perf_counter()
    contestant = CONTESTANTS[index]
    if contestant.blas:
        for file in json.loads((work / "blas.json").read_text()):
            ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
    run = contestant.build(work, model, **contestant.options)
    answer({"loaded": time.perf_counter() - begin})
    for line in sys.stdin:
        audio = np.load(work / f"{line.strip()}.npy")
        begin = time.perf_counter()
        text = run(audio)
        answer({"seconds": time.perf_counter() - begin, "text": text, "peak": peak_memory()})


def answer(data: dict[str, Any]) -> None:
    """Send one line to the parent."""
    print(MARK + json.dumps(data), flush=True)


def peak_memory() -> float:
    """Most memory that this process had in RAM, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's before exec
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def prepare(model: str, work: Path) -> None:
    """The clips as arrays, and the same weights in each contestant's layout; in a process of its own."""
    import mlx_speech  # isort: skip  (first: it loads the BLAS)

    import mlx.core as mx
    from mlx.utils import tree_flatten

    from mlx_speech import runtime
    from mlx_speech.audio import load_audio
    from mlx_speech.hub import locate

    data = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"
    sessions = sorted((data / "sim_librispeech").glob("*.flac"))[:3]
    clips = {"short": [data / "pyannote_sample/sample.wav"], "long": sessions}
    for name, files in clips.items():
        np.save(work / f"{name}.npy", np.concatenate([load_audio(f) for f in files]))
        said = [_said(f.with_suffix(".stm")) for f in files]
        (work / f"{name}.txt").write_text("\n".join(said), encoding="utf-8")
    checkpoint = locate(f"whisper-{model}")
    maps = Path("/proc/self/maps")
    loaded = sorted(set(re.findall(r"/\S+", maps.read_text()))) if maps.is_file() else []
    name = Path(runtime.start().name).name
    folder = next((str(Path(f).parent) for f in loaded if Path(f).name.startswith(name.split(".so")[0])), "")
    helpers = [f for f in loaded if str(Path(f).parent) == folder and "site-packages" in folder]
    (work / "blas.json").write_text(json.dumps([*_in_order(helpers), runtime.start().name] if loaded else []))
    loaded_model = mlx_speech.load(f"whisper-{model}", dtype="float32")
    target = work / "mlx_whisper"
    target.mkdir()
    weights = {
        k.replace("fc1", "mlp1").replace("fc2", "mlp2"): mx.contiguous(v)
        for k, v in tree_flatten(loaded_model.parameters())
        if k != "encoder.positional_embedding"  # it computes these sinusoids
    }
    mx.savez(str(target / "weights.npz"), **weights)
    sizes = {
        k: getattr(loaded_model.config, k)
        for k in loaded_model.config.__dataclass_fields__
        if k.startswith("n_")
    }
    (target / "config.json").write_text(json.dumps(sizes))
    _save_prompt(work, loaded_model)
    ctranslate2_folder(checkpoint, work / "ctranslate2")
    _save_torch(work, checkpoint, model)


def _save_prompt(work: Path, model: Any) -> None:
    """What transformers is to begin with and never to write."""
    from mlx_speech.stages.tokenizer import tokenizer_for

    tokenizer = tokenizer_for(model)
    special = tokenizer.special
    between = range(special.eot + 1, model.config.n_vocab)
    told = {
        "prompt": [*tokenizer.start_sequence("en", "transcribe"), special.no_timestamps],
        "eot": special.eot,
        "suppress": sorted({*(t for t in model.config.suppress_tokens if t < special.eot), *between}),
        "first": list(model.config.begin_suppress_tokens),
    }
    (work / "prompt.json").write_text(json.dumps(told))


def ctranslate2_folder(checkpoint: Path, target: Path) -> Path:
    """A CTranslate2 checkpoint with the list of its tokens, which faster-whisper wants beside the tokenizer."""
    target.mkdir(exist_ok=True)
    for file in checkpoint.iterdir():
        if not (target / file.name).exists():
            (target / file.name).symlink_to(file)
    if not list(target.glob("vocabulary.*")):
        data = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
        names = {number: token for token, number in data["model"]["vocab"].items()}
        names |= {t["id"]: t["content"] for t in data["added_tokens"]}
        tokens = [names[n] for n in range(len(names))]
        (target / "vocabulary.json").write_text(json.dumps(tokens), encoding="utf-8")
    return target


def _in_order(files: list[str]) -> list[str]:
    order = ("libquadmath", "libgfortran", "libgomp")
    return [f for prefix in order for f in files if Path(f).name.startswith(prefix)]


def _save_torch(work: Path, checkpoint: Path, size: str) -> None:
    import torch
    from parity_whisper import openai_model, openai_weights, read_ctranslate2, transformers_model

    tensors = read_ctranslate2(checkpoint / "model.bin")
    model = openai_model(tensors, openai_weights(tensors), size)
    torch.save({"dims": vars(model.dims), "model_state_dict": model.state_dict()}, work / "openai.pt")
    transformers_model(model).save_pretrained(work / "transformers")


def _said(stm: Path) -> str:
    """The words of an STM file in order of their phrases' starts."""
    lines = (line.split(maxsplit=5) for line in stm.read_text(encoding="utf-8").splitlines())
    said = [f for f in lines if len(f) == 6 and not f[0].startswith(";")]
    phrases = sorted((float(f[3]), re.sub(r"^<[^>]*>\s*", "", f[5])) for f in said)
    return " ".join(text for _, text in phrases)


def main(what: str, *rest: str) -> None:
    """A worker, or what workers read."""
    if what == "worker":
        worker(int(rest[0]), rest[1], Path(rest[2]))
    else:
        prepare(rest[0], Path(rest[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])

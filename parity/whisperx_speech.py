"""What WhisperX 3.8.6's own parts make of the recordings, computed once and kept for bench_speakers.py.

    python parity/whisperx_speech.py          # every recording; what is there already is left
    python parity/whisperx_speech.py sim1     # those with this in their names

As its command line puts them together, with its defaults: its pyannote VAD (the checkpoint that its package
brings), faster-whisper with beams of 5 on the same tiny.en weights in float32, ``whisperx.align``,
pyannote.audio's community-1 pipeline through its ``DiarizationPipeline``, ``assign_word_speakers``. Its published
aligners are not to be had here; ``align`` hears with the bundled one. Its rule takes staying on a letter for
blank, as models do that say each letter once; this one goes on saying a letter while it sounds, and the delimiter
in pauses, and text would be crowded at the beginning of each window (boundaries off by 3 s in pyannote_sample). So
the probability that a frame repeats the symbol before it, or says the delimiter, counts as blank here. Its
sentences want nltk's data: each of its segments counts as one, which moves no word. Meetings, whose words are not
known, get turns only. The trunk of pyannote.audio's embedding network runs once a window instead of three times,
with the same result (diarize_networks.py). Kept in ``out/whisperx``.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import hashlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_speech.audio import load_audio
from mlx_speech.hub import locate

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
KEPT = ROOT / "out/whisperx"
WORDS = ("pyannote_sample/*.wav", "kokoro_dialog/*.flac", "sim_librispeech/*.flac")
TURNS = ("ami/*.wav",)
VERSIONS = ("whisperx", "faster-whisper", "ctranslate2", "pyannote.audio", "torch", "transformers")
ALIGNER = "whisper-ctc-tiny.en"


def turns(audio: Path) -> list[list[Any]]:
    """``[start, end, speaker]``."""
    found = diarizer()(load_audio(audio))
    return list(found[["start", "end", "speaker"]].to_numpy().tolist())


def text(audio: Path) -> list[dict[str, Any]]:
    """Segments as its recogniser writes them."""
    return list(recogniser().transcribe(load_audio(audio), batch_size=8)["segments"])


def words(audio: Path) -> list[list[Any]]:
    """``[text, start, end, speaker]``, ``None`` where it has none."""
    import pandas as pd
    import whisperx

    alignment, model, meta = aligner()
    segments = alignment.align(kept(audio, text), model, meta, load_audio(audio), "cpu")["segments"]
    frame = pd.DataFrame(kept(audio, turns), columns=["start", "end", "speaker"])
    found = whisperx.assign_word_speakers(frame, {"segments": segments})
    spoken = [w for s in found["segments"] for w in s["words"]]
    return [[w["word"], w.get("start"), w.get("end"), w.get("speaker")] for w in spoken]


@cache
def recogniser() -> Any:
    """WhisperX's VAD and faster-whisper."""
    from asr_contestants import ctranslate2_folder
    from whisperx import asr

    KEPT.mkdir(parents=True, exist_ok=True)
    folder = str(ctranslate2_folder(locate("whisper-tiny.en"), KEPT / "ctranslate2"))
    model = asr.WhisperModel(folder, device="cpu", compute_type="float32", cpu_threads=os.cpu_count() or 1)
    return asr.load_model("tiny.en", "cpu", model=model, vad_method="pyannote")


@cache
def aligner() -> tuple[Any, Any, dict[str, Any]]:
    """WhisperX's module, the bundled model as it wants one, and what it wants to know of it."""
    import torch
    from bench_alignment import whisperx_parts

    model = mlx_speech.load(ALIGNER)
    symbols = model.config.vocabulary
    delimiter = symbols.index(model.config.word_delimiter)
    letters = [n for n in range(len(symbols)) if n not in (delimiter, model.config.blank)]

    def hear(samples: torch.Tensor) -> SimpleNamespace:
        logits = model(model.normalize(mx.array(samples.numpy()))).astype(mx.float32)
        said = np.array(mx.softmax(logits, axis=-1))
        blank = said[..., model.config.blank] + said[..., delimiter]
        blank[:, 1:] += (said[:, 1:, letters] * said[:, :-1, letters]).sum(-1)
        said[..., model.config.blank] = blank
        return SimpleNamespace(logits=torch.from_numpy(np.log(said + 1e-9)))

    columns = {t.lower(): n for n, t in enumerate(symbols)}
    return whisperx_parts()[0], hear, {"language": "en", "dictionary": columns, "type": "huggingface"}


@cache
def diarizer() -> Any:
    """WhisperX's diarization around pyannote.audio's pipeline with the weights that are bundled here."""
    from diarize_networks import OncePerWindow, their_pipeline
    from whisperx.diarize import DiarizationPipeline

    pipeline = DiarizationPipeline.__new__(DiarizationPipeline)  # its own would ask a hub for weights
    pipeline.model = their_pipeline("community-1", OncePerWindow)
    return pipeline


def kept(audio: Path, compute: Callable[[Path], Any]) -> Any:
    """What a function above makes of a recording, from disk where it made it before with the same packages."""
    digest = hashlib.sha256(audio.read_bytes())
    digest.update(repr([importlib.metadata.version(name) for name in VERSIONS]).encode())
    if compute is words:
        for file in sorted(locate(ALIGNER).glob("*.safetensors")):
            digest.update(file.read_bytes())
    name = compute.__name__
    path = KEPT / f"{audio.parent.name}.{audio.stem}.{name}.{digest.hexdigest()[:12]}.json"
    if not path.exists():
        begun = perf_counter()
        content = json.dumps(compute(audio), default=lambda x: x.item())
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.part")
        beside.write_text(content, encoding="utf-8")
        beside.replace(path)
        print(f"{path.name}: {perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def main(wanted: list[str]) -> None:
    """Fill the folder."""
    warnings.filterwarnings("ignore")
    for patterns, what in ((WORDS, words), (TURNS, turns)):
        for audio in (p for pattern in patterns for p in sorted((DATA / "audio").glob(pattern))):
            if all(part in f"{audio.parent.name}/{audio.stem}" for part in wanted):
                kept(audio, what)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The bundled aligner, Whisper's encoder with a CTC head, against transformers' encoder in float32.

Its weights are written out under their original names, so that both sides read the same file; real recordings of
several lengths, alone and in batches.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from fixtures_wav2vec2 import RATE, speech
from harness import Row, close, same
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_speech.converters._certificate import run_stages
from mlx_speech.converters._originals import run_original
from mlx_speech.converters.whisper_ctc import HUGGING_FACE
from mlx_speech.loading import load, open_checkpoint
from mlx_speech.weights import compile_pattern, conv

NAME = "whisper-ctc-tiny.en"
CLIPS = ("jfk.flac", "wordtimes_emur/*.wav", "ljspeech/*", "librispeech_test_other/*.flac")
SECONDS = (0.02, 1.0, 3.35, 10.0, 20.0)


def write_original(model: Any, folder: Path) -> Path:
    """Save a model under transformers' names: the key map, read backwards."""
    tensors = {}
    for name, value in tree_flatten(model.parameters()):
        matches = ((r, compile_pattern(r.target_patterns[0]).fullmatch(name)) for r in HUGGING_FACE.rules)
        rule, match = next((r, m) for r, m in matches if m)
        key = re.sub(r"\{(\w+)\}", lambda hole, m=match: m[hole[1]], rule.source_patterns[0])
        array = np.array(value.astype(mx.float32))
        tensors[key] = np.ascontiguousarray(array.swapaxes(1, 2) if rule.op is conv else array)
    save_file(tensors, folder / "model.safetensors")
    c = model.config
    sizes = {
        "d_model": c.n_audio_state,
        "encoder_layers": c.n_audio_layer,
        "encoder_attention_heads": c.n_audio_head,
        "encoder_ffn_dim": 4 * c.n_audio_state,
        "num_mel_bins": c.n_mels,
        "max_source_positions": c.n_audio_ctx,
    }
    files = {"config.json": sizes, "vocab.json": {t: n for n, t in enumerate(c.vocabulary)}}
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder


def run(name: str = NAME) -> list[Row]:
    """Rows for each length, recording and batch."""
    with tempfile.TemporaryDirectory() as work:
        folder = write_original(load(name, dtype="float32"), Path(work))
        return list(_rows(name, folder))


def _rows(name: str, folder: Path) -> Iterator[Row]:
    opened = open_checkpoint(folder)
    ours = load(f"path:{folder}", dtype="float32")
    recording = speech("ami/*.wav")
    inputs = {f"{s:g} s": recording[None, : round(s * RATE)] for s in SECONDS}
    inputs |= {clip: speech(clip)[None, : 20 * RATE] for clip in CLIPS}
    inputs["batch of 3"] = recording[: 30 * RATE].reshape(3, -1)
    for what, audio in inputs.items():
        audio = audio[:, : audio.shape[1] // 320 * 320]
        _, theirs = run_original(opened, {"audio": audio})
        found = run_stages("whisper-ctc", ours, {"audio": audio})
        for stage, value in found.items():
            limit = "whisper.log_mel" if stage == "spectrogram" else "whisper_ctc"
            yield close(
                f"{name} {what}: {stage}", value, theirs[stage], limit, f"{audio.shape[1] / RATE:g} s"
            )
        best = (x["logits"].argmax(-1).tolist() for x in (found, theirs))
        yield same(f"{name} {what}: best tokens", *best)
    alone = np.concatenate([np.array(ours(mx.array(row[None]))) for row in inputs["batch of 3"]])
    yield close(f"{name} batch of 3: against each alone", found["logits"], alone, "whisper_ctc")


if __name__ == "__main__":
    import sys

    from harness import table

    print(table(run(*sys.argv[1:2])))

"""PyanNet against pyannote.audio's class on real weights and all test recordings.

python parity/parity_pyannet.py [SECONDS]   # the step between the 10 s windows looked at; 10 by default

The multilabel checkpoint that WhisperX ships (``whisperx/assets/pytorch_model.bin`` of the package whisperx
3.8.6) is compared where that is installed or ``MLX_SPEECH_PYANNET_MULTILABEL`` names the file. The original's
own float32 error is told beside: both are compared with the original in float64.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import copy
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from fixtures_pyannet import ROOT, original
from harness import Row, close, max_abs, same

from mlx_speech.audio import load_audio
from mlx_speech.converters._read import open_tensors
from mlx_speech.models.pyannet import PyanNet

FILES = (
    "ami/*.wav",
    "pyannote_sample/*.wav",
    "jfk.flac",
    "kokoro_dialog/*.flac",
    "sim_librispeech/*.flac",
    "librispeech_test_other/*.flac",
    "ljspeech/*",
    "wordtimes_emur/*.wav",
)
CHECKPOINT = "weights/segmentation-3.0/pytorch_model.bin"
MULTILABEL = "MLX_SPEECH_PYANNET_MULTILABEL"


def run(step: float = 10.0) -> list[Row]:
    """Two rows for each set of recordings and checkpoint: scores, and the decision in every frame."""
    data = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
    checkpoints = {"powerset": data / CHECKPOINT}
    multilabel = _multilabel()
    if multilabel:
        checkpoints["multilabel"] = multilabel
    rows = []
    for name, path in checkpoints.items():
        mine: PyanNet = mlx_speech.load("segmentation-3.0" if name == "powerset" else f"path:{path}")
        tensors = open_tensors(path)
        theirs = original(mine.config, {k: np.array(tensors[k]) for k in tensors})
        for pattern in FILES:
            files = sorted(p for p in (data / "audio").glob(pattern) if p.suffix in (".wav", ".flac"))
            if files:
                rows += _compare(mine, theirs, files, f"pyannet {name} {pattern.split('/')[0]}", step)
    return rows


def _multilabel() -> Path | None:
    """Where the variable says, else in whisperx if that is installed."""
    if os.environ.get(MULTILABEL):
        return Path(os.environ[MULTILABEL])
    try:
        files = importlib.metadata.files("whisperx") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(f.locate()) for f in files if f.match("whisperx/assets/pytorch_model.bin")), None)


def windows(model: PyanNet, audio: np.ndarray, step: float) -> np.ndarray:
    """(B, S): windows of the model's duration, the last one filled up with zeros."""
    size, hop = model.config.window_samples, round(step * model.config.sampling_rate)
    padded = np.pad(audio, (0, size)).astype(np.float32)
    return np.stack([padded[n : n + size] for n in range(0, max(1, len(audio) - size // 2), hop)])


def _compare(mine: PyanNet, theirs: Any, files: list[Path], name: str, step: float) -> list[Row]:
    audio = np.concatenate([windows(mine, load_audio(f), step) for f in files])
    found = np.array(mine(mx.array(audio)))
    tensor = torch.from_numpy(audio)[:, None]
    with torch.inference_mode():
        wanted = np.concatenate([theirs(part).numpy() for part in tensor.split(16)])
        some = np.abs(found - wanted).max((1, 2)).argsort()[-4:].copy()  # where the two differ most
        exact = copy.deepcopy(theirs).double()(tensor[some].double()).numpy()
    own, our = max_abs(wanted[some], exact), max_abs(found[some], exact)
    note = f"{len(files)} files, {len(audio)} windows; "
    note += f"to float64, of the {len(exact)} windows that differ most: theirs {own:.0e}, ours {our:.0e}"
    metric = "pyannet.log_probabilities" if mine.config.powerset else "pyannet.probabilities"
    decisions = [x.argmax(-1) if mine.config.powerset else x > 0.5 for x in (found, wanted)]
    different = int((decisions[0] != decisions[1]).sum())
    return [
        close(f"{name}: scores", found, wanted, metric, note, least_limit=own),
        same(f"{name}: frames decided otherwise", different, 0, f"{decisions[0].size} decisions"),
    ]


if __name__ == "__main__":
    from harness import table

    print(table(run(float(sys.argv[1]) if sys.argv[1:] else 10.0)))

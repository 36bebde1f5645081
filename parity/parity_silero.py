"""Silero VAD against the original TorchScript model: probabilities and segments over whole real files.

Against the same model in float64, ours is off by up to 3e-6 and the original by 1e-6 to 8e-6: on one file it
differs from itself by 7e-6 between MKL and OpenBLAS. The limit of 1e-5 is not far above that.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from fixtures_silero import PARAMETERS, ROOT, options, segments
from harness import Row, close, same
from mlx.utils import tree_flatten
from silero_vad import load_silero_vad
from silero_vad.utils_vad import get_speech_timestamps_from_probs

from mlx_speech.audio import load_audio
from mlx_speech.converters._read import open_tensors
from mlx_speech.converters.silero import FAMILY
from mlx_speech.models.vad import SileroVAD
from mlx_speech.stages.speech import spans_from_probabilities
from mlx_speech.weights import convert, find_layout, plan

RATE = 16000
FILES = (
    "ami/*.wav",
    "pyannote_sample/*.wav",
    "jfk.flac",
    "kokoro_dialog/call2.flac",
    "sim_librispeech/*.flac",
    "sim_librispeech/*.wav",
)


def ours() -> SileroVAD:
    """Our model with the bundled weights."""
    folder = ROOT / "mlx_speech/assets/silero-vad"
    tensors = open_tensors(folder)
    layout = find_layout(FAMILY.layouts, tensors)
    model: SileroVAD = FAMILY.build(FAMILY.read_config(tensors, folder, layout))
    shapes = {k: v.shape for k, v in tree_flatten(model.parameters())}
    model.load_weights(list(convert(plan(layout.rules, tensors), tensors, shapes).items()))
    return model


def run() -> list[Row]:
    """Two rows a file, probabilities and segments under all parameter sets, and one for random input."""
    data = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"
    files = [f for pattern in FILES for f in sorted(data.glob(pattern))]
    if not files:
        raise FileNotFoundError(f"no recordings in {data}; set MLX_SPEECH_DATA")
    mine, theirs = ours(), load_silero_vad()
    rows = [_random_probabilities()]
    for file in files:
        rows.extend(_compare(mine, theirs, load_audio(file), f"{file.parent.name}/{file.name}"))
    return rows


def _compare(mine: SileroVAD, theirs: torch.nn.Module, audio: np.ndarray, name: str) -> list[Row]:
    tensor = torch.from_numpy(audio)
    probabilities = np.array(mine(mx.array(audio)))
    expected = theirs.audio_forward(tensor, RATE)[0].numpy()
    note = f"{len(audio) / RATE:.0f} s, {len(expected)} chunks"
    rows = [close(f"silero {name}: probabilities", probabilities, expected, "vad.probabilities", note)]
    found, wanted = {}, {}
    for key, parameters in PARAMETERS.items():
        spans = spans_from_probabilities(probabilities, len(audio), options(parameters))
        found[key] = [[round(s.start * RATE), round(s.end * RATE)] for s in spans]
        wanted[key] = segments(theirs, tensor, parameters)
    note = ", ".join(f"{key} {len(found[key])}" for key in PARAMETERS)
    return [*rows, same(f"silero {name}: segments to the sample", found, wanted, note)]


def _random_probabilities(cases: int = 2000) -> Row:
    """The segmenter alone, on random walks under random parameters, both ways of cutting among them."""
    rng = np.random.default_rng(0)
    different = []
    for case in range(cases):
        steps = int(rng.integers(1, 400))
        walk = np.cumsum(rng.normal(0, rng.uniform(0.1, 1.5), steps)) + rng.normal(0, 1)
        probabilities = (1 / (1 + np.exp(-3 * np.sin(walk)))).astype(np.float32)
        samples = 512 * steps - int(rng.integers(0, 512))
        threshold = float(rng.uniform(0.2, 0.9))
        parameters: dict[str, float] = {
            "threshold": threshold,
            "min_speech_duration_ms": int(rng.integers(0, 600)),
            "max_speech_duration_s": float(rng.choice([0.7, 1.5, 3.0, np.inf])),
            "min_silence_duration_ms": int(rng.integers(0, 700)),
            "speech_pad_ms": int(rng.integers(0, 250)),
            "min_silence_at_max_speech": int(rng.integers(0, 200)),
            "use_max_poss_sil_at_max_speech": bool(rng.integers(2)),
        }
        if rng.integers(2):
            parameters["neg_threshold"] = float(rng.uniform(0, threshold))
        wanted = get_speech_timestamps_from_probs(
            probabilities.tolist(), audio_length_samples=samples, sampling_rate=RATE, **parameters
        )
        spans = spans_from_probabilities(probabilities, samples, options(parameters))
        found = [{"start": round(s.start * RATE), "end": round(s.end * RATE)} for s in spans]
        if found != wanted:
            different.append(case)
    return same(
        "silero segments from random probabilities", different, [], f"{cases} cases that differ: none"
    )


if __name__ == "__main__":
    from harness import table

    print(table(run()))

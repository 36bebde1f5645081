"""What the original Silero VAD (torch) makes: the bundled weights and the fixture of tests/test_vad.py.

python parity/fixtures_silero.py bundle    # mlx_speech/assets/silero-vad
python parity/fixtures_silero.py           # tests/fixtures/silero
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import hashlib
import shutil
import sys
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from silero_vad import get_speech_timestamps, load_silero_vad

from mlx_speech.stages.speech import SpeechOptions

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000

# the original's arguments of get_speech_timestamps
PARAMETERS: dict[str, dict[str, float]] = {
    "default": {},
    "loose": {"threshold": 0.3, "min_silence_duration_ms": 500, "speech_pad_ms": 200},
    "short": {"max_speech_duration_s": 8},
    "short_loose": {"max_speech_duration_s": 3, "min_silence_duration_ms": 500, "speech_pad_ms": 100},
    "hard_cuts": {"max_speech_duration_s": 1, "neg_threshold": 0.02, "min_speech_duration_ms": 0},
    "last_pause": {
        "max_speech_duration_s": 2,
        "min_silence_duration_ms": 300,
        "min_silence_at_max_speech": 30,
        "use_max_poss_sil_at_max_speech": False,
        "neg_threshold": 0.49,
    },
}

# the original's argument -> our option and the factor between their units
_OURS: dict[str, tuple[str, float]] = {
    "threshold": ("threshold", 1),
    "neg_threshold": ("neg_threshold", 1),
    "min_speech_duration_ms": ("min_speech_duration", 1e-3),
    "max_speech_duration_s": ("max_speech_duration", 1),
    "min_silence_duration_ms": ("min_silence_duration", 1e-3),
    "speech_pad_ms": ("speech_pad", 1e-3),
    "min_silence_at_max_speech": ("min_silence_at_max_speech", 1e-3),
    "use_max_poss_sil_at_max_speech": ("cut_at_longest_pause", 1),
}


def bundle(folder: Path = ROOT / "mlx_speech/assets/silero-vad") -> None:
    """Write the 16 kHz half of ``silero_vad.jit``, under its own names, beside the licence."""
    jit = Path(str(resources.files("silero_vad.data") / "silero_vad.jit"))
    state = load_silero_vad().state_dict()
    half = {k: mx.array(v.numpy()) for k, v in state.items() if k.startswith("_model.")}
    version = metadata.version("silero-vad")
    origin = {
        "source": f"silero-vad {version}, silero_vad/data/silero_vad.jit, 16 kHz half",
        "source_sha256": hashlib.sha256(jit.read_bytes()).hexdigest(),
        "licence": "MIT, Copyright (c) 2020-present Silero Team",
    }
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "silero_vad.safetensors"), half, origin)
    (licence,) = (f for f in metadata.files("silero-vad") or () if f.name == "LICENSE")
    shutil.copyfile(str(licence.locate()), folder / "LICENSE")


def make(folder: Path = ROOT / "tests/fixtures/silero") -> None:
    """Write ``expected.npz``: audio (float16) and what the original says about exactly these samples."""
    audio = (np.round(_speech_like(12.0) * 2048) / 2048).astype(np.float16)  # coarse steps pack well
    exact = torch.from_numpy(audio.astype(np.float32))
    model = load_silero_vad()
    found = {"audio": audio, "probabilities": model.audio_forward(exact, RATE)[0].numpy()}
    for name, parameters in PARAMETERS.items():
        found[f"segments_{name}"] = np.array(segments(model, exact, parameters), np.int64).reshape(-1, 2)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "expected.npz", **found)


def segments(model: torch.nn.Module, audio: torch.Tensor, parameters: dict[str, float]) -> list[list[int]]:
    """The original's segments in samples."""
    found = get_speech_timestamps(audio, model, sampling_rate=RATE, **parameters)
    return [[s["start"], s["end"]] for s in found]


def options(parameters: dict[str, float]) -> SpeechOptions:
    """The original's arguments as ours."""
    found: dict[str, Any] = {
        _OURS[k][0]: v if _OURS[k][1] == 1 else v * _OURS[k][1] for k, v in parameters.items()
    }
    return SpeechOptions(**found)


def _speech_like(seconds: float) -> np.ndarray:
    """Voiced bursts: harmonics of a moving pitch under moving formants, in syllables, plus noise."""
    rng = np.random.default_rng(7)
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * t) + 8 * np.sin(2 * np.pi * 5 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = (
        500 + 200 * np.sin(2 * np.pi * 2.1 * t),
        1500 + 500 * np.sin(2 * np.pi * 1.3 * t + 1),
        2600 + 0 * t,
    )
    voice = np.zeros_like(t)
    for n in range(1, 30):
        gain = sum(
            w * np.exp(-(((n * pitch - f) / 150) ** 2)) for f, w in zip(formants, (1, 0.6, 0.3), strict=True)
        )
        voice += gain * np.sin(n * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.3 * t + 0.5 * np.sin(2 * np.pi * 0.4 * t)), 0, 1) ** 0.5
    loud = (
        (0.65, 2.6),
        (3.0, 5.25),
        (6.65, 9.5),
        (10.25, 11.25),
    )  # seconds; the gaps tell the settings apart
    phrases = np.any([(a <= t) & (t < b) for a, b in loud], axis=0)
    return 0.2 * voice * syllables * phrases + 0.003 * rng.standard_normal(len(t))


if __name__ == "__main__":
    bundle() if sys.argv[1:] == ["bundle"] else make()

"""The certificate ``parity.json``: what a model makes of fixed inputs, stage by stage, beside the original.

Inputs are whole-number noise, so their bytes are the same on every machine. Of each stage a few numbers are kept
(the goldens): :func:`verify` makes them again, without torch, and compares. Where the original was run too,
each stage has the whole tensor's difference to it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import mlx_speech
from mlx_speech.errors import CheckpointError
from mlx_speech.loading import load, read_config

FILE = "parity.json"
VERSION = 1
GOLDENS = 48  # numbers kept of each stage
# relative L2 of the goldens made again: float32 on another backend, its products in TF32 on CUDA by default
LIMIT = 2e-3
_SECONDS = 2
_RATE = 16_000

Stages = dict[str, np.ndarray]


def noise(*shape: int) -> np.ndarray:
    """Numbers within [-1, 1), float32, the same to the bit everywhere: a multiplicative hash of their place."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    high = (x >> np.uint64(40)).astype(np.float32)  # 24 bits, which float32 holds exactly
    return (high / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def fixed_inputs(family: str, config: Any) -> dict[str, np.ndarray]:
    """The family's inputs: features and tokens for Whisper, two to ten seconds of noise for the others."""
    if family == "whisper":
        tokens = np.array([[3, 17, 42, 5, 60, 11]], np.int32) % config.n_vocab
        return {"mel": noise(1, 2 * config.n_audio_ctx, config.n_mels), "tokens": tokens}
    seconds = 10 if family == "pyannet" else _SECONDS
    return {"audio": noise(1, seconds * _RATE) * np.float32(0.1)}


def _whisper(model: Any, x: Mapping[str, mx.array]) -> dict[str, mx.array]:
    features = model.encode(x["mel"])
    return {"encoder": features, "logits": model.logits(model.step(x["tokens"], model.start(features)))}


def _wav2vec2(model: Any, x: Mapping[str, mx.array]) -> dict[str, mx.array]:
    return {"convolutions": model.feature_extractor(x["audio"]), "logits": model(x["audio"])}


def _whisper_ctc(model: Any, x: Mapping[str, mx.array]) -> dict[str, mx.array]:
    mel = model.features(x["audio"])
    features = model.encoder(mel)
    return {"spectrogram": mel, "encoder": features, "logits": model.lm_head(features)}


def _wespeaker(model: Any, x: Mapping[str, mx.array]) -> dict[str, mx.array]:
    features = model.fbank(x["audio"])
    frames = model.trunk(features)
    return {"fbank": features, "trunk": frames, "embedding": model.pool(frames)[:, 0]}


_STAGES: dict[str, Callable[[Any, Mapping[str, mx.array]], dict[str, mx.array]]] = {
    "whisper": _whisper,
    "wav2vec2": _wav2vec2,
    "whisper-ctc": _whisper_ctc,
    "wespeaker": _wespeaker,
    "pyannet": lambda model, x: {"scores": model(x["audio"])},
    "silero-vad": lambda model, x: {"probabilities": model(x["audio"])},
}


def run_stages(family: str, model: nn.Module, inputs: Mapping[str, np.ndarray]) -> Stages:
    """What the model makes of the inputs, each stage as float32."""
    found = _STAGES[family](model, {k: mx.array(v) for k, v in inputs.items()})
    return {k: np.array(v.astype(mx.float32)) for k, v in found.items()}


def certificate(folder: Path, original: tuple[str, Stages] | None = None) -> dict[str, Any]:
    """The certificate of a converted folder, computed in float32.

    Args:
        folder: holds ``config.json`` and the weights.
        original: what ran it (package and version) and the stages it made of :func:`fixed_inputs`.
    """
    model = load(f"path:{folder}", dtype="float32")
    family = model.origin.family
    inputs = fixed_inputs(family, model.config)
    stages = run_stages(family, model, inputs)
    return {
        "version": VERSION,
        "family": family,
        "inputs": {k: digest_of(v) for k, v in inputs.items()},
        "weights": {p.name: digest(p) for p in sorted(folder.glob("*.safetensors"))},
        "dtype": "float32",
        "made_by": _versions(),
        "original": original and original[0],
        "stages": {k: _stage(v, original and original[1].get(k)) for k, v in stages.items()},
    }


def _stage(ours: np.ndarray, theirs: np.ndarray | None) -> dict[str, Any]:
    places = _places(ours.size)
    flat = ours.ravel()
    found: dict[str, Any] = {"shape": list(ours.shape), "goldens": [float(f"{v:.7g}") for v in flat[places]]}
    if theirs is not None:
        found["against_original"] = difference(ours, theirs)
    return found


def _places(size: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, GOLDENS)).astype(np.int64))


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Largest absolute difference, relative L2 and cosine, in float64.

    Raises:
        CheckpointError: the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise CheckpointError(f"the original makes {theirs.shape}, ours {ours.shape}")
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    length = float(np.linalg.norm(b)) or 1e-30
    numbers = {
        "max_abs": float(np.max(np.abs(a - b))),
        "relative_l2": float(np.linalg.norm(a - b)) / length,
        "cosine": float(a @ b / ((float(np.linalg.norm(a)) or 1e-30) * length)),
    }
    return {k: float(f"{v:.9g}") for k, v in numbers.items()}


def verify(folder: Path) -> dict[str, float]:
    """Run a converted model on its certificate's inputs again and hold the results to its goldens.

    Returns:
        Each stage's relative L2 over the goldens.

    Raises:
        CheckpointError: no certificate, other weights than it was written for, or other results.
    """
    where = folder / FILE
    told = read_config(folder, FILE)
    if told.get("version") != VERSION or not isinstance(told.get("stages"), dict):
        raise CheckpointError(f"{where}: no certificate of version {VERSION} is there; convert again")
    weights = {p.name: digest(p) for p in sorted(folder.glob("*.safetensors"))}
    known = told.get("weights")
    if not isinstance(known, dict):
        raise CheckpointError(f"{where}: does not say what weights it was written for; convert again")
    if weights != known:
        wrong = sorted(k for k in {*weights, *known} if weights.get(k) != known.get(k))
        raise CheckpointError(f"{where}: written for other weights than {', '.join(wrong)} (sha256 differs)")
    model = load(f"path:{folder}", dtype="float32")
    inputs = fixed_inputs(model.origin.family, model.config)
    if {k: digest_of(v) for k, v in inputs.items()} != told.get("inputs"):
        raise CheckpointError(f"{where}: made from other inputs than this release's; convert again")
    found = run_stages(model.origin.family, model, inputs)
    if set(found) != set(told["stages"]):
        raise CheckpointError(f"{where}: tells of stages {', '.join(told['stages'])}, not {', '.join(found)}")
    errors = {k: _error(v, told["stages"][k], f"{where}: {k}") for k, v in found.items()}
    wrong = [f"{k} by {e:.1e}" for k, e in errors.items() if not e <= LIMIT]
    if wrong:
        raise CheckpointError(
            f"{where}: this model makes other numbers than its certificate says: {', '.join(wrong)} "
            f"(relative L2, at most {LIMIT:.0e})"
        )
    return errors


def _error(ours: np.ndarray, told: Mapping[str, Any], where: str) -> float:
    if list(ours.shape) != told.get("shape"):
        raise CheckpointError(f"{where} has shape {ours.shape}, not {told.get('shape')}")
    try:
        goldens = np.array(told.get("goldens"), np.float64)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where} has goldens that are no numbers ({error})") from error
    places = _places(ours.size)
    if goldens.shape != places.shape:
        raise CheckpointError(f"{where} has {goldens.size} goldens, not {places.size}")
    found = ours.ravel()[places].astype(np.float64)
    return float(np.linalg.norm(found - goldens) / (float(np.linalg.norm(goldens)) or 1e-30))


def _versions() -> dict[str, str]:
    return {
        "mlx_speech": mlx_speech.__version__,
        **{p: importlib.metadata.version(p) for p in ("mlx", "numpy")},
        "device": str(mx.default_device().type).rpartition(".")[2],
    }


def digest_of(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def write(folder: Path, told: Mapping[str, Any]) -> None:
    """Write the certificate beside the weights."""
    (folder / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

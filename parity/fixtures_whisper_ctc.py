"""A tiny seeded encoder of Whisper's with a CTC head, in its layout, with transformers' scores.

python parity/fixtures_whisper_ctc.py      # tests/fixtures/whisper_ctc
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import json
import shutil
from pathlib import Path

import numpy as np
from fixtures_wav2vec2 import TOKENS, seeded
from safetensors.numpy import save_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mlx_speech.converters._originals import run_original
from mlx_speech.loading import open_checkpoint

FIXTURE = Path(__file__).resolve().parents[1] / "tests/fixtures/whisper_ctc"
LENGTHS = (320, 3200, 9600)  # samples: one frame; some
_CONFIG = WhisperConfig(
    d_model=24,
    encoder_layers=2,
    encoder_attention_heads=4,
    encoder_ffn_dim=96,
    max_source_positions=100,
)


def make(folder: Path = FIXTURE) -> None:
    """Write the checkpoint's files and ``expected.npz``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    encoder = seeded(WhisperEncoder, _CONFIG, 5)
    rng = np.random.default_rng(5)
    head = rng.normal(0, 0.5, (len(TOKENS), 24)), rng.normal(0, 0.1, len(TOKENS))
    weights = {f"encoder.{k}": v.numpy() for k, v in encoder.state_dict().items()}
    weights |= dict(zip(("lm_head.weight", "lm_head.bias"), head, strict=True))
    save_file({k: v.astype(np.float16) for k, v in weights.items()}, folder / "model.safetensors")
    kept = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
    config = {k: getattr(_CONFIG, k) for k in (*kept, "max_source_positions", "activation_function")}
    config |= {"model_type": "whisper", "architectures": ["WhisperForCTC"], "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    ids = {t: n for n, t in enumerate(TOKENS)}
    (folder / "vocab.json").write_text(json.dumps(ids, indent=0) + "\n", encoding="utf-8")
    swell = 0.05 + 0.3 * np.abs(np.sin(np.arange(max(LENGTHS)) / 900))
    audio = (np.round(rng.normal(0, 1, max(LENGTHS)) * swell * 1024) / 1024).astype(np.float16)
    expected = {"audio": audio}
    opened = open_checkpoint(folder)
    for length in LENGTHS:
        _, stages = run_original(opened, {"audio": audio[None, :length].astype(np.float32)})
        expected |= {f"{name}_{length}": x[0] for name, x in stages.items() if name != "spectrogram"}
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    make()

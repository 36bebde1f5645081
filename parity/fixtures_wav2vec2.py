"""Tiny seeded checkpoints as transformers writes them, with the original's scores.

python parity/fixtures_wav2vec2.py           # tests/fixtures/wav2vec2
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from mlx_speech.audio import load_audio

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
MINI = DATA / "weights/wav2vec2-mini-en"
FIXTURES = ROOT / "tests/fixtures/wav2vec2"
RATE = 16000
TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"etaonihsrdlumwcfgypbvk'xjqz")
LENGTHS = (400, 719, 720, 3333, 12000)  # samples: one frame; one sample short of two; two; some
BATCH = (12000, 5000, 719)  # samples of the items of a padded batch

_TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "conv_dim": [12] * 7,
    "num_conv_pos_embeddings": 20,
    "num_conv_pos_embedding_groups": 4,
}
_LAYER: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}


@dataclass(frozen=True)
class Kind:
    """One kind of checkpoint: which original, how it differs from base, and the files beside the weights."""

    hubert: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    do_normalize: bool = True
    languages: tuple[str, ...] = ()
    processor: bool = False  # one processor_config.json instead of preprocessor_config.json

    def config(self, **sizes: Any) -> Any:
        """The original's configuration with these sizes."""
        kind = HubertConfig if self.hubert else Wav2Vec2Config
        return kind(vocab_size=len(TOKENS), pad_token_id=0, **(sizes | self.changes))

    def model(self, seed: int, **sizes: Any) -> Any:
        """The original with seeded weights."""
        return seeded(HubertForCTC if self.hubert else Wav2Vec2ForCTC, self.config(**sizes), seed)


KINDS = {
    "base": Kind(),
    "stable": Kind(changes=_LAYER, processor=True),
    "mms": Kind(changes={**_LAYER, "adapter_attn_dim": 6}, languages=("abc", "eng")),
    "hubert": Kind(hubert=True, changes={"num_conv_pos_embeddings": 19}, do_normalize=False),
    "mixed": Kind(changes={"feat_extract_norm": "layer", "conv_bias": False}, do_normalize=False),
}


def seeded(kind: Any, config: Any, seed: int) -> Any:
    """A model whose every parameter matters: transformers' own initialisation makes many of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif name.endswith(("original0", "weight_g")):
                p.copy_(2 * (1 + 0.2 * noise) / np.sqrt(p.numel()))
            else:
                p.copy_(noise * (2 / max(1, p[0].numel())) ** 0.5)
    return model


def scores(model: Any, audio: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The original's logits for (B, S) samples."""
    with torch.no_grad():
        masked = None if mask is None else torch.from_numpy(mask)
        return model(torch.from_numpy(audio), attention_mask=masked).logits.numpy()


def extractor(do_normalize: bool, mask: bool) -> Wav2Vec2FeatureExtractor:
    """The original's feature extractor."""
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=RATE,
        padding_value=0.0,
        do_normalize=do_normalize,
        return_attention_mask=mask,
    )


def make(folder: Path = FIXTURES) -> None:
    """Write one folder a kind, each with ``expected.npz``."""
    rng = np.random.default_rng(3)
    swell = 0.05 + 0.3 * np.abs(np.sin(np.arange(max(LENGTHS)) / 900))
    audio = (np.round((rng.normal(0, 1, max(LENGTHS)) * swell + 0.02) * 1024) / 1024).astype(np.float16)
    for seed, (name, kind) in enumerate(KINDS.items()):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        _make_kind(folder / name, kind, seed, audio)


def _make_kind(folder: Path, kind: Kind, seed: int, audio: np.ndarray) -> None:
    model = kind.model(seed, **_TINY)
    model.save_pretrained(folder)
    masked = kind.changes.get("feat_extract_norm") == "layer"
    extract = extractor(kind.do_normalize, masked)
    if kind.processor:
        Wav2Vec2Processor(extract, tokenizer(kind)).save_pretrained(folder)
    else:
        extract.save_pretrained(folder)
        tokenizer(kind).save_pretrained(folder)
    exact = audio.astype(np.float32)
    expected = {"audio": audio}
    for length in LENGTHS:
        heard = extract(exact[:length], sampling_rate=RATE, return_tensors="np").input_values
        expected[f"heard_{length}"] = heard.astype(np.float32)[0, :64]
        expected[f"logits_{length}"] = scores(model, heard.astype(np.float32))[0]
    if masked:
        batch = extract(
            [exact[:n] for n in BATCH], sampling_rate=RATE, padding=True, return_tensors="np"
        )  # as the original pads, normalises and masks
        expected["logits_batch"] = scores(model, batch.input_values, batch.attention_mask)
    else:
        halves = np.stack([exact[:6000], exact[6000:]])
        heard = extract(list(halves), sampling_rate=RATE, return_tensors="np").input_values
        expected["logits_batch"] = scores(model, heard)
    np.savez_compressed(folder / "expected.npz", **expected)


def tokenizer(kind: Kind) -> Wav2Vec2CTCTokenizer:
    """The original's tokenizer, ready to be saved."""
    ids: dict[str, Any] = {t: n for n, t in enumerate(TOKENS)}
    if kind.languages:
        ids = {lang: ids if lang == "eng" else {"<pad>": 0, "<unk>": 1, "ɓ": 2} for lang in kind.languages}
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "vocab.json"
        file.write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(file), target_lang="eng" if kind.languages else None)


def speech(pattern: str, seconds: float | None = None) -> np.ndarray:
    """A recording of the test data, (S,) float32."""
    (file,) = sorted((DATA / "audio").glob(pattern))[:1]
    audio = load_audio(file)
    return audio if seconds is None else audio[: round(seconds * RATE)]


if __name__ == "__main__":
    make()

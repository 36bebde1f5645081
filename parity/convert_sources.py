"""Checkpoints for parity_convert.py: seeded ones, by the originals, of layouts that have no real weights in reach.

Small in width, whole in shape: a distilled Whisper (fewer decoder layers), large-v3-turbo's (128 bands, 51866
tokens), Whisper in shards and as a pickle, MLX's port of it in three forms, CTranslate2's with a vocabulary,
pyannote's four kinds of LSTM, pyannote's and WeSpeaker's ResNet34 at full size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"


def seeded(folder: Path) -> Iterator[tuple[str, Path]]:
    """(what it is, where it is); each written when asked for."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        distil = hugging_face(folder / "distil", mels=80, vocabulary=51865, layers=(4, 2))
        yield "seeded, distil's shape", distil
        yield (
            "seeded, turbo's shape",
            hugging_face(folder / "turbo", mels=128, vocabulary=51866, layers=(6, 4)),
        )
        yield "seeded, in shards", in_shards(distil, folder / "shards")
        yield "seeded, pytorch_model.bin", as_pickle(distil, folder / "pickle")
        for kind in ("npz", "safetensors", "4 bits"):
            yield f"seeded, {kind}", mlx_port(folder / f"mlx-{kind[:3].strip()}", kind)
        for kind in ("", "-int16", "-int8_float16"):
            yield f"seeded{kind.replace('-', ', ')}", with_vocabulary(folder, f"ctranslate2{kind}")
        for both in (True, False):
            for whole in (True, False):
                name = f"lstm-{both}-{whole}"
                yield "seeded", pyannet(folder / name, bidirectional=both, monolithic=whole)
        yield "seeded ResNet34", pyannote_resnet(folder / "resnet")
        yield "seeded ResNet34", wespeaker_export(folder / "export")
        for scope in ("", "resnet"):
            yield "seeded", scoped_export(folder / f"scope-{scope}", scope)
        for name in ("base", "hubert"):
            yield f"seeded {name}", older_names(folder, name)


def hugging_face(folder: Path, mels: int, vocabulary: int, layers: tuple[int, int]) -> Path:
    """A seeded Whisper of transformers, 64 wide, float16."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(len(layers) + mels)
    config = WhisperConfig(
        vocab_size=vocabulary, d_model=64, num_mel_bins=mels, encoder_layers=layers[0], decoder_layers=layers[1],
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=256, decoder_ffn_dim=256,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0, suppress_tokens=None,
        begin_suppress_tokens=None, init_std=0.1,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).half().save_pretrained(folder)
    return folder


def in_shards(source: Path, folder: Path) -> Path:
    """The same checkpoint in several files and their index, by transformers."""
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(source)
    model.save_pretrained(folder, max_shard_size="2MB")
    assert len([*folder.glob("model-*.safetensors")]) > 1
    return folder


def as_pickle(source: Path, folder: Path) -> Path:
    """The same checkpoint as torch.save writes it."""
    import torch
    from transformers import WhisperForConditionalGeneration

    folder.mkdir()
    model = WhisperForConditionalGeneration.from_pretrained(source)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    for file in source.glob("*.json"):
        shutil.copyfile(file, folder / file.name)
    return folder


def mlx_port(folder: Path, kind: str) -> Path:
    """A seeded model of ml-explore's port, as its converter saves it."""
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_whisper.whisper import ModelDimensions, Whisper

    mx.random.seed(5)
    dims = ModelDimensions(80, 1500, 64, 2, 2, 51865, 448, 64, 2, 2)
    model = Whisper(dims, mx.float32)
    config: dict[str, object] = dict(dataclasses.asdict(dims))
    if kind == "4 bits":
        nn.quantize(model, 64, 4)
        config["quantization"] = {"group_size": 64, "bits": 4}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "whisper"}))
    tensors = dict(tree_flatten(model.parameters()))
    tensors.pop("encoder._positional_embedding", None)
    if kind == "npz":
        np.savez(folder / "weights.npz", **{k: np.array(v) for k, v in tensors.items()})
    else:
        mx.save_safetensors(str(folder / "weights.safetensors"), tensors)
    return folder


def with_vocabulary(folder: Path, name: str) -> Path:
    """CTranslate2's fixture beside a vocabulary, without which it does not run."""
    shutil.copytree(FIXTURES / "whisper" / name, folder / name)
    special = [
        "<|startoftranscript|>",
        "<|endoftext|>",
        "<|notimestamps|>",
        "<|startofprev|>",
        "<|nospeech|>",
    ]
    words = [*(f"w{n}" for n in range(100 - len(special))), *special]
    (folder / name / "vocabulary.json").write_text(json.dumps(words))
    return folder / name


def pyannote_resnet(folder: Path) -> Path:
    """pyannote.audio's WeSpeakerResNet34, seeded, as Lightning saves it."""
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34

    torch.manual_seed(11)
    model = WeSpeakerResNet34()
    for key, value in model.resnet.state_dict().items():  # as if trained
        if key.endswith("running_mean"):
            value.copy_(0.1 * torch.randn_like(value))
        elif key.endswith("running_var"):
            value.copy_(0.5 + torch.rand_like(value))
    model.specifications = Specifications(Problem.REPRESENTATION, Resolution.CHUNK, duration=10.0)
    return saved_by_pyannote(model, folder)


def pyannet(folder: Path, *, bidirectional: bool, monolithic: bool) -> Path:
    """pyannote.audio's PyanNet with one of its kinds of LSTM, seeded, as Lightning saves it."""
    import torch
    from fixtures_pyannet import build

    torch.manual_seed(13)
    lstm = {"hidden_size": 16, "num_layers": 2, "bidirectional": bidirectional, "monolithic": monolithic}
    return saved_by_pyannote(build({"lstm": lstm}, 3, 2, 10.0), folder)


def saved_by_pyannote(model: Any, folder: Path) -> Path:
    """A pyannote.audio model as Lightning saves it."""
    import torch

    folder.mkdir()
    kind = {"module": type(model).__module__, "class": type(model).__name__}
    about = {"versions": {"torch": "2.8.0", "pyannote.audio": "4.0.7"}, "architecture": kind}
    told = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.0",
        "pyannote.audio": {**about, "specifications": model.specifications},
    }
    torch.save(told, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def wespeaker_export(folder: Path) -> Path:
    """WeSpeaker's ResNet34 at full size, seeded, exported as the project exports its own."""
    import torch
    from fixtures_wespeaker_onnx import export, seeded

    torch.manual_seed(12)
    folder.mkdir()
    export(seeded((3, 4, 6, 3), False, False, width=32, size=256), folder / "resnet34.onnx")
    return folder / "resnet34.onnx"


def scoped_export(folder: Path, scope: str) -> Path:
    """A small ResNet exported bare, or as the ``resnet`` of a module, as pyannote.audio has it."""
    import torch
    from fixtures_wespeaker_onnx import export, seeded

    torch.manual_seed(14)
    network = seeded((1, 2, 1, 1), False, False).model

    class Scoped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resnet = network

        def forward(self, feats: torch.Tensor) -> torch.Tensor:
            return self.resnet(feats)[-1]

    class Bare(type(network)):
        def forward(self, feats: torch.Tensor) -> torch.Tensor:
            return super().forward(feats)[-1]

    if not scope:
        network.__class__ = Bare
    folder.mkdir()
    export(Scoped() if scope else network, folder / "model.onnx")
    return folder / "model.onnx"


def older_names(folder: Path, name: str) -> Path:
    """A CTC fixture with the positional convolution's weight norm under PyTorch's older names."""
    target = folder / f"older-{name}"
    shutil.copytree(FIXTURES / "wav2vec2" / name, target)
    tensors = mx.load(str(target / "model.safetensors"))
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for key, value in tensors.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = value
    mx.save_safetensors(str(target / "model.safetensors"), renamed, {"format": "pt"})
    return target

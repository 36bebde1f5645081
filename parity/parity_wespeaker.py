"""Kaldi's filter bank against torchaudio, and WeSpeaker against pyannote.audio's class, on the bundled weights.

The bundled weights are dequantised into the original, so that both compute with the same numbers; they are not
the full-precision checkpoint.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
import torchaudio.compliance.kaldi as kaldi
from fixtures_wespeaker import ROOT
from harness import Row, close, max_abs
from pyannote.audio.models.embedding import WeSpeakerResNet34

from mlx_speech.audio import load_audio
from mlx_speech.converters._read import open_tensors
from mlx_speech.converters.wespeaker import dequantise
from mlx_speech.features import kaldi_fbank
from mlx_speech.models.wespeaker import WeSpeaker

NAME = "wespeaker-resnet34-LM"
WINDOW = 160_000
FILES = (
    "ami/*.wav",
    "pyannote_sample/*.wav",
    "jfk.flac",
    "kokoro_dialog/*.flac",
    "sim_librispeech/*.flac",
)
FBANK = {"num_mel_bins": 80, "dither": 0.0, "window_type": "hamming", "use_energy": False}


def original(folder: Path = ROOT / "mlx_speech/assets" / NAME) -> torch.nn.Module:
    """pyannote's class with the bundled weights; its batch norms only add the bias."""
    tensors = open_tensors(folder)
    model = WeSpeakerResNet34()
    state = model.state_dict()
    for key in state:
        if key.endswith("running_var"):
            state[key] = torch.full_like(state[key], 1 - 1e-5)
    for key in tensors:
        if key.endswith(".weight"):
            state[key] = torch.from_numpy(np.array(tensors[key]))
        elif key.endswith("_int8"):
            name = key.removesuffix("_int8")
            parts = (tensors[f"{name}_{k}"] for k in ("int8", "scale", "offset"))
            state[name] = torch.from_numpy(np.array(dequantise(*parts)))
        elif key.endswith(".bias"):
            norm = key.replace("conv", "bn").replace("shortcut.0", "shortcut.1")
            state[norm] = torch.from_numpy(np.array(tensors[key]))
    model.load_state_dict(state)
    return model.eval()


def run() -> list[Row]:
    """Rows for the features, and for embeddings without masks, with soft, hard and empty ones."""
    data = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"
    mine: WeSpeaker = mlx_speech.load(NAME)
    theirs = original()
    rows = []
    every = []
    for pattern in FILES:
        audio = [load_audio(f)[:WINDOW] for f in sorted(data.glob(pattern))]
        rows.extend(_fbank([a for a in audio if len(a)], f"fbank {pattern.split('/')[0]}"))
        every += [a for a in audio if len(a) == WINDOW]
    return rows + _embeddings(mine, theirs, np.stack(every[::2]).astype(np.float32))


def _fbank(clips: list[np.ndarray], name: str) -> list[Row]:
    """Against torchaudio in float64, and in float32 with what its own rounding allows."""
    found = np.concatenate([np.array(kaldi_fbank(mx.array(c))) for c in clips])
    single, double = (
        np.concatenate([kaldi.fbank(torch.from_numpy(c)[None].to(t) * 32768, **FBANK).numpy() for c in clips])
        for t in (torch.float32, torch.float64)
    )
    off = {side: np.abs(x - double).max(0) for side, x in (("theirs", single), ("ours", found))}
    nearer = int((off["ours"] <= off["theirs"]).sum())
    note = (
        f"{len(clips)} clips; its own float32 is {off['theirs'].max():.0e} off; ours nearer in {nearer} of "
        f"{len(off['ours'])} bands"
    )
    between = max_abs(found, single)
    limit = max(1e-4, 1.01 * float(off["theirs"].max()))
    over, its = (float(np.mean(np.abs(x - single) > 1e-4)) for x in (found, double))
    share = f"more than 1e-4 from it: {over:.0e} of our numbers, {its:.0e} of its float64's"
    return [
        close(f"{name}, against torchaudio in float64", found, double, "fbank", note),
        Row(
            f"{name}, against torchaudio in float32",
            "max abs",
            f"{between:.2e}",
            f"{limit:.2e}",
            between <= limit,
            share,
        ),
    ]


def _embeddings(mine: WeSpeaker, theirs: torch.nn.Module, audio: np.ndarray) -> list[Row]:
    rng = np.random.default_rng(0)
    count = len(audio)
    soft = rng.random((count, 3, 589)).astype(np.float32)
    hard = (rng.random((count, 3, 589)) > np.array([0.1, 0.5, 0.95])[None, :, None]).astype(np.float32)
    masks = {
        "random soft masks": soft,
        "random hard masks": hard,
        "masks of 125 frames": soft[..., :125],
        "masks of 77 frames": hard[..., :77],
        "empty masks": np.zeros((count, 1, 589), np.float32),
    }
    features = mine.fbank(mx.array(audio))
    frames = mine.trunk(features)
    tensor = torch.from_numpy(audio)[:, None]
    note = f"{count} windows of 10 s"
    with torch.inference_mode():
        theirs_features = theirs.compute_fbank(tensor)
        theirs_frames = torch.cat([theirs.resnet.forward_frames(f[None].clone()) for f in theirs_features])
        plain = theirs.forward_embedding(theirs_frames).numpy()
        found = np.array(mine.pool(frames))[:, 0]
        rows = [
            close("wespeaker: trunk", frames, theirs_frames.flatten(1, 2).swapaxes(1, 2), "wespeaker", note),
            close("wespeaker: no masks", found, plain, "wespeaker", note),
        ]
        for name, mask in masks.items():
            wanted = theirs.forward_embedding(theirs_frames, torch.from_numpy(mask)).numpy()
            found = np.array(mine.pool(frames, mx.array(mask)))
            rows.append(close(f"wespeaker: {name}", found, wanted, "wespeaker", note))
    return rows


if __name__ == "__main__":
    from harness import table

    print(table(run()))

"""Where a batch's time goes in PyanNet and WeSpeaker on a GPU, part by part, ours beside PyTorch's.

python parity/bench_gpu_parts.py ours
python parity/bench_gpu_parts.py theirs --weights FOLDER

Each part is computed alone, from the output of the one before it, evaluated; ``whole`` is the network in one go,
so that it can be less than the sum. A line of JSON a part: milliseconds, the median of seven runs after three that
do not count. ``MLX_ENABLE_TF32=0`` has both sides compute products in float32. ``--weights`` is as in bench_gpu.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_gpu import SIDE, WINDOW, _their_embedding, _torch, _wait, median, tell

PYANNET_BATCH, WESPEAKER_BATCH = 128, 32
Part = tuple[str, Callable[[Any], Any]]


def audio(batch: int) -> np.ndarray:
    """(batch, 160000) float32 noise."""
    return np.random.default_rng(0).normal(0, 0.1, (batch, WINDOW)).astype(np.float32)


def measure(network: str, x: Any, parts: list[Part], whole: Callable[[Any], Any], finish: Any) -> None:
    """Each part on what the one before it made."""
    first = x
    for name, part in parts:
        tell("parts", f"{network}: {name}", median(partial(part, x), finish), tf32=SIDE)
        x = part(x)
        finish(x)
    tell("parts", f"{network}: whole", median(partial(whole, first), finish), tf32=SIDE)


def ours() -> None:
    import mlx_speech  # isort: skip  (first: it loads the BLAS)

    import mlx.core as mx

    from mlx_speech.layers.pooling import pool_statistics

    segment, embed = mlx_speech.load("segmentation-3.0"), mlx_speech.load("wespeaker-resnet34-LM")
    x = mx.array(audio(PYANNET_BATCH))
    parts: list[Part] = [("SincNet", segment.sincnet), ("LSTM, all layers", segment.lstm)]
    measure("PyanNet", x, parts, segment, mx.eval)
    x = mx.array(audio(WESPEAKER_BATCH))
    masks = mx.ones((WESPEAKER_BATCH, 3, 589))

    def through(blocks: Any, x: Any) -> Any:
        for block in blocks:
            x = block(x)
        return x

    parts = [
        ("filter bank", embed.fbank),
        ("first convolution", lambda x: embed.conv1.rectified(x.swapaxes(1, 2)[..., None])),
        *((f"stage {n + 1}", partial(through, stage)) for n, stage in enumerate(embed.stages)),
        ("pooling", lambda x: pool_statistics(x.transpose(0, 2, 3, 1).flatten(2), masks)),
    ]
    measure("WeSpeaker", x, parts, lambda x: embed.embed(x, masks), mx.eval)


def theirs(args: argparse.Namespace) -> None:
    torch = _torch()
    from pyannote.audio import Model

    segment = Model.from_pretrained(args.weights / "pytorch_model.bin").cuda().eval()
    embed = _their_embedding(args).cuda()
    net = embed.resnet
    x = torch.from_numpy(audio(PYANNET_BATCH))[:, None].cuda()
    parts: list[Part] = [
        ("SincNet", segment.sincnet),
        ("LSTM, all layers", lambda x: segment.lstm(x.transpose(1, 2))[0]),
    ]
    measure("PyanNet", x, parts, segment, _wait)
    x = torch.from_numpy(audio(WESPEAKER_BATCH))[:, None].cuda()
    masks = torch.ones(WESPEAKER_BATCH, 3, 589, device="cuda")
    parts = [
        ("filter bank", embed.compute_fbank),
        ("first convolution", lambda x: net.bn1(net.conv1(x.transpose(1, 2)[:, None])).relu()),
        *_their_stages(net),
        ("pooling", lambda x: net.pool(x, weights=masks)),
    ]
    measure("WeSpeaker", x, parts, lambda x: embed(x, weights=masks), _wait)


def _their_stages(net: Any) -> Iterator[Part]:
    for n in range(1, 5):
        yield f"stage {n}", getattr(net, f"layer{n}")


def main() -> None:
    """Measure one side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=("ours", "theirs"))
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    theirs(args) if args.who == "theirs" else ours()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()

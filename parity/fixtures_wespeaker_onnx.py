"""WeSpeaker's ONNX exports in miniature: the fixtures ``*.onnx`` of tests/test_wespeaker.py.

python parity/fixtures_wespeaker_onnx.py           # tests/fixtures/wespeaker

Seeded networks, exported as WeSpeaker's own ``bin/export_onnx.py`` does: a mean embedding is taken off at the end,
constants are folded, opset 14. ``by-order.onnx`` is written as torch did before its release 1.13, which gave nodes
no place in their names. ``onnx.npz`` holds what torch makes of ``expected.npz``'s filter bank.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, Bottleneck, ResNet

ROOT = Path(__file__).resolve().parents[1]
WIDTH, BANDS, SIZE = 2, 80, 8
# file: (blocks, whether bottlenecks, whether two linear layers)
NETWORKS = {
    "model": ((1, 2, 1, 1), False, False),
    "two-layers": ((1, 1, 1, 1), True, True),
    "by-order": ((2, 2, 2, 2), False, False),  # ResNet18
}


class Exported(torch.nn.Module):
    """What WeSpeaker exports: the last of the network's outputs, less a mean embedding."""

    def __init__(self, model: ResNet, mean: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean_vec", mean)

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        return self.model(feats)[-1] - self.mean_vec


def seeded(
    blocks: tuple[int, ...], bottleneck: bool, two_layers: bool, width: int = WIDTH, size: int = SIZE
) -> Exported:
    """A network whose batch norms have numbers as if trained."""
    block = Bottleneck if bottleneck else BasicBlock
    net = ResNet(block, list(blocks), width, BANDS, size, two_emb_layer=two_layers)
    for key, value in net.state_dict().items():
        if key.endswith("running_mean") or (key.endswith("bias") and "bn" in key):
            value.copy_(0.3 * torch.randn_like(value))
        elif key.endswith("running_var") or (key.endswith("weight") and "bn" in key):
            value.copy_(0.5 + torch.rand_like(value))
    return Exported(net, torch.randn(size)).eval()


def export(model: Exported, path: Path) -> None:
    """By torch's exporter, as WeSpeaker calls it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notice that this exporter is the old one
        torch.onnx.export(
            model,
            (torch.ones(1, 200, BANDS),),
            str(path),
            do_constant_folding=True,
            opset_version=14,
            input_names=["feats"],
            output_names=["embs"],
            dynamic_axes={"feats": {0: "B", 1: "T"}, "embs": {0: "B"}},
            dynamo=False,
        )


def export_without_places(model: Exported, path: Path) -> None:
    """The same less the step that torch 1.13 brought."""
    step = "_jit_pass_onnx_assign_scoped_names_for_node_and_value"
    kept: Any = getattr(torch._C, step)
    setattr(torch._C, step, lambda graph: None)
    try:
        export(model, path)
    finally:
        setattr(torch._C, step, kept)


def make(folder: Path = ROOT / "tests/fixtures/wespeaker") -> None:
    """Write the fixtures."""
    torch.manual_seed(7)
    with np.load(folder / "expected.npz") as file:
        fbank = torch.from_numpy(file["fbank"])
    centred = fbank - fbank.mean(dim=1, keepdim=True)
    found = {}
    for name, shape in NETWORKS.items():
        model = seeded(*shape)
        with torch.inference_mode():
            found[name] = model(centred).numpy()
        (export_without_places if name == "by-order" else export)(model, folder / f"{name}.onnx")
    np.savez_compressed(folder / "onnx.npz", **found)


if __name__ == "__main__":
    make()

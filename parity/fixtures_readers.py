"""One small file of every format that is read, by the originals' own writers: what tests/test_fuzz.py damages.

python parity/fixtures_readers.py           # tests/fixtures/readers
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import ctranslate2
import numpy as np
import torch
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]


class Spec(ctranslate2.specs.ModelSpec):
    """Two variables of CTranslate2's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = np.arange(6, dtype=np.float32).reshape(2, 3)
        self.count = np.int32(4)

    @property
    def name(self) -> str:
        return "TinySpec"


def make(folder: Path = ROOT / "tests/fixtures/readers") -> None:
    """Write every file; each holds at most a few hundred numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    arrays = {
        "first.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "second": np.arange(5, dtype=np.float16),
    }
    save_file(arrays, folder / "tiny.safetensors", {"format": "np"})
    np.savez(folder / "tiny.npz", **arrays)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(1, 2, 3), torch.nn.BatchNorm1d(2), torch.nn.Conv1d(2, 1, 1)
    ).eval()
    torch.save({"dims": {"n": 3}, "model_state_dict": net.state_dict()}, folder / "tiny.pt")
    torch.jit.save(torch.jit.script(net), folder / "tiny.jit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.ones(1, 1, 9),), str(folder / "tiny.onnx"), opset_version=14, dynamo=False
        )
    with tempfile.TemporaryDirectory() as work:
        spec = Spec()
        spec.validate()  # before it is written: it turns numbers into variables
        spec.optimize()
        spec.save(work)
        (folder / "tiny.bin").write_bytes((Path(work) / "model.bin").read_bytes())


if __name__ == "__main__":
    make()

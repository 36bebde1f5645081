"""The GPU's speed: ours on MLX beside the PyTorch originals, each in processes of their own.

python parity/bench_gpu.py ours lstm pyannet wespeaker diarize wav2vec2 vad >ours.jsonl
python parity/bench_gpu.py theirs lstm pyannet wespeaker diarize wav2vec2 >theirs.jsonl
python parity/report_gpu.py *.jsonl                       # the tables of BENCH_GPU.md

Each prints one line of JSON a measurement. ``--audio`` is a recording, or an .npy of int16 samples at 16 kHz,
repeated to the hours wanted; ``--weights`` the folder of the originals' checkpoints
(``pytorch_model.bin`` of segmentation-3.0 and ``wespeaker.safetensors``). ``MLX_ENABLE_TF32=0`` has both sides
compute products in float32, as pyannote.audio wants; its whole pipelines do so by themselves.
``MLX_SPEECH_LSTM=plain`` is the loop that the kernel replaced. Times are medians after a warm-up, of whole
passes the single pass after a short one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
WINDOW = 10 * RATE
STEPS, INPUTS, HIDDEN = 589, 256, 128
BATCHES = (1, 32, 128)
WIDTHS = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}  # width, layers, heads, feed-forward
SIDE = os.environ.get("MLX_ENABLE_TF32", "1")


def tell(section: str, what: str, seconds: float, audio: float = 0.0, **more: Any) -> None:
    """One measurement."""
    line = {"section": section, "what": what, "ms": 1e3 * seconds, **more}
    if audio:
        line["real_time"] = audio / seconds
    print(json.dumps(line), flush=True)


def median(run: Callable[[], Any], finish: Callable[[Any], None], times: int = 7) -> float:
    """Seconds of a run, the median after three that do not count."""
    for _ in range(3):
        finish(run())
    found = []
    for _ in range(times):
        started = time.perf_counter()
        finish(run())
        found.append(time.perf_counter() - started)
    return sorted(found)[times // 2]


def once(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run that ends with its numbers on the host."""
    started = time.perf_counter()
    value = run()
    return time.perf_counter() - started, value


def recording(path: Path, hours: float) -> np.ndarray:
    """(T,) float32."""
    if path.suffix == ".npy":
        audio = np.load(path).astype(np.float32) / 32767
    else:
        from mlx_speech.audio import load_audio

        audio = load_audio(path)
    length = round(hours * 3600 * RATE)
    return np.tile(audio, -(-length // len(audio)))[:length]


def lstm_problem(batch: int, directions: int) -> tuple[np.ndarray, ...]:
    """Input and weights of one layer, float32, and its float64 output for the middle batch."""
    random = np.random.default_rng(batch)
    x = random.normal(size=(batch, STEPS, INPUTS)).astype(np.float32)
    bound = HIDDEN**-0.5
    sizes = (INPUTS, HIDDEN, None)
    parts = [
        random.uniform(-bound, bound, (directions, 4 * HIDDEN, *([n] if n else []))).astype(np.float32)
        for n in sizes
    ]
    return (x, *parts)


def truth(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(B, T, D·H) in float64."""
    from mlx_speech.layers.recurrence import reference

    x, w, r, b = (a.astype(np.float64) for a in (x, w, r, b))
    gates = np.einsum("bti,dgi->btdg", x, w, optimize=True) + b
    zeros = np.zeros((len(w), len(x), HIDDEN))
    return reference(gates, r, zeros, zeros)[0].reshape(len(x), STEPS, -1)


# --- ours ---------------------------------------------------------------------------------------------------


def ours_lstm(args: argparse.Namespace) -> None:
    import mlx.core as mx
    import mlx.nn as nn

    from mlx_speech.layers.lstm import LSTMLayer

    for directions in (1, 2):
        for batch in BATCHES:
            x, w, r, b = lstm_problem(batch, directions)
            layer = LSTMLayer(INPUTS, HIDDEN, directions)
            layer.weight_ih, layer.weight_hh, layer.bias = mx.array(w), mx.array(r), mx.array(b)
            data = mx.array(x)
            mx.eval(data, layer.parameters())
            error = float(np.abs(np.array(layer(data)) - truth(x, w, r, b)).max())
            name = f"B {batch}, {directions} direction(s)"
            tell("lstm", name, median(partial(layer, data), mx.eval), error=error, tf32=SIDE)
            if directions == 1:
                plain = nn.LSTM(INPUTS, HIDDEN)
                mx.eval(plain.parameters())
                tell("lstm", name, median(partial(plain, data), mx.eval, 3), system="nn.LSTM", tf32=SIDE)


def ours_pyannet(args: argparse.Namespace) -> None:
    from mlx_speech.loading import load
    from mlx_speech.runtime import on_host
    from mlx_speech.stages.segmentation import cut, grid_of, segment

    model, audio = load("segmentation-3.0"), recording(args.audio, 1)
    segment(model, audio[: 300 * RATE], step=1.0)
    seconds, _ = once(lambda: segment(model, audio, step=1.0))
    tell("pyannet", "1 h, 1 s step, classes made speakers", seconds, 3600, tf32=SIDE)
    grid = grid_of(model, 1.0)

    def network() -> list[np.ndarray]:
        batches = ((n, model(cut(audio, grid, n, min(n + 128, 3591)))) for n in range(0, 3591, 128))
        return [scores for _, scores in on_host(batches)]

    network()
    tell("pyannet", "1 h, 1 s step", once(network)[0], 3600, tf32=SIDE)


def ours_wespeaker(args: argparse.Namespace) -> None:
    from mlx_speech.loading import load
    from mlx_speech.stages.embedding import embed_windows
    from mlx_speech.stages.segmentation import segment

    audio = recording(args.audio, 1)
    windows = segment(load("segmentation-3.0"), audio, step=1.0)
    model = load("wespeaker-resnet34-LM")
    for shared in (False, True):
        name = "1 h, shared trunk" if shared else "1 h, 1 s step"
        embed_windows(model, audio, windows, shared_trunk=shared)
        seconds, _ = once(lambda s=shared: embed_windows(model, audio, windows, shared_trunk=s))
        tell("wespeaker", name, seconds, 3600, tf32=SIDE)


def ours_diarize(args: argparse.Namespace) -> None:
    import mlx.core as mx

    from mlx_speech import Diarizer

    diarizer = Diarizer.load()
    for hours in args.hours:
        audio = recording(args.audio, hours)
        for preset in args.presets:
            diarizer.diarize(audio[: 600 * RATE], preset)
            mx.reset_peak_memory()
            marks: dict[str, float] = {}
            started = time.perf_counter()

            def told(stage: str, done: float, total: float) -> None:
                marks[stage] = time.perf_counter() - started  # noqa: B023  (called within the turn)

            seconds, found = once(lambda a=audio, p=preset: diarizer.diarize(a, p, progress=told))
            tell(
                "diarize",
                f"{hours:g} h, {preset}",
                seconds,
                3600 * hours,
                segmentation=marks["segment"],
                embedding=marks["embed"] - marks["segment"],
                rest=seconds - marks["embed"],
                peak_gb=mx.get_peak_memory() / 1e9,
                speakers=len(found.speakers),
                turns=len(found.turns),
                tf32=SIDE,
            )
            if args.out:
                rows = [(t.start, t.end, int(t.speaker[-2:])) for t in found.turns]
                np.save(args.out / f"turns_{hours:g}h_{preset}_tf32_{SIDE}.npy", np.array(rows))


def ours_wav2vec2(args: argparse.Namespace) -> None:
    import mlx.core as mx
    from mlx.utils import tree_map

    from mlx_speech.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2ForCTC

    vocabulary = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
    for name, (width, layers, heads, inner) in WIDTHS.items():
        large = name == "large"
        config = Wav2Vec2Config(
            vocabulary, 0, "|", True, width, layers, heads, inner,
            conv_bias=large, feat_extract_norm="layer" if large else "group", do_stable_layer_norm=large,
        )  # fmt: skip
        model = Wav2Vec2ForCTC(config)
        model.update(
            tree_map(lambda p: (mx.random.normal(p.shape) * 0.02).astype(mx.float16), model.parameters())
        )
        mx.eval(model.parameters())
        for batch in (8, 16):
            data = mx.array(_batch(args, batch))
            mx.eval(data)
            seconds = median(lambda m=model, d=data: m(d), mx.eval, 3)
            tell("wav2vec2", f"{name}, {batch} x 30 s", seconds, 30.0 * batch, an_hour=120 / batch * seconds)


def ours_vad(args: argparse.Namespace) -> None:
    from mlx_speech.loading import load
    from mlx_speech.stages.speech import speech_probabilities

    model, audio = load("silero-vad"), recording(args.audio, 1)
    speech_probabilities(model, audio)
    seconds, _ = once(lambda: speech_probabilities(model, audio))
    tell("vad", "1 h", seconds, 3600)


def _batch(args: argparse.Namespace, size: int) -> np.ndarray:
    return recording(args.audio, 1)[: size * 30 * RATE].reshape(size, -1)


# --- theirs -------------------------------------------------------------------------------------------------


def _torch() -> Any:
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = SIDE != "0"
    torch.set_grad_enabled(False)
    return torch


def _wait(_: Any) -> None:
    import torch

    torch.cuda.synchronize()


def theirs_lstm(args: argparse.Namespace) -> None:
    torch = _torch()
    for directions in (1, 2):
        for batch in BATCHES:
            data = torch.randn(batch, STEPS, INPUTS, device="cuda")
            layer = torch.nn.LSTM(INPUTS, HIDDEN, bidirectional=directions == 2, batch_first=True).cuda()
            for tf32 in (False, True):
                torch.backends.cudnn.allow_tf32 = False
                wanted = layer.double()(data.double())[0]
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
                layer = layer.float()
                error = float((layer(data)[0] - wanted).abs().max())
                seconds = median(lambda m=layer, d=data: m(d), _wait)
                name = f"B {batch}, {directions} direction(s)"
                tell("lstm", name, seconds, error=error, tf32=str(int(tf32)))


def theirs_pyannet(args: argparse.Namespace) -> None:
    torch = _torch()
    from pyannote.audio import Model

    model = Model.from_pretrained(args.weights / "pytorch_model.bin").cuda().eval()
    audio = torch.from_numpy(np.pad(recording(args.audio, 1), (0, WINDOW))).cuda()
    windows = audio.unfold(0, WINDOW, RATE)[:3591]

    def run() -> Any:
        return [model(windows[n : n + 128][:, None]).cpu() for n in range(0, len(windows), 128)]

    run()
    tell("pyannet", "1 h, 1 s step", once(run)[0], 3600, tf32=SIDE)


def theirs_wespeaker(args: argparse.Namespace) -> None:
    torch = _torch()
    model = _their_embedding(args).cuda()
    audio = torch.from_numpy(np.pad(recording(args.audio, 1), (0, WINDOW))).cuda()
    windows = audio.unfold(0, WINDOW, RATE)[:3591]
    masks = (torch.rand(len(windows), 3, 589, device="cuda") > 0.5).float()

    def run() -> Any:
        return [
            model(windows[n : n + 32][:, None], weights=masks[n : n + 32]).cpu()
            for n in range(0, len(windows), 32)
        ]

    run()
    tell("wespeaker", "1 h, 1 s step", once(run)[0], 3600, tf32=SIDE, note="three masks a window, one trunk")


def _their_embedding(args: argparse.Namespace) -> Any:
    from pyannote.audio.models.embedding.wespeaker import WeSpeakerResNet34
    from safetensors.torch import load_file

    model = WeSpeakerResNet34()
    model.load_state_dict(load_file(args.weights / "wespeaker.safetensors"))
    return model.eval()


def theirs_diarize(args: argparse.Namespace) -> None:
    torch = _torch()
    from pyannote.audio import Model
    from pyannote.audio.core.plda import PLDA
    from pyannote.audio.pipelines import SpeakerDiarization

    folder = Path(__file__).resolve().parents[1] / "mlx_speech/assets/plda"
    settings = {
        "3.1": (
            "AgglomerativeClustering",
            {"method": "centroid", "min_cluster_size": 12, "threshold": 0.7045654963945799},
        ),
        "community-1": ("VBxClustering", {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8}),
    }
    for hours in args.hours:
        for name in (n for n in args.presets if n in settings):
            clustering, parameters = settings[name]
            pipeline = SpeakerDiarization(
                segmentation=Model.from_pretrained(args.weights / "pytorch_model.bin"),
                embedding=_their_embedding(args),
                plda=PLDA(folder / "xvec_transform.npz", folder / "plda.npz"),
                clustering=clustering,
                embedding_exclude_overlap=True,
                segmentation_batch_size=32,
                embedding_batch_size=32,
            ).instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": parameters})
            pipeline.to(torch.device("cuda"))
            audio = torch.from_numpy(recording(args.audio, hours))[None]
            pipeline({"waveform": audio[:, : 120 * RATE], "sample_rate": RATE})
            seconds, found = once(lambda p=pipeline, a=audio: p({"waveform": a, "sample_rate": RATE}))
            speakers = len(found.speaker_diarization.labels())
            tell("diarize", f"{hours:g} h, {name}", seconds, 3600 * hours, speakers=speakers, tf32=SIDE)


def theirs_wav2vec2(args: argparse.Namespace) -> None:
    torch = _torch()
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    for name, (width, layers, heads, inner) in WIDTHS.items():
        large = name == "large"
        config = Wav2Vec2Config(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
            conv_bias=large, feat_extract_norm="layer" if large else "group", do_stable_layer_norm=large,
        )  # fmt: skip
        model = Wav2Vec2ForCTC._from_config(config, attn_implementation="sdpa").cuda().half().eval()
        for batch in (8, 16):
            data = torch.from_numpy(_batch(args, batch)).cuda().half()
            seconds = median(lambda m=model, d=data: m(d), _wait, 3)
            tell("wav2vec2", f"{name}, {batch} x 30 s", seconds, 30.0 * batch, an_hour=120 / batch * seconds)


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=("ours", "theirs"))
    parser.add_argument("what", nargs="+")
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--hours", nargs="+", type=float, default=[1, 3], help="of whole diarizations")
    parser.add_argument("--presets", nargs="+", default=["fast", "3.1", "community-1"])
    args = parser.parse_args()
    if args.who == "ours":
        import mlx_speech  # noqa: F401  (before mlx: it loads the BLAS)
    for section in args.what:
        globals()[f"{args.who}_{section}"](args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()

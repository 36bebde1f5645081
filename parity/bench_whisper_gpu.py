"""Whisper on a GPU: tokens a second, times real time and peak memory, ours against transformers.

python parity/bench_whisper_gpu.py ours --base FOLDER           # FOLDER: a CTranslate2 or Hugging Face base
python parity/bench_whisper_gpu.py transformers --base FOLDER

One process a contestant; each prints one JSON line a measurement. Every window of 30 s (seeded noise) is
decoded to a fixed number of tokens, greedily and without rules that could end it early, so that both sides do
the same work: encoder, prompt, then one step a token. Models: base with real weights, and one of large-v3's
size with seeded weights (``--sizes`` picks). transformers runs in float16 with SDPA; ``--ways`` picks:
``dynamic`` and ``static`` are ``generate()`` with those caches, ``auto`` lets it compile the static one by itself,
``graph``, ``compiled`` and ``compiled-graph`` are its decoder as one step over static buffers (whisper_graph.py).
The best one counts. Each had better have a process of its own, for compiling may crash or take minutes. Without
``--base`` its base has seeded weights: the same work. ``--sizes tiny --device cpu``
rehearses.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 30.0
# n_mels, width, heads, layers, vocabulary
SHAPES = {
    "tiny": (80, 64, 2, 2, 51865),
    "base": (80, 512, 8, 6, 51865),
    "large-v3": (128, 1280, 20, 32, 51866),
}
SOT = 50258


def windows(batch: int, mels: int) -> np.ndarray:
    """Log-mel of nothing in particular: (batch, 3000, mels) float32."""
    return np.random.default_rng(0).uniform(-0.5, 1.0, (batch, 3000, mels)).astype(np.float32)


def report(name: str, size: str, batch: int, tokens: int, times: dict[str, list[float]], peak: float) -> None:
    """One JSON line; times of whole runs and of their encoders, in seconds."""
    whole, encoder = (statistics.median(times[k]) for k in ("whole", "encoder"))
    line = {
        "contestant": name,
        "model": size,
        "batch": batch,
        "tokens_per_window": tokens,
        "seconds": round(whole, 4),
        "range": [round(min(times["whole"]), 4), round(max(times["whole"]), 4)],
        "encoder_seconds": round(encoder, 4),
        "tokens_per_second": round(batch * tokens / whole, 1),
        "decoder_tokens_per_second": round(batch * tokens / max(whole - encoder, 1e-9), 1),
        "x_real_time": round(batch * SECONDS / whole, 1),
        "peak_mib": round(peak / 2**20),
    }
    print(json.dumps(line), flush=True)


def measure(run: Callable[[], None], encode: Callable[[], None], repeats: int) -> dict[str, list[float]]:
    """Times after a warm-up each."""
    found: dict[str, list[float]] = {"whole": [], "encoder": []}
    for key, call in (("encoder", encode), ("whole", run)):
        call()
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            found[key].append(time.perf_counter() - begin)
    return found


# --- ours ---------------------------------------------------------------------------------------------------


def ours(arguments: argparse.Namespace) -> None:
    """mlx_speech: its own encoder, caches and step, in float16 on a GPU."""
    import mlx_speech  # isort: skip  (first: it loads the BLAS)

    import mlx.core as mx

    if arguments.device == "cpu":
        mx.set_default_device(mx.cpu)
    dtype = "float16" if arguments.device != "cpu" else "float32"
    for size in arguments.sizes:
        if size == "base" and arguments.base:
            model = mlx_speech.load(f"path:{arguments.base}", dtype=dtype)
        else:
            model = _seeded(size, getattr(mx, dtype))
        for batch in arguments.batches:
            mel = mx.array(windows(batch, model.config.n_mels)).astype(model.dtype)
            mx.eval(mel)
            mx.clear_cache()
            mx.reset_peak_memory()

            def encode(model: Any = model, mel: mx.array = mel) -> None:
                mx.eval(model.encode(mel))

            def run(model: Any = model, mel: mx.array = mel) -> None:
                _decode(model, model.encode(mel), arguments.tokens)

            try:
                times = measure(run, encode, arguments.repeats)
            except RuntimeError as error:
                print(
                    json.dumps(
                        {"contestant": "ours", "model": size, "batch": batch, "error": str(error)[:200]}
                    )
                )
                continue
            report("ours", size, batch, arguments.tokens, times, mx.get_peak_memory())


def _seeded(size: str, dtype: Any) -> Any:
    import mlx.core as mx
    from mlx.utils import tree_map

    from mlx_speech.models.whisper import Whisper, WhisperConfig

    mels, width, heads, layers, vocabulary = SHAPES[size]
    mx.random.seed(0)
    audio, text = (1500, width, heads, layers), (448, width, heads, layers)
    model = Whisper(WhisperConfig(mels, *audio, vocabulary, *text))
    model.update(tree_map(lambda p: (0.02 * mx.random.normal(p.shape)).astype(dtype), model.parameters()))
    mx.eval(model.parameters())
    return model


def _decode(model: Any, features: Any, tokens: int) -> None:
    """Greedy, with the end token forbidden; a step is under way before the last one is waited for."""
    import mlx.core as mx

    state = model.start(features)
    token = mx.full((features.shape[0],), SOT, mx.int32)
    end = mx.where(mx.arange(model.config.n_vocab) == SOT - 1, -1e9, 0.0)
    before = token
    for _ in range(tokens):
        token = mx.argmax(model.next(token, state) + end, axis=-1).astype(mx.int32)
        mx.async_eval(token)
        mx.eval(before)
        before = token
    mx.eval(token)


# --- transformers -------------------------------------------------------------------------------------------


def transformers(arguments: argparse.Namespace) -> None:
    """The same weights in torch, float16, SDPA."""
    import torch

    torch.set_grad_enabled(False)
    cuda = arguments.device != "cpu"
    for size in arguments.sizes:
        device = "cuda" if cuda else "cpu"
        model = _torch_model(size, arguments.base if size == "base" else None, device)
        model = model.eval().to(device, torch.float16 if cuda else torch.float32)
        for batch in arguments.batches:
            mel = torch.from_numpy(windows(batch, model.config.num_mel_bins)).transpose(1, 2)
            mel = mel.to(model.device, model.dtype).contiguous()
            for name, generate in _ways(model, mel, arguments.tokens, arguments.ways):
                if cuda:
                    gc.collect()
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()

                def wait() -> None:
                    if cuda:
                        torch.cuda.synchronize()

                def encode(model: Any = model, mel: Any = mel) -> None:
                    model.get_encoder()(mel)
                    wait()

                def run(generate: Any = generate) -> None:
                    generate()
                    wait()

                try:
                    times = measure(run, encode, arguments.repeats)
                except Exception as error:  # one way may fail where another works; the line says so
                    line = {"contestant": name, "model": size, "batch": batch}
                    print(
                        json.dumps({**line, "error": f"{type(error).__name__}: {str(error)[:200]}"}),
                        flush=True,
                    )
                    continue
                peak = torch.cuda.max_memory_allocated() if cuda else 0
                report(name, size, batch, arguments.tokens, times, peak)
                del generate, run  # what they keep is no part of the next one's peak
        del model


GENERATE: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("dynamic cache", {}),
    "static": ("static cache", {"cache_implementation": "static", "disable_compile": True}),
    "auto": ("static cache, compiled by generate()", {"cache_implementation": "static"}),
}
BY_STEPS: dict[str, tuple[str, dict[str, bool]]] = {
    "steps": ("by hand", {"compiled": False, "graph": False}),
    "graph": ("by hand, CUDA graph", {"compiled": False, "graph": True}),
    "compiled": ("by hand, compiled", {"compiled": True, "graph": False}),
    "compiled-graph": ("by hand, compiled, CUDA graph", {"compiled": True, "graph": True}),
}


def _ways(model: Any, mel: Any, tokens: int, ways: Sequence[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each way's name, and a function that decodes ``mel`` so."""
    import torch

    start = torch.full((mel.shape[0], 1), SOT, device=mel.device)
    for way in ways:
        torch._dynamo.reset()  # else the next batch size is compiled for every size, and runs slower
        if way in GENERATE:
            name, options = GENERATE[way]
            yield f"transformers, {name}", partial(_plain_generate, model, mel, start, tokens, **options)
            continue
        from whisper_graph import decoding

        name, settings = BY_STEPS[way]
        made: list[Callable[[], Any]] = []

        def decode(settings: Any = settings, made: Any = made) -> Any:
            if not made:  # at the first call, so that a failure is this way's
                made.append(decoding(model, mel, tokens, SOT, SOT - 1, **settings))
            return made[0]()

        yield f"PyTorch {name}", decode


def _plain_generate(model: Any, mel: Any, start: Any, tokens: int, **options: Any) -> Any:
    """GenerationMixin's own greedy search, without Whisper's long-form wrapping."""
    from transformers import GenerationConfig, GenerationMixin
    from transformers.modeling_outputs import BaseModelOutput

    encoded = BaseModelOutput(last_hidden_state=model.get_encoder()(mel).last_hidden_state)
    config = GenerationConfig(
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=SOT - 1,
        pad_token_id=SOT - 1,
        decoder_start_token_id=SOT,
        use_cache=True,
        **options,
    )
    found = GenerationMixin.generate(
        model, decoder_input_ids=start, encoder_outputs=encoded, generation_config=config
    )
    assert found.shape[1] >= tokens, f"{found.shape[1]} tokens instead of {tokens}"
    return found


def _torch_model(size: str, folder: Path | None, device: str) -> Any:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    from transformers import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    mels, width, heads, layers, vocabulary = SHAPES[size]
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        attn_implementation="sdpa",
    )
    with torch.device(device):
        model = WhisperForConditionalGeneration(config)
    if folder is not None and (folder / "model.safetensors").is_file():
        return WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa")
    if folder is not None:
        model.load_state_dict(_hugging_face_weights(folder), strict=False)
    return model


def _hugging_face_weights(folder: Path) -> dict[str, Any]:
    """A CTranslate2 checkpoint under transformers' names, by this library's own rules backwards."""
    import mlx_speech  # isort: skip

    import mlx.core as mx
    import torch
    from mlx.utils import tree_flatten

    with mx.stream(mx.cpu):
        model = mlx_speech.load(f"path:{folder}", dtype="float32")
        arrays = {k: np.array(v) for k, v in tree_flatten(model.parameters())}
    names = (
        (".blocks.", ".layers."), (".cross_attn_ln.", ".encoder_attn_layer_norm."),
        (".cross_attn.", ".encoder_attn."), (".attn_ln.", ".self_attn_layer_norm."),
        (".attn.", ".self_attn."), (".query.", ".q_proj."), (".key.", ".k_proj."), (".value.", ".v_proj."),
        ("_attn.out.", "_attn.out_proj."), (".mlp_ln.", ".final_layer_norm."), (".ln_post.", ".layer_norm."),
        ("decoder.ln.", "decoder.layer_norm."), (".token_embedding.", ".embed_tokens."),
        (".positional_embedding", ".embed_positions.weight"),
    )  # fmt: skip
    out = {}
    for key, value in arrays.items():
        array = value.transpose(0, 2, 1) if ".conv" in key and value.ndim == 3 else value
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        out[f"model.{key}"] = torch.from_numpy(np.ascontiguousarray(array))
    out["proj_out.weight"] = out["model.decoder.embed_tokens.weight"]
    return out


def main() -> int:
    """Measure one contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=["ours", "transformers"])
    parser.add_argument("--base", type=Path, help="folder of a real base checkpoint")
    parser.add_argument("--sizes", nargs="+", default=["base", "large-v3"], choices=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="gpu", choices=["gpu", "cpu"])
    parser.add_argument("--ways", nargs="+", default=["dynamic", "graph"], choices=[*GENERATE, *BY_STEPS])
    arguments = parser.parse_args()
    (ours if arguments.contestant == "ours" else transformers)(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""wav2vec2, HuBERT and MMS against transformers in float32, layer by layer and as a whole.

The trained mini aligner hears real recordings; the configurations whose trained weights are out of reach
(base-960h, large XLSR-53, MMS, HuBERT) have seeded weights and hear real recordings too. The MMS one has the
real widths and 4 of its 48 layers, to fit in memory twice.

python parity/parity_wav2vec2.py           # the rows
python parity/parity_wav2vec2.py speed     # the base model's time against transformers
"""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS that MLX runs on in use)

import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from fixtures_wav2vec2 import KINDS, MINI, RATE, Kind, extractor, scores, speech, tokenizer
from harness import Row, close, same, table
from transformers import Wav2Vec2ForCTC

from mlx_speech.loading import load
from mlx_speech.models.wav2vec2 import Wav2Vec2ForCTC as Ours

_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_MMS: dict[str, Any] = {
    "hidden_size": 1280,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
}
# name: kind, sizes that differ from base, seconds
SEEDED: dict[str, tuple[Kind, dict[str, Any], tuple[float, ...]]] = {
    "base-960h": (KINDS["base"], {}, (0.025, 1.0, 3.33, 10.0)),
    "XLSR-53 large": (KINDS["stable"], _LARGE, (0.025, 1.0, 4.0)),
    "MMS, 4 layers": (
        Kind(changes={**KINDS["mms"].changes, "adapter_attn_dim": 16}, languages=("eng",)),
        _MMS,
        (0.025, 1.0, 4.0),
    ),
    "HuBERT base": (Kind(hubert=True), {}, (0.025, 4.0)),
}


def run() -> list[Row]:
    """Rows for the trained mini checkpoint, then for each seeded configuration."""
    rows = list(_mini())
    for name, (kind, sizes, seconds) in SEEDED.items():
        theirs = kind.model(0, **sizes)
        rows.extend(_compare(f"wav2vec2 {name}", _ours(kind, theirs), theirs, kind, seconds))
        del theirs
        gc.collect()
        mx.clear_cache()
    return rows


def _mini() -> Iterator[Row]:
    theirs = Wav2Vec2ForCTC.from_pretrained(MINI, dtype=torch.float32).eval()
    ours = load(f"path:{MINI}", dtype="float32")
    yield from _compare("wav2vec2 mini-en", ours, theirs, KINDS["base"], (0.025, 1.0, 10.0, 30.0))
    extract = extractor(True, False)
    for pattern in ("jfk.flac", "wordtimes_emur/*.wav", "ljspeech/*", "librispeech_test_other/*.flac"):
        audio = speech(pattern)
        heard = _heard(extract, audio)
        want = scores(theirs, heard)
        found = ours(ours.normalize(mx.array(audio)[None]))
        note = f"{len(audio) / RATE:.1f} s, normalised by each side"
        yield close(f"wav2vec2 mini-en {pattern}: logits", found, want, "wav2vec2.logits", note)
        yield same(f"wav2vec2 mini-en {pattern}: best tokens", *_best(found, want))


def _best(found: mx.array, want: np.ndarray) -> tuple[list[int], list[int]]:
    return np.array(found).argmax(-1)[0].tolist(), want.argmax(-1)[0].tolist()


def _compare(name: str, ours: Ours, theirs: Any, kind: Kind, seconds: tuple[float, ...]) -> Iterator[Row]:
    recording = speech("ami/*.wav")
    extract = extractor(kind.do_normalize, ours.batchable)
    for length in seconds:
        audio = recording[: round(length * RATE)]
        heard = _heard(extract, audio)
        found = ours.normalize(mx.array(audio)[None])
        yield close(f"{name} {length:g} s: audio normalised", found, heard, "wav2vec2.normalize")
        yield close(f"{name} {length:g} s: logits", ours(found), scores(theirs, heard), "wav2vec2.logits")
    yield from _layers(name, ours, theirs, _heard(extract, recording[: round(3.33 * RATE)]))
    yield from _batches(name, ours, theirs, extract, recording)


def _batches(name: str, ours: Ours, theirs: Any, extract: Any, recording: np.ndarray) -> Iterator[Row]:
    lengths = (48000, 31111, 719) if ours.batchable else (32000,) * 3
    items = [recording[n * 50000 :][:length] for n, length in enumerate(lengths)]
    batch = extract(items, sampling_rate=RATE, padding=True, return_tensors="np")
    heard = batch.input_values.astype(np.float32)
    want = scores(theirs, heard, batch.attention_mask if ours.batchable else None)
    audio = mx.array(np.stack([np.pad(x, (0, max(lengths) - len(x))) for x in items]))
    found = ours(ours.normalize(audio, mx.array(lengths)), mx.array(lengths))
    for n, item in enumerate(items):
        frames = ours.config.output_length(len(item))
        what = f"{name} batch of 3, item {n} ({len(item)} samples)"
        yield close(f"{what}: logits", found[n, :frames], want[n, :frames], "wav2vec2.logits")
        alone = ours(ours.normalize(mx.array(item)[None]))[0]
        yield close(f"{what}: against itself alone", found[n, :frames], alone, "wav2vec2.logits")


def _layers(name: str, ours: Ours, theirs: Any, heard: np.ndarray) -> Iterator[Row]:
    want = _their_layers(theirs, heard)
    for (what, value), expected in zip(_our_layers(ours, mx.array(heard)), want, strict=True):
        yield close(f"{name} layers: {what}", value, expected, "wav2vec2.layers")


def _our_layers(model: Ours, audio: mx.array) -> Iterator[tuple[str, mx.array]]:
    encoder = model.feature_extractor
    for n, x in enumerate(encoder.layers(audio, encoder.conv_layers[0].kernel(audio))):
        yield f"convolution {n}", x
    x = model.feature_projection(x)
    yield "projection", x
    x = model.encoder.embed(x)
    yield "positions", x
    for n, layer in enumerate(model.encoder.layers):
        x = layer(x, None)
        yield f"transformer {n}", x


def _their_layers(model: Any, heard: np.ndarray) -> list[np.ndarray]:
    body = getattr(model, model.base_model_prefix)
    found: list[np.ndarray] = []

    def keep(swap: bool) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            x = output[0] if isinstance(output, tuple) else output
            found.append((x.transpose(1, 2) if swap else x).detach().numpy().copy())

        return hook

    watched = [(m, True) for m in body.feature_extractor.conv_layers]
    watched += [(m, False) for m in (body.feature_projection, body.encoder.dropout, *body.encoder.layers)]
    handles = [m.register_forward_hook(keep(swap)) for m, swap in watched]
    scores(model, heard)
    for handle in handles:
        handle.remove()
    return found


def _heard(extract: Any, audio: np.ndarray) -> np.ndarray:
    return extract(audio, sampling_rate=RATE, return_tensors="np").input_values.astype(np.float32)


def _ours(kind: Kind, theirs: Any) -> Ours:
    """Our model from the original's own files, by way of the loader."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        extractor(kind.do_normalize, False).save_pretrained(folder)
        tokenizer(kind).save_pretrained(folder)
        model = load(f"path:{Path(folder)}", dtype="float32")
        mx.eval(model.parameters())
    return model


def speed(seconds: tuple[float, ...] = (10.0, 30.0), repeats: int = 5) -> list[str]:
    """The base configuration, one recording at a time, in turns: the least times, wall clock and CPU."""
    torch.set_num_threads(2)
    theirs = KINDS["base"].model(0)
    ours = _ours(KINDS["base"], theirs)
    lines = []
    for length in seconds:
        audio = speech("ami/*.wav", length)[None]
        clocks = []
        for _ in range(repeats + 1):
            clocks.append([_clock()])
            mx.eval(ours(mx.array(audio)))
            clocks[-1].append(_clock())
            scores(theirs, audio)
            clocks[-1].append(_clock())
        # (repeats, ours and theirs, wall clock and CPU); the first round warms up
        mine, other = np.diff(np.array(clocks[1:]), axis=1).min(axis=0)
        lines.append(
            f"{length:g} s of audio, least of {repeats}: ours {mine[0]:.2f} s (CPU {mine[1]:.2f}), "
            f"transformers {other[0]:.2f} s (CPU {other[1]:.2f}): {other[0] / mine[0]:.2f} times as fast "
            f"(CPU {other[1] / mine[1]:.2f})"
        )
    return lines


def _clock() -> tuple[float, float]:
    """Wall clock, and CPU seconds of all threads: the second bears a machine that others use."""
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    print("\n".join(speed()) if sys.argv[1:] == ["speed"] else table(run()))

"""Tokens of Whisper in half precision beside float32's, on the same GPU: windows of 30 s, decoded together.

    python parity/bench_gpu_half.py --audio recording.npy --whisper path:/models/whisper-base

A line of JSON for each dtype, number of windows decoded together, and number of beams. On CUDA half precision
writes each token as one launch, and float32 does not; float16 is decoded by MLX's own operations as well, to tell
the one's rounding from the other's. ``--audio`` is as in bench_gpu.py; report_gpu.py makes the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

import numpy as np
from bench_gpu import RATE, recording

WINDOW = 30 * RATE
WAYS = (("float32", False), ("float16", True), ("float16", False), ("bfloat16", True))  # dtype, as one launch
TOGETHER = (1, 4, 64)


def main() -> None:
    """Decode with each dtype."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--whisper", default="whisper-base")
    parser.add_argument("--hours", type=float, default=300 / 3600)
    parser.add_argument("--ways", type=int, nargs="+", default=[*range(len(WAYS))], help="by number, from 0")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    args = parser.parse_args()

    import mlx_speech  # isort: skip  (first: it loads the BLAS)

    import mlx.core as mx

    from mlx_speech.features import log_mel
    from mlx_speech.models import whisper_step
    from mlx_speech.stages.decode import decode

    samples = recording(args.audio, args.hours)
    windows = [samples[n : n + WINDOW] for n in range(0, len(samples) - WINDOW + 1, WINDOW)]
    wanted: dict[int, list[tuple[int, ...]]] = {}
    prepare = whisper_step.prepare
    for dtype, launched in [WAYS[n] for n in args.ways]:
        whisper_step.prepare = prepare if launched else lambda model: False
        whole = mlx_speech.Transcriber.load(args.whisper, align="none", dtype=dtype)
        model, tokenizer = whole.whisper, whole.tokenizer
        features = model.encode(log_mel(mx.array(np.stack(windows)), model.config.n_mels))
        for beams in args.beams:
            options = mlx_speech.DecodeOptions(beam_size=beams, temperatures=(0.0,))
            for together in TOGETHER:
                start = perf_counter()
                found = [
                    d.tokens
                    for n in range(0, len(features), together)
                    for d in decode(model, tokenizer, features[n : n + together], "en", options)
                ]
                seconds = perf_counter() - start
                pairs = list(zip(found, wanted.setdefault(beams, found), strict=True))
                line = {
                    "section": "f16",
                    "dtype": dtype,
                    "launched": launched,
                    "together": min(together, len(windows)),
                    "beam": beams,
                    "tokens": sum(map(len, found)),
                    "equal": sum(a == b for x, y in pairs for a, b in zip(x, y, strict=False)),
                    "of": sum(len(y) for _, y in pairs),
                    "windows": len(windows),
                    "same": sum(x == y for x, y in pairs),
                    "seconds": seconds,
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

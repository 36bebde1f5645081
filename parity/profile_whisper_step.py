"""Where the time of a token goes on CUDA, where the whole decoder is one launch: cycles by part of a layer.

    python parity/profile_whisper_step.py

A line of JSON for each size and number of windows; report_gpu.py makes the table. The first block notes its clock
at the end of each part (``STAMP`` in whisper_step.cu), which includes waiting for the others: the mean of the
layers but the first, the median of some runs. Seeded weights, float16, 64 words so far.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from bench_whisper_gpu import SHAPES, _seeded

PARTS = ("ask", "words", "out", "query", "audio", "audio_out", "fc1", "fc2")
LENGTH, ROOM, RUNS = 64, 128, 6
NOTE = (
    "#define STAMP if (me.thread == 0 && me.block == 0) reinterpret_cast<long long*>("
    "s.part + (long)s.rows * s.heads * s.shares * PART)[me.stamps++] = clock64();"
)
BARRIER = " me.arrive(); me.wait(); STAMP"


def kernel(layers: int) -> Any:
    """The decoder's kernel with the clock noted, and a few bare barriers at the end."""
    from mlx_speech.models import whisper_step

    hook = next(line for line in whisper_step.source().splitlines() if line.startswith("#define STAMP"))
    source = whisper_step.source().replace(hook, NOTE).replace("  int epoch;", "  int epoch, stamps = 0;")
    body = whisper_step.BODY.replace("step<NT>(me, s);", "STAMP step<NT>(me, s);" + 3 * BARRIER)
    return whisper_step.kernel_of(layers, source, body)


def measure(model: Any, batch: int) -> dict[str, int]:
    """Cycles of each part, of the scores, and of a bare barrier."""
    import mlx.core as mx

    from mlx_speech.models import whisper_step

    c = model.config
    layers, heads = c.n_text_layer, c.n_text_head
    state = model.begin(mx.random.normal((batch, c.n_audio_ctx, c.n_text_state)).astype(model.dtype))
    memory = mx.random.normal((layers, 2, batch, heads, ROOM, c.n_text_state // heads)).astype(model.dtype)
    turn = whisper_step.Turn.take()
    assert turn
    cache = whisper_step.Joined(memory, LENGTH, turn)
    known, launcher = whisper_step.layout(model), kernel(layers)
    found = []
    for _ in range(RUNS):
        given = known, mx.arange(batch), cache, state.cross_attention
        part = np.array(whisper_step.run(launcher, *given, spare=layers + 2)[3])
        notes = part[len(part) - layers - 2 :].reshape(-1).view(np.int64)
        found.append(np.diff(notes[: 8 * layers + 6]))
    cycles = np.median(found[2:], axis=0)
    inner = cycles[1 : 8 * layers + 1].reshape(layers, 8)[1:].mean(axis=0)
    return {
        **{name: round(float(one)) for name, one in zip(PARTS, inner, strict=True)},
        "scores": round(float(cycles[8 * layers + 1])),
        "barrier": round(float(cycles[-1])),
    }


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["base", "large-v3"], choices=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 64])
    args = parser.parse_args()

    import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

    import mlx.core as mx

    for size in args.sizes:
        model = _seeded(size, mx.float16)
        for batch in args.batches:
            line = {"section": "step", "model": size, "batch": batch, **measure(model, batch)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

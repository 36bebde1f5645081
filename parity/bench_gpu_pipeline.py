"""The whole pipeline on a GPU: an hour from samples to words with speakers, by stage.

    python parity/bench_gpu_pipeline.py --audio recording.npy --whisper path:/models/whisper-base

A line of JSON for each way: words timed by the aligner, by Whisper's own attention, or not at all, at the default
number of windows, and two of them with 64; ``--beams 1 5`` takes each greedily and by five hypotheses. ``--audio``
and ``--hours`` are as in bench_gpu.py. Models are loaded, and ten minutes heard, before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import resource
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter

from bench_gpu import RATE, recording

WAYS: tuple[tuple[str, int | None], ...] = (
    ("aligner", None),
    ("attention", None),
    ("none", None),
    ("aligner", 64),
    ("attention", 64),
)
"""What times the words, and how many windows are decoded together."""


def main() -> None:
    """Measure each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--whisper", default="whisper-base")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--warm-up", type=float, default=600.0, help="seconds of audio")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--ways", type=int, nargs="+", default=[*range(len(WAYS))], help="by number, from 0")
    parser.add_argument("--beams", type=int, nargs="+", default=[1], help="hypotheses; 1 is greedy")
    parser.add_argument("--max-memory", help="work within so much memory, such as 4GB")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    import mlx_speech  # isort: skip  (first: it loads the BLAS)

    import mlx.core as mx

    from mlx_speech.cli.bench import Stopwatch
    from mlx_speech.memory import limit_memory
    from mlx_speech.stages.transcribe import windows_together

    limit_memory(args.max_memory)
    samples = recording(args.audio, args.hours)
    full = mlx_speech.Transcriber.load(args.whisper, align="whisper-ctc-tiny.en", diarize=True)
    for beams, (words, batch) in product(args.beams, [WAYS[n] for n in args.ways]):
        transcriber = full if words == "aligner" else replace(full, aligner=None)
        decode = mlx_speech.DecodeOptions(beam_size=beams)
        options = mlx_speech.TranscribeOptions(words=words != "none", batch_size=batch, decode=decode)
        for heard in (samples[: round(args.warm_up * RATE)], samples):
            mx.clear_cache()
            mx.reset_peak_memory()
            watch, begun = Stopwatch(), perf_counter()
            transcript = transcriber.transcribe(heard, options, diarize=args.preset, progress=watch)
            seconds = perf_counter() - begun
        line = {
            "section": "pipeline",
            "device": str(mx.default_device()),
            "dtype": str(full.whisper.dtype).removeprefix("mlx.core."),
            "max_memory": args.max_memory,
            "words_timed_by": words,
            "windows_together": batch or windows_together(full.whisper, decode.rows),
            "beams": beams,
            "seconds": round(seconds, 3),
            "real_time": round(len(samples) / RATE / seconds, 1),
            "stages": {k: round(v, 3) for k, v in watch.seconds.items()},
            "peak_mlx_gb": round(max(watch.peak.values()) / 1e9, 2),
            "peak_process_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
            "segments": len(transcript.segments),
            "words": sum(len(s.words) for s in transcript.segments),
            "speakers": len(transcript.speakers),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

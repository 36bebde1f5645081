"""What a longer step of the preset ``fast`` brings: the table of docs/diarization.md.

    python parity/diarize_steps.py     # a minute on one core, where diarize_networks.py has run

One trunk over each recording, windows every second, of which every n-th is taken: a recording's last seconds go
unheard where the step does not divide it, and the step of 2 s is a little worse than the preset as it runs.
"""

from __future__ import annotations

import diarize_networks  # isort: skip  # noqa: F401  (first: it restricts numpy, then loads MLX's BLAS)

from dataclasses import replace

from diarize_networks import Ours, ours, recordings
from parity_diarize import PARTS, annotation, diarized, read_rttm
from pyannote.core import Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.hub import ASSETS
from mlx_speech.stages.diarize import PRESETS
from mlx_speech.stages.vbx import PLDA

STEPS = (1, 2, 3, 4, 5)


def every(heard: Ours, n: int) -> Ours:
    """Of the windows every n-th."""
    dense = heard.segmentation
    fields = {name: getattr(dense, name)[::n] for name in ("scores", "active", "votes", "speech")}
    grid = replace(dense.grid, step=n * dense.grid.step)
    return Ours(replace(dense, grid=grid, **fields), heard.embeddings[::n])


def main() -> None:
    """Print a row for each step, over all recordings with references."""
    options, plda = replace(PRESETS["fast"], step=1.0), PLDA.load(ASSETS / "plda")
    rates = {n: DiarizationErrorRate() for n in STEPS}
    right = dict.fromkeys(STEPS, 0)
    paths = [p for p in recordings() if p.with_suffix(".rttm").exists()]
    for path in paths:
        reference, heard = read_rttm(path.with_suffix(".rttm")), ours(path, options)
        duration = len(load_audio(path)) / SAMPLE_RATE
        for n in STEPS:
            found = diarized(every(heard, n), replace(options, step=float(n)), plda, duration)
            rates[n](reference, annotation(found.turns), uem=Timeline([Segment(0, duration)]))
            right[n] += len(found.speakers) == len(reference.labels())
    print(f"| windows every | DER, collar 0 | {' | '.join(PARTS.values())} | right number of speakers |")
    print("|---" * (len(PARTS) + 3) + "|")
    for n, rate in rates.items():
        shares = [abs(rate), *(rate[part] / rate["total"] for part in PARTS)]
        print(f"| {n} s | {' | '.join(f'{x:.1%}' for x in shares)} | {right[n]} of {len(paths)} |")


if __name__ == "__main__":
    main()

"""How near a person's voices are to being taken for two: the demo clip over and over, for docs/diarization.md.

    python parity/diarize_repeats.py          # ten minutes on one core

Three readers take turns in 56 s. Repeated to 20 minutes, from eight starts, so that windows fall elsewhere each
time, the preset ``fast`` should find three of them.
"""

from __future__ import annotations

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import numpy as np

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.cli.demo import DEMO_CLIP
from mlx_speech.pipeline import Diarizer
from mlx_speech.stages.cluster import clear, cluster, linked, means, unit_rows
from mlx_speech.stages.diarize import assemble, preset, segment_samples, speaker_count
from mlx_speech.stages.embedding import embed_windows
from mlx_speech.stages.identify import similarities

MINUTES = 20
STARTS = np.arange(0, 2, 0.25)  # seconds: the preset's windows are 2 s apart
JUST_BELOW = 0.68  # a cut of the tree at which the reader of Austen is two clusters everywhere


def main() -> None:
    """Print a row for each start."""
    clip, diarizer, options = load_audio(DEMO_CLIP), Diarizer.load(), preset("fast")
    size = MINUTES * 60 * SAMPLE_RATE
    print(
        "| start, s | speakers | windows of each | distance of the nearest two at 0.68 | their cosine | of others |"
    )
    print("|---|---|---|---|---|---|")
    for start in STARTS:
        samples = np.resize(np.roll(clip, -round(start * SAMPLE_RATE)), size)
        segmentation = segment_samples(diarizer.segmentation, samples, options, lambda *_: None)
        embeddings = embed_windows(diarizer.embedding, samples, segmentation, shared_trunk=True)
        clusters = cluster(embeddings, segmentation.active, options.clustering)
        found = assemble(segmentation, clusters, speaker_count(segmentation), options, size / SAMPLE_RATE)
        unit = unit_rows(embeddings[clear(segmentation.active, options.min_active_ratio)])
        unit = unit[np.isfinite(unit).all(1)]
        labels = linked(unit, JUST_BELOW, len(unit))
        sizes = np.bincount(labels)
        large = means(unit, labels)[sizes >= 50]
        away = np.linalg.norm(large[:, None] - large, axis=2) + 9 * np.eye(len(large))
        first, second = np.unravel_index(away.argmin(), away.shape)
        cosines = similarities(large, large)
        others = np.sort(cosines[np.triu_indices(len(large), 1)])[-2]
        print(
            f"| {start:.2f} | {len(found.speakers)} | {', '.join(map(str, sorted(sizes)[::-1]))} "
            f"| {away.min():.3f} | {cosines[first, second]:.2f} | {others:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

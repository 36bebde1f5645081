"""Whether other costs give words better to speakers: chosen on all recordings but one, tried on that one.

    python parity/speaker_costs.py      # after bench_speakers.py, whose transcripts it takes; prints its findings

Each recording counts twice, with the words and turns of both of that program's settings. The demo's clip, on which
nothing was ever chosen, is tried at last with the rule as it is and with words that all count alike.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from bench_speakers import (
    ALIKE,
    CLIPS,
    DATA,
    OURS,
    Spoken,
    hypothesis,
    matched,
    ours,
    reference,
    said,
    speaker_errors,
)

from mlx_speech import Transcript
from mlx_speech.hub import ASSETS
from mlx_speech.stages.speakers import SpeakerOptions, assign_speakers

CHOICES: dict[str, tuple[float, ...]] = {
    "exclusive": (0.0, 0.25),
    "switch": (1.0, 2.0, 3.0),
    "switch_at_pause": (0.0, 0.5, 1.0, 2.0),
    "switch_at_sentence": (0.0, 0.5),
    "length": (0.0, 0.2, 0.4, 0.8),
}
PLAIN = SpeakerOptions(switch_at_pause=0.0, length=0.0)  # the rule before words counted by their length


@dataclass(frozen=True)
class Talk:
    """A recording's words with the reference's, matched once: their speakers change, they do not."""

    transcript: Transcript
    want: list[Spoken]
    pairs: list[tuple[int, int]]

    @classmethod
    def of(cls, audio: Path, transcript: Transcript) -> Talk:
        want = reference(audio)
        return cls(transcript, want, matched(want, hypothesis(said(transcript.segments))))

    def wrong(self, options: SpeakerOptions) -> int:
        """Matched words that get another speaker than the reference's."""
        found = assign_speakers(self.transcript.segments, self.transcript.diarization, options)
        return int(speaker_errors(self.want, hypothesis(said(found)), self.pairs)[0])


def options() -> Iterator[SpeakerOptions]:
    """All choices, the rule as it is and as it was before them."""
    yield SpeakerOptions()
    yield PLAIN
    for values in product(*CHOICES.values()):
        yield SpeakerOptions(**dict(zip(CHOICES, values, strict=True)))


def main() -> None:
    """Try, and tell what the recordings left out say."""
    recordings = [a for pattern in CLIPS for a in sorted((DATA / "audio").glob(pattern))]
    if not recordings:
        sys.exit(f"no recordings in {DATA}: set MLX_SPEECH_DATA")
    talks = [[Talk.of(a, t) for a, t in ours(recordings, name).items()] for name in (OURS, ALIKE)]
    tried = list(options())
    table = np.array(
        [[sum(both[n].wrong(o) for both in talks) for n in range(len(recordings))] for o in tried]
    )
    chosen: list[int] = []
    for n, audio in enumerate(recordings):
        best = int(np.delete(table, n, axis=1).sum(1).argmin())
        chosen.append(table[best, n])
        print(f"{audio.stem}: {table[1, n]} wrong before, {chosen[-1]} by the others' best, {tried[best]}")
    before, now, least = table[1].sum(), table[0].sum(), table.sum(1).min()
    print(f"all: {before} before, {sum(chosen)} so, {now} by the rule as it is; at best {least}")
    clip = ASSETS / "demo/three_readers.flac"
    for name in (OURS, ALIKE):
        talk = Talk.of(clip, ours([clip], name)[clip])
        now, before = talk.wrong(SpeakerOptions()), talk.wrong(PLAIN)
        print(f"{clip.name}, {name}: {before} of {len(talk.pairs)} wrong before, {now} by the rule as it is")


if __name__ == "__main__":
    main()

"""Whole diarizations against pyannote.audio's own pipeline, and both against references.

Both pipelines run with the weights bundled here on the same samples (diarize_networks.py). DER is
pyannote.metrics', overlap counted, within the recording: pyannote.audio's turns may end up to a second behind
it, where its last window is filled with zeros, and ours end with it. A collar of 0.25 s is NIST's, on either
side of a boundary, which pyannote.metrics calls 0.5.
"""

from __future__ import annotations

import diarize_networks  # isort: skip  # noqa: F401  (first: it restricts numpy, then loads MLX's BLAS)

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diarize_networks import SETTINGS, Ours, Theirs, ours, recordings, their_pipeline, theirs, title
from harness import Row, same
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.hub import ASSETS
from mlx_speech.pipeline import Diarizer
from mlx_speech.stages.cluster import cluster
from mlx_speech.stages.diarize import PRESETS, DiarizeOptions, assemble, speaker_count
from mlx_speech.stages.vbx import PLDA
from mlx_speech.types import Diarization, Turn

LIMIT = 0.001  # DER between ours and theirs: 0.1 %
COLLARS = (0.0, 0.25)
PARTS = {"missed detection": "missed", "false alarm": "false alarm", "confusion": "confusion"}


@dataclass(frozen=True)
class Compared:
    """One recording through both; ``theirs`` lacks the cases that they do not have."""

    name: str
    within: Timeline
    reference: Annotation | None
    ours: dict[str, Diarization]
    theirs: dict[str, Annotation]
    their_exclusive: dict[str, Annotation]


def run() -> list[Row]:
    """Rows of ours against theirs, then of both against the references."""
    warnings.filterwarnings("ignore")
    between, against, totals = [], [], Totals()
    for clip in compared(recordings()):
        between += [_between(clip, name) for name in clip.theirs]
        if clip.reference is not None:
            against += totals.add(clip)
    from diarize_precision import rows  # which uses this module

    return [_whole(), *between, *totals.rows(), *against, *rows()]


def compared(paths: list[Path]) -> Iterator[Compared]:
    """Both pipelines over recordings, each network run once and its numbers given to every clustering."""
    plda = PLDA.load(ASSETS / "plda")
    for path in paths:
        file = path.with_suffix(".rttm")
        reference = read_rttm(file) if file.exists() else None
        people = len(reference.labels()) if reference is not None else None
        duration = len(load_audio(path)) / SAMPLE_RATE
        found = {
            name: diarized(ours(path, options), options, plda, duration)
            for name, options in _cases(people).items()
        }
        their = {}
        for name, options in _cases(people).items():
            if name.split(",")[0] in SETTINGS:
                both = _theirs(theirs(path), name.split(",")[0], options.num_speakers)
                if both:
                    their[name] = both
                else:
                    del found[name]  # nothing to compare with
        yield Compared(
            title(path),
            Timeline([Segment(0, duration)]),
            reference,
            found,
            {name: both[0] for name, both in their.items()},
            {name: both[1] for name, both in their.items()},
        )


def _cases(people: int | None) -> dict[str, DiarizeOptions]:
    """The presets, and VBx told the number of speakers.

    With VBx only: where no cut of 3.1's tree has as many clusters, pyannote.audio keeps another number.
    """
    given = replace(PRESETS["community-1"], num_speakers=people)
    return {**PRESETS, **({"community-1, number given": given} if people else {})}


def diarized(heard: Ours, options: DiarizeOptions, plda: PLDA, duration: float) -> Diarization:
    """Our pipeline from the networks' outputs on."""
    clusters = cluster(
        heard.embeddings,
        heard.segmentation.active,
        options.clustering,
        options.bounds,
        plda=plda,
        min_active_ratio=options.min_active_ratio,
    )
    return assemble(heard.segmentation, clusters, speaker_count(heard.segmentation), options, duration)


def _theirs(heard: Theirs, name: str, people: int | None) -> tuple[Annotation, Annotation] | None:
    """pyannote.audio's pipeline from its networks' outputs on: turns, and exclusive turns.

    ``None`` where it stops because it has fewer clear embeddings than speakers were asked for.
    """
    pipeline: SpeakerDiarization = their_pipeline(name)
    windows = SlidingWindow(start=0.0, duration=10.0, step=1.0)
    pipeline.get_segmentations = lambda *_, **__: SlidingWindowFeature(heard.segmentation.copy(), windows)
    pipeline.get_embeddings = lambda *_, **__: heard.embeddings.copy()
    silence = {"waveform": torch.zeros(1, SAMPLE_RATE), "sample_rate": SAMPLE_RATE, "uri": "clip"}
    try:
        output = pipeline(silence, num_speakers=people)
    except ValueError as error:
        if "should be >= n_clusters" not in str(error):
            raise
        return None
    return output.speaker_diarization, output.exclusive_speaker_diarization


def _between(clip: Compared, name: str) -> Row:
    pairs = [
        (clip.theirs[name], annotation(clip.ours[name].turns)),
        (clip.their_exclusive[name], annotation(clip.ours[name].exclusive_turns)),
    ]
    rates = [DiarizationErrorRate()(t, o, uem=clip.within) if t else float(bool(o)) for t, o in pairs]
    return Row(
        f"{clip.name}, {name}: ours against pyannote.audio's",
        "DER of turns, of exclusive turns",
        " / ".join(f"{r:.4%}" for r in rates),
        f"{LIMIT:.1%}",
        max(rates) <= LIMIT,
        f"{len(clip.ours[name].speakers)} and {len(clip.theirs[name].labels())} speakers",
    )


def _whole() -> Row:
    """The pipeline itself against its networks and clustering put together here."""
    path = next(p for p in recordings() if p.stem == "sample")
    audio, diarizer = load_audio(path), Diarizer.load()
    different = [
        name
        for name, options in PRESETS.items()
        if diarizer.diarize(audio, name).turns
        != diarized(ours(path, options), options, diarizer.plda, len(audio) / SAMPLE_RATE).turns
    ]
    return same(f"{title(path)}: presets whose turns differ in one go and in parts", different, [])


def read_rttm(path: Path) -> Annotation:
    """Turns of an RTTM file."""
    found = Annotation()
    for number, line in enumerate(path.read_text().splitlines()):
        part = line.split()
        if part and part[0] == "SPEAKER":
            start = float(part[3])
            found[Segment(start, start + float(part[4])), number] = part[7]
    return found


def annotation(turns: tuple[Turn, ...]) -> Annotation:
    """Our turns as pyannote.core has them."""
    found = Annotation()
    for number, turn in enumerate(turns):
        found[Segment(turn.start, turn.end), number] = turn.speaker
    return found


class Totals:
    """Error rates against references, of each system and collar, over all recordings."""

    def __init__(self) -> None:
        self.rates: dict[tuple[str, str, float], DiarizationErrorRate] = {}
        self.speakers: dict[tuple[str, str], list[int]] = {}  # off by so many, of each recording

    def add(self, clip: Compared) -> list[Row]:
        """Rows of one recording."""
        rows = []
        people = len(clip.reference.labels())
        for name, found in clip.ours.items():
            mine = self._rates("ours", name, clip, annotation(found.turns))
            their = clip.theirs.get(name)
            its = self._rates("theirs", name, clip, their) if their is not None else None
            self.speakers.setdefault(("ours", name), []).append(len(found.speakers) - people)
            note = f"{people} speakers, ours {len(found.speakers)}"
            if their is not None:
                self.speakers.setdefault(("theirs", name), []).append(len(their.labels()) - people)
                note += f", pyannote.audio's {len(their.labels())}"
            rows.append(_rate_row(f"{clip.name}, {name}: against the reference", mine, its, note))
        return rows

    def rows(self) -> list[Row]:
        """Rows of all recordings together, by time, with the parts of the error at collar 0."""
        names = dict.fromkeys(name for _, name, _ in self.rates)
        return [
            _rate_row(
                f"all recordings, {name}: against the references",
                self._overall("ours", name),
                self._overall("theirs", name) if ("theirs", name, 0.0) in self.rates else None,
                "; ".join(
                    self._note(who, name) for who in ("ours", "theirs") if (who, name) in self.speakers
                ),
            )
            for name in names
        ]

    def _note(self, who: str, name: str) -> str:
        rate, off = self.rates[who, name, 0.0], self.speakers[who, name]
        parts = ", ".join(f"{word} {rate[part] / rate['total']:.3f}" for part, word in PARTS.items())
        right = f"the right number of speakers in {off.count(0)} of {len(off)}"
        return (
            f"{who}: {parts}, {right} (too many {sum(n > 0 for n in off)}, too few {sum(n < 0 for n in off)})"
        )

    def _overall(self, who: str, name: str) -> list[float]:
        return [abs(self.rates[who, name, collar]) for collar in COLLARS]

    def _rates(self, who: str, name: str, clip: Compared, found: Annotation) -> list[float]:
        rates = [self.rates.setdefault((who, name, c), DiarizationErrorRate(collar=2 * c)) for c in COLLARS]
        return [rate(clip.reference, found, uem=clip.within) for rate in rates]


def _rate_row(check: str, mine: list[float], their: list[float] | None, note: str) -> Row:
    measured, metric = " / ".join(f"{r:.3f}" for r in mine), "DER, collar 0 / 0.25"
    if their is None:
        return Row(check, metric, measured, "", True, note)
    fine = all(a <= b + LIMIT for a, b in zip(mine, their, strict=True))
    limit = "pyannote.audio " + " / ".join(f"{r:.3f}" for r in their)
    return Row(check, metric, measured, limit, fine, note)


if __name__ == "__main__":
    from harness import table

    print(table(run()))

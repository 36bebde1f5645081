"""How well known voices are told apart with the bundled embedding: writes parity/BENCH_IDENTIFY.md.

    python parity/bench_identify.py

Verification: an utterance's first half is enrolled, and pieces of its second half are compared with all enrolled
voices (251 people of LibriSpeech train-clean-100; both halves are one recording, which flatters); whole other
utterances of 7 people of test-other. Identification: sessions of simulated talk, diarized, among 7 known
people; two who speak in them are not known. Each trial's cosine also gives the line from which the confidence
is computed (stages/identify.py).
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.stages.embedding import embed_recording
from mlx_speech.stages.identify import THRESHOLD, IdentifyOptions, identify, name_speakers, similarities
from mlx_speech.types import Diarization, Voice

ROOT = Path(__file__).resolve().parents[1]
AUDIO = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"
PIECES = (None, 4, 2, 1)  # seconds of the second half; None is all of it
THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6)
Trials = tuple[np.ndarray, np.ndarray]
"""Cosines of one person's pairs, and of two people's."""


def main() -> None:
    """Measure everything, and write it down."""
    model = mlx_speech.load("wespeaker-resnet34-LM")
    trials = {**halves(model), **others(model)}
    lines = [
        "# Known voices",
        "",
        "Written by `python parity/bench_identify.py`. Cosines with the bundled embedding; at each threshold, one "
        "person's pairs that are missed and two people's that are accepted, in %.",
        "",
        "| trials | same | different | EER % | at | " + " | ".join(f"{t:g}" for t in THRESHOLDS) + " |",
        "|---" * (5 + len(THRESHOLDS)) + "|",
        *(row(name, *cosines) for name, cosines in trials.items()),
        "",
    ]
    slope, offset = line(trials)
    lines += [
        f"Confidence: 1 / (1 + exp(-({slope:.1f} · cosine {offset:+.1f}))), fitted on all of these.",
        "",
    ]
    lines += sessions(model)
    (ROOT / "parity" / "BENCH_IDENTIFY.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def halves(model: object) -> dict[str, Trials]:
    """Each reader of train-clean-100 against all."""
    enrolled, tested = [], defaultdict(list)
    for file in sorted((AUDIO / "librispeech_train").glob("*.flac")):
        samples = load_audio(file)
        middle = len(samples) // 2
        enrolled.append(embed_recording(model, samples[:middle]))
        for seconds in PIECES:
            end = len(samples) if seconds is None else middle + seconds * SAMPLE_RATE
            tested[seconds].append(embed_recording(model, samples[middle:end]))
    found = {}
    for seconds, rows in tested.items():
        cosines = similarities(np.array(rows), np.array(enrolled))
        same = np.eye(len(cosines), dtype=bool)
        what = "the other half" if seconds is None else f"{seconds} s of it"
        found[f"half an utterance, {what}"] = (cosines[same], cosines[~same])
    return found


def utterances(model: object) -> dict[str, dict[str, np.ndarray]]:
    """Speaker → utterance → embedding, of test-other."""
    found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for file in sorted((AUDIO / "librispeech_test_other").glob("*.flac")):
        found[file.stem.split("-")[0]][file.stem] = embed_recording(model, load_audio(file))
    return found


def others(model: object) -> dict[str, Trials]:
    """Utterances of test-other against one, and against three enrolled ones."""
    found = {}
    people = utterances(model)
    for count in (1, 3):
        voices = np.array([mean(list(rows.values())[:count]) for rows in people.values()])
        rest = [(k, e) for k, rows in enumerate(people.values()) for e in list(rows.values())[count:]]
        cosines = similarities(np.array([e for _, e in rest]), voices)
        same = np.array([k for k, _ in rest])[:, None] == np.arange(len(voices))
        found[f"{count} utterance{'s' * (count > 1)}, another one"] = (cosines[same], cosines[~same])
    return found


def mean(rows: list[np.ndarray]) -> np.ndarray:
    """The mean direction."""
    return np.mean([x / np.linalg.norm(x) for x in rows], axis=0)


def row(name: str, same: np.ndarray, different: np.ndarray) -> str:
    """A line of the table."""
    scan = np.linspace(-1, 1, 2001)
    missed = np.array([(same < t).mean() for t in scan])
    accepted = np.array([(different >= t).mean() for t in scan])
    at = int(np.argmin(np.abs(missed - accepted)))
    cells = [f"{100 * (same < t).mean():.1f} / {100 * (different >= t).mean():.2f}" for t in THRESHOLDS]
    eer = 50 * (missed[at] + accepted[at])
    return f"| {name} | {len(same)} | {len(different)} | {eer:.2f} | {scan[at]:.2f} | {' | '.join(cells)} |"


def line(trials: dict[str, Trials]) -> tuple[float, float]:
    """Logistic regression of "same" on the cosine, both kinds of pairs weighing the same."""
    same = np.concatenate([s for s, _ in trials.values()])
    different = np.concatenate([d for _, d in trials.values()])

    def loss(p: np.ndarray) -> float:
        return float(
            np.logaddexp(0, -(p[0] * same + p[1])).mean() + np.logaddexp(0, p[0] * different + p[1]).mean()
        )

    slope, offset = minimize(loss, np.array([10.0, -4.0])).x
    return slope, offset


def sessions(model: object) -> list[str]:
    """Diarize the simulated sessions and name their speakers."""
    people = utterances(model)
    diarizer = mlx_speech.Diarizer.load()
    lines = [
        f"Sessions, threshold {THRESHOLD}, 7 people known by the utterances that the sessions do not use:",
        "",
        "| session | people | of them known | named rightly | wrongly | highest cosine to a wrong one |",
        "|---|---|---|---|---|---|",
    ]
    for file in sorted((AUDIO / "sim_librispeech").glob("*.rttm")):
        used = [part.strip("<>") for part in file.with_suffix(".stm").read_text().split() if part[0] == "<"]
        known = []
        for person, rows in people.items():
            left = [e for name, e in rows.items() if name not in used]
            vector = mean(left)
            known.append(Voice(person, (vector / np.linalg.norm(vector)).astype(np.float32), 1.0, len(left)))
        audio = next(p for p in (file.with_suffix(".flac"), file.with_suffix(".wav")) if p.exists())
        found = diarizer.diarize(audio)
        truth = reference(file, found)
        cosines = similarities(found.embeddings, np.stack([v.embedding for v in known]))
        wrong = [
            cosines[k, v]
            for k, s in enumerate(found.speakers)
            for v, w in enumerate(known)
            if truth[s] != w.name
        ]
        named = identify(found.embeddings, found.speakers, known, IdentifyOptions())
        right = sum(truth[i.label] == i.name for i in named)
        name_speakers(found, named)
        there = set(truth.values())
        lines.append(
            f"| {file.stem} | {len(there)} | {len(there & set(people))} | {right} | {len(named) - right} "
            f"| {max(wrong):.2f} |"
        )
    return lines


def reference(rttm: Path, found: Diarization) -> dict[str, str]:
    """Whom each speaker found is, by the time they share."""
    turns = [
        (float(p[3]), float(p[3]) + float(p[4]), p[7]) for p in map(str.split, rttm.read_text().splitlines())
    ]
    shared: dict[str, dict[str, float]] = {s: defaultdict(float) for s in found.speakers}
    for turn in found.turns:
        for start, end, who in turns:
            shared[turn.speaker][who] += max(0.0, min(end, turn.end) - max(start, turn.start))
    return {speaker: max(times, key=lambda who: times[who]) for speaker, times in shared.items()}


if __name__ == "__main__":
    main()

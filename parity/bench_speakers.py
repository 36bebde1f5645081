"""Who says a word: our rule beside WhisperX's, on the same words and turns, and the pipeline's error rates.

    python parity/bench_speakers.py     # writes parity/BENCH_SPEAKERS.md

Whisper tiny.en, the bundled aligner and the preset ``fast`` make words and turns; WhisperX's own
``assign_word_speakers`` and ours give them to speakers. The costs of our rule were chosen on these recordings.
WER and cpWER are after Whisper's English normaliser; the word-speaker error is the share of the words matched to
the reference that have another speaker under the best mapping of names; DER counts overlap, without a collar.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

import mlx_speech
from mlx_speech import Transcriber, Transcript
from mlx_speech.stages.speakers import SpeakerOptions, assign_speakers

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
CLIPS = ("pyannote_sample/*.wav", "kokoro_dialog/*.flac", "sim_librispeech/*.flac")
Spoken = list[tuple[str, str]]
"""Speaker and word, in order."""


def normal(text: str) -> list[str]:
    from whisper.normalizers import EnglishTextNormalizer

    return EnglishTextNormalizer()(text).split()


def reference(audio: Path) -> Spoken:
    """The words of the .stm beside a recording."""
    rows = [line.split(None, 5) for line in audio.with_suffix(".stm").read_text().splitlines()]
    rows = sorted((r for r in rows if len(r) == 6), key=lambda r: float(r[3]))
    return [(r[2], word) for r in rows for word in normal(re.sub(r"^<[^>]*>", "", r[5]))]


def hypothesis(words: Iterable[tuple[str, str | None]]) -> Spoken:
    return [(speaker or "nobody", w) for text, speaker in words for w in normal(text)]


def matched(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """Pairs of an alignment with the fewest edits, wrong words included."""
    cost = np.zeros((len(a) + 1, len(b) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            cost[i, j] = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + (x != y))
    pairs, i, j = [], len(a), len(b)
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs


def errors(want: Spoken, found: Spoken) -> dict[str, np.ndarray]:
    """Errors and how many could be made: of words, of words by speaker, and of speakers of matched words."""
    import jiwer
    import meeteval

    pairs = matched([w for _, w in want], [w for _, w in found])
    rows, columns = ({s: n for n, s in enumerate(sorted({s for s, _ in x}))} for x in (want, found))
    both = np.zeros((len(rows), len(columns)))
    for i, j in pairs:
        both[rows[want[i][0]], columns[found[j][0]]] += 1
    right = both[linear_sum_assignment(-both)].sum()
    one = jiwer.process_words(" ".join(w for _, w in want), " ".join(w for _, w in found))
    cp = meeteval.wer.cp_word_error_rate(_by_speaker(want), _by_speaker(found))
    return {
        "WER": np.array([one.substitutions + one.deletions + one.insertions, len(want)]),
        "cpWER": np.array([cp.errors, cp.length]),
        "word-speaker error": np.array([len(pairs) - right, len(pairs)]),
    }


def _by_speaker(spoken: Spoken) -> dict[str, str]:
    out: dict[str, list[str]] = {}
    for speaker, word in spoken:
        out.setdefault(speaker, []).append(word)
    return {speaker: " ".join(words) for speaker, words in out.items()}


def whisperx_rule(transcript: Transcript) -> list[tuple[str, str | None]]:
    """WhisperX's own function on our words and turns."""
    import pandas as pd
    from whisperx.diarize import assign_word_speakers

    turns = [(t.start, t.end, t.speaker) for t in transcript.diarization.turns]
    segments = [
        {
            "start": s.start,
            "end": s.end,
            "words": [{"word": w.text, "start": w.start, "end": w.end} for w in s.words],
        }
        for s in transcript.segments
    ]
    frame = pd.DataFrame(turns, columns=["start", "end", "speaker"])
    found = assign_word_speakers(frame, {"segments": segments})
    return [(w["word"], w.get("speaker")) for s in found["segments"] for w in s["words"]]


def our_rule(options: SpeakerOptions) -> Callable[[Transcript], list[tuple[str, str | None]]]:
    def rule(transcript: Transcript) -> list[tuple[str, str | None]]:
        given = assign_speakers(transcript.segments, transcript.diarization, options)
        return [(w.text, w.speaker) for s in given for w in s.words]

    return rule


RULES: dict[str, Callable[[Transcript], list[tuple[str, str | None]]]] = {
    "ours": our_rule(SpeakerOptions()),
    "ours, half from the exclusive turns": our_rule(SpeakerOptions(exclusive=0.5)),
    "ours, changes free": our_rule(SpeakerOptions(switch=0, switch_at_pause=0, switch_at_sentence=0)),
    "WhisperX's `assign_word_speakers`": whisperx_rule,
}


def error_rate(audio: Path, found: Any) -> np.ndarray:
    """Seconds of diarization error, and seconds of speech."""
    from pyannote.core import Annotation, Segment
    from pyannote.metrics.diarization import DiarizationErrorRate

    want, ours = Annotation(), Annotation()
    for n, line in enumerate(audio.with_suffix(".rttm").read_text().splitlines()):
        part = line.split()
        start = float(part[3])
        want[Segment(start, start + float(part[4])), n] = part[7]
    for n, turn in enumerate(found.turns):
        ours[Segment(turn.start, turn.end), n] = turn.speaker
    detail = DiarizationErrorRate()(want, ours, detailed=True)
    wrong = detail["missed detection"] + detail["false alarm"] + detail["confusion"]
    return np.array([wrong, detail["total"]])


def report(transcripts: dict[Path, Transcript], meetings: dict[Path, Any]) -> str:
    """Both tables in Markdown."""
    lines = ["| rule | set | WER | cpWER | word-speaker error |", "|---|---|---|---|---|"]
    for name, rule in RULES.items():
        sums: dict[str, dict[str, np.ndarray]] = {}
        for audio, transcript in transcripts.items():
            for key, value in errors(reference(audio), hypothesis(rule(transcript))).items():
                for group in (audio.parent.name, "all"):
                    row = sums.setdefault(group, {})
                    row[key] = row.get(key, 0) + value
        for group in [g for g in sums if g != "all"] + ["all"]:
            rates = " | ".join(f"{100 * v[0] / v[1]:.1f} %" for v in sums[group].values())
            lines.append(f"| {name} | {group} | {rates} |")
    lines += ["", "| set | DER |", "|---|---|"]
    found = {a: t.diarization for a, t in transcripts.items()} | meetings
    totals: dict[str, np.ndarray] = {}
    for audio, diarization in found.items():
        totals[audio.parent.name] = totals.get(audio.parent.name, 0) + error_rate(audio, diarization)
    lines += [f"| {group} | {100 * v[0] / v[1]:.1f} % |" for group, v in totals.items()]
    return "\n".join(lines)


def main() -> None:
    warnings.filterwarnings("ignore")
    if not any((DATA / "audio").glob(CLIPS[0])):
        sys.exit(f"no recordings in {DATA}: set MLX_SPEECH_DATA")
    transcriber = Transcriber.load("whisper-tiny.en", align="auto", diarize=True)
    transcripts = {a: transcriber.transcribe(a) for c in CLIPS for a in sorted((DATA / "audio").glob(c))}
    diarizer = transcriber.diarizer
    meetings = {a: diarizer.diarize(a) for a in sorted((DATA / "audio").glob("ami/*.wav"))}
    text = f"# Who says a word\n\n{__doc__.split('.md', 1)[1].strip()}\n\n{report(transcripts, meetings)}\n"
    (ROOT / "parity/BENCH_SPEAKERS.md").write_text(
        f"Written by `python parity/bench_speakers.py` (mlx_speech {mlx_speech.__version__}).\n\n{text}",
        encoding="utf-8",
    )
    print(text)


if __name__ == "__main__":
    sys.exit(main())

"""Who says a word: our rule beside WhisperX's, on the same words and turns, and the pipeline's error rates.

    python parity/bench_speakers.py     # writes parity/BENCH_SPEAKERS.md; goes on where it was stopped

Whisper tiny.en, the bundled aligner and the preset ``fast`` make words and turns; WhisperX's own
``assign_word_speakers`` and ours give them to speakers. The costs of our rule were chosen on these recordings.
WER and cpWER are after Whisper's English normaliser; the word-speaker error is the share of the words matched to
the reference that have another speaker under the best mapping of names; DER counts overlap, without a collar.
Word boundaries are beginnings and ends of words that both sides have: those of ``kokoro_dialog`` against the
synthesiser's durations (which run 20 to 34 ms late), those of ``pyannote_sample`` against people's, who marked
phrases, so that a phrase's outer words count. ``sim_librispeech`` knows its words but not when they are said,
``ami`` not even the words. A recording's transcript and turns stay in ``out/speakers`` until the code changes.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

import mlx_speech
from mlx_speech import Diarization, Diarizer, Transcriber, Transcript
from mlx_speech.stages.speakers import SpeakerOptions, assign_speakers

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
KEPT = ROOT / "out/speakers"
CLIPS = ("pyannote_sample/*.wav", "kokoro_dialog/*.flac", "sim_librispeech/*.flac")
MEETINGS = "ami/*.wav"
COLUMNS = ("WER", "cpWER", "word-speaker error")
Spoken = list[tuple[str, str]]
"""Speaker and word, in order."""
Timed = list[tuple[str, float | None, float | None]]
"""Words, and where they begin and end as far as that is known."""


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


def timed_reference(audio: Path) -> Timed:
    """Words of the .ctm beside a recording, else the phrases of its .stm; nothing where those are guesses."""
    file = audio.with_suffix(".ctm")
    if file.exists():
        rows = [line.split(None, 4) for line in file.read_text().splitlines()]
        spans = [(float(r[2]), float(r[2]) + float(r[3]), r[4]) for r in rows if len(r) == 5]
    elif audio.parent.name == "pyannote_sample":
        rows = [line.split(None, 5) for line in audio.with_suffix(".stm").read_text().splitlines()]
        spans = [(float(r[3]), float(r[4]), r[5]) for r in rows if len(r) == 6]
    else:
        spans = []
    return timed(sorted(spans))


def timed(spans: Iterable[tuple[float, float, str]]) -> Timed:
    """The first word of each text begins where it begins, the last one ends where it ends."""
    found: Timed = []
    for start, end, text in spans:
        words = normal(text)
        last = len(words) - 1
        found += [(w, start if n == 0 else None, end if n == last else None) for n, w in enumerate(words)]
    return found


def boundaries(audio: Path, transcript: Transcript) -> list[float]:
    """Distances of beginnings and ends from the reference, in seconds."""
    want = timed_reference(audio)
    spoken = (w for s in transcript.segments for w in s.words)
    found = timed((w.start, w.end, w.text) for w in spoken)
    pairs = matched([w[0] for w in want], [w[0] for w in found]) if want else []
    both = [(want[i], found[j]) for i, j in pairs if want[i][0] == found[j][0]]
    edges = [(a[k], b[k]) for a, b in both for k in (1, 2)]
    return [abs(x - y) for x, y in edges if x is not None and y is not None]


def report(transcripts: dict[Path, Transcript], meetings: dict[Path, Diarization]) -> str:
    """The table in Markdown: a row for each rule and set, and at last the meetings'."""
    lines = [
        f"| rule | set | {' | '.join(COLUMNS)} | DER | word boundaries: mean, median |",
        "|---" * 7 + "|",
    ]
    rates = {audio: error_rate(audio, t.diarization) for audio, t in transcripts.items()}
    edges = {audio: boundaries(audio, t) for audio, t in transcripts.items()}
    groups = list(dict.fromkeys(audio.parent.name for audio in transcripts))
    for name, rule in RULES.items():
        counts = {a: errors(reference(a), hypothesis(rule(t))) for a, t in transcripts.items()}
        for group in (*groups, "all"):
            inside = [a for a in transcripts if group in (a.parent.name, "all")]
            sums = [sum(counts[a][key] for a in inside) for key in COLUMNS]
            cells = [_percent(v) for v in (*sums, sum(rates[a] for a in inside))]
            cells.append(_milliseconds([e for a in inside for e in edges[a]]))
            lines.append(f"| {name} | {group} | {' | '.join(cells)} |")
    if meetings:
        total = _percent(sum(error_rate(a, d) for a, d in meetings.items()))
        lines.append(f"| | {next(iter(meetings)).parent.name} | – | – | – | {total} | – |")
    return "\n".join(lines)


def _percent(errors_of: Any) -> str:
    return f"{100 * errors_of[0] / errors_of[1]:.1f} %"


def _milliseconds(distances: list[float]) -> str:
    if not distances:
        return "–"
    return f"{1000 * np.mean(distances):.0f}, {1000 * np.median(distances):.0f} ms ({len(distances)})"


def kept(audio: Path, compute: Callable[[Path], Any]) -> Any:
    """What ``compute`` makes of a recording, from disk where this code made it before."""
    digest = hashlib.sha256(audio.read_bytes())
    for source in sorted((ROOT / "mlx_speech").rglob("*.py")):
        digest.update(source.read_bytes())
    path = KEPT / f"{audio.parent.name}.{audio.stem}.{digest.hexdigest()[:12]}.pickle"
    if not path.exists():
        begun = perf_counter()
        found = compute(audio)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.part")
        beside.write_bytes(pickle.dumps(found))
        beside.replace(path)
        print(f"{path.name}: {perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
    return pickle.loads(path.read_bytes())


def main() -> None:
    warnings.filterwarnings("ignore")
    if not any((DATA / "audio").glob(CLIPS[0])):
        sys.exit(f"no recordings in {DATA}: set MLX_SPEECH_DATA")
    transcriber = Transcriber.load("whisper-tiny.en", align="auto", diarize=True)
    transcripts = {
        audio: kept(audio, transcriber.transcribe)
        for pattern in CLIPS
        for audio in sorted((DATA / "audio").glob(pattern))
    }
    diarizer = transcriber.diarizer or Diarizer.load()
    meetings = {a: kept(a, diarizer.diarize) for a in sorted((DATA / "audio").glob(MEETINGS))}
    table = report(transcripts, meetings)
    told = __doc__.split("it was stopped", 1)[1].strip()
    (ROOT / "parity/BENCH_SPEAKERS.md").write_text(
        f"# Who says a word\n\nWritten by `python parity/bench_speakers.py` (mlx_speech "
        f"{mlx_speech.__version__}).\n\n{told}\n\n{table}\n",
        encoding="utf-8",
    )
    print(table)


if __name__ == "__main__":
    main()

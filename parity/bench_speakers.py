"""Words, speakers and times beside WhisperX's; and who says a word: our rule beside WhisperX's on the same words.

    python parity/bench_speakers.py     # writes parity/BENCH_SPEAKERS.md; goes on where it was stopped

Ours is Whisper tiny.en (greedy), the bundled aligner and the preset ``fast``, and once more as WhisperX decodes
and diarizes: beams of 5, ``community-1``. WhisperX's is whisperx_speech.py's: its VAD, its recogniser with its
default of 5 beams, its ``align`` with the bundled aligner made as spiky as its rule wants one (its own are not to
be had here), pyannote.audio's community-1 and its rule. WER and cpWER are after Whisper's English normaliser; the
word-speaker error is the share of the words matched to the reference that have another speaker, or none, under the
best mapping of names. A word is matched, right or wrong, to one of a phrase within whose times its middle lies,
give or take half a second: otherwise "I need to", said over "Neither did I", is taken for the next speaker's "I
thought you". DER counts overlap, without a collar. Word boundaries are beginnings and ends of words that both
sides have: those of ``kokoro_dialog`` against the synthesiser's durations (which run 20 to 34 ms late), those of
``pyannote_sample`` against people's, who marked phrases, so that a phrase's outer words count. ``sim_librispeech``
knows its words but not when they are said, ``ami`` not even the words. The costs of our rule were chosen on these
recordings (speaker_costs.py leaves each out in turn). A recording's transcript and turns stay in ``out/speakers``
until our code or weights change, WhisperX's in ``out/whisperx`` until its packages do.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

import mlx_speech
from mlx_speech import DecodeOptions, Diarization, Segment, TranscribeOptions, Transcriber, Transcript, Turn
from mlx_speech.stages.speakers import SpeakerOptions, assign_speakers

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data"))
KEPT = ROOT / "out/speakers"
CLIPS = ("pyannote_sample/*.wav", "kokoro_dialog/*.flac", "sim_librispeech/*.flac")
MEETINGS = "ami/*.wav"
COLUMNS = ("WER", "cpWER", "word-speaker error")
Said = tuple[str, float | None, float | None, str | None]
"""A word, where it begins and ends, and who says it, as far as that is known."""
Timed = list[tuple[str, float | None, float | None]]
"""Words, and where they begin and end as far as that is known."""
Rule = Callable[[Transcript], list[Said]]
_NEAR = 0.5  # seconds from a phrase within which a word may belong to it


@dataclass(frozen=True)
class Spoken:
    """A word of normal spelling; of the reference, with its phrase's times."""

    speaker: str
    word: str
    start: float | None
    end: float | None


@cache
def normaliser() -> Callable[[str], str]:
    from whisper.normalizers import EnglishTextNormalizer

    return EnglishTextNormalizer()


@cache
def normal(text: str) -> tuple[str, ...]:
    return tuple(normaliser()(text).split())


def reference(audio: Path) -> list[Spoken]:
    """The words of the .stm beside a recording."""
    rows = [line.split(None, 5) for line in audio.with_suffix(".stm").read_text().splitlines()]
    rows = sorted((r for r in rows if len(r) == 6), key=lambda r: float(r[3]))
    return [
        Spoken(r[2], word, float(r[3]), float(r[4]))
        for r in rows
        for word in normal(re.sub(r"^<[^>]*>", "", r[5]))
    ]


def hypothesis(words: Iterable[Said]) -> list[Spoken]:
    return [Spoken(who or "nobody", w, start, end) for text, start, end, who in words for w in normal(text)]


def near(phrase: Spoken, word: Spoken) -> bool:
    """Whether a word is said in a phrase, as far as is known."""
    if None in (phrase.start, phrase.end, word.start, word.end):
        return True
    return phrase.start - _NEAR <= (word.start + word.end) / 2 <= phrase.end + _NEAR


def matched(want: Sequence[Spoken], found: Sequence[Spoken]) -> list[tuple[int, int]]:
    """Pairs of an alignment with the fewest edits, wrong words included."""
    never = len(want) + len(found)
    swap = np.array([[a.word != b.word if near(a, b) else never for b in found] for a in want], int)
    cost = np.zeros((len(want) + 1, len(found) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(want) + 1), np.arange(len(found) + 1)
    for i in range(1, len(want) + 1):
        for j in range(1, len(found) + 1):
            cost[i, j] = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + swap[i - 1, j - 1])
    pairs, i, j = [], len(want), len(found)
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + swap[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs


def errors(want: Sequence[Spoken], found: Sequence[Spoken]) -> dict[str, np.ndarray]:
    """Errors and how many could be made: of words, of words by speaker, and of speakers of matched words."""
    import jiwer
    import meeteval

    one = jiwer.process_words(" ".join(w.word for w in want), " ".join(w.word for w in found))
    cp = meeteval.wer.cp_word_error_rate(_by_speaker(want), _by_speaker(found))
    return {
        "WER": np.array([one.substitutions + one.deletions + one.insertions, len(want)]),
        "cpWER": np.array([cp.errors, cp.length]),
        "word-speaker error": speaker_errors(want, found, matched(want, found)),
    }


def speaker_errors(
    want: Sequence[Spoken], found: Sequence[Spoken], pairs: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Matched words with the wrong speaker, and matched words."""
    rows, columns = ({s: n for n, s in enumerate(sorted({w.speaker for w in x}))} for x in (want, found))
    both = np.zeros((len(rows), len(columns)))
    for i, j in pairs:
        both[rows[want[i].speaker], columns[found[j].speaker]] += 1
    return np.array([len(pairs) - both[linear_sum_assignment(-both)].sum(), len(pairs)])


def _by_speaker(spoken: Iterable[Spoken]) -> dict[str, str]:
    out: dict[str, list[str]] = {}
    for w in spoken:
        out.setdefault(w.speaker, []).append(w.word)
    return {speaker: " ".join(words) for speaker, words in out.items()}


def whisperx_rule(transcript: Transcript) -> list[Said]:
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
    return [
        (w["word"], w["start"], w["end"], w.get("speaker")) for s in found["segments"] for w in s["words"]
    ]


def our_rule(options: SpeakerOptions) -> Rule:
    def rule(transcript: Transcript) -> list[Said]:
        return said(assign_speakers(transcript.segments, transcript.diarization, options))

    return rule


def said(segments: Iterable[Segment]) -> list[Said]:
    """Our words."""
    return [(w.text, w.start, w.end, w.speaker) for s in segments for w in s.words]


RULES: dict[str, Rule] = {
    "ours": our_rule(SpeakerOptions()),
    "ours, half from the exclusive turns": our_rule(SpeakerOptions(exclusive=0.5)),
    "ours, changes free": our_rule(SpeakerOptions(switch=0, switch_at_pause=0, switch_at_sentence=0)),
    "ours, words of all lengths alike": our_rule(SpeakerOptions(switch_at_pause=0, length=0)),
    "WhisperX's `assign_word_speakers`": whisperx_rule,
}


def error_rate(audio: Path, turns: Iterable[Turn]) -> np.ndarray:
    """Seconds of diarization error, and seconds of speech."""
    from pyannote.core import Annotation, Segment
    from pyannote.metrics.diarization import DiarizationErrorRate

    want, ours = Annotation(), Annotation()
    for n, line in enumerate(audio.with_suffix(".rttm").read_text().splitlines()):
        part = line.split()
        start = float(part[3])
        want[Segment(start, start + float(part[4])), n] = part[7]
    for n, turn in enumerate(turns):
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


def boundaries(audio: Path, words: Iterable[Said]) -> list[float]:
    """Distances of beginnings and ends from the reference, in seconds."""
    want = timed_reference(audio)
    found = timed((start, end, text) for text, start, end, _ in words)
    plain = ([Spoken("", w, None, None) for w, _, _ in side] for side in (want, found))
    pairs = matched(*plain) if want else []
    both = [(want[i], found[j]) for i, j in pairs if want[i][0] == found[j][0]]
    edges = [(a[k], b[k]) for a, b in both for k in (1, 2)]
    return [abs(x - y) for x, y in edges if x is not None and y is not None]


@dataclass(frozen=True)
class Heard:
    """What one system makes of a recording."""

    words: Sequence[Said]
    turns: Sequence[Turn]

    @classmethod
    def ours(cls, found: Transcript | Diarization) -> Heard:
        """A transcript's words and turns, or turns alone."""
        if isinstance(found, Diarization):
            return cls((), found.turns)
        return cls(said(found.segments), found.diarization.turns if found.diarization else ())


OURS, ALIKE, THEIRS = "ours", "ours, beams of 5, `community-1`", "WhisperX's"
SETTINGS = {OURS: ("fast", DecodeOptions()), ALIKE: ("community-1", DecodeOptions(beam_size=5))}


def compare(systems: dict[str, dict[Path, Heard]]) -> str:
    """A table in Markdown: the systems below each other, set by set."""
    lines = [
        f"| set | system | {' | '.join(COLUMNS)} | DER | word boundaries: mean, median |",
        "|---" * 7 + "|",
    ]
    recordings = list(systems[OURS])
    spoken = [a for a in recordings if systems[OURS][a].words]
    groups = {a.parent.name: [b for b in recordings if b.parent.name == a.parent.name] for a in recordings}
    for group, inside in {**groups, "all with words": spoken}.items():
        for name, heard in systems.items():
            cells = ["–"] * len(COLUMNS)
            if inside[0] in spoken:
                counts = [errors(reference(a), hypothesis(heard[a].words)) for a in inside]
                cells = [_percent(sum(c[key] for c in counts)) for key in COLUMNS]
            cells.append(_percent(sum(error_rate(a, heard[a].turns) for a in inside)))
            cells.append(_milliseconds([e for a in inside for e in boundaries(a, heard[a].words)]))
            lines.append(f"| {group} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rules(transcripts: dict[Path, Transcript]) -> str:
    """A table in Markdown: a row for each rule and set, on our words and turns."""
    lines = ["| rule | set | cpWER | word-speaker error |", "|---" * 4 + "|"]
    groups = list(dict.fromkeys(audio.parent.name for audio in transcripts))
    for name, rule in RULES.items():
        counts = {a: errors(reference(a), hypothesis(rule(t))) for a, t in transcripts.items()}
        for group in (*groups, "all"):
            inside = [a for a in transcripts if group in (a.parent.name, "all")]
            cells = [_percent(sum(counts[a][key] for a in inside)) for key in COLUMNS[1:]]
            lines.append(f"| {name} | {group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(errors_of: Any) -> str:
    return f"{100 * errors_of[0] / errors_of[1]:.1f} %"


def _milliseconds(distances: list[float]) -> str:
    if not distances:
        return "–"
    return f"{1000 * np.mean(distances):.0f}, {1000 * np.median(distances):.0f} ms ({len(distances)})"


@cache
def code() -> bytes:
    """A digest of our sources and bundled weights."""
    digest = hashlib.sha256()
    for pattern in ("*.py", "assets/*/*.safetensors"):
        for file in sorted((ROOT / "mlx_speech").rglob(pattern)):
            digest.update(file.read_bytes())
    return digest.digest()


def kept(audio: Path, name: str, compute: Callable[[Path], Any]) -> Any:
    """What ``compute`` makes of a recording, from disk where this code and these weights made it before."""
    digest = hashlib.sha256(audio.read_bytes() + code())
    path = KEPT / f"{audio.parent.name}.{audio.stem}.{name}.{digest.hexdigest()[:12]}.pickle"
    if not path.exists():
        begun = perf_counter()
        found = compute(audio)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.part")
        beside.write_bytes(pickle.dumps(found))
        beside.replace(path)
        print(f"{path.name}: {perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
    return pickle.loads(path.read_bytes())


def ours(recordings: Sequence[Path], system: str) -> dict[Path, Any]:
    """Transcripts with speakers; of meetings, whose words nobody has written down, turns alone."""
    preset, decode = SETTINGS[system]
    transcriber = Transcriber.load("whisper-tiny.en", align="auto", diarize=True)
    diarizer = transcriber.diarizer
    assert diarizer
    whole = partial(transcriber.transcribe, options=TranscribeOptions(decode=decode), diarize=preset)
    turns = partial(diarizer.diarize, options=preset)
    meetings = Path(MEETINGS).parent.name
    return {a: kept(a, preset, turns if a.parent.name == meetings else whole) for a in recordings}


def theirs(recordings: Sequence[Path]) -> dict[Path, Heard]:
    """WhisperX's, as far as whisperx_speech.py has not made it before."""
    import whisperx_speech
    from whisperx_speech import kept, turns, words

    spoken = {a for pattern in whisperx_speech.WORDS for a in (DATA / "audio").glob(pattern)}
    return {
        a: Heard(
            [tuple(w) for w in kept(a, words)] if a in spoken else [], [Turn(*t) for t in kept(a, turns)]
        )
        for a in recordings
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    recordings = [a for pattern in (*CLIPS, MEETINGS) for a in sorted((DATA / "audio").glob(pattern))]
    if not recordings:
        sys.exit(f"no recordings in {DATA}: set MLX_SPEECH_DATA")
    found = {name: ours(recordings, name) for name in SETTINGS}
    heard = {name: {a: Heard.ours(x) for a, x in some.items()} for name, some in found.items()}
    table = compare(heard | {THEIRS: theirs(recordings)})
    words = rules({a: t for a, t in found[OURS].items() if isinstance(t, Transcript)})
    told = __doc__.split("it was stopped", 1)[1].strip()
    (ROOT / "parity/BENCH_SPEAKERS.md").write_text(
        f"# Words and speakers beside WhisperX\n\nWritten by `python parity/bench_speakers.py` (mlx_speech "
        f"{mlx_speech.__version__}).\n\n{told}\n\n{table}\n\n## Who says a word\n\nRules on the same words and "
        f"turns: ours of the first row of each set.\n\n{words}\n",
        encoding="utf-8",
    )
    print(table, words, sep="\n\n")


if __name__ == "__main__":
    main()

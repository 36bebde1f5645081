"""Word boundaries against people's and a synthesiser's: mini aligner, blank-stay trellis, Whisper's DTW.

Words given: every system times the reference words. Words recognised: Whisper tiny.en writes them, and those
that match the reference (longest common subsequence) are counted. Errors are of starts and ends together.
"Middle" is the bias of the middle between neighbours that stand closer than 0.15 s in the reference, whatever
gap a system or a reference leaves there. Also: how late words are beside the energy at pauses, a second opinion
on the lag; and what a low probability tells, by giving an aligner another clip's words.

    python parity/bench_alignment.py        # writes parity/BENCH_ALIGNMENT.md
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.stages import timing
from mlx_speech.stages.align import align_segments
from mlx_speech.stages.aligners import known_lag
from mlx_speech.stages.emissions import Listener
from mlx_speech.stages.placing import AlignOptions
from mlx_speech.stages.transcribe import encode
from mlx_speech.types import Segment, Word

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLX_SPEECH_DATA", ROOT.parent / "shared/data")) / "audio"
MINI = "wav2vec2-mini-en"
TIMES = Callable[[np.ndarray, list[Segment]], list[Segment]]


@dataclass(frozen=True)
class Clip:
    """A recording, its phrases with rough times, and its words with exact ones."""

    name: str
    audio: np.ndarray
    segments: tuple[Segment, ...]
    words: tuple[Word, ...]


# --- reference ----------------------------------------------------------------------------------------------


def emur() -> Iterator[Clip]:
    """Words that people labelled: the tier "Text"."""
    for path in sorted((DATA / "wordtimes_emur").glob("*.TextGrid")):
        tier = path.read_text(encoding="utf-8").split('name = "Text"')[1].split("item [")[0]
        found = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "(.*?)"', tier)
        # one word is a "*"
        words = tuple(Word(t.strip(), float(a), float(b), 1.0) for a, b, t in found if re.search(r"\w", t))
        audio = load_audio(path.with_suffix(".wav"))
        text = " ".join(w.text for w in words)
        segment = Segment(0.0, len(audio) / SAMPLE_RATE, text, language="en")
        yield Clip(path.stem, audio, (segment,), words)


def kokoro() -> Iterator[Clip]:
    """A synthetic call; the words' times are the synthesiser's."""
    folder = DATA / "kokoro_dialog"
    for path in sorted(folder.glob("*.ctm")):
        spoken: dict[str, list[Word]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            _, speaker, start, length, text = line.split()
            word = Word(text, float(start), float(start) + float(length), 1.0)
            spoken.setdefault(speaker, []).append(word)
        segments, words = [], []
        for line in path.with_suffix(".stm").read_text(encoding="utf-8").splitlines():
            _, _, speaker, start, end, text = line.split(maxsplit=5)
            segments.append(Segment(float(start), float(end), text, language="en"))
            words += [spoken[speaker].pop(0) for _ in text.split()]
        assert [w.text for w in words] == [t for s in segments for t in s.text.split()]
        yield Clip(path.stem, load_audio(path.with_suffix(".flac")), tuple(segments), tuple(words))


# --- systems ------------------------------------------------------------------------------------------------


def aligner(listener: Listener, **options: object) -> TIMES:
    """Ours."""
    return lambda audio, segments: align_segments({"en": listener}, audio, segments, AlignOptions(**options))  # type: ignore[arg-type]


def whisper_dtw(pair: object, original: bool) -> TIMES:
    """Whisper's cross-attention, each phrase on its own audio, ours or openai-whisper's."""
    import whisper
    from whisper import timing as original_timing

    def times(audio: np.ndarray, segments: list[Segment]) -> list[Segment]:
        out = []
        for s in segments:
            part = audio[round(s.start * SAMPLE_RATE) : round(s.end * SAMPLE_RATE)]
            duration = len(part) / SAMPLE_RATE
            tokens = tuple(pair.tokenizer.encode(" " + s.text))
            if original:
                theirs = [{"seek": 0, "start": 0.0, "end": duration, "tokens": list(tokens)}]
                original_timing.add_word_timestamps(
                    segments=theirs,
                    model=pair.theirs,
                    tokenizer=pair.their_tokenizer,
                    mel=whisper.log_mel_spectrogram(whisper.pad_or_trim(part)),
                    num_frames=len(part) // 160,
                    last_speech_timestamp=0.0,
                )
                words = [
                    Word(w["word"].strip(), w["start"], w["end"], w["probability"])
                    for w in theirs[0]["words"]
                ]
            else:
                rough = Segment(0.0, duration, s.text, tokens=tokens)
                features = encode(pair.ours, [part])
                found = timing.word_times(
                    pair.ours, pair.tokenizer, features, [[rough]], [timing.Window(duration, "en")]
                )
                words = list(found[0][0].words)
            moved = tuple(replace(w, start=w.start + s.start, end=w.end + s.start) for w in words)
            out.append(replace(s, words=moved))
        return out

    return times


def whisperx_parts() -> tuple[Any, Any, dict[str, Any]]:
    """WhisperX's module, the mini checkpoint in transformers, and what WhisperX wants to know of it."""
    from transformers import Wav2Vec2ForCTC
    from whisperx import alignment

    class Whole:
        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    alignment.nltk_load = lambda _: Whole()  # its sentences want nltk's data
    folder = DATA.parent / "weights" / MINI
    columns = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    meta = {"language": "en", "dictionary": {t.lower(): n for t, n in columns.items()}, "type": "huggingface"}
    return alignment, Wav2Vec2ForCTC.from_pretrained(folder).float().eval(), meta


def whisperx() -> TIMES:
    """WhisperX's own align."""
    alignment, model, meta = whisperx_parts()

    def times(audio: np.ndarray, segments: list[Segment]) -> list[Segment]:
        given = [{"start": s.start, "end": s.end, "text": s.text} for s in segments]
        found = alignment.align(given, model, meta, audio, "cpu")["word_segments"]
        words = tuple(Word(w["word"], w["start"], w["end"], w["score"]) for w in found if "start" in w)
        return [replace(segments[0], words=words)]

    return times


# --- figures ------------------------------------------------------------------------------------------------


def matched(clip: Clip, found: Sequence[Word]) -> list[tuple[Word, Word]]:
    """Pairs of reference and found words with the same letters."""
    a, b = ([re.sub(r"\W", "", w.text.lower()) for w in words] for words in (clip.words, found))
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(clip.words[m.a + n], found[m.b + n]) for m in blocks for n in range(m.size)]


def row(name: str, pairs: Sequence[tuple[Word, Word]], total: int) -> str:
    """One line of the table."""
    starts = np.array([f.start - r.start for r, f in pairs])
    ends = np.array([f.end - r.end for r, f in pairs])
    off = np.abs(np.concatenate([starts, ends])) * 1000
    figures = [f"{x:.0f}" for x in (off.mean(), np.median(off), np.quantile(off, 0.95))]
    figures += [f"{100 * np.mean(off <= x + 0.01):.0f} %" for x in (20, 50, 100)]
    bias = f"{1000 * starts.mean():+.0f} / {1000 * ends.mean():+.0f}"
    middle = [
        starts[n + 1] + ends[n]
        for n, ((a, _), (b, _)) in enumerate(pairwise(pairs))
        if -0.001 <= b.start - a.end < 0.15
    ]
    return (
        f"| {name} | {len(pairs)}/{total} | {' | '.join(figures)} | {bias} | {500 * np.mean(middle):+.0f} |"
    )


HEAD = (
    "| system | words | mean | median | 95 % | ≤ 20 ms | ≤ 50 ms | ≤ 100 ms | bias start / end | middle |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def given(clips: Sequence[Clip], systems: dict[str, TIMES]) -> Iterator[str]:
    """A line a system."""
    total = sum(len(c.words) for c in clips)
    for name, times in systems.items():
        pairs = []
        for clip in clips:
            segments = times(clip.audio, list(clip.segments))
            pairs += matched(clip, [w for s in segments for w in s.words])
        yield row(name, pairs, total)


def recognised(clips: Sequence[Clip], pair: object, systems: dict[str, TIMES]) -> Iterator[str]:
    """The same for the words that Whisper writes."""
    import whisper

    from mlx_speech.models.vad import SileroVAD
    from mlx_speech.pipeline import Transcriber, expect

    ours = Transcriber(pair.ours, pair.tokenizer, expect(mlx_speech.load("silero-vad"), SileroVAD, "vad"))
    total = sum(len(c.words) for c in clips)
    written = {c.name: list(ours.transcribe(c.audio).segments) for c in clips}
    found = {"Whisper DTW, ours": {k: [w for s in v for w in s.words] for k, v in written.items()}}
    for name, times in systems.items():
        done = {c.name: times(c.audio, written[c.name]) for c in clips}
        found[name] = {k: [w for s in v for w in s.words] for k, v in done.items()}
    theirs = {}
    for clip in clips:
        result = whisper.transcribe(pair.theirs, clip.audio, language="en", word_timestamps=True, fp16=False)
        words = [w for s in result["segments"] for w in s["words"]]
        theirs[clip.name] = [Word(w["word"].strip(), w["start"], w["end"], w["probability"]) for w in words]
    found["Whisper DTW, openai-whisper"] = theirs
    for name, words in found.items():
        yield row(name, [p for c in clips for p in matched(c, words[c.name])], total)


def confidence(clips: Sequence[Clip], times: TIMES) -> Iterator[str]:
    """Probabilities of the right words, and of the next clip's."""
    phrases = [
        (c.audio[round(s.start * SAMPLE_RATE) : round(s.end * SAMPLE_RATE)], s)
        for c in clips
        for s in c.segments
    ]
    right, wrong = [], []
    for (audio, own), (_, other) in pairwise([*phrases, phrases[0]]):
        for segment, out in ((own, right), (other, wrong)):
            whole = replace(segment, start=0.0, end=len(audio) / SAMPLE_RATE, words=())
            out += [w.probability for s in times(audio, [whole]) for w in s.words]
    yield "| threshold | right words below | wrong words below |\n|---|---|---|"
    for limit in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        shares = (f"{100 * np.mean(np.array(x) < limit):.0f} %" for x in (right, wrong))
        yield f"| {limit} | {' | '.join(shares)} |"
    yield f"\n{len(right)} right words, {len(wrong)} wrong ones."


# --- a second opinion on the lag ------------------------------------------------------------------------------


def readings() -> Iterator[tuple[np.ndarray, str]]:
    """Recordings of eight readers, and what they say; without digits."""
    for folder, lines, ending in (
        ("ljspeech", "metadata.csv", ".wav"),
        ("librispeech_test_other", "transcripts.txt", ".flac"),
    ):
        for line in (DATA / folder / lines).read_text(encoding="utf-8").splitlines():
            name, text = line.split("|")[::2] if "|" in line else line.split(maxsplit=1)
            path = DATA / folder / f"{name}{ending}"
            if path.is_file() and not re.search(r"\d", text):
                yield load_audio(path), text


def loudness(audio: np.ndarray) -> np.ndarray:
    """Decibels of 10 ms, every 5 ms."""
    energy = np.cumsum(np.r_[0.0, audio.astype(float) ** 2])[::80]
    return 10 * np.log10((energy[2:] - energy[:-2]) / 160 + 1e-12)


def pauses(times: TIMES) -> Iterator[str]:
    """How much later words start and end than the energy around pauses of 0.2 s and more rises and falls."""
    done = []
    for audio, text in readings():
        segment = Segment(0.0, len(audio) / SAMPLE_RATE, text, language="en")
        words = [w for s in times(audio, [segment]) for w in s.words if re.search(r"\w", w.text)]
        done.append(
            (loudness(audio), [0.0, *(w.end for w in words)], [*(w.start for w in words), segment.end])
        )
    yield "| loud from | starts | late by (ms, median) | ends | late by (ms, median) |\n|---|---|---|---|---|"
    for share in (0.25, 0.35, 0.5):
        late: tuple[list[float], list[float]] = ([], [])
        for decibels, ends, starts in done:
            low, high = np.quantile(decibels, (0.05, 0.95))
            if high - low > 25:  # elsewhere noise hides the edges
                for n, edges in enumerate(zip(ends, starts, strict=True)):
                    off, on = _quiet(decibels < low + share * (high - low), *edges)
                    if on - off >= 0.2:
                        late[0].extend([edges[1] - on] * (n < len(ends) - 1))
                        late[1].extend([edges[0] - off] * (n > 0))
        figures = " | ".join(f"{len(x)} | {1000 * np.median(x):+.0f}" for x in late)
        yield f"| {100 * share:.0f} % of the way from the quietest to the loudest | {figures} |"


def _quiet(quiet: np.ndarray, end: float, start: float) -> tuple[float, float]:
    """The longest quiet stretch around a gap between words, in seconds."""
    first, last = max(0, int((end - 0.15) / 0.005)), int((start + 0.15) / 0.005)
    edges = np.flatnonzero(np.diff(np.r_[False, quiet[first:last], False].astype(int)))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return 0.0, 0.0
    a, b = (first + runs[np.argmax(runs[:, 1] - runs[:, 0])]) * 0.005 + 0.0025
    return float(a), float(b)


def report() -> Iterator[str]:
    """The report's lines."""
    from parity_whisper import open_pair

    model = mlx_speech.load(MINI)
    plain, listener = Listener(model), Listener(model, known_lag(MINI))
    pair = open_pair("tiny.en")
    apart = {"join": False, "slack": 0.0}
    ours = {
        f"mini (the default: −{1000 * listener.lag:.0f} ms, near words meet)": aligner(listener),
        "mini, CTC's gaps kept": aligner(listener, meet=0.0),
        "mini, CTC's gaps kept, lag not taken off": aligner(plain, meet=0.0),
        "mini, segments apart": aligner(listener, **apart),
        "mini, blank-stay trellis, segments apart": aligner(plain, method="blank-stay", meet=0.0, **apart),
        "mini in WhisperX 3.8.6": whisperx(),
    }
    dtw = {
        "Whisper tiny.en DTW, ours": whisper_dtw(pair, False),
        "Whisper tiny.en DTW, openai-whisper": whisper_dtw(pair, True),
    }
    yield from ("# Word boundaries", "", __doc__.split("\n\n")[1].strip(), "", "Errors in milliseconds.", "")
    sets = {
        "wordtimes_emur (4 utterances, human)": list(emur()),
        "kokoro_dialog (synthesiser's)": list(kokoro()),
    }
    for title, clips in sets.items():
        yield from (f"## {title}: words given", "", HEAD, *given(clips, {**ours, **dtw}), "")
        yield from (f"## {title}: words recognised", "", HEAD, *recognised(clips, pair, ours), "")
    every = [c for clips in sets.values() for c in clips]
    yield from ("## Lag beside the energy at pauses", "", *pauses(aligner(plain, meet=0.0)), "")
    yield from ("## What a low probability tells", "", *confidence(every, aligner(listener)), "")


def main() -> None:
    """Print the report as it comes, and write it."""
    lines = []
    for line in report():
        print(line, flush=True)
        lines.append(line)
    Path(__file__).with_name("BENCH_ALIGNMENT.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Word boundaries against people's and a synthesiser's: CTC aligners, blank-stay trellis, Whisper's DTW.

Words given: every system times the reference words. Words recognised: Whisper tiny.en writes them, and those
that match the reference (longest common subsequence) are counted. Errors are of starts and ends together.
"Middle" is the bias of the middle between neighbours that stand closer than 0.15 s in the reference, whatever
gap a system or a reference leaves there. The mean's interval is a bootstrap's over words (95 %); words of one
speaker are more alike than it knows. Also: how well an aligner spells by itself; how late words are beside the
energy at pauses, a second opinion on the lag; and what a low probability tells, by giving an aligner another clip's
words.

    python parity/bench_alignment.py               # the bundled aligners; writes parity/BENCH_ALIGNMENT.md
    python parity/bench_alignment.py NAME[,LAG] …  # these, the first one in all its variants
"""

from __future__ import annotations

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from alignment_sets import DATA, KOKORO_LATE, READINGS, Clip, emur, kokoro, readings

from mlx_speech.audio import SAMPLE_RATE
from mlx_speech.registry import CARDS
from mlx_speech.stages import timing
from mlx_speech.stages.align import align_segments
from mlx_speech.stages.aligners import ALIGNERS, is_here, known_lag
from mlx_speech.stages.emissions import Emissions, Listener
from mlx_speech.stages.placing import AlignOptions
from mlx_speech.stages.transcribe import encode
from mlx_speech.types import Segment, Word

MINI = "wav2vec2-mini-en"
TIMES = Callable[[np.ndarray, list[Segment]], list[Segment]]


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


def interval(values: np.ndarray) -> tuple[float, float]:
    """Within which the mean of (N,) values lies in 95 % of 2000 samples of them."""
    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)


def row(name: str, pairs: Sequence[tuple[Word, Word]], total: int) -> str:
    """One line of the table."""
    starts = np.array([f.start - r.start for r, f in pairs])
    ends = np.array([f.end - r.end for r, f in pairs])
    off = np.abs(np.concatenate([starts, ends])) * 1000
    low, high = interval(off.reshape(2, -1).mean(0))
    figures = [f"{off.mean():.0f} ({low:.0f} to {high:.0f})"]
    figures += [f"{x:.0f}" for x in (np.median(off), np.quantile(off, 0.95))]
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


def spelling(listeners: dict[str, Listener]) -> Iterator[str]:
    """Character error rates of the best letter of each frame, as an aligner hears: no text, no language model."""
    import jiwer

    yield f"| system | {' | '.join(READINGS)} |\n|---|{'---|' * len(READINGS)}"
    for name, listener in listeners.items():
        rates = []
        for folder in READINGS:
            spoken = [(re.sub(r"[^a-z' ]", "", text.lower()), audio) for audio, text in readings(folder)]
            rates.append(jiwer.cer([t for t, _ in spoken], [spelled(listener, a) for _, a in spoken]))
        yield f"| {name} | {' | '.join(f'{100 * r:.1f} %' for r in rates)} |"


def spelled(listener: Listener, audio: np.ndarray) -> str:
    """What the best letters say: repeats and blanks taken out."""
    config = listener.model.config
    frames, letters = config.output_length(len(audio)), range(len(config.vocabulary))
    heard = Emissions(listener, audio, [(0, frames)], letters, 16).part(0, frames)[:, : len(letters)]
    kept = (config.vocabulary[n] for n, _ in groupby(heard.argmax(1)) if n != config.blank)
    return "".join(kept).replace(config.word_delimiter, " ").lower().strip()


def variants(listeners: dict[str, Listener]) -> dict[str, TIMES]:
    """The aligners as they are used, and what each part of that does; the first one's places in full."""
    found: dict[str, TIMES] = {}
    for name, listener in listeners.items():
        taken = f"−{1000 * listener.lag:.0f} ms, " if listener.lag else ""
        found[f"{name} (as used: {taken}near words meet)"] = aligner(listener)
        found[f"{name}, CTC's gaps kept"] = aligner(listener, meet=0.0)
        if listener.lag:
            found[f"{name}, CTC's gaps kept, lag not taken off"] = aligner(listener, meet=0.0, lag=0.0)
    first = next(iter(listeners))
    found[f"{first}, segments apart"] = aligner(listeners[first], join=False, slack=0.0)
    apart = {"join": False, "slack": 0.0, "meet": 0.0, "lag": 0.0}
    mini = Listener(mlx_speech.load(f"path:{DATA.parent / 'weights' / MINI}"))
    found["mini, blank-stay trellis, segments apart"] = aligner(mini, method="blank-stay", **apart)
    found["mini in WhisperX 3.8.6"] = whisperx()
    return found


def opened(name: str) -> tuple[str, Listener]:
    """An aligner by its name, behind which a comma and its lag in seconds may stand; what the report calls it."""
    name, _, lag = name.partition(",")
    return name.rpartition("/")[2], Listener(mlx_speech.load(name), float(lag) if lag else known_lag(name))


def report(names: Sequence[str]) -> Iterator[str]:
    """The report's lines, for these aligners."""
    from parity_whisper import open_pair

    listeners = dict(map(opened, names))
    used = listeners[first := next(iter(listeners))]
    pair = open_pair("tiny.en")
    ours = variants(listeners)
    dtw = {
        "Whisper tiny.en DTW, ours": whisper_dtw(pair, False),
        "Whisper tiny.en DTW, openai-whisper": whisper_dtw(pair, True),
    }
    yield from ("# Word boundaries", "", __doc__.split("\n\n")[1].strip(), "", "Errors in milliseconds.", "")
    sets = {
        "wordtimes_emur (4 utterances, human)": list(emur()),
        f"kokoro_dialog (synthesiser's, {1000 * KOKORO_LATE:.0f} ms taken off)": list(kokoro()),
    }
    for title, clips in sets.items():
        yield from (f"## {title}: words given", "", HEAD, *given(clips, {**ours, **dtw}), "")
        yield from (f"## {title}: words recognised", "", HEAD, *recognised(clips, pair, ours), "")
    yield from ("## Spelling: character error rates", "", *spelling(listeners), "")
    plain = aligner(used, meet=0.0, lag=0.0)
    yield from (f"## Lag of {first} beside the energy at pauses", "", *pauses(plain), "")
    every = [c for clips in sets.values() for c in clips]
    yield from (f"## What a low probability of {first} tells", "", *confidence(every, aligner(used)), "")


def main() -> None:
    """Print the report as it comes, and write it."""
    names = sys.argv[1:] or [n for n in ALIGNERS["en"] if is_here(CARDS[n])]
    lines = []
    for line in report(names):
        print(line, flush=True)
        lines.append(line)
    Path(__file__).with_name("BENCH_ALIGNMENT.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

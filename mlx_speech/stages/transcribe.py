"""From stretches of speech to segments: windows of at most 30 s, decoded in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.errors import OptionError
from mlx_speech.features import SAMPLE_RATE, log_mel, pad_or_trim
from mlx_speech.memory import fitting
from mlx_speech.models.whisper import Whisper
from mlx_speech.models.whisper_step import suits
from mlx_speech.stages.decode import Decoded, decode, detect_language, is_silence
from mlx_speech.stages.loops import without_loops
from mlx_speech.stages.options import TranscribeOptions
from mlx_speech.stages.timing import Window, word_times
from mlx_speech.stages.tokenizer import TIME_PRECISION, Tokenizer
from mlx_speech.types import Segment, Span

_ON_CPU, _MOST_ON_GPU = 8, 128  # windows at once
_MOST_LAUNCHED = 64  # where a step is one launch: more are no faster
_BESIDE = 48 << 20  # bytes a window takes besides its keys and values, measured with word times
_SHORTEST = 0.4  # seconds: a shorter leftover holds no phrase, and silence invites inventions
_BROKEN_OFF = 2.0  # seconds: a window is made of speech, text that ends so long before it left some out


@dataclass(frozen=True)
class Batch:
    """What a batch of windows says, the stretches that are still to be read, and each window's language."""

    segments: list[Segment]
    leftovers: list[Span]
    languages: list[str]


Keep = Callable[[str, Callable[[], Batch]], Batch]
"""Given a part's name and what computes it, answers the part, perhaps from an earlier run."""


def transcribe_spans(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: np.ndarray,
    spans: Sequence[Span],
    options: TranscribeOptions,
    progress: Callable[[float], None] | None = None,
    keep: Keep | None = None,
) -> tuple[list[Segment], str | None]:
    """Transcribe stretches of a recording.

    Args:
        model: a Whisper model.
        tokenizer: its tokenizer.
        audio: the recording (T,) float32 at 16 kHz.
        spans: stretches of at most 30 s, in seconds.
        options: how.
        progress: told the seconds of spans finished so far.
        keep: given each batch's name and what computes it; answers it, perhaps from an earlier run.

    Returns:
        Segments in time order, and the language (``None`` where there is no span).

    Raises:
        OptionError: a language or a task that the model cannot do.
    """
    check_ability(tokenizer, options)
    queue = deque(spans)
    language = "en" if not tokenizer.multilingual else options.language
    segments: list[Segment] = []
    heard: dict[str, float] = {}
    finished, number = 0.0, 0
    together = options.batch_size or windows_together(model, options.decode.rows)
    while queue:
        batch = [queue.popleft() for _ in range(min(together, len(queue)))]
        work = partial(_decode_batch, model, tokenizer, audio, batch, language, options)
        done = keep(f"windows-{together}-{number:05d}", work) if keep else work()
        number += 1
        if not options.multilingual:
            language = done.languages[0]
        segments.extend(done.segments)
        queue.extend(done.leftovers)  # short ones: together they keep no long window waiting
        for code, span in zip(done.languages, batch, strict=True):
            heard[code] = heard.get(code, 0.0) + span.duration
        finished += sum(s.duration for s in batch) - sum(s.duration for s in done.leftovers)
        if progress:
            progress(finished)
    return sorted(segments, key=lambda s: (s.start, s.end)), main_language(heard)


def windows_together(model: Whisper, rows: int = 1) -> int:
    """How many windows are decoded at once where nobody says: what the device bears.

    On a GPU what decoding keeps, each layer's keys and values, takes a sixteenth of its memory: a window's, and
    those of each further one of the ``rows`` of hypotheses that share them.
    """
    c = model.config
    positions = c.n_audio_ctx + (rows - 1) * c.n_text_ctx
    window = 2 * c.n_text_layer * positions * c.n_text_state * model.dtype.size
    most = _ON_CPU
    if not runtime.on_cpu():
        limit = _MOST_LAUNCHED if suits(model) else _MOST_ON_GPU
        most = min(max(runtime.gpu_memory() // (16 * window), _ON_CPU), limit)
    return fitting(2 * window + _BESIDE, most)


def main_language(heard: dict[str, float]) -> str | None:
    """The language that most seconds were in."""
    return max(heard, key=lambda code: heard[code]) if heard else None


def _decode_batch(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: np.ndarray,
    spans: Sequence[Span],
    language: str | None,
    options: TranscribeOptions,
) -> Batch:
    """Hear a batch of windows, find their languages where none is known, and write what they say."""
    features = encode(model, [_cut(audio, span) for span in spans])
    if language is None:
        found = detect_language(model, tokenizer, features)
        languages = _languages(found, spans, options.multilingual)
    else:
        languages = [language] * len(spans)
    segments, leftovers = _transcribe_batch(model, tokenizer, features, spans, languages, options)
    return Batch(segments, leftovers, languages)


def check_ability(tokenizer: Tokenizer, options: TranscribeOptions) -> None:
    """Refuse early what an English-only model cannot do.

    Raises:
        OptionError: translation or another language was asked of it, or a language it has no token for.
    """
    if not tokenizer.multilingual:
        if options.decode.task == "translate":
            raise OptionError(
                "an English-only model cannot translate; take a multilingual one such as whisper-base"
            )
        if options.language not in (None, "en"):
            raise OptionError(
                f"an English-only model cannot transcribe {options.language!r}; take one without '.en'"
            )
    elif options.language is not None and options.language not in tokenizer.languages:
        raise OptionError(
            f"this model has no language {options.language!r}; it knows {', '.join(tokenizer.languages)}"
        )


def encode(model: Whisper, windows: Sequence[np.ndarray]) -> mx.array:
    """Audio features (B, 1500, D) of windows of at most 30 s, each padded with zeros."""
    audio = mx.array(np.stack([pad_or_trim(w) for w in windows]))
    return model.encode(log_mel(audio, model.config.n_mels))


def _cut(audio: np.ndarray, span: Span) -> np.ndarray:
    return audio[round(span.start * SAMPLE_RATE) : round(span.end * SAMPLE_RATE)]


def _languages(rows: Sequence[dict[str, float]], spans: Sequence[Span], each: bool) -> list[str]:
    """Each window's likeliest language, or for all the likeliest over all, weighing windows by their length."""
    if each:
        return [max(row, key=lambda code: row[code]) for row in rows]
    totals: dict[str, float] = {}
    for row, span in zip(rows, spans, strict=True):
        for code, probability in row.items():
            totals[code] = totals.get(code, 0.0) + probability * span.duration
    return [max(totals, key=lambda code: totals[code])] * len(rows)


def clip_spans(spans: Sequence[Span], clips: Sequence[float]) -> list[Span]:
    """What of spans lies in clips, given as start, end, start, end … in seconds; an odd last has no end."""
    if not clips:
        return list(spans)
    ends = [*clips[1::2], *([float("inf")] if len(clips) % 2 else [])]
    cut = [
        Span(max(s.start, start), min(s.end, end))
        for start, end in zip(clips[::2], ends, strict=True)
        for s in spans
    ]
    return [s for s in cut if s.duration > 0]


def _transcribe_batch(
    model: Whisper,
    tokenizer: Tokenizer,
    features: mx.array,
    spans: Sequence[Span],
    languages: Sequence[str],
    options: TranscribeOptions,
) -> tuple[list[Segment], list[Span]]:
    """Segments of a batch in the recording's time, and the stretches that windows left over."""
    results = decode(model, tokenizer, features, languages, options.decode)
    if options.max_repeats is not None:
        results = [without_loops(tokenizer, r, options.max_repeats) for r in results]
    windows = [
        Phrases((), None) if is_silence(r, options.decode) else phrases(tokenizer, r, span.duration)
        for r, span in zip(results, spans, strict=True)
    ]
    found = [
        [replace(s, language=language) for s in window.segments]
        for window, language in zip(windows, languages, strict=True)
    ]
    if options.words:
        heard = [Window(s.duration, language) for s, language in zip(spans, languages, strict=True)]
        wanted = [[] if w.language in options.untimed else f for w, f in zip(heard, found, strict=True)]
        timed = word_times(model, tokenizer, features, wanted, heard, options.decode.task)
        found = [a or b for a, b in zip(timed, found, strict=True)]
    placed: list[Segment] = []
    leftovers: list[Span] = []
    for window, segments, span in zip(windows, found, spans, strict=True):
        mine = [s for s in (_shift(s, span) for s in segments) if s.end > s.start]
        placed.extend(mine)
        if window.resume is not None:
            # the words may have moved the last phrase's end
            start = max([span.start + window.resume, *(s.end for s in mine[-1:])])
            if span.end - start > _SHORTEST:
                leftovers.append(Span(start, span.end))
        elif options.decode.timestamps and mine and _broken_off(mine[-1].end, span):
            leftovers.append(Span(mine[-1].end, span.end))
    return placed, leftovers


def _broken_off(end: float, span: Span) -> bool:
    """Whether the text of a window ends long before it does, though it counts as finished.

    The original goes on with the next window then, as far as it knows through silence. What is left is read if
    the window has got on at all.
    """
    return span.end - end > _BROKEN_OFF and end - span.start > _SHORTEST


@dataclass(frozen=True)
class Phrases:
    """A window's segments, in seconds from its start, and where to go on if it was not read to its end."""

    segments: tuple[Segment, ...]
    resume: float | None


@dataclass(frozen=True)
class Cut:
    """A window's tokens cut at its pairs of timestamps.

    ``resume`` is the timestamp (a number of 20 ms steps) to go on from, where the window was not read to its
    end; ``paired`` tells whether there was a pair at all.
    """

    pieces: tuple[tuple[int, ...], ...]
    resume: int | None
    paired: bool


def cut(tokens: Sequence[int], begin: int) -> Cut:
    """Cut tokens at pairs of timestamps, which count from ``begin`` on.

    As in the original, a window whose last phrase is closed by a single timestamp is finished. Otherwise the
    rest after the last pair is to be decoded again, and what was written of it is dropped. A window without
    a pair is taken whole.
    """
    stamped = [t >= begin for t in tokens]
    cuts = [n for n in range(1, len(stamped)) if stamped[n - 1] and stamped[n]]
    paired, finished = bool(cuts), stamped[-2:] == [False, True]
    if not paired or finished:
        cuts.append(len(stamped))
    pieces = tuple(tuple(tokens[a:b]) for a, b in zip([0, *cuts], cuts, strict=False))
    resume = tokens[cuts[-1] - 1] - begin if paired and not finished else None
    return Cut(pieces, resume, paired)


def phrases(tokenizer: Tokenizer, result: Decoded, duration: float) -> Phrases:
    """A window's segments, cut at its timestamps and inside its ``duration`` in seconds."""
    parts = cut(result.tokens, tokenizer.special.timestamp_begin)
    segments = [piece_segment(tokenizer, result, p, duration, paired=True) for p in parts.pieces]
    inside = [
        replace(s, start=min(s.start, duration), end=min(max(s.end, s.start), duration)) for s in segments
    ]
    # a window that would be decoded over and over again is left as it is
    resume = parts.resume * TIME_PRECISION if parts.resume else None
    return Phrases(tuple(s for s in inside if s.text), resume)


def piece_segment(
    tokenizer: Tokenizer, result: Decoded, tokens: Sequence[int], duration: float, *, paired: bool
) -> Segment:
    """One piece of a window as a segment, in seconds from the window's start.

    Args:
        tokenizer: the model's.
        result: the window's.
        tokens: the piece's, with timestamps.
        duration: the window's, where no timestamp closes the piece.
        paired: whether a timestamp at its beginning counts; in the original it does in windows with pairs.
    """
    begin = tokenizer.special.timestamp_begin
    stamps = [(t - begin) * TIME_PRECISION for t in tokens if t >= begin]
    text = tuple(t for t in tokens if t < tokenizer.special.eot)
    opened = bool(tokens) and tokens[0] >= begin
    closes = len(stamps) > opened if paired else bool(stamps) and stamps[-1] > 0
    return Segment(
        start=stamps[0] if opened and paired else 0.0,
        end=stamps[-1] if closes else duration,
        text=tokenizer.decode(text).strip(),
        tokens=text,
        avg_logprob=result.avg_logprob,
        no_speech_prob=result.no_speech_prob,
        compression_ratio=result.compression_ratio,
        temperature=result.temperature,
    )


def _shift(segment: Segment, span: Span) -> Segment:
    """A window's segment in the recording's time; nothing leaves the window."""

    def at(time: float) -> float:
        return round(min(span.start + max(time, 0.0), span.end), 3)

    words = tuple(replace(w, start=at(w.start), end=at(w.end)) for w in segment.words)
    return replace(segment, start=at(segment.start), end=at(segment.end), words=words)

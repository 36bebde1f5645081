"""How to decode and how to transcribe: values only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real

from mlx_speech.errors import OptionError
from mlx_speech.stages.ranges import COUNT, NUMBER, POSITIVE, SECONDS, SHARE, Range, check, check_switches

TASKS = ("transcribe", "translate")

_WHOLE = Range("a whole number", lambda x: True, whole=True)
_DECODE_RANGES = {
    "max_initial_timestamp": Range("0 to 30 seconds", lambda x: 0 <= x <= 30),
    "beam_size": COUNT,
    "patience": POSITIVE,
    "best_of": COUNT,
    "repetition_penalty": POSITIVE,
    "no_repeat_ngram_size": Range("a whole number from 0 on", lambda x: x >= 0, whole=True),
    "seed": _WHOLE,
}
_DECODE_OPTIONAL = {
    "compression_ratio_threshold": NUMBER,
    "logprob_threshold": NUMBER,
    "no_speech_threshold": NUMBER,
    "max_tokens": COUNT,
    "length_penalty": SHARE,
}
_CHUNK = Range("1 to 30 seconds: Whisper hears no more", lambda x: 1 <= x <= 30)
_OPTIONAL = {"batch_size": COUNT, "max_repeats": COUNT, "hallucination_silence_threshold": SECONDS}


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode a window.

    Args:
        task: ``"transcribe"``, or ``"translate"`` into English (multilingual models).
        temperatures: tried in turn on the rows whose result fails a threshold; 0 takes the best token or
            the best beam, more samples.
        compression_ratio_threshold: text that zlib shrinks by more than this is taken for a loop.
        logprob_threshold: a lower mean log-probability fails.
        no_speech_threshold: a window at least as likely to be silent, and below ``logprob_threshold``,
            is taken for silence and not decoded again.
        max_initial_timestamp: latest first timestamp, in seconds from the window's start.
        max_tokens: most tokens a window; half the model's context by default.
        timestamps: let the model write phrase times; without them a window is one segment.
        beam_size: hypotheses followed at temperature 0; 1 is greedy.
        patience: a beam search ends when ``beam_size · patience`` hypotheses have.
        length_penalty: exponent of Google's length normalisation, ``((5 + length) / 6)**p``, when finished
            hypotheses are ranked; the plain mean by default.
        best_of: samples drawn at temperatures above 0, of which the likeliest counts.
        prompt: text that the model takes for what was said before: names, spelling, style.
        prefix: text that the window is taken to begin with; it is not repeated in the result.
        hotwords: words to listen for, put before the prompt; not together with ``prefix``.
        suppress_symbols: never write the symbols that the checkpoint lists as not speech.
        suppress_tokens: further tokens that are never written.
        suppress_numerals: write numbers as words: no token with a digit, %, $ or £.
        repetition_penalty: above 1, makes words of the same window less likely a second time.
        no_repeat_ngram_size: words are never written as the same run of so many tokens twice; 0 allows it.
        seed: of the sampling at temperatures above 0.

    Raises:
        OptionError: a value out of its range.
    """

    task: str = "transcribe"
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    max_initial_timestamp: float = 1.0
    max_tokens: int | None = None
    timestamps: bool = True
    beam_size: int = 1
    patience: float = 1.0
    length_penalty: float | None = None
    best_of: int = 1
    prompt: str | None = None
    prefix: str | None = None
    hotwords: str | None = None
    suppress_symbols: bool = True
    suppress_tokens: tuple[int, ...] = ()
    suppress_numerals: bool = False
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise OptionError(f"task {self.task!r} is not one of {', '.join(TASKS)}")
        numbers = isinstance(self.temperatures, Sequence) and all(
            isinstance(x, Real) for x in self.temperatures
        )
        if not numbers or not self.temperatures or not all(0 <= x < math.inf for x in self.temperatures):
            raise OptionError(f"temperatures {self.temperatures} must be one or more numbers of at least 0")
        check(self, _DECODE_RANGES, _DECODE_OPTIONAL)
        check_switches(self)
        if self.hotwords and self.prefix:
            raise OptionError("hotwords and prefix exclude each other: put the words into the prompt")

    @property
    def rows(self) -> int:
        """Hypotheses side by side for each window, at most."""
        return max(self.beam_size, self.best_of)


@dataclass(frozen=True)
class TranscribeOptions:
    """How to turn a recording into segments.

    Args:
        language: code the speech is in; detected by default.
        multilingual: detect the language of each window anew, for recordings that mix them.
        words: whether to time the words.
        batch_size: windows decoded together; by default 8 on a CPU, and on a GPU as many as its memory allows
            without strain, up to 64 on CUDA in half precision, else 128.
        decode: how each window is decoded.
        sequential: decode window by window as OpenAI's program does, each beginning where the last one's
            words ended, instead of the stretches of speech in batches: slower, with text that hangs
            together.
        condition_on_previous_text: sequential only: the text so far is the next window's prompt.
        carry_initial_prompt: sequential only: ``decode.prompt`` stays in front of that text.
        clips: start, end, start, end … in seconds: only these stretches; an odd last one runs to the end.
        hallucination_silence_threshold: sequential, with words: skip silences longer than this, in seconds,
            around words that look invented.
        fill_gaps: decode speech once more, by itself, in which no word was placed; not where ``sequential``, nor
            without ``words``.
        redo: decode windows again, with other settings, that the audit finds fault with; the better reading stays.
        chunk_size: seconds of the longest window of speech, at most the model's 30.
        max_repeats: a phrase that a window repeats more often than this in a row is written once.
        untimed: languages whose words are left untimed all the same: a :class:`~mlx_speech.Transcriber` names
            those that its aligner will time.

    Raises:
        OptionError: a value out of its range, or two that exclude each other.
    """

    language: str | None = None
    multilingual: bool = False
    words: bool = True
    batch_size: int | None = None
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    sequential: bool = False
    condition_on_previous_text: bool = True
    carry_initial_prompt: bool = False
    clips: tuple[float, ...] = ()
    hallucination_silence_threshold: float | None = None
    max_repeats: int | None = None
    untimed: tuple[str, ...] = ()
    fill_gaps: bool = True
    redo: bool = False
    chunk_size: float = 30.0

    def __post_init__(self) -> None:
        check(self, {"chunk_size": _CHUNK}, _OPTIONAL)
        check_switches(self)
        if self.multilingual and self.language is not None:
            raise OptionError(f"multilingual detects languages; leave out language {self.language!r}")
        numbers = isinstance(self.clips, Sequence) and all(isinstance(x, Real) for x in self.clips)
        if not numbers or not all(a <= b for a, b in pairwise((0.0, *self.clips))):
            raise OptionError(
                f"clips is {self.clips!r}: it must be start, end, start, end … in seconds from 0 on, none less "
                "than the one before"
            )
        if self.hallucination_silence_threshold is not None and not (self.sequential and self.words):
            raise OptionError("hallucination_silence_threshold needs sequential and words")

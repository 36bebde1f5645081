"""A recording window by window, each beginning where the last one's words ended.

Original: ``transcribe`` of https://github.com/openai/whisper/blob/v20250625/whisper/transcribe.py (MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_speech.features import HOP, SAMPLE_RATE, RecordingMel
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.decode import Decoded, decode, detect_language, is_silence
from mlx_speech.stages.inventions import Heard, first_invention, leading_silence
from mlx_speech.stages.loops import without_loops
from mlx_speech.stages.options import TranscribeOptions
from mlx_speech.stages.prompt import text_tokens
from mlx_speech.stages.timing import Window, word_times
from mlx_speech.stages.tokenizer import TIME_PRECISION, Tokenizer
from mlx_speech.stages.transcribe import check_ability, cut, main_language, piece_segment
from mlx_speech.types import Segment

_FRAMES = 3000  # of 10 ms in a window
_RATE = SAMPLE_RATE // HOP  # frames a second
_STEP = round(TIME_PRECISION * _RATE)  # frames a timestamp
_UNSURE = 0.5  # text decoded at a higher temperature is no prompt


def transcribe_sequential(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: np.ndarray,
    options: TranscribeOptions,
    progress: Callable[[float], None] | None = None,
    keep: Keep | None = None,
) -> tuple[list[Segment], str | None]:
    """Transcribe a recording, or clips of it, as OpenAI's program does.

    Args:
        model: a Whisper model.
        tokenizer: its tokenizer.
        audio: the recording (T,) float32 at 16 kHz.
        options: how.
        progress: told the seconds of the recording that lie behind.
        keep: given each window's name and what reads it; answers what it says, perhaps from an earlier run.

    Returns:
        Segments in time order, and the language (``None`` where there is nothing to hear).

    Raises:
        OptionError: a language or a task that the model cannot do.
    """
    check_ability(tokenizer, options)
    if not len(audio):
        return [], None
    reader = _Reader(model, tokenizer, options, RecordingMel(audio, model.config.n_mels))
    segments: list[Segment] = []
    for start, end in reader.clips():
        seek = start
        while seek < end:
            work = partial(reader.read, seek, min(_FRAMES, reader.content - seek, end - seek))
            passage = keep(f"window-{seek:08d}-{end:08d}", work) if keep else work()
            reader.take(passage)
            segments += passage.segments
            seek = passage.after
            if progress:
                progress(min(seek, reader.content) / _RATE)
    return segments, main_language(reader.heard)


@dataclass(frozen=True)
class Passage:
    """What one window says, and what it leaves to the next.

    ``after`` is the frame to go on from; ``said`` are the tokens of the segments, timestamps included, which are
    no prompt if they are to be ``forgotten``; ``spoken_until`` is when the last word so far ended, in seconds.
    ``language`` is that of the window's ``seconds``, ``None`` where it is silent.
    """

    segments: list[Segment]
    after: int
    said: list[int]
    forgotten: bool
    spoken_until: float
    language: str | None
    seconds: float


Keep = Callable[[str, Callable[[], Passage]], Passage]
"""Given a window's name and what reads it, answers what it says, perhaps from an earlier run."""


@dataclass(frozen=True)
class _Piece:
    """A segment, and its tokens with their timestamps."""

    segment: Segment
    tokens: tuple[int, ...]


class _Reader:
    """What one window leaves to the next: the text so far, and when the last word ended."""

    def __init__(
        self, model: Whisper, tokenizer: Tokenizer, options: TranscribeOptions, mel: RecordingMel
    ) -> None:
        self.model, self.tokenizer, self.options, self.mel = model, tokenizer, options, mel
        self.content = mel.frames - _FRAMES
        self.prompt = text_tokens(tokenizer, options.decode.prompt)
        self.said = list(self.prompt)
        self.forgotten = 0  # tokens that are no prompt any more
        self.spoken_until = 0.0
        self.heard: dict[str, float] = {}
        self.language = options.language if tokenizer.multilingual else "en"
        if self.language is None and not options.multilingual:
            self.language = self._detect(self._encode(0, _FRAMES))

    def clips(self) -> list[tuple[int, int]]:
        """The stretches to read, in frames."""
        points = [round(t * _RATE) for t in self.options.clips] or [0]
        if len(points) % 2:
            points.append(self.content)
        return [(a, min(b, self.content)) for a, b in zip(points[::2], points[1::2], strict=True)]

    def take(self, passage: Passage) -> None:
        """Go on from what a window said."""
        self.said += passage.said
        if passage.forgotten:
            self.forgotten = len(self.said)
        self.spoken_until = passage.spoken_until
        if passage.language is not None:
            self.heard[passage.language] = self.heard.get(passage.language, 0.0) + passage.seconds

    def read(self, seek: int, size: int) -> Passage:
        """Read a window of ``size`` frames; the reader itself stays as it is."""
        features = self._encode(seek, size)
        language = self.language or self._detect(features)
        options = self.options
        result = decode(
            self.model, self.tokenizer, features, language, options.decode, context=self._context()
        )[0]
        if options.max_repeats is not None:
            result = without_loops(self.tokenizer, result, options.max_repeats)
        if is_silence(result, options.decode):
            return Passage([], seek + size, [], False, self.spoken_until, None, 0.0)
        pieces, after = self._pieces(result, seek, size, language)
        spoken_until = self.spoken_until
        if self._times(language):
            pieces, after = self._with_words(pieces, features, seek, size, after, language)
            last = _last_end(pieces)
            spoken_until = spoken_until if last is None else last
        pieces = [p for p in pieces if p.segment.end > p.segment.start and p.segment.text]
        return Passage(
            [p.segment for p in pieces],
            max(after, seek + 1),
            [t for p in pieces for t in p.tokens],
            not options.condition_on_previous_text or result.temperature > _UNSURE,
            spoken_until,
            language,
            size / _RATE,
        )

    def _times(self, language: str) -> bool:
        """Whether Whisper times the words: unless others will, and the search for inventions needs none."""
        options = self.options
        wanted = language not in options.untimed or options.hallucination_silence_threshold is not None
        return options.words and wanted

    def _encode(self, seek: int, size: int) -> mx.array:
        mel = mx.pad(self.mel.part(seek, seek + size), [(0, _FRAMES - size), (0, 0)])
        return self.model.encode(mel[None])

    def _detect(self, features: mx.array) -> str:
        (found,) = detect_language(self.model, self.tokenizer, features)
        return max(found, key=lambda code: found[code])

    def _context(self) -> Sequence[int]:
        if not self.options.carry_initial_prompt:
            return self.said[self.forgotten :]
        room = self.model.config.n_text_ctx // 2 - 1 - len(self.prompt)
        rest = self.said[max(len(self.prompt), self.forgotten) :]
        return [*self.prompt, *rest[max(len(rest) - room, 0) :]]

    def _pieces(self, result: Decoded, seek: int, size: int, language: str) -> tuple[list[_Piece], int]:
        """The window's segments on the recording's clock, and the frame to go on from."""
        parts = cut(result.tokens, self.tokenizer.special.timestamp_begin)
        offset = seek / _RATE
        pieces = []
        for tokens in parts.pieces:
            segment = piece_segment(self.tokenizer, result, tokens, size / _RATE, paired=parts.paired)
            segment = replace(
                segment, start=segment.start + offset, end=segment.end + offset, language=language
            )
            pieces.append(_Piece(segment, tuple(tokens)))
        after = seek + size if parts.resume is None else seek + parts.resume * _STEP
        return pieces, after

    def _with_words(
        self, pieces: list[_Piece], features: mx.array, seek: int, size: int, after: int, language: str
    ) -> tuple[list[_Piece], int]:
        """The same with words; what looks invented is dropped, and the silence around it skipped."""
        offset = seek / _RATE
        window = Window(size // _STEP * TIME_PRECISION, language, offset, self.spoken_until)
        segments = [p.segment for p in pieces]
        (found,) = word_times(
            self.model, self.tokenizer, features, [segments], [window], self.options.decode.task
        )
        pieces = [replace(p, segment=s) for p, s in zip(pieces, found, strict=True)]
        open_end = after != seek + size
        threshold = self.options.hallucination_silence_threshold
        last = _last_end(pieces)
        if open_end and last is not None and last > offset:
            after = round(last * _RATE)
            if threshold is not None and offset + _FRAMES / _RATE - last <= threshold:
                after = seek + size
        if threshold is not None:
            heard = Heard(
                offset,
                offset + size / _RATE,
                offset + _FRAMES / _RATE,
                self.content / _RATE,
                self.spoken_until,
            )
            gap = leading_silence(found, heard, threshold)
            if gap is not None:
                return [], seek + round(gap * _RATE)
            cut_off = first_invention(found, heard, threshold)
            if cut_off is not None:
                pieces, after = pieces[: cut_off[0]], round(cut_off[1] * _RATE)
        return pieces, after


def _last_end(pieces: Sequence[_Piece]) -> float | None:
    """When the last word ended, or without words the last segment."""
    ends = [w.end for p in pieces for w in p.segment.words]
    return ends[-1] if ends else pieces[-1].segment.end if pieces else None

"""Where speech is: spans from speech probabilities, and windows that a recogniser takes.

Segmentation rules: ``get_speech_timestamps`` of Silero VAD, MIT, Copyright (c) 2020-present Silero Team,
https://github.com/snakers4/silero-vad/blob/v6.2.3/src/silero_vad/utils_vad.py
Cut and merge: the idea of WhisperX's ``merge_chunks``, BSD-2-Clause, but never above the longest duration,
https://github.com/m-bain/whisperX/blob/v3.8.6/whisperx/vads/vad.py
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_speech.audio import as_audio
from mlx_speech.errors import OptionError
from mlx_speech.models.vad import SileroVAD, VADConfig
from mlx_speech.stages.ranges import SECONDS, Range, check, check_switches
from mlx_speech.types import Span

_RATE = VADConfig.sampling_rate
_CHUNK = VADConfig.chunk
_BLOCK = 16384 * _CHUNK  # samples on the device at once, nine minutes: bounds memory
_SLACK = 1e-6  # seconds: above the rounding of floats, far below a sample

_PROBABILITY = Range("a probability, 0 to 1", lambda x: 0 <= x <= 1)
_RANGES = {
    "threshold": _PROBABILITY,
    "min_speech_duration": SECONDS,
    "max_speech_duration": Range("above 0 s; math.inf for no limit", lambda x: x > 0),
    "min_silence_duration": SECONDS,
    "speech_pad": SECONDS,
    "min_silence_at_max_speech": SECONDS,
}


@dataclass(frozen=True)
class SpeechOptions:
    """How probabilities become spans; the defaults are the original's. Durations are in seconds.

    Args:
        threshold: probability from which a chunk is speech.
        neg_threshold: probability below which speech stops; ``None`` is ``max(threshold - 0.15, 0.01)``.
        min_speech_duration: shorter stretches are dropped.
        max_speech_duration: longer stretches are cut, at a pause where there is one; padding is included.
        min_silence_duration: silence that ends a span.
        speech_pad: added on both sides of each span, at most half of the silence between two.
        min_silence_at_max_speech: pauses longer than this are good places to cut.
        cut_at_longest_pause: cut too long speech at its longest pause, otherwise at its last one
            (the original's ``use_max_poss_sil_at_max_speech``).

    Raises:
        OptionError: names the argument out of range.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration: float = 0.25
    max_speech_duration: float = math.inf
    min_silence_duration: float = 0.1
    speech_pad: float = 0.03
    min_silence_at_max_speech: float = 0.098
    cut_at_longest_pause: bool = True

    def __post_init__(self) -> None:
        check(self, _RANGES, {"neg_threshold": _PROBABILITY})
        check_switches(self)
        if self.neg_threshold is not None and self.neg_threshold > self.threshold:
            raise OptionError(f"neg_threshold is {self.neg_threshold}: above threshold ({self.threshold})")
        least = _CHUNK / _RATE + 2 * self.speech_pad
        if self.max_speech_duration <= least:
            raise OptionError(
                f"max_speech_duration is {self.max_speech_duration}: it must exceed one chunk and twice "
                f"speech_pad ({least:.3f} s)"
            )


def detect(
    model: SileroVAD, audio: str | os.PathLike[str] | Any, options: SpeechOptions | None = None
) -> list[Span]:
    """The spans of speech in a recording.

    Args:
        model: with its weights.
        audio: a path, or (T,) floating samples at 16 kHz within [-1, 1]; T may be 0.
        options: the original's defaults where ``None``.

    Returns:
        spans in seconds, in order, that do not overlap.

    Raises:
        AudioError: audio that cannot be read, is not mono or not finite.
    """
    samples = as_audio(audio)
    return spans_from_probabilities(speech_probabilities(model, samples), len(samples), options)


def speech_probabilities(model: SileroVAD, audio: str | os.PathLike[str] | Any) -> np.ndarray:
    """Speech probability of each 32 ms, (N,) float32, of ``audio`` as :func:`detect` takes it."""
    samples = as_audio(audio)
    blocks = (mx.array(samples[first : first + _BLOCK]) for first in range(0, len(samples), _BLOCK))
    return np.concatenate([np.zeros(0, np.float32), *(np.array(part) for part in model.stream(blocks))])


def spans_from_probabilities(
    probabilities: np.ndarray, num_samples: int, options: SpeechOptions | None = None
) -> list[Span]:
    """The spans of speech, to the sample those of the original.

    Args:
        probabilities: (N,) float, one for each 512 samples at 16 kHz.
        num_samples: the recording's length in samples at 16 kHz, N = ceil(num_samples / 512).
        options: the original's defaults where ``None``. Durations are rounded to whole samples.

    Returns:
        spans in seconds, in order, that do not overlap.

    Raises:
        OptionError: a number of probabilities that does not go with ``num_samples``.
    """
    values = np.asarray(probabilities)
    chunks = -(-num_samples // _CHUNK)
    if values.shape != (chunks,):
        raise OptionError(
            f"probabilities has shape {values.shape}: {num_samples} samples make {chunks} chunks"
        )
    limits = _limits(options or SpeechOptions())
    segmenter = _Segmenter(limits)
    for n, probability in enumerate(values.tolist()):
        segmenter.hear(n * _CHUNK, probability)
    found = _padded(segmenter.finish(num_samples), limits.pad, num_samples)
    return [Span(start / _RATE, end / _RATE) for start, end in found]


class _Limits(NamedTuple):
    """The options in samples and plain probabilities."""

    on: float
    off: float
    min_speech: int
    max_speech: float
    min_silence: int
    min_pause: int
    pad: int
    longest: bool


def _limits(options: SpeechOptions) -> _Limits:
    on, off = options.threshold, options.neg_threshold
    pad = _samples(options.speech_pad)
    longest = options.max_speech_duration
    return _Limits(
        on=on,
        off=max(on - 0.15, 0.01) if off is None else off,
        min_speech=_samples(options.min_speech_duration),
        max_speech=longest if math.isinf(longest) else _samples(longest) - _CHUNK - 2 * pad,
        min_silence=_samples(options.min_silence_duration),
        min_pause=_samples(options.min_silence_at_max_speech),
        pad=pad,
        longest=options.cut_at_longest_pause,
    )


def _samples(seconds: float) -> int:
    return round(seconds * _RATE)


class _Pause(NamedTuple):
    """A silence too short to end a span: from ``start`` to where speech came back, ``None`` if not yet."""

    start: int
    end: int | None


class _Segmenter:
    """Hears one probability after the other and notes stretches of speech, in samples.

    ``start`` is where the present stretch began (``None`` outside speech), ``quiet`` where it fell silent.
    """

    def __init__(self, limits: _Limits) -> None:
        self.limits = limits
        self.found: list[tuple[int, int]] = []
        self._leave()

    def _leave(self, start: int | None = None) -> None:
        """Forget the present stretch; go on with one from ``start``, or outside speech."""
        self.start = start
        self.quiet: int | None = None
        self.pauses: list[_Pause] = []

    def hear(self, at: int, probability: float) -> None:
        """Take in the chunk that begins at sample ``at``."""
        if probability >= self.limits.on:
            if self.quiet is not None:
                self._resume(self.quiet, at)
            if self.start is None:
                self.start = at
                return
        if self.start is not None and at - self.start > self.limits.max_speech and self._cut(self.start, at):
            return
        if self.start is not None and probability < self.limits.off:
            self._hush(self.start, at)

    def finish(self, num_samples: int) -> list[tuple[int, int]]:
        """All stretches; the last one may reach to the end of the recording."""
        if self.start is not None:
            self._note(self.start, num_samples)
        return self.found

    def _note(self, start: int, end: int) -> None:
        if end - start > self.limits.min_speech:
            self.found.append((start, end))

    def _resume(self, quiet: int, at: int) -> None:
        """Speech came back within the stretch."""
        self.quiet = None
        if self.limits.longest:
            if at - quiet > self.limits.min_pause:
                self.pauses.append(_Pause(quiet, at))
        elif self.pauses and self.pauses[-1].end is None:
            self.pauses[-1] = _Pause(self.pauses[-1].start, at)

    def _hush(self, start: int, at: int) -> None:
        """A silent chunk within the stretch: it may end it."""
        quiet = self.quiet = at if self.quiet is None else self.quiet
        if not self.limits.longest and at - quiet > self.limits.min_pause:
            self.pauses = [_Pause(quiet, None)]  # known before it ends: the last pause may still last
        if at - quiet >= self.limits.min_silence:
            self._note(start, quiet)
            self._leave()

    def _cut(self, start: int, at: int) -> bool:
        """End a stretch that is too long, at a pause or here; whether that settles the present chunk."""
        if not self.pauses:
            self.found.append((start, at))
            self._leave()
            return True
        # the first of several equally long ones; the only one where the last is wanted
        pause = max(self.pauses, key=lambda p: at if p.end is None else p.end - p.start)
        self.found.append((start, pause.start))
        self._leave(pause.end)
        return False


def _padded(found: Sequence[tuple[int, int]], pad: int, num_samples: int) -> list[tuple[int, int]]:
    """Stretches with ``pad`` samples on both sides; neighbours share a gap that is too small for two."""
    if not found:
        return []
    gaps = [after[0] - before[1] for before, after in pairwise(found)]
    inner = [gap // 2 if gap < 2 * pad else pad for gap in gaps]
    before, after = [pad, *inner], [*inner, pad]
    return [
        (max(0, start - b), min(num_samples, end + a))
        for (start, end), b, a in zip(found, before, after, strict=True)
    ]


def merge_spans(
    spans: Iterable[Span],
    max_duration: float = 30.0,
    *,
    probabilities: np.ndarray | None = None,
) -> list[Span]:
    """Join neighbouring spans into windows as long as ``max_duration`` allows, and cut what is longer.

    Args:
        spans: in order of their starts; where two overlap, the overlap is taken once.
        max_duration: the longest window, in seconds.
        probabilities: (N,) speech probabilities of the recording, one for each 512 samples at 16 kHz. With
            them a long span is cut where speech is least likely, without them into equal parts.

    Returns:
        windows in order that do not overlap and cover every span, none longer than ``max_duration`` (but for
        the rounding of floats).

    Raises:
        OptionError: a limit out of range, or spans out of order.
    """
    if not 0 < max_duration < math.inf:
        raise OptionError(f"max_duration is {max_duration}: give seconds above 0")
    merged: list[Span] = []
    for piece in _pieces(spans, max_duration, probabilities):
        last = merged[-1] if merged else None
        if last and piece.end - last.start <= max_duration + _SLACK:
            merged[-1] = Span(last.start, piece.end)
        else:
            merged.append(piece)
    return merged


def _pieces(spans: Iterable[Span], max_duration: float, probabilities: np.ndarray | None) -> Iterable[Span]:
    """The spans without their overlaps, each cut to at most ``max_duration``."""
    begun, covered = -math.inf, -math.inf
    for span in spans:
        if not begun <= span.start <= span.end:
            raise OptionError(f"spans: {span} starts before the one in front of it, or ends before it starts")
        begun = span.start
        if span.end <= covered:
            continue
        start, covered = max(span.start, covered), span.end
        edges = [start, *_cuts(start, span.end, max_duration, probabilities), span.end]
        yield from (Span(a, b) for a, b in pairwise(edges))


def _cuts(start: float, end: float, max_duration: float, probabilities: np.ndarray | None) -> list[float]:
    """Where to cut a span, in seconds: the least likely speech within the second half of each window."""
    cuts: list[float] = []
    while end - start > max_duration + _SLACK:
        cut = (
            None
            if probabilities is None
            else _quietest(probabilities, start + max_duration / 2, start + max_duration)
        )
        if cut is None:
            parts = math.ceil((end - start) / max_duration - _SLACK)
            cut = start + (end - start) / parts
        cuts.append(cut)
        start = cut
    return cuts


def _quietest(probabilities: np.ndarray, start: float, end: float) -> float | None:
    """The middle of the least likely chunk of those whose middle lies in ``(start, end]``."""
    first, last = (max(0, math.floor(t * _RATE / _CHUNK + 0.5)) for t in (start, end))
    among = np.asarray(probabilities)[first:last]
    if among.size == 0:
        return None
    latest = first + among.size - 1 - int(np.argmin(among[::-1]))  # of equals the last: fewer windows
    return (latest + 0.5) * _CHUNK / _RATE

"""A CTC model as an aligner hears with it: its symbols, and log-probabilities frame by frame.

The recording is heard in windows of 10 s that overlap, all equally long, so that every model may take them
in batches; only the stretches that are asked for are heard, and only the columns that are needed are kept.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_speech import runtime
from mlx_speech.audio import SAMPLE_RATE
from mlx_speech.memory import fitting

# Seconds heard at once. Attention costs their square: longer ones take more time (30 s: a third more with the
# mini model), shorter ones spend it on margins; words stand where they did (docs/alignment.md)
_WINDOW = 10.0
_NEEDED_SECOND = 5 << 20  # bytes a second of a window takes in base models; the mini takes 2 MB
_MARGIN = 1.0  # seconds of a window that only give its neighbours context
# letters that no decomposition takes to plain ones
_PLAIN = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "ı": "i", "þ": "th"}


class CTCModel(Protocol):
    """What is needed of a model, such as :class:`~mlx_speech.models.wav2vec2.Wav2Vec2ForCTC`.

    ``config`` tells the symbols (``vocabulary``, ``blank``, ``word_delimiter``) and the frames, in samples:
    ``frame_stride``, ``first_middle``, ``output_length`` and ``input_length``.
    """

    config: Any

    def normalize(self, audio: mx.array) -> mx.array:
        """Audio as the model wants it."""

    def __call__(self, audio: mx.array) -> mx.array:
        """(B, S) samples → (B, T, V) logits."""


@dataclass(frozen=True)
class Listener:
    """A CTC model, and the seconds by which its times are known to be late."""

    model: CTCModel
    lag: float = 0.0

    @cached_property
    def alphabet(self) -> Alphabet:
        """The model's symbols."""
        config = self.model.config
        return Alphabet(tuple(config.vocabulary), config.blank, config.word_delimiter)


class Alphabet:
    """A CTC model's symbols: from letters to columns.

    Args:
        vocabulary: the tokens by column.
        blank: the blank's column.
        delimiter: the token between words; it may be missing.
    """

    def __init__(self, vocabulary: tuple[str, ...], blank: int, delimiter: str = "|") -> None:
        self.size = len(vocabulary)
        self.blank = blank
        columns = {token: n for n, token in reversed(list(enumerate(vocabulary))) if n != blank}
        self.delimiter = columns.get(delimiter, columns.get(" "))
        self.columns = {t: n for t, n in columns.items() if len(t) == 1 and n != self.delimiter}
        self.letters = tuple(sorted(self.columns.values()))
        self._found: dict[str, tuple[int, ...]] = {}

    def of(self, letter: str) -> tuple[int, ...]:
        """The columns of a letter in lower case: its own, those of what it is made of, or none.

        A letter that the model does not know has the column -1, a wildcard; other characters have none.
        """
        if letter not in self._found:
            self._found[letter] = self._look_up(letter)
        return self._found[letter]

    def _look_up(self, letter: str) -> tuple[int, ...]:
        found = self._known(letter)
        if found is None:
            plain = _PLAIN.get(letter) or "".join(
                c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c)
            )
            parts = [self._known(c) for c in plain]
            found = None if None in parts or not parts else tuple(c for p in parts if p for c in p)
        if found is None:
            found = (-1,) if unicodedata.category(letter)[0] in "LN" else ()
        return found

    def _known(self, letter: str) -> tuple[int, ...] | None:
        for form in (letter, letter.upper(), letter.lower()):
            if all(c in self.columns for c in form):
                return tuple(self.columns[c] for c in form)
        return None


class Emissions:
    """Log-probabilities of some columns of a model, by frame of the recording, heard as they are asked for.

    The last two columns are wildcards, the best letter of each frame: two, because two unknown letters in a
    row need no blank between them.
    """

    def __init__(
        self,
        listener: Listener,
        audio: np.ndarray,
        spans: Sequence[tuple[int, int]],
        columns: Sequence[int],
        batch_size: int,
    ) -> None:
        config = listener.model.config
        self.model, self.audio, self.alphabet = listener.model, audio, listener.alphabet
        self.columns = mx.array(list(columns), mx.int32)
        self.batch_size = fitting(round(_WINDOW * _NEEDED_SECOND), batch_size)
        self.stride = config.frame_stride
        self.frames = config.output_length(len(audio))
        self.size = min(round(_WINDOW * SAMPLE_RATE / self.stride), self.frames)
        margin = round(_MARGIN * SAMPLE_RATE / self.stride)
        self.core = self.size - 2 * margin if self.size < self.frames else max(self.size, 1)
        self.margin = margin
        wanted = {k for a, b in spans for k in range(a // self.core, -(-b // self.core))}
        self.batches = self._batches(sorted(wanted))
        self.heard: dict[int, np.ndarray] = {}

    def part(self, first: int, last: int) -> np.ndarray:
        """(last - first, C) log-probabilities. Spans are asked for in order; earlier ones are forgotten."""
        if last <= first:
            return np.zeros((0, len(self.columns) + 2), np.float32)
        windows = range(first // self.core, -(-last // self.core))
        for k in [k for k in self.heard if k < windows[0]]:
            del self.heard[k]
        while any(k not in self.heard for k in windows):
            self._hear()
        joined = np.concatenate([self.heard[k] for k in windows])
        offset = windows[0] * self.core
        return joined[first - offset : last - offset]

    def _hear(self) -> None:
        batch, found = next(self.batches)
        for k, s, rows in zip(batch, self._starts(batch), found, strict=True):
            first = k * self.core
            self.heard[k] = rows[first - s : min(first + self.core, self.frames) - s].copy()

    def _batches(self, wanted: Sequence[int]) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Some windows at a time, with their scores (B, T, C + 2): a GPU hears the next ones meanwhile."""
        batches = [wanted[n : n + self.batch_size] for n in range(0, len(wanted), self.batch_size)]
        if not runtime.on_cpu():
            yield from runtime.on_host((batch, self._scores(self._starts(batch))) for batch in batches)
            return
        for batch in batches:
            starts = self._starts(batch)
            shares = runtime.shares(len(batch), 1)
            found = runtime.spread(self._on_host, [starts[some] for some in shares])
            yield batch, np.concatenate(found)

    def _starts(self, batch: Sequence[int]) -> list[int]:
        """The frames that windows begin at, margin included."""
        return [min(max(k * self.core - self.margin, 0), self.frames - self.size) for k in batch]

    def _on_host(self, starts: Sequence[int]) -> np.ndarray:
        return np.array(self._scores(starts))

    def _scores(self, starts: Sequence[int]) -> mx.array:
        """Log-probabilities of the columns in the windows that begin at these frames, (B, T, C + 2)."""
        samples = self.model.config.input_length(self.size)
        audio = mx.array(np.stack([self.audio[s * self.stride : s * self.stride + samples] for s in starts]))
        logits = self.model(self.model.normalize(audio)).astype(mx.float32)
        logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        best = mx.max(logits[..., mx.array(self.alphabet.letters, mx.int32)], axis=-1, keepdims=True)
        return mx.concatenate([logits[..., self.columns], best, best], axis=-1)

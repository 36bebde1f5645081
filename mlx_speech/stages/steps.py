"""A decoder's steps, as the loops of :mod:`mlx_speech.stages.generate` see them: on MLX's device or on this CPU.

Both hold the scores of what may come next and are fed what came. Rules and loops are written once, in the functions
that MLX and numpy share: ``xp`` is the module whose arrays are meant.

Letters: W windows, B rows, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_speech.layers.elementwise import Array
from mlx_speech.models.whisper import DecoderState, Whisper
from mlx_speech.models.whisper_host import HostDecoder, HostState, host_decoder
from mlx_speech.runtime import Team
from mlx_speech.stages.prompt import Prompt


class Steps(Protocol):
    """``width`` rows for each window, and the scores (B, V) of their next tokens.

    ``at_start`` (W, V) are the scores where the start token was read.
    """

    xp: ModuleType
    width: int
    logits: Array
    at_start: Array

    def feed(self, tokens: Array) -> None:
        """Give each row its next token (B,)."""

    def reorder(self, rows: Array) -> None:
        """Go on from these rows (B,), of the same windows; they are fed before their scores are looked at."""

    def keep(self, rows: Array, windows: np.ndarray) -> None:
        """Go on with these rows (N,) alone, all that hear some windows (indices)."""

    def launch(self, *arrays: Array) -> None:
        """Begin to compute what will be read."""


class DeviceSteps:
    """MLX's own, lazy: nothing waits for a step's end."""

    xp: ModuleType = mx

    def __init__(
        self, model: Whisper, state: DecoderState, last: mx.array, start: mx.array, width: int
    ) -> None:
        self.model, self.width = model, width
        self.state = state.repeat(width) if width > 1 else state
        self.at_start = model.logits(start)
        self.logits = model.logits(mx.repeat(last, width, axis=0) if width > 1 else last)

    def feed(self, tokens: mx.array) -> None:
        """Give each row its next token (B,)."""
        self.logits = self.model.next(tokens, self.state)

    def reorder(self, rows: mx.array) -> None:
        """Go on from these rows (B,)."""
        self.state = self.state.take(rows)

    def keep(self, rows: mx.array, windows: np.ndarray) -> None:
        """Go on with these rows (N,) alone."""
        self.state = self.state.take(rows, mx.array(windows))
        self.logits = self.logits[rows]

    def launch(self, *arrays: mx.array) -> None:
        """Begin to compute what will be read."""
        mx.async_eval(self.logits, *arrays)


class HostSteps:
    """This CPU's: each is done when it is asked for."""

    xp: ModuleType = np

    def __init__(
        self, decoder: HostDecoder, team: Team, state: HostState, last: mx.array, start: mx.array, width: int
    ) -> None:
        self.team, self.state, self.width = team, state, width
        self.at_start = decoder.logits(np.array(start), team)
        self.logits = decoder.logits(np.repeat(np.array(last), width, axis=0), team)

    def feed(self, tokens: np.ndarray) -> None:
        """Give each row its next token (B,)."""
        self.logits = self.state.step(tokens, self.team)

    def reorder(self, rows: np.ndarray) -> None:
        """Go on from these rows (B,)."""
        self.state.take(rows)

    def keep(self, rows: np.ndarray, windows: np.ndarray) -> None:
        """Go on with these rows (N,) alone."""
        self.state.take(rows)
        self.logits = self.logits[rows]

    def launch(self, *arrays: np.ndarray) -> None:
        """Nothing: it is all there."""


@contextmanager
def begin(model: Whisper, features: mx.array, prompt: Prompt, width: int, limit: int) -> Iterator[Steps]:
    """Read a prompt.

    Args:
        model: a Whisper model.
        features: audio features (W, T, D).
        prompt: of each window.
        width: rows for each window from then on.
        limit: tokens that will be fed at most.
    """
    state = model.start(features)
    hidden = model.step(mx.array(prompt.rows, mx.int32), state)
    last, first = hidden[:, -1], hidden[:, prompt.start]
    decoder = host_decoder(model)
    if decoder is None:
        steps = DeviceSteps(model, state, last, first, width)
        try:
            yield steps
        finally:
            steps.state.end()
        return
    with Team() as team:
        yield HostSteps(
            decoder, team, HostState(decoder, state, width, state.length + limit), last, first, width
        )

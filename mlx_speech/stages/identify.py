"""Whose voices a recording's speakers have: they are compared with known ones, and given their names.

K speakers of the recording, V known voices, D dimensions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import scipy  # its parts are loaded when first used: half of this package's import otherwise
from mlx.utils import tree_flatten

from mlx_speech.stages.ranges import Range, check
from mlx_speech.types import Diarization, Identity, Span, Turn, Voice

THRESHOLD = 0.5
"""Cosine from which two voices are one person's: docs/speakers.md tells what was measured."""

# log odds that two voices are one person's, from their cosine, where that is as likely as not beforehand: fitted
# by parity/bench_identify.py
_SLOPE, _OFFSET = 21.3, -7.7


@dataclass(frozen=True)
class IdentifyOptions:
    """How speakers are known by their voices.

    Args:
        threshold: the least cosine between a speaker's voice and the known one, -1 to 1. A higher one leaves more
            people unnamed, a lower one gives more of them another's name.

    Raises:
        OptionError: names the argument out of range.
    """

    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        check(self, {"threshold": Range("-1 to 1", lambda x: -1 <= x <= 1)})


def identify(
    embeddings: np.ndarray,
    labels: Sequence[str],
    known: Sequence[Voice],
    options: IdentifyOptions | None = None,
) -> tuple[Identity, ...]:
    """Find known voices among a recording's speakers: one name for one speaker, the likeliest way in all.

    Args:
        embeddings: (K, D) of any lengths; zeros, for somebody of whom too little was heard, are never known.
        labels: what the K speakers are called so far.
        known: the voices.
        options: how alike they must be.

    Returns:
        those who are known, in the order of the speakers.
    """
    if not known or not len(embeddings):
        return ()
    threshold = (options or IdentifyOptions()).threshold
    cosines = similarities(embeddings, np.stack([v.embedding for v in known]))
    # what is not alike enough is worth nothing, so that it never takes somebody's place
    speakers, voices = scipy.optimize.linear_sum_assignment(np.maximum(cosines - threshold, 0), maximize=True)
    heard = np.linalg.norm(embeddings, axis=1) > 0
    return tuple(
        Identity(known[v].name, labels[k], float(cosines[k, v]), confidence(float(cosines[k, v])))
        for k, v in zip(speakers, voices, strict=True)
        if heard[k] and cosines[k, v] >= threshold
    )


def similarities(embeddings: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Cosines, (K, D), (V, D) → (K, V) float32; those of zeros are 0."""

    def units(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))

    return units(np.asarray(embeddings, np.float32)) @ units(np.asarray(known, np.float32)).T


def confidence(cosine: float) -> float:
    """How sure it is that two voices are one person's, 0 to 1, where it is as likely as not beforehand."""
    return 1 / (1 + math.exp(-(_SLOPE * cosine + _OFFSET)))


def name_speakers(diarization: Diarization, identities: Sequence[Identity]) -> Diarization:
    """The diarization with known people's names; the others keep their labels."""
    names = {i.label: i.name for i in identities}

    def named(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        return tuple(replace(t, speaker=names.get(t.speaker, t.speaker)) for t in turns)

    return replace(
        diarization,
        turns=named(diarization.turns),
        exclusive_turns=named(diarization.exclusive_turns),
        speakers=tuple(names.get(s, s) for s in diarization.speakers),
        identities=tuple(identities),
    )


def alone(turns: Sequence[Turn], speaker: str) -> list[Span]:
    """Where somebody talks and nobody else does, in order.

    Args:
        turns: they may overlap.
        speaker: who.
    """
    others = sorted((t.start, t.end) for t in turns if t.speaker != speaker)
    found: list[Span] = []
    for turn in sorted((t for t in turns if t.speaker == speaker), key=lambda t: t.start):
        at = turn.start
        for start, end in others:
            if end <= at or start >= turn.end:
                continue
            if start > at:
                found.append(Span(at, start))
            at = max(at, end)
        if turn.end > at:
            found.append(Span(at, turn.end))
    return found


def weights_digest(model: nn.Module) -> str:
    """sha256 of a model's parameters, names and numbers: tells whether two embeddings can be compared."""
    digest = hashlib.sha256()
    parameters: Mapping[str, Any] = dict(tree_flatten(model.parameters()))
    for name in sorted(parameters):
        array = parameters[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.array(array.reshape(-1).view(mx.uint8)).tobytes())
    return digest.hexdigest()

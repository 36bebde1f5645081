"""Who says each word: what the diarization knows at each frame, and the likeliest course of a talk.

A word's evidence is how likely each speaker talks while it is said: the mean of the frames' posteriors. It counts
by the word's length: a long word shows more of its speaker than a short one. The share of its time that the
exclusive diarization gives to each can be mixed in; measured, that is worse (parity/BENCH_SPEAKERS.md). The words'
speakers are those of the best path through all words, where a change of speaker costs: much within a phrase, less
after a pause, nothing at the end of a sentence. So a boundary that lies within a word, or a word time that is off,
moves to where people change.

W words, K speakers, N frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_speech.stages.cutting import cut_segment
from mlx_speech.stages.ranges import NOT_NEGATIVE, SHARE, check
from mlx_speech.types import Diarization, Segment, Turn, Word

_FAINT = 1e-2  # evidence for a speaker who is not heard at all: a doubt, no proof
_LEAST, _MOST = 0.1, 2.0  # what a word's evidence counts
_SENTENCE_ENDS = tuple(".?!…。？！")


@dataclass(frozen=True)
class SpeakerOptions:
    """How words are given to speakers. Costs are natural logarithms of odds.

    Args:
        exclusive: weight of the exclusive diarization against the posteriors.
        switch: what a change of speaker costs between two words.
        switch_at_pause: the same after at least ``pause`` seconds of silence.
        switch_at_sentence: the same where a sentence ends.
        pause: seconds.
        length: seconds of a word whose evidence counts once; that of others in proportion, up to twice. 0 lets all
            words count alike.
        overlap: share of a word's time from which another's talk is told.

    Raises:
        OptionError: names the argument out of range.
    """

    exclusive: float = 0.0
    switch: float = 2.0
    switch_at_pause: float = 1.0
    switch_at_sentence: float = 0.0
    pause: float = 0.3
    length: float = 0.4
    overlap: float = 0.5

    def __post_init__(self) -> None:
        costs = dict.fromkeys(
            ("switch", "switch_at_pause", "switch_at_sentence", "pause", "length"), NOT_NEGATIVE
        )
        check(self, {"exclusive": SHARE, "overlap": SHARE, **costs})


def assign_speakers(
    segments: Sequence[Segment], diarization: Diarization, options: SpeakerOptions | None = None
) -> list[Segment]:
    """Give every word its speaker, and cut segments where the speaker changes.

    Args:
        segments: in time order, with words; one without is given to a speaker as a whole.
        diarization: of the same recording.
        options: how.

    Returns:
        The same words in the same order. Where the diarization heard nobody all along, they keep no speaker.
    """
    options = options or SpeakerOptions()
    units = [word for s in segments for word in (s.words or (_as_word(s),))]
    if not units or not diarization.speakers:
        return list(segments)
    spoken = iter(_spoken(units, diarization, options))
    given = []
    for segment in segments:
        words = tuple(next(spoken) for _ in segment.words or (segment,))
        if not segment.words:
            given.append(replace(segment, speaker=words[0].speaker))
            continue
        ends = [n for n, w in enumerate(words) if w.speaker != _speaker_after(words, n)]
        parts = cut_segment(replace(segment, words=words), ends)
        given += [replace(part, speaker=part.words[0].speaker) for part in parts]
    return given


def _as_word(segment: Segment) -> Word:
    return Word(segment.text, segment.start, segment.end, 0.0)


def _speaker_after(words: Sequence[Word], n: int) -> str | None:
    """The next word's speaker; of the last word nobody's, which every name differs from."""
    return words[n + 1].speaker if n + 1 < len(words) else None


def _spoken(words: Sequence[Word], diarization: Diarization, options: SpeakerOptions) -> list[Word]:
    """The words with their speakers."""
    scores = weights(words, options)[:, None] * np.log(evidence(words, diarization, options.exclusive))
    costs = switch_costs(words, options)
    path, sure = best_path(scores, costs), confidence(scores, costs)
    talking = word_means(words, _membership(diarization.turns, diarization), diarization)
    names = diarization.speakers
    return [
        replace(
            word,
            speaker=names[k],
            speaker_confidence=round(float(sure[n, k]), 4),
            overlap_speakers=tuple(
                name for j, name in enumerate(names) if j != k and talking[n, j] >= options.overlap
            ),
        )
        for n, (word, k) in enumerate(zip(words, path, strict=True))
    ]


def evidence(words: Sequence[Word], diarization: Diarization, exclusive: float) -> np.ndarray:
    """How likely each speaker says each word, by what is heard during it: (W, K) float64, rows sum to 1."""
    heard = word_means(words, diarization.posteriors, diarization)
    given = word_means(words, _membership(diarization.exclusive_turns, diarization), diarization)
    mixed = (1 - exclusive) * heard + exclusive * given + _FAINT
    return mixed / mixed.sum(1, keepdims=True)


def weights(words: Sequence[Word], options: SpeakerOptions) -> np.ndarray:
    """How much each word's evidence counts, (W,) float64."""
    if not options.length:
        return np.ones(len(words))
    return np.clip([(w.end - w.start) / options.length for w in words], _LEAST, _MOST)


def word_means(words: Sequence[Word], values: np.ndarray, diarization: Diarization) -> np.ndarray:
    """The mean over each word's frames, at least one: (N, K) → (W, K) float64."""
    frames = len(values)
    times = np.array([(w.start, w.end) for w in words])
    edges = np.ceil((times - diarization.frame_offset) / diarization.frame_step).astype(np.int64)
    first = np.clip(edges[:, 0], 0, max(frames - 1, 0))
    last = np.clip(edges[:, 1], first + 1, frames)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0, dtype=np.float64)])
    return (sums[last] - sums[first]) / (last - first)[:, None]


def _membership(turns: Sequence[Turn], diarization: Diarization) -> np.ndarray:
    """Who talks at each frame: (N, K) float32 of zeros and ones."""
    column = {name: k for k, name in enumerate(diarization.speakers)}
    found = np.zeros(diarization.posteriors.shape, np.float32)
    for turn in turns:
        # turns begin and end at the middle of a frame
        first, last = (
            round((t - diarization.frame_offset) / diarization.frame_step) for t in (turn.start, turn.end)
        )
        found[max(first, 0) : max(last, 0), column[turn.speaker]] = 1.0
    return found


def switch_costs(words: Sequence[Word], options: SpeakerOptions) -> np.ndarray:
    """What a change of speaker costs before each word, (W,) float64; the first one's is never asked for."""
    costs = np.full(len(words), float(options.switch))
    for n in range(1, len(words)):
        before, word = words[n - 1], words[n]
        if word.start - before.end >= options.pause:
            costs[n] = min(costs[n], options.switch_at_pause)
        if before.text.rstrip("\"'”’»)]").endswith(_SENTENCE_ENDS):
            costs[n] = min(costs[n], options.switch_at_sentence)
    return costs


def best_path(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The speakers of the best path: scores (W, K), costs (W,) → (W,) int64. Of equals, who talks goes on."""
    words = len(scores)
    came = np.zeros(scores.shape, np.int64)
    total = scores[0]
    for n in range(1, words):
        best = int(total.argmax())
        change = total[best] - costs[n]
        came[n] = np.where(total >= change, np.arange(len(total)), best)
        total = np.maximum(total, change) + scores[n]
    path = np.zeros(words, np.int64)
    path[-1] = total.argmax()
    for n in range(words - 1, 0, -1):
        path[n - 1] = came[n, path[n]]
    return path


def confidence(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Probability of each speaker at each word over all paths: (W, K), (W,) → (W, K) float64."""
    forward = _sweep(scores, costs)
    backward = _sweep(scores[::-1], np.append(0.0, costs[:0:-1]))[::-1]
    joint = forward + backward - scores
    joint = np.exp(joint - joint.max(1, keepdims=True))
    return joint / joint.sum(1, keepdims=True)


def _sweep(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Log-weight of all paths that reach each speaker at each word, up to a constant a word: (W, K)."""
    out = np.empty_like(scores)
    out[0] = scores[0]
    for n in range(1, len(scores)):
        weights = np.exp(out[n - 1] - out[n - 1].max())
        other = math.exp(-costs[n]) * (weights.sum() - weights)
        out[n] = np.log(weights + other) + scores[n]
    return out

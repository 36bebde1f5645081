"""When each word was said, by Whisper's own attention to the audio.

The alignment heads' cross-attention over the 20 ms frames, normalised and smoothed, is a cost matrix of
tokens by frames; dynamic time warping finds the cheapest monotonic path through it.

Original: https://github.com/openai/whisper/blob/v20250625/whisper/timing.py (MIT).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_speech.layers.elementwise import logsumexp
from mlx_speech.models.whisper import Whisper
from mlx_speech.stages.tokenizer import TIME_PRECISION, UNSPACED, Tokenizer
from mlx_speech.stages.warping import Path, alignment_matrices, dtw
from mlx_speech.types import Segment, Word

_SENTENCE_ENDS = ".。!！?？"
_LEADING = "\"'“¿([{-"
_TRAILING = "\"'.。,，!！?？:：”)]}、"
_PAUSE = 0.5  # seconds by which a word may leave its segment before the segment's own time is preferred
_LONGEST_MEDIAN = 0.7  # seconds: a longer median word says that the alignment failed


@dataclass
class _Timed:
    """A word while its time is being settled; its text keeps the leading space."""

    text: str
    tokens: list[int]
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Window:
    """A window that words are timed in.

    Args:
        duration: its length in seconds.
        language: the code it was decoded with.
        start: where it stands on the clock that its segments' times follow, in seconds.
        spoken_until: when the last word before it ended, by the same clock.
    """

    duration: float
    language: str
    start: float = 0.0
    spoken_until: float = 0.0


def word_times(
    model: Whisper,
    tokenizer: Tokenizer,
    features: mx.array,
    segments: Sequence[Sequence[Segment]],
    windows: Sequence[Window],
    task: str = "transcribe",
) -> list[list[Segment]]:
    """Give the segments of a batch of windows their words.

    Args:
        model: the Whisper model that wrote them.
        tokenizer: its tokenizer.
        features: the windows' audio features (B, T, D).
        segments: each window's segments.
        windows: what the B windows are.
        task: as decoded.

    Returns:
        The segments with ``words``; a segment's start and end become its first word's and its last one's.
    """
    rows = [n for n, found in enumerate(segments) if any(_text_tokens(tokenizer, s) for s in found)]
    out = [list(found) for found in segments]
    if not rows:
        return out
    prompts = [tokenizer.start_sequence(windows[n].language, task) for n in rows]
    texts = [[t for s in segments[n] for t in _text_tokens(tokenizer, s)] for n in rows]
    scores, probabilities = _forced(model, tokenizer, features[mx.array(rows)], prompts, texts)
    sizes = [
        (len(prompts[at]) + len(texts[at]) + 2, _frames(windows[n], scores.shape[-1]))
        for at, n in enumerate(rows)
    ]
    matrices = alignment_matrices(scores, sizes)
    paths = dtw([-matrix[len(prompt) : -1] for matrix, prompt in zip(matrices, prompts, strict=True)])
    for n, text, path, chances in zip(rows, texts, paths, probabilities, strict=True):
        window = windows[n]
        timed = _words(tokenizer, text, path, chances[: len(text)], window.language)
        limits = _limits(timed)  # of the words before they are joined and shortened, as in the original
        _shorten_at_sentence_ends(timed, limits[1])
        timed = _join_punctuation(timed, window.language not in UNSPACED)
        for word in timed:
            word.start, word.end = round(word.start + window.start, 2), round(word.end + window.start, 2)
        out[n] = _to_segments(tokenizer, segments[n], timed, limits, window.spoken_until)
    return out


def _frames(window: Window, most: int) -> int:
    return max(min(round(window.duration / TIME_PRECISION), most), 1)


def _text_tokens(tokenizer: Tokenizer, segment: Segment) -> list[int]:
    return [t for t in segment.tokens if t < tokenizer.special.eot]


def _forced(
    model: Whisper,
    tokenizer: Tokenizer,
    features: mx.array,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
) -> tuple[mx.array, np.ndarray]:
    """Attention scores (B, heads, L, T) of the given texts, and each text token's probability (B, L)."""
    special = tokenizer.special
    longest = max(map(len, texts))
    rows = [
        [*prompt, special.no_timestamps, *t, *[special.eot] * (longest - len(t) + 1)]
        for prompt, t in zip(prompts, texts, strict=True)
    ]
    tokens = mx.array(rows, mx.int32)
    scores, logits = model.cross_attention(features, tokens)
    # the scores before position p predict the token at p; only words compete
    start = len(prompts[0])
    ahead = logits[:, start : start + longest + 1, : special.eot]
    following = mx.minimum(tokens[:, start + 1 :], special.eot - 1)
    chosen = mx.take_along_axis(ahead, following[..., None], axis=-1).squeeze(-1)
    total = mx.stack([logsumexp(row) for row in ahead])  # row by row: the vocabulary is wide
    return scores, np.array(mx.exp(chosen - total))


def _words(
    tokenizer: Tokenizer,
    text: Sequence[int],
    path: Path,
    probabilities: np.ndarray,
    language: str,
) -> list[_Timed]:
    """Words with the times at which the path enters and leaves them."""
    pieces = tokenizer.split_to_words(text, language)
    token_index, frame = path
    entered = frame[np.flatnonzero(np.diff(token_index, prepend=-1))] * TIME_PRECISION
    bounds = np.cumsum([0, *(len(ids) for _, ids in pieces)])
    return [
        _Timed(piece, list(ids), float(entered[a]), float(entered[b]), float(np.mean(probabilities[a:b])))
        for (piece, ids), a, b in zip(pieces, bounds[:-1], bounds[1:], strict=True)
    ]


def _limits(timed: Sequence[_Timed]) -> tuple[float, float]:
    """The median word's length, and the longest length believed, in seconds."""
    lengths = [w.end - w.start for w in timed if w.end > w.start]
    median = min(float(np.median(lengths)) if lengths else 0.0, _LONGEST_MEDIAN)
    return median, 2 * median


def _shorten_at_sentence_ends(timed: Sequence[_Timed], longest: float) -> None:
    """Silence around a sentence's end goes to no word."""
    for before, word in itertools.pairwise(timed):
        if word.end - word.start > longest:
            if word.text in _SENTENCE_ENDS:
                word.end = word.start + longest
            elif before.text in _SENTENCE_ENDS:
                word.start = word.end - longest


def _join_punctuation(timed: Sequence[_Timed], spaced: bool) -> list[_Timed]:
    """Marks join the word they belong to, whose own time stays.

    In languages with spaces so does all else that no space divides ("ill" "-disposed"), with its time: the
    original leaves that in pieces.
    """
    joined: list[_Timed] = []
    for word in timed:
        mark = word.text.strip()
        follows = joined and mark and not word.text.startswith(" ") and not joined[-1].text.endswith(" ")
        if follows and (spaced or mark in _TRAILING):
            _append(joined[-1], word, keep_end=mark in _TRAILING)
        else:
            joined.append(word)
    out: list[_Timed] = []
    for word in joined:
        opening = out[-1].text.strip() if out and out[-1].text.startswith(" ") else ""
        if opening and opening in _LEADING:
            out[-1] = _Timed(
                out[-1].text + word.text.lstrip(),
                out[-1].tokens + word.tokens,
                word.start,
                word.end,
                word.probability,
            )
        else:
            out.append(word)
    return out


def _append(word: _Timed, piece: _Timed, keep_end: bool) -> None:
    if not keep_end:
        sizes = len(word.tokens), len(piece.tokens)
        word.probability = float(np.average([word.probability, piece.probability], weights=sizes))
        word.end = piece.end
    word.text += piece.text
    word.tokens += piece.tokens


def _to_segments(
    tokenizer: Tokenizer,
    segments: Sequence[Segment],
    timed: Sequence[_Timed],
    limits: tuple[float, float],
    spoken_until: float,
) -> list[Segment]:
    median, longest = limits
    rest = list(timed)
    out: list[Segment] = []
    for segment in segments:
        wanted, mine = len(_text_tokens(tokenizer, segment)), []
        while rest and wanted > 0:
            mine.append(rest.pop(0))
            wanted -= len(mine[-1].tokens)
        mine = [w for w in mine if w.text.strip()]
        if mine:
            segment = _fit(segment, mine, spoken_until, median, longest)
            spoken_until = segment.end
        out.append(segment)
    return out


def _fit(
    segment: Segment, words: list[_Timed], spoken_until: float, median: float, longest: float
) -> Segment:
    """Settle the words at the segment's edges, where pauses make them too long."""
    first, last = words[0], words[-1]
    _shorten_after_pause(words, spoken_until, median, longest)
    if segment.start < first.end and segment.start - _PAUSE > first.start:
        first.start = max(0.0, min(first.end - median, segment.start))
    if segment.end > last.start and segment.end + _PAUSE < last.end:
        last.end = max(last.start + median, segment.end)
    done = tuple(Word(w.text.strip(), w.start, max(w.end, w.start), w.probability) for w in words)
    return replace(segment, start=first.start, end=max(last.end, first.start), words=done)


def _shorten_after_pause(words: list[_Timed], spoken_until: float, median: float, longest: float) -> None:
    first = words[0]
    if first.end - spoken_until <= median * 4:
        return
    second = words[1] if len(words) > 1 else None
    if first.end - first.start > longest or (second and second.end - first.start > longest * 2):
        if second and second.end - second.start > longest:
            first.end = second.start = max(second.end / 2, second.end - longest)
        first.start = max(0.0, first.end - longest)

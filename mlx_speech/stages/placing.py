"""Spoken forms placed in a CTC model's frames, and their times as written words.

A frame lasts half a stride to both sides of the middle of what it hears; the model's known lag is taken off.
In speech that runs on, people who label words leave no gap between them, while CTC always leaves one, for the
delimiter: words that stand closer than ``AlignOptions.meet`` therefore meet halfway. Before a pause some models
draw a word's last letter on into the silence: a word ends with its sound.

A word's probability is that of the path along the word and half of the way to its neighbours, as a geometric
mean over frames: where the text leaves out what was said, or the other way round, the path has to cross
frames that say something else, and the words beside them score low. The mean over the word's own frames
knows less of it: it says that a model which was given the wrong text still finds its letters somewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from mlx_speech.audio import SAMPLE_RATE
from mlx_speech.errors import OptionError
from mlx_speech.stages import ctc, walk
from mlx_speech.stages.emissions import Alphabet, Emissions, Listener
from mlx_speech.stages.spoken import SpokenWord, split_words, spoken_form
from mlx_speech.types import Character, Segment, Word

_EXACT = 1 << 27  # frames times tokens up to which every placement is tried: a second's work
_TOGETHER = 4 * walk.CELLS  # of several works, so that they find others of their length
# Beyond, a token's score may lag behind the best by so much (natural logarithm of a likelihood): to wait for
# the text through five minutes of untranscribed speech cost the bundled model 12,000.
_BEAM = 20_000.0
# A frame before or behind the text counts as its best letter less this, if that is more than its blank: where
# speech goes on that the text leaves out, words are not drawn into it.
_OUTSIDE = 2.0
_BESIDE = 25  # frames at most on each side that a word's probability takes in
# a word is over where, up to its end, so many blocks of 10 ms are so many decibels fainter than its loudest one
_PAUSE = 12
_FAINT = 30.0
_BLOCK = SAMPLE_RATE // 100
_SILENT_WORD = 0.2  # seconds at most for a word without sound
_METHODS: Mapping[str, Callable[..., ctc.Path | None]] = {
    "viterbi": ctc.viterbi,
    "blank-stay": ctc.blank_stay,
}

UNCERTAIN = 0.1
"""A word whose probability is below this is marked ``uncertain``: with the bundled aligner 4 % of right words are,
and 96 % of another clip's (parity/BENCH_ALIGNMENT.md)."""


@dataclass(frozen=True)
class AlignOptions:
    """How words are placed.

    Args:
        method: ``"viterbi"``, or ``"blank-stay"`` for WhisperX's rule, which is worse and there to compare.
        batch_size: windows of 10 s heard together.
        slack: seconds by which words may leave their segment, where no other segment is.
        join: place segments together that stand closer than twice the slack.
        meet: seconds; words that stand closer meet halfway. 0 keeps the gaps that CTC leaves.
        characters: give the words their characters' times.
        sentences: cut segments where sentences end.
        lag: seconds that the model's times are late, taken off; by default what is known of the model.
        uncertain: words with a lower probability are marked.

    Raises:
        OptionError: an option out of its range.
    """

    method: str = "viterbi"
    batch_size: int = 16
    slack: float = 0.3
    join: bool = True
    meet: float = 0.1
    characters: bool = False
    sentences: bool = False
    lag: float | None = None
    uncertain: float = UNCERTAIN

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise OptionError(f"method {self.method!r}: choose from {', '.join(_METHODS)}")
        if self.batch_size < 1:
            raise OptionError(f"batch_size {self.batch_size} must be at least 1")
        if not 0 <= self.slack < float("inf"):
            raise OptionError(f"slack {self.slack} must be 0 seconds or more")
        if not 0 <= self.meet <= 1:
            raise OptionError(f"meet {self.meet} must be within 0 and 1 second")
        if self.lag is not None and not -1 < self.lag < 1:
            raise OptionError(f"lag {self.lag} must be within a second")
        if not 0 <= self.uncertain <= 1:
            raise OptionError(f"uncertain {self.uncertain} must be within 0 and 1")


def unplaced(segment: Segment, duration: float) -> Segment:
    """A segment with the words it has, or with words that share its time, each as much as it is long."""
    words = segment.words or tuple(
        Word(t, 0.0, 0.0, 0.0) for t in split_words(segment.text, segment.language)
    )
    segment = inside(segment, duration)
    start, end = segment.start, segment.end
    if not segment.words:
        edges = np.cumsum([0, *(len(w.text) for w in words)], dtype=float)
        edges = start + (end - start) * edges / max(edges[-1], 1.0)
        words = tuple(
            replace(w, start=float(a), end=float(min(b, end)))
            for w, (a, b) in zip(words, pairwise(edges), strict=True)
        )
    return replace(segment, words=tuple(replace(w, uncertain=True) for w in words))


def inside(segment: Segment, duration: float) -> Segment:
    """A segment whose start and end are in order and within the recording."""
    start = min(max(segment.start, 0.0), duration)
    return replace(segment, start=start, end=min(max(segment.end, start), duration))


@dataclass
class Work:
    """Segments to be placed together: their words and the columns to listen for.

    ``owners`` (N, 2) int holds each column's word, counted over all segments, and its piece in that word; a
    delimiter belongs to word -1.
    """

    segments: list[Segment]
    words: list[list[SpokenWord]]
    start: float
    end: float
    columns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))
    owners: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.intp))

    @classmethod
    def of(cls, alphabet: Alphabet, segments: Sequence[Segment], start: float, end: float) -> Work:
        """Spell the segments out."""
        spoken = [spoken_form(s.text, s.language, [w.text for w in s.words] or None) for s in segments]
        work = cls(list(segments), spoken, start, end)
        columns: list[int] = []
        owners: list[tuple[int, int]] = []
        divided = False
        for number, word in enumerate(w for words in spoken for w in words):
            divided |= word.spaced
            for piece, part in enumerate(word.pieces):
                for letter in part.spoken:
                    divided |= letter == " " and word.spaced
                    found = alphabet.of(letter)
                    if found and divided and columns and alphabet.delimiter is not None:
                        columns.append(alphabet.delimiter)
                        owners.append((-1, -1))
                    divided = divided and not found
                    columns.extend(found)
                    owners.extend([(number, piece)] * len(found))
        work.columns = np.array(columns, np.intp)
        work.owners = np.array(owners, np.intp).reshape(-1, 2)
        return work

    def alone(self, alphabet: Alphabet) -> list[Work]:
        """Its segments one by one, each in its own time."""
        ends = (self.start, self.end)
        times = [(float(np.clip(s.start, *ends)), float(np.clip(s.end, *ends))) for s in self.segments]
        return [Work.of(alphabet, [s], *t) for s, t in zip(self.segments, times, strict=True)]


def place(
    listener: Listener,
    audio: np.ndarray,
    work: Sequence[Work],
    options: AlignOptions,
    progress: Callable[[float], None] | None,
) -> Iterator[list[Segment]]:
    """Each work's segments with words.

    Works are placed one after the other, each as the best of all placements; a long one (beyond some eight minutes
    of speech and its text) as the best of those within a beam, in time proportional to its length.
    """
    clock = _Clock.of(listener, options)
    alphabet = listener.alphabet
    total = listener.model.config.output_length(len(audio))
    used = sorted({int(c) for w in work for c in w.columns if c >= 0} - {alphabet.blank})
    spans = [clock.frames(w.start, w.end, total) for w in work]
    heard = [s for s in spans if s[1] > s[0]]
    emissions = Emissions(listener, audio, heard, [alphabet.blank, *used], options.batch_size)
    rank = {c: n for n, c in enumerate(used, 1)}
    for some in _together(work, spans):
        chosen = [work[n] for n in some]
        rows = [emissions.part(*spans[n]) for n in some]
        paths = _find_each(chosen, rows, rank, options)
        for w, heard_it, path, (first, last) in zip(chosen, rows, paths, spans[some.start :], strict=False):
            found = [] if path is None else _fit(w, path, clock, first, audio, options)
            if path is None and len(w.segments) > 1:
                alone = w.alone(alphabet)
                limits = [clock.frames(one.start, one.end, total) for one in alone]
                parts = [(min(max(a, first), last), min(max(b, first), last)) for a, b in limits]
                cut = [heard_it[a - first : b - first] for a, b in parts]
                own = _find_each(alone, cut, rank, options)
                for one, path_alone, (a, _) in zip(alone, own, parts, strict=True):
                    fits = path_alone and _fit(one, path_alone, clock, a, audio, options)
                    found += fits or [unplaced(one.segments[0], len(audio) / SAMPLE_RATE)]
            yield found or [unplaced(s, len(audio) / SAMPLE_RATE) for s in w.segments]
            if progress:
                progress(w.end)


def _together(work: Sequence[Work], spans: Sequence[tuple[int, int]]) -> Iterator[range]:
    """Works that are placed side by side."""
    first, cells = 0, 0
    for n, (w, (low, high)) in enumerate(zip(work, spans, strict=True)):
        own = (high - low) * len(w.columns)
        if n > first and cells + own > _TOGETHER:
            yield range(first, n)
            first, cells = n, 0
        cells += own
    if work:
        yield range(first, len(work))


@dataclass(frozen=True)
class _Clock:
    """From frames to seconds and back: a frame's borders lie half a stride around what it hears."""

    stride: float
    offset: float

    @classmethod
    def of(cls, listener: Listener, options: AlignOptions) -> _Clock:
        config = listener.model.config
        lag = listener.lag if options.lag is None else options.lag
        edge = (config.first_middle - config.frame_stride / 2) / SAMPLE_RATE
        return cls(config.frame_stride / SAMPLE_RATE, edge - lag)

    def seconds(self, frames: np.ndarray) -> np.ndarray:
        """Times of borders."""
        return frames * self.stride + self.offset

    def frames(self, start: float, end: float, total: int) -> tuple[int, int]:
        """The frames within a span, at least those that hear it."""
        first = int(np.floor((start - self.offset) / self.stride))
        last = int(np.ceil((end - self.offset) / self.stride))
        return min(max(first, 0), total), min(max(last, 0), total)


def _fit(
    work: Work, path: ctc.Path, clock: _Clock, first: int, audio: np.ndarray, options: AlignOptions
) -> list[Segment]:
    """The segments of a work whose frames, counted from ``first``, the path goes through."""
    starts, ends = (np.clip(clock.seconds(first + x), work.start, work.end) for x in (path.starts, path.ends))
    timed = _Timed.of(path, starts, ends, work, audio, options.meet)
    out: list[Segment] = []
    number = 0
    words: list[Word | None] = []
    for spoken in work.words:
        for word in spoken:
            words.append(timed.word(number, word, options))
            number += 1
    texts = [w.text for spoken in work.words for w in spoken]
    done = iter(_fill_silent(words, texts, work.start, work.end))
    for segment, spoken in zip(work.segments, work.words, strict=True):
        mine = tuple(next(done) for _ in spoken)
        start, end = (mine[0].start, mine[-1].end) if mine else (segment.start, segment.end)
        out.append(replace(segment, start=start, end=end, words=mine))
    return out


def _find_each(
    work: Sequence[Work], rows: Sequence[np.ndarray], rank: Mapping[int, int], options: AlignOptions
) -> list[ctc.Path | None]:
    """The best placement of each work in its frames; ``None`` where there is none."""
    tokens = [_tokens(w, r.shape[1] - 2, rank) for w, r in zip(work, rows, strict=True)]
    if options.method != "viterbi":
        return [_METHODS[options.method](r, t, 0) for r, t in zip(rows, tokens, strict=True)]
    problems = [walk.Problem(r, t, r[:, -1] - _OUTSIDE) for r, t in zip(rows, tokens, strict=True)]
    found = {
        n: ctc.viterbi(p.log_probs, p.tokens, beam=_BEAM, outside=p.outside)
        for n, p in enumerate(problems)
        if p.cells > _EXACT
    }
    rest = [n for n in range(len(problems)) if found.get(n) is None]
    found.update(zip(rest, walk.viterbi_each([problems[n] for n in rest]), strict=True))
    return [found[n] for n in range(len(problems))]


def _tokens(work: Work, wild: int, rank: Mapping[int, int]) -> np.ndarray:
    """Its columns (N,) among those that were listened for; wildcards take two columns in turn."""
    columns = (wild + n % 2 if c < 0 else rank[c] for n, c in enumerate(work.columns.tolist()))
    return np.fromiter(columns, np.intp, len(work.columns))


@dataclass(frozen=True)
class _Timed:
    """Tokens with times in seconds (N,), probabilities and frames (N,), and owners (N, 2).

    ``first`` gives each word's first token, ``last`` the one behind its last, ``sure`` its probability; a
    wildcard fits anything, so it says when something was said but not that the word was: its share is 0.
    """

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    frames: np.ndarray
    owners: np.ndarray
    first: Mapping[int, int]
    last: Mapping[int, int]
    sure: Mapping[int, float]

    @classmethod
    def of(
        cls,
        path: ctc.Path,
        starts: np.ndarray,
        ends: np.ndarray,
        work: Work,
        audio: np.ndarray,
        meet: float,
    ) -> _Timed:
        """Words from their tokens' places: without pauses at their ends, and meeting where they stand close."""
        known = work.columns >= 0
        sounding = np.flatnonzero(work.owners[:, 0] >= 0)
        numbers, at, counts = np.unique(work.owners[sounding, 0], return_index=True, return_counts=True)
        first, last = sounding[at], sounding[at + counts - 1] + 1
        _end_with_sound(audio, starts, ends, first, last)
        _close_gaps(starts, ends, first, last, meet)
        # half of the way to the neighbours
        begin, end = path.starts[first], path.ends[last - 1]
        low = np.append(0, (end[:-1] + begin[1:]) // 2)
        high = np.append(low[1:], len(path.along))
        low, high = np.maximum(low, begin - _BESIDE), np.minimum(high, end + _BESIDE)
        total = np.append(0.0, np.cumsum(path.along, dtype=np.float64))
        sure = np.exp((total[high] - total[low]) / (high - low))
        shares = np.add.reduceat(known[sounding].astype(float), at) / counts
        return cls(
            starts,
            ends,
            np.where(known, path.scores, 0.0),
            path.ends - path.starts,
            work.owners,
            dict(zip(numbers.tolist(), first.tolist(), strict=True)),
            dict(zip(numbers.tolist(), last.tolist(), strict=True)),
            dict(zip(numbers.tolist(), np.minimum(sure * shares, 1.0).tolist(), strict=True)),
        )

    def word(self, number: int, word: SpokenWord, options: AlignOptions) -> Word | None:
        """A word by its tokens; ``None`` where it has none."""
        if number not in self.first:
            return None
        tokens = np.arange(self.first[number], self.last[number])
        start, end, sure = float(self.starts[tokens[0]]), float(self.ends[tokens[-1]]), self.sure[number]
        characters: tuple[Character, ...] = ()
        if options.characters:
            characters = tuple(self._characters(word, tokens, start))
        return Word(word.text, start, end, sure, characters, uncertain=sure < options.uncertain)

    def _characters(self, word: SpokenWord, tokens: np.ndarray, start: float) -> Iterator[Character]:
        """Its pieces; a silent one takes no time, where the one before it ends."""
        now = start
        for n, piece in enumerate(word.pieces):
            mine = tokens[self.owners[tokens, 1] == n]
            begin, probability = now, 0.0
            if len(mine):
                begin, now = float(self.starts[mine[0]]), float(self.ends[mine[-1]])
                probability = float(np.average(self.scores[mine], weights=self.frames[mine]))
            if piece.text:
                yield Character(piece.text, begin, now, probability)


def _end_with_sound(
    audio: np.ndarray, starts: np.ndarray, ends: np.ndarray, first: np.ndarray, last: np.ndarray
) -> None:
    """Take off the ends of words, in place, the pauses in them; word k has the tokens first[k] to last[k] - 1."""
    for a, b in zip(first, last - 1, strict=True):
        part = audio[round(starts[a] * SAMPLE_RATE) : round(ends[b] * SAMPLE_RATE)]
        count = len(part) // _BLOCK
        if count <= _PAUSE:
            continue
        blocks = part[: count * _BLOCK].reshape(count, _BLOCK)
        energy = np.einsum("bs,bs->b", blocks, blocks)
        loud = int(np.flatnonzero(energy >= energy.max() * 10 ** (-_FAINT / 10))[-1]) + 1
        if count - loud >= _PAUSE:
            ends[b] = max(starts[b], starts[a] + loud * _BLOCK / SAMPLE_RATE)


def _close_gaps(
    starts: np.ndarray, ends: np.ndarray, first: np.ndarray, last: np.ndarray, meet: float
) -> None:
    """Let words meet, in place, that stand closer than that; word k has the tokens first[k] to last[k] - 1."""
    before, after = last[:-1] - 1, first[1:]
    gap = starts[after] - ends[before]
    near = gap < meet
    middle = (ends[before] + gap / 2)[near]
    ends[before[near]] = middle
    starts[after[near]] = middle


def _fill_silent(words: Sequence[Word | None], texts: Sequence[str], start: float, end: float) -> list[Word]:
    """Words without sound stand behind the word before them, the first ones before the word that follows."""
    out: list[Word] = []
    n = 0
    while n < len(words):
        word = words[n]
        if word is not None:
            out.append(word)
            n += 1
            continue
        last = n
        while last < len(words) and words[last] is None:
            last += 1
        following = words[last] if last < len(words) else None
        low = out[-1].end if out else start
        high = following.start if following else end
        room = min(high - low, _SILENT_WORD * (last - n))
        if not out and following:
            low = high - room
        edges = np.linspace(low, low + room, last - n + 1)
        out += [
            Word(t, float(a), float(min(b, high)), 0.0, uncertain=True)
            for t, (a, b) in zip(texts[n:last], pairwise(edges), strict=True)
        ]
        n = last
    return out

"""The two alignment rules against brute force and against their plain definitions."""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS)

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_speech.stages import ctc, walk

CASES = st.tuples(
    st.integers(0, 2**32 - 1),  # seed
    st.integers(1, 6),  # frames
    st.integers(2, 4),  # symbols
    st.integers(1, 4),  # tokens
    st.sampled_from([0.1, 0.5, 2.0]),  # how even the probabilities are
    st.integers(0, 3),  # the blank's column
)


def make(case) -> tuple[np.ndarray, np.ndarray, int]:
    seed, frames, symbols, count, even, blank = case
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.full(symbols, even), frames) + 1e-9).astype(np.float32)
    blank %= symbols
    letters = [s for s in range(symbols) if s != blank]
    return log_probs, rng.choice(letters, count), blank


def symbols_of(path: ctc.Path, tokens: np.ndarray, frames: int, blank: int) -> list[int]:
    out = [blank] * frames
    for token, start, end in zip(tokens, path.starts, path.ends, strict=True):
        out[start:end] = [int(token)] * (end - start)
    return out


def collapse(symbols, blank: int) -> list[int]:
    return [s for s, _ in itertools.groupby(symbols) if s != blank]


@cache
def paths_of(frames: int, symbols: int, blank: int) -> dict[tuple[int, ...], np.ndarray]:
    """Every path there is, by what it says."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in itertools.product(range(symbols), repeat=frames):
        found.setdefault(tuple(collapse(path, blank)), []).append(path)
    return {said: np.array(paths) for said, paths in found.items()}


def score(log_probs: np.ndarray, symbols) -> float:
    return float(log_probs[np.arange(len(log_probs)), list(symbols)].astype(np.float64).sum())


@pytest.mark.parametrize("block", [2048, 1, 2, 3])
@settings(max_examples=1000, deadline=None)
@given(case=CASES)
def test_viterbi_is_the_best_of_all_paths(block, case):
    log_probs, tokens, blank = make(case)
    frames = len(log_probs)
    every = paths_of(frames, log_probs.shape[1], blank).get(tuple(tokens.tolist()))
    best = None if every is None else log_probs[np.arange(frames), every].astype(np.float64).sum(1).max()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc, "BLOCK", block)
        path = ctc.viterbi(log_probs, tokens, blank)
    if best is None:
        assert path is None
        assert frames < ctc.frames_needed(tokens)
        return
    found = symbols_of(path, tokens, frames, blank)
    assert collapse(found, blank) == tokens.tolist()
    assert score(log_probs, found) == pytest.approx(best, abs=1e-4)
    for n, (start, end) in enumerate(zip(path.starts, path.ends, strict=True)):
        assert path.scores[n] == pytest.approx(np.exp(log_probs[start:end, tokens[n]]).mean(), abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(case=CASES)
def test_blank_stay_is_the_best_of_its_paths(case):
    """A token takes one frame, the rest are blanks, from the first token to wherever the sum is best."""
    log_probs, tokens, blank = make(case)
    path = ctc.blank_stay(log_probs, tokens, blank)
    frames, count = len(log_probs), len(tokens)
    if path is None:
        # WhisperX's rule also gives up where every blank is dearer than starting late
        return
    assert (np.diff(path.starts) > 0).all()
    assert path.ends.tolist() == [*path.starts[1:], path.ends[-1]]
    last = int(path.ends[-1])
    told = [blank] * last
    for n, start in enumerate(path.starts):
        told[start] = int(tokens[n])
    best = max(
        score(log_probs[:end], [int(tokens[at.index(t)]) if t in at else blank for t in range(end)])
        for end in range(count, frames + 1)
        for at in itertools.combinations(range(end), count)
        if at[0] <= frames - count
    )
    assert score(log_probs[:last], told) == pytest.approx(best, abs=1e-4)


@settings(max_examples=400, deadline=None)
@given(case=CASES)
def test_open_ends_count_as_they_are_told(case):
    log_probs, tokens, blank = make(case)
    frames = len(log_probs)
    outside = log_probs.max(1) - 0.5
    edge = np.maximum(outside, log_probs[:, blank])

    def total(symbols) -> float:
        said = np.flatnonzero(np.asarray(symbols) != blank)
        inner = np.arange(frames)[said[0] : said[-1] + 1]
        kept = log_probs[inner, np.asarray(symbols)[inner]].astype(np.float64).sum()
        return float(kept + edge[: said[0]].sum() + edge[said[-1] + 1 :].sum())

    every = paths_of(frames, log_probs.shape[1], blank).get(tuple(tokens.tolist()))
    path = ctc.viterbi(log_probs, tokens, blank, outside=outside)
    if every is None:
        assert path is None
        return
    best = max(total(symbols) for symbols in every)
    assert total(symbols_of(path, tokens, frames, blank)) == pytest.approx(best, abs=1e-4)


def speechlike(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and emissions that say them, two frames each and a blank between, among noise."""
    tokens = rng.integers(1, 20, count)
    said = np.stack([tokens, tokens, np.zeros_like(tokens)], axis=1).ravel()
    weights = rng.dirichlet(np.full(20, 0.3), len(said)) + 0.5 * np.eye(20)[said]
    return np.log(weights / weights.sum(1, keepdims=True)).astype(np.float32), tokens


@pytest.mark.parametrize("silence", [0, 900])
def test_a_beam_finds_the_same_path_where_text_and_speech_agree(silence):
    log_probs, tokens = speechlike(np.random.default_rng(0), 1500)
    quiet = np.log(np.full((silence, 20), 0.01, np.float32) + 0.8 * np.eye(20, dtype=np.float32)[0])
    log_probs = np.concatenate([quiet, log_probs[:2000], quiet, log_probs[2000:], quiet])
    exact, beam = ctc.viterbi(log_probs, tokens), ctc.viterbi(log_probs, tokens, beam=200)
    np.testing.assert_array_equal(exact.starts, beam.starts)
    np.testing.assert_array_equal(exact.ends, beam.ends)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.floats(0.5, 100), chunk=st.integers(1, 40))
def test_a_beam_finds_a_path_that_is_never_better_than_the_best(seed, width, chunk):
    rng = np.random.default_rng(seed)
    log_probs, tokens = speechlike(rng, 30)
    tokens = np.concatenate([tokens, rng.integers(1, 20, int(rng.integers(0, 20)))])  # some are not said
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc, "_CHUNK", chunk)
        patch.setattr(ctc, "BLOCK", 2 * chunk + 1)
        best, found = ctc.viterbi(log_probs, tokens), ctc.viterbi(log_probs, tokens, beam=width)
    if found is not None:
        said = symbols_of(found, tokens, len(log_probs), 0)
        assert collapse(said, 0) == tokens.tolist()
        assert score(log_probs, said) <= score(log_probs, symbols_of(best, tokens, len(log_probs), 0)) + 1e-3


def test_a_beam_may_lose_the_way():
    log_probs, tokens = speechlike(np.random.default_rng(0), 200)
    assert ctc.viterbi(log_probs, np.concatenate([tokens, tokens]), beam=5) is None


def test_blocks_change_nothing_on_a_long_recording(monkeypatch):
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.full(20, 0.1), 3000) + 1e-12).astype(np.float32)
    tokens = rng.integers(1, 20, 700)
    whole = ctc.viterbi(log_probs, tokens)
    monkeypatch.setattr(ctc, "BLOCK", 97)
    monkeypatch.setattr(ctc, "_GATHER", 5000)
    parts = ctc.viterbi(log_probs, tokens)
    for name in ("starts", "ends", "scores"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_impossible_probabilities_stay_finite():
    log_probs = np.full((5, 3), -np.inf, np.float32)
    log_probs[:, 0] = 0
    path = ctc.viterbi(log_probs, [1, 2])
    assert path is not None
    assert (path.scores == 0).all()


@pytest.mark.parametrize("rule", [ctc.viterbi, ctc.blank_stay])
def test_what_does_not_fit_is_refused(rule):
    log_probs = np.log(np.full((3, 4), 0.25, np.float32))
    assert rule(log_probs, []) is None
    assert rule(log_probs, [1, 2, 3, 1]) is None
    assert rule(np.zeros((0, 4), np.float32), [1]) is None
    assert rule(log_probs, [1, 2, 3]) is not None


def test_equal_neighbours_need_a_blank_between():
    log_probs = np.log(np.full((2, 4), 0.25, np.float32))
    assert ctc.frames_needed([1, 1, 2, 2, 2]) == 8
    assert ctc.viterbi(log_probs, [1, 1]) is None
    assert ctc.viterbi(log_probs, [1, 2]) is not None


@pytest.mark.parametrize("cells", [1 << 22, 4000, 1])
@pytest.mark.parametrize("block", [2048, 53])
def test_problems_side_by_side_are_placed_as_one_by_one(monkeypatch, cells, block):
    monkeypatch.setattr(walk, "CELLS", cells)
    monkeypatch.setattr(ctc, "BLOCK", block)
    rng = np.random.default_rng(cells + block)
    problems = []
    for n, count in enumerate((40, 1, 3, 0, 17, 40, 25, 9)):
        if n % 2:
            log_probs, tokens = speechlike(rng, max(count, 1))
            tokens = tokens[:count]
        else:  # noise, and as few frames as there may be, or one less
            tokens = rng.integers(1, 4, count)
            frames = ctc.frames_needed(tokens) + (0, -1, 53, 106)[n // 2]
            log_probs = np.log(rng.dirichlet(np.ones(6), frames)).astype(np.float32)
        outside = None if n % 3 == 0 else log_probs[:, 1:].max(1) - 2
        problems.append(walk.Problem(log_probs, tokens, outside))
    found = walk.viterbi_each(problems)
    for problem, path in zip(problems, found, strict=True):
        wanted = ctc.viterbi(problem.log_probs, problem.tokens, outside=problem.outside)
        assert (path is None) == (wanted is None)
        if wanted is not None:
            for name in ("starts", "ends", "scores", "along"):
                assert np.array_equal(getattr(path, name), getattr(wanted, name)), name
    assert sum(path is None for path in found) == 2

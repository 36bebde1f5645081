"""Decoding: the original's tokens, its rules restated plainly, sampling, fallback, what becomes of tokens.

The expected tokens are made by parity/fixtures_whisper.py with openai/whisper and the tiny weights.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_speech.errors import OptionError
from mlx_speech.stages import transcribe as transcribe_stage
from mlx_speech.stages.decode import (
    Decoded,
    compression_ratio,
    decode,
    detect_language,
    is_silence,
    needs_fallback,
)
from mlx_speech.stages.generate import _limit, largest
from mlx_speech.stages.loops import without_loops
from mlx_speech.stages.options import DecodeOptions, TranscribeOptions
from mlx_speech.stages.prompt import Prompt, build_prompt, text_tokens
from mlx_speech.stages.rules import Rules
from mlx_speech.stages.transcribe import phrases
from mlx_speech.types import Span

EXPECTED = json.loads((Path(__file__).parent / "fixtures/whisper/decoding.json").read_text(encoding="utf-8"))
EOT, FIRST_STAMP, VOCAB = 50257, 50364, 51865
LAST_LANGUAGE = 50357
# 50 000 small terms are summed beside one of 1 in float32: each below half a rounding of 1 may be lost
SUM = 5e-4

GREEDY = DecodeOptions(temperatures=(0.0,), max_tokens=40)
# the runs of parity/fixtures_whisper.py
RUNS = {
    "default": ("en", GREEDY),
    "translate": ("de", replace(GREEDY, task="translate")),
    "no_timestamps": ("fr", replace(GREEDY, timestamps=False)),
    "late_start": ("en", replace(GREEDY, max_initial_timestamp=20.0, suppress_symbols=False)),
    "short": ("ja", replace(GREEDY, max_tokens=7)),
    "beams": ("en", replace(GREEDY, beam_size=5)),
    "patient_beams": ("en", replace(GREEDY, beam_size=3, patience=2.0, length_penalty=0.6)),
    "beams_without_timestamps": ("en", replace(GREEDY, beam_size=4, timestamps=False)),
    "prompt": ("en", replace(GREEDY, prompt="Anna and Ben talk about whales.")),
    "prefix": ("en", replace(GREEDY, prompt="And then?", prefix="They said")),
    "suppressed": ("en", replace(GREEDY, suppress_tokens=tuple(range(1000, 30000)))),
}


@pytest.fixture(scope="module")
def features(whisper, expected) -> mx.array:
    return whisper.encode(mx.array(expected["mel"]))


# --- against the original ---------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_tokens_equal_the_original(whisper, tokenizer, features, run):
    language, options = RUNS[run]
    found = decode(whisper, tokenizer, features, language, options)
    for ours, theirs in zip(found, EXPECTED["runs"][run], strict=True):
        assert list(ours.tokens) == theirs["tokens"]
        # float32 logits of 30, of another order of sums: 1e-5
        assert ours.avg_logprob == pytest.approx(theirs["avg_logprob"], abs=1e-4)
        assert ours.no_speech_prob == pytest.approx(theirs["no_speech_prob"], abs=1e-4)
        assert ours.compression_ratio == theirs["compression_ratio"]
        assert ours.complete == (len(ours.tokens) < options.max_tokens)


def test_the_fixture_meets_every_rule():
    kinds = [
        "".join("|" if t >= FIRST_STAMP else "w" for t in r["tokens"]) for r in EXPECTED["runs"]["default"]
    ]
    assert any("||" in k for k in kinds), "no pair of timestamps"
    assert any(k.count("|") > 3 for k in kinds), "no second pair"
    lengths = {len(r["tokens"]) for run in EXPECTED["runs"].values() for r in run}
    assert 40 in lengths, "no row runs to the limit"
    assert len(lengths) > 3, "no row ends by itself"


def test_languages_equal_the_original(whisper, tokenizer, features):
    found = detect_language(whisper, tokenizer, features)
    for ours, theirs in zip(found, EXPECTED["languages"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert sum(ours.values()) == pytest.approx(1)


def test_batch_equals_single(whisper, tokenizer, features):
    both = decode(whisper, tokenizer, features, "en", GREEDY)
    for n in range(2):
        (single,) = decode(whisper, tokenizer, features[n : n + 1], "en", GREEDY)
        assert single.tokens == both[n].tokens
        assert single.avg_logprob == pytest.approx(both[n].avg_logprob, abs=1e-4)


# --- the rules --------------------------------------------------------------------------------------------


def allowed_by_the_original(logits: np.ndarray, seq: list[int], config, options: DecodeOptions) -> np.ndarray:
    """SuppressBlank, SuppressTokens and ApplyTimestampRules of openai/whisper, on one row, float64.

    Two things are this library's own: the languages compete but are never written, and without
    ``timestamps`` no timestamp competes.
    """
    logits = logits.astype(np.float64)
    if not seq:
        logits[list(config.begin_suppress_tokens)] = -np.inf
    if options.suppress_symbols:
        logits[list(config.suppress_tokens)] = -np.inf
    logits[EOT + 1] = logits[LAST_LANGUAGE + 1 : FIRST_STAMP] = -np.inf
    if not options.timestamps:
        logits[FIRST_STAMP:] = -np.inf
        return logits
    last = bool(seq) and seq[-1] >= FIRST_STAMP
    penultimate = len(seq) < 2 or seq[-2] >= FIRST_STAMP
    if last and penultimate:
        logits[FIRST_STAMP:] = -np.inf
    elif last:
        logits[:EOT] = -np.inf
    stamps = [t for t in seq if t >= FIRST_STAMP]
    if stamps:
        logits[FIRST_STAMP : stamps[-1] + (0 if last and not penultimate else 1)] = -np.inf
    if not seq:
        logits[:FIRST_STAMP] = -np.inf
        logits[FIRST_STAMP + round(options.max_initial_timestamp / 0.02) + 1 :] = -np.inf
    log = logits - log_sum(logits)
    if log_sum(log[FIRST_STAMP:]) > log[:FIRST_STAMP].max():
        logits[:FIRST_STAMP] = -np.inf
    return logits


def best(allowed: np.ndarray) -> int:
    """The likeliest token that may be written."""
    written = allowed.copy()
    written[EOT + 1 : FIRST_STAMP] = -np.inf
    return int(written.argmax())


def log_sum(x: np.ndarray) -> float:
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum())) if top > -np.inf else -math.inf


def random_logits(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Scores under which now words, now timestamps, now the end wins."""
    logits = rng.normal(0, 3, (rows, VOCAB)).astype(np.float32)
    logits[:, FIRST_STAMP:] += rng.choice([-8.0, 2.0, 6.0], (rows, 1))
    logits[:, EOT] += rng.choice([-20.0, 8.0, 14.0], rows)
    logits[:, 220] += rng.choice([0.0, 20.0])  # the lone space that may not be first
    return logits


SOME_OPTIONS = st.sampled_from(
    [
        DecodeOptions(),
        DecodeOptions(max_initial_timestamp=0.0),
        DecodeOptions(max_initial_timestamp=30.0, suppress_symbols=False),
        DecodeOptions(timestamps=False),
        DecodeOptions(timestamps=False, suppress_symbols=False),
    ]
)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), options=SOME_OPTIONS)
def test_rules_choose_as_the_original(whisper, tokenizer, seed, options):
    rng = np.random.default_rng(seed)
    rules = Rules(whisper, tokenizer, options)
    rows: list[list[int]] = [[], [], []]
    for _ in range(8):
        logits = random_logits(rng, len(rows))
        found, logprob = rules.choose(mx.array(logits))
        for n, seq in enumerate(rows):
            allowed = allowed_by_the_original(logits[n], seq, whisper.config, options)
            wanted = best(allowed)
            assert found[n].item() == wanted, (n, seq)
            assert logprob[n].item() == pytest.approx(allowed[wanted] - log_sum(allowed), abs=SUM)
            seq.append(wanted)


def test_rules_never_go_back_in_time_at_the_last_timestamp(whisper, tokenizer):
    """After 30.00 nothing is left but its twin, then words or the end."""
    rules = Rules(whisper, tokenizer, DecodeOptions(max_initial_timestamp=30.0))
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, VOCAB - 1] = 50.0
    assert rules.choose(mx.array(logits))[0].item() == VOCAB - 1
    assert rules.choose(mx.array(logits))[0].item() < EOT  # a phrase must say something
    logits[0, EOT] = 40.0
    token, logprob = rules.choose(mx.array(logits))
    assert token.item() == EOT
    assert math.isfinite(logprob.item())


def test_restart_forgets(whisper, tokenizer):
    rules = Rules(whisper, tokenizer, DecodeOptions())
    logits = mx.array(random_logits(np.random.default_rng(0), 2))
    first = rules.choose(logits)[0].tolist()
    assert rules.choose(logits)[0].tolist() != first
    rules.restart(0.0, 0)
    assert rules.choose(logits)[0].tolist() == first


def words_after(whisper, tokenizer, history: list[int], scores: dict[int, float], options) -> int:
    """The next token after a row's history, where all but some tokens are far behind."""
    rules = Rules(whisper, tokenizer, options)
    for token in history:
        rules.advance(mx.array([token], mx.int32))
    logits = np.full((1, VOCAB), -50.0, np.float32)
    for token, score in scores.items():
        logits[0, token] = score
    return rules.choose(mx.array(logits))[0].item()


PLAIN = DecodeOptions(timestamps=False, suppress_symbols=False)


@pytest.mark.parametrize(
    ("options", "history", "scores", "wanted"),
    [
        (PLAIN, [300, 400], {300: 4.0, 500: 3.5}, 300),
        (replace(PLAIN, repetition_penalty=1.3), [300, 400], {300: 4.0, 500: 3.5}, 500),
        (replace(PLAIN, repetition_penalty=1.3), [400, 400], {300: 4.0, 500: 3.5}, 300),
        (replace(PLAIN, repetition_penalty=1.3), [300], {300: -1.0, 500: -1.2}, 500),
        (replace(PLAIN, no_repeat_ngram_size=2), [300, 400, 300], {400: 4.0, 500: 3.5}, 500),
        (replace(PLAIN, no_repeat_ngram_size=2), [300, 400, 301], {400: 4.0, 500: 3.5}, 400),
        (replace(PLAIN, no_repeat_ngram_size=3), [300, 400, 300], {400: 4.0, 500: 3.5}, 400),
        (replace(PLAIN, no_repeat_ngram_size=1), [300], {300: 4.0, 500: 3.5}, 500),
        (replace(PLAIN, no_repeat_ngram_size=1), [EOT], {EOT: 4.0, 500: 3.5}, EOT),
        (replace(PLAIN, suppress_tokens=(300,)), [], {300: 4.0, 500: 3.5}, 500),
    ],
)
def test_repetition_is_discouraged(whisper, tokenizer, options, history, scores, wanted):
    assert words_after(whisper, tokenizer, history, scores, options) == wanted


def test_numerals_are_suppressed(whisper, tokenizer):
    signs = (t for sign in "%$£" for t in tokenizer.encode(f" {sign}"))
    texts = {n: tokenizer.decode([n]) for n in (*tokenizer.numerals[:40], *range(1000, 1040), *signs)}
    for n, text in texts.items():
        assert any(c in "0123456789%$£" for c in text) == (n in tokenizer.numerals)
    (seven,) = tokenizer.encode(" 7")
    options = replace(PLAIN, suppress_numerals=True)
    assert words_after(whisper, tokenizer, [300], {seven: 4.0, 500: 3.5}, options) == 500


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8), size=st.sampled_from([5, 300, 51865]))
def test_largest(seed, count, size):
    x = np.random.default_rng(seed).normal(size=(2, size)).astype(np.float32)
    values, index = largest(mx.array(x), count)
    for row, found, at in zip(x, np.array(values), np.array(index), strict=True):
        assert sorted(found) == sorted(np.sort(row)[-min(count, size) :])
        assert np.array_equal(row[at], found)


def test_beams_of_a_batch_equal_each_alone(whisper, tokenizer, features):
    """Rows end at different steps: what leaves the batch changes nothing for the others."""
    many = features[mx.array([0, 1, 1, 0, 1])]
    for options in (replace(GREEDY, beam_size=3), GREEDY):
        together = decode(whisper, tokenizer, many, "en", options)
        alone = [decode(whisper, tokenizer, many[n : n + 1], "en", options)[0] for n in range(2)]
        for n, found in enumerate(together):
            assert found.tokens == alone[n in (1, 2, 4)].tokens


def test_the_best_of_samples_is_the_likeliest(whisper, tokenizer, features):
    options = DecodeOptions(temperatures=(1.0,), max_tokens=12)
    one = decode(whisper, tokenizer, features, "en", options)
    best = decode(whisper, tokenizer, features, "en", replace(options, best_of=8))
    assert sum(b.avg_logprob for b in best) > sum(o.avg_logprob for o in one)


def test_each_window_has_its_language(whisper, tokenizer, features):
    both = decode(whisper, tokenizer, features, ["fr", "ja"], replace(GREEDY, max_tokens=7))
    for n, language in enumerate(["fr", "ja"]):
        (alone,) = decode(whisper, tokenizer, features[n : n + 1], language, replace(GREEDY, max_tokens=7))
        assert alone.tokens == both[n].tokens


@pytest.mark.parametrize(("hotwords", "kept"), [(None, 223), ("Anna", 222)])
def test_half_of_the_context_less_one_is_left_to_what_was_said(tokenizer, hotwords, kept):
    hot = text_tokens(tokenizer, hotwords)
    assert len(hot) == 223 - kept
    said = list(range(300, 600))
    prompt = build_prompt(tokenizer, ["en"], DecodeOptions(hotwords=hotwords), 448, said)
    assert prompt.rows[0][: prompt.start] == (tokenizer.special.start_of_prev, *hot, *said[-kept:])
    assert prompt.start == 224


@pytest.mark.parametrize(
    ("prompt", "asked", "most"),
    [(3, None, 224), (3, 300, 300), (300, None, 149), (300, 9, 9), (447, None, 2)],
)
def test_half_of_the_context_is_written_or_what_the_prompt_leaves(whisper, prompt, asked, most):
    """The last token is not read, so it may stand one beyond the context."""
    assert _limit(whisper, asked, Prompt(((0,) * prompt,), 0)) == most


def test_a_prompt_without_room_is_refused(whisper, tokenizer, features):
    options = replace(GREEDY, prefix="word " * 450)
    with pytest.raises(OptionError, match="shorten prefix"):
        decode(whisper, tokenizer, features, "en", replace(options, max_tokens=None))


@pytest.mark.parametrize(
    ("parts", "most", "wanted"),
    [
        ([" no"] * 5, 3, " no"),
        ([" no"] * 3, 3, " no no no"),
        ([" a", " b"] * 4 + [" c"], 2, " a b c"),
        ([0.0, " I see.", 2.0, 2.0, " I see.", 4.0, 4.0, " I see.", 6.0], 2, " I see."),
        ([" fine", " as", " it", " is"], 1, " fine as it is"),
    ],
)
def test_loops_are_written_once(tokenizer, parts, most, wanted):
    found = without_loops(tokenizer, result(tokens=tokens_of(tokenizer, *parts)), most)
    assert tokenizer.decode(found.tokens) == wanted
    stamps = [t for t in found.tokens if t >= FIRST_STAMP]
    assert stamps == sorted(stamps)
    if any(isinstance(p, float) for p in parts):
        assert len(stamps) == 2


# --- sampling ---------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.2, 1.0, 5.0]), options=SOME_OPTIONS)
def test_sampling_keeps_the_rules(whisper, tokenizer, seed, temperature, options):
    rng = np.random.default_rng(seed)
    rules = Rules(whisper, tokenizer, options)
    rules.restart(temperature, seed % 1000)
    rows: list[list[int]] = [[], [], []]
    for _ in range(6):
        logits = random_logits(rng, len(rows))
        found, logprob = rules.choose(mx.array(logits))
        for n, seq in enumerate(rows):
            token = found[n].item()
            allowed = allowed_by_the_original(logits[n], seq, whisper.config, options)
            assert allowed[token] > -np.inf, (token, seq)
            assert not EOT < token < FIRST_STAMP
            assert logprob[n].item() == pytest.approx(allowed[token] - log_sum(allowed), abs=SUM)
            seq.append(token)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_sampling_follows_the_weights(whisper, tokenizer, temperature):
    """Two words, the end and two timestamps outweigh all else: each comes as often as its weight says.

    The timestamps together outweigh the second word, not the first: no timestamp is forced.
    """
    logits = np.full((1, VOCAB), -100.0, np.float32)
    scores = {11: 0.5, 300: -0.8, EOT: -0.9, FIRST_STAMP + 40: -1.1, FIRST_STAMP + 900: -0.9}
    for token, score in scores.items():
        logits[0, token] = score
    rules = Rules(whisper, tokenizer, DecodeOptions())
    batch, draws = 32, 16
    counts: Counter[int] = Counter()
    for n in range(draws):
        rules.restart(temperature, n)
        begun = rules._begin(batch)
        rules._progress = replace(
            begun, last=mx.full((batch,), 11), stamp=begun.stamp + 1, step=2
        )  # after a word
        counts.update(rules.choose(mx.array(np.repeat(logits, batch, axis=0)))[0].tolist())
    assert set(counts) == set(scores)
    weights = {t: math.exp(s / temperature) for t, s in scores.items()}
    total = sum(weights.values())
    for token, weight in weights.items():
        share, drawn = weight / total, batch * draws
        assert abs(counts[token] - share * drawn) < 4.5 * math.sqrt(drawn * share * (1 - share)), token


def test_sampling_follows_the_seed(whisper, tokenizer, features):
    def run(seed: int) -> list[tuple[int, ...]]:
        options = DecodeOptions(temperatures=(1.0,), seed=seed, max_tokens=12)
        return [r.tokens for r in decode(whisper, tokenizer, features, "en", options)]

    assert run(1) == run(1)
    assert len({str(run(seed)) for seed in range(4)}) == 4
    assert run(0)[0] != run(0)[1], "rows share their dice"


# --- fallback ---------------------------------------------------------------------------------------------


class Spy:
    """Counts the rows of each attempt: the steps that begin one hold the whole prompt."""

    def __init__(self, model, monkeypatch) -> None:
        self.rows: list[int] = []
        step = type(model).step

        def spied(this, tokens, state):
            if tokens.shape[1] > 1:
                self.rows.append(tokens.shape[0])
            return step(this, tokens, state)

        monkeypatch.setattr(type(model), "step", spied)


# the tiny model is sure that nothing is said; without that threshold only its words decide
LOUD = replace(GREEDY, no_speech_threshold=None, compression_ratio_threshold=None)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_only_failing_rows_are_decoded_again(whisper, tokenizer, features, monkeypatch, order):
    features = features[mx.array(order)]
    greedy = decode(whisper, tokenizer, features, "en", LOUD)
    low, high = sorted(r.avg_logprob for r in greedy)
    failing = [r.avg_logprob for r in greedy].index(low)
    options = replace(LOUD, temperatures=(0.0, 0.4), logprob_threshold=(low + high) / 2)
    spy = Spy(whisper, monkeypatch)
    found = decode(whisper, tokenizer, features, "en", options)
    assert spy.rows == [2, 1]
    assert [r.temperature for r in found] == [0.4 if n == failing else 0.0 for n in range(2)]
    assert found[1 - failing] == greedy[1 - failing]
    assert found[failing].tokens != greedy[failing].tokens
    # the repeated row sees its own audio: alone it comes to the same
    (alone,) = decode(whisper, tokenizer, features[failing : failing + 1], "en", options)
    assert alone.tokens == found[failing].tokens
    for again, first in zip(found, greedy, strict=True):
        assert again.no_speech_prob == pytest.approx(first.no_speech_prob, abs=1e-5)


def test_the_last_temperature_is_accepted(whisper, tokenizer, features, monkeypatch):
    spy = Spy(whisper, monkeypatch)
    options = replace(LOUD, temperatures=(0.0, 0.1, 0.2), logprob_threshold=10.0)
    found = decode(whisper, tokenizer, features, "en", options)
    assert spy.rows == [2, 2, 2]
    assert [r.temperature for r in found] == [0.2, 0.2]


def test_good_rows_are_decoded_once(whisper, tokenizer, features, monkeypatch):
    spy = Spy(whisper, monkeypatch)
    options = replace(LOUD, temperatures=(0.0, 0.5), logprob_threshold=-1e9)
    decode(whisper, tokenizer, features, "en", options)
    assert spy.rows == [2]


def test_silence_is_not_decoded_again(whisper, tokenizer, features, monkeypatch):
    spy = Spy(whisper, monkeypatch)
    options = replace(GREEDY, temperatures=(0.0, 0.5), logprob_threshold=10.0, no_speech_threshold=0.6)
    found = decode(whisper, tokenizer, features, "en", options)
    assert spy.rows == [2]
    assert all(is_silence(r, options) for r in found)


def result(**given) -> Decoded:
    fields = {
        "tokens": (), "text": "", "avg_logprob": -0.5, "no_speech_prob": 0.1, "compression_ratio": 1.5,
        "temperature": 0.0, "complete": True,
    }  # fmt: skip
    return Decoded(**(fields | given))


@pytest.mark.parametrize(
    ("given", "options", "again", "silent"),
    [
        ({}, {}, False, False),
        ({"compression_ratio": 2.5}, {}, True, False),
        ({"compression_ratio": 2.4}, {}, False, False),
        ({"compression_ratio": 2.5}, {"compression_ratio_threshold": None}, False, False),
        ({"avg_logprob": -1.1}, {}, True, False),
        ({"avg_logprob": -1.0}, {}, False, False),
        ({"avg_logprob": -1.1}, {"logprob_threshold": None}, False, False),
        ({"avg_logprob": -1.1, "no_speech_prob": 0.7}, {}, False, True),
        ({"avg_logprob": -1.1, "no_speech_prob": 0.7}, {"no_speech_threshold": None}, True, False),
        ({"avg_logprob": -0.9, "no_speech_prob": 0.99}, {}, False, False),
        ({"avg_logprob": -1.0, "no_speech_prob": 0.99}, {}, False, True),
        ({"avg_logprob": -0.9, "no_speech_prob": 0.99}, {"logprob_threshold": None}, False, True),
        ({"avg_logprob": -1.1, "no_speech_prob": 0.7, "compression_ratio": 9.0}, {}, False, True),
        ({"avg_logprob": -0.9, "no_speech_prob": 0.7, "compression_ratio": 9.0}, {}, True, False),
        ({"no_speech_prob": 0.6, "avg_logprob": -1.1}, {}, True, False),
    ],
)
def test_thresholds(given, options, again, silent):
    assert needs_fallback(result(**given), DecodeOptions(**options)) is again
    assert is_silence(result(**given), DecodeOptions(**options)) is silent


def test_compression_ratio():
    assert compression_ratio("") == 0.0
    assert compression_ratio("the quick brown fox") < 1.0
    assert compression_ratio("yes " * 60) > 10
    assert compression_ratio("好" * 60) > 7  # bytes, not characters


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "transcode"},
        {"temperatures": ()},
        {"temperatures": (0.0, -0.1)},
        {"max_tokens": 0},
        {"max_initial_timestamp": 31.0},
        {"max_initial_timestamp": -0.1},
        {"beam_size": 0},
        {"patience": 0.0},
        {"length_penalty": 1.5},
        {"best_of": 0},
        {"no_repeat_ngram_size": -1},
        {"temperatures": 0.0},
        {"temperatures": (float("nan"),)},
        {"temperatures": "0.0"},
        {"beam_size": 2.5},
        {"max_tokens": True},
        {"seed": 0.5},
        {"timestamps": "no"},
        {"patience": float("nan")},
        {"no_speech_threshold": "0.6"},
        {"logprob_threshold": float("nan")},
        {"hotwords": "a", "prefix": "b"},
    ],
)
def test_options_are_checked_and_named(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        DecodeOptions(**wrong)


# --- from tokens to phrases -------------------------------------------------------------------------------


def tokens_of(tokenizer, *parts: float | str) -> tuple[int, ...]:
    """Words as they are, numbers as timestamps in seconds."""
    found: list[int] = []
    for part in parts:
        found += tokenizer.encode(part) if isinstance(part, str) else [FIRST_STAMP + round(part / 0.02)]
    return tuple(found)


@pytest.mark.parametrize(
    ("parts", "wanted", "resume"),
    [
        # pairs, closed by a single timestamp: finished
        ([0.0, " One.", 2.0, 2.0, " Two.", 4.5], [(0, 2, "One."), (2, 4.5, "Two.")], None),
        # a gap between the pair's two
        ([0.4, " One.", 2.0, 3.0, " Two.", 4.5], [(0.4, 2, "One."), (3, 4.5, "Two.")], None),
        # ends on a pair: the rest is decoded again
        ([0.0, " One.", 2.0, 2.0], [(0, 2, "One.")], 2.0),
        ([0.0, " One.", 2.0, 2.0, " Two.", 4.5, 4.5], [(0, 2, "One."), (2, 4.5, "Two.")], 4.5),
        # the last phrase is left open: dropped and decoded again
        ([0.0, " One.", 2.0, 2.0, " Two"], [(0, 2, "One.")], 2.0),
        # one phrase only
        ([0.2, " One.", 2.0], [(0.2, 2, "One.")], None),
        ([0.2, " One"], [(0.2, 10, "One")], None),
        ([" One"], [(0, 10, "One")], None),
        ([" One", 3.0], [(0, 3, "One")], None),
        # nothing said
        ([], [], None),
        ([0.0], [], None),
        ([0.0, 0.0], [], None),
        # never beyond the window
        ([0.0, " One.", 12.0], [(0, 10, "One.")], None),
        ([11.0, " One.", 12.0], [(10, 10, "One.")], None),
    ],
)
def test_phrases(tokenizer, parts, wanted, resume):
    tokens = tokens_of(tokenizer, *parts)
    found = phrases(tokenizer, result(tokens=tokens, avg_logprob=-0.3, temperature=0.2), 10.0)
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (pytest.approx(a), pytest.approx(b), text) for a, b, text in wanted
    ]
    assert found.resume == (None if resume is None else pytest.approx(resume))
    for segment in found.segments:
        assert (segment.avg_logprob, segment.temperature) == (-0.3, 0.2)
        assert tokenizer.decode(segment.tokens).strip() == segment.text
        assert max(segment.tokens) < EOT


@given(
    # by the rules no pair stands at 0.00: words follow the first timestamp, and a later one follows them
    pieces=st.lists(st.one_of(st.integers(1, 1500), st.sampled_from([" One", " two", "!"])), max_size=12),
    duration=st.floats(0.1, 30),
)
def test_phrases_of_anything_stay_inside(tokenizer, pieces, duration):
    tokens = tokens_of(tokenizer, *(p * 0.02 if isinstance(p, int) else p for p in pieces))
    found = phrases(tokenizer, result(tokens=tokens), duration)
    for segment in found.segments:
        assert 0 <= segment.start <= segment.end <= duration
        assert segment.text
    written = [t for s in found.segments for t in s.tokens]
    text = [t for t in tokens if t < EOT]
    if found.resume is None:
        assert written == text
    else:
        assert written == text[: len(written)]
        assert found.resume > 0


@pytest.mark.parametrize(
    ("answers", "wanted", "windows"),
    [
        # closed by one timestamp, as the original's finished windows are, and speech goes on for 25 s
        ([[0.0, " One.", 5.0], [0.0, " two", 24.0]], [(0, 5, "One."), (5, 29, "two")], [30, 25]),
        ([[0.0, " One.", 28.5]], [(0, 28.5, "One.")], [30]),
        # no word of the rest: it is left
        ([[0.0, " One.", 5.0], []], [(0, 5, "One.")], [30, 25]),
        # nothing got on with: not read again and again
        ([[0.0, " One.", 0.2]], [(0, 0.2, "One.")], [30]),
    ],
)
def test_speech_that_a_window_breaks_off_before_is_read(
    whisper, tokenizer, monkeypatch, answers, wanted, windows
):
    heard, left = [], [result(tokens=tokens_of(tokenizer, *a)) for a in answers]
    monkeypatch.setattr(transcribe_stage, "encode", lambda model, audio: heard.extend(audio))
    monkeypatch.setattr(transcribe_stage, "decode", lambda *_: [left.pop(0)])
    options = TranscribeOptions(language="en", words=False)
    audio = np.zeros(30 * 16000, np.float32)
    found, _ = transcribe_stage.transcribe_spans(whisper, tokenizer, audio, [Span(0, 30)], options)
    assert [(s.start, s.end, s.text) for s in found] == wanted
    assert [round(len(a) / 16000) for a in heard] == windows


@pytest.mark.parametrize(("end", "again"), [(27.9, True), (28.0, False), (10.41, True), (10.39, False)])
def test_a_window_breaks_off_two_seconds_before_its_end(end, again):
    """And has got on by 0.4 s: nothing is read over and over again."""
    assert transcribe_stage._broken_off(end, Span(10.0, 30.0)) is again


@pytest.mark.parametrize(("duration", "again"), [(5.3, False), (5.5, True)])
def test_a_leftover_of_less_than_400_ms_is_not_read(whisper, tokenizer, monkeypatch, duration, again):
    heard, begin = [], tokenizer.special.timestamp_begin
    tokens = (begin, *tokenizer.encode(" a"), begin + 250, begin + 250, *tokenizer.encode(" b"))  # 5 s
    monkeypatch.setattr(transcribe_stage, "encode", lambda model, audio: heard.extend(audio))
    monkeypatch.setattr(transcribe_stage, "decode", lambda *_: [result(tokens=tokens)])
    options = TranscribeOptions(language="en", words=False, batch_size=1)
    audio = np.zeros(6 * 16000, np.float32)
    transcribe_stage.transcribe_spans(whisper, tokenizer, audio, [Span(0, duration)], options)
    assert len(heard) == 1 + again


def test_a_long_window_counts_for_more_in_what_language_is_spoken():
    rows, spans = [{"en": 0.9, "de": 0.1}, {"en": 0.2, "de": 0.8}], [Span(0, 2), Span(2, 30)]
    assert transcribe_stage._languages(rows, spans, False) == ["de", "de"]
    assert transcribe_stage._languages(rows, spans, True) == ["en", "de"]
    assert transcribe_stage._languages(rows[::-1], spans, False) == ["en", "en"]

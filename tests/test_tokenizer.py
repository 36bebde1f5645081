"""The bundled vocabularies and special tokens against openai/whisper's, and what every text must survive.

The expected tokens are made by parity/fixtures_whisper.py with the original.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_speech.converters._whisper_tables import NON_SPEECH_ENGLISH, NON_SPEECH_MULTILINGUAL
from mlx_speech.errors import CheckpointError
from mlx_speech.models.whisper import WhisperConfig
from mlx_speech.stages.tokenizer import NUM_TIMESTAMPS, SpecialTokens, Tokenizer

EXPECTED = json.loads((Path(__file__).parent / "fixtures/whisper/decoding.json").read_text(encoding="utf-8"))
TEXTS = [
    pytest.param(found["multilingual"], row, id=f"{'any' if found['multilingual'] else 'en'}-{n}")
    for found in EXPECTED["tokenised"]
    for n, row in enumerate(found["rows"])
]


def of_size(vocabulary: int) -> WhisperConfig:
    return WhisperConfig(80, 1500, 8, 2, 2, vocabulary, 448, 8, 2, 2)


TOKENIZERS = {multilingual: Tokenizer(of_size(51864 + multilingual)) for multilingual in (True, False)}
both = pytest.mark.parametrize("multilingual", [True, False])


# --- against the original ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("multilingual", "row"), TEXTS)
def test_tokens_equal_the_original(multilingual, row):
    assert TOKENIZERS[multilingual].encode(row["text"]) == row["tokens"]
    assert TOKENIZERS[multilingual].decode(row["tokens"]) == row["text"]


@pytest.mark.parametrize(("multilingual", "row"), TEXTS)
def test_words_equal_the_original(multilingual, row):
    found = TOKENIZERS[multilingual].split_to_words(row["tokens"], "en")
    assert [[text, ids] for text, ids in found] == row["words"]


@pytest.mark.parametrize(("multilingual", "row"), [t for t in TEXTS if t.values[0]])
@pytest.mark.parametrize("language", ["ja", "zh", "yue", "th"])
def test_characters_equal_the_original(multilingual, row, language):
    found = TOKENIZERS[multilingual].split_to_words(row["tokens"], language)
    assert [[text, ids] for text, ids in found] == row["characters"]


@pytest.mark.parametrize("row", EXPECTED["special"], ids=lambda r: str(r["vocabulary"]))
def test_special_tokens_equal_the_original(row):
    config = of_size(row["vocabulary"])
    special, tokenizer = SpecialTokens.of(config), Tokenizer(config)
    names = {"sot_lm": "start_of_lm", "sot_prev": "start_of_prev"}
    assert {k: getattr(special, names.get(k, k)) for k in row["numbers"]} == row["numbers"]
    assert {code: tokenizer.language_token(code) for code in tokenizer.languages} == row["languages"]
    assert special.timestamp_begin + NUM_TIMESTAMPS == row["vocabulary"]
    suppressed = NON_SPEECH_MULTILINGUAL if config.multilingual else NON_SPEECH_ENGLISH
    assert list(suppressed) == row["non_speech"]


def test_special_tokens_do_not_overlap():
    for size in (51864, 51865, 51866):
        config = of_size(size)
        special, tokenizer = SpecialTokens.of(config), Tokenizer(config)
        languages = [tokenizer.language_token(c) for c in tokenizer.languages]
        others = [special.eot, *tokenizer.never_sampled]
        numbers = [*others, *languages]
        assert sorted(numbers) == list(range(special.eot, special.timestamp_begin))


def test_cantonese_is_the_newest_language():
    assert len(Tokenizer(of_size(51865)).languages) == 99
    assert "yue" not in Tokenizer(of_size(51865)).languages
    assert Tokenizer(of_size(51866)).languages[-1] == "yue"
    with pytest.raises(ValueError, match=r"yue|not in tuple"):
        Tokenizer(of_size(51865)).language_token("yue")


def test_start_sequence():
    tokenizer = TOKENIZERS[True]
    assert tokenizer.start_sequence("en") == (50258, 50259, 50359)
    assert tokenizer.start_sequence("de", "translate") == (50258, 50261, 50358)
    assert TOKENIZERS[False].start_sequence("en", "translate") == (50257,)


# --- any text, any tokens ---------------------------------------------------------------------------------


@both
@given(text=st.text())
def test_any_text_survives(multilingual, text):
    tokenizer = TOKENIZERS[multilingual]
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert all(0 <= t < tokenizer.special.eot for t in tokens)


@both
@given(
    text=st.sampled_from(["<|endoftext|>", "<|en|>", "<|0.00|>", "<|startoftranscript|>", "<|notimestamps|>"])
)
def test_text_that_looks_like_a_special_token_is_text(multilingual, text):
    tokenizer = TOKENIZERS[multilingual]
    tokens = tokenizer.encode(text)
    assert max(tokens) < tokenizer.special.eot
    assert tokenizer.decode(tokens) == text


@both
def test_every_token_is_known_and_no_two_are_alike(multilingual):
    tokenizer = TOKENIZERS[multilingual]
    assert tokenizer._bpe.get_vocab_size() == 50256
    # the original's multilingual file names one more, empty token
    assert tokenizer.special.eot == 50256 + multilingual
    assert tokenizer.decode([50256]) == ""


@both
@given(text=st.text(), language=st.sampled_from(["en", "ja", None]))
def test_words_lose_nothing_of_a_text(multilingual, text, language):
    tokenizer = TOKENIZERS[multilingual]
    tokens = tokenizer.encode(text)
    words = tokenizer.split_to_words(tokens, language)
    assert "".join(word for word, _ in words) == text
    assert [t for _, ids in words for t in ids] == tokens
    assert all(tokenizer.decode(ids) == word for word, ids in words)


@both
@given(tokens=st.lists(st.integers(0, 50255), max_size=30), language=st.sampled_from(["en", "ja"]))
def test_words_lose_no_token_even_of_nonsense(multilingual, tokens, language):
    words = TOKENIZERS[multilingual].split_to_words(tokens, language)
    assert [t for _, ids in words for t in ids] == tokens
    assert all(ids for _, ids in words)


@given(tokens=st.lists(st.integers(0, 51864), max_size=30))
def test_decoding_leaves_special_tokens_out(tokens):
    tokenizer = TOKENIZERS[True]
    assert tokenizer.decode(tokens) == tokenizer.decode([t for t in tokens if t < 50257])


def test_words_begin_at_spaces_and_punctuation():
    tokenizer = TOKENIZERS[True]
    tokens = tokenizer.encode(" Hello there, world! It's 3.5 o'clock")
    words = [word for word, _ in tokenizer.split_to_words(tokens, "en")]
    assert words == [" Hello", " there", ",", " world", "!", " It's", " 3", ".5", " o", "'clock"]


# --- a checkpoint's own vocabulary ------------------------------------------------------------------------


def test_a_checkpoints_own_vocabulary_is_read(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(TOKENIZERS[True]._bpe.to_str(), encoding="utf-8")
    tokenizer = Tokenizer(of_size(51865), file)
    assert tokenizer.encode("Crème brûlée") == TOKENIZERS[True].encode("Crème brûlée")


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", b'{"model": {"type": "none"}}'])
def test_an_unreadable_vocabulary_is_named(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a readable tokenizer"):
        Tokenizer(of_size(51865), file)


def test_multilingual_follows_the_vocabulary():
    assert not Tokenizer(of_size(51864)).multilingual
    assert replace(of_size(51864), n_vocab=51866).num_languages == 100

"""Written text as it is spoken: readings of numbers and the like, and that nothing is lost on the way."""

from __future__ import annotations

import mlx_speech  # noqa: F401  # isort: skip  (first: it loads the BLAS)

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_speech.stages import verbal
from mlx_speech.stages.languages import LANGUAGES
from mlx_speech.stages.spoken import sentence_ends, split_words, spoken_form


def said(text: str, language: str) -> str:
    """Each written word's reading, divided by strokes."""
    words = spoken_form(text, language)
    assert ["".join(p.text for p in w.pieces) for w in words] == [w.text for w in words]
    return "|".join(" ".join("".join(p.spoken for p in w.pieces).split()) for w in words)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Don't stop, O’Neil!", "don't|stop|o'neil"),
        ("3.14", "three point one four"),
        (".5 007", "point five|zero zero seven"),
        ("$43,000", "forty three thousand dollars"),
        ("($43,000).", "forty three thousand dollars"),
        ("$1 £3.50 5€ $1.5M", "one dollar|three pounds fifty|five euros|one point five million dollars"),
        ("$10 $100 £1000 $1k", "ten dollars|one hundred dollars|one thousand pounds|one thousand dollars"),
        ("$1.50 £1.00 $0.1", "one dollar fifty|one pound|zero point one dollars"),
        ("$5 million, €2 billion", "five|million dollars|two|billion euros"),
        ("1,234,567.89", "one million two hundred and thirty four thousand five hundred and sixty seven "
         "point eight nine"),
        ("50% 50 % 3.5%", "fifty percent|fifty|percent|three point five percent"),
        ("1st 2nd 21st 112th", "first|second|twenty first|one hundred and twelfth"),
        ("in 1999 and 2024", "in|nineteen ninety nine|and|twenty twenty four"),
        ("1990s '90s 90s", "nineteen nineties|nineties|nineties"),
        ("2024-05-01", "may first twenty twenty four"),
        ("5/1/2024 13/1/2024", "may first twenty twenty four|january thirteenth twenty twenty four"),
        ("May 5, 2024", "may|fifth|twenty twenty four"),
        ("10:30 10:05 10:00", "ten thirty|ten oh five|ten"),
        ("COVID-19 B2B mp3 R2D2 5G", "covid nineteen|b two b|mp three|r two d two|five g"),
        ("9/11 24/7 1/2 ½", "nine eleven|twenty four seven|one half|one half"),
        ("10-12 1914–1918", "ten to twelve|nineteen fourteen to nineteen eighteen"),
        ("-5 −5 20°C 60 mph 5km", "minus five|minus five|twenty degrees celsius|sixty|miles per hour|"
         "five kilometers"),
        ("555-1234", "five five five one two three four"),
        ("Dr. Smith vs. Mr Jones", "doctor|smith|versus|mister|jones"),
        ("St. James on Main St. now", "saint|james|on|main|street|now"),
        ("No. 5 No. Never", "number|five|no|never"),
        ("U.S.A. i.e. p.m.", "u s a|i e|p m"),
        ("AT&T C++ #1 me@example.com", "at and t|c plus plus|number one|me at example dot com"),
        ("well-known and/or", "well known|and or"),
        ("café cafe\u0301 naïve", "café|café|naïve"),
        ("١٢٣ １２", "one hundred and twenty three|twelve"),
        ("😀 — hello🙂 … 👨‍👩‍👧", "||hello||"),
        ("日本語", "日本語"),
        ("", ""),
    ],
)  # fmt: skip
def test_english(text, reading):
    assert said(text, "en") == reading


@pytest.mark.parametrize(
    ("language", "text", "reading"),
    [
        ("fr", "n'est-ce pas ?", "n'est ce|pas|"),
        ("fr", "10 000 € et 3,14 %", "dix mille||euros|et|trois virgule quatorze|pour cent"),
        ("fr", "12 345 678", "douze millions|trois cent quarante cinq mille|six cent soixante dix huit"),
        ("fr", "le 1er mai à 10h30, M. Dupont", "le|premier|mai|à|dix heures trente|monsieur|dupont"),
        (
            "de",
            "43.000 € bzw. 3,5 Mio.",
            "dreiundvierzigtausend|euro|beziehungsweise|drei komma fünf|millionen",
        ),
        ("de", "am 3. Mai 1999", "am|dritten|mai|neunzehnhundertneunundneunzig"),
        ("de", "der 3. Mann, z.B. um 10:30 Uhr", "der|dritte|mann|zum beispiel|um|zehn uhr dreißig|"),
        ("es", "El 1º costó 43.000 $", "el|primero|costó|cuarenta y tres mil|dólares"),
        ("it", "Il 3º costa 5 €", "il|terzo|costa|cinque|euro"),
        ("pt", "1.234,5 e 50%", "mil duzentos e trinta e quatro vírgula cinco|e|cinquenta por cento"),
        ("nl", "43 % van € 5", "drieënveertig|procent|van|euro|vijf"),
        ("ru", "В 2024 году", "в|две тысячи двадцать четыре|году"),
        ("ja", "3.14です。「はい」", "三 点 一 四|で|す|は|い"),
        ("ja", "iPhone 15を", "iphone|十五|を"),
        ("zh", "2024年，43,000个苹果,50%", "二千零二十四|年|四万三千|个|苹|果|百分之五十"),
        ("th", "แมว 3 ตัว", "แ|ม|ว|สาม|ตั|ว"),
        ("hi", "43 लोग", "4 3|लोग"),
    ],
)
def test_other_languages(language, text, reading):
    assert said(text, language) == reading


def test_words_that_are_known_are_kept():
    words = spoken_form("ignored", "ja", ["今日", "は"])
    assert [w.text for w in words] == ["今日", "は"]
    assert not words[0].spaced


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", " a  b\u00a0c\n", ["a", "b", "c"]),
        ("ja", "「今日」は iPhone15 です。", ["「今", "日」", "は", "iPhone15", "で", "す。"]),
        ("zh", "他说:$5,000!", ["他", "说:", "$5,000!"]),
        ("ja", "が", ["が"]),
        ("ja", "…", ["…"]),
    ],
)
def test_split(language, text, words):
    assert split_words(text, language) == words


def test_sentences():
    text = 'Dr. Smith said "hi." He left. J. R. Tolkien wrote e.g. this! And 3.5 that? Yes… no'
    words = text.split()
    ends = sentence_ends(words)
    starts = [0, *(e + 1 for e in ends[:-1])]
    assert [words[n] for n in starts] == ["Dr.", "He", "J.", "And", "Yes…"]
    assert sentence_ends([]) == []
    assert sentence_ends(list("はい。いえ")) == [2, 4]


NASTY = st.text(
    st.one_of(
        st.sampled_from("0123456789.,:/-–−'’%$€£&@#+°½²ºª \u00a0\u202fstndrhkmMB年"),
        st.characters(codec="utf-8"),
        st.sampled_from("abcXYZéßçñ日本語ไทยが😀\u0301\u200d\ufe0f"),
    ),
    max_size=40,
)


@settings(max_examples=1500, deadline=None)
@given(text=NASTY, language=st.sampled_from([*LANGUAGES, None, "xx"]))
@example(text="$.", language="en")
@example(text="1,,2 .. 1.2.3.4 12:99 99/99/9999 0000-00-00", language="de")
def test_nothing_is_lost(text, language):
    words = spoken_form(text, language)
    assert "".join(w.text for w in words) == "".join(text.split())
    for word in words:
        assert word.text
        assert "".join(p.text for p in word.pieces) == word.text


@settings(max_examples=600, deadline=None)
@given(
    value=st.one_of(st.integers(0, 3000), st.integers(0, 10**15)),
    language=st.sampled_from(sorted(LANGUAGES)),
    kind=st.sampled_from(["cardinal", "ordinal", "year"]),
)
def test_numbers_never_fail(value, language, kind):
    words = verbal.number_words(value, language, kind)
    assert words is None or words.strip()


def test_chinese_numbers():
    numbers = {
        0: "零",
        10: "十",
        15: "十五",
        101: "一百零一",
        110: "一百一十",
        20_003: "二万零三",
        10**8: "一亿",
    }
    assert {n: verbal.number_words(n, "zh") for n in numbers} == numbers

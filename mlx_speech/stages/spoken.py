"""Written text as it is spoken, with the way back: what an aligner listens for, and which word it belongs to.

A written word is a row of pieces, each some of its characters and what is said for them: letters stand for
themselves, ``$43,000`` is one piece that says "forty three thousand dollars", a comma is one that says
nothing. The pieces' characters, joined, are the word: nothing is lost and nothing moves.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from mlx_speech.stages import verbal
from mlx_speech.stages.tokenizer import UNSPACED

# languages that put a space between thousands
_DIGIT_GROUPS = frozenset(
    ("fr", "de", "es", "it", "pt", "nl", "pl", "cs", "sk", "ru", "uk", "sv", "no", "da", "fi", "hu", "ro")
)  # fmt: skip
_APOSTROPHES = str.maketrans("’‘ʼ＇`´", "''''''")
_DASHES = "-‐‑‒–—―−/\\|_"
# characters of scripts without spaces: kana, ideographs, Thai, Lao, Myanmar, Khmer
_NO_SPACES = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    r"\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_TOP_LEVEL = r"(?:com|org|net|edu|gov|io|ai|co|info|eu|uk|de|fr|es|it|nl|pt|ch|at|tv|app|dev)"
_TITLES = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "gen", "col", "lt",
     "sgt", "capt", "rev", "hon", "gov", "sen", "rep", "no", "nr", "vs", "m", "mm")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """Some characters of a written word, and what is said for them, in lower case.

    Spaces in ``spoken`` divide spoken words; it is empty for what is silent. ``text`` is empty where a word
    says more than it shows ("$5 million": the second word says the dollars).
    """

    text: str
    spoken: str


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A written word. ``spaced``: whether it is set apart from the word before it."""

    text: str
    pieces: tuple[Piece, ...]
    spaced: bool = True


def spoken_form(text: str, language: str | None, words: Sequence[str] | None = None) -> list[SpokenWord]:
    """The words of a text and what is said for them.

    Args:
        text: as written.
        language: ISO 639-1 code of its speech; English rules where it is not known.
        words: the text's words where they are known already; otherwise white space divides them, and in
            languages written without it each character is a word, marks and punctuation with it.

    Returns:
        Every word, once, in order. Their texts are ``words``, or the text without its white space.
    """
    code = language or "en"
    spaced = code not in UNSPACED
    texts = list(words) if words is not None else split_words(text, code)
    out = []
    for n, word in enumerate(texts):
        before = texts[n - 1] if n else ""
        after = texts[n + 1] if n + 1 < len(texts) else ""
        out.append(SpokenWord(word, tuple(_pieces(word, before, after, code)), spaced))
    return _money_before_magnitude(_grouped_numbers(out, code), code)


def split_words(text: str, language: str | None) -> list[str]:
    """Written words: at white space, or character by character where a language has none."""
    if language not in UNSPACED:
        return text.split()
    return [word for run in text.split() for word in _split_run(_clusters(run))]


def _split_run(clusters: Sequence[str]) -> list[str]:
    """Words of a run: each character of a script without spaces, and what stands between them."""
    words: list[str] = []
    held = ""  # what opens the next word
    linked = False  # whether letters and digits go on with the last word
    for cluster in clusters:
        c, kind = cluster[0], unicodedata.category(cluster[0])
        if kind[0] in "LN":
            lone = bool(_NO_SPACES.match(c))
            if linked and not lone and not held:
                words[-1] += cluster
            else:
                words.append(held + cluster)
            held, linked = "", not lone
        elif kind in ("Ps", "Pi") or (not linked and (kind == "Sc" or c in "+-−#@")):
            held, linked = held + cluster, False
        elif words and not held:
            words[-1] += cluster
            linked = linked and c in ".,:'’/-−_@&+"
        else:
            held += cluster
    if held:
        words.append(held)
    return words


def sentence_ends(words: Sequence[str]) -> list[int]:
    """The numbers of the words that end a sentence, the last one always among them."""
    ends = []
    for n, word in enumerate(words):
        core = word.rstrip("\"'”’»)]」』")
        after = words[n + 1] if n + 1 < len(words) else ""
        stop = core[-1:]
        if not after or (stop and stop in "。！？｡"):
            ends.append(n)
        elif stop in ("!", "?", "…") or (stop == "." and not _is_abbreviated(core)):
            head = after.lstrip("\"'“‘«([¿¡-–—")
            if not head or not head[0].islower():
                ends.append(n)
    return ends


def _is_abbreviated(word: str) -> bool:
    core = word.lower().strip("\"'“‘«([.")
    return core in _TITLES or (len(core) == 1 and core.isalpha()) or "." in core


# --- one word ---------------------------------------------------------------------------------------------

_Say = Callable[[re.Match[str]], str | None]


def _pieces(word: str, before: str, after: str, language: str) -> list[Piece]:
    """The pieces of a word between its neighbours."""
    clusters = _clusters(word)
    # one character a cluster
    plain = word.translate(_APOSTROPHES) if word.isascii() else "".join(_plain(c) for c in clusters)
    whole = _whole(plain, before, after, language)
    if whole is not None:
        lead, core, said = whole
        middle = Piece("".join(clusters[lead : lead + core]), f" {said} " if said else "")
        return [
            *(Piece(c, "") for c in clusters[:lead]),
            middle,
            *(Piece(c, "") for c in clusters[lead + core :]),
        ]
    out: list[Piece] = []
    at = 0
    while at < len(clusters):
        found = _read(plain, at, language)
        if found:
            end, said = found
            out.append(Piece("".join(clusters[at:end]), f" {said} "))
        else:
            end = at + 1
            out.append(Piece(clusters[at], _sound(clusters[at], plain, at, language)))
        at = end
    return out


def _clusters(word: str) -> list[str]:
    """A word cut into characters, marks that combine with the one before them left there."""
    if word.isascii():
        return list(word)
    out: list[str] = []
    for c in word:
        joins = unicodedata.category(c) in ("Mn", "Me", "Cf") or "\U0001f3fb" <= c <= "\U0001f3ff"
        if out and (joins or out[-1].endswith("\u200d")):
            out[-1] += c
        else:
            out.append(c)
    return out


def _plain(cluster: str) -> str:
    """One character that patterns can read in a cluster's place: ASCII digits, plain marks."""
    c = cluster[0]
    digit = unicodedata.decimal(c, None)
    if digit is not None:
        return str(digit)
    if c in "−﹣－":
        return "−"
    folded = unicodedata.normalize("NFKC", c)
    if len(folded) == 1 and c not in "ºª":
        c = folded
    return c.translate(_APOSTROPHES)


def _sound(cluster: str, plain: str, at: int, language: str) -> str:
    """What is said for a word's character ``at``, where it is no part of a number."""
    c = plain[at]
    if c.isascii() and c.isalpha() and len(cluster) == 1:
        return cluster.lower() if cluster.isascii() else unicodedata.normalize("NFC", cluster).lower()
    kind = unicodedata.category(c)[0]
    between = 0 < at < len(plain) - 1 and plain[at - 1].isalpha() and plain[at + 1].isalpha()
    if kind in "LM":
        whole = cluster.replace("\u200d", "").replace("\u200c", "")
        return unicodedata.normalize("NFC", whole).lower()
    if kind == "N":  # ½, ², Ⅳ, or a digit that no number word is known for
        return _vulgar(unicodedata.normalize("NFKC", c), language) or c
    if c == "'":
        return c if between else ""
    if c in _DASHES or (c == "." and between and re.fullmatch(r"\W*(?:[^\W\d_]\.)+[^\W\d_]?\W*", plain)):
        return " "  # well-known, U.S.A.
    return f" {said} " if (said := verbal.say_symbol(c, language)) else ""


def _vulgar(text: str, language: str) -> str | None:
    fraction = re.fullmatch(r"(\d+)⁄(\d+)", text)
    if fraction:
        said = verbal.say_fraction(fraction[1], fraction[2], language)
        return f" {said} " if said else None
    return f" {verbal.say_number(text, language) or text} " if text.isascii() and text.isdigit() else None


def _whole(plain: str, before: str, after: str, language: str) -> tuple[int, int, str] | None:
    """What only a whole word, seen with its neighbours, tells: where it starts, its length, what is said."""
    found = re.fullmatch(r"([\"'“‘«(\[¿¡]*)(.*?)([\"'”’»)\],;:!?…]*)", plain, re.S)
    if not found:
        return None
    lead, core = len(found[1]), found[2]
    said = _said_whole(core, before, after, language)
    if said is None and core.endswith("."):
        core = core[:-1]
        said = _said_whole(core, before, after, language)
    return (lead, len(core), said) if said is not None else None


def _said_whole(core: str, before: str, after: str, language: str) -> str | None:
    counted = bool(re.fullmatch(r"[\d.,½¼¾]*[\d½¼¾]", before))
    if counted and (unit := verbal.say_unit(core, language)):
        return unit
    if language == "de" and core == "Uhr" and re.fullmatch(r"\d\d?[:.]\d\d", before):
        return ""  # said within the time already
    months = verbal.MONTHS.get(language, ())
    numeral = re.fullmatch(r"(\d\d?)(\.?)", core)
    if numeral and 1 <= int(numeral[1]) <= 31:
        value = int(numeral[1])
        if language == "en" and not numeral[2] and _bare(before) in months:
            return verbal.number_words(value, language, "ordinal")
        dative = _bare(before) in ("am", "dem", "den", "im", "vom", "zum", "beim")
        article = _bare(before) in ("der", "die", "das")
        if language == "de" and numeral[2] and after and (_bare(after) in months or dative or article):
            ordinal = verbal.number_words(value, language, "ordinal")
            return ordinal and ordinal + ("n" if dative else "" if article else "r")
    expanded = verbal.expand(core, language)
    if expanded == "saint" and not after[:1].isupper():
        return "street"
    if expanded == "number" and not after[:1].isdigit():
        return None
    return expanded


def _bare(word: str) -> str:
    return word.lower().strip(".,;:!?()")


def _any_of(words: Iterable[str]) -> str:
    """A pattern of the words, the longest first; of none, one that never matches."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True)) or "(?!)"


@cache
def _patterns(language: str) -> tuple[tuple[re.Pattern[str], _Say], ...]:
    """What numbers look like, the longest kinds first, and how each is read."""
    say = verbal
    number = r"\d{1,3}(?:[,.'’]\d{3})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,]\d+)*"
    money = re.escape(say.CURRENCIES)
    scale, units = (_any_of(table.get(language, {})) for table in (say.MAGNITUDES, say.UNITS))
    end = r"(?![^\W_])"

    def date(m: re.Match[str]) -> str | None:
        month, day = say.order_date(m[1], m[2], m[3], language)
        return say.say_date(m[4], month, day, language)

    def with_unit(m: re.Match[str]) -> str | None:
        said, unit = say.say_number(m[1], language), say.say_unit(m[2], language)
        return f"{said} {unit}" if said and unit else None

    def signed(m: re.Match[str]) -> str | None:
        said = say.say_number(m[1], language)
        return said and f"{say.say_symbol('−', language)} {said}"

    def percent_first(m: re.Match[str]) -> str | None:
        said = say.say_number(m[1], language)
        return said and "百分之" + said.replace(" ", "")

    def of(function: Callable[..., str | None], *groups: int) -> _Say:
        return lambda m: function(*(m[g] for g in groups), language)

    rules: list[tuple[str, _Say]] = [
        (rf"(\d{{4}})-(\d\d)-(\d\d){end}", of(say.say_date, 1, 2, 3)),
        (rf"(\d\d?)([./-])(\d\d?)\2(\d{{4}}|\d\d){end}", date),
        (rf"(?:\d{{3}}[-.])?\d{{3}}[-.]\d{{4}}{end}", lambda m: say.digit_words(m[0], language)),
        (rf"(\d\d?)[:hH](\d\d)(?::\d\d)?{end}", of(say.say_time, 1, 2)),
        (
            rf"([{money}])({number})\s?({scale})?{end}",
            lambda m: say.say_money(m[1], m[2], m[3] or "", language),
        ),
        (
            rf"({number})({scale})?\s?([{money}])",
            lambda m: say.say_money(m[3], m[1], m[2] or "", language),
        ),
        (rf"(\d+)(?:{say.ordinal_ends(language)}){end}", _ordinal(language)),
        (rf"(?<![^\W_])[−-]({number})", signed),
        (rf"(\d+)[-–—](\d+){end}", of(say.say_range, 1, 2)),
        (rf"(\d+)[/⁄](\d+){end}", of(say.say_fraction, 1, 2)),
        (rf"(?<![^\W\d_])({number})({scale}){end}", of(say.say_scaled, 1, 2)),
        (rf"(?<![^\W\d_])({number})({units}){end}", with_unit),
        (rf"(\d{{4}}){end}(?![.,]\d)", of(say.say_year, 1)),
        (rf"({number})", of(say.say_number, 1)),
        (r"\.(\d+)", of(say.say_tail, 1)),
    ]
    if language == "en":
        rules.insert(0, (rf"'?((?:1[1-9]|20)?\d0)'?s{end}", lambda m: say.say_decade(m[1])))
    if language in ("zh", "yue"):
        rules.insert(0, (rf"({number})%", percent_first))
        rules.insert(0, (r"(\d{4})(?=年)", lambda m: say.digit_words(m[1], language)))
    if verbal.dot_word(language):
        rules.append((rf"(?<=[^\W\d_])\.(?={_TOP_LEVEL}{end})", lambda m: verbal.dot_word(language)))
    return tuple((re.compile(p, re.I), s) for p, s in rules)


def _ordinal(language: str) -> _Say:
    def say(m: re.Match[str]) -> str | None:
        if len(m[1]) > 6:
            return None
        said = verbal.number_words(int(m[1]), language, "ordinal")
        if language == "fr" and m[1] == "1" and m[0].lower().endswith("e"):
            return "première"
        feminine = m[0][-1] in "ªa" and language in ("es", "it", "pt")
        return said[:-1] + "a" if said and feminine and said.endswith("o") else said

    return say


def _read(plain: str, at: int, language: str) -> tuple[int, str] | None:
    """What a number or the like that starts at a place says, and where it ends."""
    character = plain[at]
    if not (character.isdecimal() or character in "-−'." or character in verbal.CURRENCIES):
        return None
    for pattern, say in _patterns(language):
        found = pattern.match(plain, at)
        if found and found.end() > at:
            said = say(found)
            if said:
                return found.end(), " ".join(said.split())
    return None


# --- neighbours -------------------------------------------------------------------------------------------


def _grouped_numbers(words: list[SpokenWord], language: str) -> list[SpokenWord]:
    """Numbers with a space between thousands (10 000) are read as one, each word its share."""
    if language not in _DIGIT_GROUPS:
        return words
    out = list(words)
    n = 0
    while n < len(out):
        last = n
        if re.fullmatch(r"\W*[1-9]\d{0,2}", out[n].text):
            while last + 1 < len(out) and re.fullmatch(r"\d{3}", out[last + 1].text):
                last += 1
            closing = last + 1 < len(out) and re.fullmatch(r"(\d{3})([^\w\s]+)", out[last + 1].text)
            last += bool(closing and not re.search(r"[.,]\d", out[last + 1].text))
        for k in range(n, last + 1) if last > n else ():
            out[k] = _share(out[k], last - k, language)
        n = last + 1
    return out


def _share(word: SpokenWord, groups_after: int, language: str) -> SpokenWord:
    digits = re.search(r"\d+", word.text)
    assert digits
    value = int(digits[0])
    said = verbal.number_words(value * 1000**groups_after, language) if value else ""
    if said is None:
        return word
    a, b = digits.span()
    middle = Piece(word.text[a:b], f" {said} " if said else "")
    silent = partial(map, lambda c: Piece(c, ""))
    rest = (p for p in word.pieces if p.spoken.strip() and not any(c.isdigit() for c in p.text))
    tail = "".join(p.spoken for p in rest)
    pieces = (*silent(word.text[:a]), middle, *silent(word.text[b:]))
    return replace(word, pieces=(*pieces, Piece("", tail)) if tail else pieces)


def _money_before_magnitude(words: list[SpokenWord], language: str) -> list[SpokenWord]:
    """In "$5 million" the dollars are said behind the million."""
    out = list(words)
    for n in range(len(out) - 1):
        sign = re.match(rf"\W*([{verbal.CURRENCIES}])[\d.,]+$", out[n].text)
        if not sign or not verbal.is_magnitude(out[n + 1].text.strip(".,;:!?)\"'”’")):
            continue
        name = verbal.say_symbol(sign[1], language)
        number = out[n].text[sign.end(1) :]
        said = verbal.say_number(number.rstrip(".,"), language)
        if not name or said is None:
            continue
        front = [Piece(c, "") for c in out[n].text[: sign.end(1)]]
        out[n] = replace(out[n], pieces=(*front, Piece(number, f" {said} ")))
        out[n + 1] = replace(out[n + 1], pieces=(*out[n + 1].pieces, Piece("", f" {name} ")))
    return out

"""Numbers, symbols and abbreviations as words: what a reader says where a writer saved space.

Facts of languages, and nothing about audio. Number words come from num2words (LGPL, an ordinary dependency),
Chinese ones from here. A language without tables keeps its number words, if num2words has them, and reads
symbols as nothing: the aligner then lets the neighbours tell their time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

_NUM2WORDS = {"nn": "no", "jw": "id"}
_BROKEN = frozenset({"am"})
_COUNTED_YEARS = frozenset({"en", "de", "nl", "sv", "da", "no"})  # nineteen ninety-nine
_POINT_DECIMALS = frozenset({"en", "zh", "yue", "ja", "ko", "th", "he", "hi", "ms", "tl", "ur", "ta", "te"})
_LONGEST = 12  # digits: a longer number is read digit by digit

_MONTHS = {
    "en": "january february march april may june july august september october november december",
    "de": "januar februar märz april mai juni juli august september oktober november dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    "nl": "januari februari maart april mei juni juli augustus september oktober november december",
}
MONTHS: dict[str, tuple[str, ...]] = {code: tuple(names.split()) for code, names in _MONTHS.items()}

# symbol: word; a currency's is its plural
SYMBOLS: dict[str, dict[str, str]] = {
    "en": {
        "%": "percent", "‰": "per mille", "&": "and", "+": "plus", "=": "equals", "@": "at", "#": "number",
        "°": "degrees", "×": "times", "÷": "divided by", "−": "minus", "§": "section", "$": "dollars",
        "€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees", "₩": "won", "¢": "cents", "~": "about",
    },
    "de": {
        "%": "prozent", "‰": "promille", "&": "und", "+": "plus", "=": "gleich", "@": "at", "#": "nummer",
        "°": "grad", "×": "mal", "÷": "durch", "−": "minus", "§": "paragraf", "$": "dollar",
        "€": "euro", "£": "pfund", "¥": "yen", "₹": "rupien", "₩": "won", "¢": "cent", "~": "etwa",
    },
    "fr": {
        "%": "pour cent", "‰": "pour mille", "&": "et", "+": "plus", "=": "égale", "@": "arobase",
        "#": "numéro", "°": "degrés", "×": "fois", "÷": "divisé par", "−": "moins", "§": "paragraphe",
        "$": "dollars", "€": "euros", "£": "livres", "¥": "yens", "₹": "roupies", "₩": "wons", "¢": "cents",
    },
    "es": {
        "%": "por ciento", "&": "y", "+": "más", "=": "igual a", "@": "arroba", "#": "número",
        "°": "grados", "×": "por", "÷": "entre", "−": "menos", "$": "dólares", "€": "euros",
        "£": "libras", "¥": "yenes", "₹": "rupias", "₩": "wones", "¢": "centavos",
    },
    "it": {
        "%": "per cento", "&": "e", "+": "più", "=": "uguale", "@": "chiocciola", "#": "numero",
        "°": "gradi", "×": "per", "÷": "diviso", "−": "meno", "$": "dollari", "€": "euro",
        "£": "sterline", "¥": "yen", "₹": "rupie", "₩": "won", "¢": "centesimi",
    },
    "pt": {
        "%": "por cento", "&": "e", "+": "mais", "=": "igual a", "@": "arroba", "#": "número",
        "°": "graus", "×": "vezes", "÷": "dividido por", "−": "menos", "$": "dólares", "€": "euros",
        "£": "libras", "¥": "ienes", "₹": "rupias", "₩": "wons", "¢": "centavos",
    },
    "nl": {
        "%": "procent", "&": "en", "+": "plus", "=": "is", "@": "apenstaartje", "#": "nummer",
        "°": "graden", "×": "keer", "÷": "gedeeld door", "−": "min", "$": "dollar", "€": "euro",
        "£": "pond", "¥": "yen", "₹": "roepie", "₩": "won", "¢": "cent",
    },
    "ja": {
        "%": "パーセント", "°": "度", "+": "プラス", "−": "マイナス", "$": "ドル", "€": "ユーロ", "¥": "円",
    },
    "zh": {"%": "百分之", "°": "度", "+": "加", "−": "负", "$": "美元", "€": "欧元", "¥": "元", "£": "英镑"},
    "ru": {"%": "процентов", "°": "градусов", "+": "плюс", "−": "минус", "$": "долларов", "€": "евро"},
    "uk": {"%": "відсотків", "°": "градусів", "+": "плюс", "−": "мінус", "$": "доларів", "€": "євро"},
    "pl": {"%": "procent", "°": "stopni", "+": "plus", "−": "minus", "$": "dolarów", "€": "euro"},
}  # fmt: skip
CURRENCIES = "$€£¥₹₩"
_SINGULAR = {
    "dollars": "dollar", "euros": "euro", "pounds": "pound", "livres": "livre", "dólares": "dólar",
    "libras": "libra", "dollari": "dollaro", "sterline": "sterlina",
}  # fmt: skip

MAGNITUDES: dict[str, dict[str, str]] = {
    "en": {
        "k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "t": "trillion",
    },
    "de": {"mio": "millionen", "mrd": "milliarden"},
    "fr": {"m": "millions", "md": "milliards"},
}  # fmt: skip
_MAGNITUDE_WORDS = re.compile(
    r"thousand|(m|b|tr)illi(on|one|oni|onen|ons|ones|ón|ard|arde|arden|ardo|ardi|ards)"
    r"|tausend|mille|mil|mila|milh(ão|ões)|bilh(ão|ões)|millones|miljoen|miljard|duizend"
)

UNITS: dict[str, dict[str, str]] = {
    "en": {
        "km": "kilometers", "m": "meters", "cm": "centimeters", "mm": "millimeters", "kg": "kilograms",
        "g": "grams", "mg": "milligrams", "km/h": "kilometers per hour", "mph": "miles per hour",
        "m/s": "meters per second", "ft": "feet", "lb": "pounds", "lbs": "pounds", "oz": "ounces",
        "ml": "milliliters", "l": "liters", "h": "hours", "hr": "hours", "hrs": "hours", "min": "minutes",
        "ms": "milliseconds", "s": "seconds", "kb": "kilobytes", "mb": "megabytes", "gb": "gigabytes",
        "tb": "terabytes", "hz": "hertz", "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz",
        "w": "watts", "kw": "kilowatts", "kwh": "kilowatt hours", "v": "volts", "c": "celsius",
        "f": "fahrenheit", "°c": "degrees celsius", "°f": "degrees fahrenheit",
    },
    "de": {
        "km": "kilometer", "m": "meter", "cm": "zentimeter", "mm": "millimeter", "kg": "kilogramm",
        "g": "gramm", "mg": "milligramm", "km/h": "kilometer pro stunde", "l": "liter", "ml": "milliliter",
        "h": "stunden", "min": "minuten", "s": "sekunden", "gb": "gigabyte", "mb": "megabyte",
        "hz": "hertz", "kw": "kilowatt", "c": "celsius", "°c": "grad celsius", "qm": "quadratmeter",
    },
    "fr": {
        "km": "kilomètres", "m": "mètres", "cm": "centimètres", "mm": "millimètres", "kg": "kilogrammes",
        "g": "grammes", "km/h": "kilomètres heure", "l": "litres", "h": "heures", "min": "minutes",
        "s": "secondes", "c": "celsius", "°c": "degrés celsius", "go": "gigaoctets", "mo": "mégaoctets",
    },
    "es": {
        "km": "kilómetros", "m": "metros", "cm": "centímetros", "mm": "milímetros", "kg": "kilogramos",
        "g": "gramos", "km/h": "kilómetros por hora", "l": "litros", "h": "horas", "min": "minutos",
        "s": "segundos", "c": "celsius", "°c": "grados celsius",
    },
}  # fmt: skip

# keys in lower case; a key that ends in a dot needs it, another may have it
ABBREVIATIONS: dict[str, dict[str, str]] = {
    "en": {
        "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof.": "professor", "st.": "saint",
        "jr": "junior", "sr.": "senior", "vs": "versus", "etc": "et cetera", "no.": "number",
        "nos.": "numbers", "gen.": "general", "sgt": "sergeant", "capt": "captain", "lt.": "lieutenant",
        "col.": "colonel", "rev.": "reverend", "hon.": "honorable", "gov.": "governor", "sen.": "senator",
        "rep.": "representative", "mt.": "mount", "ft.": "fort", "dept": "department", "inc.":
        "incorporated", "ltd": "limited", "co.": "company", "corp": "corporation", "approx": "approximately",
        "ave.": "avenue", "blvd": "boulevard", "jan.": "january", "feb.": "february", "mar.": "march",
        "apr.": "april", "jun.": "june", "jul.": "july", "aug.": "august", "sept.": "september",
        "sep.": "september", "oct.": "october", "nov.": "november", "dec.": "december", "w/": "with",
        "w/o": "without", "vol.": "volume", "fig.": "figure", "p.": "page", "pp.": "pages", "ch.": "chapter",
    },
    "de": {
        "dr": "doktor", "prof.": "professor", "hr.": "herr", "fr.": "frau", "nr": "nummer", "st.": "sankt",
        "str.": "straße", "z.b.": "zum beispiel", "d.h.": "das heißt", "u.a.": "unter anderem",
        "usw": "und so weiter", "bzw": "beziehungsweise", "ca": "circa", "evtl": "eventuell",
        "ggf": "gegebenenfalls", "etc": "et cetera", "inkl": "inklusive", "vgl": "vergleiche",
        "mio": "millionen", "mrd": "milliarden", "tel.": "telefon", "v.chr.": "vor christus",
        "n.chr.": "nach christus", "jh.": "jahrhundert", "abs.": "absatz", "s.": "seite",
    },
    "fr": {
        "m.": "monsieur", "mm.": "messieurs", "mme": "madame", "mmes": "mesdames", "mlle": "mademoiselle",
        "dr": "docteur", "pr.": "professeur", "etc": "et cetera", "n°": "numéro", "st": "saint",
        "ste": "sainte", "av.": "avenue", "bd": "boulevard", "c.-à-d.": "c'est à dire", "p.": "page",
        "env.": "environ",
    },
    "es": {
        "sr": "señor", "sra": "señora", "srta": "señorita", "dr": "doctor", "dra": "doctora",
        "ud": "usted", "uds": "ustedes", "etc": "etcétera", "p.ej.": "por ejemplo", "núm": "número",
        "n.º": "número", "pág": "página", "av.": "avenida", "d.": "don", "dña": "doña",
    },
    "it": {
        "sig": "signor", "sig.ra": "signora", "sig.na": "signorina", "dott": "dottor", "dott.ssa":
        "dottoressa", "dr": "dottor", "prof.": "professor", "prof.ssa": "professoressa", "ecc": "eccetera",
        "n.": "numero", "pag": "pagina", "avv": "avvocato", "ing.": "ingegner", "s.": "san",
    },
    "pt": {
        "sr": "senhor", "sra": "senhora", "dr": "doutor", "dra": "doutora", "prof.": "professor",
        "etc": "et cetera", "nº": "número", "pág": "página", "av.": "avenida", "d.": "dom",
    },
    "nl": {
        "dhr": "de heer", "mevr": "mevrouw", "dr": "dokter", "prof.": "professor", "bijv":
        "bijvoorbeeld", "d.w.z.": "dat wil zeggen", "enz": "enzovoort", "nr": "nummer", "etc": "et cetera",
        "o.a.": "onder andere", "m.b.t.": "met betrekking tot", "blz": "bladzijde",
    },
}  # fmt: skip

# between a number's whole and its decimals; between two numbers with a dash; in an address
_POINT = {
    "en": "point", "de": "komma", "fr": "virgule", "es": "coma", "it": "virgola", "pt": "vírgula",
    "nl": "komma", "ja": "点", "zh": "点", "ru": "запятая", "uk": "кома", "pl": "przecinek",
}  # fmt: skip
_TO = {
    "en": "to", "de": "bis", "fr": "à", "es": "a", "it": "a", "pt": "a", "nl": "tot", "ja": "から",
    "zh": "到", "ru": "до", "uk": "до", "pl": "do",
}  # fmt: skip
_DOT = {"en": "dot", "de": "punkt", "fr": "point", "es": "punto", "it": "punto", "pt": "ponto", "nl": "punt"}
_HOURS = {"de": "uhr", "fr": "heures", "nl": "uur"}
_FRACTIONS = {"1/2": "one half", "1/3": "one third", "2/3": "two thirds", "1/4": "one quarter",
              "3/4": "three quarters"}  # fmt: skip
_ORDINAL_ENDS = {
    "en": r"st|nd|rd|th",
    "fr": r"ers?|ères?|res?|nde?s?|es?|èmes?|emes?|ième",
    "nl": r"e|ste|de",
    "es": r"\.?[ºª°]|er|ra|ro|do|da|to|ta",
    "it": r"[ºª°]",
    "pt": r"\.?[ºª°]",
    "sv": r":[ae]",
    "ca": r"r|n|t|è|[ºª°]",
}

_CHINESE = "零一二三四五六七八九"


@lru_cache(maxsize=4096)
def number_words(value: int, language: str, kind: str = "cardinal") -> str | None:
    """A number in words, in lower case without hyphens; ``None`` where nobody here knows the language.

    Numbers beyond a trillion, and ordinals beyond a million, have none either: num2words recurses too deeply
    in some languages, and in Amharic it does not come to an end.
    """
    if abs(value) >= (10**6 if kind == "ordinal" else 10**_LONGEST) or language in _BROKEN:
        return None
    if language in ("zh", "yue"):
        if kind == "ordinal":
            return "第" + _chinese(value)
        return _chinese(value)
    if kind == "year" and language not in _COUNTED_YEARS:
        kind = "cardinal"
    from num2words import num2words  # type: ignore[import-untyped]  # here: it takes a while

    try:
        said = str(num2words(value, lang=_NUM2WORDS.get(language, language), to=kind))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # its languages differ in what they can do, and in how they say that they cannot
    return " ".join(re.sub(r"[-,‐–]", " ", said).lower().split()) or None  # nothing: Arabic's 0th


def _chinese(n: int, first: bool = True) -> str:
    """12345 → 一万二千三百四十五."""
    if n < 0:
        return "负" + _chinese(-n)
    if n < 10:
        return _CHINESE[n]
    for base, name in ((10**12, "兆"), (10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十")):
        if n >= base:
            head, rest = divmod(n, base)
            front = "" if first and base == 10 and head == 1 else _chinese(head)
            gap = "零" if rest and rest < base // 10 else ""
            return front + name + gap + (_chinese(rest, False) if rest else "")
    return ""


def digit_words(digits: str, language: str) -> str | None:
    """Digits one by one; other characters are passed over."""
    words = [number_words(int(d), language) for d in digits if d.isdigit()]
    return " ".join(w for w in words if w) if all(words) else None


def say_number(text: str, language: str) -> str | None:
    """A written number (ASCII digits, with separators): 43,000 or 3.14, as its language writes them."""
    parts = re.split(r"([.,'’\s])", text)
    digits, marks = parts[::2], parts[1::2]
    grouped = all(len(d) == 3 for d in digits[1:]) and len(digits[0]) <= 3 and digits[0] != "0"
    if len(marks) == 1 and grouped:
        decimal_mark = "." if language in _POINT_DECIMALS else ","
        grouped = marks[0] != decimal_mark
    if not marks or (grouped and len(set(marks)) == 1):
        return _say_integer("".join(digits), language)
    *front, last = digits
    whole = all(len(d) == 3 for d in front[1:]) and len(set(marks[:-1])) <= 1 and marks[-1] not in marks[:-1]
    point = _POINT.get(language, "")
    if whole:
        said = [_say_integer("".join(front), language), point, digit_words(last, language)]
        if len(last) == 2 and last[0] != "0" and point and language not in ("en", "zh", "ja"):
            said[-1] = number_words(int(last), language)
    else:  # 2.0.1
        said = [x for d in digits for x in (point, _say_integer(d, language))][1:]
    return None if None in said else " ".join(s for s in said if s)


def _say_integer(digits: str, language: str) -> str | None:
    if len(digits) > _LONGEST or (len(digits) > 1 and digits[0] == "0"):
        return digit_words(digits, language)
    return number_words(int(digits), language)


def say_year(digits: str, language: str) -> str | None:
    """Four digits as a year where they can be one."""
    year = len(digits) == 4 and 1100 <= int(digits) < 2100 and digits[1:] != "000"
    return number_words(int(digits), language, "year") if year else _say_integer(digits, language)


def say_symbol(symbol: str, language: str) -> str:
    """A symbol's word; nothing where the language has none here."""
    return SYMBOLS.get(language, {}).get(symbol, "")


def say_money(symbol: str, number: str, magnitude: str, language: str) -> str | None:
    """43,000 and $ → forty three thousand dollars; a dollar alone is one, with or without cents."""
    name = say_symbol(symbol, language)
    one = re.fullmatch(r"1(?:[.,]\d\d)?", number) and not magnitude
    name = _SINGULAR.get(name, name) if one else name
    many = MAGNITUDES.get(language, {}).get(magnitude.lower(), magnitude)
    cents = re.fullmatch(r"([\d.,'’]*\d)[.,](\d\d)", number)
    if cents and not many:
        whole, rest = say_number(cents[1], language), number_words(int(cents[2]), language)
        if whole is None or rest is None:
            return None
        return f"{whole} {name} {rest if int(cents[2]) else ''}"
    said = say_number(number, language)
    return None if said is None else f"{said} {many} {name}"


def say_time(hour: str, minute: str, language: str) -> str | None:
    """10:30 → ten thirty."""
    hours, minutes = number_words(int(hour), language), number_words(int(minute), language)
    if hours is None or minutes is None:
        return None
    if int(minute) == 0:
        minutes = ""
    elif language == "en" and int(minute) < 10:
        minutes = f"oh {minutes}"
    return f"{hours} {_HOURS.get(language, '')} {minutes}"


def say_date(year: str, month: str, day: str, language: str) -> str | None:
    """Year, month and day as digits → a date as it is read out."""
    y = say_year(year, language) if len(year) == 4 else say_number(year, language)
    d = number_words(int(day), language)
    names = MONTHS.get(language)
    m = names[int(month) - 1] if names and 1 <= int(month) <= 12 else number_words(int(month), language)
    if language in ("en", "de"):
        d = number_words(int(day), language, "ordinal")
    if None in (y, m, d):
        return None
    if language == "en":
        return f"{m} {d} {y}"
    if language in ("es", "pt"):
        return f"{d} de {m} de {y}"
    if language in ("ja", "zh", "yue"):
        return f"{y}年{m}月{d}日"
    return f"{d}{'r' if language == 'de' else ''} {m} {y}"


def order_date(a: str, mark: str, b: str, language: str) -> tuple[str, str]:
    """Month and day of ``a/b/year``: Americans write the month first, where it can be one."""
    month_first = language == "en" and mark == "/" and int(a) <= 12
    return (a, b) if month_first or int(b) > 12 else (b, a)


def say_fraction(a: str, b: str, language: str) -> str | None:
    """1/2 → one half; other pairs as two numbers."""
    if language == "en" and f"{a}/{b}" in _FRACTIONS:
        return _FRACTIONS[f"{a}/{b}"]
    said = say_number(a, language), say_number(b, language)
    return None if None in said else f"{said[0]} {said[1]}"


def say_range(a: str, b: str, language: str) -> str | None:
    """10–12 → ten to twelve; years as years."""
    said = say_year(a, language), say_year(b, language)
    return None if None in said else f"{said[0]} {_TO.get(language, '')} {said[1]}"


def say_decade(digits: str) -> str | None:
    """1990 → nineteen nineties."""
    said = say_year(digits, "en")
    if said is None:
        return None
    return said[:-1] + "ies" if said.endswith("y") else said + "s"


def say_unit(unit: str, language: str) -> str | None:
    """A unit behind a number: kg → kilograms. Of single letters, case tells m from M, C from c."""
    if len(unit) == 1 and unit != "L" and (unit in "CFWV") != unit.isupper():
        return None
    return UNITS.get(language, {}).get(unit.lower())


def say_scaled(number: str, scale: str, language: str) -> str | None:
    """5k → five thousand, 5M → five million; 5m is no million."""
    if len(scale) == 1 and scale != "k" and not scale.isupper():
        return None
    said = say_number(number, language)
    return said and f"{said} {MAGNITUDES[language][scale.lower()]}"


def say_tail(digits: str, language: str) -> str | None:
    """.5 → point five."""
    said = digit_words(digits, language)
    return said and f"{_POINT.get(language, '')} {said}"


def ordinal_ends(language: str) -> str:
    """A pattern of what turns digits into an ordinal number; one that never matches where there is none."""
    return _ORDINAL_ENDS.get(language, r"(?!)")


def dot_word(language: str) -> str:
    """How the dot of an address is read."""
    return _DOT.get(language, "")


def expand(word: str, language: str) -> str | None:
    """An abbreviation written out; ``word`` in any case, with or without its dot."""
    table: Mapping[str, str] = ABBREVIATIONS.get(language, {})
    key = word.lower()
    return table.get(key) or (table.get(key[:-1]) if key.endswith(".") else None)


def is_magnitude(word: str) -> bool:
    """Whether a word multiplies the number before it: million, Milliarden."""
    return bool(_MAGNITUDE_WORDS.fullmatch(word.lower()))

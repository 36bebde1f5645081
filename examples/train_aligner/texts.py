"""Sentences to be spoken, with Kokoro's phonemes: one JSON line each, ``{"text", "phonemes", "british"}``.

``text`` has the 26 letters, apostrophes and spaces; ``phonemes`` has as many words, punctuation at their ends.

    python texts.py OUT.jsonl --vocabulary vocab.json --austen Rdata.rdb --libri TEXTS --held-out TEXTS
"""

from __future__ import annotations

import argparse
import json
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

LONGEST = 34  # words; a longer sentence is cut
SHORT_FORMS = {"Mr.": "Mister", "Mrs.": "Missus", "Dr.": "Doctor", "St.": "Saint"}


def transcripts(path: Path) -> list[tuple[str, str]]:
    """LibriSpeech's lines ``ID WORDS…``."""
    return [tuple(line.split(" ", 1)) for line in path.read_text().splitlines() if line]  # type: ignore[misc]


def libri(path: Path, held_out: Path) -> Iterator[str]:
    """Transcripts as sentences, without the utterances (and the wordings) of the test set."""
    held = transcripts(held_out)
    names, words = {n for n, _ in held}, {t for _, t in held}
    for name, text in transcripts(path):
        if name not in names and text not in words:
            for part in pieces(text.lower().split()):
                yield " ".join(part).capitalize() + "."


def pieces(words: list[str]) -> Iterator[list[str]]:
    """Words in runs of at most LONGEST."""
    while len(words) > LONGEST:
        cut = random.randint(10, 24)
        yield words[:cut]
        words = words[cut:]
    yield words


def austen(path: Path) -> Iterator[str]:
    """Sentences of Jane Austen's novels, from the strings of an R package's data (``Rdata.rdb``).

    The file is a row of zlib blocks, each with its unpacked length before it; in R's XDR format a string is
    the tag 0x00040009, a length and ASCII bytes.
    """
    data, at, lines = path.read_bytes(), 0, []
    while at < len(data):
        reader = zlib.decompressobj()
        block = reader.decompress(data[at + 4 :])
        at = len(data) - len(reader.unused_data)
        for found in re.finditer(rb"\x00\x04\x00\x09", block):
            (size,) = struct.unpack(">i", block[found.end() : found.end() + 4])
            if 0 <= size < 200:
                lines.append(block[found.end() + 4 : found.end() + 4 + size].decode("ascii", "replace"))
    seen = set()
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        for sentence in sentences(" ".join(paragraph.split())):
            if sentence not in seen:
                seen.add(sentence)
                yield sentence


def sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph that can be spoken letter by letter: no digits, initials, odd quotes."""
    for short, long in SHORT_FORMS.items():
        paragraph = paragraph.replace(short, long)
    paragraph = paragraph.replace("--", ", ").replace("_", "").replace("-", " ")
    for sentence in re.split(r"(?<=[.?!])[\"')]*\s+(?=[\"'(]*[A-Z])", paragraph):
        sentence = " ".join(re.sub(r'["()\[\]*]', "", sentence).strip(" '").split())
        sentence = re.sub(r"\s+([,.;:?!])", r"\1", sentence)
        odd = re.search(r"\b[A-Z]{2,}\b|(^|\s)'|'([\s,.;:?!]|$)|\b[A-Z]\.", sentence)
        if odd or not re.fullmatch(r"[A-Za-z' ,.;:?!]+", sentence) or len(sentence.split()) < 3:
            continue
        run: list[str] = []
        for clause in re.split(r"(?<=[,;:])\s+", sentence):
            if run and len(run) + len(clause.split()) > LONGEST:
                yield " ".join(run)
                run = []
            run += clause.split()
        if len(run) <= LONGEST:
            yield " ".join(run)


def spoken(sentence: str, british: bool, phonemise: object, alphabet: set[str]) -> dict[str, object] | None:
    """A line, or nothing where words and phonemes do not pair."""
    words = sentence.split()
    sounds = [p for p in phonemise(sentence).split(" ") if any(c.isalpha() for c in p)]  # type: ignore[operator]
    if len(sounds) != len(words):  # read word by word instead
        sounds = [phonemise(w).replace(" ", "") for w in words]  # type: ignore[operator]
    sounds = ["".join(c for c in s if c in alphabet) for s in sounds]
    if sum(map(len, sounds)) + len(sounds) > 400 or not all(any(c.isalpha() for c in s) for s in sounds):
        return None
    text = " ".join(re.sub(r"[^A-Z']", "", w.upper()) for w in words)
    return {"text": text, "phonemes": " ".join(sounds), "british": british}


def main() -> None:
    """Write the sentences in a random order that is the same every time."""
    from hibari.g2p import G2P  # pip install hibari-tts

    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out", type=Path)
    args.add_argument("--libri", type=Path, required=True)
    args.add_argument("--held-out", type=Path, required=True)
    args.add_argument("--austen", type=Path, required=True)
    args.add_argument("--vocabulary", type=Path, required=True)
    a = args.parse_args()
    random.seed(9)
    every = [*libri(a.libri, a.held_out), *austen(a.austen)]
    random.shuffle(every)
    table = json.loads(a.vocabulary.read_text(encoding="utf-8"))
    alphabet = set(table.get("vocab", table))
    readers = {british: G2P(british=british) for british in (False, True)}
    kept = 0
    with a.out.open("w", encoding="utf-8") as file:
        for sentence in every:
            british = random.random() < 0.28
            try:
                line = spoken(sentence, british, readers[british], alphabet)
            except (KeyError, ValueError, IndexError, TypeError):
                continue  # what the reader cannot read is left out
            if line:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                kept += 1
    print(f"{kept} of {len(every)} sentences, {sum(len(s.split()) for s in every)} words")


if __name__ == "__main__":
    main()

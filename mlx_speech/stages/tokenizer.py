"""Whisper's vocabulary: text to tokens and back, and the tokens that steer the decoder.

Original: https://github.com/openai/whisper/blob/v20250625/whisper/tokenizer.py (MIT). The numbers of the
special tokens follow from the size of the vocabulary alone.
"""

from __future__ import annotations

import gzip
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as BytePairTokenizer
from tokenizers import decoders, models, pre_tokenizers

from mlx_speech.errors import CheckpointError
from mlx_speech.models.whisper import Whisper, WhisperConfig
from mlx_speech.stages.languages import LANGUAGES

TIME_PRECISION = 0.02  # seconds a timestamp token
NUM_TIMESTAMPS = 1501
_NUMERALS = frozenset("0123456789%$£")
_ASSETS = Path(__file__).parent.parent / "assets" / "whisper"
# written without spaces between words: each character is taken for a word
UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


@dataclass(frozen=True)
class SpecialTokens:
    """Token numbers with a meaning, in the order in which they follow the text's tokens."""

    eot: int
    sot: int
    first_language: int
    translate: int
    transcribe: int
    start_of_lm: int
    start_of_prev: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int

    @classmethod
    def of(cls, config: WhisperConfig) -> SpecialTokens:
        """The numbers for a model's vocabulary."""
        eot = 50257 if config.multilingual else 50256
        after = eot + 2 + config.num_languages
        return cls(eot, eot + 1, eot + 2, *range(after, after + 7))


class Tokenizer:
    """Text and tokens of one Whisper model.

    Args:
        config: the model's configuration.
        file: the checkpoint's own ``tokenizer.json``; without it, the vocabulary of OpenAI's models.

    Raises:
        CheckpointError: the file cannot be read.
    """

    def __init__(self, config: WhisperConfig, file: Path | None = None) -> None:
        self.special = SpecialTokens.of(config)
        self.languages = tuple(LANGUAGES)[: config.num_languages]
        self.multilingual = config.multilingual
        self._bpe = _read(file) if file else _bundled("multilingual" if config.multilingual else "english")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, no special ones among them."""
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens; special ones and timestamps are left out."""
        return str(self._bpe.decode([t for t in tokens if t < self.special.eot], skip_special_tokens=False))

    def language_token(self, code: str) -> int:
        """The token of a language code that the model knows."""
        return self.special.first_language + self.languages.index(code)

    def start_sequence(self, language: str, task: str = "transcribe") -> tuple[int, ...]:
        """What decoding starts from: a start token and, in multilingual models, language and task."""
        if not self.multilingual:
            return (self.special.sot,)
        doing = self.special.translate if task == "translate" else self.special.transcribe
        return (self.special.sot, self.language_token(language), doing)

    @cached_property
    def never_sampled(self) -> tuple[int, ...]:
        """Special tokens that never stand in a transcript."""
        s = self.special
        return (
            s.sot,
            s.translate,
            s.transcribe,
            s.start_of_lm,
            s.start_of_prev,
            s.no_speech,
            s.no_timestamps,
        )

    @cached_property
    def numerals(self) -> tuple[int, ...]:
        """Text tokens that hold a digit, or a sign that is read as a word: %, $, £."""
        texts = self._bpe.decode_batch([[n] for n in range(self.special.eot)], skip_special_tokens=False)
        return tuple(n for n, text in enumerate(texts) if not _NUMERALS.isdisjoint(text))

    def split_to_words(self, tokens: Sequence[int], language: str | None) -> list[tuple[str, list[int]]]:
        """Group text tokens into words: (text with its leading space, tokens), nothing lost.

        A word begins at a space or stands as punctuation of its own; in languages written without spaces,
        each smallest group of tokens that makes whole characters is a word.
        """
        pieces = self._whole_characters(tokens)
        if language in UNSPACED:
            return pieces
        words: list[tuple[str, list[int]]] = []
        for text, ids in pieces:
            if not words or text.startswith(" ") or _is_punctuation(text):
                words.append((text, list(ids)))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + ids)
        return words

    def _whole_characters(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Smallest groups of tokens that decode to whole characters."""
        full = self.decode(tokens)
        pieces: list[tuple[str, list[int]]] = []
        held: list[int] = []
        done = 0
        for token in tokens:
            held.append(token)
            text = self.decode(held)
            # U+FFFD marks half a character, unless the text itself has one there
            at = text.find("\ufffd")
            if at < 0 or full[done + at : done + at + 1] == "\ufffd":
                pieces.append((text, held))
                done += len(text)
                held = []
        if held:
            pieces.append((self.decode(held), held))
        return pieces


def tokenizer_for(model: Whisper) -> Tokenizer:
    """The tokenizer of a loaded model: its checkpoint's own where there is one."""
    origin = getattr(model, "origin", None)
    file = origin.folder / "tokenizer.json" if origin else None
    return Tokenizer(model.config, file if file and file.is_file() else None)


def _is_punctuation(text: str) -> bool:
    """Whether a piece is marks or blanks alone, by the original's own test."""
    return text.strip() in string.punctuation


def _read(file: Path) -> BytePairTokenizer:
    try:
        return BytePairTokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{file}: not a readable tokenizer ({error}); fetch the checkpoint again"
        ) from error


def _bundled(name: str) -> BytePairTokenizer:
    """A byte-level tokenizer from its merges: 256 bytes first, then one token a merge, in order."""
    text = gzip.decompress((_ASSETS / f"{name}.merges.gz").read_bytes()).decode("utf-8")
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in text.split("\n"))]
    letters = [*_byte_letters(), *(a + b for a, b in merges)]
    vocabulary = {letter: n for n, letter in enumerate(letters)}
    tokenizer = BytePairTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte, in the order of the vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(0x100 + n) for n in range(len(others))]

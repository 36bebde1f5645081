"""How ``transcribe`` takes the choices of decoding."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Annotated, Any

import typer

from mlx_speech.cli.groups import takes
from mlx_speech.cli.options import Language
from mlx_speech.errors import OptionError
from mlx_speech.stages.languages import language_code
from mlx_speech.stages.options import DecodeOptions, TranscribeOptions

_DECODING, _SEARCH, _PROMPT, _SEQUENCE = "Decoding", "Search", "Prompt and vocabulary", "Windows"


class Task(str, Enum):
    """What to write: the words as said, or English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


def _choice(kind: Any, help: str, panel: str | None, flag: str | None = None) -> Any:
    names = [flag] if flag else []
    return Annotated[kind, typer.Option(*names, help=help, rich_help_panel=panel)]


_CHOICES: dict[str, Any] = {
    "language": Language,
    "task": _choice(Task, "'translate' writes English.", None),
    "words": _choice(bool, "Time each word.", None, "--words/--no-words"),
    "batch_size": _choice(
        int | None, "Windows of 30 s decoded together; 8 on a CPU, what fits on a GPU by default.", None
    ),
    "multilingual": _choice(bool, "Detect the language of each window anew.", None, "--multilingual"),
    "temperature": _choice(str, "Tried in turn where decoding fails.", _DECODING),
    "compression_ratio_threshold": _choice(float, "Above it, text is taken for a loop.", _DECODING),
    "logprob_threshold": _choice(float, "Below this mean log-probability, decoding has failed.", _DECODING),
    "no_speech_threshold": _choice(float, "Above it, an unlikely text is taken for silence.", _DECODING),
    "max_initial_timestamp": _choice(float, "Latest start of a window's first phrase, in s.", _DECODING),
    "timestamps": _choice(bool, "Let Whisper time phrases.", _DECODING, "--timestamps/--no-timestamps"),
    "max_tokens": _choice(int | None, "Most tokens a window.", _DECODING),
    "beam_size": _choice(int, "Hypotheses followed at temperature 0; 1 is greedy.", _SEARCH),
    "patience": _choice(float, "More of it ends beam search later.", _SEARCH),
    "length_penalty": _choice(float | None, "Google's, 0 to 1; the plain mean by default.", _SEARCH),
    "best_of": _choice(int, "Samples drawn at temperatures above 0.", _SEARCH),
    "repetition_penalty": _choice(float, "Above 1, words come less likely again.", _SEARCH),
    "no_repeat_ngram_size": _choice(int, "No run of so many tokens comes twice.", _SEARCH),
    "max_repeats": _choice(int | None, "A phrase repeated more often in a row is written once.", _SEARCH),
    "seed": _choice(int, "Of the sampling.", _SEARCH),
    "prompt": _choice(
        str | None, "What was said before: names, spelling, style.", _PROMPT, "--initial-prompt"
    ),
    "prefix": _choice(str | None, "What each window begins with.", _PROMPT),
    "hotwords": _choice(str | None, "Words to listen for.", _PROMPT),
    "fill_gaps": _choice(
        bool,
        "Decode speech once more, by itself, in which no word was placed.",
        _DECODING,
        "--fill-gaps/--no-fill-gaps",
    ),
    "redo": _choice(
        bool,
        "Decode windows again, with other settings, that the audit finds fault with; the better reading stays.",
        _DECODING,
        "--redo",
    ),
    "chunk_size": _choice(float, "Seconds of the longest window of speech, at most 30.", "Speech detection"),
    "suppress_symbols": _choice(
        bool, "Write no symbols that are not speech.", _PROMPT, "--suppress-symbols/--no-suppress-symbols"
    ),
    "suppress_tokens": _choice(str, "Comma-separated numbers of tokens never to write.", _PROMPT),
    "suppress_numerals": _choice(bool, "Write numbers as words.", _PROMPT, "--suppress-numerals"),
    "sequential": _choice(
        bool, "Window by window as OpenAI's program, not batches of speech.", _SEQUENCE, "--sequential"
    ),
    "condition_on_previous_text": _choice(
        bool,
        "Sequential: the text so far is a prompt.",
        _SEQUENCE,
        "--condition-on-previous-text/--no-condition-on-previous-text",
    ),
    "carry_initial_prompt": _choice(
        bool, "Sequential: keep the initial prompt in front.", _SEQUENCE, "--carry-initial-prompt"
    ),
    "hallucination_silence_threshold": _choice(
        float | None, "Sequential, with words: skip longer silences around inventions, in s.", _SEQUENCE
    ),
    "clips": _choice(str, "start,end,start,end … in s: only these.", _SEQUENCE, "--clip-timestamps"),
}
"""One for each field of :class:`TranscribeOptions` and :class:`DecodeOptions`."""

_WRITTEN = {"temperature": "0,0.2,0.4,0.6,0.8,1", "suppress_tokens": "", "clips": "", "task": Task.TRANSCRIBE}
"""Defaults of what the command line writes otherwise than the fields."""


_FLAGS = {"clips": "--clip-timestamps", "temperatures": "--temperature"}
"""Fields whose options are called otherwise, for errors to name what was typed."""

_SYMBOLS = -1  # openai-whisper's number for "the symbols"


def _default(name: str) -> Any:
    if name in _WRITTEN:
        return _WRITTEN[name]
    options = TranscribeOptions()
    return getattr(options, name) if hasattr(options, name) else getattr(options.decode, name)


def read_options(given: dict[str, Any]) -> TranscribeOptions:
    """The options that the command line's values stand for.

    Raises:
        OptionError: a list that is none, or a value out of its range.
    """
    values = dict(given)
    values["language"] = language_code(given["language"]) if given["language"] else None
    values["task"] = given["task"].value
    values["temperatures"] = _numbers(values.pop("temperature"), float, "--temperature", "0,0.4,0.8")
    tokens = _numbers(given["suppress_tokens"], int, "--suppress-tokens", "11,30")
    values["suppress_tokens"] = tuple(t for t in tokens if t != _SYMBOLS)
    values["suppress_symbols"] = given["suppress_symbols"] or _SYMBOLS in tokens
    values["clips"] = _numbers(given["clips"], float, "--clip-timestamps", "0,12.5,60")
    names = {f.name for f in fields(DecodeOptions)}
    try:
        decode = DecodeOptions(**{k: v for k, v in values.items() if k in names})
        return TranscribeOptions(**{k: v for k, v in values.items() if k not in names}, decode=decode)
    except OptionError as error:
        field, _, rest = str(error).partition(" ")
        if field not in _FLAGS:
            raise
        raise OptionError(f"{_FLAGS[field]} {rest}") from error


def _numbers(text: str, kind: type[Any], option: str, example: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(t) for t in text.split(",") if t.strip())
    except ValueError as error:
        raise OptionError(
            f"{option} {text!r}: give numbers separated by commas, such as {example}"
        ) from error


takes_decoding_options = takes(
    "options", {name: (kind, _default(name)) for name, kind in _CHOICES.items()}, read_options
)
"""Gives a command the options of ``_CHOICES``; it gets them as one :class:`TranscribeOptions`, ``options``."""

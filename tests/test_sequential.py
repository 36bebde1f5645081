"""Window by window: the segments that openai/whisper's own loop writes with the tiny weights.

The expected segments are made by parity/fixtures_whisper.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest

from mlx_speech.errors import OptionError
from mlx_speech.features import RecordingMel, log_mel
from mlx_speech.stages import sequential
from mlx_speech.stages.decode import Decoded
from mlx_speech.stages.inventions import Heard, first_invention, leading_silence, strange
from mlx_speech.stages.options import DecodeOptions, TranscribeOptions
from mlx_speech.stages.prompt import text_tokens
from mlx_speech.stages.sequential import transcribe_sequential
from mlx_speech.stages.timing import word_times
from mlx_speech.types import Segment, Word

EXPECTED = json.loads((Path(__file__).parent / "fixtures/whisper/decoding.json").read_text(encoding="utf-8"))
RATE = 16000
# the runs of parity/fixtures_whisper.py
RUNS = {
    "conditioned": {},
    "forgetful": {"condition_on_previous_text": False},
    "clips": {"clips": (3.0, 20.0, 41.5), "prompt": "Once upon a time."},
    "carried": {"carry_initial_prompt": True, "prompt": "Once upon a time."},
    "words": {"words": True},
    "skipping": {"words": True, "hallucination_silence_threshold": 0.5},
}


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """47 s of changing sound with silences, as the fixtures' script makes it."""
    rng = np.random.default_rng(5)
    loudness = np.repeat(rng.uniform(0, 0.3, 94) * (rng.random(94) > 0.2), RATE // 2)
    tone = np.sin(np.cumsum(np.repeat(rng.uniform(100, 3000, 188), RATE // 4)) * 2 * np.pi / RATE)
    return (loudness * (tone + 0.3 * rng.standard_normal(len(tone)))).astype(np.float32)


@pytest.mark.parametrize("run", RUNS)
def test_segments_equal_the_original(whisper, tokenizer, recording, run):
    given = {"words": False, **RUNS[run]}
    decode = DecodeOptions(
        temperatures=(0.0,), max_tokens=40, no_speech_threshold=None, prompt=given.pop("prompt", None)
    )
    options = TranscribeOptions(language="en", sequential=True, decode=decode, **given)
    seen: list[float] = []
    found, language = transcribe_sequential(whisper, tokenizer, recording, options, seen.append)
    assert [s.text for s in found] == [text for _, _, text in EXPECTED["read"][run]]
    for ours, (start, end, _) in zip(found, EXPECTED["read"][run], strict=True):
        # the original rounds words to 10 ms
        assert (ours.start, ours.end) == (pytest.approx(start, abs=0.011), pytest.approx(end, abs=0.011))
    assert language == "en"
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(47.0)


def test_the_mel_of_a_recording_is_that_of_one_long_row(recording):
    whole = np.array(log_mel(mx.array(np.pad(recording, (0, 480000)))))
    mel = RecordingMel(recording)
    assert mel.frames == len(whole)
    for first, last in ((0, 3000), (1234, 4234), (4700, 9000)):
        part = np.array(mel.part(first, last))
        assert np.abs(part - whole[first:last]).max() < 1e-5


def test_words_that_others_time_are_not_timed(whisper, tokenizer, recording, monkeypatch):
    """Then windows begin where timestamps say, as without words."""
    decode = DecodeOptions(temperatures=(0.0,), max_tokens=40, no_speech_threshold=None)
    options = TranscribeOptions(language="en", sequential=True, untimed=("en",), decode=decode)
    asked = replace(options, hallucination_silence_threshold=0.5)
    timed = []
    monkeypatch.setattr(sequential, "word_times", lambda *given: timed.append(given) or word_times(*given))
    found, _ = transcribe_sequential(whisper, tokenizer, recording, options)
    assert [s.text for s in found] == [text for _, _, text in EXPECTED["read"]["conditioned"]]
    assert not timed
    transcribe_sequential(whisper, tokenizer, recording, asked)
    assert timed


def test_nothing_to_hear(whisper, tokenizer):
    assert transcribe_sequential(whisper, tokenizer, np.zeros(0, np.float32), TranscribeOptions()) == (
        [],
        None,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"hallucination_silence_threshold": 1.0},
        {"clips": (3.0, 1.0)},
        {"multilingual": True, "language": "en"},
        {"max_repeats": 0},
        {"batch_size": 1.5},
        {"chunk_size": 31},
        {"words": 1},
    ],
)
def test_options_are_checked_and_named(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        TranscribeOptions(**wrong)


def contexts_of(whisper, tokenizer, monkeypatch, answers: list[Decoded], **options) -> list[list[int]]:
    """What each window is given as said before, where the windows say this."""
    left, contexts = list(answers), []

    def decoded(*_, context):
        contexts.append(list(context))
        return [left.pop(0)]

    monkeypatch.setattr(sequential, "decode", decoded)
    given = TranscribeOptions(language="en", words=False, sequential=True, **options)
    audio = np.zeros((30 * len(answers) - 10) * RATE, np.float32)
    transcribe_sequential(whisper, tokenizer, audio, given)
    return contexts


SAID = Decoded((300, 301), "ab", -0.1, 0.0, 1.0, 0.0, True)


def test_what_was_sampled_at_more_than_half_is_no_prompt(whisper, tokenizer, monkeypatch):
    answers = [replace(SAID, temperature=t) for t in (0.5, 0.6, 0.0, 0.0)]
    contexts = contexts_of(whisper, tokenizer, monkeypatch, answers)
    assert [len(c) for c in contexts] == [0, 2, 0, 2]


def test_silence_forgets_nothing(whisper, tokenizer, monkeypatch):
    silent = replace(SAID, no_speech_prob=0.9, avg_logprob=-2.0)
    contexts = contexts_of(whisper, tokenizer, monkeypatch, [SAID, silent, silent, SAID])
    assert [len(c) for c in contexts] == [0, 2, 2, 2]


def test_a_carried_prompt_stays_in_front_of_as_much_as_fits(whisper, tokenizer, monkeypatch):
    long = replace(SAID, tokens=tuple(range(300, 400)))
    decode = DecodeOptions(prompt="Anna and Bert")
    contexts = contexts_of(
        whisper, tokenizer, monkeypatch, [long] * 4, carry_initial_prompt=True, decode=decode
    )
    prompt = text_tokens(tokenizer, "Anna and Bert")
    assert [len(c) for c in contexts] == [len(prompt), len(prompt) + 100, len(prompt) + 200, 223]
    assert all(c[: len(prompt)] == prompt for c in contexts)
    assert contexts[3][-100:] == list(long.tokens)


def said(start: float, *words: tuple[float, float]) -> Segment:
    """A segment of words by their lengths in seconds and probabilities."""
    made, at = [], start
    for length, probability in words:
        made.append(Word("a", at, at + length, probability))
        at += length
    return Segment(start, at, "a", tuple(made))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], False),
        ([(0.3, 0.15)], False),
        ([(0.3, 0.14)], True),  # every word
        ([(0.3, 0.14)] * 3 + [(0.3, 0.9)] * 9, True),  # three of the first eight
        ([(0.3, 0.14)] * 2 + [(0.3, 0.9)] * 6 + [(0.3, 0.14)] * 9, False),
        ([(0.133, 0.9), (2.0, 0.9)], False),
        ([(0.033, 0.9)] * 2 + [(0.3, 0.9)] * 6, True),  # 15 for each second below 133 ms
        ([(0.034, 0.9)] * 2 + [(0.3, 0.9)] * 6, False),
        ([(5.0, 0.9)] + [(0.3, 0.9)] * 7, True),  # 1 for each second above two
        ([(4.9, 0.9)] + [(0.3, 0.9)] * 7, False),
    ],
)
def test_what_is_strange_about_words(words, wanted):
    assert strange(said(0.0, *words)) is wanted


STRANGE, PLAIN = [(0.3, 0.1)], [(0.3, 0.9)]


def test_silence_before_an_invention_is_skipped():
    window = Heard(100.0, 130.0, 130.0, 500.0, 99.0)
    assert leading_silence([said(103.0, *STRANGE)], window, 2.0) == pytest.approx(3.0)
    assert leading_silence([said(102.0, *STRANGE)], window, 2.0) is None
    assert leading_silence([said(103.0, *PLAIN)], window, 2.0) is None
    assert leading_silence([], window, 2.0) is None


def test_inventions_between_silences_are_cut_off():
    window = Heard(100.0, 130.0, 130.0, 500.0, 99.0)
    before, after = said(105.0, *PLAIN), said(115.0, *PLAIN)
    assert first_invention([before, said(110.0, *STRANGE), after], window, 2.0) == (1, 110.0)
    assert first_invention([before, said(107.2, *STRANGE), after], window, 2.0) is None  # no silence before
    assert first_invention([before, said(113.0, *STRANGE), after], window, 2.0) is None  # nor behind
    assert first_invention([said(100.5, *STRANGE), after], window, 2.0) == (0, 101.0)  # at least a second on
    assert first_invention([before, said(129.0, *STRANGE)], window, 2.0) == (
        1,
        129.0,
    )  # near the window's end
    last = Heard(100.0, 130.0, 130.0, 131.0, 99.0)
    assert first_invention([before, said(129.0, *STRANGE)], last, 2.0) == (1, 131.0)


@pytest.mark.parametrize(
    ("last", "threshold", "seen"), [(29.8, 0.5, 30.0), (29.0, 0.5, 29.0), (29.8, None, 29.8)]
)
def test_a_little_silence_at_a_windows_end_is_not_read_again(
    whisper, tokenizer, monkeypatch, last, threshold, seen
):
    """The next window begins where the last word ends, or after the silence where that is short."""
    begin = tokenizer.special.timestamp_begin
    tokens = (begin, 300, begin + 1400, begin + 1400)  # read until 28 s
    timed = Segment(
        0.0, last, "a", (Word("a", 0.0, 0.3, 0.9), Word("b", last - 0.3, last, 0.9)), tokens=(300,)
    )
    monkeypatch.setattr(sequential, "decode", lambda *_, context: [replace(SAID, tokens=tokens)])
    monkeypatch.setattr(sequential, "word_times", lambda *_: [[timed]])
    options = TranscribeOptions(
        language="en", sequential=True, hallucination_silence_threshold=threshold, clips=(0.0, 30.0)
    )
    told: list[float] = []
    transcribe_sequential(whisper, tokenizer, np.zeros(40 * RATE, np.float32), options, told.append)
    assert told[0] == pytest.approx(seen)

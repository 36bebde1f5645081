"""Known voices among a recording's speakers, and the commands around them."""

from __future__ import annotations

import json
import sys

import mlx.nn as nn
import numpy as np
import pytest

import mlx_speech
from mlx_speech import (
    AudioError,
    Diarization,
    IdentifyOptions,
    OptionError,
    Span,
    Turn,
    Voice,
    VoicesError,
    cli,
)
from mlx_speech.audio import load_audio
from mlx_speech.hub import ASSETS
from mlx_speech.readers import read_turns
from mlx_speech.stages.identify import alone, confidence, identify, name_speakers, weights_digest

CLIP = ASSETS / "demo" / "three_readers.flac"
KNOWN = (Voice("Anna", np.array([1, 0], np.float32), 9.0), Voice("Bert", np.array([0, 1], np.float32), 9.0))


def found(embeddings, threshold=0.5):
    labels = [f"SPEAKER_{n:02d}" for n in range(len(embeddings))]
    named = identify(np.array(embeddings, np.float32), labels, KNOWN, IdentifyOptions(threshold))
    return {i.label: i.name for i in named}


def test_speakers_get_the_names_of_their_voices():
    assert found([[0.1, 5], [7, 0.1]]) == {"SPEAKER_00": "Bert", "SPEAKER_01": "Anna"}


def test_a_name_is_given_once_to_whom_it_fits_best():
    assert found([[5, 1], [5, 0]]) == {"SPEAKER_01": "Anna"}


def test_the_others_fit_counts_too():
    """The first is nearest to Anna, but only so can both be named."""
    assert found([[0.75, 0.66], [1, 0]]) == {"SPEAKER_00": "Bert", "SPEAKER_01": "Anna"}


def test_who_is_not_alike_enough_stays_unnamed():
    assert found([[1, 1]], 0.7) == {"SPEAKER_00": "Anna"}
    assert found([[1, 1]], 0.71) == {}
    assert IdentifyOptions().threshold == 0.5
    assert found([[0, 0]], -1) == {}, "of whom nothing was heard"
    assert found(np.zeros((0, 2))) == {}
    assert identify(np.ones((1, 2)), ["SPEAKER_00"], ()) == ()


def test_what_is_not_alike_enough_takes_nobodys_place():
    """Both would be nearest to others in all, but then the surest would have no name."""
    known = tuple(Voice(n, np.eye(3, dtype=np.float32)[k], 9.0) for k, n in enumerate(("Anna", "Bert")))
    voices = np.array([[0.6, 0.45, 0.661], [0.55, 0.3, 0.779]])
    (named,) = identify(voices, ["SPEAKER_00", "SPEAKER_01"], known)
    assert (named.label, named.name) == ("SPEAKER_00", "Anna")


def test_confidence_grows_with_the_cosine():
    assert 0 < confidence(-1) < confidence(0.3) < confidence(0.5) < confidence(0.9) <= 1
    assert confidence(0.5) == pytest.approx(0.95, abs=0.005)  # docs/speakers.md
    assert confidence(0.3) < 0.5


@pytest.mark.parametrize("threshold", [1.5, float("nan"), "0.5"])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(OptionError, match="threshold is"):
        IdentifyOptions(threshold)


def test_names_reach_all_of_a_diarization():
    turns = (Turn(0, 1, "SPEAKER_00"), Turn(1, 2, "SPEAKER_01"))
    before = Diarization(
        turns, turns[:1], ("SPEAKER_00", "SPEAKER_01"), np.eye(2), np.zeros((9, 2)), 0.1, 0.0, 2.0
    )
    after = name_speakers(before, identify(before.embeddings[:1], ["SPEAKER_00"], KNOWN))
    assert [t.speaker for t in after.turns] == ["Anna", "SPEAKER_01"]
    assert (after.exclusive_turns[0].speaker, after.speakers) == ("Anna", ("Anna", "SPEAKER_01"))
    (identity,) = json.loads(mlx_speech.render(after, "json"))["identities"]
    assert (identity["speaker"], identity["label"], identity["similarity"]) == ("Anna", "SPEAKER_00", 1.0)


def test_alone_is_where_nobody_else_talks():
    turns = [
        Turn(0, 4, "A"),
        Turn(1, 2, "B"),
        Turn(1.5, 2.5, "C"),
        Turn(6, 8, "A"),
        Turn(5, 7, "B"),
        Turn(8, 9, "B"),
    ]
    assert alone(turns, "A") == [Span(0, 1), Span(2.5, 4), Span(7, 8)]
    assert alone(turns, "C") == []


def test_the_digest_tells_weights_apart():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.update(one.parameters())
    assert weights_digest(one) == weights_digest(other)
    other.bias = other.bias + 1
    assert weights_digest(one) != weights_digest(other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"turns": [{"start": 0.5, "end": 2, "speaker": "SPEAKER_00"}]}'),
        ("a.rttm", "SPEAKER a 1 0.500 1.500 <NA> <NA> SPEAKER_00 <NA> <NA>\n"),
    ],
)
def test_turns_are_read_from_json_and_rttm(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_turns(tmp_path / name) == [Turn(0.5, 2.0, "SPEAKER_00")]


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "{"), ("a.json", '{"turns": [1]}'), ("a.rttm", "hello")]
)
def test_files_without_turns_are_told(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match="turn"):
        read_turns(tmp_path / name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with the clip's first three turns' diarization, and a file of voices in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLX_SPEECH_SPEAKERS", str(tmp_path / "voices.json"))
    turns = [Turn(0.7, 4.0, "SPEAKER_01"), Turn(8.5, 12.0, "SPEAKER_00"), Turn(16.0, 19.0, "SPEAKER_02")]
    rows = (f"SPEAKER x 1 {t.start} {t.end - t.start} <NA> <NA> {t.speaker} <NA> <NA>\n" for t in turns)
    (tmp_path / "three_readers.rttm").write_text("".join(rows))
    return tmp_path


def test_a_speaker_of_one_recording_is_known_in_another(run, folder):
    code, out, err = run(cli.main, "speakers", "enroll", "Charles", CLIP, "--speaker", "SPEAKER_01")
    assert (code, out.strip()) == (0, "Charles: 00:03.30 of speech in 1 recording"), err
    assert "only 3.3 s of speech" in err
    known = mlx_speech.load_voices()
    diarizer = mlx_speech.Diarizer.load(voices=known)
    samples = load_audio(CLIP)
    diarization = diarizer.diarize(
        np.concatenate([samples[22 * 16_000 : 28 * 16_000], samples[36 * 16_000 : 40 * 16_000]])
    )
    assert set(diarization.speakers) > {"Charles"}
    (identity,) = diarization.identities
    assert identity.name == "Charles"
    assert identity.similarity > 0.6
    assert diarization.turns[0].speaker == "Charles"


def test_people_are_listed_renamed_merged_and_forgotten(run, folder):
    code, out, err = run(cli.main, "speakers", "list")
    assert (code, out) == (0, "")
    assert "nobody's voice is known yet" in err
    embedding = np.eye(256)
    mlx_speech.change_voices(
        lambda _: (
            mlx_speech.Voices("m", "0" * 64).enroll("Ann", embedding[0], 9).enroll("Bob", embedding[1], 9)
        )
    )
    assert run(cli.main, "speakers", "rename", "Ann", "Anna")[0] == 0
    code, out, _ = run(cli.main, "speakers", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["name", "Anna", "Bob"]
    assert run(cli.main, "speakers", "merge", "Anna", "Bob")[0] == 0
    assert mlx_speech.load_voices().names == ("Anna",)
    assert run(cli.main, "speakers", "forget", "Anna")[0] == 0
    code, _, err = run(cli.main, "speakers", "forget", "Anna")
    assert (code, "nobody's voice is known yet" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["enroll", "SPEAKER_00", CLIP], 1, "calls somebody unknown"),
        (["enroll", "Anna", CLIP, "--speaker", "SPEAKER_07"], 2, "no speaker is called 'SPEAKER_07' there"),
        (["enroll", "Anna", "other.wav", "--speaker", "SPEAKER_00"], 2, "run 'mlx-speech diarize' first"),
        (["enroll", "Anna", CLIP, "--turns", "three_readers.rttm"], 2, "--speaker says whom"),
        (["enroll", "Anna", CLIP, "-m", "silero-vad"], 2, "where a WeSpeaker is wanted"),
    ],
)
def test_enrolling_wrongly_is_told(run, folder, arguments, code, said):
    got, _, err = run(cli.main, "speakers", *arguments)
    assert (got, said in err) == (code, True), err
    assert not (folder / "voices.json").exists()


def test_identifying_needs_voices_of_the_same_model(run, folder):
    code, _, err = run(cli.main, "diarize", CLIP, "--identify")
    assert (code, "nobody's voice is known yet" in err) == (2, True)
    mlx_speech.change_voices(lambda _: mlx_speech.Voices("m", "0" * 64).enroll("Ann", np.ones(256), 9))
    with pytest.raises(VoicesError, match="heard by m with weights 000000000000…"):
        mlx_speech.Diarizer.load(voices=mlx_speech.load_voices())
    code, _, err = run(cli.main, "speakers", "enroll", "Anna", CLIP, "--speaker", "SPEAKER_01")
    assert (code, "voices.json: heard by m" in err) == (1, True)


def test_a_threshold_of_0_is_taken_as_it_is(run, folder, monkeypatch):
    def stop(identify, threshold):
        raise OptionError(f"identify {identify} from {threshold} on")

    monkeypatch.setattr(sys.modules["mlx_speech.cli.transcribe"], "diarizer_for", stop)
    _, _, err = run(cli.main, "transcribe", CLIP, "--identify", "--identify-threshold", "0")
    assert "identify True from 0.0 on" in err


def test_too_little_speech_is_told():
    with pytest.raises(AudioError, match=r"only 1\.0 s of speech"):
        mlx_speech.hear_voice(np.zeros(16_000, np.float32), None, [Span(0, 1)])
    with pytest.raises(AudioError, match=r"only 1\.0 s of speech"):  # what lies before the start is none
        mlx_speech.hear_voice(np.zeros(48_000, np.float32), None, [Span(-0.5, 1)])

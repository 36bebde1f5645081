"""The file of known voices: what goes in comes out, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import stat
import threading

import numpy as np
import pytest

from mlx_speech import OutputError, Voices, VoicesError, change_voices, load_voices
from mlx_speech.voices import VARIABLE, checked_name, default_path

DIGEST = "ab" * 32


def vector(*values):
    return np.array(values, np.float32)


@pytest.fixture
def known():
    empty = Voices("wespeaker", DIGEST)
    return empty.enroll("Anna", vector(2, 0, 0), 10.0).enroll("Bert Ø", vector(0, 3, 4), 30.0)


@pytest.fixture
def path(tmp_path, known):
    file = tmp_path / "deep" / "speakers.json"
    change_voices(lambda _: known, file)
    return file


def test_what_is_written_is_read(path, known):
    found = load_voices(path)
    assert (found.model, found.digest, found.names) == ("wespeaker", DIGEST, ("Anna", "Bert Ø"))
    np.testing.assert_allclose(found.embeddings, [[1, 0, 0], [0, 0.6, 0.8]], atol=1e-6)
    assert [(v.seconds, v.recordings) for v in found.voices] == [(10.0, 1), (30.0, 1)]
    assert load_voices(path.with_name("none.json")) is None


def test_only_the_owner_may_read_it(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    change_voices(lambda v: v.rename("Anna", "Ann"), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["speakers.json", "speakers.json.lock"]


def test_hearing_more_of_somebody_weighs_by_time(known):
    voice = known.enroll("Anna", vector(0, 5, 0), 30.0).find("Anna")
    np.testing.assert_allclose(voice.embedding, np.array([1, 3, 0]) / np.sqrt(10), atol=1e-6)
    assert (voice.seconds, voice.recordings) == (40.0, 2)


def test_merging_makes_one_of_two_and_forgetting_none(known):
    merged = known.merge("Anna", ("Bert Ø",))
    assert merged.names == ("Anna",)
    np.testing.assert_allclose(np.linalg.norm(merged.find("Anna").embedding), 1, atol=1e-6)
    assert merged.find("Anna").seconds == 40.0
    assert known.forget(("Anna",)).names == ("Bert Ø",)
    assert known.names == ("Anna", "Bert Ø"), "values do not change"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.rename("Ana", "X"), "did you mean Anna"),
        (lambda v: v.rename("Anna", "Bert Ø"), "'merge' makes one voice of two"),
        (lambda v: v.rename("Anna", "SPEAKER_03"), "calls somebody unknown"),
        (lambda v: v.merge("Anna", ("Anna",)), "name different voices"),
        (lambda v: v.forget(("Carl",)), "no voice is called 'Carl'"),
        (lambda v: v.enroll("Carl", vector(0, 0, 0), 3.0), "too little speech"),
        (lambda v: v.enroll("Carl", vector(np.nan, 1, 0), 3.0), "too little speech"),
        (lambda v: v.enroll("Carl", vector(1, 0), 3.0), "has 2 numbers"),
        (lambda v: v.enroll("Anna", vector(1, 0), 3.0), "has 3 numbers, 'Anna' 2"),
        (lambda v: v.check("cd" * 32), "heard by wespeaker"),
    ],
)
def test_what_makes_no_sense_is_told_and_changes_nothing(path, change, said):
    before = path.read_bytes()
    with pytest.raises(VoicesError, match=said):
        change_voices(change, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", " Anna", "An\nna", "x" * 101, "SPEAKER_00"])
def test_names_that_cannot_be_kept_are_refused(name):
    with pytest.raises(VoicesError):
        checked_name(name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"name": "Anna"', '"name": "Bert Ø"'),
        lambda text: text.replace('"seconds": 10.0', '"seconds": -1'),
        lambda text: text.replace('"sha256"', '"md5"'),
        lambda text: text.replace("1.0", '"one"', 1),
    ],
)
def test_a_damaged_file_is_told_and_left_as_it_is(path, damage):
    text = damage(path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VoicesError, match=r"speakers\.json: no readable file of voices .*left as it is"):
        load_voices(path)
    with pytest.raises(VoicesError):
        change_voices(lambda v: Voices("x", DIGEST), path)
    assert path.read_text(encoding="utf-8") == text


def test_bytes_that_are_no_text_are_told(path):
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VoicesError, match="cannot be read"):
        load_voices(path)


def test_changes_at_the_same_time_are_all_kept(path):
    def add(number):
        change_voices(lambda v: v.enroll(f"Guest {number}", vector(1, number, 0), 5.0), path)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_voices(path).voices) == 10


def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        change_voices(lambda v: v.forget(("Anna",)), path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["speakers.json", "speakers.json.lock"]


def test_the_file_lies_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine.json"))
    assert default_path() == tmp_path / "mine.json"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_path() == tmp_path / "mlx_speech" / "speakers.json"


def test_it_is_plain_json(path):
    value = json.loads(path.read_text(encoding="utf-8"))
    assert value["embedding"] == {"model": "wespeaker", "sha256": DIGEST}

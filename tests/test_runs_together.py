"""Whole runs of ``mlx-speech transcribe`` at once in one folder: each ends as if it were alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import wave
from pathlib import Path

import numpy as np
import pytest

from mlx_speech.audio import load_audio
from mlx_speech.hub import ASSETS
from mlx_speech.pipeline import journal
from mlx_speech.pipeline.journal import Journal, code_digest

FIXTURE = Path(__file__).parent / "fixtures/whisper/huggingface"
CLIP = ASSETS / "demo" / "three_readers.flac"
FORMATS = "json,srt,html,rttm"

# A run that waits, its journal open, until as many have come so far; and that may be killed at its third part
PROGRAM = """
    import os, signal, sys, time
    from pathlib import Path
    from mlx_speech.cli import main
    from mlx_speech.pipeline.journal import Journal

    meeting, many, deadly = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "killed"
    sys.argv[1:4] = []
    begin, keep, computed, kept = Journal.start, Journal.keep, [], []

    def start(journal, key):
        begin(journal, key)
        (meeting / str(os.getpid())).touch()
        while len(list(meeting.iterdir())) < many:
            time.sleep(0.01)

    def counted(journal, name, compute, codec):
        def work():
            if deadly and len(computed) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            computed.append(name)
            return compute()
        kept.append(name)
        return keep(journal, name, work, codec)

    Journal.start, Journal.keep = start, counted
    try:
        main()
    finally:
        print("computed", len(computed), "of", len(kept))
"""


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> list[Path]:
    """Two short recordings of two real voices each."""
    folder = tmp_path_factory.mktemp("talks")
    samples = load_audio(CLIP)
    files = []
    for name, begin in (("one", 0), ("two", 20)):
        files.append(folder / f"{name}.wav")
        with wave.open(str(files[-1]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            part = samples[begin * 16_000 : (begin + 7) * 16_000]
            file.writeframes((part * 32767).astype("<i2").tobytes())
    return files


def begun(folder: Path, meeting: Path, many: int, files: list[Path], how: str = "whole", *more: str):
    """A run that does not wait for itself."""
    meeting.mkdir(exist_ok=True)
    options = ["--diarize", "--align", "none", "--temperature", "0", "--max-tokens", "6", "--batch-size", "1"]
    options += ["--chunk-size", "2", "-m", f"path:{FIXTURE}", "-o", str(folder), "-f", FORMATS, *more]
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(meeting), str(many), how]
    command += ["transcribe", *options, *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*runs: subprocess.Popen[str]) -> list[tuple[str, str]]:
    """What they printed, of runs that went well."""
    said = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), said
    return said


def outputs(folder: Path) -> dict[str, str]:
    """Everything in a folder, hidden files too."""
    return {p.name: p.read_text("utf-8") if p.is_file() else "a folder" for p in folder.iterdir()}


@pytest.fixture(scope="module")
def alone(talks, tmp_path_factory) -> dict[str, str]:
    """What one run makes of both."""
    folder = tmp_path_factory.mktemp("alone")
    ended(begun(folder / "out", folder / "meeting", 1, talks))
    found = outputs(folder / "out")
    assert sorted(found) == sorted(f"{t.stem}.{f}" for t in talks for f in FORMATS.split(","))
    return found


def test_runs_at_once_after_a_killed_one(talks, alone, tmp_path):
    one, two = talks
    killed = begun(tmp_path / "out", tmp_path / "first", 1, [one], "killed")
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    runs = [begun(tmp_path / "out", tmp_path / "then", 3, [file]) for file in (one, one, two)]
    said = ended(*runs)
    assert outputs(tmp_path / "out") == alone
    warned = ["another run is at work" in err for _, err in said]
    assert sorted(warned[:2]) == [False, True]  # of the two at the same work, whoever came second
    assert not warned[2]
    assert sorted("went on from 2 parts of an earlier run" in err for _, err in said) == [False, False, True]
    counts = [tuple(map(int, out.split("computed")[-1].split(" of "))) for out, _ in said]
    (first, parts), (second, _), (other, others) = counts
    assert parts > 3
    assert sorted((first, second)) == [parts - 2, parts]  # one had the killed run's parts, and nobody else's
    assert other == others


def test_a_lock_that_was_removed_is_none(tmp_path):
    """The run before removes its folder between the opening and the locking of the next one."""
    first = Journal(tmp_path, "k")
    (first.folder / "parts").touch()
    begin = journal.fcntl.flock

    class Late:
        LOCK_EX, LOCK_NB = journal.fcntl.LOCK_EX, journal.fcntl.LOCK_NB

        @staticmethod
        def flock(lock, how):
            if (tmp_path / ".mlx-speech-k" / "parts").exists():
                with first:
                    pass
            begin(lock, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "fcntl", Late)
        second = Journal(tmp_path, "k")
    assert (second.folder / "lock").exists()
    with pytest.warns(journal.JournalWarning, match="another run"):
        Journal(tmp_path, "k")
    with second:
        pass
    assert list(tmp_path.iterdir()) == []


def test_parts_of_other_code_are_not_taken(tmp_path):
    (tmp_path / "stages").mkdir()
    source = tmp_path / "stages" / "decode.py"
    source.write_text("x = 1")
    before = code_digest(tmp_path)
    code_digest.cache_clear()
    assert code_digest(tmp_path) == before
    source.write_text("x = 2")
    code_digest.cache_clear()
    assert code_digest(tmp_path) != before


def test_the_key_holds_the_code(monkeypatch):
    audio = np.zeros(100, np.float32)
    before = journal.journal_key(audio, [], [])
    monkeypatch.setattr(journal, "code_digest", lambda package: "another version")
    assert journal.journal_key(audio, [], []) != before

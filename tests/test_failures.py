"""Disks that are full, folders that take nothing, two runs at once: a clear error, and nothing half-written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mlx_speech import Diarization, OutputError, Segment, Span, Transcript, Turn, Word, cli, write
from mlx_speech.hub import ASSETS
from mlx_speech.writers import DIARIZATION_WRITERS, WRITERS
from mlx_speech.writers.files import check_folder, prepare_folder

DIARIZATION = Diarization(
    (Turn(0.0, 9.0, "A"),),
    (Turn(0.0, 9.0, "A"),),
    ("A",),
    np.ones((1, 256), np.float32),
    np.ones((9, 1), np.float32),
    1.0,
    0.5,
    9.0,
)
WORDS = tuple(Word(f"word{n}", n / 10, n / 10 + 0.1, 0.9, speaker="A") for n in range(90))
SEGMENT = Segment(0.0, 9.0, " ".join(w.text for w in WORDS), WORDS, "en", speaker="A")
TRANSCRIPT = Transcript((SEGMENT,), "en", 9.0, (Span(0.0, 9.0),), DIARIZATION)
OUTPUTS = [
    *((TRANSCRIPT, name) for name in WRITERS),
    *((DIARIZATION, name) for name in DIARIZATION_WRITERS),
]
NOBODY = 65534
CLIP = ASSETS / "demo" / "three_readers.flac"


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that this process may read but not write in, even where it is root's."""
    folder = Path(tempfile.mkdtemp())
    (folder / "talk.json").write_text("old")
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("result", "format"), OUTPUTS)
def test_a_full_disk_leaves_what_was_there(tmp_path, result, format):
    path = tmp_path / f"talk.{format}"
    path.write_text("old")
    with full_disk(16), pytest.raises(OutputError, match=rf"talk\.{format}: could not be written.*has space"):
        write(result, path, format)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


@pytest.mark.parametrize(("result", "format"), OUTPUTS)
def test_a_folder_that_takes_nothing_stays_as_it_is(locked, result, format):
    with pytest.raises(OutputError, match=r"could not be written .*is writable"):
        write(result, locked / f"talk.{format}", format)
    assert [p.name for p in locked.iterdir()] == ["talk.json"]
    assert (locked / "talk.json").read_text() == "old"


def test_it_is_told_before_any_work(locked):
    for folder in (locked, locked / "new" / "folder"):
        with pytest.raises(OutputError, match="results cannot be written there"):
            check_folder(folder)
        with pytest.raises(OutputError, match="results cannot be written there"):
            prepare_folder(folder)
    assert [p.name for p in locked.iterdir()] == ["talk.json"]


def test_trying_a_folder_leaves_nothing_there(tmp_path):
    check_folder(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match="results cannot be written there"):
        check_folder(tmp_path / "link")


COMMANDS = {
    "transcribe": ["transcribe", CLIP, "-m", "no-such-model"],
    "diarize": ["diarize", CLIP, "--embedding", "no-such-model"],
    "align": ["align", CLIP, "talk.txt", "-m", "no-such-model"],
    "demo": ["demo", "-m", "no-such-model"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_tell_it_before_models_are_loaded(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("talk.txt").write_text("so he said")
    Path("out/three_readers.json").mkdir(parents=True)
    for folder, said in (
        ("talk.txt", "talk.txt: results cannot be written there (talk.txt is a file); name a folder"),
        ("talk.txt/out", "talk.txt/out: results cannot be written there (talk.txt is a file)"),
        ("out", "out/three_readers.json: a folder has this result's name"),
    ):
        code, _, err = run(cli.main, *COMMANDS[command], "-o", folder)
        assert (code, said in err, "no model" in err) == (1, True, False)
    assert "no model called" in run(cli.main, *COMMANDS[command], "-o", "new")[2]
    assert not Path("new").exists()


@pytest.mark.parametrize("voices", ["talk.txt/voices.json", "talk.txt"])
def test_a_file_of_voices_that_cannot_be_is_told_before_any_work(run, tmp_path, monkeypatch, voices):
    monkeypatch.chdir(tmp_path)
    Path("talk.txt").write_text("so he said")
    arguments = ["speakers", "enroll", "Anna", CLIP, "-m", "no-such-model", "--voices", voices]
    code, _, err = run(cli.main, *arguments)
    assert (code, "no model" in err) == (1, False)
    assert "talk.txt" in err


RUN = """
    import sys
    import numpy as np
    import warnings
    from pathlib import Path
    from mlx_speech import Segment, Span, Transcript, Word, write
    from mlx_speech.pipeline.journal import BATCH, Journal, JournalWarning
    from mlx_speech.stages.transcribe import Batch
    warnings.simplefilter("ignore", JournalWarning)
    folder, mark = Path(sys.argv[1]), sys.argv[2]
    for turn in range(40):
        key = f"{turn % 3:016d}"
        with Journal(folder, key) as journal:
            words = tuple(Word(f"{key}-{n}", n / 10, n / 10 + 0.1, 0.9) for n in range(200))
            part = Batch([Segment(0.0, 20.0, key, words)], [Span(0.0, 1.0)], ["en"])
            for n in range(3):
                found = journal.keep(f"part-{n}.json", lambda: part, BATCH)
                assert found == part, "a part of another run"
            for name in ("json", "srt", "html"):
                write(Transcript(tuple(found.segments), "en", 20.0), folder / f"talk.{name}", name)
    print("done")
"""


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(tmp_path)]
    runs = [subprocess.Popen([*command, mark], stdout=-1, stderr=-1, text=True) for mark in "ab"]
    for one in runs:
        out, err = one.communicate(timeout=120)
        assert (one.returncode, out) == (0, "done\n"), err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["talk.html", "talk.json", "talk.srt"]
    assert (tmp_path / "talk.json").read_text().endswith("}\n")

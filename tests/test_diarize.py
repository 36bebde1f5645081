"""From windows to turns against pyannote.audio's numbers, odd recordings, formats."""

from __future__ import annotations

import json
import wave
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from typer.testing import CliRunner

from mlx_speech import cli
from mlx_speech.audio import load_audio
from mlx_speech.cli import app
from mlx_speech.errors import AudioError, OptionError
from mlx_speech.hub import ASSETS
from mlx_speech.models.pyannet import PyanNetConfig
from mlx_speech.models.wespeaker import WeSpeaker, WeSpeakerConfig
from mlx_speech.pipeline import Diarizer
from mlx_speech.stages.cluster import NOBODY, AHCOptions, Clusters, SpeakerCountWarning, VBxOptions
from mlx_speech.stages.diarize import (
    PRESETS,
    DiarizeOptions,
    activations,
    assemble,
    diarize_samples,
    preset,
    ranked,
    speaker_count,
    turns,
)
from mlx_speech.stages.segmentation import Grid, Segmentation
from mlx_speech.stages.vbx import PLDA
from mlx_speech.types import Diarization, Turn
from mlx_speech.writers import render, write

FIXTURE = Path(__file__).parent / "fixtures/diarize/expected.npz"
CASES = {
    "vbx": DiarizeOptions(),
    "vbx_num_2": DiarizeOptions(num_speakers=2),
    "vbx_min_6": DiarizeOptions(max_speakers=6),  # the least is seen to by the clusters
    "vbx_max_3": DiarizeOptions(max_speakers=3),
    "ahc": DiarizeOptions(),
    "ahc_num_3": DiarizeOptions(num_speakers=3),
    "ahc_max_2": DiarizeOptions(max_speakers=2),
}
FAR = 1e9  # seconds: longer than any recording here


def windows(active: np.ndarray, **grid: float) -> Segmentation:
    return Segmentation(active.astype(np.float32), active, active, active.any(2), Grid(**grid))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as file:
        found = {k.removeprefix("theirs_"): file[k] for k in file}
    shape = (len(found["embeddings"]), 589, 3)
    active = np.unpackbits(found["active"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    return {**found, "active": active}


# --- against the original -------------------------------------------------------------------------


def test_speaker_count_equals_the_original(expected):
    np.testing.assert_array_equal(speaker_count(windows(expected["active"])), expected["count"])


@pytest.mark.parametrize("speakers", [0, 1, 2, 5])
def test_the_strongest_speakers_talk_and_of_equals_the_first(speakers):
    random = np.random.default_rng(speakers)
    strength = random.integers(0, 4, (400, speakers)).astype(np.float32)
    count = random.integers(0, 5, 400)
    before = strength.copy()
    found = ranked(strength, count)
    for row, talking, wanted in zip(strength, found, count, strict=True):
        order = sorted(range(speakers), key=lambda k: -row[k])  # a stable sort
        assert sorted(np.flatnonzero(talking)) == sorted(order[:wanted])
    assert np.array_equal(strength, before)


@pytest.mark.parametrize("name", CASES)
def test_reconstruction_and_turns_equal_the_original(expected, name):
    segmentation, options = windows(expected["active"]), CASES[name]
    labels = expected[f"{name}_labels"].astype(np.int64)
    clusters = Clusters(np.where(labels == -2, NOBODY, labels), expected[f"{name}_centroids"])
    count = np.minimum(speaker_count(segmentation), options.bounds.most).astype(np.int64)
    strength = activations(segmentation, clusters, max(len(clusters.centroids), count.max()))
    np.testing.assert_array_equal(ranked(strength, count), expected[f"{name}_turns_discrete"].astype(bool))
    for gap in (0.0, 0.5):
        smoothed = replace(options, min_duration_off=gap)
        found = assemble(segmentation, clusters, speaker_count(segmentation), smoothed, FAR)
        numbers = sorted({int(k) for *_, k in expected[f"{name}_turns_0"]})
        assert found.speakers == tuple(f"SPEAKER_{n:02d}" for n in range(len(numbers)))
        for kind in ("turns", "exclusive"):
            wanted = expected[f"{name}_{kind}_{gap:g}"]
            got = found.turns if kind == "turns" else found.exclusive_turns
            assert [int(t.speaker[-2:]) for t in got] == [numbers.index(int(k)) for *_, k in wanted]
            np.testing.assert_allclose([(t.start, t.end) for t in got], wanted[:, :2], rtol=0, atol=1e-9)


# --- what must hold whatever the windows say ------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(1, 8),
    least=st.integers(1, 30),
    extra=st.integers(0, 2),
    speakers=st.integers(1, 30),
    seed=st.integers(0, 999),
)
def test_bounds_hold_and_exclusive_turns_do_not_overlap(number, least, extra, speakers, seed):
    rng = np.random.default_rng(seed)
    active = rng.random((number, 60, 3)) < rng.random((number, 1, 3))
    labels = np.where(active.any(1), rng.integers(0, speakers, (number, 3)), NOBODY)
    present = np.unique(labels[labels >= 0])
    labels = np.searchsorted(present, labels) * (labels >= 0) + NOBODY * (labels < 0)
    clusters = Clusters(labels, rng.normal(size=(max(1, len(present)), 8)))
    segmentation = windows(active, step=0.2, window=1.0)
    options = DiarizeOptions(min_speakers=least, max_speakers=max(least + extra, len(present)))
    duration = 0.2 * number + 0.6
    found = assemble(segmentation, clusters, speaker_count(segmentation), options, duration)
    assert len(found.speakers) <= options.bounds.most
    assert len(found.speakers) >= min(least, len(present))
    assert len(found.embeddings) == found.posteriors.shape[1] == len(found.speakers)
    assert found.posteriors.shape[0] == len(found.frame_times)
    assert ((found.posteriors >= 0) & (found.posteriors <= 1)).all()
    for turn in (*found.turns, *found.exclusive_turns):
        assert 0 <= turn.start < turn.end <= duration
    ends = 0.0
    for turn in found.exclusive_turns:
        assert turn.start >= ends - 1e-9
        ends = turn.end
    assert list(found.turns) == sorted(found.turns, key=lambda t: (t.start, t.end, t.speaker))


def test_overlap_is_kept_in_turns_and_resolved_in_exclusive_turns():
    active = np.zeros((1, 589, 3), bool)
    active[0, 100:300, 0] = active[0, 250:400, 1] = True
    clusters = Clusters(np.array([[1, 0, NOBODY]]), np.eye(2))
    segmentation = windows(active)
    found = assemble(segmentation, clusters, speaker_count(segmentation), DiarizeOptions(), 10.0)
    time = Grid().times(589)
    assert [t.speaker for t in found.turns] == ["SPEAKER_01", "SPEAKER_00"]
    assert [(t.start, t.end) for t in found.turns] == [(time[100], time[300]), (time[250], time[400])]
    assert [(t.start, t.end) for t in found.exclusive_turns] == [
        (time[100], time[250]),
        (time[250], time[400]),
    ]
    np.testing.assert_array_equal(found.embeddings, np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(found.posteriors[:589], active[0, :, [1, 0]].T)
    np.testing.assert_allclose(found.frame_times[:589], time, rtol=0, atol=1e-9)


def test_two_speakers_of_a_window_that_are_one_count_once():
    active = np.zeros((2, 589, 3), bool)
    active[:, 100:300, 0] = active[:, 200:400, 2] = True
    clusters = Clusters(np.array([[0, NOBODY, 0], [0, NOBODY, NOBODY]]), np.ones((1, 4)))
    found = activations(windows(active), clusters, 1)
    assert found.max() == 2
    assert found[390, 0] == 1


def test_how_many_talk_is_rounded_to_the_nearest_and_halves_to_the_even():
    """Two windows that hear the same: one and none make none, two and one make two, as numpy's rint has it."""
    active = np.zeros((2, 589, 3), bool)
    active[0, :, 0] = True  # whom the second window never hears
    active[:, 100:, 1] = active[1, 300:, 2] = True
    count = speaker_count(windows(active, step=0.016875))
    assert count[50] == 0
    assert count[200] == 2  # of 2 and 1
    assert count[400] == 2
    three = np.concatenate([active[:1], np.zeros((2, 589, 3), bool)])
    assert speaker_count(windows(three, step=0.016875))[50] == 0  # a third of one
    three[1] = three[0]
    assert speaker_count(windows(three, step=0.016875))[50] == 1  # two thirds


def test_short_turns_and_short_pauses():
    who = np.zeros((600, 1), bool)
    who[10:20] = who[25:100] = who[200:205] = True
    time = Grid().times(600)
    found = turns(who, ("a",), Grid(), 0.0, 0.0, FAR)
    assert [(t.start, t.end) for t in found] == [
        (time[10], time[20]),
        (time[25], time[100]),
        (time[200], time[205]),
    ]
    found = turns(who, ("a",), Grid(), 0.1, 0.1, FAR)
    assert [(t.start, t.end) for t in found] == [(time[10], time[100])]
    assert turns(who, ("a",), Grid(), 0.0, 0.0, 1.0)[-1].end == 1.0
    pause = np.ones((40, 1), bool)
    pause[10:14] = False  # 4 frames, 67.5 ms
    assert [len(turns(pause, ("a",), Grid(), 0.0, off, FAR)) for off in (0.06, 0.07)] == [2, 1]
    assert turns(np.zeros((0, 0), bool), (), Grid(), 0.0, 0.0, FAR) == ()


# --- whole recordings, through networks that hear loudness ----------------------------------------


class Levels:
    """A segmentation network: each loudness (a multiple of 0.01) is a speaker, up to three a window."""

    config = PyanNetConfig(num_speakers=3, max_simultaneous=2)

    def __call__(self, audio: mx.array) -> mx.array:
        frames = self.config.num_frames(audio.shape[1])
        heard = np.rint(np.array(audio)[:, 495 + 270 * np.arange(frames)] * 100).astype(int)
        outputs = np.full((*heard.shape, self.config.num_classes), -20.0, np.float32)
        for window, levels in enumerate(heard):
            found, first = np.unique(levels[levels > 0], return_index=True)
            local = {level: n for n, level in enumerate(found[np.argsort(first)][:3])}
            classes = [local.get(level, -1) + 1 for level in levels]
            outputs[window, np.arange(frames), classes] = 0.0
        return mx.array(outputs)


class Voices:
    """An embedding network: each loudness has a direction of its own."""

    config = WeSpeakerConfig()
    directions = np.random.default_rng(0).normal(size=(101, 256)).astype(np.float32)

    def fbank_of_stretch(self, audio: mx.array, size: int, step: int, rows: np.ndarray) -> mx.array:
        return mx.stack([audio[n * step : n * step + size] for n in rows.tolist()])

    def fbank(self, audio: mx.array) -> mx.array:
        return audio

    def trunk(self, fbank: mx.array) -> mx.array:
        return fbank

    def pool(self, features: mx.array, masks: mx.array) -> mx.array:
        samples, weights = np.array(features), np.array(masks)
        frames = np.rint(samples[:, 495 + 270 * np.arange(weights.shape[2])] * 100).astype(int)
        sums = np.einsum("bsf,bfd->bsd", weights, self.directions[frames] * (frames > 0)[..., None])
        return mx.array(sums / np.maximum(weights.sum(2), 1)[..., None])


def talk(*spoken: tuple[float, int]) -> np.ndarray:
    """Samples of speakers (0 for silence) for so many seconds each."""
    return np.concatenate([np.full(round(s * 16000), speaker / 100, np.float32) for s, speaker in spoken])


def through(audio: np.ndarray, plda: PLDA | None = None, **options: Any) -> Diarization:
    options = {"clustering": AHCOptions(), "step": 1.0, "shared_trunk": False, **options}
    return diarize_samples(Levels(), Voices(), plda, audio, DiarizeOptions(**options), lambda *_: None)


@pytest.mark.parametrize("clustering", [AHCOptions(), VBxOptions()])
def test_turns_are_found(clustering):
    plda = PLDA.load(Path(mlx_speech.__file__).parent / "assets/plda")
    audio = talk((1, 0), (6, 3), (1.5, 0), (7, 8), (5, 3), (2, 0))
    found = through(audio, plda, clustering=clustering)
    assert [t.speaker for t in found.turns] == [f"SPEAKER_0{n}" for n in (0, 1, 0)] or [
        t.speaker for t in found.turns
    ] == [f"SPEAKER_0{n}" for n in (1, 0, 1)]
    times = [(t.start, t.end) for t in found.turns]
    np.testing.assert_allclose(times, [(1, 7), (8.5, 15.5), (15.5, 20.5)], rtol=0, atol=0.03)
    assert found.turns == found.exclusive_turns
    for turn in found.turns:
        middle = np.abs(found.frame_times - (turn.start + turn.end) / 2).argmin()
        assert found.posteriors[middle].argmax() == found.speakers.index(turn.speaker)
    assert np.isfinite(found.embeddings).all()


@pytest.mark.parametrize("seconds", [0.0, 0.01, 2.0, 31.0])
def test_silence_has_no_turns(seconds):
    found = through(talk((seconds, 0)))
    assert (found.turns, found.exclusive_turns, found.speakers) == ((), (), ())
    assert found.embeddings.shape == (0, 256)
    assert found.posteriors.shape == (len(found.frame_times), 0)
    assert found.duration == pytest.approx(seconds)


def test_two_seconds_of_one_speaker():
    found = through(talk((2, 7)))
    assert len(found.turns) == 1
    assert (found.turns[0].start, found.turns[0].end) == (pytest.approx(0.03, abs=0.001), 2.0)
    np.testing.assert_allclose(found.embeddings[0], Voices.directions[7], rtol=0, atol=1e-5)


def test_one_speaker_who_is_asked_to_be_two():
    with pytest.warns(SpeakerCountWarning, match="2 speakers were asked for"):
        found = through(talk((2, 7)), num_speakers=2)
    assert found.speakers == ("SPEAKER_00",)


def test_two_speakers_within_two_seconds():
    assert len(through(talk((1, 7), (1, 9))).speakers) == 1  # too short to tell, as in the original
    assert len(through(talk((1, 7), (1, 9)), num_speakers=2).speakers) == 2


def test_more_than_twenty_speakers():
    audio = talk(*((4.0, speaker) for speaker in range(1, 31)))
    found = through(audio, clustering=AHCOptions(min_cluster_size=1))
    assert len(found.speakers) == 30
    assert [t.speaker for t in found.exclusive_turns] == [
        found.speakers[np.linalg.norm(found.embeddings - Voices.directions[n], axis=1).argmin()]
        for n in range(1, 31)
    ]


@pytest.mark.parametrize("wanted", [1, 2, 5, 12])
@pytest.mark.parametrize("preset_name", ["3.1", "community-1"])
def test_the_number_of_speakers_is_obeyed(wanted, preset_name):
    plda = PLDA.load(Path(mlx_speech.__file__).parent / "assets/plda")
    audio = talk(*((3.0, 1 + n % 4) for n in range(20)))
    clustering = PRESETS[preset_name].clustering
    assert len(through(audio, plda, clustering=clustering).speakers) == 4
    found = through(audio, plda, clustering=clustering, num_speakers=wanted)
    assert len(found.speakers) == wanted
    assert {t.speaker for t in found.turns} == set(found.speakers)
    assert len(through(audio, plda, clustering=clustering, max_speakers=3).speakers) == 3
    assert len(through(audio, plda, clustering=clustering, min_speakers=6).speakers) == 6


def test_progress_is_told():
    told: list[tuple[str, float, float]] = []
    audio = talk((15, 4), (15, 0), (15, 5))
    options = preset("3.1", segmentation_batch=5, embedding_batch=5)
    diarize_samples(Levels(), Voices(), None, audio, options, lambda *a: told.append(a))
    for stage in ("segment", "embed"):
        done = [d for s, d, _ in told if s == stage]
        assert done == sorted(done)
        assert len(done) > 5
        assert done[-1] == 45.0
    assert {total for *_, total in told} == {45.0}


# --- the bundled networks -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diarizer() -> Diarizer:
    return Diarizer.load()


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Ten seconds of one reader."""
    return load_audio(ASSETS / "demo/sense_and_sensibility.flac")[:160000]


@pytest.mark.parametrize("name", PRESETS)
def test_one_reader_is_one_speaker(diarizer, clip, name):
    found = mlx_speech.diarize(clip, options=name, diarizer=diarizer)
    assert found.speakers == ("SPEAKER_00",)
    assert 6 < sum(t.end - t.start for t in found.turns) < 10
    assert found.embeddings.shape == (1, 256)
    voice = mlx_speech.embed(clip, diarizer.embedding)
    cosine = voice @ found.embeddings[0] / np.linalg.norm(voice) / np.linalg.norm(found.embeddings[0])
    assert cosine > 0.9


def test_the_segmentation_is_a_speech_detector(diarizer, clip):
    found = mlx_speech.detect_speech(clip, diarizer.segmentation)
    wanted = mlx_speech.detect_speech(clip)
    assert found[0].start == pytest.approx(wanted[0].start, abs=0.15)
    assert found[-1].end == pytest.approx(wanted[-1].end, abs=0.15)


def test_names_that_lead_elsewhere_are_refused():
    with pytest.raises(OptionError, match="SileroVAD, where a PyanNet is wanted"):
        Diarizer.load("silero-vad")
    with pytest.raises(OptionError, match="SileroVAD, where a WeSpeaker is wanted"):
        mlx_speech.embed(np.zeros(16000, np.float32), "silero-vad")
    with pytest.raises(OptionError, match="PyanNet, where a WeSpeaker is wanted"):
        Diarizer.load(embedding="segmentation-3.0")


@pytest.mark.parametrize("loud", [0.0, 0.01])
def test_nobody_has_no_voice(diarizer, loud):
    noise = (loud * np.random.default_rng(0).normal(size=32_000)).astype(np.float32)
    with pytest.raises(AudioError, match="no speech is heard in it"):
        mlx_speech.embed(noise, diarizer.embedding)
    with pytest.raises(AudioError, match="an embedding takes"):
        mlx_speech.embed(noise[:10], diarizer.embedding)


def test_the_voices_of_files_where_nobody_speaks_are_not_printed(run, tmp_path):
    silence = tmp_path / "silence.wav"
    with wave.open(str(silence), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes(bytes(64_000))
    code, out, err = run(cli.main, "embed", silence, ASSETS / "demo/sense_and_sensibility.flac")
    assert code == 1
    assert f"{silence}: no speech is heard in it" in err
    (line,) = out.splitlines()
    assert json.loads(line)["file"].endswith("sense_and_sensibility.flac")


def test_vbx_wants_the_embedding_that_its_plda_was_trained_on(clip, tmp_path, run):
    """The same network in half precision is that one; another, of as many dimensions, is not."""
    names = {}
    for name, dtype in (("same", mx.float16), ("other", mx.float32)):
        network = mlx_speech.load("wespeaker-resnet34-LM")
        if name == "other":
            mx.random.seed(0)
            network.seg_1.weight = mx.random.normal(network.seg_1.weight.shape)
        names[name] = _kept(network, tmp_path / name, dtype)
    assert Diarizer.load(embedding=names["same"]).plda is not None
    other = Diarizer.load(embedding=names["other"])
    missing = tmp_path / "missing.wav"  # it is told before anything is read
    with pytest.raises(
        OptionError, match=r"trained on wespeaker-resnet34-LM; take .* \(preset fast or 3\.1\)"
    ):
        other.diarize(missing, "community-1")
    transcriber = mlx_speech.Transcriber(None, None, other.segmentation, None, other)
    with pytest.raises(OptionError, match="VBx"):
        transcriber._diarizing("community-1")
    assert transcriber._diarizing(True) == transcriber._diarizing(None) == preset("fast")
    assert transcriber._diarizing(False) is None
    assert other.diarize(clip, "fast").speakers == ("SPEAKER_00",)
    arguments = (
        "diarize",
        ASSETS / "demo/three_readers.flac",
        "--embedding",
        names["other"],
        "-o",
        tmp_path / "out",
    )
    code, _, err = run(cli.main, *arguments, "--preset", "community-1")
    assert (code, f"for the embedding {names['other']!r}" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def _kept(network: WeSpeaker, folder: Path, dtype: mx.Dtype) -> str:
    """A network in a folder, in this library's own layout."""
    folder.mkdir()
    value = {"format_version": 1, "family": "wespeaker", "config": asdict(network.config)}
    (folder / "config.json").write_text(json.dumps(value))
    arrays = {key: value.astype(dtype) for key, value in tree_flatten(network.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return f"path:{folder}"


def test_wishes_go_before_the_options(clip):
    with pytest.raises(OptionError, match="contradicts"):
        mlx_speech.diarize(clip, 3, options=DiarizeOptions(max_speakers=2))
    with pytest.raises(OptionError, match="min_speakers"):
        mlx_speech.diarize(clip, min_speakers=0)


def test_the_commands(clip, tmp_path: Path):
    file = tmp_path / "a b.wav"
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes((clip * 32767).astype("<i2").tobytes())
    run = CliRunner().invoke(app, ["diarize", str(file), "-o", str(tmp_path), "--max-speakers", "2"])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "a b.rttm").read_text().startswith("SPEAKER a_b 1 ")
    assert json.loads((tmp_path / "a b.json").read_text())["speakers"] == ["SPEAKER_00"]
    run = CliRunner().invoke(app, ["embed", str(file), str(tmp_path / "missing.wav")])
    assert run.exit_code == 1
    assert len(json.loads(run.stdout)["embedding"]) == 256
    for wrong in (["--format", "srt"], ["--preset", "2.1"], ["--num-speakers", "0"], ["--step", "20"]):
        with pytest.raises(OptionError):
            CliRunner().invoke(app, ["diarize", str(file), *wrong], catch_exceptions=False)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_speakers": 0},
        {"min_speakers": 3, "max_speakers": 2},
        {"clustering": "vbx"},
        {"step": 0},
        {"step": 11},
        {"step": "1"},
        {"exclude_overlap": 1},
        {"min_active_ratio": 1.1},
        {"onset": -0.1},
        {"offset": 0.6},
        {"min_duration_on": -1},
        {"min_duration_off": np.inf},
        {"shared_trunk": None},
        {"segmentation_batch": 0},
        {"embedding_batch": 1.5},
    ],
)
def test_options_are_checked_and_named(wrong: dict[str, Any]):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        DiarizeOptions(**wrong)


def test_presets_are_the_originals():
    assert PRESETS["community-1"].clustering == VBxOptions(threshold=0.6, fa=0.07, fb=0.8)
    assert PRESETS["3.1"].clustering == AHCOptions(threshold=0.7045654963945799, min_cluster_size=12)
    for name in ("community-1", "3.1"):
        assert PRESETS[name].step == 1.0
        assert not PRESETS[name].shared_trunk
    assert preset() == PRESETS["fast"] == DiarizeOptions()
    assert preset("3.1", num_speakers=4).num_speakers == 4
    with pytest.raises(OptionError, match=r"fast, 3\.1, community-1"):
        preset("2.1")
    with pytest.raises(OptionError, match="speakers"):
        preset(speakers=3)


# --- formats --------------------------------------------------------------------------------------

FOUND = Diarization(
    turns=(Turn(0.5, 2.25, "SPEAKER_00"), Turn(2.0, 3.0004, "SPEAKER_01")),
    exclusive_turns=(Turn(0.5, 2.25, "SPEAKER_00"), Turn(2.25, 3.0004, "SPEAKER_01")),
    speakers=("SPEAKER_00", "SPEAKER_01"),
    embeddings=np.array([[0.25, np.nan], [-1.0, 1e-9]], np.float32),
    posteriors=np.zeros((10, 2), np.float32),
    frame_step=0.016875,
    frame_offset=0.03096875,
    duration=4.0,
)


def test_rttm(tmp_path: Path):
    write(FOUND, tmp_path / "two words.rttm", "rttm")
    assert (tmp_path / "two words.rttm").read_text() == (
        "SPEAKER two_words 1 0.500 1.750 <NA> <NA> SPEAKER_00 <NA> <NA>\n"
        "SPEAKER two_words 1 2.000 1.000 <NA> <NA> SPEAKER_01 <NA> <NA>\n"
    )


def test_json():
    value = json.loads(render(FOUND, "json", name="call"))
    assert value["recording"] == "call"
    assert value["speakers"] == ["SPEAKER_00", "SPEAKER_01"]
    assert value["turns"][1] == {"start": 2.0, "end": 3.0, "speaker": "SPEAKER_01"}
    assert value["exclusive_turns"][1]["start"] == 2.25
    assert value["embeddings"] == {"SPEAKER_00": [0.25, None], "SPEAKER_01": [-1.0, 0.0]}


@pytest.mark.parametrize("format", ["srt", "", ["rttm"], None])
def test_unknown_formats_are_refused(format: Any):
    with pytest.raises(OptionError, match="rttm, json"):
        render(FOUND, format)

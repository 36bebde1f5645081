"""Windows, powerset classes and the time line of frames, by themselves and against pyannote.audio."""

from __future__ import annotations

from pathlib import Path

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_speech import runtime
from mlx_speech.errors import OptionError
from mlx_speech.models.pyannet import PyanNetConfig
from mlx_speech.stages.segmentation import (
    Grid,
    Segmentation,
    chunk_probabilities,
    covering,
    cut,
    decided,
    grid_of,
    hysteresis,
    membership,
    num_windows,
    segment,
    summed,
)

FIXTURE = Path(__file__).parent / "fixtures/diarize/expected.npz"
POWERSET = PyanNetConfig(num_speakers=3, max_simultaneous=2)
MULTILABEL = PyanNetConfig(num_speakers=2)


class Loudness:
    """Stands in for a network: class 1 where the samples are loud, class 0 elsewhere; notes what it heard."""

    def __init__(self, config: PyanNetConfig = POWERSET) -> None:
        self.config = config
        self.batches: list[int] = []

    def __call__(self, audio: mx.array) -> mx.array:
        samples = np.array(audio)
        self.batches.append(len(samples))
        frames = self.config.num_frames(samples.shape[1])
        loud = np.abs(samples[:, 495 + 270 * np.arange(frames)]) > 0.5
        if not self.config.powerset:
            return mx.array(np.stack([loud, ~loud], -1).astype(np.float32))
        outputs = np.full((*loud.shape, self.config.num_classes), -20, np.float32)
        outputs[..., 0], outputs[..., 1] = np.where(loud, -20, 0), np.where(loud, 0, -20)
        return mx.array(outputs)


def beeps(seconds: float, *spans: tuple[float, float]) -> np.ndarray:
    audio = np.zeros(round(seconds * 16000), np.float32)
    for start, end in spans:
        audio[round(start * 16000) : round(end * 16000)] = 1.0
    return audio


# --- against the original -------------------------------------------------------------------------


def test_hysteresis_equals_the_original():
    with np.load(FIXTURE) as file:
        found = hysteresis(file["scores"], 0.6, 0.4)
        np.testing.assert_array_equal(found, file["theirs_hysteresis"].astype(bool))


def test_powerset_classes_are_sets_of_speakers():
    mapping = membership(POWERSET.speaker_sets)
    assert mapping.tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 0],
        [1, 0, 1],
        [0, 1, 1],
    ]
    np.testing.assert_array_equal(decided(np.eye(7), mapping), mapping.astype(bool))


def test_frames_lie_where_the_original_puts_them():
    grid = Grid()
    np.testing.assert_array_equal(grid.starts(4), [0, 59, 119, 178])
    assert (grid.length(1), grid.length(21), grid.length(51)) == (594, 1779, 3557)  # of recorded runs
    assert grid.length(0) == 0
    np.testing.assert_allclose(grid.times(2), [0.03096875, 0.04784375], rtol=0, atol=1e-12)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "windows"),
    [(0, 0), (1, 1), (32000, 1), (160000, 1), (160001, 2), (176000, 2), (176001, 3), (480001, 22)],
)
def test_windows_cover_the_recording(samples, windows):
    assert num_windows(samples, Grid()) == windows


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(1, 400_000), step=st.sampled_from([0.5, 1.0, 2.5, 10.0]), first=st.integers(0, 20))
def test_windows_hold_the_samples_and_then_silence(samples, step, first):
    audio = np.arange(1, samples + 1, dtype=np.float32)
    grid = Grid(step=step)
    total = num_windows(samples, grid)
    first = min(first, total - 1)
    found = np.array(cut(audio, grid, first, total))
    assert found.shape == (total - first, 160_000)
    for row, start in zip(found, (np.arange(first, total) * step * 16000).astype(int), strict=True):
        held = audio[start : start + 160_000]
        np.testing.assert_array_equal(row[: len(held)], held)
        assert not row[len(held) :].any()
    assert found[-1].max() == samples


def test_windows_go_through_the_network_in_batches():
    model, heard = Loudness(), []
    found = segment(model, beeps(25, (3, 21)), batch_size=6, progress=heard.append)
    assert model.batches == [6, 6, 4]
    assert found.active.shape == (16, 589, 3)
    assert heard == [15, 21, 25]
    assert found.votes is found.active
    np.testing.assert_array_equal(found.scores > 0.5, found.active)


def test_a_gpu_is_one_batch_ahead_of_the_host(monkeypatch):
    """The same numbers in the same order; never more than two batches are held."""
    audio = beeps(25, (3, 21))
    plain = segment(Loudness(), audio, batch_size=6)
    monkeypatch.setattr(runtime, "on_cpu", lambda: False)
    model, asked = Loudness(), []
    found = segment(model, audio, batch_size=6, progress=lambda done: asked.append(len(model.batches)))
    for name in ("scores", "active", "votes", "speech"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    assert model.batches == [6, 6, 4]
    assert asked == [2, 3, 3]


def test_a_multilabel_network_votes_with_its_scores():
    found = segment(Loudness(MULTILABEL), beeps(12, (1, 11)), onset=0.6)
    assert found.votes is found.scores
    np.testing.assert_array_equal(found.speech, found.scores.max(-1))
    np.testing.assert_array_equal(found.active[..., 0], ~found.active[..., 1])


def test_a_chunks_probability_is_that_of_its_middle():
    """Speech that rises with time tells the time: chunks of 32 ms, frames that stand for their middles."""
    grid = Grid()
    speech = grid.times(589)[None].astype(np.float32)
    scores = np.zeros((1, 589, 3), np.float32)
    found = chunk_probabilities(Segmentation(scores, scores > 1, scores, speech, grid), 8 * 16000, 512)
    np.testing.assert_allclose(found[1:], 0.032 * np.arange(1, 250) + 0.016, atol=1e-5)


def test_nothing_to_hear():
    model = Loudness()
    found = segment(model, beeps(0))
    assert found.active.shape == (0, 589, 3)
    assert (found.length, found.starts.tolist(), model.batches) == (0, [], [])
    assert covering(found).tolist() == []
    assert chunk_probabilities(found, 0, 512).shape == (0,)


@pytest.mark.parametrize("step", [0, -1, 10.5, np.nan])
def test_steps_that_leave_gaps_are_refused(step):
    with pytest.raises(OptionError, match="step"):
        grid_of(Loudness(), step)


# --- sums over windows ----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(windows=st.integers(1, 30), step=st.sampled_from([0.3, 1.0, 4.0]), seed=st.integers(0, 99))
def test_sums_equal_a_loop_over_frames(windows, step, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (windows, 589, 2)).astype(bool)
    columns = rng.integers(-1, 3, (windows, 2))
    found = Segmentation(values.astype(np.float32), values, values, values.any(2), Grid(step=step))
    wanted, cover = np.zeros((found.length, 3)), np.zeros(found.length)
    for window, start in enumerate(found.starts):
        cover[start : start + 589] += 1
        for speaker in range(2):
            if columns[window, speaker] >= 0:
                wanted[start : start + 589, columns[window, speaker]] += values[window, :, speaker]
    np.testing.assert_array_equal(summed(values, columns, found, 3), wanted)
    np.testing.assert_array_equal(covering(found), cover)


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.random((23, 589, 3)).astype(np.float32)
    found = Segmentation(values, values > 0.5, values, values.max(2), Grid())
    columns = rng.integers(-1, 4, (23, 3))
    whole = summed(values, columns, found, 4)
    monkeypatch.setattr("mlx_speech.stages.segmentation._BLOCK", 5)
    np.testing.assert_allclose(summed(values, columns, found, 4), whole, rtol=0, atol=1e-5)


# --- as a speech detector -------------------------------------------------------------------------


@pytest.mark.parametrize("config", [POWERSET, PyanNetConfig(num_speakers=1)])
def test_the_segmentation_tells_speech_from_silence(config):
    model = Loudness(config) if config.powerset else _one(config)
    audio = beeps(23.456, (3, 7.5), (20, 23.456))
    found = chunk_probabilities(segment(model, audio, step=5.0), len(audio), 512)
    assert found.shape == (-(-len(audio) // 512),)
    middles = (np.arange(len(found)) + 0.5) * 0.032
    inside = ((middles > 3.05) & (middles < 7.45)) | ((middles > 20.05) & (middles < 23.4))
    outside = (middles < 2.95) | ((middles > 7.55) & (middles < 19.95))
    assert (found[inside] > 0.99).all()
    assert (found[outside] < 0.01).all()


def _one(config: PyanNetConfig) -> Loudness:
    class Single(Loudness):
        def __call__(self, audio: mx.array) -> mx.array:
            return super().__call__(audio)[..., :1]

    return Single(config)

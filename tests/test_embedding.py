"""Voices of windows and recordings: masks, the trunk run once a window or once a recording."""

from __future__ import annotations

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_speech.errors import AudioError
from mlx_speech.features import kaldi_fbank
from mlx_speech.models import wespeaker
from mlx_speech.models.wespeaker import WeSpeaker, WeSpeakerConfig
from mlx_speech.stages import embedding
from mlx_speech.stages.embedding import embed_recording, embed_windows, speaker_masks, trunk_frames
from mlx_speech.stages.segmentation import Grid, Segmentation, cut, num_windows


@pytest.fixture(scope="module")
def model() -> WeSpeaker:
    """A narrow ResNet34 with weights drawn at random: as deep, so each frame hears as far."""
    model = WeSpeaker(WeSpeakerConfig(channels=4, embedding=16))
    rng = np.random.default_rng(0)
    drawn = [
        (name, mx.array(rng.normal(0, 1 / np.sqrt(max(1, np.prod(p.shape[1:]))), p.shape).astype(np.float32)))
        for name, p in tree_flatten(model.parameters())
    ]
    model.update(tree_unflatten(drawn))
    return model


@pytest.fixture(scope="module")
def audio() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, 16 * 16000 + 77).astype(np.float32)


def segmentation(audio: np.ndarray, step: float = 2.0) -> Segmentation:
    grid = Grid(step=step)
    windows = num_windows(len(audio), grid)
    active = np.zeros((windows, 589, 3), bool)
    active[:, 50:400, 0] = active[:, 300:560, 1] = True
    active[1] = False
    return Segmentation(active.astype(np.float32), active, active, active.any(2), grid)


def test_masks_leave_overlap_out_where_enough_is_left():
    active = np.zeros((1, 589, 3), bool)
    active[0, 100:300, 0] = active[0, 250:400, 1] = active[0, 260:302, 2] = True
    masks = speaker_masks(active, 10.0, exclude_overlap=True)[0]
    assert masks.dtype == np.float32
    np.testing.assert_array_equal(np.flatnonzero(masks[0]), np.arange(100, 250))
    np.testing.assert_array_equal(np.flatnonzero(masks[1]), np.arange(302, 400))
    np.testing.assert_array_equal(np.flatnonzero(masks[2]), np.arange(260, 302))  # never alone
    active[0, 250:400, 1] = False
    active[0, 297:303, 1] = True
    masks = speaker_masks(active, 10.0, exclude_overlap=True)[0]
    assert masks[1].sum() == 6  # one frame alone is too short
    np.testing.assert_array_equal(
        speaker_masks(active, 10.0, exclude_overlap=False)[0], active[0].T.astype(np.float32)
    )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_window_is_embedded_on_its_own(model, audio, batch_size):
    windows, heard = segmentation(audio), []
    found = embed_windows(model, audio, windows, batch_size=batch_size, progress=heard.append)
    assert found.shape == (5, 3, 16)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 2]).all()
    masks = mx.array(speaker_masks(windows.active, 10.0, exclude_overlap=True))
    for row in (0, 2, 3, 4):
        wanted = model.embed(cut(audio, windows.grid, row, row + 1), masks[row : row + 1])
        np.testing.assert_allclose(found[row, :2], wanted[0, :2], rtol=0, atol=1e-5)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(len(audio) / 16000)


@pytest.mark.parametrize(
    ("step", "rows"), [(1.0, [0, 1, 2, 4, 6]), (1.0, [0, 6]), (0.999, [0, 1, 2]), (3.0, [1, 2])]
)
def test_windows_share_frames_and_hear_the_same(model, audio, monkeypatch, step, rows):
    """Each frame once where windows lie together a whole number of frames apart, else each window's own."""
    grid, heard = Grid(step=step), []
    energies = kaldi_fbank
    monkeypatch.setattr(wespeaker, "kaldi_fbank", lambda x, n: heard.append(x.shape) or energies(x, n))
    found = embedding._features(model, audio, grid, np.array(rows))
    [shape] = heard
    wanted = model.fbank(cut(audio, grid, rows[0], rows[-1] + 1)[mx.array(rows) - rows[0]])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert len(shape) == (2 if step == 0.999 else 1)
    assert shape[0] <= len(rows) * 160000


def test_silence_needs_no_network(audio):
    windows = segmentation(audio)
    windows.active[:] = False

    class Deaf:
        config = WeSpeakerConfig(channels=4, embedding=16)

    for shared in (False, True):
        found = embed_windows(Deaf(), audio, windows, shared_trunk=shared)
        assert np.isnan(found).all()


def test_blocks_of_a_shared_trunk_do_not_show(model, audio, monkeypatch):
    windows = segmentation(audio)
    whole = embed_windows(model, audio, windows, shared_trunk=True)
    for block in (2.0, 5.0):
        monkeypatch.setattr("mlx_speech.stages.embedding._BLOCK", block)
        found = embed_windows(model, audio, windows, shared_trunk=True)
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)  # other tiles of the convolutions
    together = trunk_frames(model, audio, 0, 200)
    apart = mx.concatenate([trunk_frames(model, audio, a, b) for a, b in ((0, 60), (60, 61), (61, 200))])
    # tiles of the convolutions fall elsewhere; their rounding follows the largest numbers around, here 5e-5 of 36
    assert np.abs(np.array(apart - together)).max() < 5e-6 * np.abs(np.array(together)).max()
    assert together.shape == (200, model.config.num_features)


def test_frames_lose_the_mean_of_the_ten_seconds_around_them(model, audio):
    energies = np.array(kaldi_fbank(mx.array(audio), 80), np.float64)
    means = [energies[max(0, n - 500) : n + 500].mean(0) for n in range(len(energies))]
    wanted = np.array(model.trunk(mx.array((energies - means).astype(np.float32))[None])[0])
    found = np.array(trunk_frames(model, audio, 0, len(wanted)))
    assert np.abs(found - wanted).max() < 5e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("samples", [14 * 16000, 10 * 16000 + 777, 16000])
def test_stretches_of_cores_do_not_show(model, audio, monkeypatch, samples):
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MLX_SPEECH_THREADS", threads)
        found.append(np.array(trunk_frames(model, audio[:samples], 0, model.config.num_frames(samples))))
    one, three = found
    assert one.shape == three.shape
    assert np.abs(one - three).max() < 5e-6 * np.abs(one).max()  # tiles fall elsewhere, as above


def test_a_shared_trunk_skips_silent_blocks(model, audio, monkeypatch):
    monkeypatch.setattr("mlx_speech.stages.embedding._BLOCK", 2.0)
    windows = segmentation(audio)
    whole = embed_windows(model, audio, windows, shared_trunk=True)
    windows.active[2:4] = False
    found = embed_windows(model, audio, windows, shared_trunk=True)
    np.testing.assert_allclose(found[[0, 4], :2], whole[[0, 4], :2], rtol=5e-6, atol=1e-5)  # other tiles
    assert np.isnan(found[1:4]).all()


def test_a_shared_trunk_is_close_to_one_a_window(model, audio):
    windows = segmentation(audio)
    apart, shared = (embed_windows(model, audio, windows, shared_trunk=s)[:, :2] for s in (False, True))
    rows = ~np.isnan(apart[..., 0])
    a, b = apart[rows], shared[rows]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine[:-2].min() > 0.999
    assert cosine.min() > 0.8  # the last window ends in silence, which only one of the two takes for sound


@pytest.mark.parametrize("samples", [0, 399])
def test_too_short_for_a_shared_trunk(model, samples):
    audio = np.zeros(samples, np.float32)
    grid = Grid()
    active = np.ones((num_windows(samples, grid), 589, 3), bool)
    windows = Segmentation(active, active, active, active.any(2), grid)
    found = embed_windows(model, audio, windows, shared_trunk=True)
    assert np.isnan(found).all()


def test_a_window_may_begin_behind_the_trunks_last_frame(model, audio, monkeypatch):
    monkeypatch.setattr("mlx_speech.stages.embedding._BLOCK", 2.0)
    audio = audio[: 10 * 16000 + 100]
    grid = Grid(step=10.0)
    active = np.zeros((num_windows(len(audio), grid), 589, 3), bool)
    active[:, :300, 0] = True
    windows = Segmentation(active, active, active, active.any(2), grid)
    found = embed_windows(model, audio, windows, shared_trunk=True)
    assert found.shape[0] == 2
    assert np.isfinite(found[:, 0]).all()


def test_a_recording_is_embedded_whole_or_in_pieces(model, audio, monkeypatch):
    whole = embed_recording(model, audio)
    np.testing.assert_allclose(whole, model.embed(mx.array(audio[None]))[0, 0], rtol=0, atol=1e-6)
    monkeypatch.setattr("mlx_speech.stages.embedding._PIECE", 9.0)
    halves = [np.array(model.embed(mx.array(h[None]))[0, 0]) for h in np.array_split(audio, 2)]
    np.testing.assert_allclose(embed_recording(model, audio), np.mean(halves, 0), rtol=0, atol=1e-6)
    with pytest.raises(AudioError, match="samples"):
        embed_recording(model, audio[:800])

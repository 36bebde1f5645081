"""Clustering against pyannote.audio's numbers, and what it must keep whatever it is given.

The fixture is made by parity/fixtures_diarize.py.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from mlx_speech.errors import CheckpointError, OptionError
from mlx_speech.stages.cluster import (
    NOBODY,
    AHCOptions,
    Bounds,
    SpeakerCountWarning,
    VBxOptions,
    _spread,
    absorbed,
    assign,
    clear,
    cluster,
    cut_for,
    linked,
    speaker_bounds,
    unit_rows,
)
from mlx_speech.stages.kmeans import kmeans
from mlx_speech.stages.vbx import PLDA, vbx

PLDA_FOLDER = Path(mlx_speech.__file__).parent / "assets/plda"
FIXTURE = Path(__file__).parent / "fixtures/diarize/expected.npz"
METHODS = {"vbx": VBxOptions(), "ahc": AHCOptions()}


@pytest.fixture(scope="module")
def plda() -> PLDA:
    return PLDA.load(PLDA_FOLDER)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as file:
        found = {k.removeprefix("theirs_"): file[k] for k in file}
    embeddings = found["embeddings"].astype(np.float32)
    shape = (len(embeddings), 589, 3)
    active = np.unpackbits(found["active"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    train = tuple(found["train"].T.astype(int))
    return {**found, "embeddings": embeddings, "active": active, "chosen": embeddings[train]}


# --- against the original -------------------------------------------------------------------------


def test_training_pairs_equal_the_original(expected):
    np.testing.assert_array_equal(np.argwhere(clear(expected["active"], 0.2)), expected["train"])


def test_projection_equals_the_original_but_for_the_signs_of_axes(plda, expected):
    found, wanted = plda.project(expected["chosen"]), expected["projected"]
    signs = np.sign((found * wanted).sum(0))
    assert (np.abs(signs) == 1).all()
    np.testing.assert_allclose(found * signs, wanted, rtol=0, atol=1e-9)


def test_vbx_equals_the_original(plda, expected):
    start = linked(expected["chosen"], 0.6, 8000)
    np.testing.assert_array_equal(start, expected["start"])
    gamma, priors, bounds = vbx(plda.project(expected["chosen"]), plda.psi, start)
    np.testing.assert_allclose(gamma, expected["responsibilities"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(priors, expected["priors"], rtol=0, atol=1e-9)
    assert (np.diff(bounds) > -1e-9).all()
    for tolerance in (1e-4, 10.0):
        gains = np.diff(vbx(plda.project(expected["chosen"]), plda.psi, start, tolerance=tolerance)[2])
        assert gains[-1] < tolerance <= gains[:-1].min()


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("vbx", Bounds()),
        ("vbx_num_2", Bounds(2, 2)),
        ("vbx_min_6", Bounds(6)),
        ("vbx_max_3", Bounds(1, 3)),
        ("ahc", Bounds()),
        ("ahc_num_3", Bounds(3, 3)),
        ("ahc_max_2", Bounds(1, 2)),
    ],
)
def test_labels_equal_the_original(plda, expected, name, bounds):
    method = METHODS[name.split("_")[0]]
    found = cluster(expected["embeddings"], expected["active"], method, bounds, plda=plda)
    wanted = expected[f"{name}_labels"]
    np.testing.assert_array_equal(found.labels, np.where(wanted == -2, NOBODY, wanted))
    np.testing.assert_allclose(found.centroids, expected[f"{name}_centroids"], rtol=0, atol=1e-6)


def test_where_the_original_finds_too_few_clusters_ours_finds_enough(expected):
    assert expected["ahc_min_5_labels"].max() + 1 == 4  # it says "Found only 4 clusters"
    found = cluster(expected["embeddings"], expected["active"], AHCOptions(), Bounds(5))
    assert set(np.unique(found.labels)) == {NOBODY, 0, 1, 2, 3, 4}


@pytest.mark.parametrize("count", [3, 7])
def test_kmeans_equals_scikit_learn(expected, count):
    found = kmeans(unit_rows(expected["chosen"]), count)
    np.testing.assert_array_equal(found, expected[f"kmeans_{count}"])


# --- trees ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 40), wanted=st.integers(1, 8), size=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_cut_has_as_many_large_clusters_as_wanted(n, wanted, size, seed):
    rows = unit_rows(np.random.default_rng(seed).normal(size=(n, 3)))
    tree = linkage(rows, method="centroid")
    step = cut_for(tree, wanted, size, 0.5)
    steps = tree.copy()
    steps[:, 2] = np.arange(len(tree))
    counts = [
        int((np.bincount(fcluster(steps, at, criterion="distance")) >= size).sum()) for at in range(n - 1)
    ]
    if step is None:
        assert not any(c == wanted and tree[at, 3] >= size for at, c in enumerate(counts))
    else:
        assert counts[step] == wanted


def test_small_clusters_join_the_nearest_large_one():
    unit = unit_rows(np.array([[1, 0], [1, 0.01], [0, 1], [0.01, 1], [0.9, 0.2]]))
    np.testing.assert_array_equal(absorbed(unit, np.array([5, 5, 2, 2, 9]), 2), [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(absorbed(unit, np.array([1, 2, 3, 4, 5]), 2), [0] * 5)


def test_thinning_of_long_recordings_keeps_the_clusters(expected):
    whole = linked(expected["chosen"], 0.8, 8000)
    thin = linked(expected["chosen"], 0.8, len(expected["chosen"]) // 2)
    assert len(thin) == len(whole)
    pairs = set(zip(whole.tolist(), thin.tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 4


def test_rows_that_were_linked_keep_their_labels_and_others_join_the_nearest():
    angles = np.radians([0, 60, 80, 10, 85])
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    some, labels = (
        np.array([0, 1, 2]),
        np.array([0, 0, 1]),
    )  # the second is nearer to the other's middle, and stays
    assert _spread(unit, some, labels).tolist() == [0, 0, 1, 0, 1]


def test_thinned_ahc_finds_the_same_speakers(expected):
    thin = AHCOptions(max_linked=30)
    found = cluster(expected["embeddings"], expected["active"], thin)
    assert set(np.unique(found.labels)) == {NOBODY, 0, 1, 2, 3}


# --- assignment -----------------------------------------------------------------------------------


def test_constrained_assignment_gives_a_cluster_once_a_window():
    centroids = np.eye(3)[:2]
    embeddings = np.array([[[1, 0.1, 0], [1, 0.2, 0], [0, 0, 1]]])
    talking = np.array([[True, True, False]])
    free = assign(embeddings, talking, centroids, constrained=False)
    np.testing.assert_array_equal(free[0, :2], [0, 0])
    bound = assign(embeddings, talking, centroids, constrained=True)
    np.testing.assert_array_equal(bound, [[0, 1, NOBODY]])


def test_an_embedding_that_is_not_a_number_comes_last():
    embeddings = np.array([[[np.nan] * 2, [1.0, 0.0], [0.9, 0.1]]])
    found = assign(embeddings, np.ones((1, 3), bool), np.eye(2), constrained=True)
    assert set(found[0].tolist()) == {NOBODY, 0, 1}


# --- bounds ---------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    windows=st.integers(1, 12),
    least=st.integers(1, 9),
    extra=st.integers(0, 3),
    method=st.sampled_from(sorted(METHODS)),
    seed=st.integers(0, 999),
)
def test_bounds_are_kept_whenever_there_are_that_many_embeddings(windows, least, extra, method, seed):
    rng = np.random.default_rng(seed)
    active = rng.random((windows, 30, 3)) < rng.random((windows, 1, 3))
    embeddings = rng.normal(size=(windows, 3, 256)).astype(np.float32)
    bounds = Bounds(least, least + extra)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cluster(embeddings, active, METHODS[method], bounds, plda=_plda())
    enough = max(1, active.any(1).sum()) >= least
    assert bool(caught) == (not enough)
    talking = active.any(1)
    present = np.unique(found.labels[talking & (found.labels >= 0)])
    assert len(present) <= bounds.most
    if enough and active.any():
        assert len(present) >= least
    assert (found.labels[~talking] == NOBODY).all()
    assert found.labels.max(initial=0) < len(found.centroids)


def _plda() -> PLDA:
    return PLDA.load(PLDA_FOLDER)


def test_more_speakers_than_a_byte_counts(plda):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(300, 1, 256)).astype(np.float32)
    active = np.ones((300, 10, 1), bool)
    found = cluster(embeddings, active, AHCOptions(), Bounds(200, 200))
    assert len(np.unique(found.labels)) == 200
    assert found.labels.min() == 0


def test_too_few_voices_are_told():
    active = np.zeros((2, 10, 3), bool)
    active[0, :, 0] = True
    embeddings = np.full((2, 3, 256), np.nan)
    embeddings[0, 0] = 1.0
    with pytest.warns(SpeakerCountWarning, match="4 speakers were asked for"):
        found = cluster(embeddings, active, AHCOptions(), Bounds(4))
    np.testing.assert_array_equal(found.labels, [[0, NOBODY, NOBODY], [NOBODY] * 3])


def test_nobody_talks():
    found = cluster(np.full((3, 3, 256), np.nan), np.zeros((3, 10, 3), bool), AHCOptions())
    assert (found.labels == NOBODY).all()
    assert np.isfinite(found.centroids).all()


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        ((0, None, None), "num_speakers"),
        ((2.0, None, None), "num_speakers"),
        ((True, None, None), "num_speakers"),
        ((None, -1, None), "min_speakers"),
        ((None, None, "3"), "max_speakers"),
        ((None, 4, 3), "min_speakers"),
        ((2, 3, None), "num_speakers"),
        ((4, None, 3), "num_speakers"),
    ],
)
def test_impossible_wishes_are_refused(wishes: tuple[Any, ...], named: str):
    with pytest.raises(OptionError, match=named):
        speaker_bounds(*wishes)


def test_bounds_of_wishes():
    assert speaker_bounds() == Bounds(1, np.inf)
    assert speaker_bounds(3) == Bounds(3, 3)
    assert speaker_bounds(None, 2, 5) == Bounds(2, 5)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (AHCOptions, {"threshold": -0.1}),
        (AHCOptions, {"threshold": np.nan}),
        (AHCOptions, {"min_cluster_size": 0}),
        (AHCOptions, {"min_cluster_size": 1.5}),
        (VBxOptions, {"fa": 0}),
        (VBxOptions, {"fb": np.inf}),
        (VBxOptions, {"smoothing": "7"}),
        (VBxOptions, {"max_iterations": 0}),
        (VBxOptions, {"tolerance": -1}),
        (VBxOptions, {"min_prior": 1}),
        (VBxOptions, {"max_linked": None}),
    ],
)
def test_options_are_checked_and_named(kind: Any, wrong: dict[str, Any]):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        kind(**wrong)


def test_vbx_wants_a_plda():
    with pytest.raises(OptionError, match="plda"):
        cluster(np.ones((2, 1, 256)), np.ones((2, 5, 1), bool), VBxOptions())


# --- the PLDA's files -----------------------------------------------------------------------------


def test_a_damaged_plda_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"plda\.npz"):
        PLDA.load(tmp_path)
    (tmp_path / "plda.npz").write_bytes(b"PK\x03\x04 but no archive")
    with pytest.raises(CheckpointError, match=r"plda\.npz"):
        PLDA.load(tmp_path)
    for name, key, value in (
        ("plda.npz", "tr", np.zeros((3, 3))),
        ("plda.npz", "mu", np.full(128, np.nan)),
        ("plda.npz", "psi", np.arange(128.0)),
        ("xvec_transform.npz", "lda", None),
    ):
        for file in ("plda.npz", "xvec_transform.npz"):
            with np.load(PLDA_FOLDER / file) as arrays:
                kept = {**arrays, key: value} if file == name else dict(arrays)
            np.savez(tmp_path / file, **{k: v for k, v in kept.items() if v is not None})
        with pytest.raises(CheckpointError, match=key):
            PLDA.load(tmp_path)

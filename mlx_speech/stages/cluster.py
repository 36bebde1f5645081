"""Which speaker of which window is who: clustering of embeddings.

Rules: ``pipelines/clustering.py`` of pyannote.audio, MIT, Copyright (c) 2021- CNRS,
https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/pipelines/clustering.py

C windows, F frames a window, S speakers a window, D dimensions, n embeddings that are clear enough to train
on, K clusters.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when first used: half of this package's import otherwise

from mlx_speech.errors import OptionError
from mlx_speech.stages.kmeans import kmeans, means
from mlx_speech.stages.ranges import COUNT, NOT_NEGATIVE, POSITIVE, Range, check
from mlx_speech.stages.vbx import PLDA, vbx

NOBODY = -1
"""The label of a window's speaker who belongs to no cluster: silent, or in surplus."""

_DISTANCE = Range("0 to 2", lambda x: 0 <= x <= 2)


class SpeakerCountWarning(UserWarning):
    """A recording held fewer voices than were asked for."""


@dataclass(frozen=True)
class AHCOptions:
    """Agglomerative clustering by centroid linkage of unit embeddings, as pyannote's 3.1 pipeline.

    Args:
        threshold: clusters farther apart than this stay apart.
        min_cluster_size: smaller clusters join the nearest larger one; at most a tenth of the embeddings.
        max_linked: embeddings linked at most; the others, as long recordings have, join the nearest
            cluster. Bounds memory (256 MB at 8000), which grows with the square.
    """

    threshold: float = 0.7045654963945799
    min_cluster_size: int = 12
    max_linked: int = 8000

    def __post_init__(self) -> None:
        check(self, {"threshold": _DISTANCE, "min_cluster_size": COUNT, "max_linked": COUNT})


@dataclass(frozen=True)
class VBxOptions:
    """VBx from a start by agglomerative clustering, as pyannote's community-1 pipeline.

    Args:
        threshold: of the start; too many clusters are better than too few.
        fa, fb: weights of :func:`mlx_speech.stages.vbx.vbx`. A higher ``fb`` finds fewer speakers.
        smoothing, max_iterations, tolerance: of the same.
        min_prior: speakers with a lower prior are given up.
        max_linked: as in :class:`AHCOptions`.
    """

    threshold: float = 0.6
    fa: float = 0.07
    fb: float = 0.8
    smoothing: float = 7.0
    max_iterations: int = 20
    tolerance: float = 1e-4
    min_prior: float = 1e-7
    max_linked: int = 8000

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("fa", "fb", "smoothing"), POSITIVE)
        ranges |= {"threshold": _DISTANCE, "max_iterations": COUNT, "max_linked": COUNT}
        ranges |= {"tolerance": NOT_NEGATIVE, "min_prior": Range("0 or more, below 1", lambda x: 0 <= x < 1)}
        check(self, ranges)


class Bounds(NamedTuple):
    """How many speakers are allowed."""

    least: int = 1
    most: float = math.inf


class Clusters(NamedTuple):
    """Who is who.

    Args:
        labels: (C, S) int64, the cluster of each window's speakers, ``NOBODY`` for none.
        centroids: (K, D) float64, mean embeddings.
    """

    labels: np.ndarray
    centroids: np.ndarray


def speaker_bounds(num: int | None = None, least: int | None = None, most: int | None = None) -> Bounds:
    """The bounds that three optional wishes make; ``num`` goes before the others.

    Raises:
        OptionError: a wish below 1, or that contradicts another.
    """
    for name, value in (("num_speakers", num), ("min_speakers", least), ("max_speakers", most)):
        if value is None:
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise OptionError(f"{name} is {value!r}: give a whole number from 1 on, or None")
    if num is not None and ((least or num) > num or (most or num) < num):
        raise OptionError(f"num_speakers is {num}: min_speakers or max_speakers contradicts it")
    bounds = Bounds(num or least or 1, num or most or math.inf)
    if bounds.least > bounds.most:
        raise OptionError(f"min_speakers is {least}: above max_speakers ({most})")
    return bounds


def cluster(
    embeddings: np.ndarray,
    active: np.ndarray,
    method: AHCOptions | VBxOptions,
    bounds: Bounds = Bounds(),  # noqa: B008  (immutable)
    *,
    plda: PLDA | None = None,
    min_active_ratio: float = 0.2,
) -> Clusters:
    """Find the speakers of a recording.

    Args:
        embeddings: (C, S, D) floating; NaN where there is none. Silent speakers' are not looked at.
        active: (C, F, S) bool, when each window's speakers talk.
        method: how.
        bounds: how many there may be. Kept whenever the recording has that many embeddings at all.
        plda: VBx's.
        min_active_ratio: part of a window that a speaker must talk alone for clusters to be made of them.

    Returns:
        labels and centroids. A silent speaker's label is ``NOBODY``; so is that of a speaker in surplus of
        the clusters where each is given at most once a window.

    Warns:
        SpeakerCountWarning: fewer embeddings than speakers asked for.
    """
    talking = np.asarray(active.any(1))
    usable = talking & np.isfinite(embeddings).all(2)
    train = usable & clear(active, min_active_ratio)
    if 1 < bounds.least > train.sum():
        train = usable  # whatever there is, to keep the bounds
    chosen = embeddings[train]
    if max(1, len(chosen)) < bounds.least:
        warnings.warn(
            f"{bounds.least} speakers were asked for, but the recording has voice for {len(chosen)}",
            SpeakerCountWarning,
            stacklevel=2,
        )
    bounds = Bounds(min(bounds.least, max(1, len(chosen))), bounds.most)
    if len(chosen) < 2 or bounds.most == 1:
        heard = chosen if len(chosen) else embeddings[usable]
        mean = heard.mean(0, keepdims=True) if len(heard) else np.zeros((1, embeddings.shape[2]))
        return Clusters(np.where(talking, 0, NOBODY), mean.astype(np.float64))
    if isinstance(method, VBxOptions):
        if plda is None or len(plda.mean1) != embeddings.shape[2]:
            raise OptionError(
                "plda is None or not for these embeddings: VBx needs the one trained on them; AHC needs none"
            )
        centroids, constrained = _by_vbx(chosen, method, bounds, plda)
    else:
        centroids, constrained = _by_ahc(chosen, method, bounds), False
    labels = assign(embeddings, talking, centroids, constrained=constrained)
    labels[~talking] = NOBODY
    if bounds.least > 1:
        labels = _all_present(labels, embeddings, usable, centroids)
    return Clusters(labels, centroids)


def clear(active: np.ndarray, ratio: float) -> np.ndarray:
    """Which speakers talk alone for at least ``ratio`` of their window: (C, F, S) bool → (C, S) bool."""
    alone = (active & (active.sum(2, keepdims=True) == 1)).sum(1)
    return alone >= ratio * active.shape[1]


def linked(embeddings: np.ndarray, threshold: float, max_linked: int) -> np.ndarray:
    """Centroid linkage of unit embeddings cut at a distance: (n, D) → (n,) labels from 0 on."""
    unit = unit_rows(embeddings)
    some = _thinned(len(unit), max_linked)
    labels = scipy.cluster.hierarchy.fcluster(_tree(unit[some]), threshold, criterion="distance")
    return _spread(unit, some, np.unique(labels, return_inverse=True)[1])


def _tree(unit: np.ndarray) -> np.ndarray:
    """Centroid linkage of unit rows, scipy's (n - 1, 4).

    The distances come from matrix products in float64, a few rows at a time: equal to scipy's own to 3e-15, and
    three times as fast, which halves the whole.
    """
    rows = unit.astype(np.float64)
    squares = np.einsum("nd,nd->n", rows, rows)
    distances = np.empty(len(rows) * (len(rows) - 1) // 2)
    end = 0
    for first in range(0, len(rows), _ROWS):
        block = rows[first : first + _ROWS] @ rows[first:].T
        block = np.maximum(squares[first : first + _ROWS, None] + squares[first:] - 2 * block, 0.0)
        for n, row in enumerate(np.sqrt(block, out=block)):
            start, end = end, end + len(row) - n - 1
            distances[start:end] = row[n + 1 :]
    return scipy.cluster.hierarchy.linkage(distances, method="centroid")


_ROWS = 1024  # rows of distances computed together: bounds memory


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1, in the type they came in."""
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _thinned(n: int, most: int) -> np.ndarray:
    """At most ``most`` of ``n`` indices, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


def _spread(unit: np.ndarray, some: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels of all rows from those of some: the others join the nearest cluster."""
    if len(some) == len(unit):
        return labels
    every = scipy.spatial.distance.cdist(unit, means(unit[some], labels), "cosine").argmin(1)
    every[some] = labels
    return every


def _by_vbx(chosen: np.ndarray, options: VBxOptions, bounds: Bounds, plda: PLDA) -> tuple[np.ndarray, bool]:
    """Centroids by VBx, and whether a cluster may be given only once a window."""
    start = linked(chosen, options.threshold, options.max_linked)
    gamma, priors, _ = vbx(
        plda.project(chosen),
        plda.psi,
        start,
        fa=options.fa,
        fb=options.fb,
        smoothing=options.smoothing,
        max_iterations=options.max_iterations,
        tolerance=options.tolerance,
    )
    weights = gamma[:, priors > options.min_prior]
    found = weights.shape[1]
    wanted = int(min(max(found, bounds.least), bounds.most))
    if found == wanted:
        return weights.T @ chosen / weights.sum(0)[:, None], True
    return means(chosen, kmeans(unit_rows(chosen), wanted)), False


def _by_ahc(chosen: np.ndarray, options: AHCOptions, bounds: Bounds) -> np.ndarray:
    """Centroids by agglomerative clustering, k-means where no cut gives a number within bounds."""
    unit = unit_rows(chosen)
    some = _thinned(len(unit), options.max_linked)
    size = min(options.min_cluster_size, max(1, round(0.1 * len(some))))
    tree = _tree(unit[some])
    raw = scipy.cluster.hierarchy.fcluster(tree, options.threshold, criterion="distance")
    found = int((np.bincount(raw) >= size).sum())
    wanted = int(min(max(found, bounds.least), bounds.most))
    if found != wanted:
        step = cut_for(tree, wanted, size, options.threshold)
        if step is None:
            return means(chosen, kmeans(unit, wanted))
        steps = tree.copy()
        steps[:, 2] = np.arange(len(tree))  # cut after so many mergers instead of at a distance
        raw = scipy.cluster.hierarchy.fcluster(steps, step, criterion="distance")
    return means(chosen, _spread(unit, some, absorbed(unit[some], raw, size)))


def cut_for(tree: np.ndarray, wanted: int, size: int, threshold: float) -> int | None:
    """The merger after which a tree has ``wanted`` clusters of ``size`` or more, nearest to ``threshold``."""
    n = len(tree) + 1
    large = np.concatenate([np.full(n, size <= 1), tree[:, 3] >= size]).astype(np.int64)
    parts = tree[:, :2].astype(np.int64)
    counts = large[:n].sum() + np.cumsum(large[n:] - large[parts].sum(1))
    order = np.argsort(np.abs(tree[:, 2] - threshold), kind="stable")
    fitting = order[(tree[order, 3] >= size) & (counts[order] == wanted)]
    return int(fitting[0]) if len(fitting) else None


def absorbed(unit: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Let clusters below ``size`` join the nearest larger one: (n,) labels from 0 on, without gaps."""
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    large = counts >= size
    if not large.any():
        return np.zeros_like(labels)
    centres = means(unit, labels)
    target = np.arange(len(counts))
    if not large.all():
        nearest = scipy.spatial.distance.cdist(centres[large], centres[~large], "cosine").argmin(0)
        target[~large] = np.flatnonzero(large)[nearest]
    return np.unique(target[labels], return_inverse=True)[1]


def assign(
    embeddings: np.ndarray, talking: np.ndarray, centroids: np.ndarray, *, constrained: bool
) -> np.ndarray:
    """Give each window's speakers the cluster with the most similar centroid (cosine).

    Args:
        embeddings: (C, S, D); NaN counts as least similar.
        talking: (C, S) bool.
        centroids: (K, D).
        constrained: a cluster at most once a window, the best sum over the window's speakers; those in
            surplus get ``NOBODY``, and those who are silent come last.

    Returns:
        (C, S) int64.
    """
    windows, speakers, _ = embeddings.shape
    rows = embeddings.reshape(windows * speakers, -1)
    similar = 2 - scipy.spatial.distance.cdist(rows, centroids, "cosine").reshape(windows, speakers, -1)
    heard = similar[talking]
    floor = float(np.nanmin(heard)) if np.isfinite(heard).any() else 0.0
    if not constrained:
        return np.argmax(np.nan_to_num(similar, nan=floor), axis=2)
    similar = np.where(talking[:, :, None], np.nan_to_num(similar, nan=floor), floor - 1)
    labels = np.full((windows, speakers), NOBODY)
    for window, gain in enumerate(similar):
        who, where = scipy.optimize.linear_sum_assignment(gain, maximize=True)
        labels[window, who] = where
    return labels


def _all_present(
    labels: np.ndarray, embeddings: np.ndarray, usable: np.ndarray, centroids: np.ndarray
) -> np.ndarray:
    """Give each cluster that nobody got the most similar embedding of a cluster that can spare one."""
    count = len(centroids)
    sizes = np.bincount(labels[usable & (labels >= 0)], minlength=count)
    if sizes.all():
        return labels
    labels = labels.copy()
    places = np.argwhere(usable)
    distances = scipy.spatial.distance.cdist(embeddings[usable], centroids, "cosine")
    for missing in np.flatnonzero(sizes == 0):
        own = labels[usable]
        spare = (own < 0) | (sizes[own] > 1)
        if not spare.any():
            break
        best = int(np.where(spare, distances[:, missing], np.inf).argmin())
        if own[best] >= 0:
            sizes[own[best]] -= 1
        labels[tuple(places[best])] = missing
        sizes[missing] = 1
    return labels

"""k-means that draws as scikit-learn draws, so that clusters are pyannote.audio's without that dependency.

Rule: ``KMeans`` of scikit-learn with its defaults (BSD-3-Clause),
https://github.com/scikit-learn/scikit-learn/blob/1.9.1/sklearn/cluster/_kmeans.py

n rows, D dimensions, K labels.
"""

from __future__ import annotations

import math

import numpy as np
import scipy  # its parts are loaded when first used: half of this package's import otherwise

_RESTARTS, _SEED = 3, 42  # pyannote.audio's
_MOST_STEPS = 300


def means(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean row of each label from 0 to K - 1, (K, D) float64; every label must occur."""
    return np.stack([rows[labels == k].mean(0) for k in range(int(labels.max()) + 1)]).astype(np.float64)


def kmeans(rows: np.ndarray, count: int) -> np.ndarray:
    """Seeded k-means (greedy k-means++, Lloyd), drawn as scikit-learn draws: (n, D) → (n,) labels.

    Every label from 0 to ``count`` - 1 occurs; ``rows`` must be at least as many.
    """
    random = np.random.RandomState(_SEED)  # the generator that scikit-learn uses, for equal starts
    rows = rows - rows.mean(0)
    best: tuple[float, np.ndarray] | None = None
    for _ in range(_RESTARTS):
        labels, inertia = _lloyd(rows, _seeds(rows, count, random))
        if best is None or inertia < best[0]:
            best = inertia, labels
    assert best is not None
    return best[1]


def _seeds(rows: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """First centres: each the best of a few drawn with the chance of their squared distance."""
    n = len(rows)
    chosen = [int(random.choice(n, p=np.full(n, 1 / n)))]
    nearest = scipy.spatial.distance.cdist(rows[chosen], rows, "sqeuclidean")[0]
    for _ in range(1, count):
        drawn = random.uniform(size=2 + int(math.log(count))) * nearest.sum()
        candidates = np.minimum(np.searchsorted(np.cumsum(nearest), drawn), n - 1)
        then = np.minimum(nearest, scipy.spatial.distance.cdist(rows[candidates], rows, "sqeuclidean"))
        winner = int(then.sum(1).argmin())
        chosen.append(int(candidates[winner]))
        nearest = then[winner]
    return rows[chosen]


def _lloyd(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Labels once they no longer change, and the sum of squared distances."""
    labels = np.full(len(rows), -1)
    distances = np.zeros((len(rows), len(centres)))
    for _ in range(_MOST_STEPS):
        distances = scipy.spatial.distance.cdist(rows, centres, "sqeuclidean")
        now = _filled(distances)
        if np.array_equal(now, labels):
            break
        labels = now
        centres = means(rows, labels)
    return labels, float(distances[np.arange(len(rows)), labels].sum())


def _filled(distances: np.ndarray) -> np.ndarray:
    """Nearest centres; one that would have no row takes the row farthest from its own."""
    labels = distances.argmin(1)
    own = distances.min(1)
    for empty in np.flatnonzero(np.bincount(labels, minlength=distances.shape[1]) == 0):
        sizes = np.bincount(labels, minlength=distances.shape[1])
        taken = int(np.where(sizes[labels] > 1, own, -1.0).argmax())
        labels[taken], own[taken] = empty, 0.0
    return labels

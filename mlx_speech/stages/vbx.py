"""VBx: how many speakers there are and who is who, from embeddings in the space of a PLDA.

F. Landini, J. Profant, M. Diez, L. Burget: Bayesian HMM clustering of x-vector sequences (VBx) in speaker
diarization, 2020, https://arxiv.org/abs/2012.14952; the numbers in brackets are its equations. Without the
HMM, as pyannote.audio uses it: https://github.com/pyannote/pyannote-audio/blob/4.0.7/src/pyannote/audio/utils/vbx.py
(Apache-2.0).

N embeddings, D dimensions of the PLDA space, K speakers.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy  # its parts are loaded when first used: half of this package's import otherwise

from mlx_speech.errors import CheckpointError

_FILES = ("plda.npz", "xvec_transform.npz")
_SHAPES = {
    "mu": (128,),
    "tr": (128, 128),
    "psi": (128,),
    "mean1": (256,),
    "mean2": (128,),
    "lda": (256, 128),
}


@dataclass(frozen=True, eq=False)
class PLDA:
    """Probabilistic linear discriminant analysis: a space where speakers differ along independent axes.

    Args:
        mean1, lda, mean2: centre, project from 256 to 128 dimensions, centre again.
        mu, tr: centre once more and rotate: within-speaker covariance becomes the identity.
        psi: (128,) between-speaker variance of each axis, falling.
    """

    mean1: np.ndarray = field(repr=False)
    lda: np.ndarray = field(repr=False)
    mean2: np.ndarray = field(repr=False)
    mu: np.ndarray = field(repr=False)
    tr: np.ndarray = field(repr=False)
    psi: np.ndarray = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> PLDA:
        """Read ``plda.npz`` and ``xvec_transform.npz``, as the original's checkpoint has them.

        Raises:
            CheckpointError: a file cannot be read; an array is missing, of another shape, or not finite.
        """
        arrays: dict[str, np.ndarray] = {}
        for path in (folder / name for name in _FILES):
            try:
                with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                    arrays |= {key: file[key].astype(np.float64) for key in file}
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise CheckpointError(f"{path}: cannot be read as a PLDA ({error})") from error
        for key, shape in _SHAPES.items():
            if key not in arrays or arrays[key].shape != shape or not np.isfinite(arrays[key]).all():
                found = arrays[key].shape if key in arrays else "missing"
                raise CheckpointError(f"{folder}: {key} is {found}, expected {shape}, all finite")
        if (np.diff(arrays["psi"]) > 0).any() or arrays["psi"][-1] <= 0:
            raise CheckpointError(f"{folder}: psi must be positive and fall")
        return cls(**{key: arrays[key] for key in _SHAPES})

    def whiten(self, embeddings: np.ndarray) -> np.ndarray:
        """(N, 256) embeddings → (N, 128) float64 of length √128."""
        wide, narrow = self.lda.shape
        unit = math.sqrt(wide) * _unit(embeddings - self.mean1)
        return math.sqrt(narrow) * _unit(unit @ self.lda - self.mean2)

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """(N, 256) embeddings → (N, 128) float64 with unit variance within and ``psi`` between speakers.

        The original solves an eigenvalue problem here whose solution is ``tr`` itself, up to each axis's
        sign, which nothing depends on.
        """
        return (self.whiten(embeddings) - self.mu) @ self.tr.T


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vbx(
    features: np.ndarray,
    phi: np.ndarray,
    start: np.ndarray,
    *,
    fa: float = 0.07,
    fb: float = 0.8,
    smoothing: float = 7.0,
    max_iterations: int = 20,
    tolerance: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Variational Bayes over speakers: those that explain nothing lose their prior.

    Args:
        features: (N, D) with unit within-speaker covariance.
        phi: (D,) between-speaker variance.
        start: (N,) int, a first guess, 0 to K - 1.
        fa: weight of what is heard against the priors.
        fb: the higher, the fewer speakers.
        smoothing: how much surer of the first guess than of other speakers.
        max_iterations: the most steps.
        tolerance: least gain of a step.

    Returns:
        responsibilities (N, K), priors (K,), and the bound after each step.
    """
    guess = np.zeros((len(start), int(start.max()) + 1))
    guess[np.arange(len(start)), start] = smoothing
    gamma = scipy.special.softmax(guess, axis=1)
    priors = np.full(gamma.shape[1], 1 / gamma.shape[1])
    constant = -0.5 * ((features**2).sum(1, keepdims=True) + features.shape[1] * math.log(2 * math.pi))
    rho = features * np.sqrt(phi)  # (18)
    bounds: list[float] = []
    for _ in range(max_iterations):
        precision = 1 / (1 + fa / fb * gamma.sum(0)[:, None] * phi)  # (17)
        alpha = fa / fb * precision * (gamma.T @ rho)  # (16)
        heard = fa * (rho @ alpha.T - 0.5 * (precision + alpha**2) @ phi + constant)  # (23)
        joint = heard + np.log(priors + 1e-8)
        evidence = scipy.special.logsumexp(joint, axis=1, keepdims=True)
        gamma = np.exp(joint - evidence)
        priors = gamma.sum(0) / gamma.sum()
        bounds.append(float(evidence.sum() + fb * 0.5 * (np.log(precision) - precision - alpha**2 + 1).sum()))
        if len(bounds) > 1 and bounds[-1] - bounds[-2] < tolerance:  # (25)
            break
    return gamma, priors, bounds

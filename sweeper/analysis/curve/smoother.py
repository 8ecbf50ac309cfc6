"""A smooth curve through scattered points: a Gaussian process with a grid over its hyperparameters.

======  ============================================================================================
symbol  meaning
======  ============================================================================================
x, z    place and height of a point; z is standardized
f       Gaussian process over x, covariance s² k(|x − x'| / l) with k the Matern 5/2 correlation
l, r    length scale of f, and variance of the scatter of one point over s²
======  ============================================================================================

Source: Rasmussen & Williams 2006, eq. 2.25, 2.26 (posterior), 4.17 (Matern), 5.8 (marginal likelihood); percentile
interval: Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]

MAX_GROUPS = 120
# grids of l / range(x) and of r: first, last, number
LENGTHS = (1 / 15, 2.0, 12)
RATIOS = (1e-3, 1e3, 19)


@dataclass(frozen=True)
class Smoother:
    """Gaussian process over means of neighbouring points, with a posterior over (l, r).

    Attributes:
        x: Mean place per group of points.
        group: Group per point.
        settings: l, r, s² and posterior probability, one row each.
    """

    x: Array
    group: NDArray[np.int64]
    settings: Array

    def curve(self, grid: Array, z: Array, counts: Array, setting: Array) -> tuple[Array, Array]:
        """Return posterior mean and variance of f on `grid`, with each point taken `counts` times.

        Source: Rasmussen & Williams 2006, eq. 2.25 and 2.26; the mean of w points scatters by s² r / w.
        """
        amplitude = setting[2]
        cross, factor, height = self._solve(grid, z, counts, setting)
        explained = np.einsum("ij,ji->i", cross, cho_solve(factor, cross.T))
        return cross @ height, amplitude * np.maximum(1.0 - explained, 0.0)

    def mean(self, grid: Array, z: Array, counts: Array, setting: Array) -> Array:
        """Return the posterior mean of f on `grid`; see `curve`."""
        cross, _, height = self._solve(grid, z, counts, setting)
        return cross @ height

    def _solve(self, grid: Array, z: Array, counts: Array, setting: Array) -> tuple[Array, tuple[Array, bool], Array]:
        # covariance of grid and groups, Cholesky factor of the groups' covariance, and its solution for their heights
        length, ratio = setting[:2]
        weight = np.bincount(self.group, counts, len(self.x))
        total = np.bincount(self.group, counts * z, len(self.x))
        seen = weight > 0
        x = self.x[seen]
        factor = cho_factor(_matern(x, x, length) + np.diag(ratio / weight[seen]), lower=True)
        return _matern(grid, x, length), factor, cho_solve(factor, total[seen] / weight[seen])


def _matern(a: Array, b: Array, length: float) -> Array:
    # Rasmussen & Williams 2006, eq. 4.17 (Matern 5/2)
    d = math.sqrt(5.0) / length * np.abs(a[:, None] - b[None, :])
    return (1.0 + d + d * d / 3.0) * np.exp(-d)


def fit_smoother(x: Array, z: Array, limit: int = MAX_GROUPS) -> Smoother:
    """Return the process for ascending `x`, with flat priors on log l and log r, and the best s² for each pair.

    Above `limit` points it is fitted to the mean per distinct place (equal to 6 digits). If there are too many places,
    it is fitted to means of neighbours, in groups of equal size.

    Source: Rasmussen & Williams 2006, eq. 5.8, with s² = zᵀ(K + r)⁻¹z / n inserted. A mean of w points scatters by
    r / w, so √w multiplies the rows and columns of K and z.
    """
    level = np.unique(x.round(6), return_inverse=True)[1]
    groups = min(len(x), limit)
    group = np.arange(len(x)) * groups // len(x)
    if len(x) > limit > level[-1]:
        group, groups = level, int(level[-1]) + 1
    size = np.bincount(group)
    root = np.sqrt(size * groups / len(x))
    centre, mean = np.bincount(group, x) / size, np.bincount(group, z) / size
    rows: list[tuple[float, float, float, float]] = []
    for length in float(x[-1] - x[0]) * np.geomspace(*LENGTHS):
        spectrum, basis = np.linalg.eigh(_matern(centre, centre, length) * np.outer(root, root))
        projected = (basis.T @ (root * mean)) ** 2
        for ratio in np.geomspace(*RATIOS):
            variances = np.maximum(spectrum, 0.0) + ratio
            amplitude = float(np.mean(projected / variances))
            likelihood = -0.5 * float(np.log(variances).sum()) - 0.5 * groups * math.log(amplitude)
            rows.append((length, ratio * len(x) / groups, amplitude, likelihood))
    settings = np.array(rows)
    posterior = np.exp(settings[:, 3] - settings[:, 3].max())
    settings[:, 3] = posterior / posterior.sum()
    return Smoother(centre, group, settings)


def average_curve(smoother: Smoother, grid: Array, z: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of f on `grid`, with (l, r) of non-negligible weight integrated out."""
    settings = smoother.settings[smoother.settings[:, 3] > 1e-3]
    weights = settings[:, 3] / settings[:, 3].sum()
    curves = np.array([smoother.curve(grid, z, np.ones(len(z)), s) for s in settings])
    mean = weights @ curves[:, 0]
    return mean, np.sqrt(weights @ (curves[:, 1] + (curves[:, 0] - mean) ** 2))


def bootstrap_argmax(smoother: Smoother, grid: Array, z: Array, seed: int, draws: int) -> Array:
    """Return the argmax of f over `grid` per draw of points with replacement, with a new (l, r) per draw."""
    rng = np.random.default_rng(seed)
    n = len(z)
    best = np.empty(draws)
    picked = rng.choice(len(smoother.settings), draws, p=smoother.settings[:, 3])
    for i in range(draws):
        counts = rng.multinomial(n, np.full(n, 1 / n)).astype(float)
        best[i] = grid[int(np.argmax(smoother.mean(grid, z, counts, smoother.settings[picked[i]])))]
    return best

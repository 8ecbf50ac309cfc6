"""Isotonic against unimodal: does a curve that rises and then falls fit the levels better than a monotone one?

======  ============================================================================================
symbol  meaning, for L levels of noise
======  ============================================================================================
y, w    mean objective of a level and its weight, replicates / variance
E(f)    Σ w (y − f)² of the best monotone f, or of the best unimodal f (first rising, then falling)
T       E(monotone) − E(unimodal) >= 0
======  ============================================================================================

A residual bootstrap gives the null distribution of T. It adds residuals to the best monotone fit: standardized
residuals of all levels, drawn with replacement and scaled by the target level's standard deviation. The draw's own
variances weight its T. First, neighbouring blocks of the fit that differ by less than two standard errors are pooled.
A monotone fit turns a noisy plateau into steps, and without pooling the bootstrap would reject plateaus too often.

Collapses need no floor here: their levels scatter and get little weight. Scatter is that of replicates of one
configuration about their mean. The effect of other knobs at a noise is not scatter, and would hide or fake a hump.
Configurations of a level that agree in all knobs count as one.

Source: isotonic fit by pooling adjacent violators, Barlow et al. 1972; all prefixes in one pass, Stout 2008, Unimodal
regression via prefix isotonic regression, doi 10.1016/j.csda.2008.08.005; residual bootstrap, Efron & Tibshirani 1993;
pooling of blocks: Schell & Singh 1997, The reduced monotonic regression method, J. Am. Stat. Assoc. 92, 128.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from sweeper.analysis.evidence.cells import Array, Cells
from sweeper.formatting import pluralize

MIN_LEVELS = 5
MIN_REPLICATES = 3
DIGITS = 6
APART = 2.0


@dataclass(frozen=True)
class ShapeTest:
    """Result of the test of isotonic against unimodal; if impossible, the numbers are None.

    Attributes:
        n: Number of trials, `levels` of levels with three trials and a replicate, `draws` of bootstrap draws.
        statistic: T over E(monotone): the share of the misfit that a hump removes.
        mode_noise: Noise of the unimodal fit's highest level.
        p: One-sided p value: share of the draws with at least this T.
        reason: Why there is no result, else empty.
    """

    n: int
    levels: int
    draws: int = 0
    statistic: float | None = None
    mode_noise: float | None = None
    p: float | None = None
    reason: str = ""


def compare_shapes(cells: Cells, noise: str, *, draws: int = 500, seed: int = 0) -> ShapeTest:
    """Return the test of unimodal against monotone along a noise; see the module.

    Args:
        cells: Configurations in order of that noise.
        noise: Name of the definition.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap.
    """
    x, groups = _replicates(cells, cells.noise[noise])
    n = sum(len(v) for g in groups for v in g)
    if len(groups) < MIN_LEVELS:
        why = (
            f"{pluralize(len(groups), 'noise has', 'noises have')} {MIN_REPLICATES} or more trials "
            f"with replicates, the test needs {MIN_LEVELS}"
        )
        return ShapeTest(n, len(groups), reason=why)
    size = np.array([sum(len(v) for v in g) for g in groups], dtype=float)
    freedom = np.array([sum(len(v) - 1 for v in g) for g in groups], dtype=float)
    y = np.array([np.concatenate(g).mean() for g in groups])
    squares = np.array([sum(float(((v - v.mean()) ** 2).sum()) for v in g) for g in groups])
    if not np.median(squares) > 0:
        return ShapeTest(n, len(groups), reason="all replicates are equal")
    sd = _spreads(squares, freedom)
    weight = size / sd**2
    unimodal, mode = unimodal_error(y, weight)
    monotone, rising = monotone_error(y, weight)
    fit = fit_reduced_monotone(y if rising else -y, weight) * (1 if rising else -1)
    residuals = np.concatenate(
        [
            (v - v.mean()) / s * np.sqrt(len(v) / (len(v) - 1))
            for g, s in zip(groups, sd, strict=True)
            for v in g
            if len(v) > 1
        ]
    )
    observed = monotone - unimodal
    drawn = _draw_null(fit, sd, (size, freedom), residuals, draws, np.random.default_rng(seed))
    p = (1 + sum(t >= observed for t in drawn)) / (1 + draws)
    share = observed / monotone if monotone > 0 else 0.0
    return ShapeTest(n, len(groups), draws, share, float(np.exp(x[mode])), p)


def _spreads(squares: Array, freedom: Array) -> Array:
    # three replicates give a poor variance, so two degrees of freedom shrink it towards the median level's
    usual = np.median(squares / freedom, axis=-1, keepdims=True)
    return np.sqrt((squares + 2 * usual) / (freedom + 2))


def _draw_null(
    fit: Array, sd: Array, sizes: tuple[Array, Array], residuals: Array, draws: int, rng: np.random.Generator
) -> list[float]:
    """Return T per draw; the weights come from the draw's own replicates, as for the observed T."""
    means, squares = np.empty((draws, len(fit))), np.empty((draws, len(fit)))
    size, freedom = sizes
    for k, r in enumerate(size.astype(int).tolist()):
        level = sd[k] * rng.choice(residuals, (draws, r))
        means[:, k] = level.mean(axis=1)
        squares[:, k] = level.var(axis=1, ddof=1) * freedom[k]
    weights = size / np.maximum(_spreads(squares, freedom), 1e-12) ** 2
    return [_statistic(fit + m, w) for m, w in zip(means, weights, strict=True)]


def _replicates(cells: Cells, x: Array) -> tuple[Array, list[list[Array]]]:
    """Return the place of each level and its trials per configuration; equal knobs count as one configuration."""
    _, level = np.unique(x.round(DIGITS), return_inverse=True)
    knobs = np.column_stack([level, *(v.round(DIGITS) for v in cells.factors.values())])
    _, same = np.unique(knobs, axis=0, return_inverse=True)
    same = same.reshape(-1)
    groups: list[tuple[float, list[Array]]] = []
    for k in range(int(level.max(initial=-1)) + 1):
        at = np.flatnonzero(level == k)
        values = [cells.value[np.isin(cells.owner, at[same[at] == s])] for s in np.unique(same[at])]
        if sum(map(len, values)) >= MIN_REPLICATES and any(len(v) > 1 for v in values):
            groups.append((float(x[at].mean()), values))
    return np.array([place for place, _ in groups]), [values for _, values in groups]


def _statistic(y: Array, weight: Array) -> float:
    return monotone_error(y, weight)[0] - unimodal_error(y, weight)[0]


def monotone_error(y: Array, weight: Array) -> tuple[float, bool]:
    """Return E of the best monotone fit and whether that fit rises."""
    up, down = prefix_errors(y, weight)[-1], prefix_errors(-y, weight)[-1]
    return min(up, down), up <= down


def unimodal_error(y: Array, weight: Array) -> tuple[float, int]:
    """Return E of the best unimodal fit and the position of its top."""
    left, right = prefix_errors(y, weight), prefix_errors(y[::-1], weight[::-1])[::-1]
    total = [a + b for a, b in zip(left, right, strict=True)]
    k = min(range(len(total)), key=total.__getitem__)
    # the fit rises over y[:k] and falls over y[k:], so its top is the higher side of the boundary
    tops = [i for i in (k - 1, k) if 0 <= i < len(y)]
    return total[k], max(tops, key=lambda i: y[i])


def prefix_errors(y: Array, weight: Array) -> list[float]:
    """Return E of the best non-decreasing fit of y[:k] for k = 0 … L.

    Source: Stout 2008: pool adjacent violators from the left; the blocks' errors sum to E of the prefix.
    """
    blocks: list[tuple[float, float, float, float]] = []  # mean, weight, error of the block, error of the prefix
    out = [0.0]
    for value, w in zip(y.tolist(), weight.tolist(), strict=True):
        mean, error = value, 0.0
        while blocks and blocks[-1][0] >= mean:
            other, mass, lost, _ = blocks.pop()
            error += lost + w * mass / (w + mass) * (mean - other) ** 2
            mean = (w * mean + mass * other) / (w + mass)
            w += mass
        before = blocks[-1][3] if blocks else 0.0
        blocks.append((mean, w, error, before + error))
        out.append(before + error)
    return out


def fit_reduced_monotone(y: Array, weight: Array, least: float = APART) -> Array:
    """Return the best non-decreasing fit, with blocks pooled until neighbours are `least` standard errors apart.

    Args:
        y: Heights of the levels.
        weight: Their inverse variances.
        least: Minimum distance of neighbours; 0 yields the isotonic fit itself.
    """
    from scipy.optimize import isotonic_regression

    fit = np.asarray(isotonic_regression(y, weights=weight).x, dtype=float)
    cuts = np.flatnonzero(np.diff(fit) > 0) + 1
    blocks = [(float(np.average(p, weights=w)), float(w.sum()), len(p)) for p, w in
              zip(np.split(y, cuts), np.split(weight, cuts), strict=True)]  # fmt: skip
    while len(blocks) > 1:
        gaps = [(b[0] - a[0]) / math.sqrt(1 / a[1] + 1 / b[1]) for a, b in itertools.pairwise(blocks)]
        k = min(range(len(gaps)), key=gaps.__getitem__)
        if gaps[k] >= least:
            break
        (m, v, i), (n, w, j) = blocks[k : k + 2]
        blocks[k : k + 2] = [((m * v + n * w) / (v + w), v + w, i + j)]
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks])

"""The sampler's own best noise and its interval, on losses with a known optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sweeper.explanation import FEWEST, LEVELS, best_noise

BEST = 1e-2


def problem(n: int, seed: int, scatter: float = 0.15, depth: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Log noises over 1e-4 to 1, and losses: a dip at BEST of width 1.2, a cliff beyond ten times BEST."""
    rng = np.random.default_rng(seed)
    phi = rng.uniform(math.log(1e-4), 0.0, n)
    x = phi - math.log(BEST)
    dip = -depth * np.exp(-0.5 * (x / 1.2) ** 2)
    return phi, dip + scatter * rng.standard_normal(n) + np.where(x > math.log(10), 100.0 * depth, 0.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says_and_is_narrow() -> None:
    found = [best_noise(*problem(40, seed)) for seed in range(20)]
    assert np.mean([f is not None and f.low <= BEST <= f.high for f in found]) >= 0.75
    assert np.median([f.high / f.low for f in found if f]) < 6
    assert all(f and f.low <= f.best <= f.high for f in found)


def test_without_an_effect_the_interval_is_wide() -> None:
    widths = [f.high / f.low for s in range(5) if (f := best_noise(*problem(40, s, depth=0.0)))]
    assert len(widths) == 5
    assert np.median(widths) > 50


def test_order_and_scale_of_the_losses_do_not_matter() -> None:
    phi, losses = problem(50, 0)
    one, two = best_noise(phi, losses), best_noise(phi[::-1], 1e3 * losses[::-1] - 7.0)
    assert one is not None
    assert two is not None
    assert (two.best, two.low, two.high) == pytest.approx((one.best, one.low, one.high))


def test_too_little_determines_nothing() -> None:
    phi, losses = problem(FEWEST, 0)
    assert best_noise(phi, losses) is not None
    assert best_noise(phi[1:], losses[1:]) is None
    assert best_noise(phi, np.ones(FEWEST)) is None
    levels = np.resize(np.arange(LEVELS - 1.0), 20)
    assert best_noise(levels, np.arange(20.0)) is None

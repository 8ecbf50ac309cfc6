"""The ends of the best noise's interval: cut before worse noises, kept where one collapse stands among good."""

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from sweeper.analysis.curve.interval import holm, trim_interval
from sweeper.analysis.recommend import recommend
from sweeper.analysis.regime import fit_regime
from tests.support.trial_rows import BEST, sweep, table, trial


def points(n: int = 24, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = np.linspace(-3, 3, n)
    return x, 0.03 - 0.002 * x**2 + 0.003 * rng.normal(size=n)


def test_holm_rejects_what_statsmodels_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.uniform(size=9) ** 3
        assert holm(p).tolist() == multipletests(p, 0.05, "holm")[0].tolist()
    assert holm(np.zeros(0)).tolist() == []


def test_an_end_at_the_worst_trial_is_cut_half_way_to_the_last_good_one() -> None:
    x, z = points()
    z[18:] = [-0.77, -0.4, -0.9, -0.5, -1.2, -0.6]
    raised = np.maximum(z, -0.02)
    low, high = trim_interval(x, z, raised, 0.0, -1.0, float(x[18]))
    assert high == pytest.approx((x[17] + x[18]) / 2)
    assert low == -1.0
    mirrored = trim_interval(-x[::-1], z[::-1], raised[::-1], 0.0, -float(x[18]), 1.0)
    assert mirrored == pytest.approx((-high, 1.0))


def test_one_collapse_among_good_trials_cuts_nothing() -> None:
    x, z = points()
    z[16] = -0.8
    assert trim_interval(x, z, np.maximum(z, -0.02), 0.0, -1.0, float(x[18])) == (-1.0, float(x[18]))


def test_a_flat_objective_keeps_its_interval() -> None:
    rng = np.random.default_rng(1)
    x, z = np.linspace(-3, 3, 30), rng.normal(size=30)
    assert trim_interval(x, z, z, 0.0, -3.0, 3.0) == (-3.0, 3.0)
    assert trim_interval(x, 0 * x, 0 * x, 0.0, -3.0, 3.0) == (-3.0, 3.0)


def collapsing(x: float, rng: np.random.Generator) -> float:
    """A hump at BEST; from four times BEST on all merges collapse."""
    gain = 0.035 * math.exp(-0.5 * (x / 1.2) ** 2)
    return gain - 0.3 - rng.exponential(1.0) if x > math.log(4) else gain


def test_intervals_hold_the_truth_and_no_collapse() -> None:
    held = 0
    for seed in range(20):
        rows = table(sweep(collapsing, 30, seed, scatter=0.008))
        found = fit_regime(rows, draws=100)
        held += found.low <= BEST <= found.high
        inside = [
            g
            for g, s in zip(rows["gain_mean_loss_val"].to_pylist(), rows["noise_paper"].to_pylist(), strict=True)
            if found.low <= s <= found.high
        ]
        assert min(inside) > -0.2
    assert held >= 17


def test_the_ends_are_marked_against_the_stability_limit() -> None:
    # a step of 1.5 or more diverges at every noise
    good = sweep(lambda x, _: 0.035 * math.exp(-0.5 * x * x), 60, 0)
    bad = [trial(f"d{i}", None, outcome="diverged", learning_rate=0.15 * 1.02**i, batch_size=1024) for i in range(40)]
    rows = table([r for r in good if r["learning_rate"] / (1 - r["momentum"]) < 1.5] + bad)
    regime = fit_regime(rows)
    limit = 1.5
    size = int(limit * 0.1 / (regime.optimum * 0.1) * 0.97)  # its centre stays just below the limit
    (found,) = recommend(rows, regime, batch_sizes=[size], momentum=0.9)
    assert (found.low_beyond_stability, found.beyond_stability, found.high_beyond_stability) == (False, False, True)
    assert "the interval's upper end has η/(1−μ)" in found.note
    from sweeper.analysis.text import format_recommendations

    text = format_recommendations([found])
    assert f"to {found.learning_rate_high:.3g}!" in text
    assert "stay below it" in text

"""Controls: F against statsmodels and a jackknife by hand, R² against formulas, and what is found of a known truth."""

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from sweeper.analysis.evidence import controls as module
from sweeper.analysis.evidence.controls import run_controls
from sweeper.search.objectives import OBJECTIVES
from tests.support.trial_rows import table, trial

GOAL = OBJECTIVES["gain_mean"]


def data(clusters: int, repeats: int, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(clusters), repeats)
    base, added = rng.normal(size=(clusters * repeats, 2)), rng.normal(size=(clusters * repeats, 3))
    y = base @ [1.0, -1.0] + rng.normal(size=clusters)[owner] + rng.normal(size=clusters * repeats)
    return y, owner, base, added


def test_single_trials_give_the_wald_test_with_hc3_errors() -> None:
    # the jackknife is HC3 times (n - 1)/n: MacKinnon & White 1985, eq. 12 without its mean
    y, owner, base, added = data(40, 1)
    f, p = module._test_added(y, owner, base, added)
    fitted = sm.OLS(y, sm.add_constant(np.hstack([base, added]))).fit(cov_type="HC3")
    wald = fitted.wald_test(np.eye(6)[3:], use_f=True, scalar=True)
    assert f == pytest.approx(float(wald.statistic) * 40 / 39, rel=1e-9)
    assert p == pytest.approx(stats.f.sf(f, 3, 39), rel=1e-9)


def test_repeats_are_held_out_together() -> None:
    y, owner, base, added = data(15, 3)
    x = np.hstack([np.ones((45, 1)), base, added])
    best = np.linalg.solve(x.T @ x, x.T @ y)
    moved = []
    for c in range(15):
        kept = owner != c
        moved.append(np.linalg.lstsq(x[kept], y[kept], rcond=None)[0] - best)
    covariance = 14 / 15 * sum(np.outer(m, m) for m in moved)
    expected = best[3:] @ np.linalg.solve(covariance[3:, 3:], best[3:]) / 3
    assert module._test_added(y, owner, base, added)[0] == pytest.approx(expected, rel=1e-8)


def test_axes_get_four_columns_and_fewer_where_they_have_few_values() -> None:
    assert [module._columns([np.tile(np.arange(k), 3).astype(float)]).shape[1] for k in (1, 2, 3, 4, 5, 30)] == [
        0, 1, 2, 3, 4, 4,
    ]  # fmt: skip


def sweep(effect: float, *, configs: int = 60, repeats: int = 2, sharp: bool = True, seed: int = 0) -> Any:
    """Gain follows sharpness, and with `effect` a hump in log noise; sharpness falls with noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(configs):
        x, own = rng.uniform(-3, 3), rng.normal(0, 0.004)
        flatness = -0.5 * x + rng.normal()
        accuracy = 0.9 + 0.01 * rng.normal()
        for r in range(repeats):
            gain = 0.01 * flatness + effect * np.exp(-(x**2) / 2) + own + rng.normal(0, 0.004)
            more = {"a_accuracy_val": accuracy, "b_accuracy_val": accuracy + 0.001 * r}
            if sharp:
                more |= {"lambda_max_a": np.exp(flatness), "lambda_max_b": np.exp(flatness)}
            rows.append(trial(f"{i:03}", gain, repeat=r, learning_rate=0.032 * np.exp(x), **more))
    return table(rows)


def test_a_hump_beyond_sharpness_is_detected_and_sharpness_beyond_the_noise_too() -> None:
    alone, beside = run_controls(sweep(0.06), GOAL, "paper", "val")
    assert (alone.sharpness, beside.sharpness) == ("", "lambda_max")
    assert (beside.n, beside.configs, beside.df, beside.df_reverse) == (120, 60, 4, 8)
    assert beside.p < 1e-4
    assert beside.p_reverse < 1e-4
    assert beside.gain.low > 0.05
    assert beside.finding == beside.finding_reverse == "more"
    assert beside.r2_both > max(beside.r2, beside.r2_noise)
    assert beside.r2 > alone.r2


def test_noise_that_acts_through_sharpness_alone_adds_nothing() -> None:
    found = [run_controls(sweep(0.0, seed=seed), GOAL, "paper", "val")[1] for seed in range(20)]
    assert sum(n.p < 0.05 for n in found) <= 4  # 1 expected; more than 4 has probability .003
    assert all(n.gain.low < 0.01 for n in found)
    assert {n.finding for n in found} >= {"no more"}
    assert all(n.p_reverse < 0.01 for n in found)


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        (sweep(0.06, configs=6), "6 configurations have all of these, the test needs 18"),
        (table([]), "no viable trial has a score"),
        (table([trial(str(i), 0.01 * i) for i in range(30)]), "no viable trial has a score, a noise and all"),
        (
            table([trial(str(i), 0.01 * i, a_accuracy_val=i / 40, b_accuracy_val=i / 40) for i in range(30)]),
            "all of these trials have the same noise",
        ),
    ],
    ids=["few", "empty", "no accuracy", "one noise"],
)
def test_what_is_missing_is_said(trials: Any, reason: str) -> None:
    found = run_controls(trials, GOAL, "paper", "val")[0]
    assert reason in found.reason
    assert found.p is None
    assert found.gain is None
    assert found.finding is None


def test_a_sharpness_without_a_logarithm_leaves_its_trial_out() -> None:
    rows = sweep(0.06).to_pylist()
    rows[0]["lambda_max_a"] = -1e3
    alone, beside = run_controls(table(rows), GOAL, "paper", "val")
    assert (alone.n, beside.n) == (120, 119)

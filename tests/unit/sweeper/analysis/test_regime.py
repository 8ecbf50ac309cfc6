import math
import time
from dataclasses import asdict, fields

import numpy as np
import pytest

from sweeper.analysis.curve.smoother import MAX_GROUPS, fit_smoother
from sweeper.analysis.regime import LOGARITHMIC, Regime, fit_regime, tail_floors
from sweeper.search.objectives import OBJECTIVES
from tests.support.trial_rows import BEST, OF_ROWS, flat, hump, monotone, sweep, table, trial
from trainables.noise import NOISE
from trainables.registry import UnknownName


def fit(rows, objective="gain_mean", noise="paper", **kwargs) -> Regime:
    return fit_regime(table(rows), objective, noise, **kwargs)


@pytest.mark.parametrize("n", [2, 5, 7, 40, 1300])
def test_the_local_floor_follows_the_upper_quartile_of_the_neighbours(n: int) -> None:
    z = np.random.default_rng(n).standard_normal(n)
    floors, half = tail_floors(z)[0], max(3, n // 12)
    quartiles = np.array([np.quantile(z[max(0, i - half) : i + half + 1], 0.75) for i in range(n)])
    lowest = float(floors.min())
    above = floors > lowest
    offset = (quartiles - floors)[above]
    assert offset == pytest.approx(np.full(above.sum(), offset[0] if len(offset) else 0.0))
    # a value at the global floor has a local floor that is not larger
    assert (quartiles[~above] - (offset[0] if len(offset) else np.inf) <= lowest + 1e-12).all()


@pytest.mark.parametrize("objective", ["gain_mean", "merged_loss"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_hump_in_front_of_a_cliff_is_detected(objective: str, seed: int) -> None:
    regime = fit(sweep(hump, 60, seed), objective)
    assert BEST / 1.5 < regime.optimum < BEST * 1.5
    assert regime.low <= BEST <= regime.high
    assert regime.interior
    assert regime.edge_share < 0.05
    expected = 0.035 if objective == "gain_mean" else 0.3 - 0.035
    assert regime.value == pytest.approx(expected, abs=0.006)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    seeds = range(30)
    regimes = [fit(sweep(hump, 30, seed, scatter=0.008), draws=100) for seed in seeds]
    covered = np.mean([r.low <= BEST <= r.high for r in regimes])
    assert covered >= 0.75
    # and not by being wide: the tried range is a factor 1e4
    assert np.median([r.high / r.low for r in regimes]) < 15


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_monotone_curve_has_its_optimum_at_the_edge(seed: int) -> None:
    regime = fit(sweep(monotone, 40, seed))
    assert regime.edge_share > 0.5
    assert not regime.interior
    assert regime.optimum > 0.1
    assert "widen the knobs towards more noise" in regime.message


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_flat_curve_has_a_wide_interval_and_no_interior_optimum(seed: int) -> None:
    regime = fit(sweep(flat, 40, seed))
    assert regime.high / regime.low > 100
    assert not regime.interior


def test_the_curve_follows_the_truth_and_its_band_holds_it() -> None:
    held: list[float] = []
    for seed in range(5):
        regime = fit(sweep(hump, 150, seed), draws=20)
        x = np.log(np.array(regime.grid) / BEST)
        near = np.abs(x) < math.log(4)
        truth = 0.035 * np.exp(-0.5 * (x[near] / 1.2) ** 2)
        mean, lower, upper = (np.array(v)[near] for v in (regime.mean, regime.lower, regime.upper))
        assert np.abs(mean - truth).max() < 0.01
        assert (lower < mean).all()
        assert (mean < upper).all()
        assert regime.value == max(regime.mean)
        held.append(float(np.mean((lower <= truth) & (truth <= upper))))
    assert np.mean(held) > 0.75


def test_without_effect_the_curve_shows_the_plateau_where_it_is() -> None:
    # taming the cliff must not lift the flat part at low noise
    regime = fit(sweep(hump, 80, 0), draws=20)
    low = np.array(regime.mean)[np.array(regime.grid) < BEST / 30]
    assert np.abs(low).max() < 0.006


def test_the_depth_of_a_collapse_hardly_matters() -> None:
    rows = sweep(hump, 40, 3)
    deeper = [{**r, "gain_mean_loss_val": -4.0} if r["gain_mean_loss_val"] < -0.1 else r for r in rows]
    assert any(r["gain_mean_loss_val"] == -4.0 for r in deeper)
    a, b = fit(rows), fit(deeper)
    assert b.optimum == pytest.approx(a.optimum, rel=0.1)
    assert -0.1 < b.floor < 0.0


def test_a_minority_of_collapses_at_the_best_noise_does_not_move_it() -> None:
    optima: list[float] = []
    for seed in range(9):
        rows, rng = sweep(hump, 120, seed), np.random.default_rng(seed)
        near = {r["config"] for r in rows if BEST / 3 < r["noise_paper"] < BEST * 3 and rng.random() < 0.25}
        assert near
        harmed = [{**r, "gain_mean_loss_val": -2.0} if r["config"] in near else r for r in rows]
        optima.append(fit(harmed, draws=1).optimum)
    assert BEST / 1.5 < np.median(optima) < BEST * 1.5
    assert BEST / 4 < min(optima) < max(optima) < BEST * 4


def test_repeats_are_averaged_into_one_configuration() -> None:
    rows = sweep(hump, 20, 0)
    spread = [
        {**r, "repeat": k, "gain_mean_loss_val": r["gain_mean_loss_val"] + d}
        for r in rows
        for k, d in ((0, 0.01), (1, -0.01))
    ]
    one, two = fit(rows), fit(spread)
    assert (two.n_configs, two.n_trials) == (20, 40)
    assert two.optimum == pytest.approx(one.optimum)
    assert two.value == pytest.approx(one.value)


def test_what_is_not_viable_is_left_out_and_counted() -> None:
    rows = sweep(hump, 20, 0)
    bad = [trial(f"bad{o}", g, outcome=o) for o, g in (("diverged", None), ("not_viable", 5.0), ("failed", None))]
    clean, mixed = fit(rows), fit(rows + bad)
    assert (mixed.n_trials, mixed.n_configs, mixed.n_left_out) == (20, 20, 3)
    assert mixed.optimum == clean.optimum


@pytest.mark.parametrize(("objective", "worst"), [("gain_mean", -math.inf), ("merged_loss", math.inf)])
def test_a_merge_that_overflowed_counts_like_a_capped_one(objective: str, worst: float) -> None:
    column, cap = OBJECTIVES[objective].column, math.copysign(2 * math.log(10), worst)
    rows = [trial(f"high{i}", None, learning_rate=1.0 + i, **{column: cap}) for i in range(4)]
    capped = fit([*sweep(hump, 20, 0), *rows], objective)
    assert (capped.n_trials, capped.n_left_out) == (24, 0)
    for lost in (worst, None, math.nan):  # Parquet parts hold an infinite value as empty
        assert fit([*sweep(hump, 20, 0), *({**r, column: lost} for r in rows)], objective) == capped


def test_an_objective_that_was_not_measured_is_not_a_cliff() -> None:
    regime = fit(sweep(hump, 20, 0), "barrier")
    assert "0 viable configurations have a noise and a score" in regime.message
    assert regime.n_left_out == 20


def test_zero_noise_is_left_out_and_counted() -> None:
    rows = [*sweep(hump, 20, 0), trial("no decay", 0.5, weight_decay=0.0)]
    assert fit(rows, noise="wd_equilibrium").n_left_out == 1
    assert fit(rows).n_left_out == 0


@pytest.mark.parametrize("noise", OF_ROWS)
def test_every_noise_is_fitted_in_its_own_unit(noise: str) -> None:
    regime = fit(sweep(hump, 25, 1), noise=noise)
    values = [r[f"noise_{noise}"] for r in sweep(hump, 25, 1)]
    assert regime.low <= regime.optimum <= regime.high
    assert min(values) * (1 - 1e-9) <= regime.low < regime.high <= max(values) * (1 + 1e-9)
    assert regime.grid[0] == pytest.approx(min(values))
    assert regime.grid[-1] == pytest.approx(max(values))
    assert regime.unit == NOISE[noise].unit


def test_a_constant_factor_of_the_noise_shifts_the_result_by_that_factor() -> None:
    rows = sweep(hump, 30, 2)
    paper, smith = fit(rows), fit(rows, noise="smith_le")
    for field in ("optimum", "low", "high"):
        assert getattr(smith, field) == pytest.approx(720 * getattr(paper, field))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_curve_is_in_the_unit_of_the_column(objective: str) -> None:
    goal = OBJECTIVES[objective]
    told = goal.tell({"outcome": "ok", "classes": 10, goal.column: 0.25})
    assert (math.exp(told) if objective in LOGARITHMIC else told) == pytest.approx(0.25)
    rows = [{**r, goal.column: 0.25 + 0.01 * (r["gain_mean_loss_val"] > 0.01)} for r in sweep(hump, 30, 0)]
    regime = fit(rows, objective)
    assert 0.24 < min(regime.mean) < max(regime.mean) < 0.27
    assert all(low <= m <= high for low, m, high in zip(regime.lower, regime.mean, regime.upper, strict=True))
    assert (regime.column, regime.maximize) == (goal.column, goal.maximize)


def test_the_result_is_a_function_of_table_and_seed() -> None:
    rows = sweep(hump, 30, 0)
    assert fit(rows, seed=1) == fit(list(reversed(rows)), seed=1)
    assert fit(rows, seed=1).edge_share is not None
    a, b = fit(rows, seed=1), fit(rows, seed=2)
    assert a.mean == b.mean
    assert (a.low, a.high) != (b.low, b.high)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 viable configurations have a noise and a score, the fit needs 6"),
        (sweep(hump, 5, 0), "5 viable configurations"),
        ([trial(str(i), 0.01 * i) for i in range(8)], "1 different noises, the fit needs 4"),
        ([trial(str(i), 0.01 * i, learning_rate=0.1 + 0.001 * i) for i in range(8)], "span a factor 1.07"),
        ([trial(str(i), 0.01, learning_rate=0.1 * 2**i) for i in range(8)], "every viable configuration has the same"),
        ([trial(str(i), None, outcome="diverged") for i in range(8)], "8 trials do not count"),
    ],
)
def test_too_few_trials_are_reported(rows, message: str) -> None:
    regime = fit(rows)
    assert message in regime.message
    for field in ("optimum", "low", "high", "value", "edge_share"):
        assert getattr(regime, field) is None
    assert not regime.interior
    assert regime.grid == regime.mean == regime.lower == regime.upper == ()


def test_an_adaptive_sampler_is_named_and_a_designed_one_is_not() -> None:
    adaptive, designed = (fit(sweep(hump, 20, 0, sampler=s)) for s in ("noise", "qmc"))
    assert (adaptive.adaptive, designed.adaptive) == (True, False)
    assert (
        "An adaptive sampler (noise) chose the noises: the interval covers the draw of configurations"
        in adaptive.message
    )
    assert "not the outcome of another search" in adaptive.message
    assert "adaptively" not in designed.message


def test_failures_above_the_best_noise_are_named_when_it_lies_at_the_edge() -> None:
    rows = [*sweep(monotone, 40, 0), trial("beyond", None, outcome="diverged", learning_rate=50.0)]
    assert "pairs at more noise were not viable" in fit(rows).message


def test_large_tables_are_grouped_and_quick() -> None:
    rows = sweep(hump, 1000, 0)
    start = time.process_time()
    regime = fit(rows)
    assert time.process_time() - start < 4
    assert regime.n_configs == 1000 > MAX_GROUPS
    assert BEST / 1.3 < regime.low <= regime.optimum <= regime.high < BEST * 2
    assert regime.low <= BEST <= regime.high


def test_the_curve_is_the_textbook_posterior() -> None:
    # Rasmussen & Williams 2006, eq. 2.25, 2.26 and 4.17 written out with an inverse; a point taken twice counts as two
    x, z, grid = np.array([0.0, 0.3, 1.0]), np.array([1.0, -0.5, 0.2]), np.array([0.1, 0.7])
    length, ratio, amplitude = 0.4, 0.2, 1.7

    def k(a, b):
        d = math.sqrt(5) * np.abs(a[:, None] - b[None]) / length
        return amplitude * (1 + d + d**2 / 3) * np.exp(-d)

    xs, zs = np.append(x, x[1]), np.append(z, z[1])
    inverse = np.linalg.inv(k(xs, xs) + amplitude * ratio * np.eye(4))
    setting = np.array([length, ratio, amplitude, 1.0])
    mean, variance = fit_smoother(x, z).curve(grid, z, np.array([1.0, 2.0, 1.0]), setting)
    assert mean == pytest.approx(k(grid, xs) @ inverse @ zs)
    assert variance == pytest.approx(amplitude - np.diag(k(grid, xs) @ inverse @ k(xs, grid)))


def test_the_weights_of_the_settings_are_marginal_likelihoods() -> None:
    rng = np.random.default_rng(0)
    x, z = np.sort(rng.uniform(0, 1, 7)), rng.normal(size=7)
    settings = fit_smoother(x, z).settings
    logs = []
    for length, ratio, amplitude, _ in settings:
        d = math.sqrt(5) * np.abs(x[:, None] - x[None]) / length
        cov = amplitude * ((1 + d + d**2 / 3) * np.exp(-d) + ratio * np.eye(7))
        logs.append(-0.5 * z @ np.linalg.solve(cov, z) - 0.5 * np.linalg.slogdet(cov)[1])
    expected = np.exp(np.array(logs) - max(logs))
    assert settings[:, 3] == pytest.approx(expected / expected.sum(), rel=1e-6, abs=1e-12)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UnknownName, match="did you mean gain_mean"):
        fit([], "gain_men")
    with pytest.raises(UnknownName, match="did you mean paper"):
        fit([], noise="papr")
    with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
        fit([], draws=0)


def test_every_field_is_plain() -> None:
    record = asdict(fit(sweep(hump, 20, 0)))
    assert set(record) == {f.name for f in fields(Regime)}
    allowed = {str, bool, int, float, tuple, type(None)}
    assert {type(v) for v in record.values()} <= allowed
    assert {type(v) for v in record["mean"]} == {float}

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from sweeper.analysis.evidence.two_lines import leave_one_out, run_two_lines
from tests.support.evidence_cells import cells


def tent(n: int, scatter: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-2, 3, n))
    return x, -np.abs(x) * np.where(x > 0, 2.0, 1.0) + scatter * rng.normal(size=n)


def interrupted(x, z, place):
    """Simonsohn 2018, eq. 1: y = a + b·low + c·high + d·[x >= place], by statsmodels."""
    right = (x >= place).astype(float)
    design = np.column_stack([np.ones(len(x)), (x - place) * (1 - right), (x - place) * right, right])
    return sm.OLS(z, design).fit()


@pytest.mark.parametrize("seed", range(4))
def test_slopes_and_errors_are_those_of_the_interrupted_regression(seed: int) -> None:
    x, z = tent(40, 0.3, seed)
    test = run_two_lines(cells(x, z), "paper")
    fit = interrupted(x, z, np.log(test.break_noise))
    robust = fit.get_robustcov_results("HC3")
    assert test.errors == "HC3"
    assert [test.slope_up, test.slope_down] == pytest.approx(fit.params[1:3])
    assert [test.se_up, test.se_down] == pytest.approx(robust.bse[1:3])
    # and the p values are at least those of these lines: the middle of the flat top must do as well
    t = robust.tvalues[1:3]
    assert test.p_up >= stats.t.sf(t[0], 36) * (1 - 1e-9)
    assert test.p_down >= stats.t.sf(-t[1], 36) * (1 - 1e-9)
    assert test.p == max(test.p_up, test.p_down)
    assert test.passed


def test_the_break_lies_at_the_top() -> None:
    x, z = tent(200, 0.1)
    assert np.log(run_two_lines(cells(x, z), "paper").break_noise) == pytest.approx(0.0, abs=0.2)


def test_errors_from_replicates_are_those_of_level_means() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(9.0)
    values = -np.abs(x - 4)[:, None] + rng.normal(size=(9, 8)) * np.linspace(0.2, 1.0, 9)[:, None]
    test = run_two_lines(cells(x, values), "paper")
    left = x <= np.log(test.break_noise) + 1e-9
    pull = (x[left] - x[left].mean()) / np.sum((x[left] - x[left].mean()) ** 2)
    variance = values[left].var(axis=1, ddof=1) / 8
    assert test.errors == "replicates"
    assert test.slope_up == pytest.approx(pull @ values[left].mean(axis=1))
    assert test.se_up == pytest.approx(np.sqrt(np.sum(pull**2 * variance)))
    # Satterthwaite
    parts = pull**2 * variance
    freedom = parts.sum() ** 2 / np.sum(parts**2 / 7)
    assert test.p_up >= stats.t.sf(test.slope_up / test.se_up, freedom) * (1 - 1e-9)


def test_configurations_at_one_noise_are_its_replicates_whatever_their_knobs() -> None:
    rng = np.random.default_rng(1)
    x = np.repeat(np.arange(9.0), 4)
    z = -np.abs(x - 4) + 0.3 * rng.normal(size=36)
    knobs = {"learning_rate": x, "batch_size": rng.normal(size=36)}
    apart, together = (
        run_two_lines(cells(x, z, factors=knobs), "paper"),
        run_two_lines(cells(x[::4], z.reshape(9, 4)), "paper"),
    )
    assert apart.errors == together.errors == "replicates"
    assert apart.slope_up == pytest.approx(together.slope_up)
    assert apart.se_up == pytest.approx(together.se_up)
    # repeats of one configuration a noise are none where several knobs vary: configurations could scatter more
    knobs = {k: v[::4] for k, v in knobs.items()}
    assert run_two_lines(cells(x[::4], z.reshape(9, 4), factors=knobs), "paper").errors == "HC3"


def test_without_each_configuration_its_own_lines_are_drawn() -> None:
    x, z = tent(12, 0.2)
    left_out = leave_one_out(cells(x, z), "paper")
    assert [t.n for t in left_out] == [11] * 12
    for i, test in enumerate(left_out):
        rest = np.arange(12) != i
        fit = interrupted(x[rest], z[rest], np.log(test.break_noise))
        assert [test.slope_up, test.slope_down] == pytest.approx(fit.params[1:3])


@pytest.mark.parametrize(
    ("x", "z", "reason"),
    [
        (np.zeros(9), np.arange(9.0), "1 different noises, the test needs 6"),
        (np.arange(5.0), np.arange(5.0), "5 different noises, the test needs 6"),
        (np.arange(9.0), np.ones(9), "every configuration has the same score"),
    ],
)
def test_what_is_not_possible_is_said(x, z, reason: str) -> None:
    test = run_two_lines(cells(x, z), "paper")
    assert test.reason == reason
    assert test.p is None
    assert not test.passed
    assert not test.plateau


def test_a_plateau_before_a_cliff_is_one_and_a_decline_is_not() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 60)
    cliff = -np.maximum(x - 0.6, 0) * 10 + 0.1 * rng.normal(size=60)
    assert run_two_lines(cells(x, cliff), "paper").plateau
    assert not run_two_lines(cells(x, -x + 0.05 * rng.normal(size=60)), "paper").plateau
    assert not run_two_lines(cells(x, 0.1 * rng.normal(size=60)), "paper").plateau

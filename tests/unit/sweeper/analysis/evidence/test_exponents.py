import numpy as np
import pytest
from scipy import stats

from sweeper.analysis.evidence.cells import collect, raise_tail
from sweeper.analysis.evidence.exponents import (
    fit_exponents,
    measure_share,
    noise_ceiling,
    relative_exponents,
    run_knob_test,
)
from sweeper.analysis.evidence.linear import design_matrix, predict_left_out
from sweeper.search.noise_sampler.single_index import Basis, best_index
from sweeper.search.objectives import OBJECTIVES
from tests.support.evidence_cells import bell, cells, columns, grid
from tests.support.trial_rows import table

GAIN = OBJECTIVES["gain_mean"]
DEFINITIONS = ("paper", "paper_v1", "linear", "wd_equilibrium")


def of(rows):
    return raise_tail(collect(table(rows), GAIN))


def test_ceiling_and_lack_of_fit_are_the_analysis_of_variance_by_hand() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-3, 3, 20))
    values = np.sin(3 * x)[:, None] + 0.2 * rng.normal(size=(20, 4))
    found = measure_share(cells(x, values), "paper")
    means = values.mean(axis=1)
    inside = np.sum((values - means[:, None]) ** 2) / (20 * 3)
    assert found.ceiling == pytest.approx(1 - inside / 4 / means.var(ddof=1))
    model = design_matrix(Basis.of(x)(x))[:, :]
    fit = model @ np.linalg.lstsq(model, means, rcond=None)[0]
    f = (4 * np.sum((means - fit) ** 2) / (20 - 6)) / inside
    assert (found.f, found.f_above, found.f_below) == (pytest.approx(f), 14, 60)
    assert found.p == pytest.approx(stats.f.sf(f, 14, 60))
    assert found.r2 == predict_left_out(means, np.ones(20), [x]).r2
    assert found.beyond == 2
    assert found.share == pytest.approx(found.r2 / found.ceiling)


def test_unequal_repeats_have_the_ceiling_of_their_mean_inverse() -> None:
    c = of(grid(bell, scatter=0.01)[:-2])  # the last configuration keeps one repeat of three
    variance, freedom = c.pure
    assert freedom == len(c.value) - len(c)
    expected = 1 - variance * np.mean(1 / c.size) / c.z.var(ddof=1)
    assert noise_ceiling(c) == pytest.approx(expected)


def test_repeats_that_scatter_alone_fit_and_another_knobs_effect_does_not() -> None:
    rows = grid(bell, scatter=0.004)
    assert measure_share(of(rows), "paper").p > 0.05
    assert run_knob_test(of(rows), "paper").p > 0.05
    moved = [{**r, "gain_mean_loss_val": r["gain_mean_loss_val"] + 0.01 * (r["batch_size"] == 8)} for r in rows]
    assert measure_share(of(moved), "paper").p < 1e-4
    left = run_knob_test(of(moved), "paper")
    assert left.p < 1e-4
    assert left.lines.low > 0
    assert left.finding == "more"
    assert left.added == ("batch_size", "momentum", "weight_decay")


@pytest.mark.parametrize(
    ("powers", "exponents"),
    [
        ({}, (1.0, 1.0, 0.0)),
        ({"one_minus_momentum": -2.0}, (1.0, 2.0, 0.0)),
        ({"one_minus_momentum": 0.0}, (1.0, 0.0, 0.0)),
        ({"weight_decay": 1.0}, (1.0, 1.0, 1.0)),
    ],
    ids=["paper", "paper_v1", "linear", "wd_equilibrium"],
)
def test_exponents_are_recovered(powers, exponents) -> None:
    c = of(grid(bell, scatter=0.0005, **powers))
    found = fit_exponents(c, DEFINITIONS, draws=10)
    assert found.unit_knob == "learning_rate"
    assert list(found.value) == ["learning_rate", "batch_size", "momentum", "weight_decay"]
    assert list(found.value.values())[1:] == pytest.approx(exponents, abs=0.06)
    for knob, value in zip(("batch_size", "momentum", "weight_decay"), exponents, strict=True):
        assert found.low[knob] <= found.high[knob]
        assert found.low[knob] - 0.05 < value < found.high[knob] + 0.05
    assert found.r2 > 0.98


def test_named_definitions_are_relative_to_the_learning_rate() -> None:
    knobs = ["learning_rate", "batch_size", "momentum", "weight_decay"]
    assert list(relative_exponents("paper_v1", knobs).values()) == [1.0, 1.0, 2.0, 0.0]
    assert list(relative_exponents("wd_equilibrium", knobs).values()) == [1.0, 1.0, 1.0, 1.0]
    assert relative_exponents("paper_full", knobs) == {}  # measured: not of the knobs alone


def test_no_decay_has_a_shift_of_its_own() -> None:
    rows = [{**r, "weight_decay": 0.0} if r["weight_decay"] == 1e-4 else r for r in grid(bell, scatter=0.0005)]
    rows = [{**r, "config": f"{r['config']}-{r['weight_decay']}"} for r in rows]
    c = of([r if r["weight_decay"] else {**r, "noise_wd_equilibrium": None} for r in rows])
    assert set(np.unique(c.factors["weight_decay = 0"])) == {0.0, 1.0}
    # with one other value the decay's exponent has nothing to be estimated from
    assert "weight_decay" not in c.factors
    found = fit_exponents(c, DEFINITIONS, draws=3)
    assert found.shift["weight_decay = 0"] == pytest.approx(0.0, abs=0.05)


def test_the_fit_is_no_worse_than_any_start() -> None:
    c = of(grid(bell, scatter=0.01))
    _, r2 = best_index(columns(c), c.z, c.size, [np.array([1.0, 1.0, 1.0, 0.0])])
    x = design_matrix(Basis.of(c.noise["paper"])(c.noise["paper"]))
    at_start = 1 - np.sum((c.z - x @ np.linalg.lstsq(x, c.z, rcond=None)[0]) ** 2) / np.sum((c.z - c.z.mean()) ** 2)
    assert r2 >= at_start - 1e-9


def test_what_is_not_possible_is_said() -> None:
    rows = grid(bell, scatter=0.004, repeats=1)
    assert "need repeats: 108 trials of 108 configurations" in measure_share(of(rows), "paper").reason
    assert measure_share(of(rows), "paper").r2 is not None
    few = of(rows[:8])
    for part in (measure_share(few, "paper"), run_knob_test(few, "paper"), fit_exponents(few, DEFINITIONS)):
        assert part.reason == "8 configurations have a noise and a score, the test needs 12"
    one = of([r for r in grid(bell, scatter=0.004) if r["config"].startswith("8-0.9-0.0001")] * 1)
    assert "the test needs 12" in run_knob_test(one, "paper").reason
    alone = cells(np.arange(20.0), np.arange(20.0))
    assert fit_exponents(alone, DEFINITIONS).reason == "one knob varies: nothing to compare"
    assert run_knob_test(alone, "paper").reason == "only the learning rate varies"
    same = of([{**r, "gain_mean_loss_val": 0.1} for r in rows])
    assert measure_share(same, "paper").reason == "every configuration has the same score"

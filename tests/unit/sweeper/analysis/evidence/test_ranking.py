import numpy as np
import pytest

from sweeper.analysis.evidence.cells import collect, raise_tail
from sweeper.analysis.evidence.ranking import (
    FITTED,
    Rank,
    cross_fit,
    find_preferred,
    list_definitions,
    measure_collapse,
    measure_influence,
    measure_transfer,
    rank,
    select_common,
)
from sweeper.search.noise_sampler.single_index import Basis
from sweeper.search.objectives import OBJECTIVES
from tests.support.evidence_cells import bell, cells, columns, grid
from tests.support.trial_rows import BEST, sweep, table

GAIN = OBJECTIVES["gain_mean"]


def of(rows):
    return raise_tail(collect(table(rows), GAIN))


@pytest.mark.parametrize(
    ("name", "powers"),
    [
        ("paper", {}),
        ("paper_v1", {"one_minus_momentum": -2.0}),
        ("linear", {"one_minus_momentum": 0.0}),
        ("wd_equilibrium", {"weight_decay": 1.0}),
    ],
)
def test_the_generating_definition_is_ranked_first(name: str, powers) -> None:
    found = rank(of(grid(bell, scatter=0.004, **powers)), None, draws=50)
    assert found.rows[0].name == name
    assert found.n == 108
    assert found.rows[0].low <= found.rows[0].r2 <= found.rows[0].high
    assert found.rows[0].share == pytest.approx(1.0, abs=0.1)
    assert found.rows[0].wins > 0.95
    # a lead that every configuration carries
    assert found.influence > 3


def test_a_definition_that_ranks_before_the_shown_one_is_named() -> None:
    found = rank(of(grid(bell, scatter=0.004, one_minus_momentum=0.0)), None, draws=50)
    preferred = find_preferred(found, "paper")
    assert preferred is not None
    shown = next(r for r in found.rows if r.name == "paper")
    assert (preferred.noise, preferred.shown_r2, preferred.shown_wins) == ("linear", shown.r2, shown.wins)
    assert preferred.r2 > preferred.shown_r2
    sentence = preferred.compare_with("paper")
    assert sentence.startswith("linear ranks before paper: R² ")
    assert sentence.endswith(" of the resampled tables.")
    assert find_preferred(found, "linear") is None
    assert find_preferred(found, "adam_sde") is None  # the trials do not have it


def test_a_definition_that_equals_the_shown_one_does_not_rank_before_it() -> None:
    found = rank(of(grid(bell, scatter=0.004)), None, draws=20)
    assert [find_preferred(found, name) for name in (found.rows[0].name, *found.rows[0].same_as)] == [None, None]


def test_proportional_definitions_share_their_place() -> None:
    first = rank(of(grid(bell, scatter=0.004)), None, draws=20).rows[0]
    assert (first.name, first.same_as) == ("paper", ("smith_le",))


def test_r2_is_that_of_refits_without_each_configuration() -> None:
    c = of(grid(bell, scatter=0.01, repeats=2))
    row = next(r for r in rank(c, None, draws=5).rows if r.name == "linear")
    axis = c.noise["linear"]
    x = np.column_stack([np.ones(len(c)), Basis.of(axis)(axis)])
    error = 0.0
    for i in range(len(c)):
        rest = np.arange(len(c)) != i
        error += (c.z[i] - x[i] @ np.linalg.lstsq(x[rest], c.z[rest], rcond=None)[0]) ** 2
    assert row.r2 == pytest.approx(1 - error / np.sum((c.z - c.z.mean()) ** 2))


def test_fitted_exponents_come_from_other_configurations() -> None:
    c = of(grid(bell, scatter=0.004))
    found = rank(c, cross_fit(c, np.array([1.0, 1.0, 1.0, 0.0])), draws=20)
    rows = {r.name: r for r in found.rows}
    assert rows[FITTED].r2 == pytest.approx(rows["paper"].r2, abs=0.02)


@pytest.mark.parametrize(
    ("ahead", "number"), [([3.0, -1.0, -1.0], 1), ([2.0, 2.0, -3.0, 0.0], 1), ([1.0, 1.0, 1.0, -0.5], 3)]
)
def test_influence_counts_the_fewest_configurations_that_carry_a_lead(ahead, number: int) -> None:
    rows = [Rank(n, r2, r2, r2, None, 0.0) for n, r2 in (("fitted", 0.9), ("paper", 0.8), ("linear", 0.7))]
    errors = {"paper": np.ones(len(ahead)), "linear": 1.0 + np.array(ahead)}
    assert measure_influence(rows, errors) == (("paper", "linear"), number)
    assert measure_influence(rows[:2], errors) == ((), None)


def test_definitions_that_few_have_are_left_out_and_named() -> None:
    rows = [{**r, "noise_wd_equilibrium": None if i % 3 else r["noise_wd_equilibrium"]} for i, r in
            enumerate(grid(bell, scatter=0.004, repeats=1))]  # fmt: skip
    c = of(rows)
    assert "wd_equilibrium" not in list_definitions(c)
    assert rank(c, None, draws=5).left_out == ("wd_equilibrium",)
    assert "the test needs 12" in rank(of(rows[:6]), None).reason


def test_sweeps_of_other_knobs_are_predicted_by_the_right_axis_only() -> None:
    c = of(grid(bell, scatter=0.0005, repeats=1))
    found = measure_transfer(c, {n: c.noise[n] for n in ("paper", "linear", "paper_v1")})
    assert found.kind == "sweeps"
    # 12 sweeps of 9 learning rates: for each one 1 other decay, 1 other momentum, 2 other batch sizes
    assert found.n == {"batch_size": 12 * 2 * 9, "momentum": 12 * 9, "weight_decay": 12 * 9}
    assert all(r2 > 0.9 for r2 in found.r2["paper"].values())
    assert found.r2["linear"]["momentum"] < 0.3
    assert found.r2["linear"]["batch_size"] == pytest.approx(found.r2["paper"]["batch_size"])
    assert found.r2["paper_v1"]["momentum"] < 0.3


def test_random_designs_are_split_in_halves() -> None:
    rng = np.random.default_rng(0)
    rows = sweep(lambda x, _: bell(x / 2), 80, 0, scatter=0.001)
    c = of([{**r, "weight_decay": 10 ** rng.uniform(-4, -2)} for r in rows])
    found = measure_transfer(c, {"paper": c.noise["paper"], "noise": rng.normal(size=80)})
    assert found.kind == "halves"
    assert set(found.n) == {"learning_rate", "batch_size", "momentum", "weight_decay"}
    assert found.n["batch_size"] == 80
    assert found.r2["paper"]["batch_size"] > 0.9
    assert found.r2["noise"]["batch_size"] < 0.1
    assert measure_transfer(cells(np.zeros(3), np.zeros(3)), {}).reason


def test_collapse_is_the_distance_between_curves() -> None:
    # two straight lines .2 apart in ln η, on the same line in noise
    steps = np.linspace(0.0, 1.0, 6)
    x = np.concatenate([steps, steps])
    rate = np.concatenate([steps, steps + 0.2])
    knobs = {"learning_rate": np.exp(rate), "batch_size": np.repeat([8.0, 16.0], 6)}
    c = cells(x, (3 * x)[:, None] + np.array([-0.1, 0.1]), knobs=knobs)
    found = measure_collapse(c, {"paper": x})
    assert found.n_curves == 2
    assert found.misfit["paper"] == pytest.approx(0.0, abs=1e-12)
    assert found.n["paper"] == 12
    assert found.raw == pytest.approx(0.6)
    assert found.scatter == pytest.approx(2 * np.sqrt(0.02 / (np.pi * 2)))
    assert "the test needs 2" in measure_collapse(cells(steps, steps), {"paper": steps}).reason


def test_only_configurations_with_every_noise_are_common() -> None:
    c = of(grid(bell, scatter=0.004, repeats=1))
    assert len(select_common(c, ("paper", "linear"))) == len(c)
    assert len(select_common(c, ())) == 0
    assert columns(c).shape == (108, 4)
    assert np.exp(c.noise["paper"]).min() == pytest.approx(BEST * np.exp(-3.0))

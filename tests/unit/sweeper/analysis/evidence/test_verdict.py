import numpy as np
import pytest

from sweeper.analysis.evidence.cells import collect, raise_tail, raise_tail_along, subsample
from sweeper.analysis.evidence.verdict import judge
from sweeper.analysis.regime import tail_floors
from sweeper.search.objectives import OBJECTIVES
from tests.support.evidence_cells import cells
from tests.support.trial_rows import flat, hump, monotone, sweep, table

GAIN = OBJECTIVES["gain_mean"]


def verdict(rows, **more):
    along = raise_tail_along(collect(table(rows), GAIN), "paper")
    return judge(along, raise_tail_along(collect(table(rows), GAIN, broken=True), "paper"), "paper", draws=200, **more)


def cliff(x: float, rng: np.random.Generator) -> float:
    return -rng.exponential(0.5) if x > 1.0 else 0.0


@pytest.mark.parametrize("seed", [0, 2])
def test_shapes_are_named(seed: int) -> None:
    assert verdict(sweep(hump, 60, seed)).name == "hump"
    assert verdict(sweep(monotone, 60, seed)).name == "undetermined"
    assert verdict(sweep(flat, 60, seed)).name == "undetermined"
    assert verdict(sweep(cliff, 60, seed)).name == "plateau then cliff"


def test_a_sampler_that_learns_gets_no_verdict() -> None:
    found = verdict(sweep(hump, 60, 0, sampler="noise"))
    assert found.name == "undetermined"
    assert found.why.startswith("the noise sampler chose these noises by results")
    assert found.gate.p < 0.05  # the numbers are there all the same
    assert found.edge_share is not None


def test_a_hump_that_one_configuration_makes_is_none() -> None:
    # a slope and a single low point at the end
    rng = np.random.default_rng(0)
    x = np.linspace(0, 8, 24)
    z = x + 0.3 * rng.normal(size=24)
    z[-1] = -2.0
    c = cells(x, z)
    found = judge(c, c, "paper", draws=200)
    assert found.name == "undetermined"
    assert found.why


def test_conditions_hold_without_any_configuration() -> None:
    found = verdict(sweep(hump, 30, 1, scatter=0.002))
    assert found.name == "hump"
    left = found.left_out
    assert left.n == 30
    assert found.gate.p <= left.p < 0.05
    assert left.edge_share < 0.05
    assert left.undecided == 0
    assert len(found.optima) == 200


def test_unviable_pairs_enter_the_second_gate_at_the_cap() -> None:
    rows = sweep(monotone, 40, 0)
    lost = [{**r, "outcome": "diverged", "gain_mean_loss_val": None} for r in rows if r["noise_paper"] > 0.2]
    rows = [r for r in rows if r["noise_paper"] <= 0.2]
    found = verdict(rows + lost)
    assert found.gate.n == len(rows)
    assert found.gate_all.n == 40
    assert found.gate_all.p_down < found.gate.p_down


def test_few_repeated_noises_resample_repeats() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(9.0)
    c = cells(x, -np.abs(x - 4)[:, None] + 0.2 * rng.normal(size=(9, 8)))
    found = judge(c, c, "paper", draws=200)
    assert found.name == "hump"
    assert np.log(found.optima).std() < 0.3


def test_too_little_is_said() -> None:
    c = cells(np.arange(3.0), np.arange(3.0))
    found = judge(c, c, "paper")
    assert found.name == "undetermined"
    assert found.why == "3 different noises, the test needs 6"
    assert found.optima == ()


def test_floors_raise_configurations_and_leave_single_repeats_their_scatter() -> None:
    c = collect(table(sweep(hump, 60, 0)), GAIN)
    ordered = c.order_along("paper")
    raised = raise_tail_along(c, "paper")
    assert raised.z == pytest.approx(np.maximum(ordered.z, tail_floors(ordered.z)[0]))
    assert raised.tail == int(np.sum(ordered.z < tail_floors(ordered.z)[0])) > 0
    assert raise_tail(c).z.min() > c.z.min()


def test_a_thinned_table_keeps_whole_configurations() -> None:
    rng = np.random.default_rng(0)
    c = cells(np.arange(50.0), rng.normal(size=(50, 3)))
    some = subsample(c, 10)
    assert len(some) == 10
    assert some.value.reshape(10, 3).mean(axis=1) == pytest.approx(some.z)
    assert subsample(c) is c

"""Designs: point i is a function of (seed, i), values lie in the distribution and fill it."""

from collections import Counter

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.errors import SpecError
from sweeper.search import designs
from sweeper.search.designs import count_configs, from_unit, grid, levels
from sweeper.search.samplers import SAMPLERS

KNOBS = {
    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
    "batch_size": IntDistribution(8, 128, log=True),
    "momentum": CategoricalDistribution((0.0, 0.9)),
    "strength": FloatDistribution(0.0, 1.0),
}
DESIGNS = [name for name, s in SAMPLERS.items() if s.design is not None]


@pytest.mark.parametrize("name", DESIGNS)
def test_a_point_is_a_function_of_seed_and_number(name: str) -> None:
    design = SAMPLERS[name].design
    assert design is not None
    forwards = [design(KNOBS, 3, i, 64, {}) for i in range(20)]
    backwards = [design(KNOBS, 3, i, 64, {}) for i in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert forwards != [design(KNOBS, 4, i, 64, {}) for i in range(20)]
    for point in forwards:
        for knob, distribution in KNOBS.items():
            assert distribution._contains(distribution.to_internal_repr(point[knob]))


def test_quantiles_of_log_int_and_categorical() -> None:
    assert from_unit(KNOBS["learning_rate"], 0.5) == pytest.approx(10**-1.5)
    assert from_unit(KNOBS["strength"], 0.25) == 0.25
    assert from_unit(KNOBS["momentum"], 0.49) == 0.0
    assert from_unit(KNOBS["momentum"], 0.51) == 0.9
    whole = IntDistribution(1, 4)
    counts = Counter(from_unit(whole, u) for u in (np.arange(400) + 0.5) / 400)
    assert counts == {1: 100, 2: 100, 3: 100, 4: 100}
    assert from_unit(FloatDistribution(0.0, 1.0, step=0.25), 0.3) == 0.25


def test_qmc_covers_a_knob_evenly() -> None:
    design = SAMPLERS["qmc"].design
    assert design is not None
    points = [design(KNOBS, 0, i, 64, {}) for i in range(64)]
    shares = np.histogram([p["strength"] for p in points], bins=8, range=(0, 1))[0]
    assert list(shares) == [8] * 8


def test_grid_is_full_once_each_and_ends() -> None:
    knobs = {k: KNOBS[k] for k in ("learning_rate", "momentum")}
    points = grid(knobs, 12)
    assert len(points) == 12
    assert sorted({p["learning_rate"] for p in points}) == pytest.approx(levels(knobs["learning_rate"], 6))
    design = SAMPLERS["grid"].design
    assert design is not None
    drawn = [design(knobs, 5, i, 12, {}) for i in range(12)]
    assert count_configs("grid", knobs, 13) == 12
    assert count_configs("random", knobs, 13) == 13
    key = lambda p: (p["learning_rate"], p["momentum"])  # noqa: E731
    assert sorted(map(key, drawn)) == sorted(map(key, points))


def test_a_large_grid_is_counted_without_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    values = CategoricalDistribution([i / 1000 for i in range(1000)])
    knobs = {"learning_rate": values, "momentum": values}
    monkeypatch.setattr(designs, "_make_grid", lambda *_: pytest.fail("all points are made"))
    assert count_configs("grid", knobs, 4) == 4
    assert count_configs("grid", knobs, 2_000_000) == 1_000_000
    design = SAMPLERS["grid"].design
    assert design is not None
    assert len({tuple(design(knobs, 0, i, 4, {}).values()) for i in range(4)}) == 4
    with pytest.raises(SpecError, match="sampler grid must have at most 1000000 combinations here, got 1e\\+09"):
        count_configs("grid", {**knobs, "beta1": values}, 4)
    with pytest.raises(SpecError, match="at most 50000"):
        count_configs("grid", {**knobs, "beta1": values}, 4, {"beta1": {"momentum": (0.0,)}})


@pytest.mark.parametrize("conditions", [{}, {"momentum": {"optimizer": ("sgd",)}}])
def test_a_grid_is_drawn_in_an_order_that_stays(conditions: dict[str, dict[str, tuple[str, ...]]]) -> None:
    knobs = {"learning_rate": KNOBS["learning_rate"], "optimizer": CategoricalDistribution(["sgd", "adamw"])}
    knobs |= {"momentum": FloatDistribution(0.0, 0.9)}
    points, design = grid(knobs, 30, conditions), SAMPLERS["grid"].design
    assert design is not None
    order = np.random.default_rng(3).permutation(len(points))
    assert count_configs("grid", knobs, 30, conditions) == len(points) == (30 if conditions else 18)
    assert [design(knobs, 3, i, 30, conditions) for i in range(len(points))] == [points[i] for i in order]


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_choices_may_be_dicts() -> None:
    knobs = {"model_options": CategoricalDistribution(({}, {"width": 8}, {"width": 16})), "momentum": KNOBS["momentum"]}
    points = grid(knobs, 6)
    assert len(points) == count_configs("grid", knobs, 9) == 6
    assert all(points.count(p) == 1 for p in points)


def test_levels_hold_both_ends() -> None:
    assert levels(FloatDistribution(1e-3, 1.0, log=True), 4) == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])
    assert levels(IntDistribution(8, 128, log=True), 5) == [8, 16, 32, 64, 128]

"""Knobs in the unit cube, the noise they make, and the level sets of a noise."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.search.noise_sampler.candidates import (
    find_range,
)
from tests.support.noise_search import SPACE, space_of
from trainables.noise import KNOBS, NOISE

OF_KNOBS = [n for n, s in NOISE.items() if s.needs and set(s.needs) <= {*KNOBS, "examples"}]


@pytest.mark.parametrize("name", OF_KNOBS)
def test_log_noise_is_the_definitions_prediction(name: str) -> None:
    space = space_of(SPACE, name, examples=720)
    unit = np.random.default_rng(0).random((20, 5))
    for row, log_noise in zip(unit, space.points(unit).log_noise, strict=True):
        settings = {**space.params_of(row), "examples": 720}
        assert log_noise == pytest.approx(math.log(NOISE[name].predict(settings)), abs=1e-12)


@pytest.mark.parametrize("name", OF_KNOBS)
def test_solving_reaches_the_refined_level(name: str) -> None:
    space = space_of(SPACE, name)
    low, high = find_range(space)
    draws = np.random.default_rng(1).random((200, 5))
    tilt = np.linspace(-0.1, 0.1, len(space.factor_roles))
    target = np.full(200, (low + high) / 2)
    unit, reached = space.solve(draws, target, tilt)
    points = space.points(unit)
    phi = points.log_noise + points.factors @ tilt
    assert reached.sum() > 20
    assert phi[reached] == pytest.approx(target[reached], abs=1e-9)
    assert space.knobs[space.pivot or 0].name == "learning_rate"


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(1e-5, 1.0, log=True),
        FloatDistribution(-2.0, 3.0),
        FloatDistribution(0.0, 1.0, step=0.25),
        IntDistribution(1, 100, log=True),
        IntDistribution(3, 9, step=2),
        CategoricalDistribution(("a", None, 3, True)),
    ],
)
def test_values_survive_the_unit_cube(distribution: optuna.distributions.BaseDistribution) -> None:
    space = space_of({"x": distribution})
    for u in np.linspace(0, 1, 23):
        params = space.params_of(np.array([u]))
        assert distribution._contains(distribution.to_internal_repr(params["x"]))
        unit, usable = space.units_of([params])
        back = space.params_of(unit[0])["x"]
        assert usable.all()
        assert back == (pytest.approx(params["x"], rel=1e-12) if isinstance(back, float) else params["x"])
        assert type(back) is type(params["x"])


def test_ordinal_choices_keep_their_type_and_order() -> None:
    space = space_of({"batch_size": CategoricalDistribution((64, 8, 32, 16))})
    values = [space.params_of(np.array([u]))["batch_size"] for u in (0.1, 0.4, 0.6, 0.9)]
    assert values == [8, 16, 32, 64]
    assert all(type(v) is int for v in values)


def test_missing_roles_come_from_fixed() -> None:
    space = space_of({"learning_rate": SPACE["learning_rate"]}, batch_size=32, momentum=0.9)
    unit = np.array([[0.5]])
    rate = space.params_of(unit[0])["learning_rate"]
    assert math.exp(space.points(unit).log_noise[0]) == pytest.approx(rate / (32 * 0.1))


def test_a_decay_that_is_fixed_at_zero_is_an_offset() -> None:
    space = space_of({"learning_rate": SPACE["learning_rate"]}, "wd_intrinsic")
    assert space.points(np.array([[0.0]])).log_noise[0] == pytest.approx(math.log(3e-4))


def test_values_that_a_knob_cannot_hold_are_marked() -> None:
    space = space_of(SPACE)
    good = space.params_of(np.full(5, 0.5))
    wide = {**good, "learning_rate": 30.0}
    wrong = [{"momentum": 0.7}, {"learning_rate": "fast"}, {"weight_decay": 0.0}, {"batch_size": None}]
    wrong = [{**good, **bad} for bad in wrong] + [{"momentum": 0.5}]
    units, usable = space.units_of([good, *wrong, wide])
    assert usable.tolist() == [True, False, False, False, False, False, True]
    assert units[:, 0] == pytest.approx([0.5, 1.25])  # a value from a wider range keeps its place

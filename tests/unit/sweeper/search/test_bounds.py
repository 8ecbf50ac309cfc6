"""One rule for the ends of a space: which value of a configuration a wider range would move."""

from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.search.bounds import NEAR, find_bounds

RATES = FloatDistribution(1e-3, 1.0, log=True)
MOMENTA = CategoricalDistribution((0.0, 0.5, 0.9, 0.95))


@pytest.mark.parametrize(
    ("knob", "value", "end"),
    [
        (RATES, 1e-3, "lower"),
        (RATES, 10 ** (-3 + 3 * 0.9 * NEAR), "lower"),
        (RATES, 10 ** (-3 + 3 * 1.1 * NEAR), ""),
        (RATES, 10 ** (-3 * 0.9 * NEAR), "upper"),
        (FloatDistribution(0.0, 1.0), 0.99, "upper"),
        (FloatDistribution(0.0, 1.0), 0.97, ""),
        (FloatDistribution(0.5, 0.5), 0.5, ""),
        (FloatDistribution(0.0, 1.0, step=0.1), 0.9, ""),
        (FloatDistribution(0.0, 1.0, step=0.1), 1.0, "upper"),
        (IntDistribution(8, 128, log=True), 8, "lower"),
        (IntDistribution(8, 128, log=True), 9, ""),
        (IntDistribution(1, 4), 4, "upper"),
        (IntDistribution(1, 4), 3, ""),
        (IntDistribution(8, 9), 9, ""),
        (MOMENTA, 0.95, "upper"),
        (MOMENTA, 0.9, ""),
        (CategoricalDistribution((64, 8, 32)), 8, "lower"),
        (CategoricalDistribution((8, 64)), 8, ""),
        (CategoricalDistribution((False, True)), True, ""),
        (CategoricalDistribution(("cosine", "linear", "wsd")), "cosine", ""),
    ],
)
def test_a_value_at_an_end_of_an_order_is_named(knob: BaseDistribution, value: Any, end: str) -> None:
    assert find_bounds({"x": knob}, {"x": value}) == ({"x": end} if end else {})


def test_the_end_of_what_a_knob_may_be_does_not_count() -> None:
    unit, decays = FloatDistribution(0.0, 1.0), FloatDistribution(0.0, 0.1)
    knobs = {"momentum": MOMENTA, "weight_decay": decays, "augmentation_strength": unit, "x": unit}
    assert find_bounds(knobs, dict.fromkeys(knobs, 0.0)) == {"x": "lower"}
    most = {"momentum": 0.95, "weight_decay": 0.1, "augmentation_strength": 0.99, "x": 1.0}
    assert find_bounds(knobs, most) == {"momentum": "upper", "weight_decay": "upper", "x": "upper"}
    assert find_bounds({"momentum": CategoricalDistribution((0.5, 0.8, 0.9))}, {"momentum": 0.5}) == {
        "momentum": "lower"
    }


def test_a_knob_without_a_value_does_not_count() -> None:
    assert find_bounds({"x": RATES, "y": RATES}, {"y": 1.0}) == {"y": "upper"}

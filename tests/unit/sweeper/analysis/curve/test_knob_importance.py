import numpy as np
import pytest

from sweeper.analysis.curve.knob_importance import measure_shares


def test_the_knob_that_decides_has_the_larger_share() -> None:
    rng = np.random.default_rng(0)
    places = {"a": rng.uniform(size=80), "b": rng.uniform(size=80)}
    found = measure_shares(places, 3 * places["a"] + 0.3 * places["b"])
    assert found["a"] > 0.8
    assert sum(found.values()) == pytest.approx(1.0)
    assert found == measure_shares(places, 3 * places["a"] + 0.3 * places["b"])

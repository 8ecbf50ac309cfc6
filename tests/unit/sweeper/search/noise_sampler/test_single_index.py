"""The single-index fit of many configurations, and its spline's knots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sweeper.search.noise_sampler import single_index
from sweeper.search.noise_sampler.single_index import MOST_CONFIGS, Basis, fit_tilts
from sweeper.search.noise_sampler.study_attrs import Observations
from tests.support.noise_search import SPACE, space_of


def test_a_bounded_share_of_many_configurations_enters_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    space, given = space_of(SPACE), list[Any]()
    fit_index = single_index.fit_index

    def fit(columns: Any, z: Any, weight: Any, starts: Any, *, draws: int = 1, seed: int = 0) -> Any:
        given.append((columns, z, weight))
        return fit_index(columns, z, weight, starts, draws=1, seed=seed)

    monkeypatch.setattr(single_index, "fit_index", fit)
    # the learning rate alone tells 1,250 configurations apart, each with two repeats
    unit = np.repeat(np.random.default_rng(0).random((1250, len(SPACE))), 2, axis=0)
    phi = space.points(unit).log_noise
    losses = ((phi - phi.mean()) ** 2 + 0.1 * np.random.default_rng(1).standard_normal(len(phi)))[:, None]
    seen = Observations(unit, losses, np.arange(len(unit)), np.zeros(len(unit), dtype=bool))
    tilt = np.zeros(len(space.factor_roles))
    first, again = fit_tilts(space, seen, tilt, 0), fit_tilts(space, seen, tilt, 0)
    assert first is not None
    assert again is not None
    assert first.best.tolist() == again.best.tolist()
    assert len(given[0][1]) == MOST_CONFIGS
    assert set(given[0][2].tolist()) == {2.0}  # whole configurations with all their repeats
    assert given[0][0][:, 0].min() < np.quantile(phi, 0.01)
    assert given[0][0][:, 0].max() > np.quantile(phi, 0.99)


def test_knots_lie_at_quantiles_and_equal_values_share_one() -> None:
    x = np.random.default_rng(0).standard_normal(101)
    basis = Basis.of(x)
    knots = basis.low + basis.knots * (basis.high - basis.low)
    assert knots == pytest.approx(np.quantile(x, np.linspace(0, 1, 6)))
    assert basis(x).shape == (101, 5)
    few = Basis.of(np.repeat([0.0, 1.0, 3.0], 40))
    assert (few.low, few.high, len(few.knots)) == (0.0, 3.0, 3)
    many = Basis.of(np.concatenate([np.zeros(90), np.linspace(0.5, 1.0, 40)]))  # half of the knots coincide
    assert len(set(many.knots.tolist())) == len(many.knots)
    assert np.isfinite(many(np.linspace(-1, 2, 7))).all()

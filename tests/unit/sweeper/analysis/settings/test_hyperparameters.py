"""Draws of hyperparameters against observations whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.analysis.settings.hyperparameters import draw_models
from sweeper.search.noise_sampler.kernel import Prior
from sweeper.search.noise_sampler.loss_transform import transform_losses
from sweeper.search.noise_sampler.surrogate import Surrogate, fit
from tests.support.noise_search import SPACE, ridge, space_of


def _fitted(count: int, noise: float, slope: float = 0.0, seed: int = 0) -> Surrogate:
    # scatter grows by e^slope with every sd by which the loss falls
    space, rng = space_of(SPACE), np.random.default_rng(seed)
    unit = rng.random((count, len(space.knobs)))
    true = transform_losses(np.array([ridge(space.params_of(row)) for row in unit]))
    values = true + noise * np.exp(-slope * true) * rng.standard_normal(count)
    prior = Prior.of(len(space.knobs), np.full(len(space.factor_roles), 0.1), 10.0, 5.0)
    nominal = np.array([k.nominal for k in space.knobs])
    return fit(space.points(unit), (values - values.mean()) / values.std(), nominal, prior, limit=60)


def test_the_same_generator_draws_the_same_models() -> None:
    model = _fitted(20, 0.2)
    one, two = (draw_models(model, np.random.default_rng(5)) for _ in range(2))
    assert len(one) == 24
    assert all(np.array_equal(a.kernel.theta, b.kernel.theta) for a, b in zip(one, two, strict=True))
    assert len({tuple(m.kernel.theta) for m in one}) > 12
    low, high = model.kernel.bounds.T
    assert all(((m.kernel.theta >= low) & (m.kernel.theta <= high)).all() for m in one)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_noise_that_depends_on_the_score_is_seen(slope: float) -> None:
    model = _fitted(90, 0.1, slope)  # more than set the hyperparameters
    best = int(model.left_out_means().argmin())
    spreads = [m.kernel.spread for m in draw_models(model, np.random.default_rng(0))]
    assert all(s is not None and len(s) == 90 for s in spreads)
    larger = np.mean([s[best] > 1.0 for s in spreads if s is not None])
    assert (larger > 0.9) if slope > 0 else (larger < 0.1)


def test_draws_are_less_sure_than_the_most_probable_hyperparameters() -> None:
    model = _fitted(20, 0.3)
    points = model.points
    each = [m.predict(points) for m in draw_models(model, np.random.default_rng(1))]
    spread = np.sqrt(np.var([m for m, _ in each], axis=0) + np.mean([s**2 for _, s in each], axis=0))
    assert spread.mean() > model.predict(points)[1].mean()

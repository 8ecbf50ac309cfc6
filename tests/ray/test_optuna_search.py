"""The sampler inside Ray Tune's own Optuna search."""

import math
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler

pytestmark = pytest.mark.ray

SPACE = {
    "learning_rate": FloatDistribution(3e-4, 3.0, log=True),
    "batch_size": IntDistribution(8, 128, log=True),
    "momentum": CategoricalDistribution((0.0, 0.9)),
}
BEST = 1e-2


def loss(params: Mapping[str, Any]) -> float:
    return abs(math.log(params["learning_rate"] / params["batch_size"] / (1 - params["momentum"]) / BEST))


def search() -> Any:
    from ray.tune.search.optuna import OptunaSearch

    sampler = NoiseTargetedSampler(seed=0, search_space=SPACE, n_startup=5)
    return OptunaSearch(space=SPACE, sampler=sampler, metric="loss", mode="min")


def told(searcher: Any, numbers: range) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []
    for i in numbers:
        asked.append(searcher.suggest(f"trial_{i}"))
        searcher.on_trial_result(f"trial_{i}", {"loss": 2.0, "training_iteration": 1})
        searcher.on_trial_complete(f"trial_{i}", {"loss": loss(asked[-1]), "training_iteration": 2})
    return asked


def test_a_pickled_search_continues() -> None:
    first = search()
    asked = told(first, range(10))
    copy = pickle.loads(pickle.dumps(first))
    more = told(first, range(10, 14))
    assert told(copy, range(10, 14)) == more
    assert min(map(loss, asked + more)) < 0.2

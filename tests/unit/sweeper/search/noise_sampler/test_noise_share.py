"""The share of what a model explains that is the noise's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sweeper.search.noise_sampler.sampler import _share


@dataclass
class Model:
    share: float
    certain: bool = True

    def noise_share(self) -> float:
        return self.share

    def predicts(self) -> bool:
        return self.certain


@pytest.mark.parametrize("best", [0.1, 0.5, 0.99995])
def test_the_interval_of_the_share_holds_the_share_that_is_printed(best: float) -> None:
    models: list[Any] = [Model(best), *(Model(0.4 + i / 100) for i in range(21))]
    found = _share(models)
    low, high = found["share_low"], found["share_high"]
    assert low is not None
    assert high is not None
    assert low <= best <= high
    assert low <= 0.42
    assert high >= 0.58


def test_no_share_is_stated_of_a_model_that_predicts_nothing() -> None:
    models: list[Any] = [Model(0.99, certain=False)]
    assert _share(models) == {"variance_share": None}

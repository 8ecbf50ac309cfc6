"""Optuna's own conformance kit for samplers."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


# the kit's objectives change ranges and knobs on their way, and warnings are errors here
@pytest.mark.filterwarnings("ignore:the range of:UserWarning")
@pytest.mark.filterwarnings("ignore:some of the last:UserWarning")
@pytest.mark.filterwarnings("ignore:some finished trials lack:UserWarning")
class TestNoiseTargetedSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: NoiseTargetedSampler(seed=0, n_startup=2)

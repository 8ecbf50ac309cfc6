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

from sweeper.sampler import NoiseTargetedSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestNoiseTargetedSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: NoiseTargetedSampler(seed=0, n_startup=2)

"""The start-up design."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from sweeper.search.noise_sampler.candidates import (
    find_range,
    startup_point,
    van_der_corput,
)
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler
from tests.support.noise_search import SPACE, ridge, run, space_of


def test_van_der_corput_values() -> None:
    assert [van_der_corput(i) for i in range(5)] == [0.0, 0.5, 0.25, 0.75, 0.125]


@pytest.mark.parametrize("seed", range(5))
def test_eight_startup_points_hold_one_noise_in_each_eighth_of_the_range(seed: int) -> None:
    space = space_of(SPACE)
    low, high = find_range(space)
    unit = np.stack([startup_point(space, seed, i) for i in range(8)])
    share = (space.points(unit).log_noise - low) / (high - low)
    shift = (share[0] - van_der_corput(0)) % 1.0
    expected = [(van_der_corput(i) + shift) % 1.0 for i in range(8)]
    assert share == pytest.approx(expected, abs=0.045)
    assert max(np.diff(np.sort(share))) < 1 / 8 + 0.09
    for column in unit.T[[0, 3, 4]]:
        assert np.ptp(column) > 0.3


def test_startup_is_a_function_of_seed_and_number() -> None:
    first = run(NoiseTargetedSampler(seed=3, search_space=SPACE), ridge, 5)
    again = NoiseTargetedSampler(seed=3, search_space=SPACE)
    study = optuna.create_study(sampler=again)
    together = [study.ask(SPACE).params for _ in range(5)]  # none is told
    assert together == [t.params for t in first.trials]
    assert run(NoiseTargetedSampler(seed=4, search_space=SPACE), ridge, 1).trials[0].params != together[0]


def test_startup_without_noise_fills_the_cube() -> None:
    space = space_of({f"x{i}": FloatDistribution(0, 1) for i in range(3)})
    unit = np.stack([startup_point(space, 0, i) for i in range(16)])
    assert space.pivot is None
    for column in unit.T:  # a scrambled Sobol sequence has one of 16 points in each sixteenth
        assert sorted((column * 16).astype(int)) == list(range(16))

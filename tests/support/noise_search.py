"""A space whose best noise is known, and searches in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.search.noise_sampler.encoding import check_fixed, check_names
from sweeper.search.noise_sampler.level_sets import KnobSpace, make_knob_space
from trainables.noise import NOISE

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "learning_rate": FloatDistribution(3e-4, 3.0, log=True),
    "batch_size": IntDistribution(8, 128, log=True),
    "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
    "weight_decay": FloatDistribution(1e-5, 3e-2, log=True),
    "augmentation_strength": FloatDistribution(0.0, 1.0),
}
BEST = 1e-2


def space_of(space: Mapping[str, Any], noise: str = "paper", **fixed: float) -> KnobSpace:
    return make_knob_space(space, NOISE[noise], check_names(None), check_fixed(fixed))


def ridge(params: Mapping[str, Any]) -> float:
    noise = params["learning_rate"] / (params["batch_size"] * (1 - params["momentum"]))
    return -math.exp(-0.5 * math.log(noise / BEST) ** 2)


def run(
    sampler: optuna.samplers.BaseSampler,
    objective: Callable[[Mapping[str, Any]], float],
    n: int,
    space: Mapping[str, Any] = SPACE,
    direction: str = "minimize",
) -> optuna.Study:
    study = optuna.create_study(sampler=sampler, direction=direction)
    for _ in range(n):
        trial = study.ask(dict(space))
        study.tell(trial, objective(trial.params))
    return study

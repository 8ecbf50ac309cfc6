"""Samplers by name: designs whose point i is a function of (seed, i), and Optuna samplers that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search_spaces._conditions import Conditions
from trainables.registry import Registry

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from sweeper.search.noise_sampler.level_sets import KAugOf
    from sweeper.search.noise_sampler.prior import NoisePrior
from sweeper.search.designs import Design, Knobs, grid_design, qmc_design, random_design


@dataclass(frozen=True)
class Sampler:
    """One way to choose configurations.

    Attributes:
        doc: One phrase for people.
        design: Point by number, for designs.
        make: Builds the Optuna sampler, for those that learn.
        stateless: Its draws are a function of seed and trial number, so it resumes with the same seed.
        several: Whether it searches several objectives.
        constrained: Whether it reads constraints; the others are told the worst value where one is broken.
        infeasible: Whether it learns from a trial that ended without any value, such as one out of memory.
    """

    doc: str
    design: Design | None = None
    make: Callable[..., BaseSampler] | None = None
    stateless: bool = False
    several: bool = True
    constrained: bool = True
    infeasible: bool = False


SAMPLERS: Registry[Sampler] = Registry("sampler")


def _noise(
    seed: int,
    knobs: Knobs,
    noise: str,
    constants: Mapping[str, float],
    k_aug: KAugOf | None = None,
    conditions: Conditions | None = None,
    prior: NoisePrior | None = None,
) -> BaseSampler:
    from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler

    return NoiseTargetedSampler(
        noise=noise,
        seed=seed,
        search_space=dict(knobs),
        fixed=dict(constants),
        k_aug=k_aug,
        conditions=conditions,
        prior=prior,
    )


def _tpe(seed: int, **_: Any) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, constant_liar=True)


def _gp(seed: int, conditions: Conditions, **_: Any) -> BaseSampler:
    from optuna.samplers import GPSampler

    # knobs that do not act everywhere are drawn at random
    return GPSampler(seed=seed, deterministic_objective=False, warn_independent_sampling=not conditions)


def _cmaes(seed: int, **_: Any) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


SAMPLERS.add(
    "noise", Sampler("targets the optimal effective noise scale", make=_noise, stateless=True, infeasible=True)
)
SAMPLERS.add("tpe", Sampler("Optuna's tree-structured Parzen estimator", make=_tpe))
SAMPLERS.add("gp", Sampler("Optuna's Gaussian-process sampler", make=_gp))
SAMPLERS.add(
    "cmaes",
    Sampler("Optuna's CMA-ES; categorical knobs are drawn at random", make=_cmaes, several=False, constrained=False),
)
SAMPLERS.add("qmc", Sampler("scrambled Sobol points", design=qmc_design))
SAMPLERS.add("random", Sampler("independent random points", design=random_design))
SAMPLERS.add("grid", Sampler("full grid in random order", design=grid_design))

"""Registry of samplers: designs whose point i is a function of (seed, i), and adaptive Optuna samplers."""

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
        design: Function that returns a point by number; None for an adaptive sampler.
        make: Function that builds the Optuna sampler; None for a design.
        stateless: Whether seed and trial number determine its draws, so that a resumed sweep keeps the seed.
        several: Whether it supports several objectives.
        constrained: Whether it reads constraints; the others get the worst value for a violated constraint.
        infeasible: Whether it learns from a trial without a value, such as one out of memory.
    """

    doc: str
    design: Design | None = None
    make: Callable[..., BaseSampler] | None = None
    stateless: bool = False
    several: bool = True
    constrained: bool = True
    infeasible: bool = False


SAMPLERS: Registry[Sampler] = Registry("sampler")
_STARTUP = 5  # a sweep maps the noise in a stage of its own, before the sampler searches


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
        n_startup=_STARTUP,
    )


def _tpe(seed: int, **_: Any) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, constant_liar=True)


def _gp(seed: int, conditions: Conditions, **_: Any) -> BaseSampler:
    from optuna.samplers import GPSampler

    # Optuna draws conditional knobs at random
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
    Sampler("Optuna's CMA-ES with random categorical knobs", make=_cmaes, several=False, constrained=False),
)
SAMPLERS.add("qmc", Sampler("scrambled Sobol points", design=qmc_design))
SAMPLERS.add("random", Sampler("independent random points", design=random_design))
SAMPLERS.add("grid", Sampler("full grid in random order", design=grid_design))

"""Contestants of the race: Optuna's samplers with their defaults, the same over log noise, and ours."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from sweeper.search.noise_sampler.fit import Parts
from sweeper.search.noise_sampler.prior import NoisePrior
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler

from .problems import Params, Problem, Space, log_noise


@dataclass(frozen=True)
class Answer:
    """What a contestant says after some trials.

    Attributes:
        params: Recommended configuration.
        noise: Estimated best log noise.
        low, high: Its 90 % interval; NaN where the contestant gives none.
    """

    params: Params
    noise: float
    low: float = math.nan
    high: float = math.nan


class Contestant(Protocol):
    """One way to search a problem."""

    space: Space

    def sampler(self) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        ...

    def params(self, asked: Params) -> dict[str, Any]:
        """Return the problem's configuration for one of the contestant's space."""
        ...

    def answer(self, finished: Sequence[FrozenTrial], noise: bool = True) -> Answer:
        """Return the recommendation; finished trials count, at least one. Without `noise` the interval may be NaN."""
        ...


class Ours:
    """`NoiseTargetedSampler`; without some of its parts, or with a prior that is off by a factor."""

    def __init__(self, problem: Problem, seed: int, off: float | None = None, **without: bool) -> None:
        self.space = problem.space
        best = math.exp(problem.best_noise)
        prior = off and NoisePrior(best * off, best * off / 1.5, best * off * 1.5)
        self._sampler = NoiseTargetedSampler(seed=seed, search_space=problem.space, prior=prior or None)
        self._sampler._parts = Parts(**without)

    def sampler(self) -> optuna.samplers.BaseSampler:
        return self._sampler

    def params(self, asked: Params) -> dict[str, Any]:
        return dict(asked)

    def answer(self, finished: Sequence[FrozenTrial], noise: bool = True) -> Answer:
        found = self._sampler.recommend(finished)
        params = found.params if found else min(finished, key=lambda t: t.value or 0.0).params
        if not noise:
            return Answer(params, log_noise(params))
        seen = self._sampler.explain(finished)
        if seen.optimum is None or seen.optimum_low is None or seen.optimum_high is None:
            return Answer(params, log_noise(params))
        return Answer(params, math.log(seen.optimum), math.log(seen.optimum_low), math.log(seen.optimum_high))


class Theirs:
    """One of Optuna's samplers.

    It recommends its best observation where observations are exact; where they are noisy the finished configuration
    with the best posterior mean of a plain Gaussian process, which is more than it offers itself.
    """

    def __init__(self, problem: Problem, make: Callable[[], optuna.samplers.BaseSampler]) -> None:
        self.space, self._make, self._exact = problem.space, make, not problem.noise_sd

    def sampler(self) -> optuna.samplers.BaseSampler:
        return self._make()

    def params(self, asked: Params) -> dict[str, Any]:
        return dict(asked)

    def answer(self, finished: Sequence[FrozenTrial], noise: bool = True) -> Answer:
        values = np.array([t.value for t in finished])
        if not self._exact and len(finished) >= 5:
            values = posterior_means(self.space, finished)
        params = self.params(finished[int(values.argmin())].params)
        return Answer(params, log_noise(params))


class Reparametrised(Theirs):
    """The same with log noise in place of log learning rate; learning rates outside their range count as its end."""

    def __init__(self, problem: Problem, make: Callable[[], optuna.samplers.BaseSampler]) -> None:
        super().__init__(problem, make)
        self._rate, batch, momentum = (problem.space[k] for k in ("learning_rate", "batch_size", "momentum"))
        assert isinstance(self._rate, FloatDistribution)
        assert isinstance(batch, IntDistribution)
        assert isinstance(momentum, CategoricalDistribution)
        low = math.log(self._rate.low / batch.high) - math.log1p(-float(min(momentum.choices)))  # type: ignore[type-var]
        high = math.log(self._rate.high / batch.low) - math.log1p(-float(max(momentum.choices)))  # type: ignore[type-var]
        rest = {k: d for k, d in problem.space.items() if k != "learning_rate"}
        self.space = {"log_noise": FloatDistribution(low, high), **rest}

    def params(self, asked: Params) -> dict[str, Any]:
        rate = math.exp(asked["log_noise"]) * asked["batch_size"] * (1.0 - asked["momentum"])
        rest = {k: v for k, v in asked.items() if k != "log_noise"}
        assert isinstance(self._rate, FloatDistribution)
        return {"learning_rate": min(max(rate, self._rate.low), self._rate.high), **rest}


def posterior_means(space: Space, trials: Sequence[FrozenTrial]) -> np.ndarray:
    """Return the posterior mean of each trial by a Gaussian process over the knobs (Matérn 5/2, ARD, white noise)."""
    x = np.array([[_coordinate(d, t.params[name]) for name, d in space.items()] for t in trials])
    y = np.array([t.value for t in trials], dtype=float)
    y = np.minimum(y, np.median(y) + 3 * (np.median(y) - y.min()))  # collapsed pairs drown the rest
    if np.ptp(y) == 0:
        return y
    kernel = ConstantKernel(1.0, (0.1, 10)) * Matern(np.full(x.shape[1], 0.5), (0.05, 5), nu=2.5)
    kernel += WhiteKernel(0.05, (1e-4, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound
        model = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, y)
        return np.asarray(model.predict(x))


def _coordinate(d: Any, value: Any) -> float:
    if isinstance(d, CategoricalDistribution):
        return d.choices.index(value) / max(1, len(d.choices) - 1)
    low, high = (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)
    return ((math.log(value) if d.log else value) - low) / (high - low)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def _qmc(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False)


def _gp(seed: int, startup: int = 10) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)


CONTESTANTS: Mapping[str, Callable[[Problem, int], Contestant]] = {
    "noise": Ours,
    "tpe": lambda p, s: Theirs(p, lambda: _tpe(s)),
    "gp": lambda p, s: Theirs(p, lambda: _gp(s)),
    "gp5": lambda p, s: Theirs(p, lambda: _gp(s, 5)),
    "tpe_noise": lambda p, s: Reparametrised(p, lambda: _tpe(s)),
    "gp_noise": lambda p, s: Reparametrised(p, lambda: _gp(s)),
    "cmaes": lambda p, s: Theirs(p, lambda: optuna.samplers.CmaEsSampler(seed=s, warn_independent_sampling=False)),
    "qmc": lambda p, s: Theirs(p, lambda: _qmc(s)),
    "random": lambda p, s: Theirs(p, lambda: optuna.samplers.RandomSampler(seed=s)),
    "noise+prior": lambda p, s: Ours(p, s, off=1.0),
    "noise+wrong_prior": lambda p, s: Ours(p, s, off=10.0 if s % 2 else 0.1),
    "noise-level_sets": lambda p, s: Ours(p, s, level_sets=False),
    "noise-exponents": lambda p, s: Ours(p, s, exponents=False),
    "noise-residual": lambda p, s: Ours(p, s, residual=False),
    "noise-repeats": lambda p, s: Ours(p, s, repeats=False),
}

"""NoiseTargetedSampler: an Optuna sampler that searches along the effective noise scale.

Works under `study.optimize`, ask and tell, and Ray Tune's `OptunaSearch(space=<distributions>, sampler=...)`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from trainables.noise import NOISE

from .candidates import (
    STARTUP,
    log_expected_improvement,
    neighbours,
    propose,
    reach,
    startup_point,
)
from .exchange import NOISE_TARGET_KEY, PARAMS_KEY, SEARCH_KEY, keys, note, observed, tried
from .explanation import Explanation, best_noise
from .knobs import Array, check_fixed, check_names
from .noise_axis import KAugOf, KnobSpace, knob_space
from .noise_choice import check_target
from .surrogate import Posterior, Prior, fit, thin

if TYPE_CHECKING:
    from optuna.study import Study

_TILT_SD = 0.1  # prior sd of each refined exponent, relative to the pivot's
_MAX_TRIALS, _MAX_PENDING = 500, 128
_DRAWS, _GRID, _LEVELS = 200, 160, 8
_REFINEMENTS, _REFINED, _CHILDREN, _FEWEST = 2, 4, 24, 3

__all__ = ["NOISE_TARGET_KEY", "PARAMS_KEY", "SEARCH_KEY", "Explanation", "NoiseTargetedSampler"]


Taken = Collection[tuple[float, ...]]


@dataclass(frozen=True)
class _Fitted:
    space: KnobSpace
    model: Posterior
    losses: Array  # of the model's points, shape (n,)
    axis: Array  # grid of refined log noise, shape (m,)
    draws: Array  # argbest of f in each posterior draw, shape (_DRAWS,)
    mean: Array  # mean of f on the grid, shape (m,)


class NoiseTargetedSampler(BaseSampler):
    """Search along the effective noise scale: a Gaussian process over log noise plus a smaller one over all knobs.

    Knobs are known by name (`learning_rate`, `batch_size`, `momentum`, `weight_decay`, `augmentation` or
    `augmentation_strength`) and may be float, integer or numeric categorical. The first trials are a design with
    evenly spread noise; later ones maximise expected improvement over level sets of promising noise, space filling
    and neighbours of the best. Spaces without any noise knob get an ordinary Gaussian process.

    Failed and pruned trials and those without a finite value teach nothing but are not proposed again; tell a finite
    penalty for a configuration that is bad. Running trials count as if they had returned what the model expects.
    Proposals are functions of (seed, trial number, trials so far): nothing is kept between asks.

    Args:
        noise: Name of a predicted scale in `trainables.noise.NOISE`.
        seed: Seed of every draw; None takes one from the operating system.
        search_space: Parameter name -> distribution. Without it the space is that of the finished trials, so trials
            before the first result are drawn at random instead of designed.
        knobs: Parameter name -> role, where names differ: `{"lr": "learning_rate"}`; None takes a role away.
        fixed: Values that the formula needs and the space does not vary, such as `{"momentum": 0.9, "examples": 720}`.
        n_startup: Number of designed first trials.
        k_aug: Parameters -> k_aug, for `paper_aug`: how augmentation multiplies the noise, such as `sweeper.KAug`.

    Raises:
        ValueError: An unknown or measured noise, an unknown role or constant, knobs that the formula cannot use, or a
            formula with k_aug and none given.
    """

    def __init__(
        self,
        noise: str = "paper",
        seed: int | None = 0,
        search_space: Mapping[str, BaseDistribution] | None = None,
        knobs: Mapping[str, str | None] | None = None,
        fixed: Mapping[str, float] | None = None,
        n_startup: int = 10,
        k_aug: KAugOf | None = None,
    ) -> None:
        scale = check_target(noise)
        if ("k_aug" in scale.needs) != (k_aug is not None):
            way = (
                "give k_aug, a function of a trial's parameters, such as sweeper.KAug"
                if k_aug is None
                else ("leave k_aug out, or take noise='paper_aug'")
            )
            raise ValueError(f"noise {noise!r} is {scale.formula}; {way}")
        self._noise, self._k_aug = scale.name, k_aug
        self._names = check_names(knobs)
        self._fixed = check_fixed(fixed)
        if n_startup < 0:
            raise ValueError(f"n_startup must be >= 0, got {n_startup!r}")
        self._n_startup = n_startup
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be >= 0 or None, got {seed!r}")
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._search_space = None if search_space is None else dict(search_space)
        if self._search_space:
            self._space(self._search_space)  # a space that cannot be used is refused now, not at the first ask

    def _space(self, search_space: Mapping[str, BaseDistribution]) -> KnobSpace:
        return knob_space(search_space, NOISE[self._noise], self._names, self._fixed, self._k_aug)

    def reseed_rng(self) -> None:
        """Do nothing: draws depend on the trial's number, so copies of the sampler already differ."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the given search space, or what the finished trials have in common.

        Raises:
            ValueError: The study has several objectives.
        """
        _check_single(study)
        if self._search_space is not None:
            return dict(self._search_space)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return dict(intersection_search_space(finished))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a uniform draw of one parameter that is not in the relative space.

        Raises:
            ValueError: The study has several objectives.
        """
        _check_single(study)
        rng = np.random.default_rng([self._seed, trial.number, *param_name.encode()])
        # k_aug is a function of whole configurations
        space = knob_space({param_name: param_distribution}, NOISE[self._noise], self._names, self._fixed)
        return space.params_of(rng.random(1))[param_name]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a trial, and note in its system attributes why (`SEARCH_KEY`).

        Raises:
            ValueError: The study has several objectives, or the space cannot be used.
        """
        _check_single(study)
        if not search_space:
            return {}
        space = self._space(search_space)
        trials = study.get_trials(deepcopy=False)
        units, losses = observed(space, trials, study.direction)
        others = [t for t in trials if t.number != trial.number]
        taken = {*keys(units), *keys(tried(space, others))}
        rng = np.random.default_rng([self._seed, trial.number])
        if trial.number < self._n_startup or len(losses) < _FEWEST:
            unit, origin, thought = self._start(space, trial.number, taken, rng), STARTUP, self._ignorant(space)
            level = math.nan
        else:
            fitted = self._fit(space, units, losses, rng)
            running = tried(space, others, (TrialState.RUNNING,))[-_MAX_PENDING:]
            unit, origin, level = _choose(fitted, running, taken, rng)
            thought = self._explanation(fitted)
        params = space.params_of(unit)
        target = None if math.isnan(level) else math.exp(level)
        note(study, trial, space, params, {"origin": origin, **asdict(thought)}, target)
        return params

    def explain(self, trials: Sequence[FrozenTrial], direction: str | StudyDirection = "minimize") -> Explanation:
        """Return what the finished trials say: exponents, best noise with a 90 % interval, share of the noise.

        Args:
            trials: Trials of a study, finished or not.
            direction: `minimize` or `maximize`, or the study's `direction`.

        Raises:
            ValueError: Another direction, or knobs that the formula cannot use.
        """
        asked = direction if isinstance(direction, StudyDirection) else _direction(direction)
        finished = [t for t in trials if t.state == TrialState.COMPLETE]
        search_space = self._search_space if self._search_space is not None else intersection_search_space(finished)
        if not search_space:
            return Explanation(self._noise, {})
        space = self._space(search_space)
        units, losses = observed(space, finished, asked)
        if len(losses) < _FEWEST:
            return self._ignorant(space)
        return self._explanation(self._fit(space, units, losses, np.random.default_rng(self._seed)))

    def _start(self, space: KnobSpace, number: int, taken: Taken, rng: np.random.Generator) -> Array:
        unit = startup_point(space, self._seed, number)
        if keys(unit[None, :])[0] not in taken:
            return unit
        # in a small space the design meets itself
        spare = space.points(rng.random((64, len(space.knobs)))).unit
        return next((u for u, k in zip(spare, keys(spare), strict=True) if k not in taken), unit)

    def _fit(self, space: KnobSpace, units: Array, losses: Array, rng: np.random.Generator) -> _Fitted:
        rows = thin(losses, _MAX_TRIALS)
        points = space.points(units[rows])
        low, high = reach(space)
        exponent = 1.0 if space.pivot is None else abs(_given(space, space.knobs[space.pivot].role))
        prior = Prior.of(len(space.knobs), np.full(len(space.factor_roles), _TILT_SD * exponent), high - low)
        nominal = np.array([knob.nominal for knob in space.knobs])
        model = fit(points, losses[rows], nominal, prior, high > low)
        if not high > low:
            return _Fitted(space, model, losses[rows], np.zeros(0), np.zeros(0), np.zeros(0))
        seen = model.axis(points)
        axis = np.linspace(min(low, float(seen.min())), max(high, float(seen.max())), _GRID)
        mean, covariance = model.noise_curve(axis)
        return _Fitted(space, model, losses[rows], axis, axis[_draw(mean, covariance, rng).argmin(axis=1)], mean)

    def _ignorant(self, space: KnobSpace) -> Explanation:
        roles = [k.role for k in space.knobs if k.role in space.noise.knobs]
        roles += ["k_aug"] if "k_aug" in space.factor_roles else []
        exponents = {str(role): _given(space, role) for role in roles}
        return Explanation(self._noise, exponents)

    def _explanation(self, fitted: _Fitted) -> Explanation:
        space, theta = fitted.space, fitted.model.theta
        exponents = self._ignorant(space).exponents
        for role, tilt in zip(space.factor_roles, theta.tilt, strict=True):
            sign = -1.0 if role in ("batch_size", "momentum") else 1.0
            exponents[role] = _given(space, role) + sign * float(tilt)
        share = fitted.model.noise_share()
        known = Explanation(self._noise, exponents, variance_share=share, trials=len(fitted.model.points))
        found = best_noise(fitted.model.axis(fitted.model.points), fitted.losses) if len(fitted.axis) else None
        if found is None:
            return known
        return replace(known, optimum=found.best, optimum_low=found.low, optimum_high=found.high)


def _choose(fitted: _Fitted, running: Array, taken: Taken, rng: np.random.Generator) -> tuple[Array, str, float]:
    # the chosen point, its origin, and the refined log noise it was aimed at (NaN: none)
    space, model = fitted.space, fitted.model
    believer = model.believe(space.points(running)) if len(running) else model
    levels = fitted.axis[:0]
    if len(fitted.axis):
        levels = np.concatenate([[fitted.axis[int(fitted.mean.argmin())]], rng.choice(fitted.draws, _LEVELS - 1)])
    incumbent = float(model.predict(model.points)[0].min())
    pool = propose(space, model, levels, rng)
    score = log_expected_improvement(*believer.predict(pool.points), incumbent)
    for _ in range(_REFINEMENTS):
        top = np.argsort(-score, kind="stable")[:_REFINED]
        more = space.points(neighbours(space, pool.points.unit[top], model, rng, _CHILDREN))
        pool = pool.refined(more, np.repeat(top, _CHILDREN))
        score = np.concatenate([score, log_expected_improvement(*believer.predict(more), incumbent)])
    order, names = np.argsort(-score, kind="stable"), keys(pool.points.unit)
    best = int(next((i for i in order if names[i] not in taken), order[0]))
    return pool.points.unit[best], pool.origin[best], float(pool.level[best])


def _check_single(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError(
            f"NoiseTargetedSampler searches one objective, this study has {len(study.directions)}; "
            "create the study with one direction, or use optuna.samplers.NSGAIISampler or TPESampler"
        )


def _direction(name: str) -> StudyDirection:
    if name not in ("minimize", "maximize"):
        raise ValueError(f"direction must be 'minimize' or 'maximize', got {name!r}")
    return StudyDirection.MINIMIZE if name == "minimize" else StudyDirection.MAXIMIZE


def _given(space: KnobSpace, role: str | None) -> float:
    # exponent of the role's factor in the definition; 1 + mu counts as momentum's factor where there is no 1 - mu
    exponents = space.noise.exponents
    if role == "momentum":
        return float(exponents.get("one_minus_momentum", exponents.get("one_plus_momentum", 0.0)))
    return float(exponents.get(str(role), 0.0))


def _draw(mean: Array, covariance: Array, rng: np.random.Generator) -> Array:
    # symmetric square root: the posterior covariance on a fine grid is singular
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return mean + rng.standard_normal((_DRAWS, len(mean))) @ root.T

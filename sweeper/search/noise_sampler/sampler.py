"""NoiseTargetedSampler: an Optuna sampler that searches along the effective noise scale.

Works under `study.optimize`, ask and tell, and Ray Tune's `OptunaSearch(space=<distributions>, sampler=...)`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.noise_sampler.acquisition import Aims, choose
from sweeper.search.noise_sampler.candidates import STARTUP, find_inside, startup_point
from sweeper.search.noise_sampler.encoding import FACTORS, Array, check_fixed, check_names, nearest_value
from sweeper.search.noise_sampler.explanation import BestDraws, Explanation
from sweeper.search.noise_sampler.fit import (
    Parts,
    SurrogateFit,
    draw_weights,
    fit_constraint,
    fit_surrogate,
    given_exponent,
    predict_mixture,
)
from sweeper.search.noise_sampler.level_sets import Conditions, KAugOf, KnobSpace, make_knob_space
from sweeper.search.noise_sampler.loss_transform import LossTransform
from sweeper.search.noise_sampler.prior import NoisePrior
from sweeper.search.noise_sampler.single_index import fit_index, has_enough, tail_floor
from sweeper.search.noise_sampler.study_attrs import (
    NOISE_TARGET_KEY,
    PARAMS_KEY,
    SEARCH_KEY,
    Observations,
    point_keys,
    read_constraints,
    read_observations,
    read_proposal,
    read_tried,
    write_proposal,
)
from sweeper.search.noise_sampler.study_space import describe_changes, infer_space, missing_values
from sweeper.search.noise_sampler.surrogate import Surrogate, one_thread
from sweeper.search.noise_targets import check_target
from trainables.noise import NOISE

if TYPE_CHECKING:
    from optuna.study import Study

_MAX_PENDING, _LEVELS = 128, 8
_FEWEST = 3
_FADE = 10.0  # trials after which a prior counts half

__all__ = ["NOISE_TARGET_KEY", "PARAMS_KEY", "SEARCH_KEY", "Explanation", "NoiseTargetedSampler", "RecommendedTrial"]


Taken = Collection[tuple[float, ...]]
Direction = str | StudyDirection | Sequence[str | StudyDirection]


@dataclass(frozen=True)
class RecommendedTrial:
    """The finished configuration with the best posterior mean.

    Attributes:
        number: Number of its first trial.
        params: Its parameters.
        mean, sd: Posterior of its noise-free objective, in the study's unit and direction.
    """

    number: int
    params: dict[str, Any]
    mean: float
    sd: float


class NoiseTargetedSampler(BaseSampler):
    """Search along the effective noise scale: a Gaussian process over log noise plus a smaller one over all knobs.

    Knobs are known by name (`learning_rate`, `batch_size`, `momentum`, `weight_decay`, `augmentation` or
    `augmentation_strength`) and may be float, integer or numeric categorical. The first trials are a design with
    evenly spread noise; later ones maximise expected improvement over level sets of promising noise, space filling
    and neighbours of the best. Spaces without any noise knob get an ordinary Gaussian process.

    Failed trials and those without a finite value teach nothing but are not proposed again; tell a finite penalty for
    a configuration that is bad. Pruned trials count as no better than four fifths of the others. Running trials count
    as if they had returned what the model expects. Constraints (`Trial.set_constraint`) are learnt from finished
    trials in any state. Several objectives are searched one random weighting at a time (Knowles 2006, ParEGO, eq. 2).
    Proposals are functions of (seed, trial number, trials so far): nothing is kept between asks.

    Args:
        noise: Name of a predicted scale in `trainables.noise.NOISE`.
        seed: Seed of every draw; None takes one from the operating system.
        search_space: Parameter name -> distribution. Without it the space is what the latest finished trials share,
            so trials before the first result are drawn at random instead of designed.
        knobs: Parameter name -> role, where names differ: `{"lr": "learning_rate"}`; None takes a role away.
        fixed: Values that the formula needs and the space does not vary, such as `{"momentum": 0.9, "examples": 720}`;
            also those of earlier trials that lack a knob.
        n_startup: Number of designed first trials.
        k_aug: Parameters -> k_aug, for `paper_aug`: how augmentation multiplies the noise, such as `sweeper.KAug`.
        conditions: Parameter name -> {other parameter: its values with which the first acts}. What does not act is
            proposed all the same, and may be missing in finished trials.
        prior: What finished searches found the best noise to be; it fades with the trials.
        reevaluate: Whether a finished configuration may be proposed again, where observations are noisy.

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
        n_startup: int = 5,
        k_aug: KAugOf | None = None,
        conditions: Conditions | None = None,
        prior: NoisePrior | None = None,
        reevaluate: bool = True,
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
        self._fixed, self._stated = check_fixed(fixed), dict(fixed or {})
        if n_startup < 0:
            raise ValueError(f"n_startup must be >= 0, got {n_startup!r}")
        self._n_startup = n_startup
        self._warned: set[str] = set()
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be >= 0 or None, got {seed!r}")
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._conditions = {k: {o: tuple(v) for o, v in needs.items()} for k, needs in (conditions or {}).items()}
        self._prior, self._parts = prior, Parts(repeats=reevaluate)
        self._search_space = None if search_space is None else dict(search_space)
        if self._search_space:
            self._space(self._search_space)  # a space that cannot be used is refused now, not at the first ask

    def _space(self, search_space: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial] = ()) -> KnobSpace:
        stated = {name: self._stated[r] for name in search_space if (r := self._names.get(name)) in self._stated}
        missing = missing_values(search_space, trials, tuple(self._conditions), stated)
        for text in describe_changes(search_space, trials, missing):
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, UserWarning, stacklevel=3)
        return make_knob_space(
            search_space, NOISE[self._noise], self._names, self._fixed, self._k_aug, self._conditions, missing
        )

    def reseed_rng(self) -> None:
        """Do nothing: draws depend on the trial's number, so copies of the sampler already differ."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the given search space, or what the latest finished trials share."""
        return self._resolve_space(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def _resolve_space(self, trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
        return infer_space(trials) if self._search_space is None else dict(self._search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value of one parameter that the relative space does not serve.

        A range that changes with this very trial gets the nearest value to the proposal; another parameter is drawn
        uniformly.
        """
        if (proposed := read_proposal(trial).get(param_name)) is not None:
            return nearest_value(param_distribution, proposed)
        rng = np.random.default_rng([self._seed, trial.number, *param_name.encode()])
        # k_aug is a function of whole configurations
        space = make_knob_space({param_name: param_distribution}, NOISE[self._noise], self._names, self._fixed)
        return space.params_of(rng.random(1))[param_name]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a trial, and note in its system attributes why (`SEARCH_KEY`).

        Raises:
            ValueError: The space cannot be used.
        """
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        space = self._space(search_space, trials)
        seen = read_observations(space, trials, study.directions)
        others = [t for t in trials if t.number != trial.number]
        taken = {*point_keys(seen.unit), *point_keys(read_tried(space, others))}
        rng = np.random.default_rng([self._seed, trial.number])
        if trial.number < self._n_startup or len(seen) < _FEWEST:
            unit, origin, level = self._design_start(space, trial.number, taken, rng), STARTUP, math.nan
            thought = self._explain_definition(space)
        else:
            with one_thread():
                pruned = read_tried(space, others, (TrialState.PRUNED,))
                found = fit_surrogate(space, seen, draw_weights(seen, rng), pruned, self._parts)
                models = found.draw_models(rng)
                draws = found.draw_best(models, rng)
                choice = choose(self._collect_aims(found, models, others, draws, rng), taken, rng)
                thought = self._explain_fit(found, draws)
            unit, origin, level = choice.unit, choice.origin, choice.level
        params = space.params_of(unit)
        target = None if math.isnan(level) else math.exp(level)
        write_proposal(study, trial, space, params, {"origin": origin, **asdict(thought)}, target)
        return params

    def _collect_aims(
        self,
        found: SurrogateFit,
        models: Sequence[Surrogate],
        others: Sequence[FrozenTrial],
        draws: BestDraws | None,
        rng: np.random.Generator,
    ) -> Aims:
        space, told = found.space, len(found.model.points)
        levels = np.zeros(0)
        if draws is not None and self._parts.level_sets:
            levels = rng.choice(draws.refined, _LEVELS)
        running = read_tried(space, others, (TrialState.RUNNING,))[-_MAX_PENDING:]
        limits = [fit_constraint(space, units, values) for units, values in read_constraints(space, others).values()]
        known = self._prior and (self._prior, found.low, found.high)
        return Aims(
            space, models, space.points(running), limits, levels, known or None,
            _FADE / (_FADE + told), self._parts.repeats,
        )  # fmt: skip

    def explain(self, trials: Sequence[FrozenTrial], direction: Direction = "minimize") -> Explanation:
        """Return what the finished trials say: exponents, best noise with a 90 % interval, share of the noise.

        Args:
            trials: Trials of a study, finished or not.
            direction: `minimize` or `maximize`, or the study's `direction`; of several the first objective counts.

        Raises:
            ValueError: Another direction, or knobs that the formula cannot use.
        """
        with one_thread():
            found = self._fit_first_objective(trials, direction)
            if isinstance(found, KnobSpace):
                return self._explain_definition(found)
            if found is None:
                return Explanation(self._noise, {})
            rng = np.random.default_rng(self._seed)
            models = found[0].draw_many_models(rng)
            known = self._explain_fit(found[0], found[0].draw_best(models, rng, thorough=True), intervals=True)
            feasible = [t for t in trials if all(v <= 0 for v in t.constraints.values())]
            seen = read_observations(found[0].space, feasible, _directions(direction))
            return replace(known, **self._fit_exponents(found[0], seen), **_share(models))

    def recommend(self, trials: Sequence[FrozenTrial], direction: Direction = "minimize") -> RecommendedTrial | None:
        """Return the finished configuration with the best posterior mean among the feasible ones; None without any.

        The luckiest of many noisy observations flatters itself; the posterior mean does not.

        Args:
            trials: Trials of a study, finished or not.
            direction: As in `explain`.

        Raises:
            ValueError: Another direction, or knobs that the formula cannot use.
        """
        with one_thread():
            feasible = [t for t in trials if all(v <= 0 for v in t.constraints.values())]
            found = self._fit_first_objective(feasible, direction)
            if found is None or isinstance(found, KnobSpace):
                return None
            surrogate, seen, sign = found
            models = surrogate.draw_many_models(np.random.default_rng(self._seed))
            mean, sd = predict_mixture(models, surrogate.space, seen.unit)
        held = find_inside(surrogate.space.points(seen.unit))
        best = int(np.argmin(np.where(held, mean, np.inf)))
        first = int(seen.numbers[point_keys(seen.unit).index(point_keys(seen.unit)[best])])
        trial = next(t for t in trials if t.number == first)
        transform = LossTransform.of(surrogate.losses)
        if transform is None:
            return RecommendedTrial(first, dict(trial.params), float(sign * seen.losses[best, 0]), 0.0)
        around = transform.losses(mean[best] + sd[best] * np.array([-1.0, 0.0, 1.0]))
        return RecommendedTrial(first, dict(trial.params), float(sign * around[1]), float(around[2] - around[0]) / 2)

    def _fit_first_objective(
        self, trials: Sequence[FrozenTrial], direction: Direction
    ) -> tuple[SurrogateFit, Observations, float] | KnobSpace | None:
        # the surrogate of the first objective, its data and sign; the space where there is too little; None without one
        asked = _directions(direction)
        finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        complete = [t for t in finished if t.state == TrialState.COMPLETE]
        search_space = self._resolve_space(complete)
        if not search_space:
            return None
        space = self._space(search_space, complete)
        seen = read_observations(space, complete, asked)
        if len(seen) < _FEWEST:
            return space
        pruned = read_tried(space, finished, (TrialState.PRUNED,))
        sign = -1.0 if asked[0] == StudyDirection.MAXIMIZE else 1.0
        return fit_surrogate(space, seen, np.eye(len(asked))[0], pruned, self._parts, thorough=True), seen, sign

    def _design_start(self, space: KnobSpace, number: int, taken: Taken, rng: np.random.Generator) -> Array:
        unit = startup_point(space, self._seed, number, self._prior)
        if point_keys(unit[None, :])[0] not in taken:
            return unit
        # in a small space the design meets itself
        spare = space.points(rng.random((64, len(space.knobs)))).unit
        return next((u for u, k in zip(spare, point_keys(spare), strict=True) if k not in taken), unit)

    def _explain_definition(self, space: KnobSpace) -> Explanation:
        roles = [k.role for k in space.knobs if k.role in space.noise.knobs]
        roles += ["k_aug"] if "k_aug" in space.factor_roles else []
        exponents = {str(role): given_exponent(space, role) for role in roles}
        return Explanation(self._noise, exponents)

    def _explain_fit(self, found: SurrogateFit, draws: BestDraws | None, intervals: bool = False) -> Explanation:
        space, model = found.space, found.model
        exponents, shifts = self._explain_definition(space).exponents, {}
        for role, tilt in zip(space.factor_roles, model.theta.tilt.tolist(), strict=True):
            if _has_exponent(role):
                exponents[role] = given_exponent(space, role) + _sign(role) * tilt
            else:
                shifts[role] = math.exp(tilt)
        share = model.noise_share()
        known = Explanation(self._noise, exponents, shifts=shifts, variance_share=share, trials=len(model.points))
        if draws is None:
            return known
        best, lowest, highest = draws.summary()
        posterior = draws.posterior(found.low, found.high) if intervals else ()
        return replace(known, optimum=best, optimum_low=lowest, optimum_high=highest, posterior=posterior)

    def _fit_exponents(self, found: SurrogateFit, seen: Observations) -> dict[str, Any]:
        # exponents with intervals from the single-index model that `analyse` uses; nothing where trials are too few
        space, tilt = found.space, found.model.theta.tilt
        free = np.array([_has_exponent(role) for role in space.factor_roles], dtype=bool)
        configs, owner = np.unique(np.round(seen.unit, 10), axis=0, return_inverse=True)
        if space.pivot is None or not free.any() or not has_enough(len(configs), int(free.sum())):
            return {}
        size, value = np.bincount(owner).astype(float), -seen.losses[:, 0]
        z = np.bincount(owner, value) / size
        within = np.bincount(owner, (value - z[owner]) ** 2)[size > 1] / (size[size > 1] - 1)
        floor = tail_floor(z, size, math.sqrt(float(np.median(within))) if len(within) else 0.0)
        z = z if floor is None else np.bincount(owner, np.maximum(value, floor)) / size
        if np.ptp(z) <= 0:
            return {}
        points = space.points(configs)
        # choices without an order have no exponent: they keep the surrogate's shift
        columns = np.column_stack([points.log_noise + points.factors[:, ~free] @ tilt[~free], points.factors[:, free]])
        starts = [np.concatenate([[1.0], part]) for part in (np.zeros(int(free.sum())), tilt[free])]
        fit = fit_index(columns, z, size, starts, seed=self._seed)
        roles = [role for role, has in zip(space.factor_roles, free, strict=True) if has]
        out: dict[str, dict[str, float]] = {"exponents": self._explain_definition(space).exponents}
        out |= {"exponent_low": {}, "exponent_high": {}}
        for i, role in enumerate(roles, 1):
            ends = sorted(given_exponent(space, role) + _sign(role) * float(end[i]) for end in (fit.low, fit.high))
            out["exponents"][role] = given_exponent(space, role) + _sign(role) * float(fit.best[i])
            out["exponent_low"][role], out["exponent_high"][role] = ends
        return out


def _has_exponent(role: str) -> bool:
    return role in FACTORS or role == "k_aug"


def _sign(role: str) -> float:
    return -1.0 if role in ("batch_size", "momentum") else 1.0


def _share(models: Sequence[Surrogate]) -> dict[str, float | None]:
    # a share of what a model explains is empty words where it predicts nothing
    if not models[0].predicts():
        return {"variance_share": None}
    shares = [m.noise_share() for m in models]
    low, high = np.quantile(shares, [0.05, 0.95])
    # the share that is printed is that of the first model, the most likely one, which may be extreme among them
    low, high = min(low, shares[0]), max(high, shares[0])
    return {"share_low": float(low), "share_high": float(high)}


def _directions(asked: Direction) -> list[StudyDirection]:
    each = [asked] if isinstance(asked, str | StudyDirection) else list(asked)
    known = {"minimize": StudyDirection.MINIMIZE, "maximize": StudyDirection.MAXIMIZE}
    for one in each:
        if not isinstance(one, StudyDirection) and one not in known:
            raise ValueError(f"direction must be 'minimize' or 'maximize', got {one!r}")
    return [one if isinstance(one, StudyDirection) else known[one] for one in each]

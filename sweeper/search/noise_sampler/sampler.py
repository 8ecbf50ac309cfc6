"""NoiseTargetedSampler: an Optuna sampler that searches along the effective noise scale.

It works with `study.optimize`, ask and tell, and Ray Tune's `OptunaSearch(space=<distributions>, sampler=...)`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.bounds import find_bounds
from sweeper.search.noise_sampler.acquisition import Aims, choose
from sweeper.search.noise_sampler.candidates import STARTUP, find_inside, startup_point
from sweeper.search.noise_sampler.encoding import Array, check_fixed, check_names, nearest_value
from sweeper.search.noise_sampler.explanation import BestDraws, Explanation, RecommendedTrial
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
from sweeper.search.noise_sampler.single_index import fit_tilts, has_exponent
from sweeper.search.noise_sampler.study_attrs import (
    NOISE_TARGET_KEY,
    PARAMS_KEY,
    SEARCH_KEY,
    Observations,
    is_proxy,
    point_keys,
    read_constraints,
    read_observations,
    read_proposal,
    read_running,
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
_FADE = 10.0  # a prior has half its weight after this many trials

__all__ = ["NOISE_TARGET_KEY", "PARAMS_KEY", "SEARCH_KEY", "Explanation", "NoiseTargetedSampler", "RecommendedTrial"]


Taken = Collection[tuple[float, ...]]
Direction = str | StudyDirection | Sequence[str | StudyDirection]


class NoiseTargetedSampler(BaseSampler):
    """Search along the effective noise scale: a Gaussian process over log noise plus one over all knobs.

    Names identify the knobs (`learning_rate`, `batch_size`, `momentum`, `weight_decay`, `augmentation` or
    `augmentation_strength`). Knobs may be float, integer or numeric categorical. The first trials are a design with
    evenly spread noise. Later trials maximise expected improvement over level sets of promising noise, space-filling
    points and neighbours of the best. A space without noise knobs gets an ordinary Gaussian process.

    - Failed trials and trials without a finite value do not inform the model, but the sampler does not propose them
      again. Tell a finite penalty for a bad configuration.
    - Pruned trials count at the 80 % quantile of the losses.
    - Running trials count as if they had returned the model's expectation.
    - The sampler learns constraints (`Trial.set_constraint`) from finished trials in any state.
    - With several objectives, each proposal uses one random weighting (Knowles 2006, ParEGO, eq. 2).
    - Proposals are functions of (seed, trial number, trials so far): the sampler keeps no state between asks.

    Args:
        noise: Name of a predicted scale in `trainables.noise.NOISE`.
        seed: Seed of every draw; None takes one from the operating system.
        search_space: Parameter name -> distribution. By default the parameters that the latest finished trials share;
            trials before the first result are then random instead of designed.
        knobs: Parameter name -> role, for other names than the default: `{"lr": "learning_rate"}`; None removes a role.
        fixed: Constants of the formula that the space does not vary, such as `{"momentum": 0.9, "examples": 720}`;
            also the values of earlier trials that lack a knob.
        n_startup: Number of designed first trials: a map of the noise before the search. Powers of two spread the noise
            most evenly. Where observations are noisy, about a third of the trials pays.
        k_aug: Parameters -> k_aug, for `paper_aug`: factor of augmentation on the noise, such as `sweeper.KAug`.
        conditions: Parameter name -> {other parameter: values for which the first one acts}. The sampler also proposes
            inactive parameters, and finished trials may lack these.
        prior: Best noise of finished searches; its weight fades with the trials.
        reevaluate: Whether the sampler may propose a finished configuration again, for noisy observations.

    Raises:
        ValueError: The noise is unknown or measured, a role or constant is unknown, the formula cannot use a knob, or
            the formula needs k_aug and gets none.
    """

    def __init__(
        self,
        noise: str = "paper",
        seed: int | None = 0,
        search_space: Mapping[str, BaseDistribution] | None = None,
        knobs: Mapping[str, str | None] | None = None,
        fixed: Mapping[str, float] | None = None,
        n_startup: int = 16,
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
            self._space(self._search_space)  # fails for an unusable space now, not at the first ask

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
        """Do nothing: draws depend on the trial's number, so copies of the sampler differ anyway."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the given search space, or the parameters that the latest finished trials share."""
        return self._resolve_space(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def _resolve_space(self, trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
        return infer_space(trials) if self._search_space is None else dict(self._search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value for a parameter outside the relative space.

        If its range changes in this trial, the value is the nearest one to the proposal; else it is a uniform draw.
        """
        if (proposed := read_proposal(trial).get(param_name)) is not None:
            return nearest_value(param_distribution, proposed)
        rng = np.random.default_rng([self._seed, trial.number, *param_name.encode()])
        # k_aug needs a whole configuration, so this space omits it
        space = make_knob_space({param_name: param_distribution}, NOISE[self._noise], self._names, self._fixed)
        return space.params_of(rng.random(1))[param_name]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a trial, and write the reasons into its system attributes (`SEARCH_KEY`).

        Raises:
            ValueError: The space is unusable.
        """
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        space = self._space(search_space, trials)
        seen = read_observations(space, trials, study.directions)
        others = [t for t in trials if t.number != trial.number]
        # a point that runs at a share of the budget may run in full
        tried = [t for t in others if t.state != TrialState.RUNNING or not is_proxy(t)]
        taken = {*point_keys(seen.unit[~seen.proxy]), *point_keys(read_tried(space, tried))}
        rng = np.random.default_rng([self._seed, trial.number])
        if trial.number < self._n_startup or len(seen) < _FEWEST:
            unit, origin, level = self._design_start(space, trial.number, taken, rng), STARTUP, math.nan
            thought = self._explain_definition(space)
        else:
            with one_thread():
                pruned = read_tried(space, others, (TrialState.PRUNED,))
                surrogate = fit_surrogate(space, seen, draw_weights(seen, rng), pruned, self._parts)
                models = surrogate.draw_models(rng)
                draws = surrogate.draw_best(models, rng)
                choice = choose(self._collect_aims(surrogate, models, others, draws, rng), taken, rng)
                thought = self._explain_fit(surrogate, draws)
            unit, origin, level = choice.unit, choice.origin, choice.level
        params = space.params_of(unit)
        target = None if math.isnan(level) else math.exp(level)
        write_proposal(study, trial, space, params, {"origin": origin, **asdict(thought)}, target)
        return params

    def _collect_aims(
        self,
        surrogate: SurrogateFit,
        models: Sequence[Surrogate],
        others: Sequence[FrozenTrial],
        draws: BestDraws | None,
        rng: np.random.Generator,
    ) -> Aims:
        space, observed = surrogate.space, len(surrogate.model.points)
        levels = np.zeros(0)
        if draws is not None and self._parts.level_sets:
            levels = rng.choice(draws.refined, _LEVELS)
        running = read_running(space, others)
        if not surrogate.model.points.proxy.any():  # the model does not know the proxy
            running = running[running.proxy == 0]
        limits = [fit_constraint(space, units, values) for units, values in read_constraints(space, others).values()]
        prior = self._prior and (self._prior, surrogate.low, surrogate.high)
        return Aims(
            space, models, running[-_MAX_PENDING:], limits, levels, prior or None,
            _FADE / (_FADE + observed), self._parts.repeats,
        )  # fmt: skip

    def explain(self, trials: Sequence[FrozenTrial], direction: Direction = "minimize") -> Explanation:
        """Return the explanation of the finished trials: exponents, best noise with 90 % interval, share of the noise.

        Args:
            trials: Trials of a study, finished or not.
            direction: `minimize` or `maximize`, or the study's directions; only the first objective counts.

        Raises:
            ValueError: The direction is unknown, or the formula cannot use a knob.
        """
        with one_thread():
            fit = self._fit_first_objective(trials, direction, replace(self._parts, additive=True))
            if isinstance(fit, KnobSpace):
                return self._explain_definition(fit)
            if fit is None:
                return Explanation(self._noise, {})
            rng = np.random.default_rng(self._seed)
            models = fit[0].draw_many_models(rng)
            known = self._explain_fit(fit[0], fit[0].draw_best(models, rng, thorough=True), intervals=True)
            feasible = [t for t in trials if all(v <= 0 for v in t.constraints.values())]
            seen = read_observations(fit[0].space, feasible, _directions(direction))
            return replace(known, **self._fit_exponents(fit[0], seen.take_one_budget()), **_share(models))

    def recommend(self, trials: Sequence[FrozenTrial], direction: Direction = "minimize") -> RecommendedTrial | None:
        """Return the finished configuration with the best posterior mean among the feasible ones; None without any.

        The best of many noisy observations is biased by luck; the posterior mean is not.

        Args:
            trials: Trials of a study, finished or not.
            direction: As in `explain`.

        Raises:
            ValueError: The direction is unknown, or the formula cannot use a knob.
        """
        return next(iter(self.rank(trials, direction, 1)), None)

    def rank(
        self, trials: Sequence[FrozenTrial], direction: Direction = "minimize", count: int = 1
    ) -> list[RecommendedTrial]:
        """Return the `count` feasible finished configurations with the best posterior means; see `recommend`."""
        with one_thread():
            feasible = [t for t in trials if all(v <= 0 for v in t.constraints.values())]
            fit = self._fit_first_objective(feasible, direction, self._parts)
            if fit is None or isinstance(fit, KnobSpace):
                return []
            surrogate, seen, sign = fit
            models = surrogate.draw_many_models(np.random.default_rng(self._seed))
            mean, sd = predict_mixture(models, surrogate.space, seen.unit)
        held = find_inside(surrogate.space.points(seen.unit)) & ~seen.proxy
        keys = point_keys(seen.unit)
        first = {key: i for i, key in reversed([*enumerate(keys)]) if held[i]}  # configuration -> its first row
        rows = sorted(first.values(), key=lambda i: float(mean[i]))[:count]
        transform, by_number = LossTransform.of(surrogate.losses), {t.number: t for t in trials}
        ranked: list[RecommendedTrial] = []
        for i in rows:
            number = int(seen.numbers[i])
            centre, half = float(seen.losses[i, 0]), 0.0
            if transform is not None:
                low, centre, high = transform.losses(mean[i] + sd[i] * np.array([-1.0, 0.0, 1.0]))
                half = float(high - low) / 2
            params = dict(by_number[number].params)
            bounds = tuple(find_bounds({k.name: k.distribution for k in surrogate.space.knobs}, params))
            ranked.append(RecommendedTrial(number, params, sign * float(centre), half, bounds))
        return ranked

    def _fit_first_objective(
        self, trials: Sequence[FrozenTrial], direction: Direction, parts: Parts
    ) -> tuple[SurrogateFit, Observations, float] | KnobSpace | None:
        # surrogate of the first objective with its data and sign; the space alone for few trials; None without a space
        directions = _directions(direction)
        finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        complete = [t for t in finished if t.state == TrialState.COMPLETE]
        search_space = self._resolve_space(complete)
        if not search_space:
            return None
        space = self._space(search_space, complete)
        seen = read_observations(space, complete, directions)
        if len(seen) < _FEWEST:
            return space
        pruned = read_tried(space, finished, (TrialState.PRUNED,))
        sign = -1.0 if directions[0] == StudyDirection.MAXIMIZE else 1.0
        return fit_surrogate(space, seen, np.eye(len(directions))[0], pruned, parts, thorough=True), seen, sign

    def _design_start(self, space: KnobSpace, number: int, taken: Taken, rng: np.random.Generator) -> Array:
        unit = startup_point(space, self._seed, number, self._prior)
        if point_keys(unit[None, :])[0] not in taken:
            return unit
        # in a small space the design repeats points
        spare = space.points(rng.random((64, len(space.knobs)))).unit
        return next((u for u, k in zip(spare, point_keys(spare), strict=True) if k not in taken), unit)

    def _explain_definition(self, space: KnobSpace) -> Explanation:
        roles = [k.role for k in space.knobs if k.role in space.noise.knobs]
        roles += ["k_aug"] if "k_aug" in space.factor_roles else []
        exponents = {str(role): given_exponent(space, role) for role in roles}
        return Explanation(self._noise, exponents)

    def _explain_fit(self, surrogate: SurrogateFit, draws: BestDraws | None, intervals: bool = False) -> Explanation:
        space, model = surrogate.space, surrogate.model
        exponents, shifts = self._explain_definition(space).exponents, {}
        for role, tilt in zip(space.factor_roles, model.theta.tilt.tolist(), strict=True):
            if has_exponent(role):
                exponents[role] = given_exponent(space, role) + _sign(role) * tilt
            else:
                shifts[role] = math.exp(tilt)
        share = model.noise_share()
        known = Explanation(self._noise, exponents, shifts=shifts, variance_share=share, trials=len(model.points))
        if draws is None:
            return known
        best, lowest, highest = draws.summary()
        posterior = draws.posterior(surrogate.low, surrogate.high) if intervals else ()
        return replace(known, posterior=posterior, optimum=best, optimum_low=lowest, optimum_high=highest)

    def _fit_exponents(self, surrogate: SurrogateFit, seen: Observations) -> dict[str, Any]:
        # exponents with intervals from the single-index model of `analyse`; empty for too few trials
        space = surrogate.space
        fit = fit_tilts(space, seen, surrogate.model.theta.tilt, self._seed)
        if fit is None:
            return {}
        out: dict[str, dict[str, float]] = {"exponents": self._explain_definition(space).exponents}
        out |= {"exponent_low": {}, "exponent_high": {}}
        for role, best, low, high in zip(fit.roles, fit.best, fit.low, fit.high, strict=True):
            ends = sorted(given_exponent(space, role) + _sign(role) * float(end) for end in (low, high))
            out["exponents"][role] = given_exponent(space, role) + _sign(role) * float(best)
            out["exponent_low"][role], out["exponent_high"][role] = ends
        return out


def _sign(role: str) -> float:
    return -1.0 if role in ("batch_size", "momentum") else 1.0


def _share(models: Sequence[Surrogate]) -> dict[str, float | None]:
    # the share is meaningless for a model that predicts nothing
    if not models[0].predicts():
        return {"variance_share": None}
    shares = [m.noise_share() for m in models]
    low, high = np.quantile(shares, [0.05, 0.95])
    # the printed share is that of the first, most probable model, which may be extreme among the draws
    low, high = min(low, shares[0]), max(high, shares[0])
    return {"share_low": float(low), "share_high": float(high)}


def _directions(direction: Direction) -> list[StudyDirection]:
    each = [direction] if isinstance(direction, str | StudyDirection) else list(direction)
    known = {"minimize": StudyDirection.MINIMIZE, "maximize": StudyDirection.MAXIMIZE}
    for one in each:
        if not isinstance(one, StudyDirection) and one not in known:
            raise ValueError(f"direction must be 'minimize' or 'maximize', got {one!r}")
    return [one if isinstance(one, StudyDirection) else known[one] for one in each]

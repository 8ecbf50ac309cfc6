"""Surrogates of a sweep's scores over the knobs of its space, for predictions at any settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search_spaces import Space
from sweeper.analysis.observations import Observer, make_trial
from sweeper.analysis.settings.hyperparameters import draw_models
from sweeper.analysis.settings.settings import Estimate
from sweeper.config.space import noise_constants
from sweeper.config.spec import SweepSpec
from sweeper.search.k_aug import KAug
from sweeper.search.noise_sampler.encoding import check_fixed, check_names
from sweeper.search.noise_sampler.fit import Parts, SurrogateFit, fit_constraint, fit_surrogate, predict_mixture
from sweeper.search.noise_sampler.level_sets import KnobSpace, make_knob_space
from sweeper.search.noise_sampler.loss_transform import LossTransform
from sweeper.search.noise_sampler.single_index import TiltFit, fit_tilts
from sweeper.search.noise_sampler.study_attrs import Observations, read_constraints, read_observations, read_tried
from sweeper.search.noise_sampler.surrogate import Surrogate, one_thread
from sweeper.search.objectives import Objective
from sweeper.search.samplers import SAMPLERS
from trainables.noise import NOISE
from trainables.result import Outcome
from trainables.spec import PairSpec

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class ScoreModel:
    """Surrogate of one score, with draws from its hyperparameters' posterior.

    Attributes:
        goal: The score.
        fit: The surrogate at the most probable hyperparameters.
        models: Draws, over which predictions average.
    """

    goal: Objective
    fit: SurrogateFit
    models: Sequence[Surrogate]

    def predict(self, unit: Array) -> tuple[Array, Array]:
        """Return mean and sd of the expectation at coordinates of shape (n, d), transformed, smaller is better."""
        return predict_mixture(self.models, self.fit.space, unit)

    def estimate(self, unit: Array) -> Estimate:
        """Return mean and sd of the score's expectation at coordinates of shape (d,), in the unit of its column."""
        mean, sd = (float(v[0]) for v in self.predict(unit[None, :]))
        transform = LossTransform.of(self.fit.losses)
        sign = -1.0 if self.goal.maximize else 1.0
        if transform is None:
            return Estimate(self.goal.inverse(sign * float(self.fit.losses[0])), 0.0)
        losses = transform.losses(mean + sd * np.array([-1.0, 0.0, 1.0]))
        low, middle, high = sorted(self.goal.inverse(sign * float(v)) for v in losses)
        return Estimate(middle, (high - low) / 2)


@dataclass(frozen=True)
class SweepModel:
    """Surrogates of a sweep's scores.

    Attributes:
        space: The knob space.
        scores: Objective -> its surrogate; the first one is optimised.
        seen: The pairs with a value, one column of losses per score.
        good: Coordinates of the viable pairs, shape (n, d).
        limits: Surrogates of the sweep's constraints, satisfied up to 0.
    """

    space: KnobSpace
    scores: Mapping[str, ScoreModel]
    seen: Observations
    good: Array
    limits: Sequence[Surrogate]
    _shared: dict[tuple[str, int], Any] = field(default_factory=dict[tuple[str, int], Any], repr=False, compare=False)

    def share(self, name: str, seed: int, make: Callable[[SweepModel, int], T]) -> T:
        """Return `make(self, seed)`, made once per name and seed: all batch sizes share it."""
        if (name, seed) not in self._shared:
            self._shared[name, seed] = make(self, seed)
        return self._shared[name, seed]

    def fit_exponents(self, seed: int) -> TiltFit | None:
        """Return the single-index exponents of the pairs, fitted once per seed; None for too few configurations."""
        return self.share("exponents", seed, _fit_exponents)  # hundreds of bootstrap fits

    @property
    def first(self) -> ScoreModel:
        """The surrogate of the optimised score."""
        return next(iter(self.scores.values()))

    def find_feasible(self, unit: Array) -> Mask:
        """Return which coordinates of shape (n, d) probably keep the sweep's limits, shape (n,)."""
        mask = np.ones(len(unit), dtype=bool)
        points = self.space.points(unit)
        for limit in self.limits:
            mask &= limit.predict(points)[0] <= 0
        return mask


def _fit_exponents(model: SweepModel, seed: int) -> TiltFit | None:
    return fit_tilts(model.space, model.seen.take_one_budget(), model.first.fit.model.theta.tilt, seed)


def fit_scores(
    spec: SweepSpec,
    space: Space,
    rows: Sequence[Row],
    goals: Mapping[str, Objective],
    noise: str,
    k_aug: KAug | None,
    seed: int,
) -> SweepModel:
    """Return the surrogates of the scores, fitted to every pair of the rows.

    Each pair is an observation, so that repeats show the scatter of seeds. A pair that is not viable counts at the cap
    of the score, a pruned one at the 80 % quantile of the losses; one that ran out of memory informs the limit only.

    Args:
        spec: The sweep, for its limits.
        space: The space; it must have every knob that is to be predicted.
        rows: Rows of the trials table with a spec, without failed ones.
        goals: Objective -> what it measures; the first one is to be optimised.
        noise: Predicted noise along which the surrogate searches.
        k_aug: Factor of augmentation on the noise, for `paper_aug`.
        seed: Seed of the variants.

    Raises:
        ValueError: The noise cannot use a knob of the space.
    """
    observer = Observer(spec, SAMPLERS["noise"], list(goals.values()))
    params = [space.params_of(PairSpec.from_json(row["spec"])) for row in rows]
    trials = [make_trial(space, p, observer.observe([row])) for p, row in zip(params, rows, strict=True)]
    examples = next((r["examples"] for r in rows if r["examples"]), None)
    constants = noise_constants(space, PairSpec.from_json(rows[0]["spec"]), examples)
    known = make_knob_space(
        space.knobs, NOISE[noise], check_names(None), check_fixed(constants), k_aug, space.conditions
    )
    maximize = {True: StudyDirection.MAXIMIZE, False: StudyDirection.MINIMIZE}
    seen = read_observations(known, trials, [maximize[g.maximize] for g in goals.values()])
    pruned = read_tried(known, trials, (TrialState.PRUNED,))
    good = known.units_of([p for p, row in zip(params, rows, strict=True) if row["outcome"] == Outcome.OK])[0]
    scores: dict[str, ScoreModel] = {}
    with one_thread():
        for i, (name, goal) in enumerate(goals.items()):
            fit = fit_surrogate(known, seen, np.eye(len(goals))[i], pruned, Parts(), thorough=i == 0)
            scores[name] = ScoreModel(goal, fit, draw_models(fit.model, np.random.default_rng([seed, i])))
        limits = [fit_constraint(known, *stated) for stated in read_constraints(known, trials).values()]
    return SweepModel(known, scores, seen, cast(Array, good), limits)

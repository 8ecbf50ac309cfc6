"""Posterior of a sweep under the noise sampler's surrogate, for trials of any sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from search_spaces import Space
from sweeper.analysis.observations import Observer, find_ineligible, make_trial
from sweeper.config.prior import pool_priors
from sweeper.config.space import corners, noise_constants
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.search.k_aug import KAug
from sweeper.search.noise_targets import check_target, default_noise
from sweeper.search.objectives import OBJECTIVES, Objective, resolve_objective
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.space_data import known_space
from trainables.noise import NOISE
from trainables.registry import UnknownName
from trainables.result import Outcome
from trainables.spec import PairSpec
from trainables.training.optimizers import family

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from sweeper.search.noise_sampler.explanation import Explanation

FEWEST = 6
"""The model needs at least this many configurations with a value."""

_MEASURED = "it is measured during training, and the model needs a noise that the knobs predict"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Favourite:
    """The tried configuration with the best posterior mean that may win.

    Attributes:
        config: Its digest without `repeat`.
        mean: Posterior mean of its objective, in the objective's unit.
        sd: Posterior standard deviation of that mean; None for a configuration with a single trial. It is the best of
            many, and only repeats tell how lucky it was.
    """

    config: str
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Posterior:
    """Posterior of a sweep: explanation of its noise, and favourite configuration.

    Attributes:
        explanation: Exponents, best noise and share of the noise; None if the model cannot give them.
        given: Role -> exponent of its factor in the noise's definition.
        unexplained: Reason why `explanation` is None; else empty.
        favourite: The best configuration by posterior mean; None if the model has none.
        undecided: Reason why `favourite` is None; else empty.
        assumed: Parts of the search space that the folder does not record, and the model's substitutes; else empty.
    """

    explanation: Explanation | None = None
    given: Mapping[str, float] = field(default_factory=lambda: {})
    unexplained: str = ""
    favourite: Favourite | None = None
    undecided: str = ""
    assumed: str = ""

    def record(self) -> dict[str, Any]:
        """Return the posterior as a record for JSON: the fields of `Explanation` and its own."""
        explanation = asdict(self.explanation) if self.explanation else {}
        favourite = asdict(self.favourite) if self.favourite else None
        given = {"given": dict(self.given), "unexplained": self.unexplained}
        return {**explanation, **given, "favourite": favourite, "undecided": self.undecided, "assumed": self.assumed}


def fit_posterior(spec: SweepSpec, trials: pa.Table, noise: str | None = None, *, explain: bool = True) -> Posterior:
    """Return the posterior of a sweep's first objective under the noise sampler's model.

    Args:
        spec: The sweep.
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        noise: Noise to explain; the sweep's by default. The favourite does not depend on it.
        explain: Whether to explain the noise, which takes several times as long as the favourite.
    """
    rows = _select_rows(trials)
    scored = _count_scored(rows)
    if scored < FEWEST:
        why = f"{pluralize(scored, 'configuration has', 'configurations have')} a value, the model needs {FEWEST}"
        return Posterior(unexplained=why, undecided=why)
    try:
        known = known_space(spec)
        space = known.space
        study = _make_trials(spec, space, rows, resolve_objective(spec.objective, trials))
    except (SpecError, ValueError) as error:
        return Posterior(unexplained=str(error), undecided=str(error))
    posterior = _explain(spec, space, study, rows, noise or spec.noise) if explain else Posterior()
    if posterior.explanation:
        configs = len({r["config"] for r in rows})
        posterior = replace(posterior, explanation=replace(posterior.explanation, trials=len(rows), configs=configs))
    return replace(posterior, assumed=known.assumed, **_find_favourite(spec, space, study, rows))


def rank_by_posterior(spec: SweepSpec, space: Space, trials: pa.Table, count: int) -> list[str]:
    """Return the `count` finished configurations with the best posterior means of the first objective, the best first.

    The list is empty for fewer than `FEWEST` scored configurations, and if the model cannot rank them.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        count: Largest number of configurations.
    """
    rows = _select_rows(trials)
    if _count_scored(rows) < FEWEST:
        return []
    study = _make_trials(spec, space, rows, resolve_objective(spec.objective, trials))
    try:
        ranked = _make_sampler(spec, space, target_noise(spec, space), rows).rank(study, [_direction(spec)], count)
    except (ValueError, UnknownName):
        return []
    configs = {r["number"]: r["config"] for r in rows}
    return [configs[_numbers(rows)[best.number]] for best in ranked]


def _select_rows(trials: pa.Table) -> list[Row]:
    return [r for r in trials.to_pylist() if r["number"] is not None and r["outcome"] != Outcome.FAILED]


def _count_scored(rows: Sequence[Row]) -> int:
    return len({r["config"] for r in rows if r["outcome"] == Outcome.OK})


def _explain(spec: SweepSpec, space: Space, study: Sequence[FrozenTrial], rows: Sequence[Row], noise: str) -> Posterior:
    if NOISE[noise].kind == "measured":
        return Posterior(unexplained=_MEASURED)
    try:
        sampler = _make_sampler(spec, space, noise, rows)
        return Posterior(sampler.explain(study, _direction(spec)), sampler.explain([]).exponents)
    except (ValueError, UnknownName) as error:
        return Posterior(unexplained=str(error))


def _find_favourite(spec: SweepSpec, space: Space, study: Sequence[FrozenTrial], rows: Sequence[Row]) -> dict[str, Any]:
    try:
        sampler = _make_sampler(spec, space, target_noise(spec, space), rows)
        best = sampler.recommend(study, [_direction(spec)]) if hasattr(sampler, "recommend") else None
    except (ValueError, UnknownName) as error:
        return {"undecided": str(error)}
    if best is None:
        return {"undecided": "no configuration may win"}
    goal = OBJECTIVES[spec.objective]
    low, mean, high = sorted(goal.inverse(best.mean + z * best.sd) for z in (-1, 0, 1))
    config = next(r["config"] for r in rows if r["number"] == _numbers(rows)[best.number])
    repeated = sum(r["config"] == config and r["outcome"] == Outcome.OK for r in rows) > 1
    return {"favourite": Favourite(config, mean, (high - low) / 2 if repeated else None)}


def _direction(spec: SweepSpec) -> str:
    return "maximize" if OBJECTIVES[spec.objective].maximize else "minimize"


def target_noise(spec: SweepSpec, space: Space) -> str:
    """Return the noise that a search of this sweep targets.

    A measured noise is unknown before training: the default noise of the optimizer replaces it.
    """
    try:
        return check_target(spec.noise).name
    except ValueError:
        return default_noise(family(next(corners(space)).optimizer))


def _numbers(rows: Sequence[Row]) -> list[int]:
    return sorted({r["number"] for r in rows})


def _make_trials(spec: SweepSpec, space: Space, rows: Sequence[Row], goal: Objective) -> list[FrozenTrial]:
    # one trial per number of the sweep, as in its sampler's study
    broken = find_ineligible(rows)
    observer = Observer(spec, SAMPLERS["noise"], [goal])
    groups: dict[int, list[Row]] = {number: [] for number in _numbers(rows)}
    for row in rows:
        groups[row["number"]].append(row)
    trials: list[FrozenTrial] = []
    for position, group in enumerate(groups.values()):
        observation = observer.observe(group)
        assert observation is not None
        if group[0]["config"] in broken:  # training may break within the limits, too
            observation = replace(observation, constraints={**observation.constraints, "viable": 1.0})
        trial = make_trial(space, space.params_of(PairSpec.from_json(group[0]["spec"])), observation)
        trial.number = position
        trials.append(trial)
    return trials


def _make_sampler(spec: SweepSpec, space: Space, noise: str, rows: Sequence[Row]) -> Any:
    make = SAMPLERS["noise"].make
    assert make is not None
    examples = next((r["examples"] for r in rows if r["examples"]), None)
    constants = noise_constants(space, PairSpec.from_json(rows[0]["spec"]), examples)
    k_aug = read_k_aug(space, rows) if noise == "paper_aug" else None
    return make(
        seed=spec.seed,
        knobs=space.knobs,
        noise=noise,
        constants=constants,
        k_aug=k_aug,
        conditions=space.conditions,
        prior=pool_priors(spec.prior),
    )


def read_k_aug(space: Space, rows: Sequence[Row]) -> KAug:
    """Return k_aug as the probe before the search measured it, from the rows, each of which holds its own value."""
    corner = next(corners(space))
    policies = getattr(space.knobs.get("augmentation"), "choices", (corner.augmentation,))
    tables: dict[str, dict[float, float]] = {policy: {0.0: 1.0} for policy in policies}
    for row in rows:
        if row["k_aug"] and row["augmentation_strength"] > 0:
            tables[row["augmentation"]][row["augmentation_strength"]] = row["k_aug"]
    return KAug(tables, corner.augmentation, corner.augmentation_strength)

"""What a sweep's trials say under the noise sampler's model, whichever sampler proposed them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from search_spaces import Space
from sweeper.analysis.constraints import constraints
from sweeper.config.prior import pooled
from sweeper.config.space import corners, noise_constants
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.search.k_aug import KAug
from sweeper.search.noise_targets import check_target, default_noise
from sweeper.search.objectives import OBJECTIVES, Objective, resolve_objective
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.space_data import known_space
from trainables.registry import UnknownName
from trainables.result import NEVER_WINS, Outcome
from trainables.spec import PairSpec
from trainables.training.optimizers import family

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from sweeper.search.noise_sampler.explanation import Explanation

FEWEST = 6
"""Configurations with a value below which nothing is modelled."""

VALUELESS = (Outcome.PRUNED, Outcome.OUT_OF_MEMORY)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Favourite:
    """The configuration with the best posterior mean among those that were tried and may win.

    Attributes:
        config: Its digest without `repeat`.
        mean: Posterior mean of the objective there, in the objective's unit.
        sd: Posterior standard deviation of that mean; None where the configuration has a single trial: it was chosen
            as the best of many, and nothing but repeats tells how lucky it was.
    """

    config: str
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Posterior:
    """What the model says about a sweep.

    Attributes:
        explanation: Exponents, best noise and share of the noise; None where they are not known.
        given: Role -> exponent of its factor in the noise's definition.
        unexplained: Why there is no explanation; empty where there is one.
        favourite: The best configuration by posterior mean; None where none is known.
        undecided: Why there is no favourite; empty where there is one.
        assumed: What the folder does not tell of the search space, and what the model takes instead; empty where all
            is known.
    """

    explanation: Explanation | None = None
    given: Mapping[str, float] = field(default_factory=lambda: {})
    unexplained: str = ""
    favourite: Favourite | None = None
    undecided: str = ""
    assumed: str = ""

    def record(self) -> dict[str, Any]:
        """Return it as JSON can hold it: the fields of `Explanation`, `given`, `unexplained`, `favourite`."""
        known = asdict(self.explanation) if self.explanation else {}
        favourite = asdict(self.favourite) if self.favourite else None
        given = {"given": dict(self.given), "unexplained": self.unexplained}
        return {**known, **given, "favourite": favourite, "undecided": self.undecided, "assumed": self.assumed}


def fit_posterior(spec: SweepSpec, trials: pa.Table, noise: str | None = None) -> Posterior:
    """Return what the model of the noise sampler says about the first objective of a sweep.

    Args:
        spec: The sweep.
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        noise: Noise that is explained; the sweep's by default. The favourite does not depend on it.
    """
    rows = [r for r in trials.to_pylist() if r["number"] is not None and r["outcome"] != Outcome.FAILED]
    scored = len({r["config"] for r in rows if r["outcome"] == Outcome.OK})
    if scored < FEWEST:
        why = f"{scored} configurations have a value, {FEWEST} are needed"
        return Posterior(unexplained=why, undecided=why)
    try:
        known = known_space(spec)
        space = known.space
        study = _make_trials(spec, space, rows, resolve_objective(spec.objective, trials))
    except (SpecError, ValueError) as error:
        return Posterior(unexplained=str(error), undecided=str(error))
    said = _explain(spec, space, study, rows, noise or spec.noise)
    return replace(said, assumed=known.assumed, **_find_favourite(spec, space, study, rows))


def _explain(spec: SweepSpec, space: Space, study: Sequence[FrozenTrial], rows: Sequence[Row], noise: str) -> Posterior:
    try:
        sampler = _make_sampler(spec, space, noise, rows)
        return Posterior(sampler.explain(study, _direction(spec)), sampler.explain([]).exponents)
    except (ValueError, UnknownName) as error:
        return Posterior(unexplained=str(error))


def _find_favourite(spec: SweepSpec, space: Space, study: Sequence[FrozenTrial], rows: Sequence[Row]) -> dict[str, Any]:
    try:
        sampler = _make_sampler(spec, space, _target_noise(spec, space), rows)
        found = sampler.recommend(study, [_direction(spec)]) if hasattr(sampler, "recommend") else None
    except (ValueError, UnknownName) as error:
        return {"undecided": str(error)}
    if found is None:
        return {"undecided": "no configuration may win"}
    goal = OBJECTIVES[spec.objective]
    low, mean, high = sorted(goal.inverse(found.mean + z * found.sd) for z in (-1, 0, 1))
    config = next(r["config"] for r in rows if r["number"] == _numbers(rows)[found.number])
    repeated = sum(r["config"] == config and r["outcome"] == Outcome.OK for r in rows) > 1
    return {"favourite": Favourite(config, mean, (high - low) / 2 if repeated else None)}


def _direction(spec: SweepSpec) -> str:
    return "maximize" if OBJECTIVES[spec.objective].maximize else "minimize"


def _target_noise(spec: SweepSpec, space: Space) -> str:
    # a measured noise can be shown, but is not known of a proposal: the usual one stands in
    try:
        return check_target(spec.noise).name
    except ValueError:
        return default_noise(family(space.build(next(corners(space))).optimizer))


def _numbers(rows: Sequence[Row]) -> list[int]:
    return sorted({r["number"] for r in rows})


def _make_trials(spec: SweepSpec, space: Space, rows: Sequence[Row], goal: Objective) -> list[FrozenTrial]:
    # one trial for each number of the sweep, as the study of its sampler has it
    broken = {r["config"] for r in rows if r["outcome"] in NEVER_WINS}
    groups: dict[int, list[Row]] = {number: [] for number in _numbers(rows)}
    for row in rows:
        groups[row["number"]].append(row)
    found: list[FrozenTrial] = []
    for position, group in enumerate(groups.values()):
        trial = _make_trial(spec, space, group, goal, group[0]["config"] in broken)
        trial.number = position
        found.append(trial)
    return found


def _make_trial(spec: SweepSpec, space: Space, rows: Sequence[Row], goal: Objective, broken: bool) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    params = space.params_of(PairSpec.from_json(rows[0]["spec"]))
    # a trial that was stopped on its way or ran out of memory has no value that can be compared
    values = [goal.tell(r) for r in rows if r["outcome"] not in VALUELESS]
    stopped = any(r["outcome"] == Outcome.PRUNED for r in rows)
    return create_trial(
        state=TrialState.COMPLETE if values else TrialState.PRUNED if stopped else TrialState.FAIL,
        value=statistics.fmean(values) if values else None,
        params=params,
        distributions={name: space.knobs[name] for name in params},
        # what the limits allow may still have broken
        constraints=constraints(rows, spec) | ({"viable": 1.0} if broken else {}),
    )


def _make_sampler(spec: SweepSpec, space: Space, noise: str, rows: Sequence[Row]) -> Any:
    make = SAMPLERS["noise"].make
    assert make is not None
    examples = next((r["examples"] for r in rows if r["examples"]), None)
    constants = noise_constants(space, {} if examples is None else {"examples": examples})
    k_aug = _read_k_aug(space, rows) if noise == "paper_aug" else None
    return make(
        seed=spec.seed,
        knobs=space.knobs,
        noise=noise,
        constants=constants,
        k_aug=k_aug,
        conditions=space.conditions,
        prior=pooled(spec.prior),
    )


def _read_k_aug(space: Space, rows: Sequence[Row]) -> KAug:
    # as the probe before the search found it: every trial's row has its own
    some = space.build(next(corners(space)))
    policies = getattr(space.knobs.get("augmentation"), "choices", (some.augmentation,))
    tables: dict[str, dict[float, float]] = {policy: {0.0: 1.0} for policy in policies}
    for row in rows:
        if row["k_aug"] and row["augmentation_strength"] > 0:
            tables[row["augmentation"]][row["augmentation_strength"]] = row["k_aug"]
    return KAug(tables, some.augmentation, some.augmentation_strength)

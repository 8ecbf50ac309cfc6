"""Plan of an extension: further repeats of a sweep's configurations, and configurations at new noises.

The plan stays in the run folder until all its trials have run, so an interrupted extension continues as planned. A new
plan after a look at the results would be optional stopping.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from search_spaces._space import SpaceError
from sweeper.analysis.evidence.analyse import analyse
from sweeper.config.points import convert_points
from sweeper.config.spec import SweepSpec
from sweeper.config.trials import build
from sweeper.errors import SpecError
from sweeper.formatting import exact_text, number
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.location import place_of
from sweeper.storage.tables import Run
from trainables.noise import KNOBS, NOISE
from trainables.registry import UnknownName
from trainables.spec import PairSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.evidence.findings import Analysis
    from sweeper.analysis.evidence.needs import Need

PLAN_FILE = "extension.json"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class PlannedTrials:
    """Planned trials of one configuration.

    Attributes:
        specs: The trials.
        noise: Noise of the configuration, in the analysed definition; None if unknown.
        why: Reason for people.
        new: Whether the configuration is not in the sweep yet.
    """

    specs: tuple[PairSpec, ...]
    noise: float | None
    why: str
    new: bool


@dataclass(frozen=True)
class Plan:
    """Trials of an extension, and one sentence per need that no trial can meet."""

    planned: tuple[PlannedTrials, ...]
    impossible: tuple[str, ...]

    @property
    def specs(self) -> tuple[PairSpec, ...]:
        """All planned trials."""
        return tuple(s for p in self.planned for s in p.specs)


def save_plan(plan: Plan, run: Run) -> None:
    """Write a plan into the run folder, so that `load_plan` finds it after a crash."""
    planned = [
        {"noise": p.noise, "why": p.why, "new": p.new, "specs": [json.loads(s.to_json()) for s in p.specs]}
        for p in plan.planned
    ]
    place_of(run).write(PLAN_FILE, json.dumps(planned).encode())


def load_plan(run: Run, rows: Iterable[Row]) -> Plan:
    """Return the rest of the plan in the run folder; an empty plan without a file.

    Raises:
        SpecError: The file holds no plan.
    """
    place = place_of(run)
    done = {r["digest"] for r in rows if r["outcome"] != "failed"}
    try:
        text = place.read_text(PLAN_FILE)
        if text is None:
            return Plan((), ())
        planned = [
            PlannedTrials(tuple(map(PairSpec.from_mapping, p["specs"])), p["noise"], p["why"], p["new"])
            for p in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError) as error:
        again = "delete it, and the next extension makes a new plan"
        raise SpecError(f"{place.text}/{PLAN_FILE} holds no plan ({error}); {again}") from None
    left = [replace(p, specs=tuple(s for s in p.specs if s.digest not in done)) for p in planned]
    return Plan(tuple(p for p in left if p.specs), ())


def plan_trials(
    needs: Iterable[Need],
    rows: Sequence[Row],
    best: Row | None,
    spec: SweepSpec,
    space: Space,
    noise: str,
    constants: Mapping[str, float],
) -> Plan:
    """Return the plan that meets the needs with trials that have not run.

    A need for repeats adds its number of trials. A need for a noise fills up a configuration at that noise to its
    number of trials.

    Args:
        needs: From `sweeper.analysis.evidence`.
        rows: The trials table.
        best: Row of the sweep's winner; new ones share its knobs except the learning rate.
        spec: The sweep.
        space: Its space.
        noise: Noise definition of the needs.
        constants: Constants of the noise's formula besides the knobs.
    """
    known: dict[str, list[Row]] = {}
    for row in rows:
        known.setdefault(row["config"], []).append(row)
    planned: dict[str, PlannedTrials] = {}
    impossible: dict[str, None] = {}
    for need in needs:
        try:
            trials = (
                _plan_repeats(need, known, spec, space, noise)
                if need.config
                else _plan_new(need, known, best, spec, space, noise, constants)
            )
        except ValueError as error:
            impossible[str(error)] = None
            continue
        if trials.specs:
            config = trials.specs[0].config
            # the larger of two needs for one configuration counts
            if config not in planned or len(trials.specs) > len(planned[config].specs):
                planned[config] = trials
    return Plan(tuple(planned.values()), tuple(impossible))


def _plan_repeats(
    need: Need, known: Mapping[str, Sequence[Row]], spec: SweepSpec, space: Space, noise: str
) -> PlannedTrials:
    rows = known.get(str(need.config))
    if not rows:
        raise ValueError(f"cannot repeat configuration {need.config}: it is not in the sweep")
    first, level = PairSpec.from_json(rows[0]["spec"]), rows[0].get(f"noise_{noise}")
    if rows[0].get("proxy"):  # an extension trains in full
        first = build(spec, space, space.params_of(first))
        rows = known.get(first.config, [])
    specs = _find_free_repeats(first, rows, need.repeats, spec.repeats)
    return PlannedTrials(specs, level, need.why, new=not rows)


def _plan_new(
    need: Need,
    known: Mapping[str, Sequence[Row]],
    best: Row | None,
    spec: SweepSpec,
    space: Space,
    noise: str,
    constants: Mapping[str, float],
) -> PlannedTrials:
    assert need.noise is not None
    where = f"cannot run noise {number(need.noise)}"
    if best is None:
        raise ValueError(f"{where}: no configuration of the sweep is viable, so no knobs are known to work")
    if "learning_rate" not in space.knobs:
        raise ValueError(f"{where}: learning_rate is not a knob of the sweep, so it cannot be solved for")
    trial = PairSpec.from_json(best["spec"])
    params = space.params_of(trial)
    settings = {**constants, **{k: getattr(trial, k) for k in KNOBS}, "beta1": trial.betas[0]}
    if best["k_aug"] is not None:
        settings["k_aug"] = best["k_aug"]
    try:
        params["learning_rate"] = NOISE[noise].solve("learning_rate", need.noise, settings)
        convert_points(space, [{"learning_rate": params["learning_rate"]}])
    except SpaceError:
        rate, tried = number(params["learning_rate"]), _format_range(space.knobs["learning_rate"])
        raise ValueError(
            f"{where}: at the winner's other knobs it needs learning_rate {rate}, outside the sweep's range {tried}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    trial = build(spec, space, params)
    rows = known.get(trial.config, [])
    done = len({r["repeat"] for r in rows if r["outcome"] != "failed"})
    specs = _find_free_repeats(trial, rows, need.repeats - done, spec.repeats)
    return PlannedTrials(specs, need.noise, need.why, new=not rows)


def _format_range(distribution: Any) -> str:
    choices = getattr(distribution, "choices", None)
    return (
        ", ".join(map(str, choices))
        if choices
        else f"{exact_text(distribution.low)} to {exact_text(distribution.high)}"
    )


def _find_free_repeats(trial: PairSpec, rows: Sequence[Row], count: int, block: int) -> tuple[PairSpec, ...]:
    """Return at least `count` new repeats of a configuration, after the sweep's own blocks.

    Repeats of one stack stay together, so the result may hold more than `count`.
    """
    swept = [r["repeat"] for r in rows if r["number"] is not None]
    repeat = (max(swept) // block + 1) * block if swept else 0
    taken = {r["repeat"] for r in rows if r["outcome"] != "failed"}
    free: list[PairSpec] = []
    while len(free) < count:
        mates = replace(trial, repeat=repeat).stack_mates()
        free += [m for m in mates if m.repeat not in taken]
        repeat += len(mates)
    return tuple(free)


@dataclass(frozen=True)
class ExtensionProposal:
    """Proposal of an extension that makes an answer firm.

    Attributes:
        analysis: Analysis of the trials so far.
        plan: The trials to run.
        sentences: The verdict, and notes on the plan.
    """

    analysis: Analysis
    plan: Plan
    sentences: tuple[str, ...]


def plan_extension(
    spec: SweepSpec,
    space: Space,
    objective: str | None = None,
    noise: str | None = None,
    repeats: int | None = None,
    noises: int | None = None,
) -> ExtensionProposal:
    """Return the proposal of an extension; an unfinished extension comes first.

    Args:
        spec: The sweep; `out` names its folder.
        space: Its search space.
        objective: Objective of the answer; None takes the sweep's.
        noise: Noise scale of the answer; None takes the sweep's.
        repeats: See `plan_needs`.
        noises: See `plan_needs`.

    Raises:
        SpecError: A name is unknown, or the folder is unreadable.
    """
    from sweeper.storage.tables import read_trials

    assert spec.out is not None
    noise, objective, place = noise or spec.noise, objective or spec.objective, place_of(spec.out)
    _check(objective, noise)
    trials = read_trials(place)
    analysis = analyse(trials, objective, noise)
    plan, begun = find_missing(spec, space, place, trials, analysis, repeats, noises)
    continued = f"continues an unfinished extension; delete {place.text}/{PLAN_FILE} to make a new plan"
    notes = (*([continued] if begun else []), *plan.impossible)
    return ExtensionProposal(analysis, plan, (*analysis.sentences[:1], *notes))


def find_missing(
    spec: SweepSpec,
    space: Space,
    run: Run,
    trials: pa.Table,
    analysis: Analysis,
    repeats: int | None = None,
    noises: int | None = None,
) -> tuple[Plan, bool]:
    """Return the plan that an extension would run now, and whether it is the rest of an unfinished extension.

    All outputs take their number of further trials from this function.

    Args:
        spec: The sweep.
        space: Its search space.
        run: Its folder.
        trials: Its trials.
        analysis: From `sweeper.analysis.evidence.analyse.analyse`.
        repeats: See `plan_needs`.
        noises: See `plan_needs`.

    Raises:
        SpecError: The folder is unreadable.
    """
    rest = load_plan(run, trials.select(["digest", "outcome"]).to_pylist())
    return (rest, True) if rest.specs else (plan_needs(spec, space, trials, analysis, repeats, noises), False)


def read_missing(spec: SweepSpec, run: Run, trials: pa.Table, analysis: Analysis) -> Plan | None:
    """Return the plan of `find_missing` for a reader; None if only user code defines the search space."""
    from sweeper.storage.space_data import known_space

    try:
        known = known_space(spec)
        return None if known.assumed else find_missing(spec, known.space, run, trials, analysis)[0]
    except (SpecError, ValueError):
        return None


def plan_needs(
    spec: SweepSpec,
    space: Space,
    trials: pa.Table,
    analysis: Analysis,
    repeats: int | None = None,
    noises: int | None = None,
) -> Plan:
    """Return the plan that meets the needs of an analysis.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Its trials.
        analysis: From `sweeper.analysis.evidence.analyse.analyse`.
        repeats: Number of trials per need, in place of the need's own.
        noises: Maximum number of new noises, in order of the needs; None takes all.
    """
    from sweeper.analysis.best import find_winner
    from sweeper.config.space import noise_constants

    # only the sweep's trials count, so that an interrupted extension finds the same best configuration again
    swept = trials.filter(trials["number"].is_valid())
    new = any(need.config is None for need in analysis.needs)  # repeats need no winner, whose fit takes a second
    best = find_winner(spec, swept, analysis.objective) if new else None
    examples = next((n for n in swept["examples"].to_pylist() if n), None)
    constants = noise_constants(space, PairSpec.from_json(best["spec"]), examples) if best else {}
    needs = list(_limit(analysis.needs, repeats, noises))
    return plan_trials(needs, trials.to_pylist(), best, spec, space, analysis.noise, constants)


def _limit(needs: Sequence[Need], repeats: int | None, noises: int | None) -> Iterator[Need]:
    new = 0
    for need in needs:
        new += need.config is None
        if need.config is None and noises is not None and new > noises:
            continue
        yield need if repeats is None else replace(need, repeats=repeats)


def _check(objective: str, noise: str) -> None:
    try:
        check_shown(noise)
        OBJECTIVES[objective]
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None

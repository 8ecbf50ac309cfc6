"""Plan of an extension: further repeats of a sweep's configurations, and configurations at further noises.

The plan stays in the run folder until all of it is run: an interrupted extension continues as planned. To look at the
results in between and to plan anew would be optional stopping.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from search_spaces._space import SpaceError
from sweeper.analysis.evidence.analyse import analyse
from sweeper.config.points import checked_points
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
    """Trials of one configuration that are to be run.

    Attributes:
        specs: The trials.
        noise: Noise of the configuration, of the definition that was analysed; None where it is not known.
        why: The sentence for people.
        new: Whether the configuration is not in the sweep yet.
    """

    specs: tuple[PairSpec, ...]
    noise: float | None
    why: str
    new: bool


@dataclass(frozen=True)
class Plan:
    """What an extension runs, and which asked trials it cannot run, a sentence each."""

    planned: tuple[PlannedTrials, ...]
    impossible: tuple[str, ...]

    @property
    def specs(self) -> tuple[PairSpec, ...]:
        """All trials."""
        return tuple(s for p in self.planned for s in p.specs)


def save_plan(plan: Plan, run: Run) -> None:
    """Write a plan into the run folder, for `load_plan` to find after a crash."""
    planned = [
        {"noise": p.noise, "why": p.why, "new": p.new, "specs": [json.loads(s.to_json()) for s in p.specs]}
        for p in plan.planned
    ]
    place_of(run).write(PLAN_FILE, json.dumps(planned).encode())


def load_plan(run: Run, rows: Iterable[Row]) -> Plan:
    """Return what is left of the plan in the run folder; nothing where there is none.

    Raises:
        SpecError: The file holds no plan.
    """
    place = place_of(run)
    done = {r["digest"] for r in rows if r["outcome"] != "failed"}
    try:
        text = place.read_text(PLAN_FILE)
        if text is None:
            return Plan((), ())
        found = json.loads(text)
        planned = [
            PlannedTrials(tuple(map(PairSpec.from_mapping, p["specs"])), p["noise"], p["why"], p["new"]) for p in found
        ]
    except (ValueError, TypeError, KeyError) as error:
        again = "delete it, and the next extension is planned anew"
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
    """Return the trials that the needs ask for and that are not there.

    A need of a configuration asks for so many further repeats, one of a noise for a configuration there that has so
    many repeats in all.

    Args:
        needs: From `sweeper.analysis.evidence`.
        rows: The trials table.
        best: Row of the best configuration of the sweep itself: new ones have its knobs but for the learning rate.
        spec: The sweep.
        space: Its space.
        noise: Definition of the noise that the needs mean.
        constants: What stands in the noise's formula beside the knobs.
    """
    known: dict[str, list[Row]] = {}
    for row in rows:
        known.setdefault(row["config"], []).append(row)
    planned: dict[str, PlannedTrials] = {}
    impossible: dict[str, None] = {}
    for need in needs:
        try:
            found = (
                _plan_repeats(need, known, spec, noise)
                if need.config
                else _plan_new(need, known, best, spec, space, noise, constants)
            )
        except ValueError as error:
            impossible[str(error)] = None
            continue
        if found.specs:
            config = found.specs[0].config
            # of two needs of one configuration the larger one counts
            if config not in planned or len(found.specs) > len(planned[config].specs):
                planned[config] = found
    return Plan(tuple(planned.values()), tuple(impossible))


def _plan_repeats(need: Need, known: Mapping[str, Sequence[Row]], spec: SweepSpec, noise: str) -> PlannedTrials:
    own = known.get(str(need.config))
    if not own:
        raise ValueError(f"configuration {need.config} is not in the sweep: its repeats are not run")
    some = PairSpec.from_json(own[0]["spec"])
    specs = _find_free_repeats(some, own, need.repeats, spec.repeats)
    return PlannedTrials(specs, own[0].get(f"noise_{noise}"), need.why, new=False)


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
    where = f"noise {number(need.noise)} is not run"
    if best is None:
        raise ValueError(f"{where}: no configuration of the sweep is viable, so there are no knobs to keep")
    if "learning_rate" not in space.knobs:
        raise ValueError(f"{where}: learning_rate is no knob of the sweep, so nothing can be solved for it")
    trial = PairSpec.from_json(best["spec"])
    params = space.params_of(trial)
    settings = {**constants, **{k: getattr(trial, k) for k in (*KNOBS, "beta1")}}
    if best["k_aug"] is not None:
        settings["k_aug"] = best["k_aug"]
    try:
        params["learning_rate"] = NOISE[noise].solve("learning_rate", need.noise, settings)
        checked_points(space, [{"learning_rate": params["learning_rate"]}])
    except SpaceError:
        rate, tried = number(params["learning_rate"]), _format_range(space.knobs["learning_rate"])
        raise ValueError(
            f"{where}: it needs learning_rate {rate} at the best configuration's other knobs, and the sweep's range is "
            f"{tried}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    some = build(spec, space, params)
    own = known.get(some.config, [])
    there = len({r["repeat"] for r in own if r["outcome"] != "failed"})
    return PlannedTrials(
        _find_free_repeats(some, own, need.repeats - there, spec.repeats), need.noise, need.why, new=not own
    )


def _format_range(distribution: Any) -> str:
    choices = getattr(distribution, "choices", None)
    return (
        ", ".join(map(str, choices))
        if choices
        else f"{exact_text(distribution.low)} to {exact_text(distribution.high)}"
    )


def _find_free_repeats(some: PairSpec, rows: Sequence[Row], count: int, block: int) -> tuple[PairSpec, ...]:
    """Return so many repeats of a configuration that are not there and belong to none of the sweep's own blocks.

    Repeats that train as one stack come together: there may be more of them.
    """
    own = [r["repeat"] for r in rows if r["number"] is not None]
    start = (max(own) // block + 1) * block if own else 0
    taken = {r["repeat"] for r in rows if r["outcome"] != "failed"}
    found: list[PairSpec] = []
    repeat = start
    while len(found) < count:
        mates = replace(some, repeat=repeat).stack_mates()
        found += [m for m in mates if m.repeat not in taken]
        repeat += len(mates)
    return tuple(found)


@dataclass(frozen=True)
class ExtensionProposal:
    """What a firm answer lacks.

    Attributes:
        analysis: What the trials say.
        plan: The trials to run.
        sentences: The verdict, and what to know about the plan.
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
    """Return the trials that a firm answer lacks; those of an extension that was begun come first.

    Args:
        spec: The sweep; `out` names its folder.
        space: Its search space.
        objective: What the answer is about; None is `gain_mean`.
        noise: Noise scale of the answer; None is the sweep's.
        repeats: See `plan_needs`.
        noises: See `plan_needs`.

    Raises:
        SpecError: An unknown name, or the folder cannot be read.
    """
    from sweeper.storage.tables import read_trials

    assert spec.out is not None
    noise, objective, place = noise or spec.noise, objective or "gain_mean", place_of(spec.out)
    _check(objective, noise)
    trials = read_trials(place)
    analysis = analyse(trials, objective, noise)
    found, begun = find_missing(spec, space, place, trials, analysis, repeats, noises)
    continued = f"continues the extension that was begun; delete {place.text}/{PLAN_FILE} to plan anew"
    return ExtensionProposal(
        analysis, found, (*analysis.sentences[:1], *([continued] if begun else []), *found.impossible)
    )


def find_missing(
    spec: SweepSpec,
    space: Space,
    run: Run,
    trials: pa.Table,
    analysis: Analysis,
    repeats: int | None = None,
    noises: int | None = None,
) -> tuple[Plan, bool]:
    """Return the trials that an extension would run now, and whether they are the rest of one that was begun.

    Every output that names a number of further trials takes it from here.

    Args:
        spec: The sweep.
        space: Its search space.
        run: Its folder.
        trials: Its trials.
        analysis: From `sweeper.analysis.evidence.analyse.analyse`.
        repeats: See `plan_needs`.
        noises: See `plan_needs`.

    Raises:
        SpecError: The folder cannot be read.
    """
    found = load_plan(run, trials.select(["digest", "outcome"]).to_pylist())
    return (found, True) if found.specs else (plan_needs(spec, space, trials, analysis, repeats, noises), False)


def read_missing(spec: SweepSpec, run: Run, trials: pa.Table, analysis: Analysis) -> Plan | None:
    """Return what `find_missing` returns, for a reader; None where only code tells the search space."""
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
    """Return the trials that an analysis of a sweep asks for.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Its trials.
        analysis: From `sweeper.analysis.evidence.analyse.analyse`.
        repeats: So many trials for each need, instead of what it asks for.
        noises: At most so many new noises, the first ones asked for; None takes all.
    """
    from sweeper.analysis.best import best_trials, over_limits
    from sweeper.config.space import noise_constants

    # the sweep's own trials: an extension that was cut off must find the same best configuration again
    own = trials.filter(trials["number"].is_valid())
    best = best_trials(own, analysis.objective, lost=over_limits(own, spec))
    examples = next((n for n in own["examples"].to_pylist() if n), None)
    constants = noise_constants(space, {} if examples is None else {"examples": examples})
    needs = list(_limit(analysis.needs, repeats, noises))
    return plan_trials(needs, trials.to_pylist(), best[0] if best else None, spec, space, analysis.noise, constants)


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

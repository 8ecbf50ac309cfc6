"""Trials added to a sweep that is there: further repeats of its configurations, and configurations at asked noises.

They have no number in the sweep and the sampler `extend`, so what a design's point i is, and what a resume still has to
do, stays as it was. The plan is kept in the run folder until all of it is run: an extension that was cut off goes on as
planned. To look at the results in between and plan anew would be optional stopping.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from search_spaces._space import SpaceError
from sweeper.analysis.regime import EXTEND
from sweeper.analysis.text import number
from sweeper.config.points import checked_points
from sweeper.config.spec import SpecError, SweepSpec
from sweeper.formatting import exact
from sweeper.runner.jobs import Job, Row
from sweeper.runner.session import Session, Status, build
from sweeper.storage.location import place_of
from sweeper.storage.tables import Run
from trainables.noise import KNOBS, NOISE
from trainables.spec import PairSpec

if TYPE_CHECKING:
    from sweeper.analysis.evidence.needs import Need

PLAN_FILE = "extension.json"


@dataclass(frozen=True)
class Planned:
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

    planned: tuple[Planned, ...]
    impossible: tuple[str, ...]

    @property
    def specs(self) -> tuple[PairSpec, ...]:
        """All trials."""
        return tuple(s for p in self.planned for s in p.specs)


def keep(plan: Plan, run: Run) -> None:
    """Write a plan into the run folder, for `kept` to find after a crash."""
    planned = [
        {"noise": p.noise, "why": p.why, "new": p.new, "specs": [json.loads(s.to_json()) for s in p.specs]}
        for p in plan.planned
    ]
    place_of(run).write(PLAN_FILE, json.dumps(planned).encode())


def kept(run: Run, rows: Iterable[Row]) -> Plan:
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
            Planned(tuple(map(PairSpec.from_mapping, p["specs"])), p["noise"], p["why"], p["new"]) for p in found
        ]
    except (ValueError, TypeError, KeyError) as error:
        again = "delete it, and the next extension is planned anew"
        raise SpecError(f"{place.text}/{PLAN_FILE} holds no plan ({error}); {again}") from None
    left = [replace(p, specs=tuple(s for s in p.specs if s.digest not in done)) for p in planned]
    return Plan(tuple(p for p in left if p.specs), ())


def plan(
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
    planned: dict[str, Planned] = {}
    impossible: dict[str, None] = {}
    for need in needs:
        try:
            found = (
                _repeats(need, known, spec, noise)
                if need.config
                else _new(need, known, best, spec, space, noise, constants)
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


def _repeats(need: Need, known: Mapping[str, Sequence[Row]], spec: SweepSpec, noise: str) -> Planned:
    own = known.get(str(need.config))
    if not own:
        raise ValueError(f"configuration {need.config} is not in the sweep: its repeats are not run")
    some = PairSpec.from_json(own[0]["spec"])
    specs = _free(some, own, need.repeats, spec.repeats)
    return Planned(specs, own[0].get(f"noise_{noise}"), need.why, new=False)


def _new(
    need: Need,
    known: Mapping[str, Sequence[Row]],
    best: Row | None,
    spec: SweepSpec,
    space: Space,
    noise: str,
    constants: Mapping[str, float],
) -> Planned:
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
        rate, tried = number(params["learning_rate"]), _range(space.knobs["learning_rate"])
        raise ValueError(
            f"{where}: it needs learning_rate {rate} at the best configuration's other knobs, and the sweep's range is "
            f"{tried}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    some = build(spec, space, params)
    own = known.get(some.config, [])
    there = len({r["repeat"] for r in own if r["outcome"] != "failed"})
    return Planned(_free(some, own, need.repeats - there, spec.repeats), need.noise, need.why, new=not own)


def _range(distribution: Any) -> str:
    choices = getattr(distribution, "choices", None)
    return ", ".join(map(str, choices)) if choices else f"{exact(distribution.low)} to {exact(distribution.high)}"


def _free(some: PairSpec, rows: Sequence[Row], count: int, block: int) -> tuple[PairSpec, ...]:
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


class Extension(Session):
    """The trials of a plan, for every runner; it counts trials, not configurations, and learns nothing.

    Args:
        plan: What to run.
        given: Arguments of `Session`.
    """

    def __init__(self, plan: Plan, *given: Any) -> None:
        super().__init__(*given)
        self.pruner = None  # what was asked for is run to its end
        self.runtime = replace(self.runtime, rungs=0)
        self.jobs = [
            Job(None, g, {**self._context(p.noise), "sampler": EXTEND}) for p in plan.planned for g in _groups(p)
        ]
        self.spec = self.budgets.spec = self.spec.model_copy(update={"until_interval": None})  # it adds certainty
        self.status = Status(len(self.jobs), best=self.ranking.best, warnings=self.status.warnings)
        self.open = list(range(len(self.jobs)))[::-1]

    def next_job(self) -> Job | None:
        """Return the next trials, or None when none is to be started any more."""
        if self.over() or not self.open:
            return None
        job = self.jobs[self.open.pop()]
        self.status.running += 1
        self.status.target = job.context["noise_target"]
        self.listener(self.status)
        return job

    def finish(self, job: Job, rows: list[Row]) -> None:
        """Take in the rows of a finished job."""
        self._settle(rows, failed=all(r["outcome"] == "failed" for r in rows))


def _groups(planned: Planned) -> list[tuple[PairSpec, ...]]:
    # stack mates are one job; the others one each, so that they run side by side
    groups: dict[int, list[PairSpec]] = {}
    for spec in planned.specs:
        groups.setdefault(spec.repeat // spec.stack, []).append(spec)
    return [tuple(own) for own in groups.values()]

"""`sweeper extend`: run just the trials that the evidence lacks for a firm answer, in the folder of the sweep."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sweeper.analysis.text import counted, emit, format_table, number, wrap
from sweeper.config.spec import SpecError, SweepSpec
from sweeper.flags import MACHINE_KEYS, flags
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.location import place_of
from trainables.noise import KNOBS
from trainables.registry import UnknownName
from trainables.spec import PairSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from search_spaces import Space
    from sweeper.analysis.evidence.analyse import Analysis
    from sweeper.analysis.evidence.needs import Need
    from sweeper.runner.extension import Plan
    from sweeper.storage.tables import Run

DONE, NO_SUCCESS, INTERRUPTED = 0, 3, 130


def extend(args: argparse.Namespace) -> int:
    """`sweeper extend DIR`."""
    from sweeper.analysis.evidence.sentences import nothing_asked
    from sweeper.storage.run_folder import runnable_spec

    spec = _spec(args, runnable_spec(args.dir))
    wanted = args.objective, args.noise, args.repeats, args.noises
    asked = planned(spec.model_copy(update={"out": args.dir}), spec.load_space(), *wanted)
    noise, objective, analysis, found = asked.analysis.noise, asked.analysis.objective, asked.analysis, asked.plan
    place, said = place_of(args.dir), asked.sentences
    record: dict[str, Any] = {
        "run": str(place.local.absolute() if place.local else place.uri),
        "objective": objective,
        "noise": noise,
        "verdict": analysis.verdict,
        "planned": list(_records(found)),
        "impossible": list(found.impossible),
    }
    if not found.specs:
        nothing = "all that can be run of what is missing is there" if analysis.needs else nothing_asked(analysis)
        emit(args.json, record, "\n".join(wrap(line, 0) for line in (*said, nothing)))
        return DONE
    if args.dry_run:
        emit(args.json, record, "\n\n".join([_lines(said), _table(found), f"{_count(found)}; nothing was run"]))
        return DONE
    if not args.json:
        print(f"{_lines(said)}\n\n{_table(found)}\n", file=sys.stderr)
    return _run(args, spec, found, record)


def _run(args: argparse.Namespace, spec: SweepSpec, found: Plan, record: dict[str, Any]) -> int:
    from sweeper.cli.commands.inspect import write_page
    from sweeper.cli.progress import Progress
    from sweeper.runner import run as launch

    with Progress(spec.objective, counts="further trials") as progress:
        results = launch.extend(spec, found, progress, lambda line: print(line, file=sys.stderr))
    again = f"`sweeper extend {shlex.quote(str(results.run))}` continues"
    wanted = {s.digest for s in found.specs}
    outcomes = [r["outcome"] for r in results.trials.select(["digest", "outcome"]).to_pylist() if r["digest"] in wanted]
    if results.interrupted:
        there = f"{len(outcomes)} of {_count(found)} are in {results.run}"
        print(f"interrupted: {there}; {again}", file=sys.stderr)
        return INTERRUPTED
    if results.reason:
        print(f"stopped early: {results.reason}; {again}", file=sys.stderr)
    write_page(results.run)
    analysis = _analysed(results.trials, record["objective"], record["noise"])
    record |= {
        "outcomes": {o: outcomes.count(o) for o in sorted(set(outcomes))},
        "verdict_after": analysis.verdict,
        "sentences": list(analysis.sentences),
        "missing": [n.why for n in analysis.needs],
    }
    counts = ", ".join(f"{n} {o}" for o, n in record["outcomes"].items())
    missing = list(dict.fromkeys(f"still missing: {why}" for why in record["missing"]))
    lines = [
        f"{counted(len(outcomes), 'further trial')} ({counts}) in {results.run}",
        *analysis.sentences[:1],
        *missing,
    ]
    emit(args.json, record, _lines(lines))
    return DONE if "ok" in outcomes and results.failed < spec.max_failed else NO_SUCCESS


@dataclass(frozen=True)
class Asked:
    """What a firm answer lacks.

    Attributes:
        analysis: What the trials say.
        plan: The trials to run.
        sentences: The verdict, and what to know about the plan.
    """

    analysis: Analysis
    plan: Plan
    sentences: tuple[str, ...]


def planned(
    spec: SweepSpec,
    space: Space,
    objective: str | None = None,
    noise: str | None = None,
    repeats: int | None = None,
    noises: int | None = None,
) -> Asked:
    """Return the trials that a firm answer lacks; those of an extension that was begun come first.

    Args:
        spec: The sweep; `out` names its folder.
        space: Its search space.
        objective: What the answer is about; None is `gain_mean`.
        noise: Noise scale of the answer; None is the sweep's.
        repeats: See `plan_for`.
        noises: See `plan_for`.

    Raises:
        SpecError: An unknown name, or the folder cannot be read.
    """
    from sweeper.runner.extension import PLAN_FILE
    from sweeper.storage.tables import read_trials

    assert spec.out is not None
    noise, objective, place = noise or spec.noise, objective or "gain_mean", place_of(spec.out)
    _check(objective, noise)
    trials = read_trials(place)
    analysis = _analysed(trials, objective, noise)
    found, begun = missing(spec, space, place, trials, analysis, repeats, noises)
    continued = f"continues the extension that was begun; delete {place.text}/{PLAN_FILE} to plan anew"
    return Asked(analysis, found, (*analysis.sentences[:1], *([continued] if begun else []), *found.impossible))


def missing(
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
        repeats: See `plan_for`.
        noises: See `plan_for`.

    Raises:
        SpecError: The folder cannot be read.
    """
    from sweeper.runner.extension import kept

    found = kept(run, trials.select(["digest", "outcome"]).to_pylist())
    return (found, True) if found.specs else (plan_for(spec, space, trials, analysis, repeats, noises), False)


def known_missing(spec: SweepSpec, run: Run, trials: pa.Table, analysis: Analysis) -> Plan | None:
    """Return what `missing` returns, for a reader; None where only code tells the search space."""
    from sweeper.storage.space_data import known_space

    try:
        known = known_space(spec)
        return None if known.assumed else missing(spec, known.space, run, trials, analysis)[0]
    except (SpecError, ValueError):
        return None


def plan_for(
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
    from sweeper.runner.extension import plan
    from sweeper.runner.session import noise_constants

    # the sweep's own trials: an extension that was cut off must find the same best configuration again
    own = trials.filter(trials["number"].is_valid())
    best = best_trials(own, analysis.objective, lost=over_limits(own, spec))
    examples = next((n for n in own["examples"].to_pylist() if n), None)
    constants = noise_constants(space, {} if examples is None else {"examples": examples})
    needs = list(_limited(analysis.needs, repeats, noises))
    return plan(needs, trials.to_pylist(), best[0] if best else None, spec, space, analysis.noise, constants)


def _limited(needs: Sequence[Need], repeats: int | None, noises: int | None) -> Iterator[Need]:
    new = 0
    for need in needs:
        new += need.config is None
        if need.config is None and noises is not None and new > noises:
            continue
        yield need if repeats is None else replace(need, repeats=repeats)


def _analysed(trials: pa.Table, objective: str, noise: str) -> Analysis:
    from sweeper.analysis.evidence.analyse import analyse

    return analyse(trials, objective, noise)


def _spec(args: argparse.Namespace, stored: SweepSpec) -> SweepSpec:
    return SweepSpec.checked({**stored.model_dump(exclude_unset=True), **flags(args, MACHINE_KEYS)})


def _check(objective: str, noise: str) -> None:
    try:
        check_shown(noise)
        OBJECTIVES[objective]
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None


def _records(found: Plan) -> Iterator[dict[str, Any]]:
    for planned in found.planned:
        for spec in planned.specs:
            knobs = {k: getattr(spec, k) for k in (*KNOBS, "augmentation", "augmentation_strength")}
            about = {"digest": spec.digest, "config": spec.config, "repeat": spec.repeat}
            yield {**about, "new": planned.new, "noise": planned.noise, **knobs, "why": planned.why}


def _table(found: Plan) -> str:
    header = ("configuration", "noise", *(k.replace("_", " ") for k in KNOBS), "repeats")
    rows = [
        (
            f"{p.specs[0].config}{' (new)' if p.new else ''}",
            number(p.noise),
            *(number(getattr(p.specs[0], k)) for k in KNOBS),
            _ranges(p.specs),
        )
        for p in found.planned
    ]
    reasons: dict[str, int] = {}
    for p in found.planned:
        reasons[p.why] = reasons.get(p.why, 0) + len(p.specs)
    why = [wrap(f"{counted(n, 'trial')}: {text}", 0) for text, n in reasons.items()]
    return "\n".join([format_table(header, rows, indent=0), *why])


def _ranges(specs: Sequence[PairSpec]) -> str:
    first, last = specs[0].repeat, specs[-1].repeat
    return str(first) if first == last else f"{first} to {last}"


def _count(found: Plan) -> str:
    return counted(len(found.specs), "further trial")


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(wrap(text, 0) for text in texts)

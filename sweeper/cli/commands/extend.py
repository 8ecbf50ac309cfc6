"""`sweeper extend`: run the trials that a firm answer still needs, in the folder of the sweep."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.scorecard.badge import word_verdict
from sweeper.cli.options import COUNT, DETACH, OBJECTIVE_HELP, RUN_DIR, SERVED, SHOWN_NOISE, objectives, sweep_options
from sweeper.cli.output import emit
from sweeper.cli.parsing import Arguments, Option, command
from sweeper.config.load import SpecSource
from sweeper.config.prepared import PreparedSweep
from sweeper.errors import ExitCode
from sweeper.formatting import format_table, number, pluralize, show_path, wrap
from sweeper.storage.location import place_of
from trainables.noise import KNOBS

if TYPE_CHECKING:
    from sweeper.analysis.evidence.plan import Plan
from sweeper.analysis.evidence.plan import plan_extension
from sweeper.cli.sweep_options import flags
from sweeper.config.spec import keys

_OPTIONS = (
    Option("--dry-run", "", "Print the trials and run none.", default=False),
    Option("--repeats", "R", "Repeats per configuration (default: as the analysis needs).", type=COUNT),
    Option("--noises", "N", "Largest number of new noises (default: as the analysis needs).", type=COUNT),
    Option(
        "--objective", "NAME", f"Objective of the answer: {OBJECTIVE_HELP} (default: the sweep's).", names=objectives
    ),
)


@command(RUN_DIR, _OPTIONS, SHOWN_NOISE, sweep_options("resumable", without=("trials",)), DETACH, SERVED)
def extend(args: Arguments) -> int:
    """`sweeper extend DIR`."""
    from sweeper.analysis.evidence.sentences import explain_no_needs
    from sweeper.storage.run_folder import runnable_spec

    stored = SpecSource(runnable_spec(args.dir).model_dump(exclude_unset=True))
    sweep = stored.override(flags(args, tuple(k for k in keys("resumable") if k != "trials"))).prepare()
    wanted = args.objective, args.noise, args.repeats, args.noises
    proposal = plan_extension(sweep.with_spec(out=args.dir).spec, sweep.space, *wanted)
    analysis, plan, place = proposal.analysis, proposal.plan, place_of(args.dir)
    sentences = word_verdict(analysis), *proposal.sentences[1:]
    record: dict[str, Any] = {
        "run": str(place.local.absolute() if place.local else place.uri),
        "objective": analysis.objective,
        "noise": analysis.noise,
        "verdict": analysis.verdict,
        "planned": list(_list_trials(plan)),
        "impossible": list(plan.impossible),
    }
    if not plan.specs:
        nothing = "all further trials that can run have run" if analysis.needs else explain_no_needs(analysis)
        emit(args.json, record, "\n".join(wrap(line, 0) for line in (*sentences, nothing)))
        return ExitCode.DONE
    if args.dry_run:
        emit(
            args.json,
            record,
            "\n\n".join([_wrap_lines(sentences), _format_plan(plan), f"{_count_trials(plan)}; nothing was run"]),
        )
        return ExitCode.DONE
    if not args.json:
        print(f"{_wrap_lines(sentences)}\n\n{_format_plan(plan)}\n", file=sys.stderr)
    return _run(args, sweep, plan, record)


def _run(args: Arguments, sweep: PreparedSweep, plan: Plan, record: dict[str, Any]) -> int:
    from dashboards.page.page import write_and_judge
    from sweeper.cli.progress import Progress
    from sweeper.runner import run
    from sweeper.runner.status import Callbacks

    with Progress(sweep.spec.objective, counts="further trials") as progress:
        callbacks = Callbacks(progress, say=lambda line: print(line, file=sys.stderr))
        results = run.extend(sweep, plan, callbacks)
    folder = show_path(results.run)
    again = f"`sweeper extend {shlex.quote(folder)}` continues"
    planned = {s.digest for s in plan.specs}
    rows = results.trials.select(["digest", "outcome"]).to_pylist()
    outcomes = [r["outcome"] for r in rows if r["digest"] in planned]
    if results.interrupted:
        print(f"interrupted: {len(outcomes)} of {_count_trials(plan)} are in {folder}; {again}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if results.reason:
        print(f"stopped early: {results.reason}; {again}", file=sys.stderr)
    known = write_and_judge(results.run)
    own = known is not None and (record["objective"], record["noise"]) == (sweep.spec.objective, sweep.spec.noise)
    analysis = known.analysis if own and known else None
    analysis = analysis or analyse(results.trials, record["objective"], record["noise"])
    record |= {
        "outcomes": {o: outcomes.count(o) for o in sorted(set(outcomes))},
        "verdict_after": analysis.verdict,
        "sentences": list(analysis.sentences),
        "missing": [n.why for n in analysis.needs],
    }
    counts = ", ".join(f"{n} {o}" for o, n in record["outcomes"].items())
    missing = list(dict.fromkeys(f"still missing: {why}" for why in record["missing"]))
    lines = [
        f"{pluralize(len(outcomes), 'further trial')} ({counts}) in {folder}",
        word_verdict(analysis),
        *missing,
    ]
    emit(args.json, record, _wrap_lines(lines))
    return ExitCode.DONE if "ok" in outcomes and results.failed < sweep.spec.max_failed else ExitCode.NO_SUCCESS


def _list_trials(plan: Plan) -> Iterator[dict[str, Any]]:
    for trial in plan.planned:
        for spec in trial.specs:
            knobs = {k: getattr(spec, k) for k in (*KNOBS, "augmentation", "augmentation_strength")}
            identity = {"digest": spec.digest, "config": spec.config, "repeat": spec.repeat}
            yield {**identity, "new": trial.new, "noise": trial.noise, **knobs, "why": trial.why}


def _format_plan(plan: Plan) -> str:
    header = ("configuration", "noise", *(k.replace("_", " ") for k in KNOBS), "repeats")
    rows = [
        (
            f"{p.specs[0].config}{' (new)' if p.new else ''}",
            number(p.noise),
            *(number(getattr(p.specs[0], k)) for k in KNOBS),
            f"{len(p.specs)}{'' if p.new else ' more'}",
        )
        for p in plan.planned
    ]
    reasons: dict[str, int] = {}
    for p in plan.planned:
        reasons[p.why] = reasons.get(p.why, 0) + len(p.specs)
    why = [wrap(f"{pluralize(n, 'trial')}: {text}", 0) for text, n in reasons.items()]
    return "\n".join([format_table(header, rows, indent=0), *why])


def _count_trials(plan: Plan) -> str:
    return pluralize(len(plan.specs), "further trial")


def _wrap_lines(texts: Sequence[str]) -> str:
    return "\n".join(wrap(text, 0) for text in texts)

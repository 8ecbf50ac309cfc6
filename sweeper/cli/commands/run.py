"""Commands of a sweep: `run`, `resume` and `status`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from sweeper.cli.options import (
    DETACH,
    DRY_RUN,
    JOB_SERVER,
    JSON,
    RUN_DIR,
    SENT,
    SERVED,
    SERVER,
    SET,
    SHOWN_NOISE,
    TARGET,
    sweep_options,
)
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Option, command
from sweeper.cli.sweep_options import check_pilot, flags, read_sweep
from sweeper.config.load import SpecSource
from sweeper.config.prepared import PreparedSweep, find_objective
from sweeper.config.spec import keys
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import pluralize, show_path
from trainables.io.printable import printable_line

_YES = Option("--yes", "", "Continue an unfinished sweep in --out without a question.", default=False, group="cluster")
_FOLLOW = Option("--follow", "", "Print the job's output until it ends; with --server show the sweep's progress.",
                 default=False)  # fmt: skip
_STATUS_DIR = Argument(
    "dir", "DIR|JOB", "Run folder, or its URI; with --address id of a job; with --server id of a sweep."
)


@command(TARGET, sweep_options(), SET, _YES, DRY_RUN, SENT, SERVED)
def run(args: Arguments) -> int:
    """`sweeper run SPACE|spec.yaml`."""
    check_pilot(args)
    sweep = read_sweep(args)
    return _estimate(args, sweep) if args.estimate else _sweep(args, sweep, args.yes)


def _estimate(args: Arguments, sweep: PreparedSweep) -> int:
    from sweeper.cli.progress import Progress
    from sweeper.cli.remote.output import format_estimate
    from sweeper.runner.cost.estimate import estimate_cost
    from sweeper.runner.status import Callbacks

    with Progress(sweep.spec.objective) as progress:
        estimate = estimate_cost(sweep, args.pilot, Callbacks(progress, say=progress.line))
    emit(args.json, estimate.model_dump(mode="json"), format_estimate(estimate))
    return ExitCode.DONE


@command(RUN_DIR, sweep_options("resumable"), DETACH, SERVED)
def resume(args: Arguments) -> int:
    """`sweeper resume DIR`."""
    from sweeper.storage.run_folder import runnable_spec

    stored = SpecSource(runnable_spec(args.dir).model_dump(exclude_unset=True))
    return _sweep(args, stored.override(flags(args, keys("resumable"))).prepare(), True)


@command(_STATUS_DIR, SHOWN_NOISE, _FOLLOW, JOB_SERVER, SERVER, JSON)
def status(args: Arguments) -> int:
    """`sweeper status DIR`, or `sweeper status JOB --address URL`."""
    if args.address:
        from sweeper.cli.commands.jobs import job_status

        return job_status(args)
    if args.follow or args.ca or args.insecure:
        raise SpecError(
            "--follow, --ca and --insecure need the address of a job server (--address) or of a service (--server)"
        )
    from sweeper.cli.commands.inspect import show_status

    return show_status(args)


def _sweep(args: Arguments, sweep: PreparedSweep, yes: bool) -> int:
    from sweeper.cli.progress import Progress
    from sweeper.runner.run import run_prepared
    from sweeper.runner.status import Callbacks

    def confirm(folder: Path | str, left: int) -> bool:
        if yes or not sys.stdin.isatty():
            return yes
        rest = pluralize(left * sweep.spec.repeats, "trial")
        question = f"{show_path(folder)} holds a part of this sweep; run the remaining {rest}?"
        return click.confirm(printable_line(question), err=True)

    with Progress(find_objective(sweep)) as progress:
        results = run_prepared(sweep, Callbacks(progress, confirm, progress.line))
    rows = results.trials.num_rows
    folder = show_path(results.run)
    again = f"`sweeper resume {shlex.quote(folder)}` continues"
    if results.interrupted:
        print(f"interrupted: {pluralize(rows, 'trial is', 'trials are')} in {folder}; {again}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if results.reason:
        print(f"stopped early: {results.reason}; {again}", file=sys.stderr)
    from dashboards.page.page import write_and_judge
    from sweeper.analysis.scorecard.answer import format_answer
    from sweeper.analysis.summary import summarize_sweep

    known = write_and_judge(results.run)
    posterior, analysis = (known.believed, known.analysis) if known else (None, None)
    record = summarize_sweep(results.run, results.trials, results.noise, posterior, analysis)
    emit(args.json, record, format_answer(record["answer"]))
    successful = any(o == "ok" for o in results.trials["outcome"].to_pylist())
    return ExitCode.DONE if successful and results.failed < sweep.spec.max_failed else ExitCode.NO_SUCCESS

"""The commands `run`, `resume` and `status`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from sweeper.cli.options import (
    DETACH,
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
from sweeper.cli.sweep_options import asked_sweep, flags
from sweeper.config.spec import SweepSpec, keys
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import pluralize
from trainables.io.printable import printable_line

_YES = Option("--yes", "", "Continue an unfinished sweep in --out without asking.", default=False, group="cluster")
_FOLLOW = Option("--follow", "", "Print what the job prints until it ends; with --server show the sweep's progress.",
                 default=False)  # fmt: skip
_STATUS_DIR = Argument("dir", "DIR|JOB", "Run folder, or its URI; a job with --address; a sweep's id with --server.")


@command(TARGET, sweep_options(), SET, _YES, SENT, SERVED)
def run(args: Arguments) -> int:
    """`sweeper run SPACE|spec.yaml`."""
    return _sweep(args, asked_sweep(args), args.yes)


@command(RUN_DIR, sweep_options("resumable"), DETACH, SERVED)
def resume(args: Arguments) -> int:
    """`sweeper resume DIR`."""
    from sweeper.storage.run_folder import runnable_spec

    given = flags(args, keys("resumable"))
    stored = runnable_spec(args.dir).model_dump(exclude_unset=True)
    if "resources" in given:
        given["resources"] = {**stored.get("resources", {}), **given["resources"]}
    spec = SweepSpec.checked({**stored, **given})
    return _sweep(args, spec, True)


@command(_STATUS_DIR, SHOWN_NOISE, _FOLLOW, JOB_SERVER, SERVER, JSON)
def status(args: Arguments) -> int:
    """`sweeper status DIR`, or `sweeper status JOB --address URL`."""
    if args.address:
        from sweeper.cli.commands.jobs import job_status

        return job_status(args)
    if args.follow or args.ca or args.insecure:
        raise SpecError(
            "--follow, --ca and --insecure are about a job or a service: give its cluster by --address, or --server"
        )
    from sweeper.cli.commands.inspect import show_status

    return show_status(args)


def _sweep(args: Arguments, spec: SweepSpec, yes: bool) -> int:
    from sweeper.cli.progress import Progress
    from sweeper.runner import run as launch

    def confirm(folder: Path | str, left: int) -> bool:
        if yes or not sys.stdin.isatty():
            return yes
        question = f"{folder} holds a part of this sweep; run the remaining {pluralize(left, 'configuration')}?"
        return click.confirm(printable_line(question), err=True)

    with Progress(spec.objective) as progress:
        results = launch.run(spec, progress, confirm, lambda line: print(line, file=sys.stderr))
    rows = results.trials.num_rows
    again = f"`sweeper resume {shlex.quote(str(results.run))}` continues"
    if results.interrupted:
        print(f"interrupted: {rows} trials are in {results.run}; {again}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if results.reason:
        print(f"stopped early: {results.reason}; {again}", file=sys.stderr)
    from dashboards.page.page import write_page
    from sweeper.analysis.summary import format_sweep, summarize_sweep

    write_page(results.run)
    record = summarize_sweep(results.run, results.trials, results.noise)
    emit(args.json, record, format_sweep(record))
    successful = any(o == "ok" for o in results.trials["outcome"].to_pylist())
    return ExitCode.DONE if successful and results.failed < spec.max_failed else ExitCode.NO_SUCCESS

"""The commands of the command line: each takes the parsed arguments and returns the exit code. Here: running."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from sweeper.analysis.summary import format_sweep, summarize_sweep
from sweeper.cli.commands import inspect
from sweeper.cli.commands.analyse import analyse
from sweeper.cli.commands.compare import compare
from sweeper.cli.commands.extend import extend
from sweeper.cli.commands.files import compact, export, import_table
from sweeper.cli.commands.inspect import best, dashboard, list_trials, pair, recommend
from sweeper.cli.commands.jobs import job_status, stop, submit
from sweeper.cli.commands.manifest import manifest
from sweeper.cli.commands.merge import merge
from sweeper.cli.commands.names import merges, noises, spaces
from sweeper.cli.commands.serve import serve, token
from sweeper.cli.output import emit
from sweeper.cli.sweep_options import asked_sweep, flags
from sweeper.config.spec import SweepSpec, keys
from sweeper.errors import SpecError

DONE, ERROR, NO_SUCCESS, INTERRUPTED = 0, 1, 3, 130


def run(args: argparse.Namespace) -> int:
    """`sweeper run SPACE|spec.yaml`."""
    return _sweep(args, asked_sweep(args), args.yes)


def resume(args: argparse.Namespace) -> int:
    """`sweeper resume DIR`."""
    from sweeper.storage.run_folder import runnable_spec

    given = flags(args, keys("resumable"))
    stored = runnable_spec(args.dir).model_dump(exclude_unset=True)
    if "resources" in given:
        given["resources"] = {**stored.get("resources", {}), **given["resources"]}
    spec = SweepSpec.checked({**stored, **given})
    return _sweep(args, spec, True)


def status(args: argparse.Namespace) -> int:
    """`sweeper status DIR`, or `sweeper status JOB --address URL`."""
    if args.address:
        return job_status(args)
    if args.follow or args.ca or args.insecure:
        raise SpecError(
            "--follow, --ca and --insecure are about a job or a service: give its cluster by --address, or --server"
        )
    return inspect.status(args)


def _sweep(args: argparse.Namespace, spec: SweepSpec, yes: bool) -> int:
    from sweeper.cli.progress import Progress
    from sweeper.runner import run as launch

    def confirm(folder: Path | str, left: int) -> bool:
        if yes or not sys.stdin.isatty():
            return yes
        print(
            f"{folder} holds a part of this sweep; run the {left} configurations left? [y/N] ", end="", file=sys.stderr
        )
        return input().strip().lower() in ("y", "yes")

    with Progress(spec.objective) as progress:
        results = launch.run(spec, progress, confirm, lambda line: print(line, file=sys.stderr))
    rows = results.trials.num_rows
    again = f"`sweeper resume {shlex.quote(str(results.run))}` continues"
    if results.interrupted:
        print(f"interrupted: {rows} trials are in {results.run}; {again}", file=sys.stderr)
        return INTERRUPTED
    if results.reason:
        print(f"stopped early: {results.reason}; {again}", file=sys.stderr)
    from dashboards.page.page import write_page

    write_page(results.run)
    record = summarize_sweep(results.run, results.trials, results.noise)
    emit(args.json, record, format_sweep(record))
    successful = any(o == "ok" for o in results.trials["outcome"].to_pylist())
    return DONE if successful and results.failed < spec.max_failed else NO_SUCCESS


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "resume": resume,
    "status": status,
    "list": list_trials,
    "best": best,
    "recommend": recommend,
    "analyse": analyse,
    "pair": pair,
    "export": export,
    "dashboard": dashboard,
    "spaces": spaces,
    "noises": noises,
    "merges": merges,
    "merge": merge,
    "import": import_table,
    "compact": compact,
    "compare": compare,
    "extend": extend,
    "submit": submit,
    "stop": stop,
    "manifest": manifest,
    "serve": serve,
    "token": token,
}

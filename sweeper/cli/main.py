"""The command line: parsing, messages and exit codes. The commands themselves are in `sweeper.cli.commands.run`.

Exit codes: 0 done, 1 error, 2 bad spec or usage, 3 no successful trial or too many failures, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sweeper.cli.options import (
    SERVED,
    add_detach,
    add_manifest,
    add_sent,
    add_serve,
    add_server,
    add_service,
    add_submit,
    add_token,
    add_trust,
    count,
)
from trainables import __version__
from trainables.io.printable import guard_output

ERROR, USAGE, INTERRUPTED = 1, 2, 130


def _in_one_line(text: object) -> str:
    return " ".join(str(text).splitlines())


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {_in_one_line(message)}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            from trainables.registry import unknown

            kind = "command" if action.dest == "command" else str(action.metavar or action.dest)
            self.error(str(unknown(kind, str(value), [str(c) for c in action.choices])))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sweeper",
        description="Find the training noise at which fine-tuned models merge best.",
        epilog="Exit codes: 0 done, 1 error, 2 bad spec or usage, 3 no successful trial, 130 interrupted (resumable).",
    )
    parser.add_argument("--version", action="version", version=f"sweeper {__version__}")
    add_service(parser, None)
    add_trust(parser, None)
    run = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, text: str, run_dir: bool = False, noise: bool = False) -> argparse.ArgumentParser:
        sub = run.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if run_dir:
            sub.add_argument("dir", metavar="DIR", help="run folder, or its URI; with --server a sweep's id")
        add_service(sub)
        if name in SERVED:
            add_trust(sub)
        sub.add_argument("--json", action="store_true", help="print JSON on stdout")
        if noise:
            sub.add_argument("--noise", metavar="NAME", help="noise scale to show, also a measured one "
                             "(default: the sweep's)")  # fmt: skip
        return sub

    sub = command("run", "run a sweep, or continue it where its folder holds a part of it")
    _add_run(sub)
    add_sent(sub)
    resume = command("resume", "continue an interrupted sweep, or add configurations to a finished one", True)
    resume.add_argument("--trials", help="new number of configurations in all")
    _add_machine(resume)
    add_detach(resume)
    _add_extend(command("extend", "run just the trials that a firm answer lacks", True, noise=True))
    sub = command("submit", "run a sweep as a job on a Ray cluster elsewhere")
    _add_run(sub, elsewhere=True)
    add_submit(sub)
    stop = command("stop", "stop a submitted sweep; what is finished is kept")
    stop.add_argument("job", metavar="JOB", help="id of the job; with --server of the sweep, which ends what runs")
    stop.add_argument("--cancel", action="store_true", help="with --server: end its trials at once")
    add_server(stop)
    sub = command("manifest", "print a Kubernetes or `ray up` file that runs a sweep on a cluster of its own")
    _add_run(sub, elsewhere=True)
    add_manifest(sub)
    status = command("status", "say how far a sweep is, its best noise so far and its warnings; of a job with "
                     "--address, how it is", noise=True)  # fmt: skip
    status.add_argument("dir", metavar="DIR|JOB", help="run folder, or its URI; a job with --address, a sweep with "
                        "--server")  # fmt: skip
    status.add_argument("--follow", action="store_true", help="print what the job prints until it ends; with --server "
                        "show the sweep's progress")  # fmt: skip
    add_server(status)
    sub = command("list", "list the trials of a sweep; with --server alone the sweeps", noise=True)
    sub.add_argument("dir", metavar="DIR", nargs="?", help="run folder, or its URI; with --server a sweep's id")
    best = command("best", "show the optimal noise and the best merged model", True, noise=True)
    best.add_argument("--save", metavar="FILE", help="write the best merged weights as safetensors")
    recommend = command("recommend", "show hyperparameters that reach the optimal noise", True, noise=True)
    recommend.add_argument("--batch-size", type=int, action="append", help="solve the learning rate for it; repeatable")
    recommend.add_argument("--learning-rate", type=float, help="keep it and solve the batch size instead")
    recommend.add_argument("--momentum", type=float, help="momentum to use (default: the best trial's)")
    recommend.add_argument("--weight-decay", type=float, help="weight decay to use (default: the best trial's)")
    recommend.add_argument("--objective", help="gain_mean or merged_loss, ... (default: both of these)")
    analyse = command("analyse", "test whether there is an optimal noise, and say what is missing for a firm answer",
                      noise=True)  # fmt: skip
    analyse.add_argument("dirs", metavar="DIR", nargs="+", help="run folders, analysed one after the other")
    analyse.add_argument("--objective", help="gain_mean, merged_loss, ... (default: gain_mean)")
    analyse.add_argument("--split", help="train, val or test (default: val, or test where only that was measured)")
    analyse.add_argument("--where", metavar="COLUMN=VALUE", action="append",
                         help="only trials with this value, such as momentum=0.9; repeatable")  # fmt: skip
    command("compact", "make one part of the many of each table, so that a large sweep is read in a second", True)
    compare = command("compare", "put sweeps side by side: best noises, best merges, cost", noise=True)
    compare.add_argument("dirs", metavar="DIR", nargs="+", help="run folders, two or more")
    compare.add_argument("--objective", help="gain_mean or merged_loss, ... (default: both of these; each best merge "
                         "by its sweep's own)")  # fmt: skip
    pair = command("pair", "rerun one trial and compare the numbers", True)
    pair.add_argument("digest", metavar="DIGEST", help="the trial's digest, or its first digits")
    pair.add_argument("--data", metavar="ROOT", help="folder with the data sets (default: the sweep's)")
    _add_import(command("import", "make a run folder from a table of pairs that were trained elsewhere"))
    _add_merge(command("merge", "score and merge your own checkpoints"))
    command("spaces", "list the search spaces")
    command("noises", "list the noise scales")
    command("merges", "list the merges")
    _add_export(command("export", "write a table of a sweep as one file, its page, or its figures", True, noise=True))
    add_serve(command("serve", "serve many sweeps of many users: their queue, HTTP API and pages"))
    add_token(command("token", "make, list and revoke the tokens of a service's users"))
    dashboard = command("dashboard", "serve the dashboards of one or more sweeps, also while they run", noise=True)
    dashboard.add_argument("dirs", metavar="DIR", nargs="*", help="run folder, or its URI: s3://BUCKET/PATH, gs://..., "
                           "file://...; with --server open the page of a sweep, or of all")  # fmt: skip
    dashboard.add_argument("--port", metavar="N", type=int, default=8050, help="default: %(default)s, or the next free")
    dashboard.add_argument("--host", metavar="ADDR", default="127.0.0.1",
                           help="address to listen on (default: %(default)s, this machine only)")  # fmt: skip
    return parser


def _add_export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--format", choices=("csv", "parquet"), help="of the table (default: csv)")
    sub.add_argument("--table", choices=("trials", "merges", "history", "planes", "search"), help="default: trials")
    sub.add_argument("--out", metavar="FILE", help="file of the table (default: DIR/<table>.<format>)")
    sub.add_argument("--html", metavar="FILE", help="write the page instead: one file that works offline")
    sub.add_argument("--png", metavar="DIR", help="write the page's figures instead, one PNG each, by kaleido")
    sub.add_argument("--svg", metavar="DIR", help="the same as SVG")


def _add_run(sub: argparse.ArgumentParser, elsewhere: bool = False) -> None:
    sub.add_argument("target", metavar="SPACE|spec.yaml", help="search space, space file (.py) or sweep spec (.yaml)")
    sub.add_argument("--trials", help="configurations (default: 40)")
    sub.add_argument("--sampler", help="noise, tpe, gp, cmaes, qmc, random or grid (default: noise)")
    sub.add_argument("--objective", action="append", help="merged_loss, merged_accuracy, gain_mean, gain_best, barrier "
                     "or cost (default: merged_loss); a second one is searched along with the first")  # fmt: skip
    sub.add_argument("--noise", help="predicted noise scale to target and show (default: "
                     "paper, of Adam's kind adam_sde)")  # fmt: skip
    sub.add_argument("--repeats", help="trials of each configuration (default: 1)")
    sub.add_argument("--seed", help="seed of search and training (default: 0)")
    sub.add_argument("--stack", help="train repeats as one stack: auto, on or off (default: auto)")
    sub.add_argument("--threads", help="torch threads a trial; part of the numbers (default: 1)")
    sub.add_argument("--device", help="torch device (default: auto)")
    sub.add_argument("--smoke", action="store_true", default=None, help="the space's small variant: seconds on a CPU")
    _add_set(sub)
    _add_search(sub)
    sub.add_argument("--measure", metavar="K", help="gradient measurements of each child while training; 0 for none "
                     "(default: 2 %% of the trial's time)")  # fmt: skip
    sub.add_argument("--landscape", action="store_true", default=None,
                     help="Hessian traces, sharpness and excess barrier of every trial")  # fmt: skip
    sub.add_argument("--plane", metavar="N", help="loss plane through base and children, N points a side (default: 0)")
    sub.add_argument("--deterministic", action="store_true", default=None,
                     help="torch's deterministic algorithms only")  # fmt: skip
    sub.add_argument("--out", metavar="DIR", help="run folder, or its URI: s3://BUCKET/PATH, gs://..., "
                     "file://... (default: a new one under runs/)")  # fmt: skip
    if not elsewhere:
        sub.add_argument("--yes", action="store_true", help="continue an unfinished sweep in --out without asking")
    _add_machine(sub, elsewhere)


def _add_search(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--prior", metavar="DIR", nargs="+", help="run folders of earlier sweeps: their optimal noise is "
                     "the search's prior")  # fmt: skip
    sub.add_argument("--enqueue", metavar="FILE", help="configurations to try first: YAML or JSON, or CSV as written "
                     "by `sweeper export`")  # fmt: skip
    sub.add_argument("--max-memory", metavar="BYTES", help="largest allocation on the device of a trial that may win, "
                     "such as 8GB")  # fmt: skip
    sub.add_argument("--max-step-time", metavar="S", help="longest optimizer step of a trial that may win")
    sub.add_argument("--prune", action="store_true", default=None, help="stop hopeless trials on their way")
    sub.add_argument("--rungs", metavar="N", help="checks on a trial's way at which it may be stopped (default: 3)")


def _add_merge(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--models", metavar="FILE", nargs="+", required=True, help="two or more checkpoints (safetensors "
                     "or torch) of one architecture")  # fmt: skip
    sub.add_argument("--base", metavar="FILE", help="checkpoint they were fine-tuned from; task vectors need it")
    sub.add_argument("--space", help="space that names model and data set, or")
    sub.add_argument("--model", help="name of the model, with")
    sub.add_argument("--data-set", metavar="NAME", help="name of the data set (default: the images in the folder ROOT)")
    sub.add_argument("--merges", metavar="NAME", nargs="+", help="merges (default: all that are possible)")
    _add_set(sub)
    _add_data(sub)
    sub.add_argument("--landscape", action="store_true", default=None,
                     help="Hessian traces, sharpness and excess barrier")  # fmt: skip
    sub.add_argument("--smoke", action="store_true", default=None, help="the space's small variant")
    sub.add_argument("--threads", help="torch threads (default: 1)")
    sub.add_argument("--device", help="torch device (default: auto)")
    sub.add_argument("--out", metavar="DIR", help="folder for tables and page (default: a new one under runs/)")
    sub.add_argument("--save", metavar="FILE", help="write the merge chosen on validation as safetensors")


def _add_extend(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dry-run", action="store_true", help="show the trials and run none")
    sub.add_argument("--repeats", metavar="R", type=count, help="so many trials of each configuration that lacks some "
                     "(default: as many as the analysis asks for)")  # fmt: skip
    sub.add_argument("--noises", metavar="N", type=count, help="at most so many new noises (default: all it asks for)")
    sub.add_argument("--objective", help="gain_mean or merged_loss, ...: what the answer is about (default: gain_mean)")
    _add_machine(sub)
    add_detach(sub)


def _add_import(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("table", metavar="TABLE", help="one row a pair: .parquet, .csv, .feather or .arrow")
    sub.add_argument("--space", required=True, help="space (or space file) that the pairs belong to")
    sub.add_argument("--map", metavar="COLUMN=NAME,...", action="append", help="what a column is in the trials table, "
                     "such as lr=learning_rate,loss=merged_loss_test; known names need none; COLUMN= leaves it "
                     "out; repeatable")  # fmt: skip
    sub.add_argument("--set", metavar="KEY=VALUE", action="append", help="what all rows share: a field of the trial, "
                     "examples, classes or parameters; repeatable")  # fmt: skip
    sub.add_argument("--sampler", metavar="NAME", help="what chose the configurations (default: grid where they are "
                     "one, else unknown)")  # fmt: skip
    sub.add_argument("--drop-missing", action="store_true", help="leave out rows that cannot be used")
    sub.add_argument("--out", metavar="DIR", help="run folder (default: runs/<name of the table>)")


def _add_set(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--set", metavar="KEY=VALUE", action="append",
                     help="fix a field of the trial, or one entry of it: optimizer=adamw, dataset_options.path=DIR; "
                     "the value is YAML; repeatable")  # fmt: skip


def _add_machine(sub: argparse.ArgumentParser, elsewhere: bool = False) -> None:
    sub.add_argument("--workers", help="trials at a time (default: auto, one a CPU)")
    sub.add_argument("--runner", help="ray or inline (default: ray)")
    if not elsewhere:
        sub.add_argument("--address", metavar="ADDR", help="Ray cluster: HOST:PORT, auto, or local for one of its own "
                         "(default: RAY_ADDRESS, else local)")  # fmt: skip
    sub.add_argument("--resources", metavar="KEY=VALUE", action="append", help="what a trial takes of a cluster, such "
                     "as gpus_per_member=1 or gpus_per_pair=0.25; see the README; repeatable")  # fmt: skip
    sub.add_argument("--max-failures", metavar="N", help="run a configuration again N times whose process or node dies "
                     "(default: 2)")  # fmt: skip
    sub.add_argument("--checkpoint-steps", metavar="K", help="save running trials every K optimizer steps; 0 for never "
                     "(default: about every minute)")  # fmt: skip
    sub.add_argument("--max-seconds", metavar="S", help="start no configuration after S seconds")
    sub.add_argument("--max-gpu-hours", metavar="H", help="start no configuration once the trials have held GPUs for H "
                     "hours, earlier drivers' trials included")  # fmt: skip
    sub.add_argument("--until-interval", metavar="X", help="start no configuration once the 90 %% interval of the best "
                     "noise is narrower than a factor X; 1 never stops")  # fmt: skip
    sub.add_argument("--max-failed", metavar="N", help="give up after N failed configurations (default: 10)")
    _add_data(sub)


def _add_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--data", metavar="ROOT", help="folder with the data sets")
    sub.add_argument("--download", action="store_true", default=None, help="fetch missing data sets into ROOT")
    sub.add_argument("--cache", metavar="DIR", help="folder for unpacked archives (default: the user's cache folder)")
    sub.add_argument("--resident-share", metavar="X", help="share of the device's free memory that a data set may take "
                     "to be resident on it (default: 0.5)")  # fmt: skip
    sub.add_argument("--loader-workers", metavar="N", help="processes that read a larger one (default: 2)")


@contextmanager
def _skipped_parts_as_lines() -> Iterator[None]:
    """Print each skipped part or checkpoint once, as one line; other warnings are libraries' and no user's concern."""
    from sweeper.storage.tables import SkippedPart
    from trainables.datasets.cache import LostCheckpoint

    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, SkippedPart | LostCheckpoint) and str(message) not in shown:
            shown.add(str(message))
            print(f"warning: {_in_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", SkippedPart)
        warnings.showwarning = show
        yield


def _chosen(args: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """Return what carries a command out: a server, where one is named and knows the command, or this machine."""
    if os.environ.get("SWEEPER_SERVER") if args.server is None else args.server:
        from sweeper.cli.remote import commands as remote

        if (found := remote.command(args)) is not None:
            return found
    from sweeper.cli.commands import run
    from sweeper.cli.sweep_options import check_here

    check_here(args)
    return run.COMMANDS[args.command]


def _command(args: argparse.Namespace) -> int:
    from sweeper.errors import SpecError

    try:
        with _skipped_parts_as_lines():
            return _chosen(args)(args)
    except SpecError as error:
        print(f"error: {_in_one_line(error)}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output went away
        return ERROR
    except OSError as error:
        print(f"error: {_in_one_line(error)}", file=sys.stderr)
        return ERROR
    except Exception as error:
        if os.environ.get("SWEEPER_DEBUG") == "1":
            raise
        text = " ".join(str(error).split())
        print(f"error: internal: {type(error).__name__}: {text} (SWEEPER_DEBUG=1 shows more)", file=sys.stderr)
        return ERROR


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    from sweeper.runner.signals import sigterm_as_sigint

    guard_output()
    args = _parser().parse_args(argv)
    try:
        with sigterm_as_sigint():
            return _command(args)
    except KeyboardInterrupt:
        print("interrupted; finished trials are kept", file=sys.stderr)
        return INTERRUPTED

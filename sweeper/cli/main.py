"""The root of the command line: its commands, its messages and its exit codes (`sweeper.errors.ExitCode`)."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from sweeper.cli.parsing import Arguments, Group, Option
from sweeper.errors import ExitCode
from trainables import __version__
from trainables.io.printable import guard_output

_AT = "sweeper.cli.commands."
COMMANDS = {
    "run": (f"{_AT}run:run", "run a sweep, or continue the one that its folder holds"),
    "resume": (f"{_AT}run:resume", "continue an interrupted sweep, or add configurations to a finished one"),
    "extend": (f"{_AT}extend:extend", "run only the trials that a firm answer still needs"),
    "status": (f"{_AT}run:status", "show the progress of a sweep, its best noise so far and its warnings; with "
               "--address those of a job"),
    "list": (f"{_AT}inspect:list_trials", "list the trials of a sweep; with --server alone list the sweeps"),
    "best": (f"{_AT}inspect:best", "show the optimal noise and the best merged model"),
    "recommend": (f"{_AT}inspect:recommend", "show hyperparameters that reach the optimal noise"),
    "analyse": (f"{_AT}analyse:analyse", "test whether an optimal noise exists, and name what a firm answer needs"),
    "compare": (f"{_AT}compare:compare", "put sweeps side by side: best noises, best merges, cost"),
    "dashboard": (f"{_AT}inspect:dashboard", "serve the dashboards of sweeps, also while they run"),
    "export": (f"{_AT}files:export", "write a table of a sweep as one file, its page, or its figures"),
    "pair": (f"{_AT}inspect:pair", "rerun one trial and compare the numbers"),
    "compact": (f"{_AT}files:compact", "join the parts of each table, so that a large sweep is read in a second"),
    "import": (f"{_AT}files:import_table", "make a run folder from a table of pairs that were trained elsewhere"),
    "merge": (f"{_AT}merge:merge", "score and merge your own checkpoints"),
    "spaces": (f"{_AT}names:spaces", "list the search spaces"),
    "noises": (f"{_AT}names:noises", "list the noise scales"),
    "merges": (f"{_AT}names:merges", "list the merges"),
    "submit": (f"{_AT}jobs:submit", "run a sweep as a job on a Ray cluster elsewhere"),
    "stop": (f"{_AT}jobs:stop", "stop a submitted sweep and keep its finished trials"),
    "manifest": (f"{_AT}manifest:manifest", "print a Kubernetes or `ray up` file that runs a sweep on a new cluster"),
    "serve": (f"{_AT}serve:serve", "serve sweeps of many users: their queue, HTTP API and pages"),
    "token": (f"{_AT}serve:token", "create, list and revoke the tokens of a service's users"),
    "completion": (f"{_AT}completion:completion", "print a script that completes commands, options and names in a "
                   "shell"),
}  # fmt: skip
"""Command -> where it is, and what it does."""
SECTIONS = {
    "Run sweeps": ("run", "resume", "extend"),
    "Read results": ("status", "list", "best", "recommend", "analyse", "compare", "dashboard", "export", "pair"),
    "Own data and models": ("import", "merge", "compact"),
    "Names": ("spaces", "noises", "merges"),
    "Clusters and services": ("submit", "stop", "manifest", "serve", "token"),
    "Shell": ("completion",),
}

cli = Group(
    "sweeper",
    "Find the training noise at which fine-tuned models merge best.",
    COMMANDS,
    (
        Option("--server", "URL", "Service that carries the command out (default: SWEEPER_SERVER; '' for none)."),
        Option("--ca", "FILE", "Certificates to trust of an https server (default: the system's)."),
        Option("--insecure", "", "Do not check the server's certificate; send a token even over http."),
    ),
    SECTIONS,
    "Exit codes: 0 done, 1 error, 2 bad spec or usage, 3 no successful trial, 130 interrupted (resumable). "
    "Completion in bash: eval \"$(sweeper completion bash)\".",
)  # fmt: skip
click.version_option(__version__, prog_name="sweeper", message="%(prog)s %(version)s")(cli)


def _in_one_line(text: object) -> str:
    return " ".join(str(text).splitlines())


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


def _choose(action: Callable[[Arguments], int], args: Arguments) -> Callable[[Arguments], int]:
    """Return what carries a command out: a server, if one is named and knows the command, or this machine."""
    if os.environ.get("SWEEPER_SERVER") if args.server is None else args.server:
        from sweeper.cli.remote import commands as remote

        if (served := remote.command(args)) is not None:
            return served
    from sweeper.cli.sweep_options import check_here

    check_here(args)
    return action


def carry_out(action: Callable[[Arguments], int], args: Arguments) -> int:
    """Return the exit code of a command; an error is one line on stderr."""
    from sweeper.errors import SpecError
    from sweeper.runner.signals import sigterm_as_sigint

    try:
        with sigterm_as_sigint(), _skipped_parts_as_lines():
            return _choose(action, args)(args)
    except SpecError as error:
        print(f"error: {_in_one_line(error)}", file=sys.stderr)
        return ExitCode.USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output went away
        return ExitCode.ERROR
    except OSError as error:
        print(f"error: {_in_one_line(error)}", file=sys.stderr)
        return ExitCode.ERROR
    except click.UsageError:
        raise
    except Exception as error:
        if os.environ.get("SWEEPER_DEBUG") == "1":
            raise
        text = " ".join(str(error).split())
        print(f"error: internal: {type(error).__name__}: {text} (SWEEPER_DEBUG=1 shows more)", file=sys.stderr)
        return ExitCode.ERROR


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    guard_output()
    try:
        args = None if argv is None else list(argv)
        return int(cli.main(args, prog_name="sweeper", standalone_mode=False, obj=carry_out) or ExitCode.DONE)
    except click.UsageError as error:
        print(f"error: {_usage_text(error)}; see {_path(error)} --help", file=sys.stderr)
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; finished trials are kept", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "sweeper"


def _usage_text(error: click.UsageError) -> str:
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
        return _in_one_line(f"{error.param.opts[0]} {error.message}")
    text = _in_one_line(error.format_message())
    text = text if text.endswith("...") else text.removesuffix(".")
    return text[:1].lower() + text[1:]

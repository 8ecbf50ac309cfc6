"""Command line: commands, error messages and exit codes (`sweeper.errors.ExitCode`)."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from sweeper.cli.parsing import TRUST, Arguments, Group, server_option
from sweeper.errors import ExitCode
from trainables import __version__
from trainables.io.printable import guard_output

_AT = "sweeper.cli.commands."
COMMANDS = {
    "run": (f"{_AT}run:run", "run a sweep, or continue the sweep of its run folder"),
    "resume": (f"{_AT}run:resume", "continue an interrupted sweep, or add configurations to a finished one"),
    "extend": (f"{_AT}extend:extend", "run the further trials that a firm answer needs"),
    "status": (f"{_AT}run:status", "show progress, best noise and warnings of a sweep; with --address the state of a "
               "job"),
    "list": (f"{_AT}inspect:list_trials", "list the trials of a sweep; with --server and no id list the sweeps"),
    "best": (f"{_AT}inspect:best", "show the optimal noise and the best merged model"),
    "recommend": (f"{_AT}recommend:recommend", "show the settings to use, and how to reach the optimal noise"),
    "analyse": (f"{_AT}analyse:analyse", "test whether an optimal noise exists, and list the trials still needed"),
    "compare": (f"{_AT}compare:compare", "compare sweeps side by side: best noises, best merges, cost"),
    "dashboard": (f"{_AT}inspect:dashboard", "serve the dashboards of sweeps, finished or running"),
    "export": (f"{_AT}files:export", "write a table, the page or the figures of a sweep"),
    "pair": (f"{_AT}inspect:pair", "rerun one trial and compare the numbers"),
    "compact": (f"{_AT}files:compact", "join the part files of each table, so that large sweeps load fast"),
    "import": (f"{_AT}files:import_table", "make a run folder from a table of pairs trained elsewhere"),
    "merge": (f"{_AT}merge:merge", "score and merge your own checkpoints"),
    "spaces": (f"{_AT}names:spaces", "list the search spaces"),
    "noises": (f"{_AT}names:noises", "list the noise scales"),
    "merges": (f"{_AT}names:merges", "list the merges"),
    "submit": (f"{_AT}jobs:submit", "run a sweep as a job on another Ray cluster"),
    "stop": (f"{_AT}jobs:stop", "stop a submitted sweep and keep its finished trials"),
    "manifest": (f"{_AT}manifest:manifest", "print a Kubernetes or `ray up` file that runs a sweep on a new cluster"),
    "serve": (f"{_AT}serve:serve", "serve sweeps of many users: queue, HTTP API and pages"),
    "token": (f"{_AT}serve:token", "create, list and revoke the tokens of a service's users"),
    "completion": (f"{_AT}completion:completion", "print a shell script that completes commands, options and "
                   "names"),
}  # fmt: skip
"""Command -> `module:attribute`, and its effect."""
SECTIONS = {
    "Run sweeps": ("run", "resume", "extend"),
    "Read results": ("status", "list", "best", "recommend", "analyse", "compare", "dashboard", "export", "pair"),
    "Your data and models": ("import", "merge", "compact"),
    "Names": ("spaces", "noises", "merges"),
    "Clusters and services": ("submit", "stop", "manifest", "serve", "token"),
    "Shell": ("completion",),
}

cli = Group(
    "sweeper",
    "Find the training noise at which fine-tuned models merge best.",
    COMMANDS,
    (server_option(), *TRUST),
    SECTIONS,
    "Exit codes: 0 done, 1 error, 2 bad spec or usage, 3 no successful trial, 130 interrupted (resumable). "
    "Completion in bash: eval \"$(sweeper completion bash)\".",
)  # fmt: skip
click.version_option(__version__, prog_name="sweeper", message="%(prog)s %(version)s")(cli)


LONGEST_WORD = 200
"""Longer words of an error, such as paths, are printed without their middle."""
_COMMAND_OR_LONG = re.compile(rf"`[^`]*`|[^\s`]{{{LONGEST_WORD + 1},}}")


def _join_lines(text: object) -> str:
    return _COMMAND_OR_LONG.sub(_cut_middle, " ".join(str(text).split()))


def _cut_middle(match: re.Match[str]) -> str:
    word, half = match[0], LONGEST_WORD // 2 - 20
    # people paste commands
    return word if word.startswith("`") else f"{word[:half]}...{word[-half:]}"


@contextmanager
def _print_skipped_parts() -> Iterator[None]:
    """Print each skipped part or checkpoint once, as one line; hide the warnings of libraries."""
    from sweeper.storage.tables import SkippedPart
    from trainables.datasets.cache import LostCheckpoint

    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, SkippedPart | LostCheckpoint) and str(message) not in shown:
            shown.add(str(message))
            print(f"warning: {_join_lines(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", SkippedPart)
        warnings.showwarning = show
        yield


def _choose(action: Callable[[Arguments], int], args: Arguments) -> Callable[[Arguments], int]:
    """Return the action for a service, if one is named and has the command, else that for this machine."""
    if os.environ.get("SWEEPER_SERVER") if args.server is None else args.server:
        from sweeper.cli.remote import commands as remote

        if (served := remote.command(args)) is not None:
            return served
    from sweeper.cli.sweep_options import check_local

    check_local(args)
    return action


def run_action(action: Callable[[Arguments], int], args: Arguments) -> int:
    """Run a command and return its exit code; an error is one line on stderr."""
    from sweeper.errors import MissingFolderError, SpecError
    from sweeper.runner.signals import sigterm_as_sigint

    try:
        with sigterm_as_sigint(), _print_skipped_parts():
            return _choose(action, args)(args)
    except SpecError as error:
        hint = ""
        if isinstance(error, MissingFolderError):
            from sweeper.cli.run_folders import suggest_folders

            hint = suggest_folders(args)
        print(f"error: {_join_lines(error)}{hint}", file=sys.stderr)
        return ExitCode.USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of stdout has exited
        return ExitCode.ERROR
    except OSError as error:
        text = f"cannot read or write {error.filename}: {error.strerror}" if error.filename else error
        print(f"error: {_join_lines(text)}", file=sys.stderr)
        return ExitCode.USAGE if error.errno == errno.ENAMETOOLONG else ExitCode.ERROR
    except click.UsageError:
        raise
    except Exception as error:
        if os.environ.get("SWEEPER_DEBUG") == "1":
            raise
        print(
            f"error: internal: {type(error).__name__}: {_join_lines(error)} (SWEEPER_DEBUG=1 shows more)",
            file=sys.stderr,
        )
        return ExitCode.ERROR


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    guard_output()
    try:
        args = None if argv is None else list(argv)
        return int(cli.main(args, prog_name="sweeper", standalone_mode=False, obj=run_action) or ExitCode.DONE)
    except click.UsageError as error:
        print(f"error: {_format_usage_error(error)}; see {_command_path(error)} --help", file=sys.stderr)
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _command_path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "sweeper"


def _format_usage_error(error: click.UsageError) -> str:
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
        return _join_lines(f"{error.param.opts[0]} {error.message}")
    text = _join_lines(error.format_message())
    text = text if text.endswith("...") else text.removesuffix(".")
    return text[:1].lower() + text[1:]

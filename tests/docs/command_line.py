"""What the tests of the documentation need of the command line: names of commands, `--help`, and its parser."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import click

from sweeper.cli.main import cli, main


def names() -> list[tuple[str, ...]]:
    """Return the names of the commands, and of theirs."""
    context = click.Context(cli)
    out: list[tuple[str, ...]] = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        out.append((name,))
        if isinstance(command, click.Group):
            out += [(name, inner) for inner in command.list_commands(context)]
    return out


def parse(words: Sequence[str]) -> None:
    """Parse a command, without running it.

    Raises:
        UsageError: It is wrong.
    """
    cli.main(list(words), prog_name="sweeper", standalone_mode=False, obj=lambda action, args: 0)


def help_of(*name: str) -> str:
    """Return `--help` of a command, or of the program."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        main([*name, "--help"])
    return "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())

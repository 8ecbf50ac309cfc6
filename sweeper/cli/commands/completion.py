"""`sweeper completion`: a script that completes commands, options and names in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sweeper.cli.parsing import Argument, Arguments, Choice, command
from sweeper.errors import ExitCode, SpecError

SHELLS = ("bash", "zsh", "fish")
_SHELL = Argument("shell", "bash|zsh|fish", "Shell; bash and zsh run `eval \"$(sweeper completion SHELL)\"` at their "
                  "start, fish `sweeper completion fish | source`.", names=lambda: SHELLS,
                  type=Choice(SHELLS))  # fmt: skip


@command(_SHELL)
def completion(args: Arguments) -> int:
    """`sweeper completion bash|zsh|fish`."""
    kind = get_completion_class(args.shell)
    if kind is None:
        raise SpecError(f"click completes nothing in {args.shell}")
    print(kind(click.Group("sweeper"), {}, "sweeper", "_SWEEPER_COMPLETE").source())
    return ExitCode.DONE

"""`sweeper completion`: a shell script that completes commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sweeper.cli.parsing import Argument, Arguments, Choice, command
from sweeper.errors import ExitCode, SpecError

SHELLS = ("bash", "zsh", "fish")
_SHELL = Argument("shell", "bash|zsh|fish", "Shell. Run `eval \"$(sweeper completion SHELL)\"` at the start of bash or "
                  "zsh, `sweeper completion fish | source` at that of fish.", names=lambda: SHELLS,
                  type=Choice(SHELLS))  # fmt: skip


@command(_SHELL)
def completion(args: Arguments) -> int:
    """`sweeper completion bash|zsh|fish`."""
    kind = get_completion_class(args.shell)
    if kind is None:
        raise SpecError(f"click has no completion for {args.shell}")
    print(kind(click.Group("sweeper"), {}, "sweeper", "_SWEEPER_COMPLETE").source())
    return ExitCode.DONE

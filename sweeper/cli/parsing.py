"""Commands and options for click: lazy commands, groups of options, and options with several values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace as Arguments
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from trainables.registry import unknown

GROUPS = ("search", "trial", "budget", "cluster", "service", "job", "manifest", "options")
Names = Callable[[], Iterable[str]]
Parameters = click.Parameter | Iterable[click.Parameter]


class Number(click.ParamType[Any]):
    """Parameter type of numbers with a lower bound."""

    def __init__(self, kind: type[int] | type[float], minimum: float | None = None) -> None:
        self.kind, self.minimum = kind, minimum
        self.name = "a whole number" if kind is int else "a number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of a text, or fail with the rule."""
        try:
            number = self.kind(value)
        except ValueError:
            number = None
        if number is None or (self.minimum is not None and number < self.minimum):
            bound = "" if self.minimum is None else f" >= {self.minimum:g}"
            self.fail(f"must be {self.name}{bound}, got {value!r}", param, ctx)
        return number


class Choice(click.Choice[str]):
    """Parameter type of a few words; the error for another word names the nearest one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word, or fail with the nearest one."""
        if value not in self.choices:
            raise click.UsageError(str(unknown(str(param and param.name), str(value), self.choices)), ctx)
        return value


class Option(click.Option):
    """Option in a group of `--help`.

    Args:
        flag: Name of the option, such as `--trials`.
        metavar: Placeholder of the value in `--help`; empty for a switch.
        help: Effect of the option, in a sentence.
        names: Returns the values that shells complete.
        several: Whether the option takes all values up to the next option.
        group: Title of the group in `--help`, one of `GROUPS`.
        dest: Name of the value among the arguments (default: the flag's name).
        rules: Further arguments of `click.Option`.
    """

    def __init__(
        self,
        flag: str,
        metavar: str,
        help: str,
        *,
        names: Names | None = None,
        several: bool = False,
        group: str = "options",
        dest: str = "",
        **rules: Any,
    ) -> None:
        self.several, self.group = several, group
        if not rules.get("required"):  # click takes a default of None for a value
            rules.setdefault("default", None)
        if several or rules.get("multiple"):
            rules |= {"multiple": True, "default": ()}
        if rules.pop("show_default", False):
            default = rules["default"]
            help = f"{help.removesuffix('.')} (default: {f'{default:g}' if isinstance(default, float) else default})."
        if not metavar:
            rules |= {"is_flag": True, "type": bool}
        super().__init__(
            [flag, dest or flag.strip("-").replace("-", "_")],
            metavar=f"{metavar}..." if several else metavar or None,
            help=help,
            shell_complete=make_completer(metavar, names),
            **rules,
        )


class Argument(click.Argument):
    """Positional argument with its placeholder and text in `--help`."""

    def __init__(self, name: str, metavar: str, help: str, *, names: Names | None = None, **rules: Any) -> None:
        super().__init__([name], metavar=metavar, help=help, shell_complete=make_completer(metavar, names), **rules)


def make_completer(metavar: str, names: Names | None) -> Callable[[Any, Any, str], list[CompletionItem]] | None:
    """Return a function that completes names, files or folders in a shell; None if there is nothing to complete."""
    kind = "dir" if "DIR" in metavar or metavar == "ROOT" else "file"
    if names is None and not any(word in metavar for word in ("DIR", "FILE", "ROOT", "TABLE")):
        return None

    def complete(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        matches = [CompletionItem(n) for n in (names() if names else ()) if n.startswith(incomplete)]
        return matches if names and (matches or "yaml" not in metavar) else [CompletionItem(incomplete, type=kind)]

    return complete


def server_option(hidden: bool = False) -> Option:
    """Return the option that names a service; hidden before a command that refuses it."""
    text = "Service that runs the command (default: SWEEPER_SERVER; '' for none)."
    return Option("--server", "URL", text, group="service", hidden=hidden)


TRUST = (
    Option("--ca", "FILE", "Certificates to trust for https (default: the system's).", group="service"),
    Option("--insecure", "", "Do not check the server's certificate; send a token even over http.", group="service"),
)


class Command(click.Command):
    """Command whose action takes the parsed arguments and returns the exit code."""

    def __init__(self, action: Callable[[Arguments], int], parameters: Sequence[click.Parameter]) -> None:
        self.action = action
        super().__init__(None, params=list(parameters), context_settings={"help_option_names": ["-h", "--help"]})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments with abbreviated options and options with several values."""
        return super().parse_args(ctx, args if ctx.resilient_parsing else list(spell_out(self, ctx, args)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group."""
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                sections[getattr(param, "group", "options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title.capitalize()):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> int:
        """Run the action by the context's object, which chooses a service or this machine."""
        run_action: Callable[[Callable[[Arguments], int], Arguments], int] = ctx.find_root().obj
        return run_action(self.action, collect(ctx))


class Group(click.Group):
    """Group of commands that loads the module of a command at its first use.

    Args:
        name: Name of the group.
        help: Purpose of the group, in a sentence.
        lazy: Name of a command -> `module:attribute`, and its effect.
        params: Options before the command.
        sections: Title in `--help` -> names of commands.
        epilog: Text at the end of `--help`.
    """

    def __init__(
        self,
        name: str,
        help: str,
        lazy: Mapping[str, tuple[str, str]],
        params: Sequence[click.Parameter],
        sections: Mapping[str, Sequence[str]] | None = None,
        epilog: str | None = None,
    ) -> None:
        self.lazy, self.sections = lazy, sections or {"Commands": tuple(lazy)}
        super().__init__(
            name,
            help=help,
            epilog=epilog,
            params=list(params),
            no_args_is_help=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, after loading its module; None for an unknown name."""
        if cmd_name not in self.lazy:
            return None
        path, text = self.lazy[cmd_name]
        module, _, attribute = path.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        command.name, command.help, command.short_help = cmd_name, f"{text[0].upper()}{text[1:]}.", text
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the command."""
        return super().parse_args(ctx, args if ctx.resilient_parsing else list(spell_out(self, ctx, args)))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments; the error for an unknown name suggests the nearest one."""
        if args[0] not in self.lazy and not ctx.resilient_parsing:
            raise click.UsageError(str(unknown("command", args[0], self.lazy)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section without loading their modules."""
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.lazy[name][1]) for name in names])


def command(*parameters: Parameters) -> Callable[[Callable[[Arguments], int]], Command]:
    """Return a decorator that turns a function of the parsed arguments into a command."""
    flat = [p for group in parameters for p in ([group] if isinstance(group, click.Parameter) else group)]
    return lambda action: Command(action, flat)


def spell_out(command: click.Command, ctx: click.Context, args: Sequence[str]) -> Iterable[str]:
    """Yield arguments with full option names, and an option with several values once per value.

    Raises:
        UsageError: An option is unknown, ambiguous or lacks its value.
    """
    options = {n: p for p in command.get_params(ctx) if isinstance(p, click.Option) for n in p.opts}
    rest = list(args)
    while rest:
        token = rest.pop(0)
        if token == "--" or (isinstance(command, click.Group) and not token.startswith("-")):
            yield from (token, *rest)
            return
        if not token.startswith("--"):
            yield token
            continue
        name, equals, value = token.partition("=")
        name = _find_option(name, options, ctx)
        option = options[name]
        if equals or option.is_flag:
            yield f"{name}{equals}{value}"
            continue
        count = 1
        if isinstance(option, Option) and option.several:
            count = next((i for i, text in enumerate(rest) if text.startswith("--")), len(rest))
        if not rest or not count or rest[0].startswith("--"):
            raise click.UsageError(f"option {name} needs a value, {option.make_metavar(ctx)}", ctx)
        yield from (f"{name}={text}" for text in rest[:count])
        del rest[:count]


_ELSEWHERE = {("dashboard", "--html"): "sweeper export RUN --html FILE"}
"""Command and an option that another command has -> that command."""


def _find_option(name: str, options: Mapping[str, click.Option], ctx: click.Context) -> str:
    if name in options:
        return name
    matches = [n for n in options if n.startswith(name)]
    if len(matches) > 1:
        raise click.UsageError(f"option {name} is ambiguous: {' or '.join(matches)}", ctx)
    if not matches:
        if instead := _ELSEWHERE.get((str(ctx.info_name), name)):
            raise click.UsageError(f"{ctx.info_name} has no {name}: use `{instead}`", ctx)
        raise click.UsageError(str(unknown("option", name, [n for n in options if n.startswith("--")])), ctx)
    return matches[0]


def collect(ctx: click.Context) -> Arguments:
    """Return the values of a command's parameters; an option after the command overrides the same one before it."""
    chain = [ctx]
    while (parent := chain[0].parent) is not None:
        chain.insert(0, parent)
    values: dict[str, Any] = dict(zip(("command", "action"), (c.info_name for c in chain[1:]), strict=False))
    for level in chain:
        for param in level.command.params:
            name = param.name
            if name is None or name not in level.params:
                continue
            given = level.get_parameter_source(name) is not ParameterSource.DEFAULT
            if name not in values or given:
                value = level.params[name]
                many = isinstance(value, tuple)
                values[name] = (list(value) or ([] if isinstance(param, Argument) else None)) if many else value
    return Arguments(**values)

"""Commands and options on top of click: lazy commands, groups of options, and options that take several values."""

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
    """A number: its converter, what it is called, and its least value."""

    def __init__(self, kind: type[int] | type[float], least: float | None = None) -> None:
        self.kind, self.least = kind, least
        self.name = "a whole number" if kind is int else "a number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        try:
            number = self.kind(value)
        except ValueError:
            number = None
        if number is None or (self.least is not None and number < self.least):
            least = "" if self.least is None else f" >= {self.least:g}"
            self.fail(f"must be {self.name}{least}, got {value!r}", param, ctx)
        return number


class Choice(click.Choice[str]):
    """One of a few words; another word is answered by the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word."""
        if value not in self.choices:
            raise click.UsageError(str(unknown(str(param and param.name), str(value), self.choices)), ctx)
        return value


class Option(click.Option):
    """An option that stands in a group of `--help`.

    Args:
        flag: Its name, such as `--trials`.
        metavar: What stands for its value; empty for a switch.
        help: What it does, in a sentence.
        names: Names that shells complete.
        several: Whether it takes all values up to the next option.
        group: Group in `--help`; empty for the last one.
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
        rules.setdefault("default", None)
        if several or rules.get("multiple"):
            rules |= {"multiple": True, "default": ()}
        if not metavar:
            rules |= {"is_flag": True, "type": bool}
        complete = completion(metavar, names)
        super().__init__(
            [flag, dest or flag.strip("-").replace("-", "_")],
            metavar=f"{metavar}..." if several else metavar or None,
            help=help,
            shell_complete=complete,
            **rules,
        )


class Argument(click.Argument):
    """A positional argument: its name, what stands for it in `--help`, and what it is."""

    def __init__(self, name: str, metavar: str, help: str, *, names: Names | None = None, **rules: Any) -> None:
        super().__init__([name], metavar=metavar, help=help, shell_complete=completion(metavar, names), **rules)


def completion(metavar: str, names: Names | None) -> Callable[[Any, Any, str], list[CompletionItem]] | None:
    """Return what completes a value in a shell: names, files or folders; None for nothing."""
    kind = "dir" if "DIR" in metavar or metavar == "ROOT" else "file"
    if names is None and not any(word in metavar for word in ("DIR", "FILE", "ROOT", "TABLE")):
        return None

    def complete(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        known = [CompletionItem(n) for n in (names() if names else ()) if n.startswith(incomplete)]
        return known if names and (known or "yaml" not in metavar) else [CompletionItem(incomplete, type=kind)]

    return complete


class Command(click.Command):
    """A command: its action takes the parsed arguments and returns the exit code."""

    def __init__(self, action: Callable[[Arguments], int], parameters: Sequence[click.Parameter]) -> None:
        self.action = action
        super().__init__(None, params=list(parameters), context_settings={"help_option_names": ["-h", "--help"]})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments; an option may be shortened, and one with several values gives each of them."""
        return super().parse_args(ctx, args if ctx.resilient_parsing else list(spell_out(self, ctx, args)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, by group."""
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
        """Carry the command out; the context's object decides where."""
        carry_out: Callable[[Callable[[Arguments], int], Arguments], int] = ctx.find_root().obj
        return carry_out(self.action, collect(ctx))


class Group(click.Group):
    """A group of commands, which are loaded when they are used.

    Args:
        name: Its name.
        help: What it is for.
        commands: Name -> `module:attribute`, and what it does.
        params: Options before a command.
        sections: Title in `--help` -> names of commands.
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
        """Return a command, loaded."""
        if cmd_name not in self.lazy:
            return None
        path, text = self.lazy[cmd_name]
        module, _, attribute = path.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        command.name, command.help, command.short_help = cmd_name, f"{text[0].upper()}{text[1:]}.", text
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before a command."""
        return super().parse_args(ctx, args if ctx.resilient_parsing else list(spell_out(self, ctx, args)))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments; a wrong name is answered by the nearest."""
        if args[0] not in self.lazy and not ctx.resilient_parsing:
            raise click.UsageError(str(unknown("command", args[0], self.lazy)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, without loading them."""
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.lazy[name][1]) for name in names])


def command(*parameters: Parameters) -> Callable[[Callable[[Arguments], int]], Command]:
    """Return a decorator that makes a function of the parsed arguments a command."""
    flat = [p for group in parameters for p in ([group] if isinstance(group, click.Parameter) else group)]
    return lambda action: Command(action, flat)


def spell_out(command: click.Command, ctx: click.Context, args: Sequence[str]) -> Iterable[str]:
    """Yield arguments with whole option names, and an option with several values once per value.

    Raises:
        UsageError: An unknown option, or one without its value; the message names the nearest.
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
        name = _whole_name(name, options, ctx)
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


def _whole_name(name: str, options: Mapping[str, click.Option], ctx: click.Context) -> str:
    if name in options:
        return name
    longer = [n for n in options if n.startswith(name)]
    if len(longer) > 1:
        raise click.UsageError(f"option {name} may be {' or '.join(longer)}", ctx)
    if not longer:
        raise click.UsageError(str(unknown("option", name, [n for n in options if n.startswith("--")])), ctx)
    return longer[0]


def collect(ctx: click.Context) -> Arguments:
    """Return the values of a command's parameters; an option before the command holds unless it is given again."""
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

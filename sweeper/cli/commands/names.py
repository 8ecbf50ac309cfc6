"""Commands that list names: `spaces`, `noises` and `merges`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.cli.options import SERVED
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, command
from sweeper.config.catalog import merge_records, noise_records, space_records
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import format_table, wrap
from trainables.noise import FAMILIES
from trainables.registry import unknown

_NAMES = Argument("names", "[NAME]...", "Search spaces to show (default: all).", nargs=-1, required=False)


@command(_NAMES, SERVED)
def spaces(args: Arguments) -> int:
    """`sweeper spaces [NAME]...`."""
    emit_spaces(args.json, select_spaces(args, space_records()))
    return ExitCode.DONE


def select_spaces(args: Arguments, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records of the spaces that a command names; all if it names none.

    Raises:
        SpecError: There is no such space.
    """
    known = {r["name"]: r for r in records}
    if wrong := [name for name in args.names if name not in known]:
        raise SpecError(str(unknown("space", wrong[0], known)))
    return [known[name] for name in args.names or known]


@command(SERVED)
def noises(args: Arguments) -> int:
    """`sweeper noises`."""
    emit_noises(args.json, noise_records())
    return ExitCode.DONE


@command(SERVED)
def merges(args: Arguments) -> int:
    """`sweeper merges`."""
    emit_merges(args.json, merge_records())
    return ExitCode.DONE


def emit_spaces(as_json: bool, records: Sequence[Mapping[str, Any]]) -> None:
    """Print search spaces."""
    emit(as_json, records, "\n".join(_space(r) for r in records))


def emit_noises(as_json: bool, records: Sequence[Mapping[str, Any]]) -> None:
    """Print noise scales."""
    rows = [
        (r["name"], r["kind"], r["formula"], r["unit"], ", ".join(r["solves"]) or "–", _families(r["optimizers"]),
         r["source"])
        for r in records
    ]  # fmt: skip
    header = ("noise", "kind", "formula", "unit", "solves for", "optimizers", "source")
    emit(as_json, records, format_table(header, rows, indent=0, left_columns=len(header)))


def emit_merges(as_json: bool, records: Sequence[Mapping[str, Any]]) -> None:
    """Print merges."""
    rows = [(r["name"], r["formula"], _grid(r["symbol"], r["grid"]), r["source"]) for r in records]
    header = ("merge", "formula", "grid", "source")
    emit(as_json, records, format_table(header, rows, indent=0, left_columns=len(header)))


def _space(record: Mapping[str, Any]) -> str:
    budget = record["budget"]
    small = f"{budget}; with --smoke a pair takes seconds on a CPU" if record["smoke"] else budget
    knobs = "; ".join(f"{name} {words}" for name, words in record["knobs"].items())
    return "\n".join((record["name"], *(wrap(text, 2) for text in (record["doc"], small, f"knobs: {knobs}"))))


def _families(names: Sequence[str]) -> str:
    return "all" if set(names) == set(FAMILIES) else ", ".join(names)


def _grid(symbol: str, grid: Sequence[float]) -> str:
    if len(grid) < 2:
        return "one point" if grid else "–"
    return f"{symbol} = {grid[0]:g} … {grid[-1]:g}, {len(grid)} points"

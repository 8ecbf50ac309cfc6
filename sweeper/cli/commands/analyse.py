"""`sweeper analyse`: the evidence of one sweep or several, as sentences with their numbers, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sweeper.cli.options import COMMON, OBJECTIVE_HELP, SHOWN_NOISE, objectives
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Option, command
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import cell_text, format_table, is_value, name_knob, number, pluralize, wrap
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES
from trainables.registry import UnknownName, unknown
from trainables.result import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.evidence.findings import Analysis
    from sweeper.analysis.evidence.plan import Plan
    from sweeper.analysis.evidence.ranking import Rank
from sweeper.analysis.evidence.needs import OBJECTIVE, make_extend_command

_SHOWN = 12
FITTED = "fitted"

_DIRS = Argument(
    "dirs", "DIR...", "Run folders, or their URIs; they are analysed one after the other.", nargs=-1, required=True
)
_OPTIONS = (
    Option("--objective", "NAME", f"{OBJECTIVE_HELP} (default: gain_mean).", names=objectives),
    Option("--split", "NAME", "train, val or test (default: val, or test if only that was measured).",
           names=lambda: SPLITS),
    Option("--where", "COLUMN=VALUE", "Only trials with this value, such as momentum=0.9; repeatable.", multiple=True),
)  # fmt: skip


@command(_DIRS, _OPTIONS, SHOWN_NOISE, COMMON)
def analyse(args: Arguments) -> int:
    """`sweeper analyse DIR...`."""
    from sweeper.analysis.evidence import analyse as analysis
    from sweeper.analysis.evidence.plan import read_missing
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import read_trials

    wanted, split = _conditions(args.where or ()), _checked(args)
    found: dict[str, Analysis] = {}
    extends: dict[str, str] = {}
    plans: dict[str, Plan | None] = {}
    for folder in dict.fromkeys(args.dirs):
        spec = stored_spec(folder)
        trials = read_trials(folder)
        if not trials.num_rows:
            raise SpecError(f"{folder} holds no trials yet: `sweeper resume {folder}` runs them")
        for key, value in wanted:
            trials = _where(trials, key, value, folder)
        alone = not args.where and not args.split  # an extension asks about all trials, on the objective's own split
        extends[folder] = (
            make_extend_command(shlex.quote(str(spec.out)), spec, args.noise, args.objective) if alone else ""
        )
        found[folder] = analysis.analyse(trials, args.objective or OBJECTIVE, args.noise or spec.noise, split=split)
        plans[folder] = read_missing(spec, folder, trials, found[folder]) if extends[folder] else None
    record = {
        folder: {**a.record(), "further_trials": None if (plan := plans[folder]) is None else len(plan.specs)}
        for folder, a in found.items()
    }
    text = "\n\n\n".join(
        f"{_title(folder, len(found))}{report(a, extends[folder], plans[folder])}" for folder, a in found.items()
    )
    emit(args.json, record, text)
    return ExitCode.DONE


def _title(folder: str, folders: int) -> str:
    return f"{folder}\n\n" if folders > 1 else ""


def _checked(args: Arguments) -> str | None:
    try:
        OBJECTIVES[args.objective or OBJECTIVE]
        if args.noise:
            check_shown(args.noise)
        if args.split is not None and args.split not in SPLITS:
            raise unknown("split", args.split, SPLITS)
    except (UnknownName, ValueError) as error:
        raise SpecError(str(error)) from None
    return args.split


def _conditions(texts: Iterable[str]) -> list[tuple[str, str]]:
    from sweeper.storage.schema import SCHEMAS

    found: list[tuple[str, str]] = []
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            raise SpecError(f"--where needs COLUMN=VALUE, such as momentum=0.9, got {text!r}")
        if key not in SCHEMAS["trials"].names:
            raise SpecError(str(unknown("column", key, SCHEMAS["trials"].names)))
        found.append((key, value))
    return found


def _where(trials: pa.Table, key: str, value: str, folder: str) -> pa.Table:
    """Return the rows whose column has this value, in the column's own precision.

    Raises:
        SpecError: None has; the message names values that are there.
    """
    values = trials.column(key).to_pylist()
    kept = trials.filter([is_value(v, value) for v in values])
    if not kept.num_rows:
        there = sorted({v for v in values if v is not None})
        names = ", ".join(map(cell_text, there[:_SHOWN]))
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        raise SpecError(f"no trial in {folder} has {key} = {value}; there are {names or 'no values'}{more}")
    return kept


def report(a: Analysis, extend: str = "", plan: Plan | None = None) -> str:
    """Return an analysis for a terminal: the sentences, the ranking as a table, and what is missing.

    Args:
        a: The analysis.
        extend: Command that runs what is missing; empty where none does.
        plan: What that command would run; None where it is not known.
    """
    verdict, *others = a.sentences
    parts = [wrap(verdict, 0), "\n".join(wrap(f"- {line}", 0) for line in others)]
    if a.ranking.rows:
        parts.append(_ranking(a))
    parts.append(_needs(a, extend, plan))
    return "\n\n".join(parts)


def _ranking(a: Analysis) -> str:
    from sweeper.analysis.evidence.linear import HOW, R2

    header = ("noise", "R²", "90 % interval", "of the ceiling", "best in", "sweeps apart")
    note = f"{R2}: {HOW}; best in: share of resampled tables in which it is (one of) the best"
    parts = [format_table(header, [_row(a, r) for r in a.ranking.rows]), wrap(note, 2)]
    if a.transfer.r2 and a.transfer.n:
        moved = a.transfer.r2
        rows = [(r.name, *(number(moved[r.name].get(k)) for k in a.transfer.n)) for r in a.ranking.rows]
        what = "sweeps of that knob from a learning-rate sweep"
        if a.transfer.kind == "halves":
            what = "one half of that knob's values from the other"
        note = f"R² of predicting {what}" + ("; fitted has its exponents from all of them" if FITTED in moved else "")
        parts += ["", format_table(("noise", *(name_knob(k).short for k in a.transfer.n)), rows), wrap(note, 2)]
    return "\n".join(parts)


def _row(a: Analysis, row: Rank) -> tuple[str, ...]:
    return (
        row.name,
        number(row.r2),
        f"{number(row.low)} to {number(row.high)}",
        "-" if row.share is None else f"{100 * row.share:.0f} %",
        f"{100 * row.wins:.0f} %",
        number((a.collapse.misfit or {}).get(row.name)),
    )


def _needs(a: Analysis, extend: str, plan: Plan | None) -> str:
    from sweeper.analysis.evidence.sentences import explain_no_needs

    if not a.needs:
        return explain_no_needs(a)
    runs = pluralize(len(plan.specs), "further trial") if plan is not None else "it"
    lines = [wrap(f"what is missing for a firm answer{f' (`{extend}` runs {runs})' if extend else ''}", 0)]
    for why in dict.fromkeys(n.why for n in a.needs):
        those = [n for n in a.needs if n.why == why]
        new = [n for n in those if n.noise is not None]
        asked = sum(n.repeats for n in those)
        if plan is not None:  # what is there already, and what lies outside of the ranges, is not run
            asked = sum(len(p.specs) for p in plan.planned if p.why == why)
        trials = pluralize(asked, "trial")
        what = f"noises {', '.join(number(n.noise) for n in new)}" if new else "repeats of " + ", ".join(
            str(n.config) for n in those)  # fmt: skip
        lines.append(wrap(f"- {why}: {trials}, {what}", 0))
    return "\n".join(lines)

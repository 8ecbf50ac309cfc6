"""`sweeper analyse`: evidence of sweeps as sentences with numbers, and the trials that a firm answer needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sweeper.cli.commands.inspect import check_objective
from sweeper.cli.options import COMMON, OBJECTIVE_HELP, SHOWN_NOISE, objectives
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Option, command
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import (
    cell_text,
    format_table,
    is_value,
    method_words,
    name_knob,
    number,
    pluralize,
    show_path,
    wrap,
)
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import SPLIT_WORDS
from trainables.registry import UnknownName, unknown
from trainables.result import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.curve.merge_methods import MethodCurve
    from sweeper.analysis.curve.remedies import Remedy
    from sweeper.analysis.curve.windows import Change, WindowEffect
    from sweeper.analysis.evidence.findings import Analysis
    from sweeper.analysis.evidence.plan import Plan
    from sweeper.analysis.evidence.ranking import Rank
    from sweeper.config.spec import SweepSpec
from sweeper.analysis.evidence.needs import make_extend_command

_SHOWN = 12
FITTED = "fitted"

_DIRS = Argument("dirs", "DIR...", "Run folders, or their URIs; each is analysed alone.", nargs=-1, required=True)
_OPTIONS = (
    Option("--objective", "NAME", f"{OBJECTIVE_HELP} (default: the sweep's).", names=objectives),
    Option("--split", "NAME", "train, val or test (default: val, or test if only test was measured).",
           names=lambda: SPLITS),
    Option("--by-merge", "", "Also show whether another merge makes up for the wrong noise.", default=False),
    Option("--by-window", "", "Also show what means of the last checkpoints change.", default=False),
    Option("--where", "COLUMN=VALUE", "Use trials with this value only, such as momentum=0.9; repeatable.",
           multiple=True),
)  # fmt: skip


@command(_DIRS, _OPTIONS, SHOWN_NOISE, COMMON)
def analyse(args: Arguments) -> int:
    """`sweeper analyse DIR...`."""
    from sweeper.analysis.evidence import analyse as analysis
    from sweeper.analysis.evidence.plan import read_missing
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import read_trials

    conditions, split = _parse_conditions(args.where or ()), _check_options(args)
    analyses: dict[str, Analysis] = {}
    subjects: dict[str, str] = {}
    commands: dict[str, str] = {}
    plans: dict[str, Plan | None] = {}
    methods: dict[str, tuple[MethodCurve, ...]] = {}
    remedies: dict[str, tuple[Remedy, ...]] = {}
    windows: dict[str, tuple[WindowEffect, ...]] = {}
    for folder in dict.fromkeys(args.dirs):
        spec = stored_spec(folder)
        trials = read_trials(folder)
        if not trials.num_rows:
            raise SpecError(f"{folder} holds no trials yet: `sweeper resume {folder}` runs them")
        for key, value in conditions:
            trials = _filter_rows(trials, key, value, folder)
        # `extend` plans from all trials, on the objective's split
        extendable = not args.where and not args.split
        commands[folder] = (
            make_extend_command(shlex.quote(show_path(str(spec.out))), spec, args.noise, args.objective)
            if extendable
            else ""
        )
        analyses[folder] = analysis.analyse(
            trials, args.objective or spec.objective, args.noise or spec.noise, split=split
        )
        subjects[folder] = _name_subject(analyses[folder], spec)
        if args.by_merge:
            methods[folder], remedies[folder] = _compare_methods(folder, trials, args.noise or spec.noise)
        if args.by_window:
            windows[folder] = _compare_windows(folder, trials)
        plans[folder] = read_missing(spec, folder, trials, analyses[folder]) if commands[folder] else None
    record = {
        folder: {
            **a.record(),
            "further_trials": None if (plan := plans[folder]) is None else len(plan.specs),
            "merge_methods": [c.record() for c in methods.get(folder, ())],
            "remedies": [r.record() for r in remedies.get(folder, ())],
            "windows": [e.record() for e in windows.get(folder, ())],
        }
        for folder, a in analyses.items()
    }
    text = "\n\n\n".join(
        f"{_title(folder, len(analyses))}{report(a, commands[folder], plans[folder], subjects[folder])}"
        f"{_format_methods(methods.get(folder, ()), remedies.get(folder, ()))}"
        f"{_format_windows(windows.get(folder, ()))}"
        for folder, a in analyses.items()
    )
    emit(args.json, {"sweeps": record}, text)
    return ExitCode.DONE


def _compare_methods(folder: str, trials: pa.Table, noise: str) -> tuple[tuple[MethodCurve, ...], tuple[Remedy, ...]]:
    from sweeper.analysis.curve.merge_methods import fit_merge_methods
    from sweeper.analysis.curve.remedies import find_remedies
    from sweeper.storage.tables import read

    merges = read(folder, "merges")
    curves = fit_merge_methods(trials, merges, noise)
    return curves, find_remedies(trials, merges, noise, curves)


def _format_methods(curves: tuple[MethodCurve, ...], remedies: tuple[Remedy, ...]) -> str:
    from sweeper.analysis.curve.remedies import describe_remedies

    if not curves:
        return ""
    answer, *details = describe_remedies(remedies) or ("",)
    first = "\n\n" + "\n".join([wrap(answer, 0), *(wrap(f"- {line}", 0) for line in details)]) if answer else ""
    header = ("merge", "best noise", "90 % interval", "test loss there", "at linear's worst")
    rows = [
        (method_words(c.method), number(c.optimum), _range(c.low, c.high), _band(c.loss, c.loss_low, c.loss_high),
         _band(c.elsewhere, c.elsewhere_low, c.elsewhere_high))
        for c in curves
    ]  # fmt: skip
    note = (
        "Validation chooses the coefficient of every trial; losses are on test [nat], with 90 % bands. The last column "
        "is the loss at the noise where the linear merge is worst."
    )
    return f"{first}\n\n{format_table(header, rows)}\n{wrap(note, 2)}"


def _compare_windows(folder: str, trials: pa.Table) -> tuple[WindowEffect, ...]:
    from sweeper.analysis.curve.windows import compare_windows
    from sweeper.storage.tables import read

    found = compare_windows(trials, read(folder, "merges"))
    if not found:
        raise SpecError(f"{folder} has no windows of checkpoints: --set 'window={{size: 4}}' of a run adds them")
    return found


def _format_windows(effects: tuple[WindowEffect, ...]) -> str:
    if not effects:
        return ""
    header = ("checkpoints", "trials", "children alone", "change", "their merge", "change")
    rows = [
        (str(e.window), str(e.trials), number(e.parents), _format_change(e.parents_change), number(e.merged),
         _format_change(e.merged_change))
        for e in effects
    ]  # fmt: skip
    note = (
        "Test losses [nat] of children that average their last checkpoints, alone and merged at equal weights. Changes "
        "are against the last weights, paired by trial, with 90 % intervals."
    )
    return f"\n\n{format_table(header, rows)}\n{wrap(note, 2)}"


def _format_change(change: Change | None) -> str:
    if change is None:
        return "-"
    return f"{change.mean:+.3g}" + ("" if change.low is None else f" ({_range(change.low, change.high)})")


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{number(low)} to {number(high)}"


def _band(value: float | None, low: float | None, high: float | None) -> str:
    return "-" if value is None else f"{number(value)} ({_range(low, high)})"


def _title(folder: str, folders: int) -> str:
    return f"{folder}\n\n" if folders > 1 else ""


def _check_options(args: Arguments) -> str | None:
    if args.objective is not None:
        check_objective(args.objective)
    try:
        if args.noise:
            check_shown(args.noise)
        if args.split is not None and args.split not in SPLITS:
            raise unknown("split", args.split, SPLITS)
    except (UnknownName, ValueError) as error:
        raise SpecError(str(error)) from None
    return args.split


def _parse_conditions(texts: Iterable[str]) -> list[tuple[str, str]]:
    from sweeper.storage.schema import SCHEMAS

    conditions: list[tuple[str, str]] = []
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            raise SpecError(f"--where needs COLUMN=VALUE, such as momentum=0.9, got {text!r}")
        if key not in SCHEMAS["trials"].names:
            raise SpecError(str(unknown("column", key, SCHEMAS["trials"].names)))
        conditions.append((key, value))
    return conditions


def _filter_rows(trials: pa.Table, key: str, value: str, folder: str) -> pa.Table:
    """Return the rows with this value in a column, compared in the column's precision.

    Raises:
        SpecError: No row has the value.
    """
    values = trials.column(key).to_pylist()
    kept = trials.filter([is_value(v, value) for v in values])
    if not kept.num_rows:
        stored = sorted({v for v in values if v is not None})
        names = ", ".join(map(cell_text, stored[:_SHOWN]))
        more = f" and {len(stored) - _SHOWN} more" if len(stored) > _SHOWN else ""
        raise SpecError(f"no trial in {folder} has {key} = {value}; its values are {names or 'missing'}{more}")
    return kept


def _name_subject(a: Analysis, spec: SweepSpec) -> str:
    """Return which objective and noise an analysis judges, and whether the sweep has the same."""
    each = {"objective": (a.objective, spec.objective), "noise": (a.noise, spec.noise)}
    texts = [f"{what} {judged}" + ("" if judged == own else f" (the sweep's: {own})")
             for what, (judged, own) in each.items()]  # fmt: skip
    return f"judged: {', '.join(texts)}, on {SPLIT_WORDS[a.split]}"


def report(a: Analysis, extend: str = "", plan: Plan | None = None, subject: str = "") -> str:
    """Return an analysis for a terminal: the sentences, the table of noises, and the missing trials.

    Args:
        a: The analysis.
        extend: Command that runs the missing trials; empty if there is none.
        plan: Trials of that command; None if they are unknown.
        subject: What is judged, as a line; empty leaves it out.
    """
    from sweeper.analysis.scorecard.badge import word_verdict

    others = a.sentences[1:]
    parts = [
        wrap(word_verdict(a), 0),
        *([subject] if subject else []),
        "\n".join(wrap(f"- {line}", 0) for line in others),
    ]
    if a.ranking.rows:
        parts.append(_format_ranking(a))
    parts.append(_format_needs(a, extend, plan))
    return "\n\n".join(parts)


def _format_ranking(a: Analysis) -> str:
    from sweeper.analysis.evidence.linear import HOW, R2

    header = ("noise", "R²", "90 % interval", "of the ceiling", "best in", "sweeps apart")
    note = f"{R2}: {HOW}; best in: share of resampled tables in which the noise is best, or among the best"
    parts = [format_table(header, [_format_rank(a, r) for r in a.ranking.rows]), wrap(note, 2)]
    if a.transfer.r2 and a.transfer.n:
        moved = a.transfer.r2
        rows = [(r.name, *(number(moved[r.name].get(k)) for k in a.transfer.n)) for r in a.ranking.rows]
        target = "sweeps of a knob from a learning-rate sweep"
        if a.transfer.kind == "halves":
            target = "one half of a knob's values from the other half"
        fitted = "; the exponents of fitted come from all values" if FITTED in moved else ""
        note = f"R² of predicting {target}{fitted}"
        parts += ["", format_table(("noise", *(name_knob(k).short for k in a.transfer.n)), rows), wrap(note, 2)]
    return "\n".join(parts)


def _format_rank(a: Analysis, row: Rank) -> tuple[str, ...]:
    return (
        row.name,
        number(row.r2),
        f"{number(row.low)} to {number(row.high)}",
        "-" if row.share is None else f"{100 * row.share:.0f} %",
        f"{100 * row.wins:.0f} %",
        number((a.collapse.misfit or {}).get(row.name)),
    )


def _format_needs(a: Analysis, extend: str, plan: Plan | None) -> str:
    from sweeper.analysis.evidence.sentences import explain_no_needs, name_aim

    if not a.needs:
        return explain_no_needs(a)
    runs = pluralize(len(plan.specs), "further trial") if plan is not None else "them"
    lines = [wrap(f"{name_aim(a)} still needs{f' (`{extend}` runs {runs})' if extend else ''}:", 0)]
    for why in dict.fromkeys(n.why for n in a.needs):
        needs = [n for n in a.needs if n.why == why]
        new = [n for n in needs if n.noise is not None]
        count = sum(n.repeats for n in needs)
        if plan is not None:  # the plan omits stored trials, and noises outside of the ranges
            count = sum(len(p.specs) for p in plan.planned if p.why == why)
        noises = f"noises {', '.join(number(n.noise) for n in new)}"
        detail = noises if new else f"repeats of {', '.join(str(n.config) for n in needs)}"
        lines.append(wrap(f"- {why}: {pluralize(count, 'trial')}, {detail}", 0))
    return "\n".join(lines)

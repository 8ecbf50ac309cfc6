"""`sweeper compare`: optima, best merges and cost of sweeps, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.comparison import (
    Overlap,
    SweepSummary,
    compare_intervals,
    describe_differences,
    read_summary,
)
from sweeper.cli.options import COMMON, OBJECTIVE_HELP, SHOWN_NOISE, objectives
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Option, command
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import WIDTH, add_unit, format_table, number, wrap
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS
from sweeper.storage.location import place_of
from trainables.noise import KNOBS, NOISE
from trainables.registry import UnknownName

if TYPE_CHECKING:
    from sweeper.analysis.regime import Regime

LONGEST_NAME = 24
_CURVE = ("grid", "mean", "lower", "upper")


def _list_cells(sweep: SweepSummary) -> Iterator[tuple[str, str]]:
    yield "space", sweep.space
    yield "sampler", ", ".join(sweep.samplers) or "-"
    yield "objective searched", sweep.objective
    yield "noise", add_unit(sweep.noise, NOISE[sweep.noise].unit)
    yield "trials", f"{sweep.outcomes.get('ok', 0)} ok of {sweep.trials}"
    yield "configurations", str(sweep.configs)
    yield "device time [s]", number(sweep.device_seconds)
    for objective, regime in sweep.regimes.items():
        has_optimum = regime.optimum is not None
        yield f"best noise, {objective}", number(regime.optimum)
        yield "  90 % interval", f"{number(regime.low)} to {number(regime.high)}" if has_optimum else "-"
        yield "  inside the tried range", _describe_interior(regime) if has_optimum else "-"
        yield "  share at an edge", f"{regime.edge_share:.0%}" if regime.edge_share is not None else "-"
        yield "  predicted at it", number(regime.value)
    yield from _list_best_cells(sweep)


def _describe_interior(regime: Regime) -> str:
    if not regime.interior:
        return "no"
    return "yes, in this search" if regime.adaptive else "yes"


def _list_best_cells(sweep: SweepSummary) -> Iterator[tuple[str, str]]:
    best = sweep.best
    yield "best merge", "-" if best is None else best.digest
    yield "  chosen by", "-" if best is None else f"{best.objective}, {SPLIT_WORDS[sweep.split]}"
    yield "  merge", "-" if best is None else best.merge
    yield "  test loss [nat]", number(best and best.loss)
    accuracy = best.accuracy if best else None
    yield "  test accuracy", "-" if accuracy is None else f"{100 * accuracy:.2f} %"
    yield "  test gain at 1/2 [nat]", number(best and best.gain)
    yield "  its noise", number(best and best.noise)
    for knob in KNOBS:
        yield f"  {knob.replace('_', ' ')}", number(best and best.knobs[knob])
    yield (
        "  augmentation",
        f"{best.knobs['augmentation']} {number(best.knobs['augmentation_strength'])}" if best else "-",
    )


def format_sweeps(sweeps: Sequence[SweepSummary]) -> str:
    """Return a table with a column per sweep, split into blocks of at most `WIDTH` characters per line."""
    columns = [list(_list_cells(s)) for s in sweeps]
    blocks: list[str] = []
    remaining = list(zip(sweeps, columns, strict=True))
    while remaining:
        count = len(remaining)
        while count > 1 and _width(_format_block(remaining[:count])) > WIDTH:
            count -= 1
        blocks.append(_format_block(remaining[:count]))
        remaining = remaining[count:]
    return "\n\n".join(blocks)


def _format_block(columns: Sequence[tuple[SweepSummary, list[tuple[str, str]]]]) -> str:
    labels = [label for label, _ in columns[0][1]]
    rows = [(label, *(cells[i][1] for _, cells in columns)) for i, label in enumerate(labels)]
    return format_table(("", *(sweep.name for sweep, _ in columns)), rows, indent=0)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _describe_overlaps(objective: str, overlaps: Sequence[Overlap], sweeps: Sequence[SweepSummary]) -> Iterator[str]:
    for sweep in sweeps:
        if sweep.regimes[objective].optimum is None:
            yield f"{objective}, {sweep.name}: {sweep.regimes[objective].message}"
    for o in overlaps:
        if not o.overlap:
            factor = f"the optimum of {o.b} is {number(o.factor)} times that of {o.a}"
            yield f"{objective}: the 90 % intervals of {o.a} and {o.b} do not overlap; {factor}"
    if overlapping := [o for o in overlaps if o.overlap]:
        pairs = ", ".join(f"{o.a} and {o.b}" for o in overlapping)
        names = dict.fromkeys(name for o in overlapping for name in (o.a, o.b))
        whose = ", ".join(names) if len(overlapping) == math.comb(len(names), 2) else f"these pairs: {pairs}"
        factor = max(max(o.factor, 1 / o.factor) for o in overlapping)
        yield f"{objective}: the 90 % intervals of {whose} overlap; the optima lie within a factor {number(factor)}"


# -- the command ------------------------------------------------------------------------------------------------------


def _shorten_names(runs: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ."""
    paths, short = [run.absolute() for run in runs], list[str]()
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = [str(Path(*p.parts[-depth:])) for p in paths]
        short = [n if len(n) <= LONGEST_NAME else f"…{n[1 - LONGEST_NAME :]}" for n in names]
        if len(set(short)) == len(short):
            return short
    return [f"{i} {n}" for i, n in enumerate(short, 1)]


_DIRS = Argument("dirs", "DIR...", "Run folders, or their URIs; two or more.", nargs=-1, required=True)
_OBJECTIVE = Option("--objective", "NAME", f"{OBJECTIVE_HELP} (default: gain_mean and merged_loss; a sweep's objective "
                    "chooses its best merge).", names=objectives)  # fmt: skip


@command(_DIRS, _OBJECTIVE, SHOWN_NOISE, COMMON)
def compare(args: Arguments) -> int:
    """`sweeper compare DIR DIR...`."""
    from sweeper.analysis.recommend import BOTH

    runs: list[str] = args.dirs
    if len(runs) < 2:
        raise SpecError(f"compare needs at least two run folders, got {runs[0]}")
    places = [place_of(r) for r in runs]
    resolved = [p.path if p.store else str(Path(p.path).resolve()) for p in places]
    if repeated := [d for i, d in enumerate(args.dirs) if resolved[i] in resolved[:i]]:
        raise SpecError(f"run folders must differ, got {repeated[0]} twice")
    try:
        if args.noise:
            check_shown(args.noise)
        objectives = [args.objective] if args.objective and OBJECTIVES[args.objective] else list(BOTH)
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None
    names = _shorten_names([Path(p.path) for p in places])
    sweeps = [read_summary(r, n, objectives, args.noise, args.objective) for r, n in zip(runs, names, strict=True)]
    overlaps = {o: compare_intervals(sweeps, o) for o in objectives}
    notes = describe_differences(sweeps, args.objective)
    record = {
        "sweeps": [_to_record(s) for s in sweeps],
        "overlaps": {objective: [asdict(o) for o in some] for objective, some in overlaps.items()},
        "notes": notes,
    }
    sentences = [s for o in objectives for s in _describe_overlaps(o, overlaps[o], sweeps)]
    lines = "\n".join(wrap(line, 0) for line in (*sentences, *(f"note: {n}" for n in notes)))
    emit(args.json, record, "\n\n".join(part for part in (format_sweeps(sweeps), lines) if part))
    return ExitCode.DONE


def _to_record(sweep: SweepSummary) -> dict[str, Any]:
    record = asdict(sweep)
    record["trials"] = sweep.trials
    record["regimes"] = {o: {k: v for k, v in r.items() if k not in _CURVE} for o, r in record["regimes"].items()}
    return record

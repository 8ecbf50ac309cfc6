"""`sweeper compare`: sweeps side by side."""

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
from sweeper.formatting import WIDTH, format_table, number, wrap
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS
from sweeper.storage.location import place_of
from trainables.noise import KNOBS, NOISE
from trainables.registry import UnknownName

if TYPE_CHECKING:
    from sweeper.analysis.regime import Regime

LONGEST_NAME = 24
_CURVE = ("grid", "mean", "lower", "upper")


def _cells(sweep: SweepSummary) -> Iterator[tuple[str, str]]:
    yield "space", sweep.space
    yield "sampler", ", ".join(sweep.samplers) or "-"
    yield "objective searched", sweep.objective
    yield "noise", f"{sweep.noise} [{NOISE[sweep.noise].unit}]"
    yield "trials", f"{sweep.outcomes.get('ok', 0)} ok of {sweep.trials}"
    yield "configurations", str(sweep.configs)
    yield "device time [s]", number(sweep.device_seconds)
    for objective, regime in sweep.regimes.items():
        known = regime.optimum is not None
        yield f"best noise, {objective}", number(regime.optimum)
        yield "  90 % interval", f"{number(regime.low)} to {number(regime.high)}" if known else "-"
        yield "  inside what was tried", _inside(regime) if known else "-"
        yield "  share at an edge", f"{regime.edge_share:.0%}" if regime.edge_share is not None else "-"
        yield "  predicted there", number(regime.value)
    yield from _best_cells(sweep)


def _inside(regime: Regime) -> str:
    if not regime.interior:
        return "no"
    return "yes, in this search" if regime.adaptive else "yes"


def _best_cells(sweep: SweepSummary) -> Iterator[tuple[str, str]]:
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
    """Return a table with a column for each sweep, in blocks of at most `WIDTH` columns of text."""
    columns = [list(_cells(s)) for s in sweeps]
    blocks: list[str] = []
    left = list(zip(sweeps, columns, strict=True))
    while left:
        count = len(left)
        while count > 1 and _width(_table(left[:count])) > WIDTH:
            count -= 1
        blocks.append(_table(left[:count]))
        left = left[count:]
    return "\n\n".join(blocks)


def _table(some: Sequence[tuple[SweepSummary, list[tuple[str, str]]]]) -> str:
    labels = [label for label, _ in some[0][1]]
    rows = [(label, *(cells[i][1] for _, cells in some)) for i, label in enumerate(labels)]
    return format_table(("", *(s.name for s, _ in some)), rows, indent=0)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _sentences(objective: str, found: Sequence[Overlap], sweeps: Sequence[SweepSummary]) -> Iterator[str]:
    for sweep in sweeps:
        if sweep.regimes[objective].optimum is None:
            yield f"{objective}, {sweep.name}: {sweep.regimes[objective].message}"
    for o in found:
        if not o.overlap:
            factor = f"the optimum of {o.b} is {number(o.factor)} times that of {o.a}"
            yield f"{objective}: the 90 % intervals of {o.a} and {o.b} do not overlap; {factor}"
    if together := [o for o in found if o.overlap]:
        pairs = ", ".join(f"{o.a} and {o.b}" for o in together)
        names = dict.fromkeys(name for o in together for name in (o.a, o.b))
        whose = ", ".join(names) if len(together) == math.comb(len(names), 2) else f"these pairs: {pairs}"
        factor = max(max(o.factor, 1 / o.factor) for o in together)
        yield f"{objective}: the 90 % intervals overlap of {whose}; the optima lie within a factor {number(factor)}"


# -- the command ------------------------------------------------------------------------------------------------------


def _names(runs: Sequence[Path]) -> list[str]:
    # the shortest ends of the paths that tell them apart
    whole, short = [run.absolute() for run in runs], list[str]()
    for depth in range(1, max(len(p.parts) for p in whole) + 1):
        names = [str(Path(*p.parts[-depth:])) for p in whole]
        short = [n if len(n) <= LONGEST_NAME else f"…{n[1 - LONGEST_NAME :]}" for n in names]
        if len(set(short)) == len(short):
            return short
    return [f"{i} {n}" for i, n in enumerate(short, 1)]


_DIRS = Argument("dirs", "DIR...", "Run folders, or their URIs; two or more.", nargs=-1, required=True)
_OBJECTIVE = Option("--objective", "NAME", f"{OBJECTIVE_HELP} (default: gain_mean and merged_loss; the best merge of a "
                    "sweep is chosen by the sweep's own).", names=objectives)  # fmt: skip


@command(_DIRS, _OBJECTIVE, SHOWN_NOISE, COMMON)
def compare(args: Arguments) -> int:
    """`sweeper compare DIR DIR...`."""
    from sweeper.analysis.recommend import BOTH

    runs: list[str] = args.dirs
    if len(runs) < 2:
        raise SpecError(f"compare needs two run folders or more, got {runs[0]}")
    places = [place_of(r) for r in runs]
    resolved = [p.path if p.store else str(Path(p.path).resolve()) for p in places]
    if twice := [d for i, d in enumerate(args.dirs) if resolved[i] in resolved[:i]]:
        raise SpecError(f"{twice[0]} occurs twice; name each run folder once")
    try:
        if args.noise:
            check_shown(args.noise)
        objectives = [args.objective] if args.objective and OBJECTIVES[args.objective] else list(BOTH)
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None
    names = _names([Path(p.path) for p in places])
    sweeps = [read_summary(r, n, objectives, args.noise, args.objective) for r, n in zip(runs, names, strict=True)]
    found = {o: compare_intervals(sweeps, o) for o in objectives}
    notes = describe_differences(sweeps, args.objective)
    record = {
        "sweeps": [_record(s) for s in sweeps],
        "overlaps": {o: [asdict(v) for v in own] for o, own in found.items()},
        "notes": notes,
    }
    said = [s for o in objectives for s in _sentences(o, found[o], sweeps)]
    lines = [wrap(line, 0) for line in (*said, *(f"note: {n}" for n in notes))]
    emit(
        args.json, record, "\n\n".join([format_sweeps(sweeps), "\n".join(lines)] if lines else [format_sweeps(sweeps)])
    )
    return ExitCode.DONE


def _record(sweep: SweepSummary) -> dict[str, Any]:
    found = asdict(sweep)
    found["trials"] = sweep.trials
    found["regimes"] = {o: {k: v for k, v in r.items() if k not in _CURVE} for o, r in found["regimes"].items()}
    return found

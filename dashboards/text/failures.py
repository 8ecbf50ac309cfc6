"""Failed trials in groups, and their table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dashboards.charts.axes import shorten
from dashboards.data.configurations import KNOBS, to_finite
from dashboards.text.best import Cell, TextTable
from sweeper.formatting import name_knob
from trainables.result import Outcome

_NUMBER = re.compile(r"\d[\d.e+-]*")


@dataclass(frozen=True)
class Failure:
    """Trials with the same outcome and detail.

    Attributes:
        outcome: Their outcome.
        sentence: Detail of the first trial.
        trials: Number of trials.
        number: Number of the first trial's configuration in the sweep.
        digest: Digest of the first trial.
        knobs: Knob -> lowest and highest value.
        noise: Lowest and highest noise; None without one.
    """

    outcome: str
    sentence: str
    trials: int
    number: int | None
    digest: str
    knobs: Mapping[str, tuple[float, float]]
    noise: tuple[float, float] | None


def group_failures(trials: pa.Table, noise: str) -> list[Failure]:
    """Return the trials that are not `ok`, grouped by outcome and detail, the largest group first.

    Details that differ only in numbers form one group.
    """
    names = ["digest", "number", "outcome", "outcome_detail", f"noise_{noise}", *KNOBS]
    bad = trials.filter(pa.array(trials.column("outcome").to_numpy() != Outcome.OK)).select(names)
    groups: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for row in bad.to_pylist():
        groups.setdefault((row["outcome"], _NUMBER.sub("#", row["outcome_detail"] or "")), []).append(row)
    failures: list[Failure] = []
    for (outcome, _), rows in groups.items():
        first, ranges = rows[0], {k: r for k in KNOBS if (r := _find_range([row[k] for row in rows]))}
        number = first["number"]
        failures.append(
            Failure(
                outcome=outcome,
                sentence=str(first["outcome_detail"] or "no reason is stored"),
                trials=len(rows),
                number=number if isinstance(number, int) else None,
                digest=str(first["digest"]),
                knobs=ranges,
                noise=_find_range([row[f"noise_{noise}"] for row in rows]),
            )
        )
    return sorted(failures, key=lambda f: -f.trials)


def _find_range(values: Sequence[object]) -> tuple[float, float] | None:
    known = [v for v in map(to_finite, values) if v is not None]
    return (min(known), max(known)) if known else None


def make_failure_table(failures: Sequence[Failure], most: int = 30) -> TextTable:
    """Return a table of at most `most` groups of failures."""
    head = (
        Cell("outcome", "diverged, not_viable, out_of_memory, pruned or failed; such a trial never wins"),
        Cell("trials", "trials with this outcome and detail, up to numbers"),
        Cell("first", "number of the first trial's configuration in the sweep; hover over it for the digest"),
        Cell("noise", "lowest and highest noise among them"),
        *(Cell(name_knob(k).short, f"lowest and highest {name_knob(k).name} among them") for k in KNOBS),
        Cell("detail of the first", "its outcome_detail"),
    )
    rows = tuple(
        (
            Cell(f.outcome.replace("_", " ")),
            Cell(str(f.trials)),
            Cell("–" if f.number is None else str(f.number), f"digest {f.digest}"),
            Cell(_format_range(f.noise)),
            *(Cell(_format_range(f.knobs.get(k))) for k in KNOBS),
            Cell(f.sentence),
        )
        for f in failures[:most]
    )
    return TextTable(head, rows)


def _format_range(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "–"
    return shorten(ends[0]) if ends[0] == ends[1] else f"{shorten(ends[0])} – {shorten(ends[1])}"

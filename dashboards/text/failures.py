"""Which trials failed and why: tables in, records out, and the records as a table of text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dashboards.charts.axes import short
from dashboards.data.configurations import KNOBS, finite
from dashboards.text.best import Cell, TextTable
from sweeper.formatting import name_knob
from trainables.result import Outcome

_NUMBER = re.compile(r"\d[\d.e+-]*")


@dataclass(frozen=True)
class Failure:
    """Trials that ended alike.

    Attributes:
        outcome: How.
        sentence: What the first of them says.
        trials: How many.
        number: Configuration of the first, its position in the sweep.
        digest: Of the first.
        knobs: Knob -> lowest and highest value among them.
        noise: Lowest and highest noise; None where none has one.
    """

    outcome: str
    sentence: str
    trials: int
    number: int | None
    digest: str
    knobs: Mapping[str, tuple[float, float]]
    noise: tuple[float, float] | None


def failures(trials: pa.Table, noise: str) -> list[Failure]:
    """Return the trials that are not `ok`, in groups of one outcome and one sentence but for its numbers.

    The largest group comes first.
    """
    names = ["digest", "number", "outcome", "outcome_detail", f"noise_{noise}", *KNOBS]
    bad = trials.filter(pa.array(trials.column("outcome").to_numpy() != Outcome.OK)).select(names)
    groups: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for row in bad.to_pylist():
        groups.setdefault((row["outcome"], _NUMBER.sub("#", row["outcome_detail"] or "")), []).append(row)
    found: list[Failure] = []
    for (outcome, _), rows in groups.items():
        first, ranges = rows[0], {k: r for k in KNOBS if (r := _range([row[k] for row in rows]))}
        number = first["number"]
        found.append(
            Failure(
                outcome=outcome,
                sentence=str(first["outcome_detail"] or "no reason was stored"),
                trials=len(rows),
                number=number if isinstance(number, int) else None,
                digest=str(first["digest"]),
                knobs=ranges,
                noise=_range([row[f"noise_{noise}"] for row in rows]),
            )
        )
    return sorted(found, key=lambda f: -f.trials)


def _range(values: Sequence[object]) -> tuple[float, float] | None:
    known = [v for v in map(finite, values) if v is not None]
    return (min(known), max(known)) if known else None


def failure_table(found: Sequence[Failure], most: int = 30) -> TextTable:
    """Return the failures as a table, at most `most` rows."""
    head = (
        Cell("outcome", "diverged, not_viable, out_of_memory, pruned or failed; such a trial never wins"),
        Cell("trials", "trials that ended so, with the same words but for numbers"),
        Cell("first", "position of the first one's configuration in the sweep; the digest is shown on the number"),
        Cell("noise", "lowest and highest noise among them"),
        *(Cell(name_knob(k).short, f"lowest and highest {name_knob(k).name} among them") for k in KNOBS),
        Cell("what the first one says", "its outcome_detail"),
    )
    rows = tuple(
        (
            Cell(f.outcome.replace("_", " ")),
            Cell(str(f.trials)),
            Cell("–" if f.number is None else str(f.number), f"digest {f.digest}"),
            Cell(_words(f.noise)),
            *(Cell(_words(f.knobs.get(k))) for k in KNOBS),
            Cell(f.sentence),
        )
        for f in found[:most]
    )
    return TextTable(head, rows)


def _words(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "–"
    return short(ends[0]) if ends[0] == ends[1] else f"{short(ends[0])} – {short(ends[1])}"

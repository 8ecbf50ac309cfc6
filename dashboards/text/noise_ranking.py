"""The named noises beside one another, as the evidence ranks them: an analysis in, a table of text out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.charts.axes import short
from dashboards.text.best import Cell, TextTable
from sweeper.analysis.evidence.linear import HOW, R2
from sweeper.analysis.evidence.sentences import describe_influence
from sweeper.formatting import name_knob
from trainables.noise import NOISE

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis


def ranking_table(found: Analysis) -> TextTable:
    """Return the definitions, best first; no rows where the evidence could not rank them."""
    rows, transfer, misfit = found.ranking.rows, found.transfer.r2 or {}, found.collapse.misfit or {}
    knobs = list(dict.fromkeys(k for r2 in transfer.values() for k in r2))
    head = [
        Cell("noise", "definition, see `sweeper noises`; fitted: with free exponents, also from other configurations"),
        Cell("R²", f"{R2}: {HOW}"),
        Cell("90 % interval", "bootstrap over configurations"),
        Cell("of the ceiling", "R² over the noise ceiling: what repeats agree on; needs repeats"),
        Cell("best in", "share of the bootstrap draws in which it is (one of) the best"),
        *(Cell(f"R² to {name_knob(k).short}", f"{found.transfer.kind}: curves fitted on other values of {k} predict "
               "these") for k in knobs),
        Cell("misfit", "mean distance of the learning-rate sweeps from one curve, objective as the search is told it; "
             "0 is a perfect collapse"),
    ]  # fmt: skip
    table = tuple(
        (
            Cell(r.name, NOISE[r.name].formula if r.name in NOISE else "free exponents"),
            Cell(short(r.r2)),
            Cell(f"{short(r.low)} to {short(r.high)}"),
            Cell("–" if r.share is None else f"{100 * r.share:.0f} %" if r.share >= 0 else "none"),
            Cell(f"{100 * r.wins:.0f} %", f"the same here as {', '.join(r.same_as)}" if r.same_as else ""),
            *(Cell(short(transfer.get(r.name, {}).get(k))) for k in knobs),
            Cell(short(misfit.get(r.name))),
        )
        for r in rows
    )
    return TextTable(tuple(head), table)


def ranking_words(found: Analysis) -> str:
    """Return the sentences above the table: on which configurations, what repeats allow, what cannot be told."""
    if found.ranking.reason:
        return f"Not ranked: {found.ranking.reason}."
    said = [f"On the {found.ranking.n} configurations that have all noises."]
    if found.explained.ceiling is not None:
        said.append(f"Repeats agree on R² {short(found.explained.ceiling)} at most, the noise ceiling.")
    elif found.explained.reason:
        said.append(f"{found.explained.reason[0].upper()}{found.explained.reason[1:]}.")
    if said_of_lead := describe_influence(found.ranking):
        said.append(said_of_lead)
    for reason in (found.transfer.reason, found.collapse.reason):
        if reason:
            said.append(f"{reason[0].upper()}{reason[1:]}.")
    return " ".join(said)

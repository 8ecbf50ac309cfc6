"""Table of the noise definitions as the evidence ranks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.charts.axes import shorten
from dashboards.text.best import Cell, TextTable
from sweeper.analysis.evidence.linear import HOW, R2
from sweeper.analysis.evidence.sentences import describe_influence
from sweeper.formatting import name_knob, pluralize
from trainables.noise import NOISE

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis


def make_ranking_table(analysis: Analysis) -> TextTable:
    """Return the definitions, best first; no rows without a ranking."""
    rows, transfer, misfit = analysis.ranking.rows, analysis.transfer.r2 or {}, analysis.collapse.misfit or {}
    knobs = list(dict.fromkeys(k for r2 in transfer.values() for k in r2))
    head = [
        Cell("noise", "definition, see `sweeper noises`; fitted: with free exponents, also from other configurations"),
        Cell("R²", f"{R2}: {HOW}"),
        Cell("90 % interval", "bootstrap over configurations"),
        Cell("of the ceiling", "R² divided by the noise ceiling, the R² between repeats; needs repeats"),
        Cell("best in", "share of the bootstrap draws in which it is the best or ties for it"),
        *(Cell(f"R² to {name_knob(k).short}", f"{analysis.transfer.kind}: curves fitted to other values of {k} predict "
               "these") for k in knobs),
        Cell("misfit", "mean distance of the learning-rate sweeps from one curve, on the scale of the search; "
             "0 is a perfect collapse"),
    ]  # fmt: skip
    table = tuple(
        (
            Cell(r.name, NOISE[r.name].formula if r.name in NOISE else "free exponents"),
            Cell(shorten(r.r2)),
            Cell(f"{shorten(r.low)} to {shorten(r.high)}"),
            Cell("–" if r.share is None else f"{100 * r.share:.0f} %" if r.share >= 0 else "none"),
            Cell(f"{100 * r.wins:.0f} %", f"here identical to {', '.join(r.same_as)}" if r.same_as else ""),
            *(Cell(shorten(transfer.get(r.name, {}).get(k))) for k in knobs),
            Cell(shorten(misfit.get(r.name))),
        )
        for r in rows
    )
    return TextTable(tuple(head), table)


def describe_ranking(analysis: Analysis) -> str:
    """Return the sentences above the table: configurations, noise ceiling, and what is unknown."""
    if analysis.ranking.reason:
        return f"Not ranked: {analysis.ranking.reason}."
    designed = "of the designed trials " if analysis.set_aside and not analysis.regime.adaptive else ""
    sentences = [f"Computed on the {pluralize(analysis.ranking.n, 'configuration')} {designed}with all noises."]
    if analysis.explained.ceiling is not None:
        sentences.append(f"The noise ceiling, the R² between repeats, is {shorten(analysis.explained.ceiling)}.")
    elif analysis.explained.reason:
        sentences.append(f"{analysis.explained.reason[0].upper()}{analysis.explained.reason[1:]}.")
    if influence := describe_influence(analysis.ranking):
        sentences.append(influence)
    for reason in (analysis.transfer.reason, analysis.collapse.reason):
        if reason:
            sentences.append(f"{reason[0].upper()}{reason[1:]}.")
    return " ".join(sentences)

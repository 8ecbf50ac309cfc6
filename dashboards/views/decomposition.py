"""Decomposition: the metric along one knob at a time, the others held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from dashboards.charts.alignment import FEWEST, smooth
from dashboards.charts.axes import Window, rounded, short
from dashboards.charts.chart import Chart, Measure, caption, dots, edge_traces, finish, frame, sort_out, thinned
from dashboards.charts.colours import Colouring, colouring
from dashboards.charts.knob_axes import Axis, axis_of, column, knob_words, on_scale, varies
from dashboards.charts.panels import Drawn, grid
from dashboards.charts.theme import GREY, VERMILLION
from dashboards.data.cache import by_content
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import heading
from dashboards.text.best import Cell, TextTable
from dashboards.views import choices
from dashboards.views.choices import choose
from dashboards.views.section import Control, Section, TableCard, View
from sweeper.formatting import name_knob, pluralize

LEVELS = 3
NEAREST = 0.25
FEWEST_NEAR = 8
MARKERS = 3000


@dataclass(frozen=True)
class Slice:
    """Configurations that differ in one knob.

    Attributes:
        knob: The knob that varies.
        points: Them, in order of the knob.
        fixed: Values of the other knobs that vary in the sweep; of a near slice the medians it lies around.
        exact: Whether all points have exactly these values; else they are the nearest ones.
        total: Configurations that they were taken from.
    """

    knob: str
    points: tuple[ConfigPoint, ...]
    fixed: Mapping[str, float]
    exact: bool
    total: int


def slices(points: Sequence[ConfigPoint], measured: str, maximize: bool) -> list[Slice]:
    """Return one slice for each knob that varies.

    It is the cell of the other knobs in which the most values of the knob have a score, among equal ones that with the
    best score. Where no cell has `LEVELS` of them (both, of a knob with two), as in random and adaptive designs, it is
    the quarter of the configurations whose other knobs lie nearest to their medians, each on its own axis in units of
    its standard deviation.

    Args:
        points: One record per configuration.
        measured: Column of the score.
        maximize: Whether more of it is better.
    """
    placed = {k: v for k in KNOBS if varies(v := column(points, k))}
    return [_slice(points, knob, placed, measured, maximize) for knob in placed]


def _slice(
    points: Sequence[ConfigPoint], knob: str, placed: Mapping[str, Array], measured: str, maximize: bool
) -> Slice:
    others = [k for k in placed if k != knob]
    scored = np.array([measured in p.values for p in points])
    cell = _cells([placed[k] for k in others], len(points))
    level = np.unique(placed[knob], return_inverse=True)[1]
    levels = len(np.unique(level[scored]))
    # in each cell: different values of the knob with a score, then configurations with one
    pairs = np.unique(np.column_stack([cell, level])[scored], axis=0)
    count = np.bincount(pairs[:, 0], minlength=int(cell.max()) + 1)
    heights = np.full(len(count), -np.inf)
    worth = [
        (1 if maximize else -1) * p.values[measured].mean if p.can_win else -np.inf for p in compress(points, scored)
    ]
    np.maximum.at(heights, cell[scored], worth)
    best = np.lexsort((heights, count))[-1]
    exact = count[best] >= min(LEVELS, max(2, levels))
    at = np.flatnonzero(cell == best) if exact else _nearest({k: placed[k] for k in others}, scored)
    fixed = {k: float(placed[k][at[0]]) if exact else _middle(placed[k]) for k in others}
    chosen = sorted((points[int(i)] for i in at), key=lambda p: p.knobs.get(knob, np.inf))
    return Slice(knob, tuple(chosen), fixed, bool(exact), len(points))


def _cells(values: Sequence[Array], count: int) -> Array:
    """Return which configurations agree in all `values` to six digits, as the number of their cell."""
    if not values:
        return np.zeros(count, dtype=np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = [10.0 ** (5 - np.floor(np.log10(np.abs(np.where(v == 0, 1, v))))) for v in values]
    rounded_off = [np.where(np.isfinite(v), np.round(v * d) / d, -np.inf) for v, d in zip(values, digits, strict=True)]
    return np.unique(np.column_stack(rounded_off), axis=0, return_inverse=True)[1].reshape(-1)


def _middle(values: Array) -> float:
    # a value that was tried: half-way between two momenta is none
    return float(np.quantile(values[np.isfinite(values)], 0.5, method="lower"))


def _nearest(placed: Mapping[str, Array], scored: Array) -> list[int]:
    distance = np.zeros(len(scored))
    for name, values in placed.items():
        axis = axis_of(name, values)
        x = on_scale(axis, axis.place(values))
        distance += ((x - _middle(x)) / (np.nanstd(x) or 1.0)) ** 2
    distance = np.where(np.isfinite(distance), distance, np.inf)
    count = max(FEWEST_NEAR, round(NEAREST * len(scored)))
    return sorted(np.argsort(distance, kind="stable")[:count].tolist())


def decomposition_chart(
    found: Sequence[Slice], measure: Measure, view: Window, noise_label: str, axes: Mapping[str, Axis], bar: Colouring
) -> Chart:
    """Draw one panel for each slice, on one value axis, coloured by noise.

    Args:
        found: At least one slice.
        measure: What is drawn.
        view: The shown part of its values.
        noise_label: Title of the noise.
        axes: Knob -> its axis, the same for every slice.
        bar: The colour bar of the noise.
    """
    limit = MARKERS // len(found)
    panels = [
        Drawn(_slice_traces(part, measure, view, axes[part.knob], noise_label, limit), axes[part.knob].layout)
        for part in found
    ]
    shown = grid(panels, measure, view, bar.bar)
    shown.update_layout(showlegend=False)
    text = " ".join(filter(None, (_fixed_words(found), _edge_words(found, measure, view))))
    title = f"{heading(measure.label)} along one knob at a time"
    return Chart("decomposition", title, text, finish(shown), height=shown.layout.height, wide=True)


def _slice_traces(part: Slice, measure: Measure, view: Window, axis: Axis, noise_label: str, limit: int) -> list[Any]:
    drawn = sorted(thinned(part.points, measure.column, measure.maximize, limit)[0])
    points = [part.points[i] for i in drawn]
    sorted_out = sort_out(points, measure.column, view)
    inside = sorted_out.inside
    x = axis.place(column(inside, part.knob))
    colours = colouring(inside, "noise", noise_label, {}).values.tolist() if inside else []
    traces: list[Any] = []
    y = np.array([p.values[measure.column].mean for p in inside])
    known = np.isfinite(x)
    line = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "line": {"color": GREY, "width": 1.4}}
    if part.exact:
        levels = np.unique(x[known])
        means = [float(y[x == level].mean()) for level in levels]
        traces.append(line | {"x": [rounded(v) for v in levels], "y": [rounded(v) for v in means]})
    elif known.sum() >= FEWEST and varies(x[known]):
        at, curve = smooth(on_scale(axis, x[known]), y[known])
        at = 10**at if axis.layout.get("type") == "log" else at
        line["line"] = {"color": VERMILLION, "width": 1.2}
        traces.append(line | {"x": [rounded(v) for v in at], "y": [rounded(v) for v in curve]})
    if inside:
        marker = {"color": [rounded(v, 4) for v in colours], "coloraxis": "coloraxis"}
        traces.append(dots("value", inside, x.tolist(), measure.column, marker))
    where = dict(zip((p.config for p in points), axis.place(column(points, part.knob)).tolist(), strict=True))
    return traces + edge_traces(sorted_out, measure.column, view, lambda p: where[p.config])


def _fixed_words(found: Sequence[Slice]) -> str:
    said: list[str] = []
    for part in found:
        if part.exact:
            name = name_knob(part.knob).label
            said.append(f"{name[0].upper()}{name[1:]}: at {knob_words(part.fixed) or 'all configurations'}.")
    if near := [p for p in found if not p.exact]:
        middle = {k: v for part in near for k, v in part.fixed.items()}
        which = "Each panel" if len(near) == len(found) else ", ".join(name_knob(p.knob).short for p in near)
        said.append(
            f"{which}: the {len(near[0].points)} of {pluralize(near[0].total, 'configuration')} whose other knobs lie "
            f"nearest to the medians ({knob_words({k: middle[k] for k in KNOBS if k in middle})})."
        )
    return " ".join(said)


def _edge_words(found: Sequence[Slice], measure: Measure, view: Window) -> str:
    every = {p.config: p for part in found for p in part.points}
    return caption(sort_out(list(every.values()), measure.column, view), view)


def slice_table(found: Sequence[Slice], measure: Measure) -> TextTable:
    """Return where each slice is best: the knob's value, the noise there and the score."""
    head = (
        Cell("knob", "the knob that varies"),
        Cell("others at", "values of the other knobs that vary in the sweep; ≈ where the nearest ones stand in"),
        Cell("values", "different values of the knob that have a score"),
        Cell("best at", "value of the knob with the best score in this slice"),
        Cell("noise there", "noise of that configuration"),
        Cell(measure.label, measure.column),
    )
    rows = tuple(_row(part, measure) for part in found)
    return TextTable(head, rows)


def _best(part: Slice, measure: Measure) -> ConfigPoint | None:
    scored = [p for p in part.points if p.can_win and measure.column in p.values]
    pick = max if measure.maximize else min
    return pick(scored, key=lambda p: p.values[measure.column].mean) if scored else None


def _row(part: Slice, measure: Measure) -> tuple[Cell, ...]:
    best = _best(part, measure)
    values = {p.knobs.get(part.knob) for p in part.points if measure.column in p.values}
    score = best.values[measure.column].mean if best else None
    text = short(score) if score is None or not measure.share else f"{100 * score:.2f} %"
    return (
        Cell(name_knob(part.knob).short, name_knob(part.knob).title),
        Cell(("" if part.exact else "≈ ") + (knob_words(part.fixed) or "–")),
        Cell(str(len(values))),
        Cell(short(best.knobs.get(part.knob)) if best else "–"),
        Cell(short(best.noise) if best else "–"),
        Cell(text, f"{measure.column} = {short(score, 6)}"),
    )


@by_content
def _taken(run: Run, noise: str, measured: str, maximize: bool) -> list[Slice]:
    return slices(choices.points(run, noise, (measured,)), measured, maximize)


def controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the choices: noise (the colour), metric, split."""
    return choices.noise_control(run), choices.metric_control(run), choices.split_control()


def build(run: Run, selection: Selection) -> Section:
    """Return one panel a knob, and where each is best."""
    chosen = choose(run, selection)
    measure = choices.measure(run, chosen.name, chosen.split)
    points = choices.points(run, chosen.noise, (measure.column,))
    if not points:
        return Section(banners=("No trial has finished yet: nothing to take apart.",))
    found = _taken(run, chosen.noise, measure.column, measure.maximize)
    drawn = {s.knob for s in found}
    still = [f"{name_knob(k).short} is {short(v)}" for k, v in points[0].knobs.items() if k in KNOBS and k not in drawn]
    notes = (f"Does not vary, and has no panel: {', '.join(still)}.",) if still else ()
    if not found:
        return Section(banners=("No knob varies: there is nothing to take apart.",), notes=notes)
    known = [p.values[measure.column].mean for p in points if measure.column in p.values]
    banners = () if known else (f"No configuration has a value of {measure.label.split(' [')[0]} yet.",)
    view = frame(points, measure)
    axes = {s.knob: axis_of(s.knob, column(points, s.knob), most=4) for s in found}
    bar = colouring(points, "noise", chosen.noise_label, {})
    words = (
        "The best scored configuration of each panel. Noises of different configurations that agree while the knobs "
        "differ speak for the noise; one configuration that is the best in several panels counts once."
    )
    return Section(
        verdicts=_verdicts(found, measure, chosen.noise),
        banners=banners,
        charts=(decomposition_chart(found, measure, view, chosen.noise_label, axes, bar),),
        tables=(TableCard("slices", "Where each panel is best", words, slice_table(found, measure)),) if known else (),
        notes=(*notes, *_honesty(found)),
    )


def _verdicts(found: Sequence[Slice], measure: Measure, noise: str) -> tuple[str, ...]:
    best = [b for s in found if len(s.points) >= LEVELS and (b := _best(s, measure)) and b.noise]
    if len(best) < 2:
        return ()
    distinct = {b.config: b.noise for b in best if b.noise}
    if len(distinct) == 1:
        at = short(next(iter(distinct.values())))
        return (
            f"One configuration, at noise {at} ({noise}), is the best in all {len(best)} panels: that is one "
            "observation, and does not show that the knobs agree.",
        )
    low, high = min(distinct.values()), max(distinct.values())
    where = f"at noise {short(low)}" if low == high else f"at noises from {short(low)} to {short(high)}"
    factor = "" if low == high else f", a factor of {short(high / low, 2)}"
    return (f"In {len(best)} panels {len(distinct)} different configurations are the best, {where} ({noise}){factor}.",)


def _honesty(found: Sequence[Slice]) -> tuple[str, ...]:
    if all(s.exact for s in found):
        return ()
    return (
        "Where too few values of a knob share the other knobs' values, the nearest configurations stand in: their "
        "other knobs still differ, and the scatter shows it. A grid (--sampler grid) has exact panels.",
    )


VIEW = View(
    "decomposition",
    "Decomposition",
    "The metric along one knob at a time, the other knobs held; the colour is the noise.",
    controls,
    build,
)

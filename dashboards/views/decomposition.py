"""Decomposition: the metric along one knob at a time, with the others fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from dashboards.charts.alignment import DOTTED, FEWEST, draw_curve, smooth_curve
from dashboards.charts.axes import Window, round_to, shorten
from dashboards.charts.chart import (
    Chart,
    DrawnPanel,
    Measure,
    draw_panels,
    finish,
    frame_points,
    make_dots,
    make_edge_traces,
    sort_points,
    thin_points,
    write_caption,
)
from dashboards.charts.colours import Colouring, QuantileScale, colour_points
from dashboards.charts.knob_axes import Axis, describe_knobs, make_axis, read_knob, scale_places, varies
from dashboards.charts.theme import GREY, VERMILLION
from dashboards.data.cache import cache_by_content
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import make_heading
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
        points: The configurations, in order of the knob.
        fixed: Values of the other knobs that vary in the sweep; medians in a slice that is not exact.
        exact: Whether all points have exactly these values; else they are the nearest ones.
        total: Number of configurations in the sweep.
    """

    knob: str
    points: tuple[ConfigPoint, ...]
    fixed: Mapping[str, float]
    exact: bool
    total: int


def make_slices(points: Sequence[ConfigPoint], measured: str, maximize: bool) -> list[Slice]:
    """Return one slice per knob that varies.

    A cell is a combination of values of the other knobs. An exact slice is the cell with scores at the most values of
    the knob; the best score breaks a tie. It needs `LEVELS` values, or both of a knob with two. Random and adaptive
    designs lack such cells: there, a slice is the quarter of the configurations whose other knobs lie nearest to
    their medians, measured in standard deviations on each knob's axis.

    Args:
        points: One record per configuration.
        measured: Column of the score.
        maximize: Whether larger is better.
    """
    placed = {k: v for k in KNOBS if varies(v := read_knob(points, k))}
    return [_make_slice(points, knob, placed, measured, maximize) for knob in placed]


def _make_slice(
    points: Sequence[ConfigPoint], knob: str, placed: Mapping[str, Array], measured: str, maximize: bool
) -> Slice:
    others = [k for k in placed if k != knob]
    scored = np.array([measured in p.values for p in points])
    cell = _number_cells([placed[k] for k in others], len(points))
    level = np.unique(placed[knob], return_inverse=True)[1]
    levels = len(np.unique(level[scored]))
    # per cell, the number of values of the knob with a score
    pairs = np.unique(np.column_stack([cell, level])[scored], axis=0)
    count = np.bincount(pairs[:, 0], minlength=int(cell.max()) + 1)
    heights = np.full(len(count), -np.inf)
    worth = [
        (1 if maximize else -1) * p.values[measured].mean if p.can_win else -np.inf for p in compress(points, scored)
    ]
    np.maximum.at(heights, cell[scored], worth)
    best = np.lexsort((heights, count))[-1]
    exact = count[best] >= min(LEVELS, max(2, levels))
    at = np.flatnonzero(cell == best) if exact else _find_nearest({k: placed[k] for k in others}, scored)
    fixed = {k: float(placed[k][at[0]]) if exact else _find_middle(placed[k]) for k in others}
    chosen = sorted((points[int(i)] for i in at), key=lambda p: p.knobs.get(knob, np.inf))
    return Slice(knob, tuple(chosen), fixed, bool(exact), len(points))


def _number_cells(values: Sequence[Array], count: int) -> Array:
    """Return the number of the cell per configuration; within a cell, all `values` agree to six digits."""
    if not values:
        return np.zeros(count, dtype=np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = [10.0 ** (5 - np.floor(np.log10(np.abs(np.where(v == 0, 1, v))))) for v in values]
    shortened = [np.where(np.isfinite(v), np.round(v * d) / d, -np.inf) for v, d in zip(values, digits, strict=True)]
    return np.unique(np.column_stack(shortened), axis=0, return_inverse=True)[1].reshape(-1)


def _find_middle(values: Array) -> float:
    # a tried value, since the mean of two momenta was not tried
    return float(np.quantile(values[np.isfinite(values)], 0.5, method="lower"))


def _find_nearest(placed: Mapping[str, Array], scored: Array) -> list[int]:
    distance = np.zeros(len(scored))
    for name, values in placed.items():
        axis = make_axis(name, values)
        x = scale_places(axis, axis.place(values))
        distance += ((x - _find_middle(x)) / (np.nanstd(x) or 1.0)) ** 2
    distance = np.where(np.isfinite(distance), distance, np.inf)
    count = max(FEWEST_NEAR, round(NEAREST * len(scored)))
    return sorted(np.argsort(distance, kind="stable")[:count].tolist())


def draw_slices(
    slices: Sequence[Slice], measure: Measure, view: Window, noise_label: str, axes: Mapping[str, Axis], bar: Colouring
) -> Chart:
    """Draw one panel per slice, on one value axis, coloured by noise.

    Args:
        slices: At least one slice.
        measure: The measure.
        view: The visible part of its values.
        noise_label: Title of the noise.
        axes: Knob -> its axis.
        bar: The colour bar of the noise.
    """
    limit = MARKERS // len(slices)
    scale = bar.scale or QuantileScale.of(np.empty(0))
    panels = [
        DrawnPanel(_make_traces(part, measure, view, axes[part.knob], scale, limit), axes[part.knob].layout)
        for part in slices
    ]
    figure = draw_panels(panels, measure, view, bar.bar)
    figure.update_layout(showlegend=False)
    lines = [t["line"] for p in panels for t in p.traces if isinstance(t, dict)]
    dotted = DOTTED if any("dash" in line for line in lines) else ""
    text = " ".join(filter(None, (_describe_fixed(slices), dotted, _describe_edge(slices, measure, view))))
    title = f"{make_heading(measure.label)} along one knob at a time"
    return Chart("decomposition", title, text, finish(figure), height=figure.layout.height, wide=True)


def _make_traces(
    part: Slice, measure: Measure, view: Window, axis: Axis, scale: QuantileScale, limit: int
) -> list[Any]:
    drawn = sorted(thin_points(part.points, measure.column, measure.maximize, limit)[0])
    points = [part.points[i] for i in drawn]
    groups = sort_points(points, measure.column, view)
    inside = groups.inside
    x = axis.place(read_knob(inside, part.knob))
    traces: list[Any] = []
    y = np.array([p.values[measure.column].mean for p in inside])
    known = np.isfinite(x)
    if part.exact:
        line = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "line": {"color": GREY, "width": 1.4}}
        levels = np.unique(x[known])
        means = [float(y[x == level].mean()) for level in levels]
        traces.append(line | {"x": [round_to(v) for v in levels], "y": [round_to(v) for v in means]})
    elif known.sum() >= FEWEST and varies(x[known]):
        curve = smooth_curve(scale_places(axis, x[known]), y[known])
        traces += draw_curve(curve, axis, {"color": VERMILLION, "width": 1.2})
    if inside:
        colours = scale.share(read_knob(inside, "noise"))
        marker = {"color": [round_to(v, 4) for v in colours], "coloraxis": "coloraxis"}
        traces.append(make_dots("value", inside, x.tolist(), measure.column, marker))
    places = dict(zip((p.config for p in points), axis.place(read_knob(points, part.knob)).tolist(), strict=True))
    return traces + make_edge_traces(groups, measure.column, view, lambda p: places[p.config])


def _describe_fixed(slices: Sequence[Slice]) -> str:
    sentences: list[str] = []
    for part in slices:
        if part.exact:
            name = name_knob(part.knob).label
            sentences.append(f"{name[0].upper()}{name[1:]}: at {describe_knobs(part.fixed) or 'all configurations'}.")
    if near := [p for p in slices if not p.exact]:
        middle = {k: v for part in near for k, v in part.fixed.items()}
        which = "Each panel" if len(near) == len(slices) else ", ".join(name_knob(p.knob).short for p in near)
        sentences.append(
            f"{which}: the {len(near[0].points)} of {pluralize(near[0].total, 'configuration')} whose other knobs lie "
            f"nearest to the medians ({describe_knobs({k: middle[k] for k in KNOBS if k in middle})})."
        )
    return " ".join(sentences)


def _describe_edge(slices: Sequence[Slice], measure: Measure, view: Window) -> str:
    every = {p.config: p for part in slices for p in part.points}
    return write_caption(sort_points(list(every.values()), measure.column, view), view)


def make_slice_table(slices: Sequence[Slice], measure: Measure) -> TextTable:
    """Return a table of the best configuration per slice."""
    head = (
        Cell("knob", "the knob that varies"),
        Cell("others at", "values of the other knobs that vary in the sweep; ≈ marks the nearest configurations"),
        Cell("values", "number of values of the knob with a score"),
        Cell("best at", "value of the knob with the best score in this slice"),
        Cell("its noise", "noise of that configuration"),
        Cell(measure.label, measure.column),
    )
    rows = tuple(_make_row(part, measure) for part in slices)
    return TextTable(head, rows)


def _find_best(part: Slice, measure: Measure) -> ConfigPoint | None:
    scored = [p for p in part.points if p.can_win and measure.column in p.values]
    pick = max if measure.maximize else min
    return pick(scored, key=lambda p: p.values[measure.column].mean) if scored else None


def _make_row(part: Slice, measure: Measure) -> tuple[Cell, ...]:
    best = _find_best(part, measure)
    values = {p.knobs.get(part.knob) for p in part.points if measure.column in p.values}
    score = best.values[measure.column].mean if best else None
    text = shorten(score) if score is None or not measure.share else f"{100 * score:.2f} %"
    return (
        Cell(name_knob(part.knob).short, name_knob(part.knob).title),
        Cell(("" if part.exact else "≈ ") + (describe_knobs(part.fixed) or "–")),
        Cell(str(len(values))),
        Cell(shorten(best.knobs.get(part.knob)) if best else "–"),
        Cell(shorten(best.noise) if best else "–"),
        Cell(text, f"{measure.column} = {shorten(score, 6)}"),
    )


@cache_by_content
def _make_run_slices(run: Run, noise: str, measured: str, maximize: bool) -> list[Slice]:
    return make_slices(choices.compare_points(run, noise, (measured,)), measured, maximize)


def make_controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the controls: noise (the colour), metric, split."""
    return choices.make_noise_control(run), choices.make_metric_control(run), choices.make_split_control()


def build(run: Run, selection: Selection) -> Section:
    """Return one panel per knob, with its best configuration."""
    chosen = choose(run, selection)
    measure = choices.make_measure(run, chosen.name, chosen.split)
    points = choices.compare_points(run, chosen.noise, (measure.column,))
    if not points:
        return Section(banners=("No trial has finished yet, so there is nothing to draw.",))
    slices = _make_run_slices(run, chosen.noise, measure.column, measure.maximize)
    drawn = {s.knob for s in slices}
    constant = [
        f"{name_knob(k).short} is {shorten(v)}" for k, v in points[0].knobs.items() if k in KNOBS and k not in drawn
    ]
    notes = (f"Constant, so without a panel: {', '.join(constant)}.",) if constant else ()
    if not slices:
        return Section(banners=("No knob varies, so there is nothing to draw.",), notes=notes)
    known = [p.values[measure.column].mean for p in points if measure.column in p.values]
    banners = () if known else (f"No configuration has a value of {measure.label.split(' [')[0]} yet.",)
    view = frame_points(points, measure)
    axes = {s.knob: make_axis(s.knob, read_knob(points, s.knob), most=4) for s in slices}
    bar = colour_points(points, "noise", chosen.noise_label, {})
    words = (
        "The best configuration per panel. If different configurations agree in the noise but not in the knobs, "
        "this supports the noise. A configuration that is best in several panels counts once."
    )
    return Section(
        verdicts=_write_verdicts(slices, measure, chosen.noise),
        banners=banners,
        charts=(draw_slices(slices, measure, view, chosen.noise_label, axes, bar),),
        tables=(TableCard("slices", "Best configuration per panel", words, make_slice_table(slices, measure)),)
        if known
        else (),
        notes=(*notes, *_warn_of_nearest(slices)),
    )


def _write_verdicts(slices: Sequence[Slice], measure: Measure, noise: str) -> tuple[str, ...]:
    best = [b for s in slices if len(s.points) >= LEVELS and (b := _find_best(s, measure)) and b.noise]
    if len(best) < 2:
        return ()
    distinct = {b.config: b.noise for b in best if b.noise}
    if len(distinct) == 1:
        at = shorten(next(iter(distinct.values())))
        return (
            f"One configuration, at noise {at} ({noise}), is the best in all {len(best)} panels. This is one "
            "observation and does not show that the knobs agree.",
        )
    low, high = min(distinct.values()), max(distinct.values())
    at = f"at noise {shorten(low)}" if low == high else f"at noises from {shorten(low)} to {shorten(high)}"
    factor = "" if low == high else f", a factor of {shorten(high / low, 2)}"
    return (f"In {len(best)} panels {len(distinct)} different configurations are the best, {at} ({noise}){factor}.",)


def _warn_of_nearest(slices: Sequence[Slice]) -> tuple[str, ...]:
    if all(s.exact for s in slices):
        return ()
    return (
        "If too few values of a knob share the other knobs' values, the panel shows the nearest configurations. Their "
        "other knobs still differ, which adds scatter. A grid (--sampler grid) has exact panels.",
    )


VIEW = View(
    "decomposition",
    "Decomposition",
    "The metric along one knob at a time, with the other knobs fixed; the colour is the noise.",
    make_controls,
    build,
)

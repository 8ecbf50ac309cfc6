"""Noise collapse (figure 1 of the paper): scores scatter over each raw knob, and align over the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboards.charts.alignment import DOTTED, Alignment, Curve, draw_curve, rank_orderings, smooth_curve
from dashboards.charts.axes import Window, shorten
from dashboards.charts.chart import (
    LEAST_WIDTH,
    Chart,
    DrawnPanel,
    Measure,
    describe,
    draw_panels,
    finish,
    frame_points,
    make_dots,
    make_edge_traces,
    make_figure,
    make_markers,
    sort_points,
    thin_points,
    write_caption,
)
from dashboards.charts.colours import Colouring, colour_points, list_options
from dashboards.charts.knob_axes import Axis, make_axis, read_knob, scale_places, varies
from dashboards.charts.theme import GREY, VERMILLION
from dashboards.charts.two_noises import draw_comparison
from dashboards.data.cache import cache_by_content
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import make_heading
from dashboards.text.noise_ranking import describe_ranking, make_ranking_table
from dashboards.views import choices
from dashboards.views.choices import METRICS, Choice, choose
from dashboards.views.section import Control, Section, TableCard, View
from dashboards.views.verdicts import ask
from sweeper.analysis.evidence.exponents import MIN_CONFIGS
from sweeper.analysis.evidence.linear import HOW, R2
from sweeper.formatting import name_knob, pluralize
from sweeper.search.objectives import OBJECTIVES

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis

MARKERS = 3600


@dataclass(frozen=True)
class Panel:
    """An axis with the smooth curve along it.

    Attributes:
        axis: The noise or a knob.
        x: Places of the configurations on the axis; nan without one.
        curve: The smooth curve along the axis as drawn lengths; None with too few points.
        r2: R² of left-out configurations along the axis; None if unknown.
    """

    axis: Axis
    x: Array
    curve: Curve | None
    r2: float | None


def read_scores(points: Sequence[ConfigPoint], column_: str, view: Window) -> Array:
    """Return the scores for a fit, clipped at the frame's cut; nan without a score.

    Without the clip, the fit would follow a collapse that is hundreds of times deeper than the hump.
    """
    scores = np.array([e.mean if (e := p.values.get(column_)) else np.nan for p in points])
    return np.maximum(scores, view.cut) if view.maximize else np.minimum(scores, view.cut)


def make_panels(
    points: Sequence[ConfigPoint], fitted: Sequence[ConfigPoint], y: Array, noise_label: str, r2: Mapping[str, float]
) -> list[Panel]:
    """Return a panel of the noise, and one per knob that varies.

    Args:
        points: One record per configuration, to be drawn.
        fitted: Those of the trials on which the curves rest.
        y: Scores of `fitted`; nan without one.
        noise_label: Title of the noise axis.
        r2: Axis -> R² of a curve along it, if known.
    """
    panels: list[Panel] = []
    for name in ("noise", *KNOBS):
        values = read_knob(points, name)
        if name != "noise" and not varies(values):
            continue
        axis = make_axis(name, values, noise_label if name == "noise" else "", most=4)
        places = scale_places(axis, axis.place(read_knob(fitted, name)))
        known = np.isfinite(places) & np.isfinite(y)
        at, heights = places[known], y[known]
        enough = known.sum() >= 4 and varies(at)
        panels.append(Panel(axis, axis.place(values), smooth_curve(at, heights) if enough else None, r2.get(name)))
    return panels


def draw_collapse(
    points: Sequence[ConfigPoint],
    measure: Measure,
    view: Window,
    panels: Sequence[Panel],
    colours: Colouring,
    rows: str = "",
) -> Chart:
    """Draw the metric against the noise and each knob, on one value axis.

    Args:
        points: One record per configuration.
        measure: The measure.
        view: The visible part of its values.
        panels: Their panels, from `make_panels`.
        colours: Colours of the points, in the same order.
        rows: Sentence on the trials behind curves and R².
    """
    drawn, notice = thin_points(points, measure.column, measure.maximize, MARKERS // len(panels))
    texts = {i: describe(points[i], measure.column) for i in drawn}
    figure = draw_panels(
        [
            DrawnPanel(
                _make_traces(panel, points, texts, measure, view, colours, legend=i == 0),
                panel.axis.layout,
                f"R² {shorten(panel.r2)}" if panel.r2 is not None else "R² unknown",
            )
            for i, panel in enumerate(panels)
        ],
        measure,
        view,
        colours.bar,
    )
    words = (
        f"The same configurations over the noise and over each knob. {R2}: {HOW}. If the noise alone decides, R² is "
        "high over the noise and low over the knobs."
    )
    words += f" {rows}" if rows else ""
    if any(not all(panel.curve.held) for panel in panels if panel.curve is not None):
        words += f" {DOTTED}"
    if any(e.error for p in points if (e := p.values.get(measure.column))):
        words += " Error bars are standard errors over the repeats."
    words = " ".join(filter(None, (words, write_caption(sort_points(points, measure.column, view), view), notice)))
    title = f"{make_heading(measure.label)} against the noise and the raw knobs"
    return Chart("collapse", title, words, finish(figure), height=figure.layout.height, wide=True)


def _make_traces(
    panel: Panel, points: Sequence[ConfigPoint], texts: Mapping[int, str], measure: Measure, view: Window,
    colours: Colouring, legend: bool,
) -> list[Any]:  # fmt: skip
    drawn = sorted(texts)
    groups = sort_points([points[i] for i in drawn], measure.column, view)
    inside = {p.config for p in groups.inside}
    mask = np.zeros(len(points), bool)
    mask[[i for i in drawn if points[i].config in inside]] = True
    traces: list[Any] = []
    for name, at, marker in colours.markers(mask):
        if len(at):
            more: dict[str, Any] = {"showlegend": legend and "coloraxis" not in marker, "legendgroup": name}
            more["text"] = [texts[i] for i in at]
            group = [points[i] for i in at]
            traces.append(make_dots(name or "value", group, panel.x[at].tolist(), measure.column, marker, **more))
    places = {points[i].config: float(panel.x[i]) for i in drawn}
    traces += make_edge_traces(groups, measure.column, view, lambda p: places[p.config])
    if panel.curve is not None:
        line = {"color": VERMILLION, "width": 2.5 if panel.axis.name == "noise" else 1.2}
        traces += draw_curve(panel.curve, panel.axis, line)
    return traces


@cache_by_content
def rank_run(run: Run, metric: str, split: str, noise: str) -> list[Alignment]:
    """Return the R² of every knob and noise alone, see `dashboards.charts.alignment.rank_orderings`."""
    return rank_orderings(run.tables["trials"], METRICS[metric].on(split), noise)


def describe_rows(run: Run, noise: str) -> str:
    """Return a sentence on the trials behind curves and R² if these are not all; else an empty text."""
    aside = choices.count_set_aside(run, noise)
    if not aside:
        return ""
    kind, rest = choices.name_judged(run, noise), run.tables["trials"].num_rows - aside
    return f"Curves and R² rest on {pluralize(rest, kind)}, as the verdict does; the other {aside} enter neither."


def draw_ranking(alignments: Sequence[Alignment], noise: str, rows: str = "") -> Chart:
    """Draw the R² per axis as a dot, with a mark on the shown noise.

    Args:
        alignments: At least one, best first.
        noise: Name of the shown definition.
        rows: Sentence on the trials behind them.
    """
    figure = make_figure(showlegend=True)
    names = [a.label for a in alignments]
    for label, keep, colour, symbol in (
        ("knob alone", lambda a: not a.is_noise, GREY, "diamond-open"),
        ("noise", lambda a: a.is_noise and a.name != noise, "#0072b2", "circle"),
        ("the shown noise", lambda a: a.is_noise and a.name == noise, VERMILLION, "circle"),
    ):
        group = [a for a in alignments if keep(a)]
        if group:
            text = [f"{a.label}: R² {shorten(a.r2)} over {pluralize(a.n, 'configuration')}" for a in group]
            marker = {"size": 10, "color": colour, "symbol": symbol}
            x = [max(-0.5, a.r2) for a in group]
            trace = make_markers(label, x, [0.0] * len(group), text, marker=marker)
            trace.y = [a.label for a in group]
            figure.add_trace(trace)
    low = min([0.0, *(max(-0.5, a.r2) for a in alignments)])
    figure.update_xaxes(title={"text": f"{R2}"}, range=[low - 0.05, 1.02])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], tickfont={"size": 11.5})
    figure.add_vline(x=0, line={"color": GREY, "width": 1}, layer="below")
    below = sum(a.r2 < -0.5 for a in alignments)
    words = (
        f"{R2} along one axis alone, for the {pluralize(alignments[0].n, 'configuration')} with all noises: {HOW}. "
        "0 is as good as the mean."
    )
    words += f" {rows}" if rows else ""
    words += f" {below} below −0.5 appear at −0.5." if below else ""
    height = 140 + 26 * len(alignments)
    title = f"R² per noise and knob{', on the trials of the verdict' if rows else ''}"
    return Chart("ranking", title, words, finish(figure), height, least_width=LEAST_WIDTH)


def make_controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the controls: noise, metric, colour, split."""
    chosen = choose(run, selection)
    points = choices.compare_points(run, chosen.noise, (chosen.goal.column,))
    colour = Control("colour", "colour", list_options(points, choices.name_runs(run)))
    return choices.make_noise_control(run), choices.make_metric_control(run), colour, choices.make_split_control()


def build(run: Run, selection: Selection) -> Section:
    """Return the aligned panels, the R² of noises and knobs, and measured against predicted noise."""
    chosen = choose(run, selection)
    measure = choices.make_measure(run, chosen.name, chosen.split)
    points = choices.compare_points(run, chosen.noise, (measure.column,))
    if not points:
        return Section(banners=("No trial has finished yet, so there is nothing to draw.",))
    view = frame_points(points, measure)
    y = read_scores(points, measure.column, view)
    judged, rows = choices.group_judged(run, chosen.noise, (measure.column,)), describe_rows(run, chosen.noise)
    order = rank_run(run, chosen.name, chosen.split, chosen.noise)
    r2 = {("noise" if a.name == chosen.noise else a.name): a.r2 for a in order}
    panels = make_panels(points, judged, read_scores(judged, measure.column, view), chosen.noise_label, r2)
    colours = colour_points(points, selection.colour, chosen.noise_label, choices.name_runs(run))
    charts = [draw_collapse(points, measure, view, panels, colours, rows)]
    charts += [draw_ranking(order, chosen.noise, rows)] if order else []
    analysis = _find_analysis(run, chosen)
    compared = choices.compare_measured(run, chosen.noise)
    charts += [draw_comparison(compared)] if compared else []
    return Section(
        verdicts=_write_verdicts(order, chosen, measure),
        banners=_write_banners(points, y, measure, chosen, panels),
        charts=tuple(charts),
        tables=(TableCard("noises", "Noise definitions", describe_ranking(analysis), make_ranking_table(analysis)),)
        if analysis
        else (),
        notes=_write_notes(points, panels),
    )


def _find_analysis(run: Run, chosen: Choice) -> Analysis | None:
    if chosen.name not in OBJECTIVES:
        return None
    judgement, _ = ask(run, (chosen.name, chosen.noise, chosen.split))
    return judgement.analysis if judgement else None


def _write_verdicts(order: Sequence[Alignment], chosen: Choice, measure: Measure) -> tuple[str, ...]:
    noise = next((a for a in order if a.name == chosen.noise), None)
    knobs = [a for a in order if not a.is_noise]
    if noise is None:
        return ()
    what = make_heading(measure.label).lower()
    sentences = f"{R2} of {what} by the noise {chosen.noise}: {shorten(noise.r2)} (n = {noise.n})"
    sentences += f"; by the best single knob, {knobs[0].label}: {shorten(knobs[0].r2)}." if knobs else "."
    best = next(a for a in order if a.is_noise)
    if shorten(best.r2) != shorten(noise.r2):  # definitions that differ by a constant have the same R²
        sentences += f" The best named noise is {best.name}: {shorten(best.r2)}."
    return (sentences,)


def _write_banners(
    points: Sequence[ConfigPoint], y: Array, measure: Measure, chosen: Choice, panels: Sequence[Panel]
) -> tuple[str, ...]:
    scored = int(np.isfinite(y).sum())
    if not scored:
        return (f"No configuration has a value of {measure.label.split(' [')[0]} yet. Marks show failed trials.",)
    noise = read_knob(points, "noise")
    levels = len(np.unique(np.log(noise[np.isfinite(noise)]).round(6)))
    if levels < 2:
        return (f"All trials have the same {chosen.noise} noise: vary a knob that enters it.",)
    if panels[0].r2 is None:
        return (f"{pluralize(scored, 'configuration')} with a value: R² needs {MIN_CONFIGS} with all noises.",)
    return ()


def _write_notes(points: Sequence[ConfigPoint], panels: Sequence[Panel]) -> tuple[str, ...]:
    drawn = {p.axis.name for p in panels}
    constant = [
        f"{name_knob(k).short} is {shorten(v)}" for k, v in points[0].knobs.items() if k in KNOBS and k not in drawn
    ]
    return (f"Constant, so without a panel: {', '.join(constant)}.",) if constant else ()


VIEW = View(
    "collapse", "Noise collapse", "The metric against the noise and against each raw knob.", make_controls, build
)

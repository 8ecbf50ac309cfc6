"""Noise collapse, the paper's figure 1: scores scatter over each raw knob and line up over the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboards.charts.alignment import Alignment, ranking, smooth
from dashboards.charts.axes import Window, rounded, short
from dashboards.charts.chart import (
    Chart,
    Measure,
    caption,
    describe,
    dots,
    edge_traces,
    figure,
    finish,
    frame,
    markers,
    sort_out,
    thinned,
)
from dashboards.charts.colours import Colouring, colouring, options
from dashboards.charts.knob_axes import Axis, axis_of, column, on_scale, varies
from dashboards.charts.measured_noise import measured_chart
from dashboards.charts.panels import Drawn, grid
from dashboards.charts.theme import GREY, VERMILLION
from dashboards.data.cache import by_content
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import heading
from dashboards.text.noise_ranking import ranking_table, ranking_words
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
    """One axis with the smooth curve along it.

    Attributes:
        axis: The noise or a knob.
        x: Where the configurations stand on it, nan where they have no place.
        curve: Places and heights of the smooth curve; empty where there are too few points.
        r2: R² of left-out configurations along that axis; None where it cannot be told.
    """

    axis: Axis
    x: Array
    curve: tuple[Array, Array]
    r2: float | None


def scores(points: Sequence[ConfigPoint], column_: str, view: Window) -> Array:
    """Return the scores as they enter a fit: nan without one, and at the frame's cut where they lie beyond it.

    A collapse hundreds of times deeper than the hump would else be all that a curve is fitted to.
    """
    found = np.array([e.mean if (e := p.values.get(column_)) else np.nan for p in points])
    return np.maximum(found, view.cut) if view.maximize else np.minimum(found, view.cut)


def panels(points: Sequence[ConfigPoint], y: Array, noise_label: str, r2: Mapping[str, float]) -> list[Panel]:
    """Return the noise's panel and one of each knob that varies.

    Args:
        points: One record per configuration.
        y: Their scores, nan where there is none.
        noise_label: Title of the noise axis.
        r2: Axis -> R² of a curve along it, of those that have one.
    """
    found: list[Panel] = []
    for name in ("noise", *KNOBS):
        values = column(points, name)
        if name != "noise" and not varies(values):
            continue
        axis = axis_of(name, values, noise_label if name == "noise" else "", most=4)
        x = axis.place(values)
        known = np.isfinite(x) & np.isfinite(y)
        at, heights = on_scale(axis, x[known]), y[known]
        enough = known.sum() >= 4 and varies(at)
        places, curve = smooth(at, heights) if enough else (np.empty(0), np.empty(0))
        places = 10**places if axis.layout.get("type") == "log" else places
        found.append(Panel(axis, x, (places, curve), r2.get(name)))
    return found


def collapse_chart(
    points: Sequence[ConfigPoint], measure: Measure, view: Window, found: Sequence[Panel], colours: Colouring
) -> Chart:
    """Draw the metric against the noise and against each knob, all on one value axis.

    Args:
        points: One record per configuration.
        measure: What is drawn.
        view: The shown part of its values.
        found: What `panels` returns for them.
        colours: Colours of the points, in the same order.
    """
    drawn, said = thinned(points, measure.column, measure.maximize, MARKERS // len(found))
    texts = {i: describe(points[i], measure.column) for i in drawn}
    shown = grid(
        [
            Drawn(
                _traces(panel, points, texts, measure, view, colours, legend=i == 0),
                panel.axis.layout,
                f"R² {short(panel.r2)}" if panel.r2 is not None else "R² not known",
            )
            for i, panel in enumerate(found)
        ],
        measure,
        view,
        colours.bar,
    )
    words = (
        f"The same configurations over the noise and over each knob. {R2}: {HOW}. It is high over the noise and low "
        "over the knobs where one noise explains all."
    )
    if any(e.error for p in points if (e := p.values.get(measure.column))):
        words += " Bars are standard errors over the repeats."
    words = " ".join(filter(None, (words, caption(sort_out(points, measure.column, view), view), said)))
    title = f"{heading(measure.label)} against the noise and the raw knobs"
    return Chart("collapse", title, words, finish(shown), height=shown.layout.height, wide=True)


def _traces(
    panel: Panel, points: Sequence[ConfigPoint], texts: Mapping[int, str], measure: Measure, view: Window,
    colours: Colouring, legend: bool,
) -> list[Any]:  # fmt: skip
    drawn = sorted(texts)
    sorted_out = sort_out([points[i] for i in drawn], measure.column, view)
    inside = {p.config for p in sorted_out.inside}
    mask = np.zeros(len(points), bool)
    mask[[i for i in drawn if points[i].config in inside]] = True
    traces: list[Any] = []
    for name, at, marker in colours.markers(mask):
        if len(at):
            more: dict[str, Any] = {"showlegend": legend and "coloraxis" not in marker, "legendgroup": name}
            more["text"] = [texts[i] for i in at]
            group = [points[i] for i in at]
            traces.append(dots(name or "value", group, panel.x[at].tolist(), measure.column, marker, **more))
    where = {points[i].config: float(panel.x[i]) for i in drawn}
    traces += edge_traces(sorted_out, measure.column, view, lambda p: where[p.config])
    if len(panel.curve[0]):
        x, y = ([rounded(v) for v in values] for values in panel.curve)
        line = {"color": VERMILLION, "width": 2.5 if panel.axis.name == "noise" else 1.2}
        shape = {"type": "scatter", "mode": "lines", "name": "smooth curve", "hoverinfo": "skip", "showlegend": False}
        traces.append({**shape, "x": x, "y": y, "line": line})
    return traces


@by_content
def ranked(run: Run, metric: str, split: str) -> list[Alignment]:
    """Return how well each knob and each noise alone orders the scores, see `dashboards.charts.alignment.ranking`."""
    return ranking(run.tables["trials"], METRICS[metric].on(split))


def ranking_chart(found: Sequence[Alignment], noise: str) -> Chart:
    """Draw the R² of each axis as a dot, the shown noise marked.

    Args:
        found: The axes, the best first; at least one.
        noise: Name of the shown definition.
    """
    shown = figure(showlegend=True)
    names = [a.label for a in found]
    for label, keep, colour, symbol in (
        ("knob alone", lambda a: not a.is_noise, GREY, "diamond-open"),
        ("noise", lambda a: a.is_noise and a.name != noise, "#0072b2", "circle"),
        ("the shown noise", lambda a: a.is_noise and a.name == noise, VERMILLION, "circle"),
    ):
        group = [a for a in found if keep(a)]
        if group:
            text = [f"{a.label}: R² {short(a.r2)} over {pluralize(a.n, 'configuration')}" for a in group]
            marker = {"size": 10, "color": colour, "symbol": symbol}
            x = [max(-0.5, a.r2) for a in group]
            trace = markers(label, x, [0.0] * len(group), text, marker=marker)
            trace.y = [a.label for a in group]
            shown.add_trace(trace)
    low = min([0.0, *(max(-0.5, a.r2) for a in found)])
    shown.update_xaxes(title={"text": f"{R2} [1]"}, range=[low - 0.05, 1.02])
    shown.update_yaxes(categoryorder="array", categoryarray=names[::-1], tickfont={"size": 11.5})
    shown.add_vline(x=0, line={"color": GREY, "width": 1}, layer="below")
    below = sum(a.r2 < -0.5 for a in found)
    words = f"{R2} along one axis alone, of the {found[0].n} that have all noises: {HOW}. 0 is no better than the mean."
    words += f" {below} below −0.5 drawn there." if below else ""
    return Chart("ranking", "What orders the scores", words, finish(shown), height=140 + 26 * len(found))


def controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the choices: noise, metric, colour, split."""
    chosen = choose(run, selection)
    points = choices.points(run, chosen.noise, (chosen.goal.column,))
    colour = Control("colour", "colour", options(points, choices.runs(run)))
    return choices.noise_control(run), choices.metric_control(run), colour, choices.split_control()


def build(run: Run, selection: Selection) -> Section:
    """Return the aligned panels, the ranking of what orders the scores, and measured against predicted noise."""
    chosen = choose(run, selection)
    measure = choices.measure(run, chosen.name, chosen.split)
    points = choices.points(run, chosen.noise, (measure.column,))
    if not points:
        return Section(banners=("No trial has finished yet: nothing to align.",))
    view = frame(points, measure)
    y = scores(points, measure.column, view)
    order = ranked(run, chosen.name, chosen.split)
    r2 = {("noise" if a.name == chosen.noise else a.name): a.r2 for a in order}
    found = panels(points, y, chosen.noise_label, r2)
    colours = colouring(points, selection.colour, chosen.noise_label, choices.runs(run))
    charts = [collapse_chart(points, measure, view, found, colours)]
    charts += [ranking_chart(order, chosen.noise)] if order else []
    analysis = _analysis(run, chosen)
    compared = choices.comparison(run, chosen.noise)
    charts += [measured_chart(compared)] if compared else []
    return Section(
        verdicts=_verdicts(order, chosen, measure),
        banners=_banners(points, y, measure, chosen, found),
        charts=tuple(charts),
        tables=(TableCard("noises", "The named noises", ranking_words(analysis), ranking_table(analysis)),)
        if analysis
        else (),
        notes=_notes(points, found),
    )


def _analysis(run: Run, chosen: Choice) -> Analysis | None:
    if chosen.name not in OBJECTIVES:
        return None
    judgement, _ = ask(run, (chosen.name, chosen.noise, chosen.split))
    return judgement.analysis if judgement else None


def _verdicts(order: Sequence[Alignment], chosen: Choice, measure: Measure) -> tuple[str, ...]:
    noise = next((a for a in order if a.name == chosen.noise), None)
    knobs = [a for a in order if not a.is_noise]
    if noise is None:
        return ()
    said = f"{R2} of {heading(measure.label).lower()} by the noise {chosen.noise}: {short(noise.r2)} (n = {noise.n})"
    said += f"; by the best single knob, {knobs[0].label}: {short(knobs[0].r2)}." if knobs else "."
    best = next(a for a in order if a.is_noise)
    if short(best.r2) != short(noise.r2):  # definitions that differ by a constant order alike
        said += f" The best of the named noises is {best.name}: {short(best.r2)}."
    return (said,)


def _banners(
    points: Sequence[ConfigPoint], y: Array, measure: Measure, chosen: Choice, found: Sequence[Panel]
) -> tuple[str, ...]:
    scored = int(np.isfinite(y).sum())
    if not scored:
        return (f"No configuration has a value of {measure.label.split(' [')[0]} yet: where trials failed is marked.",)
    noise = column(points, "noise")
    levels = len(np.unique(np.log(noise[np.isfinite(noise)]).round(6)))
    if levels < 2:
        return (f"One noise level only: nothing can line up over {chosen.noise}; vary a knob that enters it.",)
    if found[0].r2 is None:
        return (
            f"{pluralize(scored, 'configuration')} with a value: no R² yet, {MIN_CONFIGS} with all noises are needed.",
        )
    return ()


def _notes(points: Sequence[ConfigPoint], found: Sequence[Panel]) -> tuple[str, ...]:
    drawn = {p.axis.name for p in found}
    still = [f"{name_knob(k).short} is {short(v)}" for k, v in points[0].knobs.items() if k in KNOBS and k not in drawn]
    return (f"Does not vary, and has no panel: {', '.join(still)}.",) if still else ()


VIEW = View(
    "collapse",
    "Noise collapse",
    "The metric against each raw knob, scattered, and against the noise, aligned.",
    controls,
    build,
)

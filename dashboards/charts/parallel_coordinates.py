"""Parallel coordinates: one line a configuration across its knobs, its noise and its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.charts.axes import log_ticks, rounded, short
from dashboards.charts.chart import Chart, Measure, figure, frame, thinned
from dashboards.charts.knob_axes import axis_of, column, on_scale, varies
from dashboards.charts.theme import BLUE, GREY, VERMILLION
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from sweeper.formatting import name_knob

LINES = 400
TOP = 0.1


@dataclass(frozen=True)
class Coordinate:
    """One upright axis: where each configuration crosses it, from 0 at the foot to 1, and its ticks.

    Attributes:
        title: Symbol and unit.
        place: Share of the axis, nan where the configuration has no value.
        ticks: (share, text) of each tick.
    """

    title: str
    place: Array
    ticks: tuple[tuple[float, str], ...]


def coordinates(points: Sequence[ConfigPoint], measure: Measure, noise_unit: str) -> list[Coordinate]:
    """Return the axes: each knob that varies, the noise where there is one, and the score, clipped to its frame."""
    found = [_knob(name, column(points, name)) for name in KNOBS if varies(column(points, name))]
    noise = column(points, "noise")
    if varies(noise):
        found.append(_noise(noise, noise_unit))
    view = frame(points, measure)
    score = np.array([e.mean if (e := p.values.get(measure.column)) else np.nan for p in points])
    low, high = (view.cut, view.high) if measure.maximize else (view.low, view.cut)
    span = (high - low) or 1.0
    ticks = np.linspace(low, high, 5)
    texts = [f"{100 * t:.1f} %" if measure.share else short(t, 2) for t in ticks]
    name = "score<br>[%]" if measure.share else "score<br>[nat]"
    # the best is at the top, whichever way the score goes
    place, shares = np.clip((score - low) / span, 0.0, 1.0), np.linspace(0, 1, 5)
    place, shares = (place, shares) if measure.maximize else (1 - place, 1 - shares)
    found.append(Coordinate(name, place, tuple(zip(shares.tolist(), texts, strict=True))))
    return found


def _knob(name: str, values: Array) -> Coordinate:
    axis = axis_of(name, values)
    places = on_scale(axis, axis.place(values))
    low, high = float(np.nanmin(places)), float(np.nanmax(places))
    if "tickvals" in axis.layout:
        at = on_scale(axis, np.asarray(axis.layout["tickvals"], dtype=float))
        texts = list(axis.layout["ticktext"])
    else:
        at = np.linspace(low, high, 3)
        texts = [short(v, 2) for v in at]
    knob = name_knob(name)
    title = f"{knob.short} [{knob.unit}]".replace(" ", "<br>", 1)
    return Coordinate(title, _share(places, low, high), _ticks(at, texts, low, high))


def _noise(values: Array, unit: str) -> Coordinate:
    places = np.log10(values)
    low, high = float(np.nanmin(places)), float(np.nanmax(places))
    ticks, texts = log_ticks(10**low, 10**high, most=6)
    return Coordinate(f"noise<br>[{unit}]", _share(places, low, high), _ticks(np.log10(ticks), texts, low, high))


def _share(places: Array, low: float, high: float) -> Array:
    return (places - low) / (high - low)


def _ticks(at: Array, texts: Sequence[str], low: float, high: float) -> tuple[tuple[float, str], ...]:
    shares = ((float(v) - low) / (high - low) for v in at)
    return tuple((s, t) for s, t in zip(shares, texts, strict=True) if -0.01 <= s <= 1.01)


def parallel_chart(points: Sequence[ConfigPoint], measure: Measure, noise_unit: str) -> Chart:
    """Draw one line a configuration: grey, the best tenth in colour, the best one strong.

    Args:
        points: At least two configurations, of which at least one has a score.
        measure: The score.
        noise_unit: Unit of the noise.
    """
    found = coordinates(points, measure, noise_unit)
    drawn, said = thinned(points, measure.column, measure.maximize, LINES)
    scored = [i for i in sorted(drawn) if measure.column in points[i].values]
    able = [i for i in scored if points[i].can_win]
    able.sort(key=lambda i: points[i].values[measure.column].mean, reverse=measure.maximize)
    top = able[: max(1, math.ceil(TOP * len(able)))]
    shown: Any = figure()
    for name, group, style in (
        ("other", [i for i in scored if i not in top], {"color": "rgba(138, 143, 152, 0.35)", "width": 1}),
        ("best tenth", top[1:][::-1], {"color": BLUE, "width": 1.6}),
        ("best", top[:1], {"color": VERMILLION, "width": 3}),
    ):
        if group:
            x, y = _lines(found, group)
            shown.add_scatter(name=name, x=x, y=y, mode="lines", line=style, hoverinfo="skip")
    note = {"xanchor": "left", "xshift": 4, "showarrow": False, "font": {"size": 11}, "borderpad": 1}
    texts = [note | {"x": at, "y": y, "text": text} for at, c in enumerate(found) for y, text in c.ticks]
    upright = {"type": "line", "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1.2}}
    shown.update_layout(annotations=texts, shapes=[upright | {"x0": at, "x1": at} for at in range(len(found))])
    shown.update_xaxes(tickvals=list(range(len(found))), ticktext=[c.title for c in found], side="bottom",
                       range=[-0.15, len(found) - 0.35], showgrid=False, zeroline=False, showline=False,
                       tickfont={"size": 12.5}, title={"text": "knobs, noise and score"})  # fmt: skip
    shown.update_yaxes(visible=False, range=[-0.04, 1.06])
    text = f"One line a configuration with a score ({measure.label}): the best tenth in blue, the best one in orange; "
    text += "good scores are at the top."
    if left := sum(measure.column not in p.values for p in points):
        text += f" {left} without a score left out."
    return Chart("parallel", "All knobs at once", " ".join(filter(None, (text, said))), shown, height=460, wide=True)


def _lines(found: Sequence[Coordinate], group: Sequence[int]) -> tuple[list[float | None], list[float | None]]:
    # all lines of one colour are one trace, parted by gaps
    x: list[float | None] = []
    y: list[float | None] = []
    for i in group:
        x += [*range(len(found)), None]
        y += [rounded(float(c.place[i]), 4) for c in found] + [None]
    return x, y

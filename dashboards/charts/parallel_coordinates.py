"""Parallel coordinates: one line per configuration across knobs, noise and score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.charts.axes import place_ticks, round_to, shorten
from dashboards.charts.chart import LEAST_WIDTH, Chart, Measure, frame_points, make_figure, thin_points
from dashboards.charts.knob_axes import make_axis, read_knob, scale_places, varies
from dashboards.charts.theme import BLUE, GREY, VERMILLION
from dashboards.data.configurations import Array, ConfigPoint, list_knobs
from sweeper.formatting import add_unit, name_knob

LINES = 400
TOP = 0.1
ABREAST = 7
"""More axes than these have upright titles."""


@dataclass(frozen=True)
class Coordinate:
    """A vertical axis: the places of the configurations, from 0 at the bottom to 1, and ticks.

    Attributes:
        title: Symbol and unit.
        place: Place per configuration; nan without a value.
        ticks: (place, text) per tick.
    """

    title: str
    place: Array
    ticks: tuple[tuple[float, str], ...]


def make_coordinates(points: Sequence[ConfigPoint], measure: Measure, noise_unit: str) -> list[Coordinate]:
    """Return the axes: the knobs that vary, the noise if it varies, and the score, clipped to its frame."""
    axes = [
        _make_knob_axis(name, read_knob(points, name)) for name in list_knobs(points) if varies(read_knob(points, name))
    ]
    noise = read_knob(points, "noise")
    if varies(noise):
        axes.append(_make_noise_axis(noise, noise_unit))
    view = frame_points(points, measure)
    score = np.array([e.mean if (e := p.values.get(measure.column)) else np.nan for p in points])
    low, high = (view.cut, view.high) if measure.maximize else (view.low, view.cut)
    span = (high - low) or 1.0
    ticks = np.linspace(low, high, 5)
    texts = [f"{100 * t:.1f} %" if measure.share else shorten(t, 2) for t in ticks]
    name = "score<br>[%]" if measure.share else "score<br>[nat]"
    # the best is at the top, for either direction of the score
    place, shares = np.clip((score - low) / span, 0.0, 1.0), np.linspace(0, 1, 5)
    place, shares = (place, shares) if measure.maximize else (1 - place, 1 - shares)
    axes.append(Coordinate(name, place, tuple(zip(shares.tolist(), texts, strict=True))))
    return axes


def _make_knob_axis(name: str, values: Array) -> Coordinate:
    axis = make_axis(name, values)
    places = scale_places(axis, axis.place(values))
    low, high = float(np.nanmin(places)), float(np.nanmax(places))
    if "tickvals" in axis.layout:
        at = scale_places(axis, np.asarray(axis.layout["tickvals"], dtype=float))
        texts = list(axis.layout["ticktext"])
    else:
        at = np.linspace(low, high, 3)
        texts = [shorten(v, 2) for v in at]
    knob = name_knob(name)
    title = add_unit(knob.short, knob.unit).replace(" ", "<br>", 1)
    return Coordinate(title, _normalize(places, low, high), _make_ticks(at, texts, low, high))


def _make_noise_axis(values: Array, unit: str) -> Coordinate:
    places = np.log10(values)
    low, high = float(np.nanmin(places)), float(np.nanmax(places))
    ticks, texts = place_ticks(10**low, 10**high, most=6)
    return Coordinate(
        add_unit("noise", unit).replace(" ", "<br>", 1),
        _normalize(places, low, high),
        _make_ticks(np.log10(ticks), texts, low, high),
    )


def _normalize(places: Array, low: float, high: float) -> Array:
    return (places - low) / (high - low)


def _make_ticks(at: Array, texts: Sequence[str], low: float, high: float) -> tuple[tuple[float, str], ...]:
    shares = ((float(v) - low) / (high - low) for v in at)
    return tuple((s, t) for s, t in zip(shares, texts, strict=True) if -0.01 <= s <= 1.01)


def draw_parallel(points: Sequence[ConfigPoint], measure: Measure, noise_unit: str, answer: str | None = None) -> Chart:
    """Draw one line per configuration: the best tenth blue, the answer's orange, the others grey.

    Args:
        points: At least two configurations, of which at least one has a score.
        measure: The score.
        noise_unit: Unit of the noise.
        answer: The configuration that the answer gives.
    """
    axes = make_coordinates(points, measure, noise_unit)
    drawn, notice = thin_points(points, measure.column, measure.maximize, LINES)
    scored = [i for i, p in enumerate(points) if measure.column in p.values and (i in drawn or p.config == answer)]
    eligible = [i for i in scored if points[i].can_win]
    eligible.sort(key=lambda i: points[i].values[measure.column].mean, reverse=measure.maximize)
    top = eligible[: max(1, math.ceil(TOP * len(eligible)))]
    starred = [i for i in scored if points[i].config == answer]
    figure: Any = make_figure()
    for name, group, style in (
        ("other", [i for i in scored if i not in (*top, *starred)], {"color": "rgba(138, 143, 152, 0.35)", "width": 1}),
        ("best tenth", [i for i in top[::-1] if i not in starred], {"color": BLUE, "width": 1.6}),
        ("the answer's", starred, {"color": VERMILLION, "width": 3}),
    ):
        if group:
            x, y = _make_lines(axes, group)
            figure.add_scatter(name=name, x=x, y=y, mode="lines", line=style, hoverinfo="skip")
    note = {"xanchor": "left", "xshift": 4, "showarrow": False, "font": {"size": 11}, "borderpad": 1}
    texts = [note | {"x": at, "y": y, "text": text} for at, c in enumerate(axes) for y, text in c.ticks]
    upright = {"type": "line", "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1.2}}
    figure.update_layout(annotations=texts, shapes=[upright | {"x0": at, "x1": at} for at in range(len(axes))])
    figure.update_xaxes(tickvals=list(range(len(axes))), ticktext=[c.title for c in axes], side="bottom",
                       range=[-0.15, len(axes) - 0.35], showgrid=False, zeroline=False, showline=False,
                       tickfont={"size": 12.5}, tickangle=0, automargin=True,
                       title={"text": "knobs, noise and score"})  # fmt: skip
    if len(axes) > ABREAST:
        # a phone is too narrow for these texts side by side
        upright_texts = [c.title.replace("<br>", " ") for c in axes]
        figure.update_xaxes(ticktext=upright_texts, tickangle=-90, automargin=True, title=None)
    figure.update_yaxes(visible=False, range=[-0.04, 1.06])
    text = f"One line per configuration with a score ({measure.label}): the best tenth in blue"
    text += f"{', the answer in orange' if starred else ''}; good scores are at the top."
    if left := sum(measure.column not in p.values for p in points):
        text += f" Left out: {left} without a score."
    text = " ".join(filter(None, (text, notice)))
    width = 0 if len(axes) > ABREAST else LEAST_WIDTH
    return Chart("parallel", "All knobs at once", text, figure, height=460, wide=True, least_width=width)


def _make_lines(axes: Sequence[Coordinate], group: Sequence[int]) -> tuple[list[float | None], list[float | None]]:
    # all lines of a colour form one trace with gaps
    x: list[float | None] = []
    y: list[float | None] = []
    for i in group:
        x += [*range(len(axes)), None]
        y += [round_to(float(c.place[i]), 4) for c in axes] + [None]
    return x, y

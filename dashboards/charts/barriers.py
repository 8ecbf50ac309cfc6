"""Figures of barriers against noise and sharpness, and of the loss plane, with their records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dashboards.charts.alignment import FEWEST, fit_curve
from dashboards.charts.axes import Window, make_log_axis, place_ticks, round_to, shorten, wrap_title
from dashboards.charts.chart import (
    Chart,
    Measure,
    describe,
    finish,
    frame_points,
    make_dots,
    make_edge_traces,
    make_figure,
    make_markers,
    sort_points,
    thin_points,
)
from dashboards.charts.colours import QuantileScale
from dashboards.charts.knob_axes import read_knob
from dashboards.charts.theme import BLUE, GREY, ORANGE, VERMILLION
from dashboards.data.configurations import Array, ConfigPoint, read_floats
from sweeper.formatting import pluralize

DRAWN = 1500
# shares of the width: room for the second panel's title at 800 pixels; the third panel shares its value axis
_PLACES = {1: [(0.0, 1.0)], 2: [(0.0, 0.42), (0.58, 1.0)], 3: [(0.0, 0.28), (0.44, 0.7), (0.74, 1.0)]}
SHARPNESS = {
    "hessian_trace_scaled": "scale-free Hessian trace tr H·‖w‖² [nat]",
    "hessian_trace": "Hessian trace tr H [nat/parameter²]",
    "lambda_max": "largest Hessian eigenvalue [nat/parameter²]",
    "sharpness_worst": "adaptive worst-case sharpness [nat]",
    "sharpness_average": "average-case sharpness [nat]",
}


@dataclass(frozen=True)
class Flatness:
    """Sharpness and barrier of the configurations with both, and two controls.

    Attributes:
        label: Name of the sharpness, with its unit.
        points: The configurations.
        sharpness: Mean over both parents, > 0.
        barrier: Barrier at the merge [nat].
        log_noise: Natural logarithm of the noise; nan without one.
        accuracy: Mean validation accuracy of the parents; nan without one.
    """

    label: str
    points: tuple[ConfigPoint, ...]
    sharpness: Array
    barrier: Array
    log_noise: Array
    accuracy: Array

    def control_for(self, control: Array) -> tuple[Array, Array, Array] | None:
        """Return which points have the control, and residuals of log sharpness and of the barrier's rank.

        The residuals are from smooth curves along the control. None for fewer than `FEWEST` points.
        """
        known = np.isfinite(control)
        if known.sum() < FEWEST or np.ptp(control[known]) <= 0:
            return None
        x, ranks = np.log(self.sharpness[known]), _rank(self.barrier[known])
        return known, fit_curve(control[known], x).residual, fit_curve(control[known], ranks).residual


def _rank(values: Array) -> Array:
    from scipy.stats import rankdata

    return rankdata(values) / len(values)


def measure_flatness(points: Sequence[ConfigPoint], sharpness: str, barrier: str) -> Flatness | None:
    """Return the configurations with a barrier and a positive sharpness of both parents; None without one.

    Args:
        points: One record per configuration, with `<sharpness>_a`, `<sharpness>_b`, `barrier` and the parents'
            accuracies.
        sharpness: Name in `SHARPNESS`.
        barrier: Column of the barrier.
    """
    needed = (f"{sharpness}_a", f"{sharpness}_b", barrier)
    both = [p for p in points if p.ok and all(c in p.values for c in needed)]
    level = np.array([(p.values[needed[0]].mean + p.values[needed[1]].mean) / 2 for p in both])
    kept = [i for i in range(len(both)) if level[i] > 0]
    if not kept:
        return None
    measured = [both[i] for i in kept]
    accuracy = [
        (a.mean + b.mean) / 2
        if (a := p.values.get("a_accuracy_val")) and (b := p.values.get("b_accuracy_val"))
        else math.nan
        for p in measured
    ]
    height = np.array([p.values[barrier].mean for p in measured])
    noise = np.log(read_knob(measured, "noise"))
    return Flatness(SHARPNESS[sharpness], tuple(measured), level[kept], height, noise, np.array(accuracy))


def draw_flatness(flatness: Flatness, barrier_label: str, noise_label: str) -> Chart:
    """Draw barrier against sharpness, as measured and given noise or the parents' accuracy."""
    from scipy.stats import spearmanr

    panels = [("as measured", np.full(len(flatness.points), True), flatness.sharpness, flatness.barrier)]
    missing: list[str] = []
    for words, control in (("the noise", flatness.log_noise), ("parents' accuracy", flatness.accuracy)):
        if (left := flatness.control_for(control)) is not None:
            panels.append((f"given {words}", *left))
        else:
            missing.append(words)
    figure: Any = make_figure(showlegend=False)
    figure.set_subplots(rows=1, cols=len(panels))
    scale = QuantileScale.of(read_knob(flatness.points, "noise"))
    for col, (words, known, x, y) in enumerate(panels, start=1):
        group = [p for p, k in zip(flatness.points, known, strict=True) if k]
        text = [describe(p, "") for p in group]
        figure.add_trace(
            make_markers("configuration", x.tolist(), y.tolist(), text, marker=_style(group, scale)), row=1, col=col
        )
        rank = float(spearmanr(x, y)[0]) if len(x) >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0 else math.nan  # pyright: ignore[reportArgumentType]
        note = f"{words}<br>ρ = {shorten(rank, 2)}, n = {len(x)}"
        figure.add_annotation(text=note, x=0, y=1, xref="x domain", yref="y domain", xanchor="left", yanchor="bottom",
                             align="left", showarrow=False, font={"size": 12}, row=1, col=col)  # fmt: skip
        figure.update_xaxes(domain=_PLACES[len(panels)][col - 1], col=col)
        if col > 1:
            figure.update_xaxes(title={"text": "residual of<br>ln sharpness [1]"}, nticks=4, col=col)
            figure.update_yaxes(nticks=6, col=col)
        if col == 2:
            figure.update_yaxes(title={"text": "residual rank [1]"}, col=col)
        if col == 3:
            figure.update_yaxes(matches="y2", showticklabels=False, col=col)
    figure.update_xaxes(make_log_axis(flatness.sharpness.tolist(), wrap_title(flatness.label), most=4), col=1)
    figure.update_yaxes(title={"text": wrap_title(barrier_label)}, col=1, nticks=6)
    figure.update_layout(coloraxis=_make_bar(scale, noise_label))
    words = "Barrier against the parents' sharpness; ρ is Spearman's rank correlation."
    if len(panels) > 1:
        words += (
            " The other panels show residuals of ln sharpness and of the barrier's rank over n, from smooth curves "
            "along the noise or the parents' mean accuracy: what sharpness explains beyond these."
        )
    if missing:
        words += (
            f" No panel given {' or '.join(missing)}: fewer than {FEWEST} configurations have it, or it is constant."
        )
    figure.update_layout(margin={"t": 96})
    wide = len(panels) > 1
    return Chart("flatness", "Sharpness against barrier", words, finish(figure), height=440, wide=wide)


def _style(group: Sequence[ConfigPoint], scale: QuantileScale) -> dict[str, Any]:
    colours = [round_to(v, 4) for v in scale.share(read_knob(group, "noise"))]
    return {"size": 8, "color": colours, "coloraxis": "coloraxis", "line": {"width": 0.6, "color": GREY}}


def _make_bar(scale: QuantileScale, noise_label: str) -> dict[str, Any]:
    bar = scale.make_axis(noise_label)
    return bar | {"colorbar": bar["colorbar"] | {"yref": "paper", "y": 1.14, "yanchor": "bottom"}}


def draw_barriers(points: Sequence[ConfigPoint], measures: Sequence[Measure], noise_label: str) -> Chart:
    """Draw measures of the barrier against the noise, one panel per measure.

    Args:
        points: One record per configuration.
        measures: At least one measure, each with a value.
        noise_label: Title of the noise axis.
    """
    figure: Any = make_figure(showlegend=False)
    figure.set_subplots(rows=1, cols=len(measures), horizontal_spacing=0.2)
    placed = [p for p in points if p.noise]
    kept, notice = thin_points(placed, measures[0].column, measures[0].maximize, DRAWN)
    drawn, sentences = [placed[i] for i in sorted(kept)], [notice] if notice else []
    for col, measure in enumerate(measures, start=1):
        view = _frame_barriers(placed, measure)
        groups = sort_points(drawn, measure.column, view)
        x = [p.noise for p in groups.inside]
        figure.add_trace(make_dots("value", groups.inside, x, measure.column, {"color": BLUE}), row=1, col=col)
        for trace in make_edge_traces(groups, measure.column, view, lambda p: p.noise):
            figure.add_trace(trace, row=1, col=col)
        figure.update_xaxes(make_log_axis([p.noise or 0.0 for p in placed], noise_label, most=5), row=1, col=col)
        figure.update_yaxes(title={"text": wrap_title(measure.label)}, range=[view.low, view.high], row=1, col=col)
        figure.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below", row=1, col=col)
        if groups.clipped:
            name = measure.label.split(" [")[0]
            sentences.append(f"{pluralize(len(groups.clipped), 'configuration')} above the frame of {name} (▲).")
    if len(measures) > 1:
        sentences.append(
            "The curvature at the parents does not predict the excess barrier, which is 0 on every quadratic."
        )
    text = " ".join(sentences)
    return Chart("barriers", "Barrier against the noise", text, finish(figure), height=430)


def _frame_barriers(points: Sequence[ConfigPoint], measure: Measure) -> Window:
    # barriers rise from 0 with the noise, and the figure must show the rise: cut only a far tail
    values = [p.values[measure.column].mean for p in points if measure.column in p.values]
    tail = float(np.quantile(np.abs(values), 0.9)) if values else 0.0
    view = frame_points(points, replace(measure, anchor=None))
    cut = max(values, default=1.0)
    cut = 1.5 * tail if 0 < 3 * tail < cut else cut
    low = min(0.0, *values) if values else 0.0
    span = (cut - low) or 1.0
    return replace(view, low=low - 0.08 * span, high=cut + 0.22 * span, cut=cut, edge=cut + 0.13 * span)


@dataclass(frozen=True)
class Plane:
    """The loss on the plane through the base (0, 0), child A (1, 0) and child B (0, 1).

    Attributes:
        digest: The trial.
        x, y: Coordinates along theta_A - theta_0 and theta_B - theta_0, ascending.
        loss: Loss at (y, x) in nat; nan where it is not finite.
    """

    digest: str
    x: Array
    y: Array
    loss: Array


def read_plane(planes: pa.Table, digest: str, column_: str) -> Plane | None:
    """Return the plane of a trial; None if none is stored."""
    rows = planes.filter(pa.array(planes.column("digest").to_numpy() == digest))
    if not rows.num_rows:
        return None
    x, at_x = np.unique(read_floats(rows, "x"), return_inverse=True)
    y, at_y = np.unique(read_floats(rows, "y"), return_inverse=True)
    loss = np.full((len(y), len(x)), np.nan)
    loss[at_y, at_x] = read_floats(rows, column_)
    return Plane(digest, x, y, np.where(np.isfinite(loss) & (loss > 0), loss, np.nan))


def draw_plane(plane: Plane, label: str, about: str) -> Chart:
    """Draw contours of the loss, logarithmic, with base, children and the merge at ½.

    Args:
        plane: The plane.
        label: Name of the loss, with its unit.
        about: Sentence on the trial.
    """
    known = plane.loss[np.isfinite(plane.loss)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)
    # beyond thirty times the lowest loss a model is broken: contours would hide the valley
    top = min(high, 30 * low) if low > 0 else high
    top = top if top > low else low * 1.01
    ticks, texts = place_ticks(low, top, most=6)
    figure: Any = make_figure(showlegend=False)
    heights = [[round_to(math.log10(min(v, top)), 4) if math.isfinite(v) else None for v in row] for row in plane.loss]
    start, end = math.log10(low), math.log10(top)
    figure.add_contour(
        x=plane.x.tolist(),
        y=plane.y.tolist(),
        z=heights,
        customdata=[[shorten(v, 4) for v in row] for row in plane.loss],
        colorscale="Viridis",
        contours={"start": start, "end": end, "size": (end - start) / 14, "showlines": True},
        line={"width": 0.6, "color": "rgba(255,255,255,0.45)"},
        zmin=start,
        zmax=end,
        colorbar={"title": {"text": label, "side": "right"}, "tickvals": [math.log10(t) for t in ticks],
                  "ticktext": texts, "thickness": 12, "outlinewidth": 0},
        hovertemplate="(%{x:.2f}, %{y:.2f})<br>loss %{customdata}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(x=[1, 0], y=[0, 1], mode="lines", line={"color": "#ffffff", "width": 1.5, "dash": "dot"},
                      hoverinfo="skip")  # fmt: skip
    names = ("θ₀ base", "θ_A", "θ_B", "merge at ½")
    style = {
        "size": [11, 11, 11, 16],
        "color": ["#ffffff", ORANGE, ORANGE, VERMILLION],
        "symbol": ["square", "circle", "circle", "diamond"],
        "line": {"width": 1.5, "color": "#1c2330"},
    }
    figure.add_scatter(
        x=[0, 1, 0, 0.5], y=[0, 0, 1, 0.5], mode="markers+text", text=[f"<b>{n}</b>" for n in names],
        textposition=["bottom right", "bottom left", "top right", "top right"],
        textfont={"color": "#ffffff", "size": 13}, marker=style, hoverinfo="text",
    )  # fmt: skip
    figure.update_xaxes(title={"text": "along θ_A − θ₀ [1]"}, range=[plane.x[0], plane.x[-1]], showgrid=False)
    figure.update_yaxes(title={"text": "along θ_B − θ₀ [1]"}, range=[plane.y[0], plane.y[-1]], showgrid=False)
    text = f"{about} The axes show coordinates, not lengths: θ_A − θ₀ and θ_B − θ₀ may not be orthogonal."
    text += f" Losses above {shorten(top)} appear as {shorten(top)}." if high > top else ""
    return Chart("plane", "The loss plane through base and children", text, finish(figure), height=500)

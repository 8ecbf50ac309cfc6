"""Barriers against noise and sharpness, and the loss plane: records from the tables, figures from the records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dashboards.charts.alignment import FEWEST, fit
from dashboards.charts.axes import Window, log_axis, log_ticks, rounded, short, wrapped
from dashboards.charts.chart import (
    Chart,
    Measure,
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
from dashboards.charts.knob_axes import axis_of, column
from dashboards.charts.theme import BLUE, GREY, ORANGE, VERMILLION
from dashboards.data.configurations import Array, ConfigPoint, floats
from sweeper.formatting import pluralize

DRAWN = 1500
# across the figure: room for the second panel's title at 800 pixels; the third one shares its value axis
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
    """Sharpness and barrier of the configurations that have both, and a control for each.

    Attributes:
        label: What the sharpness is, with its unit.
        points: The configurations.
        sharpness: Mean over both parents, > 0.
        barrier: At the merge, in nat.
        log_noise: Natural logarithm of the noise, nan where there is none.
        accuracy: Mean validation accuracy of the parents, nan where it is not known.
    """

    label: str
    points: tuple[ConfigPoint, ...]
    sharpness: Array
    barrier: Array
    log_noise: Array
    accuracy: Array

    def partial(self, control: Array) -> tuple[Array, Array, Array] | None:
        """Return which points have the control, and what it leaves of log sharpness and of the barrier's rank.

        Each is the residual of a smooth curve along the control; None for fewer than `FEWEST` points.
        """
        known = np.isfinite(control)
        if known.sum() < FEWEST or np.ptp(control[known]) <= 0:
            return None
        x, ranks = np.log(self.sharpness[known]), _ranks(self.barrier[known])
        return known, fit(control[known], x).residual, fit(control[known], ranks).residual


def _ranks(values: Array) -> Array:
    from scipy.stats import rankdata

    return rankdata(values) / len(values)


def flatness(points: Sequence[ConfigPoint], sharpness: str, barrier: str) -> Flatness | None:
    """Return the configurations with a positive sharpness of both parents and a barrier; None without any.

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
    found = [both[i] for i in kept]
    accuracy = [
        (a.mean + b.mean) / 2
        if (a := p.values.get("a_accuracy_val")) and (b := p.values.get("b_accuracy_val"))
        else math.nan
        for p in found
    ]
    height = np.array([p.values[barrier].mean for p in found])
    noise = np.log(column(found, "noise"))
    return Flatness(SHARPNESS[sharpness], tuple(found), level[kept], height, noise, np.array(accuracy))


def flatness_chart(found: Flatness, barrier_label: str, noise_label: str) -> Chart:
    """Draw barrier against sharpness, and what noise and the parents' accuracy leave of both."""
    from scipy.stats import spearmanr

    panels = [("as measured", np.full(len(found.points), True), found.sharpness, found.barrier)]
    missing: list[str] = []
    for words, control in (("the noise", found.log_noise), ("parents' accuracy", found.accuracy)):
        if (left := found.partial(control)) is not None:
            panels.append((f"given {words}", *left))
        else:
            missing.append(words)
    shown: Any = figure(showlegend=False)
    shown.set_subplots(rows=1, cols=len(panels))
    for col, (words, known, x, y) in enumerate(panels, start=1):
        group = [p for p, k in zip(found.points, known, strict=True) if k]
        text = [describe(p, "") for p in group]
        shown.add_trace(markers("configuration", x.tolist(), y.tolist(), text, marker=_style(group)), row=1, col=col)
        rank = float(spearmanr(x, y)[0]) if len(x) >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0 else math.nan  # pyright: ignore[reportArgumentType]
        note = f"{words}<br>ρ = {short(rank, 2)}, n = {len(x)}"
        shown.add_annotation(text=note, x=0, y=1, xref="x domain", yref="y domain", xanchor="left", yanchor="bottom",
                             align="left", showarrow=False, font={"size": 12}, row=1, col=col)  # fmt: skip
        shown.update_xaxes(domain=_PLACES[len(panels)][col - 1], col=col)
        if col > 1:
            shown.update_xaxes(title={"text": "residual of<br>ln sharpness [1]"}, nticks=4, col=col)
            shown.update_yaxes(nticks=6, col=col)
        if col == 2:
            shown.update_yaxes(title={"text": "residual rank [1]"}, col=col)
        if col == 3:
            shown.update_yaxes(matches="y2", showticklabels=False, col=col)
    shown.update_xaxes(log_axis(found.sharpness.tolist(), wrapped(found.label), most=4), col=1)
    shown.update_yaxes(title={"text": wrapped(barrier_label)}, col=1, nticks=6)
    _coloured_by_noise(shown, found.points, noise_label)
    words = "Barrier against the parents' sharpness; ρ is Spearman's rank correlation."
    if len(panels) > 1:
        words += (
            " Beside it the residuals of both (of ln sharpness, and of the barrier's rank over n) from a smooth curve "
            "along the noise, or along the parents' mean accuracy: what sharpness tells beyond it."
        )
    if missing:
        words += f" No plot given {' or '.join(missing)}: fewer than {FEWEST} configurations, or it does not vary."
    shown.update_layout(margin={"t": 96})
    wide = len(panels) > 1
    return Chart("flatness", "Sharpness against barrier", words, finish(shown), height=440, wide=wide)


def _style(group: Sequence[ConfigPoint]) -> dict[str, Any]:
    colours = [rounded(math.log10(p.noise), 4) if p.noise else None for p in group]
    return {"size": 8, "color": colours, "coloraxis": "coloraxis", "line": {"width": 0.6, "color": GREY}}


def _coloured_by_noise(shown: Any, points: Sequence[ConfigPoint], noise_label: str) -> None:
    from dashboards.charts.colours import on_axis

    values = column(points, "noise")
    bar = dict(on_axis(axis_of("noise", values, noise_label), values).bar)
    bar["colorbar"] = bar["colorbar"] | {"yref": "paper", "y": 1.14, "yanchor": "bottom"}
    shown.update_layout(coloraxis=bar)


def barrier_chart(points: Sequence[ConfigPoint], measures: Sequence[Measure], noise_label: str) -> Chart:
    """Draw one panel for each measure of the barrier against the noise.

    Args:
        points: One record per configuration.
        measures: What is drawn; at least one, each with a value somewhere.
        noise_label: Title of the noise axis.
    """
    shown: Any = figure(showlegend=False)
    shown.set_subplots(rows=1, cols=len(measures), horizontal_spacing=0.2)
    placed = [p for p in points if p.noise]
    kept, thinned_words = thinned(placed, measures[0].column, measures[0].maximize, DRAWN)
    drawn, said = [placed[i] for i in sorted(kept)], [thinned_words] if thinned_words else []
    for col, measure in enumerate(measures, start=1):
        view = _heights(placed, measure)
        sorted_out = sort_out(drawn, measure.column, view)
        x = [p.noise for p in sorted_out.inside]
        shown.add_trace(dots("value", sorted_out.inside, x, measure.column, {"color": BLUE}), row=1, col=col)
        for trace in edge_traces(sorted_out, measure.column, view, lambda p: p.noise):
            shown.add_trace(trace, row=1, col=col)
        shown.update_xaxes(log_axis([p.noise or 0.0 for p in placed], noise_label, most=5), row=1, col=col)
        shown.update_yaxes(title={"text": wrapped(measure.label)}, range=[view.low, view.high], row=1, col=col)
        shown.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below", row=1, col=col)
        if sorted_out.clipped:
            name = measure.label.split(" [")[0]
            said.append(f"{pluralize(len(sorted_out.clipped), 'configuration')} above the frame of {name} (▲).")
    if len(measures) > 1:
        said.append("The excess barrier is what the curvature at the parents does not predict; 0 on every quadratic.")
    text = " ".join(said)
    return Chart("barriers", "Barrier against the noise", text, finish(shown), height=430)


def _heights(points: Sequence[ConfigPoint], measure: Measure) -> Window:
    # barriers rise from 0 with the noise: the rise is what is looked for, so only a far tail is cut
    values = [p.values[measure.column].mean for p in points if measure.column in p.values]
    tail = float(np.quantile(np.abs(values), 0.9)) if values else 0.0
    view = frame(points, replace(measure, anchor=None))
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
        loss: Loss at (y, x) in nat, nan where it is not finite.
    """

    digest: str
    x: Array
    y: Array
    loss: Array


def plane_of(planes: pa.Table, digest: str, column_: str) -> Plane | None:
    """Return the plane of a trial; None where none was stored."""
    rows = planes.filter(pa.array(planes.column("digest").to_numpy() == digest))
    if not rows.num_rows:
        return None
    x, at_x = np.unique(floats(rows, "x"), return_inverse=True)
    y, at_y = np.unique(floats(rows, "y"), return_inverse=True)
    loss = np.full((len(y), len(x)), np.nan)
    loss[at_y, at_x] = floats(rows, column_)
    return Plane(digest, x, y, np.where(np.isfinite(loss) & (loss > 0), loss, np.nan))


def plane_chart(found: Plane, label: str, about: str) -> Chart:
    """Draw contours of the loss, logarithmic, with base, children and the merge at ½.

    Args:
        found: The plane.
        label: What the loss is, with its unit.
        about: Words on the trial.
    """
    known = found.loss[np.isfinite(found.loss)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)
    # beyond thirty times the lowest loss a model has broken: more contours would only hide the valley
    top = min(high, 30 * low) if low > 0 else high
    top = top if top > low else low * 1.01
    ticks, texts = log_ticks(low, top, most=6)
    shown: Any = figure(showlegend=False)
    heights = [[rounded(math.log10(min(v, top)), 4) if math.isfinite(v) else None for v in row] for row in found.loss]
    start, end = math.log10(low), math.log10(top)
    shown.add_contour(
        x=found.x.tolist(),
        y=found.y.tolist(),
        z=heights,
        customdata=[[short(v, 4) for v in row] for row in found.loss],
        colorscale="Viridis",
        contours={"start": start, "end": end, "size": (end - start) / 14, "showlines": True},
        line={"width": 0.6, "color": "rgba(255,255,255,0.45)"},
        zmin=start,
        zmax=end,
        colorbar={"title": {"text": label, "side": "right"}, "tickvals": [math.log10(t) for t in ticks],
                  "ticktext": texts, "thickness": 12, "outlinewidth": 0},
        hovertemplate="(%{x:.2f}, %{y:.2f})<br>loss %{customdata}<extra></extra>",
    )  # fmt: skip
    shown.add_scatter(x=[1, 0], y=[0, 1], mode="lines", line={"color": "#ffffff", "width": 1.5, "dash": "dot"},
                      hoverinfo="skip")  # fmt: skip
    names = ("θ₀ base", "θ_A", "θ_B", "merge at ½")
    style = {"size": [11, 11, 11, 16], "color": ["#ffffff", ORANGE, ORANGE, VERMILLION],
             "line": {"width": 1.5, "color": "#1c2330"}, "symbol": ["square", "circle", "circle", "star"]}  # fmt: skip
    shown.add_scatter(
        x=[0, 1, 0, 0.5], y=[0, 0, 1, 0.5], mode="markers+text", text=[f"<b>{n}</b>" for n in names],
        textposition=["bottom right", "bottom left", "top right", "top right"],
        textfont={"color": "#ffffff", "size": 13}, marker=style, hoverinfo="text",
    )  # fmt: skip
    shown.update_xaxes(title={"text": "along θ_A − θ₀ [1]"}, range=[found.x[0], found.x[-1]], showgrid=False)
    shown.update_yaxes(title={"text": "along θ_B − θ₀ [1]"}, range=[found.y[0], found.y[-1]], showgrid=False)
    text = f"{about} Axes are coordinates, not lengths: θ_A − θ₀ and θ_B − θ₀ need not be at right angles."
    text += f" Losses above {short(top)} are drawn as {short(top)}." if high > top else ""
    return Chart("plane", "The loss plane through base and children", text, finish(shown), height=500)

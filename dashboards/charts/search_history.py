"""Figure of the search over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.charts.axes import Window, fit_window, make_log_axis, round_to, wrap_title
from dashboards.charts.chart import SYMBOLS, Chart, Measure, describe, finish, make_figure, make_markers
from dashboards.charts.theme import BLUE, GREEN, GREY, VERMILLION, fade
from dashboards.data.curves import SearchStep


def draw_progress(steps: Sequence[SearchStep], measure: Measure, noise_label: str) -> Chart:
    """Draw the objective with its best value so far; below, the noise with the sampler's estimate.

    Args:
        steps: The configurations in the order of the search; at least one.
        measure: The sweep's objective.
        noise_label: Title of the noise axis.
    """
    view = fit_window([s.value for s in steps if s.value is not None], measure.anchor, measure.maximize)
    figure = make_figure()
    figure.set_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    _add_objective(figure, steps, measure, view)
    _add_noise(figure, steps, measure.column)
    noises = [v for s in steps for v in (s.noise, s.optimum) if v is not None and v > 0]
    figure.update_xaxes(title={"text": wrap_title("configuration, in the order of the search")}, row=2)
    figure.update_yaxes(title={"text": wrap_title(measure.label)}, range=[view.low, view.high], row=1)
    figure.update_yaxes(make_log_axis(noises, wrap_title(noise_label), most=6), row=2)
    clipped = sum(s.value is not None and not view.shows(s.value) for s in steps)
    text = "Above: the objective and its best observed value so far. Below: the noise per configuration"
    known = any(s.optimum is not None for s in steps)
    text += " and the sampler's estimate of the best noise." if known else "; the sampler gave no estimate."
    if clipped:
        text += f" {clipped} outside the frame appear at its edge."
    return Chart("progress", "Progress of the search", text, finish(figure), height=560)


def _add_objective(figure: Any, steps: Sequence[SearchStep], measure: Measure, view: Window) -> None:
    scored = [s for s in steps if s.value is not None]
    inside = [s for s in scored if view.shows(s.value or 0.0)]
    beyond = [s for s in scored if not view.shows(s.value or 0.0)]
    failed = [s for s in steps if s.value is None]
    edge = "triangle-down" if view.maximize else "triangle-up"
    groups = [("configuration", "circle", BLUE, inside), ("outside the frame", edge, BLUE, beyond)]
    for outcome in sorted({s.point.outcome for s in failed}):
        group = [s for s in failed if s.point.outcome == outcome]
        groups.append((outcome.replace("_", " "), SYMBOLS.get(outcome, "square-open"), GREY, group))
    for name, symbol, colour, group in groups:
        if group:
            y = [s.value if symbol == "circle" else view.edge for s in group]
            figure.add_trace(
                _make_points(name, group, y, measure.column, {"symbol": symbol, "color": colour}), row=1, col=1
            )
    best = [s for s in steps if s.best is not None]
    shape = {"color": VERMILLION, "width": 2, "shape": "hv"}
    figure.add_trace(_make_line("best observed", best, [s.best for s in best], shape), row=1, col=1)


def _describe_step(step: SearchStep, column: str) -> str:
    origin = f"<br>proposed as {step.origin.replace('_', ' ')}" if step.origin else ""
    return describe(step.point, column) + origin


def _add_noise(figure: Any, steps: Sequence[SearchStep], column: str) -> None:
    estimated = [s for s in steps if s.optimum is not None and s.optimum > 0]
    banded = [s for s in estimated if (s.low or 0) > 0 and s.high is not None]
    if banded:
        x = [s.number for s in banded]
        figure.add_scatter(
            name="90 % interval of the optimum",
            x=x + x[::-1],
            y=[round_to(s.high) for s in banded] + [round_to(s.low) for s in banded[::-1]],
            fill="toself",
            fillcolor=fade(GREEN, 0.16),
            line={"width": 1, "color": GREEN, "dash": "dot"},
            mode="lines",
            hoverinfo="skip",
            row=2,
            col=1,
        )
    if estimated:
        shape = {"color": GREEN, "width": 2, "dash": "dash"}
        figure.add_trace(
            _make_line("sampler's optimum", estimated, [s.optimum for s in estimated], shape), row=2, col=1
        )
    placed = [s for s in steps if s.noise is not None]
    colours = [GREY if s.value is None else BLUE for s in placed]
    marker = {"color": colours, "symbol": [SYMBOLS.get(s.point.outcome, "circle") for s in placed]}
    noises = [s.noise for s in placed]
    figure.add_trace(_make_points("noise", placed, noises, column, marker, showlegend=False), row=2, col=1)


def _make_points(
    name: str, steps: Sequence[SearchStep], y: Sequence[float | None], column: str, marker: dict[str, Any], **more: Any
) -> Any:
    # one marker per configuration, at its place in the search
    texts = [_describe_step(s, column) for s in steps]
    return make_markers(name, [s.number for s in steps], y, texts, marker={"size": 7, **marker}, **more)


def _make_line(name: str, steps: Sequence[SearchStep], y: Sequence[float | None], line: dict[str, Any]) -> Any:
    x = [s.number for s in steps]
    return {
        "type": "scatter",
        "name": name,
        "x": x,
        "y": [round_to(v) for v in y],
        "mode": "lines",
        "line": line,
        "hoverinfo": "skip",
    }

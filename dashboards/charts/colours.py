"""Colours of points: by a number on a colour bar, or by a group with colour and symbol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dashboards.charts.axes import NOISE_SCALE
from dashboards.charts.knob_axes import Axis, make_axis, read_knob, varies
from dashboards.charts.theme import CYCLE, SYMBOL_CYCLE
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from sweeper.formatting import name_knob

OPTIONS = {
    "noise": "noise",
    **{knob: name_knob(knob).label for knob in KNOBS},
    "repeats": "repeats",
    "outcome": "outcome",
    "run": "run",
}


@dataclass(frozen=True)
class Colouring:
    """Colours of the points.

    Attributes:
        values: A number per point, nan without one; empty with groups.
        bar: Plotly's `coloraxis` for the numbers.
        groups: Name -> mask of its points, in order of the legend; empty with numbers.
    """

    values: Array
    bar: Mapping[str, Any] = field(default_factory=lambda: {})
    groups: Mapping[str, Array] = field(default_factory=lambda: {})

    def markers(self, shown: Array) -> list[tuple[str, Array, dict[str, Any]]]:
        """Return name, indices and Plotly's marker settings per trace of the points in the mask `shown`."""
        if not self.groups:
            at = np.flatnonzero(shown)
            known = np.where(np.isfinite(self.values[at]), self.values[at], np.nanmin(self.values, initial=np.inf))
            return [("", at, {"color": known.round(4).tolist(), "coloraxis": "coloraxis", "symbol": "circle"})]
        return [
            (name, np.flatnonzero(shown & mask), {"color": colour, "symbol": symbol})
            for (name, mask), colour, symbol in zip(self.groups.items(), _repeat(CYCLE), _repeat(SYMBOL_CYCLE))  # noqa: B905
        ]


def _repeat(values: Sequence[str]) -> Sequence[str]:
    return list(values) * 40


def list_options(points: Sequence[ConfigPoint], runs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return keys and labels of the quantities that differ among these points."""
    differing = {"noise", *(k for k in KNOBS if varies(read_knob(points, k)))}
    if len({sum(p.outcomes.values()) for p in points}) > 1:
        differing.add("repeats")
    if len({p.outcome for p in points}) > 1:
        differing.add("outcome")
    if len(set(runs.values())) > 1:
        differing.add("run")
    return tuple((name, label) for name, label in OPTIONS.items() if name in differing)


def colour_points(points: Sequence[ConfigPoint], by: str, noise_label: str, runs: Mapping[str, str]) -> Colouring:
    """Return the colours of the points.

    Args:
        points: One record per configuration.
        by: Name in `OPTIONS`; any other name means the noise.
        noise_label: Title of the noise, with its unit.
        runs: Configuration -> name of its run, if several runs are pooled.
    """
    if by == "outcome":
        return _group([p.outcome.replace("_", " ") for p in points])
    if by == "run":
        return _group([runs.get(p.config, "unknown") for p in points])
    if by == "repeats":
        counts = np.array([sum(p.outcomes.values()) for p in points], dtype=float)
        return Colouring(counts, _make_bar(counts, "trials of the configuration", counts, None))
    name = by if by in KNOBS else "noise"
    values = read_knob(points, name)
    return colour_along(make_axis(name, values, noise_label if name == "noise" else ""), values)


def colour_along(axis: Axis, values: Array) -> Colouring:
    """Return colours along an axis, logarithmic if the axis is."""
    placed, ticks = axis.place(values), axis.layout.get("tickvals")
    if axis.layout.get("type") == "log":
        with np.errstate(invalid="ignore", divide="ignore"):
            placed = np.log10(placed)
        ticks = np.log10(np.asarray(ticks, dtype=float))
    return Colouring(placed, _make_bar(placed, axis.title, ticks, axis.layout.get("ticktext")))


def _group(names: Sequence[str]) -> Colouring:
    labels = np.array(names, dtype=object)
    return Colouring(
        np.empty(0), groups={str(n): labels == n for n in sorted(set(names), key=lambda n: (n != "ok", n))}
    )


def _make_bar(values: Array, title: str, ticks: Any, texts: Any) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    bar: dict[str, Any] = {
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1.0,
        "yref": "container",
        "yanchor": "top",
        "len": 0.45,
        "thickness": 10,
        "outlinewidth": 0,
        "xpad": 0,
        "ypad": 2,
    }
    if ticks is not None and texts is not None:
        bar |= {"tickvals": list(ticks), "ticktext": list(texts)}
    elif ticks is not None and len(np.unique(known)) <= 8:
        bar |= {"tickvals": np.unique(known).tolist()}
    return {"colorscale": NOISE_SCALE, "cmin": low, "cmax": high if high > low else low + 1e-6, "colorbar": bar}

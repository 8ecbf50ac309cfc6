"""What colours the points: a number on a colour bar, or a group with its own colour and symbol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dashboards.charts.axes import NOISE_SCALE
from dashboards.charts.knob_axes import Axis, axis_of, column, varies
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
        values: A number for each point, nan where it has none; empty where groups are shown.
        bar: Plotly's `coloraxis` for the numbers.
        groups: Name -> the points in it, in order of the legend; empty where numbers are shown.
    """

    values: Array
    bar: Mapping[str, Any] = field(default_factory=lambda: {})
    groups: Mapping[str, Array] = field(default_factory=lambda: {})

    def markers(self, shown: Array) -> list[tuple[str, Array, dict[str, Any]]]:
        """Return the traces of the `shown` points (a mask): name, indices, Plotly's marker settings."""
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


def options(points: Sequence[ConfigPoint], runs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what can colour these points: what differs among them."""
    there = {"noise", *(k for k in KNOBS if varies(column(points, k)))}
    if len({sum(p.outcomes.values()) for p in points}) > 1:
        there.add("repeats")
    if len({p.outcome for p in points}) > 1:
        there.add("outcome")
    if len(set(runs.values())) > 1:
        there.add("run")
    return tuple((name, words) for name, words in OPTIONS.items() if name in there)


def colouring(points: Sequence[ConfigPoint], by: str, noise_label: str, runs: Mapping[str, str]) -> Colouring:
    """Return the colours of the points.

    Args:
        points: One record per configuration.
        by: Name in `OPTIONS`; another one means the noise.
        noise_label: Title of the noise, with its unit.
        runs: Configuration -> name of its run, where there are several.
    """
    if by == "outcome":
        return _grouped([p.outcome.replace("_", " ") for p in points])
    if by == "run":
        return _grouped([runs.get(p.config, "unknown") for p in points])
    if by == "repeats":
        counts = np.array([sum(p.outcomes.values()) for p in points], dtype=float)
        return Colouring(counts, _bar(counts, "trials of the configuration", counts, None))
    name = by if by in KNOBS else "noise"
    values = column(points, name)
    return on_axis(axis_of(name, values, noise_label if name == "noise" else ""), values)


def on_axis(axis: Axis, values: Array) -> Colouring:
    """Return colours that follow an axis, logarithmic where it is."""
    placed, ticks = axis.place(values), axis.layout.get("tickvals")
    if axis.layout.get("type") == "log":
        with np.errstate(invalid="ignore", divide="ignore"):
            placed = np.log10(placed)
        ticks = np.log10(np.asarray(ticks, dtype=float))
    return Colouring(placed, _bar(placed, axis.title, ticks, axis.layout.get("ticktext")))


def _grouped(names: Sequence[str]) -> Colouring:
    found = np.array(names, dtype=object)
    return Colouring(np.empty(0), groups={str(n): found == n for n in sorted(set(names), key=lambda n: (n != "ok", n))})


def _bar(values: Array, title: str, ticks: Any, texts: Any) -> dict[str, Any]:
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

"""Colours of points: by the quantile of a number on a colour bar, or by a group with colour and symbol.

Quantiles use the whole scale wherever the numbers lie: with values in proportion, one outlier leaves one colour to the
others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.colors

from dashboards.charts.axes import round_to, shorten
from dashboards.charts.knob_axes import read_knob, varies
from dashboards.charts.theme import COLD_TO_HOT, CYCLE, SYMBOL_CYCLE
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from sweeper.formatting import name_knob

NOISE_SCALE = [[i / (len(COLD_TO_HOT) - 1), colour] for i, colour in enumerate(COLD_TO_HOT)]
MOST_LEVELS = 6
"""Up to this many different values, the colour bar names each one."""
OPTIONS = {
    "noise": "noise",
    **{knob: name_knob(knob).label for knob in KNOBS},
    "repeats": "repeats",
    "outcome": "outcome",
    "run": "run",
}


@dataclass(frozen=True, eq=False)
class QuantileScale:
    """Scale from 0 to 1 by the rank of a value among others.

    Attributes:
        levels: The different finite values, ascending.
        shares: Level -> mean rank of its values, from 0 for the lowest level to 1 for the highest.
    """

    levels: Array
    shares: Array

    @classmethod
    def of(cls, values: Array) -> QuantileScale:
        """Return the scale of these values."""
        levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
        if len(levels) < 2:
            return cls(levels, np.full(len(levels), 0.5))
        rank = np.cumsum(counts) - (counts - 1) / 2
        return cls(levels, (rank - rank[0]) / (rank[-1] - rank[0]))

    def share(self, values: Array) -> Array:
        """Return the places of values; nan for nan."""
        return np.interp(values, self.levels, self.shares) if len(self.levels) else np.full(len(values), np.nan)

    def pick(self, value: float) -> str:
        """Return the colour of a value, as `rgb(r, g, b)`."""
        return str(plotly.colors.sample_colorscale(NOISE_SCALE, [float(self.share(np.array([value]))[0])])[0])

    def make_axis(self, title: str, upright: bool = False) -> dict[str, Any]:
        """Return Plotly's `coloraxis`: its bar lies above the figure, or stands beside it."""
        at = self.shares if len(self.levels) <= MOST_LEVELS else np.linspace(0, 1, 5)
        texts = [shorten(v) for v in np.interp(at, self.shares, self.levels)] if len(self.levels) else []
        bar: dict[str, Any] = {"tickvals": [round_to(float(v)) for v in at], "ticktext": texts, "outlinewidth": 0}
        if upright:
            bar |= {"title": {"text": title, "side": "right"}, "thickness": 12}
        else:
            bar |= {"title": {"text": title, "side": "top", "font": {"size": 12}}, "orientation": "h", "x": 0}
            bar |= {"xanchor": "left", "y": 1.0, "yref": "container", "yanchor": "top", "len": 0.45, "thickness": 10}
            bar |= {"xpad": 0, "ypad": 2}
        return {"colorscale": NOISE_SCALE, "cmin": 0, "cmax": 1, "colorbar": bar}


@dataclass(frozen=True)
class Colouring:
    """Colours of the points.

    Attributes:
        values: Positions of the points on the scale, nan without one; empty with groups.
        bar: Plotly's `coloraxis` for the numbers.
        scale: The scale of the numbers; None with groups.
        groups: Name -> mask of its points, in order of the legend; empty with numbers.
    """

    values: Array
    bar: Mapping[str, Any] = field(default_factory=lambda: {})
    scale: QuantileScale | None = None
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
        return colour_along(
            np.array([sum(p.outcomes.values()) for p in points], dtype=float), "trials of the configuration"
        )
    if by in KNOBS:
        return colour_along(read_knob(points, by), name_knob(by).title)
    return colour_along(read_knob(points, "noise"), noise_label)


def colour_along(values: Array, title: str) -> Colouring:
    """Return colours by the quantile of a value per point."""
    scale = QuantileScale.of(values)
    return Colouring(scale.share(values), scale.make_axis(title), scale)


def _group(names: Sequence[str]) -> Colouring:
    labels = np.array(names, dtype=object)
    return Colouring(
        np.empty(0), groups={str(n): labels == n for n in sorted(set(names), key=lambda n: (n != "ok", n))}
    )

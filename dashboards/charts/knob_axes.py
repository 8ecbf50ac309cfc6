"""Axes of knobs: scale, ticks and title."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.charts.axes import make_log_axis, shorten
from dashboards.data.configurations import KNOBS, Array, ConfigPoint
from sweeper.formatting import name_knob

SHIFTED_MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# maximum number of tick letters in a third of the narrowest page
LETTERS = 17


@dataclass(frozen=True)
class Axis:
    """An axis of a figure.

    Attributes:
        name: `noise` or a knob.
        title: Quantity and unit.
        place: Values -> places on the axis; nan for values without a place.
        layout: Plotly's settings.
    """

    name: str
    title: str
    place: Callable[[Array], Array]
    layout: Mapping[str, Any]


def read_knob(points: Sequence[ConfigPoint], name: str) -> Array:
    """Return a knob's values, or the `noise`; nan for missing ones."""
    values = [p.noise if name == "noise" else p.knobs.get(name) for p in points]
    return np.array([math.nan if v is None else v for v in values], dtype=float)


def scale_places(axis: Axis, x: Array) -> Array:
    """Return places on an axis as drawn lengths: their logarithms on a log axis."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log10(x) if axis.layout.get("type") == "log" else x


def varies(values: Array) -> bool:
    """Return whether two values differ."""
    known = values[np.isfinite(values)]
    return len(known) > 1 and bool(np.ptp(known) > 1e-9 * np.abs(known).max())


def make_axis(name: str, values: Array, title: str = "", most: int = 5) -> Axis:
    """Return the axis of a knob, or of the noise with its `title`.

    Args:
        name: `noise` or a knob.
        values: Values that the axis must cover.
        title: Quantity and unit; by default the knob's title.
        most: Maximum number of ticks.
    """
    known, title = values[np.isfinite(values)], title or name_knob(name).title
    if name == "momentum":
        return _make_momentum_axis(known, title)
    other = name != "noise" and name not in KNOBS
    # a knob of any other field: linear, unless its values are positive and span a decade
    linear = other and (not len(known) or known.min() <= 0 or known.max() < 10 * known.min())
    if name == "augmentation_strength" or linear:
        return Axis(name, title, lambda v: v, {"title": {"text": title}, "nticks": most})
    if name == "batch_size":
        return Axis(name, title, _keep_positive, _make_batch_layout(known, title, most))
    if name == "weight_decay" and (known == 0).any():
        return _make_axis_with_zero(known, title, most)
    return Axis(name, title, _keep_positive, make_log_axis(known.tolist(), title, most, LETTERS))


def _keep_positive(values: Array) -> Array:
    return np.where(values > 0, values, np.nan)


def _make_momentum_axis(known: Array, title: str) -> Axis:
    # on a log axis of 1/(1 - mu), distances match those in the noise
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.9)
    ticks = [m for m in SHIFTED_MOMENTA if low - 1e-9 <= m <= high + 1e-9]
    ticks = ticks if len(ticks) > 1 else sorted({low, high})
    spread = [1 / (1 - v) for v in (low, high)]
    layout = {"tickvals": [1 / (1 - m) for m in ticks], "ticktext": [f"{m:g}" for m in ticks]}
    return Axis("momentum", title, lambda v: 1 / (1 - v), {**make_log_axis(spread, f"{title}, as 1/(1−μ)"), **layout})


def _make_batch_layout(known: Array, title: str, most: int) -> dict[str, Any]:
    axis = make_log_axis(known.tolist(), title, most)
    powers = [2**k for k in range(21) if len(known) and known.min() / 1.25 <= 2**k <= known.max() * 1.25]
    while len(powers) > most + 1:
        powers = powers[::2]
    return axis | ({"tickvals": powers, "ticktext": [str(p) for p in powers]} if len(powers) > 1 else {})


def _make_axis_with_zero(known: Array, title: str, most: int) -> Axis:
    # a log axis has no zero: draw it a decade below the smallest value, with a tick
    positive = known[known > 0]
    if not len(positive):
        return Axis("weight_decay", title, lambda v: v, {"title": {"text": title}, "tickvals": [0], "ticktext": ["0"]})
    zero = positive.min() / 10
    axis = make_log_axis(positive.tolist(), title, most - 1, LETTERS)
    axis["tickvals"] = [zero, *axis["tickvals"]]
    axis["ticktext"] = ["0", *axis["ticktext"]]
    axis["range"] = [math.log10(zero / 1.5), axis["range"][1]]
    return Axis("weight_decay", title, lambda v: np.where(v == 0, zero, _keep_positive(v)), axis)


def describe_knobs(knobs: Mapping[str, float], omit: str = "") -> str:
    """Return a text such as `η 0.1, B 16, μ 0.9`, without the knob `omit`."""
    return ", ".join(f"{name_knob(k).short} {shorten(v)}" for k, v in knobs.items() if k != omit)

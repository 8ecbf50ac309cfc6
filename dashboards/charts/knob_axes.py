"""The knobs as axes: where a value stands, which ticks it has, what it is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.charts.axes import log_axis, short
from dashboards.data.configurations import Array, ConfigPoint
from sweeper.formatting import name_knob

SHIFTED_MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# what fits a panel of a third of the narrowest page
LETTERS = 17


@dataclass(frozen=True)
class Axis:
    """One axis of a figure.

    Attributes:
        name: `noise` or a knob.
        title: Quantity and unit.
        place: Values -> where they stand on the axis, nan where they have no place.
        layout: Plotly's settings.
    """

    name: str
    title: str
    place: Callable[[Array], Array]
    layout: Mapping[str, Any]


def column(points: Sequence[ConfigPoint], name: str) -> Array:
    """Return a knob's values, or the `noise`, nan where there is none."""
    found = [p.noise if name == "noise" else p.knobs.get(name) for p in points]
    return np.array([math.nan if v is None else v for v in found], dtype=float)


def on_scale(axis: Axis, x: Array) -> Array:
    """Return places on an axis as lengths on paper: their logarithm where the axis has one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log10(x) if axis.layout.get("type") == "log" else x


def varies(values: Array) -> bool:
    """Whether there are two different values among them."""
    known = values[np.isfinite(values)]
    return len(known) > 1 and bool(np.ptp(known) > 1e-9 * np.abs(known).max())


def axis_of(name: str, values: Array, title: str = "", most: int = 5) -> Axis:
    """Return the axis of a knob or, with its `title`, of the noise.

    Args:
        name: `noise` or a knob.
        values: All values that must find a place.
        title: Quantity and unit; a knob has its own.
        most: Number of ticks at most.
    """
    known, title = values[np.isfinite(values)], title or name_knob(name).title
    if name == "momentum":
        return _momentum(known, title)
    if name == "augmentation_strength":
        return Axis(name, title, lambda v: v, {"title": {"text": title}, "nticks": most})
    if name == "batch_size":
        return Axis(name, title, _positive, _batch_layout(known, title, most))
    if name == "weight_decay" and (known == 0).any():
        return _with_zero(known, title, most)
    return Axis(name, title, _positive, log_axis(known.tolist(), title, most, LETTERS))


def _positive(values: Array) -> Array:
    return np.where(values > 0, values, np.nan)


def _momentum(known: Array, title: str) -> Axis:
    # 1/(1 - mu) on a log axis: .9 and .95 stand as far apart as they are in the noise
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.9)
    ticks = [m for m in SHIFTED_MOMENTA if low - 1e-9 <= m <= high + 1e-9]
    ticks = ticks if len(ticks) > 1 else sorted({low, high})
    spread = [1 / (1 - v) for v in (low, high)]
    layout = {"tickvals": [1 / (1 - m) for m in ticks], "ticktext": [f"{m:g}" for m in ticks]}
    return Axis("momentum", title, lambda v: 1 / (1 - v), {**log_axis(spread, f"{title}, as 1/(1−μ)"), **layout})


def _batch_layout(known: Array, title: str, most: int) -> dict[str, Any]:
    axis = log_axis(known.tolist(), title, most)
    powers = [2**k for k in range(21) if len(known) and known.min() / 1.25 <= 2**k <= known.max() * 1.25]
    while len(powers) > most + 1:
        powers = powers[::2]
    return axis | ({"tickvals": powers, "ticktext": [str(p) for p in powers]} if len(powers) > 1 else {})


def _with_zero(known: Array, title: str, most: int) -> Axis:
    # zero has no place on a log axis: it stands a decade below the smallest value, with its own tick
    positive = known[known > 0]
    if not len(positive):
        return Axis("weight_decay", title, lambda v: v, {"title": {"text": title}, "tickvals": [0], "ticktext": ["0"]})
    zero = positive.min() / 10
    axis = log_axis(positive.tolist(), title, most - 1, LETTERS)
    axis["tickvals"] = [zero, *axis["tickvals"]]
    axis["ticktext"] = ["0", *axis["ticktext"]]
    axis["range"] = [math.log10(zero / 1.5), axis["range"][1]]
    return Axis("weight_decay", title, lambda v: np.where(v == 0, zero, _positive(v)), axis)


def knob_words(knobs: Mapping[str, float], leave: str = "") -> str:
    """Return knobs as words, such as `η 0.1, B 16, μ 0.9`, without the one called `leave`."""
    return ", ".join(f"{name_knob(k).short} {short(v)}" for k, v in knobs.items() if k != leave)

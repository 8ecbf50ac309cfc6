"""Bounds: which values of a configuration lie at an end of their knob's range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

NEAR = 0.02
"""Share of a continuous range that counts as its end, on the range's own scale."""
_FEWEST = 3
_FIRM: Mapping[str, Mapping[str, float]] = {
    "momentum": {"lower": 0.0},
    "weight_decay": {"lower": 0.0},
    "augmentation_strength": {"lower": 0.0, "upper": 1.0},
}
"""Ends that no range of a knob can pass."""


def find_bounds(knobs: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> dict[str, str]:
    """Return knob -> `lower` or `upper`, for the values at an end that a wider range would move.

    Choices count if they are at least three different numbers; a whole number counts at the first and the last value.
    A range of fewer than three values has no inside. The end of what a knob may be does not count.

    Args:
        knobs: Knob -> distribution.
        params: Knob -> value; a knob without a value does not count.
    """
    found = {name: _find_end(knob, params[name]) for name, knob in knobs.items() if name in params}
    return {name: end for name, end in found.items() if end and not _is_firm(name, end, knobs[name])}


def _is_firm(name: str, end: str, knob: Any) -> bool:
    low, high = (min(c), max(c)) if (c := getattr(knob, "choices", None)) else (knob.low, knob.high)
    return _FIRM.get(name, {}).get(end) == (low if end == "lower" else high)


def _find_end(knob: BaseDistribution, value: Any) -> str:
    if isinstance(knob, CategoricalDistribution):
        numbers = {float(c) for c in knob.choices if isinstance(c, int | float) and not isinstance(c, bool)}
        ordered = len(numbers) == len(knob.choices) >= _FEWEST
        return _compare(float(value), min(numbers), max(numbers), 0.0) if ordered else ""
    assert isinstance(knob, FloatDistribution | IntDistribution)
    low, high, at, step = float(knob.low), float(knob.high), float(value), knob.step
    if not high > low or (step is not None and (high - low) / step < _FEWEST - 1):
        return ""
    if step is not None and (end := _compare(at, low, high, 0.0)):
        return end
    if knob.log:
        low, high, at = math.log(low), math.log(high), math.log(at) if at > 0 else -math.inf
    return _compare(at, low, high, NEAR * (high - low))


def _compare(at: float, low: float, high: float, margin: float) -> str:
    return "lower" if at <= low + margin else "upper" if at >= high - margin else ""

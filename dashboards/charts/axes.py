"""Log ticks, windows of value axes, and short numbers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SPREADS_SHOWN = 2.5
TITLE_WIDTH = 24


def shorten(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits; `–` if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1e5 or abs(value) >= 1e15 else f"{value:,.0f}"


def round_to(value: float | None, digits: int = 6) -> float | None:
    """Return `value` rounded to `digits` significant digits; None if it is missing or not finite."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None


def wrap_title(title: str) -> str:
    """Return an axis title as Plotly markup, in lines of about `TITLE_WIDTH` characters."""
    return "<br>".join(textwrap.wrap(title, TITLE_WIDTH, break_long_words=False))


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _format_tick(mantissa: int, exponent: int) -> str:
    if -4 <= exponent < 5:
        return f"{mantissa * 10.0**exponent:.{max(0, -exponent)}f}"
    power = "10" + str(exponent).translate(_SUPERSCRIPT)
    return power if mantissa == 1 else f"{mantissa}·{power}"


def _list_ticks(low: float, high: float, mantissas: Sequence[int], step: int) -> list[tuple[float, str]]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    grid = [(m * 10.0**e, m, e) for e in exponents if e % step == 0 for m in mantissas]
    return [(v, _format_tick(m, e)) for v, m, e in grid if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]


def place_ticks(low: float, high: float, most: int = 8) -> tuple[list[float], list[str]]:
    """Return values and texts of 1 to `most` ticks of a log axis from `low` to `high`.

    The grid is the densest of 1-2-3-5-7, 1-2-5, 1-3 and full decades with at most `most` ticks.

    Raises:
        ValueError: The rule 0 < low <= high or most >= 1 is broken.
    """
    if not 0 < low <= high:
        raise ValueError(f"a log axis needs 0 < low <= high, got {low!r} and {high!r}")
    if most < 1:
        raise ValueError(f"a log axis needs most >= 1, got {most!r}")
    grids = [((1, 2, 3, 5, 7), 1), ((1, 2, 5), 1), ((1, 3), 1)] + [((1,), step) for step in range(1, 1000)]
    ticks = next(t for g in grids if len(t := _list_ticks(low, high, *g)) <= most)
    ticks = ticks or [(math.sqrt(low * high), shorten(math.sqrt(low * high)))]
    return [value for value, _ in ticks], [text for _, text in ticks]


def make_log_axis(values: Sequence[float], title: str, most: int = 8, letters: int = 80) -> dict[str, Any]:
    """Return the Plotly settings of a log axis that spans the positive `values`.

    Args:
        values: Values that the axis must cover.
        title: Quantity and unit.
        most: Maximum number of ticks.
        letters: Maximum number of letters of all ticks, for narrow panels; one tick always stays.
    """
    known = [v for v in values if v > 0]
    low, high = (min(known), max(known)) if known else (1e-4, 1.0)
    low, high = low / 1.25, high * 1.25
    ticks, texts = place_ticks(low, high, most)
    while len(ticks) > 1 and sum(map(len, texts)) > letters:
        ticks, texts = place_ticks(low, high, len(ticks) - 1)
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": texts,
        "title": {"text": break_before_unit(title)},
    }


def break_before_unit(title: str) -> str:
    """Return an axis title as Plotly markup, its unit in a second line where it is long."""
    # a phone has room for some 30 letters
    return title if len(title) <= 30 else title.replace(" [", "<br>[")


@dataclass(frozen=True)
class Window:
    """The visible part of a value axis.

    Attributes:
        low, high: Ends of the axis.
        cut: Worst visible value; worse ones are drawn at `edge`.
        edge: Place of clipped and failed trials.
        maximize: Whether larger is better.
    """

    low: float
    high: float
    cut: float
    edge: float
    maximize: bool

    def shows(self, value: float) -> bool:
        """Return whether `value` lies on the good side of the cut."""
        return value >= self.cut if self.maximize else value <= self.cut


def fit_window(values: Sequence[float], anchor: float | None, maximize: bool) -> Window:
    """Return the visible part of a heavy-tailed value axis, so that a collapse does not flatten the optimum.

    The window spans `SPREADS_SHOWN` times the distance from the best value to `anchor`, and at least twice the
    distance to the best quarter. It never cuts the good side or a short tail.

    Args:
        values: The finite values.
        anchor: The value of a merge without effect, such as 0 for a gain; None takes the median.
        maximize: Whether larger is better.
    """
    sign = 1.0 if maximize else -1.0
    good = sorted((sign * v for v in values), reverse=True) or [0.0]
    best, worst = good[0], good[-1]
    middle = sign * anchor if anchor is not None else good[len(good) // 2]
    top = max(best, middle)
    span = max(SPREADS_SHOWN * abs(best - middle), 2.0 * (best - good[len(good) // 4]))
    span = span or (best - worst) or 0.1 * abs(best) or 1.0
    cut = top - span
    if worst > cut - 0.3 * span:
        cut = worst
    # no empty space below the worst visible value
    cut = min(middle, *(v for v in good if v >= cut))
    height = top - cut or span
    ends = sorted((sign * (cut - 0.22 * height), sign * (top + 0.08 * height)))
    return Window(ends[0], ends[1], sign * cut, sign * (cut - 0.13 * height), maximize)

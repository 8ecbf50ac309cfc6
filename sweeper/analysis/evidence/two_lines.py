"""The two-lines test: does the objective rise with noise up to a point and fall beyond it?

======  ============================================================================================
symbol  meaning
======  ============================================================================================
x, z    log noise and objective of a configuration (mean of repeats), in order of x
c       break point, by the Robin Hood rule
b₁, b₂  slopes of the lines through the configurations at x <= c and at x >= c, each with its intercept
======  ============================================================================================

Both slopes have a one-sided test (b₁ > 0, b₂ < 0); the p value of the whole test is the larger one
(intersection-union). The test assumes no shape of the curve: least squares gives both lines of a monotone curve slopes
of one sign. The break point tends to lie at high data, which makes a plateau before a cliff seem to rise. A line's p
is therefore the larger one of two: with the break at c, and in the middle of the smooth curve's flat top.

The errors are the first kind that the design allows:

- `replicates`: up to 15 levels of noise (equal to 6 digits), two thirds of them with replicates. Replicates are several
  configurations, or repeats of one if a single knob varies. The variance of a slope comes from the variance within
  levels, with Satterthwaite's degrees of freedom. Bends of the curve are not errors.
- `HC3`: heteroskedasticity-robust over configurations, with n − 4 degrees of freedom.

Source: Simonsohn 2018, Two Lines, doi 10.1177/2515245918805755, eq. 1 and appendix (Robin Hood), with the Gaussian
process of `sweeper.analysis.curve.smoother` in place of the spline; HC3: MacKinnon & White 1985; Satterthwaite 1946.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from scipy import stats

from sweeper.analysis.curve.smoother import Smoother, fit_smoother
from sweeper.analysis.evidence.cells import Array, Cells, Mask
from sweeper.analysis.stages.designed import DIGITS, MIN_LEVELS

MAX_REPLICATED = 15
GRID = 101
MANY = 200


@dataclass(frozen=True)
class TwoLines:
    """Result of the two-lines test; if impossible, the numbers are None and `reason` explains it.

    Attributes:
        n: Number of configurations, and `levels` of different noises.
        errors: `replicates` or `HC3`.
        break_noise: exp(c), unit of the noise.
        slope_up, slope_down: b₁ and b₂, on the study's scale per factor e of noise; `se_*` are their errors.
        p_up, p_down: One-sided p values of b₁ > 0 and b₂ < 0.
        p: The larger of the two.
        p_flat: One-sided p value of b₁ < 0, which means a curve that falls from the start.
        rise_high: Upper 95 % bound of |b₁|, divided by |b₂|.
        reason: Why there is no result, else empty.
    """

    n: int
    levels: int
    errors: str = ""
    break_noise: float | None = None
    slope_up: float | None = None
    se_up: float | None = None
    slope_down: float | None = None
    se_down: float | None = None
    p_up: float | None = None
    p_down: float | None = None
    p: float | None = None
    p_flat: float | None = None
    rise_high: float | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether both the rise and the fall are significant at 5 %."""
        return self.p is not None and self.p < 0.05

    @property
    def plateau(self) -> bool:
        """Whether it falls at the end, and before that is flat to within a third of that slope."""
        if self.p_down is None or self.p_up is None or self.p_flat is None or self.rise_high is None:
            return False
        return self.p_down < 0.05 and min(self.p_up, self.p_flat) >= 0.05 and self.rise_high < 1 / 3


@dataclass(frozen=True)
class _Points:
    """Levels or configurations: place, height, weight, variance of the height, and its degrees of freedom."""

    x: Array
    z: Array
    weight: Array
    variance: Array
    freedom: Array

    @property
    def alone(self) -> bool:
        """Whether the points are single configurations without a variance."""
        return bool(np.isnan(self.variance[0]))

    def take(self, rows: Mask) -> _Points:
        """Return the points under a mask."""
        return _Points(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class _Line:
    slope: float
    se: float
    freedom: float

    def p(self, sign: float) -> float:
        """Return the one-sided p value of sign * slope > 0."""
        if self.se <= 0:
            return 0.0 if sign * self.slope > 0 else 1.0
        return float(stats.t.sf(sign * self.slope / self.se, max(self.freedom, 1.0)))


def run_two_lines(cells: Cells, noise: str) -> TwoLines:
    """Return the test for a rise and a fall along a noise; see the module.

    Args:
        cells: Configurations in order of that noise.
        noise: Name of the definition.
    """
    x = cells.noise[noise]
    n, levels = len(cells), len(np.unique(x.round(DIGITS)))
    if levels < MIN_LEVELS:
        return TwoLines(n, levels, reason=f"{levels} different noises, the test needs {MIN_LEVELS}")
    if np.ptp(cells.z) <= 1e-12 * max(1.0, float(np.abs(cells.z).max())):
        return TwoLines(n, levels, reason="every configuration has the same score")
    z, points = _standardize(cells.z), _make_points(cells, x)
    return _test_lines(points, n, levels, _find_flat_top(points.x, fit_smoother(x, z), z, np.ones(n)))


def leave_one_out(cells: Cells, noise: str) -> list[TwoLines]:
    """Return the tests that leave out one configuration at a time.

    The smoother keeps its hyperparameters; above `MANY` configurations it keeps its flat top, too.
    """
    x, z = cells.noise[noise], _standardize(cells.z)
    smoother = fit_smoother(x, z)
    every = _make_points(cells, x)
    top = _find_flat_top(x, smoother, z, np.ones(len(x))) if len(x) > MANY else None
    out: list[TwoLines] = []
    for i in range(len(cells)):
        kept = np.arange(len(cells)) != i
        levels = len(np.unique(x[kept].round(DIGITS)))
        if levels < MIN_LEVELS - 1:
            out.append(TwoLines(len(x) - 1, levels, reason="too few noises remain"))
            continue
        points = every.take(kept) if every.alone else _make_points(cells.take(kept), x[kept])
        flat = top if top is not None else _find_flat_top(points.x, smoother, z, kept.astype(float))
        out.append(_test_lines(points, len(x) - 1, levels, flat))
    return out


def has_one_knob(cells: Cells) -> bool:
    """Return whether the configurations differ in one knob, so that only repeats scatter at a noise."""
    return len(cells.factors) <= 1


def _standardize(z: Array) -> Array:
    return (z - z.mean()) / z.std()


def _make_points(cells: Cells, x: Array) -> _Points:
    _, level = np.unique(x.round(DIGITS), return_inverse=True)
    members = np.bincount(level).astype(float)
    single = has_one_knob(cells)
    if len(members) <= MAX_REPLICATED:
        several = members[level] > 1
        centre = np.bincount(level, cells.z) / members
        among = np.bincount(level, (cells.z - centre[level]) ** 2)
        repeats = np.bincount(level, np.where(several, 0.0, cells.size)) if single else np.zeros(len(members))
        inside = np.bincount(level, np.where(several, 0.0, cells.within))
        freedom = np.where(members > 1, members - 1, np.maximum(repeats - 1, 0))
        if (freedom > 0).mean() >= 2 / 3:
            squares = np.where(members > 1, among, inside)
            pooled = squares.sum() / freedom.sum()
            number = np.where(members > 1, members, np.maximum(repeats, 1))
            variance = np.where(freedom > 0, squares / np.maximum(freedom, 1), pooled) / number
            spot = np.bincount(level, x) / members
            return _Points(spot, centre, members, variance, np.where(freedom > 0, freedom, freedom.sum()))
    ones = np.ones(len(cells))
    return _Points(x, cells.z, ones, np.full(len(cells), np.nan), ones)


def _test_lines(points: _Points, n: int, levels: int, flat: Array) -> TwoLines:
    middle = _fit_lines(points, float(np.median(flat)))
    if middle is None:
        return TwoLines(n, levels, reason="too few noises on one side of the best noise for a line")
    strength = [abs(line.slope) / line.se if line.se > 0 else 1.0 for line in middle]
    share = strength[1] / sum(strength) if sum(strength) > 0 else 0.5
    place = float(np.quantile(flat, share))
    lines = _fit_lines(points, place)
    if lines is None:
        lines, place = middle, float(np.median(flat))
    up, down = lines
    # the break tends to lie at high data, so each line must also hold with the break in the middle of the flat part
    p_up, p_down = max(up.p(1.0), middle[0].p(1.0)), max(down.p(-1.0), middle[1].p(-1.0))
    bound = abs(up.slope) + float(stats.t.ppf(0.95, max(up.freedom, 1.0))) * up.se
    return TwoLines(
        n,
        levels,
        "HC3" if points.alone else "replicates",
        math.exp(place),
        up.slope,
        up.se,
        down.slope,
        down.se,
        p_up,
        p_down,
        max(p_up, p_down),
        up.p(-1.0),
        bound / abs(down.slope) if down.slope else math.inf,
    )


def _find_flat_top(x: Array, smoother: Smoother, z: Array, counts: Array) -> Array:
    """Return the places in the middle 80 % where the smooth curve is within one error of its top."""
    low, high = np.quantile(x, [0.1, 0.9])
    spot = np.linspace(low, high, GRID)
    best = smoother.settings[int(np.argmax(smoother.settings[:, 3]))]
    mean, variance = smoother.curve(spot, z, counts, best)
    top = int(np.argmax(mean))
    return spot[mean + math.sqrt(variance[top]) >= mean[top]]


def _fit_lines(points: _Points, place: float) -> tuple[_Line, _Line] | None:
    left, right = points.x <= place + 1e-9, points.x >= place - 1e-9
    least = 3 if points.alone else 2
    if any(len(np.unique(points.x[side].round(DIGITS))) < least for side in (left, right)):
        return None
    freedom = max(len(points.x) - 4.0, 1.0)
    return _fit_line(points, left, freedom), _fit_line(points, right, freedom)


def _fit_line(points: _Points, side: Mask, freedom: float) -> _Line:
    x, z, w = points.x[side], points.z[side], points.weight[side]
    dx = x - np.average(x, weights=w)
    sxx = float(np.sum(w * dx * dx))
    pull = w * dx / sxx
    slope = float(pull @ z)
    middle = float(np.average(z, weights=w))
    fitted = middle + slope * dx
    if points.alone:
        leverage = 1 / len(x) + dx * dx / sxx
        error = (z - fitted) / np.maximum(1 - leverage, 1e-9)
        se = math.sqrt(float(np.sum((pull * error) ** 2)))
    else:
        parts = pull**2 * points.variance[side]
        se = math.sqrt(float(parts.sum()))
        freedom = float(parts.sum() ** 2 / np.sum(parts**2 / points.freedom[side])) if se > 0 else 1.0
    return _Line(slope, se, freedom)

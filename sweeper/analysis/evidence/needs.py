"""Needs: the few further trials that would make an answer firm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sweeper.analysis.evidence.cells import Array, Cells, Rows
from sweeper.analysis.evidence.shape import MIN_REPLICATES
from sweeper.analysis.regime import edges
from sweeper.analysis.stages.designed import DIGITS, MIN_LEVELS

if TYPE_CHECKING:
    from sweeper.analysis.evidence.verdict import Verdict
from typing import TYPE_CHECKING

from sweeper.config.spec import SweepSpec
from sweeper.storage.location import is_uri
from trainables.trial import IMPORTED

LEVELS = 9
SPAN = 300.0
"""Factor in noise that a new design spans at least."""
STEPS_BEYOND = 3
WIDE = 3.0
"""An optimum's interval is wide if its ends differ by at least this factor."""
MOST_REPEATS = 8
MOST_CONFIGS = 24


@dataclass(frozen=True)
class Need:
    """Further trials that make a test possible or its answer firm.

    Attributes:
        repeats: Number of further trials.
        why: Reason for people.
        config: Digest of the configuration to repeat; None means a new configuration.
        noise: Noise of the new configuration, in the analysed definition; None for a repeat.
    """

    repeats: int
    why: str
    config: str | None = None
    noise: float | None = None


def find_needs(
    cells: Cells, verdict: Verdict, noise: str, best: Array, interval: tuple[float, float] | None
) -> tuple[Need, ...]:
    """Return the needs of a verdict; none if the verdict is firm and the optimum's interval narrow.

    New noises come first, then further repeats of tried configurations. No need occurs twice: a noise of a new design
    does not also fill a gap.

    Args:
        cells: Viable configurations in order of the noise.
        verdict: Their verdict.
        noise: Name of the definition.
        best: Resampled optima [log noise], shape (draws,); empty without any.
        interval: 90 % interval of the optimal noise; None if not determined.
    """
    x = cells.noise[noise]
    levels = np.unique(x.round(DIGITS))
    if len(levels) < MIN_LEVELS:
        return tuple(_needs_design(x, f"only {len(levels)} different noises have a viable score"))
    if cells.samplers:
        why = f"the {' and '.join(cells.samplers)} sampler chose these noises by results"
        return tuple(_needs_design(x, why))
    new = [*_needs_beyond_edge(x, best), *(_needs_in_gaps(levels, interval) if interval else ())]
    return (*new, *_needs_repeats(cells, verdict, x, bool(new)))


def _needs_design(x: Array, why: str) -> Iterator[Need]:
    if not len(x):  # no noise suggests where to look
        return
    middle, half = float(x.min() + x.max()) / 2, max(float(np.ptp(x)), math.log(SPAN)) / 2
    for place in np.linspace(middle - half, middle + half, LEVELS):
        yield Need(MIN_REPLICATES, f"{why}: a verdict on the shape needs designed noises", noise=_round(place))


def _needs_beyond_edge(x: Array, best: Array) -> Iterator[Need]:
    """Yield needs for noises beyond an edge that holds at least 5 % of the resampled optima."""
    if not len(best):
        return
    left, right = edges(x)
    step = float(np.clip((x[-1] - x[0]) / LEVELS, math.log(1.5), math.log(3.0)))
    for share, start, sign, word in (
        (float(np.mean(best <= left)), float(x[0]), -1.0, "lower"),
        (float(np.mean(best >= right)), float(x[-1]), 1.0, "upper"),
    ):
        if share >= 0.05:
            for k in range(1, STEPS_BEYOND + 1):
                why = f"{share:.0%} of the resampled optima lie at the {word} edge of the tried noises"
                yield Need(MIN_REPLICATES, why, noise=_round(start + sign * k * step))


def _needs_in_gaps(levels: Array, interval: tuple[float, float]) -> Iterator[Need]:
    """Yield needs for noises in the gaps inside a wide interval of the optimum, widest gaps first."""
    low, high = (math.log(v) for v in interval)
    if high - low < math.log(WIDE):
        return
    gaps = sorted(((b - a, (a + b) / 2) for a, b in pairwise(levels) if low <= (a + b) / 2 <= high), reverse=True)
    for width, place in gaps[:STEPS_BEYOND]:
        if width > math.log(1.2):
            why = f"the optimum's 90 % interval spans a factor {interval[1] / interval[0]:.2g}"
            yield Need(MIN_REPLICATES, why, noise=_round(place))


def _needs_repeats(cells: Cells, verdict: Verdict, x: Array, grows: bool) -> Iterator[Need]:
    """Yield needs for repeats that separate the shapes and make slopes of the observed size significant."""
    _, level, members = np.unique(x.round(DIGITS), return_inverse=True, return_counts=True)
    of_level = np.bincount(level, cells.size)
    wanted, why = 0, ""
    if float((of_level >= MIN_REPLICATES).mean()) < 2 / 3 and len(members) <= MOST_CONFIGS:
        wanted, why = MIN_REPLICATES, f"the test of the shape needs {MIN_REPLICATES} replicates of most noises"
    factor = _growth_factor(verdict)
    if factor > 1 and not grows:
        now = float(np.median(of_level))
        more = min(MOST_REPEATS, math.ceil(now * factor))
        if more > max(wanted, now):
            wanted = more
            why = (
                f"the two-lines test has one-sided p = {verdict.gate.p:.2g}: if the slopes stay, it needs {more} "
                "replicates per noise"
            )
    lacking = [(i, int(wanted - of_level[level[i]])) for i in _pick_most_repeated(level, cells.size)]
    short = [(i, n) for i, n in lacking if n > 0]
    for i, n in short[:: max(1, math.ceil(len(short) / MOST_CONFIGS))]:
        yield Need(n, why, config=cells.config[i])
    if not short and verdict.left_out.p is not None and verdict.left_out.p >= 0.05 and verdict.gate.passed:
        config = verdict.left_out.p_config
        why = f"the verdict depends on configuration {config}"
        for i in _neighbours(cells.config.index(config)) if config in cells.config else ():
            if i < len(cells):
                yield Need(MIN_REPLICATES, why, config=cells.config[i])


def _growth_factor(verdict: Verdict) -> float:
    """Return the growth factor of replicates at which both slopes, if they stay, reach t = 2.2 (about p = .02)."""
    gate, ratios = verdict.gate, [1.0]
    if gate.p is None or gate.passed:
        return 1.0
    for slope, se, sign in ((gate.slope_up, gate.se_up, 1.0), (gate.slope_down, gate.se_down, -1.0)):
        if slope is None or not se:
            continue
        t = sign * slope / se
        # more repeats do not turn a slope of the wrong sign
        ratios.append((2.2 / t) ** 2 if t > 0.5 else 1.0)
    return max(ratios)


def _pick_most_repeated(level: Rows, size: Array) -> list[int]:
    # the configuration with the most repeats represents its noise
    order = np.lexsort((-size, level))
    _, first = np.unique(level[order], return_index=True)
    return [int(i) for i in order[first]]


def _neighbours(i: int) -> list[int]:
    return [j for j in (i - 1, i, i + 1) if j >= 0]


def _round(place: float) -> float:
    return float(f"{math.exp(place):.3g}")


def make_extend_command(called: str, spec: SweepSpec, noise: str | None = None, objective: str | None = None) -> str:
    """Return the command that runs the missing trials of an answer; empty if no command can.

    Args:
        called: Name of the sweep on the command line.
        spec: The sweep.
        noise: Noise scale of the answer; None takes the sweep's.
        objective: Objective of the answer; None takes the sweep's.
    """
    if is_uri(spec.out) or spec.fixed.get("trainable") == IMPORTED:
        return ""
    asked = {"noise": noise, "objective": objective}
    flags = [f" --{name} {value}" for name, value in asked.items() if value not in (None, getattr(spec, name))]
    return f"sweeper extend {called}{''.join(flags)}"

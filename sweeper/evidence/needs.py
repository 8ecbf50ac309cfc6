"""What is missing for a firm answer: trials that would decide it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sweeper.evidence.cells import Array, Cells
    from sweeper.evidence.shape import Shape
    from sweeper.evidence.verdict import Verdict
    from sweeper.regime import Regime

LEVELS, REPEATS = 9, 3
_BEYOND = 2
_WIDE = 4.0


@dataclass(frozen=True)
class Need:
    """Trials that would make a test possible or its answer firm.

    Attributes:
        repeats: How many further trials.
        why: The sentence for people.
        config: Digest of the configuration to repeat; None asks for a new configuration.
        noise: Noise of the new configuration, of the definition that was analysed; None for a repeat.
    """

    repeats: int
    why: str
    config: str | None = None
    noise: float | None = None


def missing(cells: Cells, noise: str, verdict: Verdict, test: Shape, regime: Regime) -> tuple[Need, ...]:
    """Return the trials that would decide the verdict, or make the tests possible that it rests on.

    Args:
        cells: Viable configurations in order of the noise.
        noise: Name of the definition.
        verdict: What was found.
        test: Isotonic against unimodal.
        regime: Optimum and interval.
    """
    x = cells.noise[noise]
    if not len(x):
        return ()
    if cells.samplers:
        why = (
            f"a verdict on the shape needs noises by design, not by a sampler that learns ({', '.join(cells.samplers)})"
        )
        return _new(_range(x), why)
    if verdict.gate.reason or len(np.unique(x.round(6))) < LEVELS:
        why = f"{len(np.unique(x.round(6)))} different noises were tried; {LEVELS} over the range show a shape"
        found = _new(_gaps(x), why)
    else:
        found = ()
    found += _edge(x, verdict, regime) + _fragile(cells, x, verdict)
    if regime.low is not None and regime.high is not None and regime.high / regime.low > _WIDE:
        inside = np.linspace(math.log(regime.low), math.log(regime.high), 5)[1:-1]
        why = (
            f"the interval of the best noise spans a factor {regime.high / regime.low:.2g}: noises within it narrow it"
        )
        found += _new(inside, why)
    return _once(found + (_replicates(cells, x) if test.reason else ()))


def _new(places: Array, why: str) -> tuple[Need, ...]:
    return tuple(Need(REPEATS, why, noise=float(np.exp(p))) for p in places)


def _range(x: Array) -> Array:
    # a narrow search says little of where to look: at least a factor 100 around it
    middle, half = (x.min() + x.max()) / 2, max(np.ptp(x) / 2, math.log(10.0))
    return np.linspace(middle - half, middle + half, LEVELS)


def _gaps(x: Array) -> Array:
    if np.ptp(x) < math.log(2.0):
        return _range(x)
    levels, new = sorted(set(x.round(6).tolist())), []
    while len(levels) < LEVELS:
        gaps = np.diff(levels)
        k = int(np.argmax(gaps))
        new.append(levels[k] + gaps[k] / 2)
        levels.insert(k + 1, new[-1])
    return np.array(sorted(new))


def _edge(x: Array, verdict: Verdict, regime: Regime) -> tuple[Need, ...]:
    if verdict.edge_share is None or verdict.edge_share < 0.05 or regime.optimum is None:
        return ()
    levels = np.unique(x.round(6))
    best = math.log(regime.optimum)
    step = float(np.clip(np.median(np.diff(levels)), math.log(1.5), math.log(3.0)))
    share = f"{verdict.edge_share:.0%} of the resampled optima lie at an edge: noises beyond it would show whether"
    if best - x[0] < x[-1] - best:
        return _new(x[0] - step * np.arange(1, _BEYOND + 1), f"{share} less noise is better")
    return _new(x[-1] + step * np.arange(1, _BEYOND + 1), f"{share} more noise is better")


def _fragile(cells: Cells, x: Array, verdict: Verdict) -> tuple[Need, ...]:
    left, out = verdict.left_out, verdict.gate
    if not out.passed or left.n == 0:
        return ()
    weak = [(left.p_config, left.p is not None and left.p >= 0.05)]
    weak += [(left.edge_config, left.edge_share is not None and left.edge_share >= 0.05)]
    found: tuple[Need, ...] = ()
    for config, decides in weak:
        if not decides or config is None:
            continue
        i = cells.config.index(config)
        below, above = x[x < x[i] - 1e-6], x[x > x[i] + 1e-6]
        places = [(x[i] + near) / 2 for near in (*below[-1:], *above[:1])]
        why = f"configuration {config} alone decides: noises beside it make the verdict rest on more"
        found += _new(np.array(places), why)
    return found


def _replicates(cells: Cells, x: Array) -> tuple[Need, ...]:
    """Ask for repeats of the configurations nearest to `LEVELS` places evenly spread over the range."""
    places = np.linspace(x[0], x[-1], LEVELS)
    near = sorted({int(np.argmin(np.abs(x - p))) for p in places})
    why = f"{REPEATS} repeats at {len(near)} noises tell the curve from scatter (isotonic against unimodal, ceiling)"
    few = [(i, REPEATS - int(cells.size[i])) for i in near]
    return tuple(Need(n, why, config=cells.config[i]) for i, n in few if n > 0)


def _once(needs: tuple[Need, ...]) -> tuple[Need, ...]:
    kept: dict[tuple[str | None, str], Need] = {}
    for need in needs:
        kept.setdefault((need.config, f"{need.noise or 0:.3g}"), need)
    return tuple(kept.values())

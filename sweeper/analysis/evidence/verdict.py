"""The verdict on the shape of an objective over noise: hump, plateau then cliff, or undetermined.

- *hump*: a distinct interior optimum. The two-lines test has p < .05, and fewer than 5 % of the resampled optima lie at
  an edge of the tried noises. Both conditions hold without any one configuration.
- *plateau then cliff*: the second line falls (p < .05), also without any one configuration. The first line neither
  rises nor falls, and with 95 % confidence is less than a third as steep.
- *undetermined*: all other cases, and every sweep of an adaptive sampler, which samples near its own optimum and so
  biases the shape.

Without one configuration, the optima are those of the bootstrap draws that do not contain it (jackknife after
bootstrap: Efron 1992, J. R. Stat. Soc. B 54, 83). If too many of these lie at an edge, a new bootstrap checks that
configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sweeper.analysis.curve.smoother import fit_smoother
from sweeper.analysis.evidence.cells import Array, Cells
from sweeper.analysis.evidence.two_lines import (
    MAX_REPLICATED,
    TwoLines,
    has_one_knob,
    leave_one_out,
    run_two_lines,
)
from sweeper.analysis.regime import EDGE, GRID, MIN_CONFIGS, edges
from sweeper.analysis.stages.designed import DIGITS, MIN_LEVELS
from sweeper.formatting import pluralize

HUMP, CLIFF, UNDETERMINED = "hump", "plateau then cliff", "undetermined"
DRAWS = 500


@dataclass(frozen=True)
class LeaveOneOut:
    """The hump's two conditions, with one configuration left out at a time; None if impossible.

    Attributes:
        n: Number of configurations left out in turn.
        p: Largest one-sided p of the two-lines test, with `p_config` left out.
        p_down: Largest one-sided p of its falling line.
        edge_share: Largest share of optima at an edge, with `edge_config` left out.
        undecided: Number of configurations without which the test is impossible.
    """

    n: int
    p: float | None = None
    p_config: str | None = None
    p_down: float | None = None
    edge_share: float | None = None
    edge_config: str | None = None
    undecided: int = 0


@dataclass(frozen=True)
class Verdict:
    """The verdict on the shape and its evidence.

    Attributes:
        name: `hump`, `plateau then cliff` or `undetermined`.
        why: Why it is not a hump, for people; empty for a hump.
        gate: The two-lines test on viable pairs.
        gate_all: The two-lines test with unviable and diverged pairs at the cap.
        edge_share: Share of resampled optima at an edge of the tried noises.
        left_out: Both conditions with one configuration left out at a time.
        optima: The resampled optima, in the unit of the noise.
    """

    name: str
    why: str
    gate: TwoLines
    gate_all: TwoLines
    edge_share: float | None
    left_out: LeaveOneOut
    optima: tuple[float, ...] = ()


def judge(cells: Cells, everything: Cells, noise: str, *, seed: int = 0, draws: int = DRAWS) -> Verdict:
    """Return the verdict along a noise.

    Args:
        cells: Viable configurations in order of that noise, with a raised tail.
        everything: The same with unviable and diverged pairs.
        noise: Name of the definition.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.
    """
    gate, gate_all = run_two_lines(cells, noise), run_two_lines(everything, noise)
    if gate.reason or len(cells) < MIN_CONFIGS:
        why = gate.reason or f"{pluralize(len(cells), 'configuration')}, the test needs {MIN_CONFIGS}"
        return Verdict(UNDETERMINED, why, gate, gate_all, None, LeaveOneOut(0))
    optima = _draw_optima(cells, noise, seed, draws)
    at_edge = _find_at_edge(optima.best, cells.noise[noise])
    share = float(at_edge.mean())
    left_out = LeaveOneOut(0)
    if gate.plateau or (gate.passed and share < EDGE):
        left_out = _leave_one_out(cells, noise, optima.held, at_edge, seed)
    why = _explain_no_hump(cells, gate, share, left_out)
    name = UNDETERMINED
    if not cells.samplers:
        cliff = gate.plateau and left_out.p_down is not None and left_out.p_down < 0.05 and not left_out.undecided
        name = HUMP if not why else CLIFF if cliff else UNDETERMINED
    return Verdict(name, why, gate, gate_all, share, left_out, tuple(np.exp(optima.best).tolist()))


def _explain_no_hump(cells: Cells, gate: TwoLines, share: float, left_out: LeaveOneOut) -> str:
    if cells.samplers:
        tried = f"{cells.designed} in {pluralize(len(cells), 'configuration')}"
        return (
            f"the {' and '.join(cells.samplers)} sampler chose these noises by results, which biases the shape; a "
            f"verdict needs {MIN_LEVELS} designed noises, got {tried}"
        )
    if not gate.passed:
        sides = (("improvement up to", gate.p_up), ("decline beyond", gate.p_down))
        lacking = [(what, p) for what, p in sides if p is None or p >= 0.05]
        return " and ".join(f"no significant {what} it (one-sided p = {_format_p(p)})" for what, p in lacking)
    if share >= EDGE:
        return f"{share:.0%} of the resampled optima lie at an edge of the tried noises"
    if left_out.undecided:
        return f"the test is impossible without any one of {pluralize(left_out.undecided, 'configuration')}"
    if left_out.p is None or left_out.p >= 0.05:
        p = _format_p(left_out.p)
        return f"this rests on configuration {left_out.p_config}: without it, rise and fall have one-sided p = {p}"
    if left_out.edge_share is None or left_out.edge_share >= EDGE:
        at = "-" if left_out.edge_share is None else f"{left_out.edge_share:.0%}"
        return (
            f"this rests on configuration {left_out.edge_config}: without it, {at} of the resampled optima lie at an "
            "edge"
        )
    return ""


def _format_p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


@dataclass(frozen=True)
class _Draws:
    """Optima [log noise] of resampled tables; `held` counts the configurations per draw, shape (draws, C)."""

    held: Array
    best: Array


def _draw_optima(cells: Cells, noise: str, seed: int, draws: int, without: int = -1) -> _Draws:
    """Return the optima of bootstrap draws of configurations, or of repeats if `resamples_repeats`."""
    x = cells.noise[noise]
    shift, scale = float(cells.z.mean()), float(cells.z.std())
    smoother = fit_smoother(x, (cells.z - shift) / scale)
    kept = np.delete(x, without) if without >= 0 else x
    grid = np.linspace(kept[0], kept[-1], GRID)
    rng = np.random.default_rng(seed)
    present = np.ones(len(x))
    if without >= 0:
        present[without] = 0.0
    z = np.broadcast_to(cells.z, (draws, len(x)))
    if resamples_repeats(cells, noise):
        held, z = np.broadcast_to(present, z.shape), _resample_repeats(cells, draws, rng)
    else:
        held = rng.multinomial(int(present.sum()), present / present.sum(), draws).astype(float)
    setting = rng.choice(len(smoother.settings), draws, p=smoother.settings[:, 3])
    best = [
        grid[int(np.argmax(smoother.mean(grid, (z[i] - shift) / scale, held[i], smoother.settings[s])))]
        for i, s in enumerate(setting)
    ]
    return _Draws(held, np.array(best))


def resamples_repeats(cells: Cells, noise: str) -> bool:
    """Return whether to resample repeats: a design with one configuration per noise, where only repeats scatter."""
    levels = len(np.unique(cells.noise[noise].round(DIGITS)))
    return has_one_knob(cells) and levels == len(cells) <= MAX_REPLICATED and float((cells.size > 1).mean()) >= 2 / 3


def _resample_repeats(cells: Cells, draws: int, rng: np.random.Generator) -> Array:
    # means of repeats drawn with replacement; r/(r-1) restores the lost variance
    out = np.empty((draws, len(cells)))
    for i in range(len(cells)):
        values = cells.value[cells.owner == i]
        stretch = math.sqrt(len(values) / (len(values) - 1)) if len(values) > 1 else 1.0
        out[:, i] = cells.z[i] + stretch * (rng.choice(values, (draws, len(values))).mean(axis=1) - cells.z[i])
    return out


def _find_at_edge(best: Array, x: Array) -> Array:
    left, right = edges(x)
    return ((best <= left) | (best >= right)).astype(float)


def _leave_one_out(cells: Cells, noise: str, held: Array, at_edge: Array, seed: int) -> LeaveOneOut:
    tests = leave_one_out(cells, noise)
    known = [(t.p, i) for i, t in enumerate(tests) if t.p is not None]
    worst, where = max(known, default=(math.nan, 0))
    share, at = _worst_edge_share(cells, noise, held, at_edge, seed)
    return LeaveOneOut(
        len(cells),
        worst if known else None,
        cells.config[where] if known else None,
        max((t.p_down for t in tests if t.p_down is not None), default=None),
        share,
        cells.config[at],
        sum(t.p is None for t in tests),
    )


def _worst_edge_share(cells: Cells, noise: str, held: Array, at_edge: Array, seed: int) -> tuple[float, int]:
    """Return the largest share of optima at an edge with one configuration left out, and its position."""
    absent = held == 0
    number = absent.sum(axis=0)
    # a bootstrap of repeats holds all configurations, so each one needs a new bootstrap
    shares = np.where(number > 0, at_edge @ absent / np.maximum(number, 1), 1.0)
    order = np.argsort(-shares, kind="stable").tolist()
    # a third of the draws are few, and the edges move without an end, so doubtful configurations get new draws
    ends = [i for i in (0, len(cells) - 1) if shares[i] < EDGE]
    doubtful = [i for i in order if shares[i] >= EDGE][:MAX_REPLICATED] + ends
    worst, where = max(((float(shares[i]), i) for i in order if i not in doubtful), default=(0.0, order[0]))
    for i in doubtful:
        best = _draw_optima(cells, noise, seed, len(held), i).best
        share = float(_find_at_edge(best, np.delete(cells.noise[noise], i)).mean())
        worst, where = max((worst, where), (share, i))
        if worst >= EDGE:
            break
    return worst, where

"""Task arithmetic with one scale per child, found by a coordinate search on held-out scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from trainables.merging.formulas import Extras, Weights
from trainables.merging.methods import MERGES

PASSES = 3
"""Most passes of the search over all children."""
GAIN = 1e-6
"""Relative gain that a change of a scale must bring, so that rounding does not choose."""

Scales = tuple[float, ...]


def add_scaled(base: Weights, children: Sequence[Weights], scales: Sequence[float]) -> dict[str, Tensor]:
    """Return theta_0 + sum_i s_i tau_i, with the same keys as `base`; the inputs stay unchanged.

    Source: Yang et al. 2023 (AdaMerging), arXiv 2310.02575, eq. 3, task-wise coefficients.
    """

    def combine(base: Weights, children: Sequence[Weights], _: float, extras: Extras) -> dict[str, Tensor]:
        return {k: v + sum(s * (c[k] - v) for s, c in zip(scales, children, strict=True)) for k, v in base.items()}

    return replace(MERGES["task_arithmetic"], combine=combine)(base, children, 0.0)


def search_scales(children: int, grid: Sequence[float], loss: Callable[[Scales], float]) -> Scales:
    """Return one scale per child that lowers a held-out loss, by a coordinate search.

    It starts at the best common scale. Each pass takes the children in order and gives each the value of the grid with
    the least loss, while the others keep theirs. It ends after a pass without a change, or after `PASSES` passes.

    Args:
        children: Number of scales.
        grid: Values of a scale.
        loss: Held-out loss of the merge with these scales, such as the mean validation loss over tasks.
    """
    seen: dict[Scales, float] = {}

    def lost(scales: Scales) -> float:
        if scales not in seen:
            seen[scales] = loss(scales)
        return seen[scales]

    best = min(((s,) * children for s in grid), key=lost)
    for _ in range(PASSES):
        before = best
        for i in range(children):
            tried = min(((*best[:i], s, *best[i + 1 :]) for s in grid), key=lost)
            if lost(tried) < lost(best) - GAIN * abs(lost(best)):
                best = tried
        if best == before:
            break
    return best

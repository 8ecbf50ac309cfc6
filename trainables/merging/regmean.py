"""RegMean: linear layers merged by least squares on their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from trainables.merging.formulas import Extras, Gram, Weights, mean

# torch does not say its type
_pinv = cast(Callable[..., Tensor], torch.linalg.pinv)  # pyright: ignore[reportUnknownMemberType]


def regmean(base: Weights, children: Sequence[Weights], gamma: float, extras: Extras) -> dict[str, Tensor]:
    """Fit linear layers: W = (sum_i G_i~)^+ sum_i G_i~ W_i, G~ = gamma G + (1 - gamma) diag G; average the rest.

    W minimises sum_i E |W^T x - W_i^T x|^2 over the inputs x that layer i sees, for gamma = 1. Where the inputs leave W
    undetermined (G is singular), W stays as near to the average as it can. Factors gamma < 1 are a ridge that keeps W
    near the average of the children.

    Source: Jin et al. 2022, arXiv 2212.09849, eq. 2, and section 4.2 on the non-diagonal entries.
    """
    merged = mean(children)
    for key, average in merged.items():
        grams = [g.get(key) for g in extras.grams]
        if any(g is None for g in grams):
            continue
        merged[key] = _fit(average, [c[key] for c in children], [g for g in grams if g is not None], gamma)
    return merged


def _fit(average: Tensor, weights: Sequence[Tensor], grams: Sequence[Gram], gamma: float) -> Tensor:
    axis = grams[0].axis
    damped = [gamma * g.matrix + (1 - gamma) * torch.diag(g.matrix.diagonal()) for g in grams]
    if not all(bool(g.isfinite().all()) for g in damped) or not all(bool(w.isfinite().all()) for w in weights):
        return torch.full_like(average, torch.nan)
    middle = average.double()
    # the deviation from the average, so that equal children and directions without inputs keep it
    sides = [
        g @ ((w.double() - middle) if axis == 0 else (w.double() - middle).T)
        for g, w in zip(damped, weights, strict=True)
    ]
    total = torch.stack(damped).sum(0)
    step = _pinv(total, hermitian=True) @ torch.stack(sides).sum(0)
    return (middle + (step if axis == 0 else step.T)).to(average.dtype)

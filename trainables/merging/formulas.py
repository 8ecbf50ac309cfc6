"""The formulas of the merges, on dicts of floating-point tensors: (base, children, coefficient, extras) -> merged.

Symbols: theta_i the children, theta_0 their base, tau_i = theta_i - theta_0 the task vectors. Sources stand with the
entries of `trainables.merging.methods`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from trainables.models.permutations import Moves, permute

Weights = Mapping[str, Tensor]
DENSITY = 0.2  # share of a task vector that TIES keeps
DROP = 0.5  # share of a task vector that DARE drops
COLINEAR = 0.9995  # |cosine| from which on SLERP is linear


class Gram(NamedTuple):
    """Gram matrix E x x^T of the inputs x of a linear layer.

    Attributes:
        matrix: [inputs, inputs], positive semi-definite, float64.
        axis: Axis of the layer's weight that the inputs have: 1 in torch's Linear, 0 in transformers' Conv1D.
    """

    matrix: Tensor
    axis: int


Grams = Mapping[str, Gram]
"""Name of a linear layer's weight -> its Gram matrix."""


@dataclass(frozen=True)
class Extras:
    """What some merges need beside the weights.

    Attributes:
        seed: Seed of random masks.
        fishers: One diagonal Fisher per child.
        thresholds: Least magnitude that TIES keeps, per child, where the weights are a part of the model; else empty.
        grams: Gram matrices of each child's linear layers.
        moments: Adam's second moments of each child, times its batch size.
        alignments: Per child, the moves that reorder its units.
        repair: Corrects an interpolation: (merged, both ends, alpha) -> merged.
    """

    seed: int
    fishers: Sequence[Weights]
    thresholds: Sequence[Tensor] = ()
    grams: Sequence[Grams] = ()
    moments: Sequence[Weights] = ()
    alignments: Sequence[Moves] = ()
    repair: Callable[[Weights, Sequence[Weights], float], dict[str, Tensor]] | None = None


def _along(base: Weights, direction: Weights, s: float) -> dict[str, Tensor]:
    return {k: v + s * direction[k] for k, v in base.items()}


def linear(base: Weights, children: Sequence[Weights], alpha: float, extras: Extras) -> dict[str, Tensor]:
    """Interpolate: (1 - alpha) theta_A + alpha theta_B; the mean of more than two."""
    if len(children) > 2:
        _check_equal(alpha, len(children))
        return mean(children)
    a, b = children
    return {k: _lerp(v, b[k], alpha) for k, v in a.items()}


def _lerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    # exact at both ends and for a = b; a + alpha (b - a) alone is not exact at alpha = 1
    return a.clone() if alpha == 0 else b.clone() if alpha == 1 else a + alpha * (b - a)


def weight_matching(base: Weights, children: Sequence[Weights], alpha: float, extras: Extras) -> dict[str, Tensor]:
    """Interpolate after the units of B are reordered: (1 - alpha) theta_A + alpha P(theta_B); B itself at alpha = 1."""
    a, b = (permute(child, moves) for child, moves in zip(children, extras.alignments, strict=True))
    if alpha in (0, 1):
        return {k: v.clone() for k, v in children[int(alpha)].items()}
    # entries that are equal in both stay, infinite ones too
    merged = {k: v.clone() if torch.equal(v, b[k]) else _lerp(v, b[k], alpha) for k, v in a.items()}
    return extras.repair(merged, (a, b), alpha) if extras.repair else merged


def task_arithmetic(base: Weights, children: Sequence[Weights], s: float, extras: Extras) -> dict[str, Tensor]:
    """Add task vectors: theta_0 + s sum_i tau_i."""
    total = {k: sum((c[k] - v for c in children[1:]), children[0][k] - v) for k, v in base.items()}
    return _along(base, total, s)


def ties(base: Weights, children: Sequence[Weights], s: float, extras: Extras) -> dict[str, Tensor]:
    """Trim, elect signs, merge: theta_0 + s tau, tau the mean of the kept tau_i that agree with the elected sign.

    Each task vector keeps its largest 20 % of entries by magnitude. The elected sign of an entry is the sign of the sum
    of the kept values; tau is 0 if this sum is 0. Tensors that a child did not change do not count as entries of its
    task vector. Running statistics of BatchNorm are averaged.
    """
    learnt = {k: v for k, v in base.items() if not is_statistic(k)}
    taus = [{k: c[k] - v for k, v in learnt.items()} for c in children]
    thresholds = extras.thresholds or [_find_own_threshold(t) for t in taus if t]
    kept = [_trim(t, least) for t, least in zip(taus, thresholds, strict=False)]
    merged = {k: mean([{k: c[k] - base[k]} for c in children])[k] for k in base if k not in learnt}
    for key in learnt:
        tau = torch.stack([t[key] for t in kept])
        agree = (tau != 0) & (tau.sign() == tau.sum(0).sign())
        merged[key] = (tau * agree).sum(0) / agree.sum(0).clamp(min=1)
    return _along(base, merged, s)


def is_statistic(key: str) -> bool:
    """Return whether an entry is a running statistic of BatchNorm: not learnt, and re-estimated after the merge."""
    return key.endswith(("running_mean", "running_var"))


def _trim(tau: Weights, least: Tensor) -> dict[str, Tensor]:
    if least.isnan():  # comparisons with NaN are false, so that all entries would be trimmed silently
        return {k: torch.full_like(v, math.nan) for k, v in tau.items()}
    return {k: torch.where(v.abs() >= least, v, torch.zeros_like(v)) for k, v in tau.items()}


def _find_own_threshold(tau: Weights) -> Tensor:
    # tensors that training did not change, such as frozen ones, are not part of the task vector
    moved = [v for v in tau.values() if bool(v.any())]
    return find_threshold(lambda: moved, compute_type(common_type([*tau.values()])))


def find_threshold(changes: Callable[[], Iterable[Tensor]], kind: torch.dtype) -> Tensor:
    """Return the least magnitude that TIES keeps of a task vector, 0-dimensional; NaN if a change is NaN.

    It is the ceil(0.2 n)-th largest magnitude of n entries, exactly: magnitudes are counted by 16 of their bits at a
    time, from the highest, so that one tensor at a time is in memory.

    Args:
        changes: Yields the changed tensors of the task vector, or parts of them, once per call.
        kind: Widest type of the tensors, float32 or float64.
    """
    whole, width = (torch.int32, 32) if kind == torch.float32 else (torch.int64, 64)
    prefix, left = 0, -1
    for shift in range(width - 16, -1, -16):
        counts: Tensor | None = None
        for change in changes():
            if change.isnan().any():
                return torch.tensor(math.nan, dtype=kind, device=change.device)
            # magnitudes are ordered as their bits are
            bits = change.abs().to(kind).flatten().view(whole)
            if shift < width - 16:
                bits = bits[bits >> (shift + 16) == prefix]
            found = torch.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16)
            counts = found if counts is None else counts + found
        if counts is None:  # nothing changed
            return torch.zeros((), dtype=kind)
        if left < 0:
            left = math.ceil(DENSITY * int(counts.sum()))
        above = counts.flip(0).cumsum(0)
        bucket = int((above < left).sum())
        left -= int(above[bucket - 1]) if bucket else 0
        prefix = prefix << 16 | ((1 << 16) - 1 - bucket)
    return torch.tensor(prefix, dtype=whole).view(kind)


def dare(base: Weights, children: Sequence[Weights], s: float, extras: Extras) -> dict[str, Tensor]:
    """Drop and rescale, then add: theta_0 + s sum_i m_i tau_i / (1 - p), p = 0.5, which keeps the mean of tau_i."""
    kept = [
        {
            # statistics are not dropped: a running variance must not become negative
            k: (c[k] - v) * (1 - DROP if is_statistic(k) else dare_mask(extras.seed, k, i, v))
            for k, v in base.items()
        }
        for i, c in enumerate(children)
    ]
    # one exact factor s / (1 - p), so that no intermediate product overflows
    return _along(base, {k: sum((t[k] for t in kept[1:]), kept[0][k]) for k in base}, s / (1 - DROP))


def dare_mask(seed: int, key: str, child: int, like: Tensor) -> Tensor:
    """Return the entries that DARE keeps: bool of `like`'s shape; it depends on seed, key and child alone."""
    digest = hashlib.sha256(f"{seed}/{key}/{child}".encode()).digest()
    generator = Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return (torch.rand(like.shape, generator=generator) >= DROP).to(like.device)


def slerp(base: Weights, children: Sequence[Weights], alpha: float, extras: Extras) -> dict[str, Tensor]:
    """Interpolate along the great circle, tensor by tensor: (sin((1 - a) W) A + sin(a W) B) / sin W, W their angle.

    As in mergekit, tensors are not normalised first. If |cos W| > 0.9995 or one is 0, the interpolation is linear.
    """
    a, b = children
    return {k: _slerp(v, b[k], alpha) for k, v in a.items()}


def _slerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    left, right = a.double().flatten(), b.double().flatten()
    norms = left.square().sum().sqrt() * right.square().sum().sqrt()
    cosine = float(left @ right / norms) if norms > 0 else 1.0
    if alpha in (0, 1) or not abs(cosine) <= COLINEAR:
        return _lerp(a, b, alpha)
    angle = math.acos(cosine)
    merged = (math.sin((1 - alpha) * angle) * a.double() + math.sin(alpha * angle) * b.double()) / math.sin(angle)
    return merged.to(a.dtype)


def fisher(base: Weights, children: Sequence[Weights], alpha: float, extras: Extras) -> dict[str, Tensor]:
    """Average by diagonal Fishers: sum_i l_i F_i theta_i / sum_i l_i F_i, l = (1 - alpha, alpha), 1/n for n > 2.

    Entries without a Fisher (buffers, frozen parameters), or with Fisher 0 in all models, have the weights l alone.
    """
    shares = _shares(alpha, len(children))
    if 1.0 in shares:
        return {k: v.clone() for k, v in children[shares.index(1.0)].items()}
    return {k: _weigh(k, [c[k] for c in children], shares, extras.fishers) for k in children[0]}


def fisher_adam(base: Weights, children: Sequence[Weights], alpha: float, extras: Extras) -> dict[str, Tensor]:
    """Average as `fisher`, with F_i = B_i v_i: Adam's second moments v of batch gradients, times the batch size.

    v also holds the square of the mean gradient, and the labels are those of the data.
    """
    return fisher(base, children, alpha, replace(extras, fishers=extras.moments))


def _shares(alpha: float, many: int) -> tuple[float, ...]:
    _check_equal(alpha, many)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1] in Fisher averages, got {alpha}")
    return (1 - alpha, alpha) if many == 2 else (1 / many,) * many


def _check_equal(alpha: float, many: int) -> None:
    if many > 2 and not math.isclose(alpha, 1 / many):
        raise ValueError(f"alpha must be 1/{many} for {many} models, got {alpha}")


def _weigh(key: str, values: list[Tensor], shares: Sequence[float], fishers: Sequence[Weights]) -> Tensor:
    known = [f[key] for f in fishers if key in f]
    if known and [f.shape for f in known] != [v.shape for v in values]:
        shapes = [tuple(f.shape) for f in known]
        raise ValueError(f"every model's Fisher must have the shape of {key}, {tuple(values[0].shape)}, got {shapes}")
    portions = torch.tensor(shares, dtype=torch.float64, device=values[0].device)
    portions = portions.reshape(-1, *(1 for _ in values[0].shape)).expand(-1, *values[0].shape)
    if known:
        weighted = portions * torch.stack(known).double()
        total = weighted.sum(0)
        # an exact test, because a Fisher of NaN must not count as 0
        portions = torch.where(total == 0, portions, weighted / total)
    # this form keeps entries that are equal in all models
    first = values[0].double()
    return (first + sum(p * (v.double() - first) for p, v in zip(portions, values, strict=True))).to(values[0].dtype)


def model_stock(base: Weights, children: Sequence[Weights], coefficient: float, extras: Extras) -> dict[str, Tensor]:
    """Return t mean(theta_i) + (1 - t) theta_0 per tensor: t = n c / (1 + (n - 1) c), c the mean cosine of the tau_i.

    For equal norms and angles this is the point of the plane of the children and theta_0 that is nearest to the centre
    of fine-tuned weights. A tensor that a child did not change has the cosine 0. A negative cosine counts as 0, so that
    t lies in [0, 1]: the paper leaves it open. Running statistics of BatchNorm are averaged.
    """
    middle = mean(children)
    return {k: v if is_statistic(k) else _pull(v, base[k], [c[k] for c in children]) for k, v in middle.items()}


def _pull(middle: Tensor, base: Tensor, children: Sequence[Tensor]) -> Tensor:
    taus = [(c.double() - base.double()).flatten() for c in children]
    norms = [t.square().sum().sqrt() for t in taus]
    cosines = [
        taus[i] @ taus[j] / (norms[i] * norms[j]) if bool(norms[i]) and bool(norms[j]) else norms[i] * norms[j]
        for i, j in combinations(range(len(taus)), 2)
    ]
    cosine = torch.stack(cosines).mean().clamp(min=0)  # NaN stays NaN
    ratio = len(taus) * cosine / (1 + (len(taus) - 1) * cosine)
    at = middle.double()
    return (at + (1 - ratio) * (base.double() - at)).to(middle.dtype)


def uniform_soup(base: Weights, children: Sequence[Weights], coefficient: float, extras: Extras) -> dict[str, Tensor]:
    """Return the mean of theta_i."""
    return mean(children)


def mean(models: Sequence[Weights]) -> dict[str, Tensor]:
    """Return the mean of the models' floating-point entries; other entries come from the first model.

    Source: Wortsman et al. 2022, arXiv 2203.05482.
    """
    out: dict[str, Tensor] = {}
    for key, first in models[0].items():
        kind = common_type([m[key] for m in models])
        if not first.is_floating_point() or unmoved([m[key] for m in models]):
            out[key] = first.to(kind, copy=True)
            continue
        at = [m[key].to(compute_type(kind)) for m in models]
        # this form keeps entries that are equal in all models
        out[key] = (at[0] + sum((v - at[0] for v in at[1:]), torch.zeros_like(at[0])) / len(at)).to(kind)
    return out


def common_type(values: Sequence[Tensor]) -> torch.dtype:
    """Return the widest type of the tensors; float32 for float16 and bfloat16 together."""
    return widest([v.dtype for v in values])


def widest(kinds: Sequence[torch.dtype]) -> torch.dtype:
    """Return the widest of the types; float32 for float16 and bfloat16 together."""
    return reduce(torch.promote_types, kinds)


def compute_type(kind: torch.dtype) -> torch.dtype:
    """Return the type in which a merge combines entries of a type: float32 for half precision."""
    return torch.promote_types(kind, torch.float32)


def unmoved(values: Sequence[Tensor]) -> bool:
    """Return whether all tensors are equal; no merge changes such entries, so they may be infinite, as in masks."""
    return all(v is values[0] or torch.equal(values[0], v) for v in values[1:])


def is_variance(key: str) -> bool:
    """Return whether an entry is a running variance, which must not get below 0 by extrapolation."""
    return key.endswith("running_var")

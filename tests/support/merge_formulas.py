"""Every merge written out in numpy, and small models to merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.merging.alignment import Repair, match_weights
from trainables.merging.formulas import Gram, dare_mask
from trainables.merging.methods import MERGES
from trainables.models.permutations import Axis, Group, Moves, PermutationMap

Arrays = dict[str, np.ndarray]
# base, children, coefficient, Fishers -> merged; plain loops over single numbers where they are clearest
Formula = Callable[[Arrays, list[Arrays], float, list[Arrays]], Arrays]
FLOATING = ("conv.weight", "bias", "bn.running_var", "fc.weight", "conv1d.weight", "fc.bias")
SEED = 5


def _ties(base: Arrays, children: list[Arrays], s: float, fishers: list[Arrays]) -> Arrays:
    learnt = {k: v for k, v in base.items() if "running" not in k}
    statistics = {k: v + s * np.mean([c[k] - v for c in children], axis=0) for k, v in base.items() if k not in learnt}
    flat = [np.concatenate([(c[k] - base[k]).ravel() for k in learnt]) for c in children]
    for tau in flat:
        by_size = np.argsort(-np.abs(tau), kind="stable")
        tau[by_size[int(np.ceil(0.2 * tau.size)) :]] = 0
    merged = np.zeros_like(flat[0])
    for i in range(merged.size):
        kept = [tau[i] for tau in flat if tau[i] != 0]
        sign = np.sign(sum(kept))
        agreeing = [v for v in kept if np.sign(v) == sign]
        merged[i] = np.mean(agreeing) if agreeing else 0
    ends = np.cumsum([v.size for v in learnt.values()])[:-1]
    parts = np.split(merged, ends)
    return statistics | {k: v + s * p.reshape(v.shape) for (k, v), p in zip(learnt.items(), parts, strict=True)}


def _dare(base: Arrays, children: list[Arrays], s: float, fishers: list[Arrays]) -> Arrays:
    out = {k: v.copy() for k, v in base.items()}
    for i, child in enumerate(children):
        for k, v in base.items():
            if "running" in k:
                out[k] = out[k] + s * (child[k] - v)
                continue
            kept = dare_mask(SEED, k, i, torch.from_numpy(v)).numpy()
            out[k] = out[k] + s * np.where(kept, (child[k] - v) / (1 - 0.5), 0)
    return out


def _slerp(base: Arrays, children: list[Arrays], alpha: float, fishers: list[Arrays]) -> Arrays:
    a, b = children
    out: Arrays = {}
    for k in a:
        norms = np.linalg.norm(a[k]) * np.linalg.norm(b[k])
        angle = np.arccos(np.clip((a[k] * b[k]).sum() / norms, -1, 1))
        left, right = 1 - alpha, alpha
        if abs(np.cos(angle)) < 0.9995:
            left, right = np.sin((1 - alpha) * angle) / np.sin(angle), np.sin(alpha * angle) / np.sin(angle)
        out[k] = left * a[k] + right * b[k]
    return out


def _fisher(base: Arrays, children: list[Arrays], alpha: float, fishers: list[Arrays]) -> Arrays:
    n = len(children)
    shares = [1 - alpha, alpha] if n == 2 else [1 / n] * n
    out: Arrays = {}
    for k in base:
        ones = np.ones_like(base[k])
        weights = [share * f.get(k, ones) for share, f in zip(shares, fishers, strict=True)]
        weights = [np.where(sum(weights) > 0, w, share) for w, share in zip(weights, shares, strict=True)]
        out[k] = sum(w * c[k] for w, c in zip(weights, children, strict=True)) / sum(weights)
    return out


def _regmean(base: Arrays, children: list[Arrays], gamma: float, fishers: list[Arrays]) -> Arrays:
    # stacked least squares: the square root of each Gram matrix is a set of inputs, the ridge adds scaled unit inputs
    out = {k: np.mean([c[k] for c in children], axis=0) for k in base}
    for key, axis in _LINEAR.items():
        inputs, targets = [], []
        for grams, child in zip(grams_of(len(children)), children, strict=True):
            gram, weight = grams[key].matrix.numpy(), child[key].T if axis == 1 else child[key]
            values, vectors = np.linalg.eigh(gram)
            root = (vectors * np.sqrt(np.maximum(values, 0))).T
            rows = np.vstack([np.sqrt(gamma) * root, np.diag(np.sqrt((1 - gamma) * np.diag(gram)))])
            inputs.append(rows)
            targets.append(rows @ weight)
        solved = np.linalg.lstsq(np.vstack(inputs), np.vstack(targets), rcond=None)[0]
        out[key] = solved.T if axis == 1 else solved
    return out


def _model_stock(base: Arrays, children: list[Arrays], none: float, fishers: list[Arrays]) -> Arrays:
    # by the angles of the task vectors, in degrees, as the paper measures them
    out: Arrays = {}
    for k, v in base.items():
        taus = [(c[k] - v).ravel() for c in children]
        unit = [t / np.linalg.norm(t) for t in taus if "running" not in k]
        pairs = [(a, b) for i, a in enumerate(unit) for b in unit[:i]]
        angle = np.degrees(np.arccos(np.clip(np.mean([np.dot(a, b) for a, b in pairs]), 0, 1))) if pairs else 0.0
        n, c = len(children), np.cos(np.radians(angle))
        t = n * c / (1 + (n - 1) * c)
        out[k] = t * np.mean([i[k] for i in children], axis=0) + (1 - t) * v
    return out


def _weight_matching(base: Arrays, children: list[Arrays], alpha: float, fishers: list[Arrays]) -> Arrays:
    # of all orders of the three hidden units the one with the highest inner product
    return _interpolate(children, alpha)[0]


def _weight_matching_repair(base: Arrays, children: list[Arrays], alpha: float, fishers: list[Arrays]) -> Arrays:
    merged, b = _interpolate(children, alpha)
    if alpha in (0, 1):
        return merged
    x = inputs_of().numpy()
    means, spreads = (
        [f(x @ w["fc.weight"].T + w["fc.bias"], axis=0) for w in (children[0], b, merged)] for f in (np.mean, np.std)
    )
    ratio = ((1 - alpha) * spreads[0] + alpha * spreads[1]) / spreads[2]
    wanted = (1 - alpha) * means[0] + alpha * means[1]
    bias = ratio * (merged["fc.bias"] - means[2]) + wanted
    return merged | {"fc.weight": ratio[:, None] * merged["fc.weight"], "fc.bias": bias}


def _interpolate(children: list[Arrays], alpha: float) -> tuple[Arrays, Arrays]:
    a, b = children
    if alpha == 1:
        return b, b

    def turn(order: tuple[int, ...]) -> Arrays:
        at = list(order)
        own = {"fc.weight": b["fc.weight"][at], "fc.bias": b["fc.bias"][at], "conv1d.weight": b["conv1d.weight"][:, at]}
        return b | own

    turned = max(map(turn, permutations(range(3))), key=lambda w: sum((a[k] * w[k]).sum() for k in w if k in HIDDEN))
    return {k: (1 - alpha) * v + alpha * turned[k] for k, v in a.items()}, turned


FORMULAS: dict[str, Formula] = {
    "linear": lambda base, c, alpha, f: {
        k: (1 - alpha) * c[0][k] + alpha * c[1][k] if len(c) == 2 else sum(i[k] for i in c) / len(c) for k in base
    },
    "task_arithmetic": lambda base, c, s, f: {k: v + sum(s * (i[k] - v) for i in c) for k, v in base.items()},
    "ties": _ties,
    "dare": _dare,
    "slerp": _slerp,
    "fisher": _fisher,
    "fisher_adam": _fisher,
    "model_stock": _model_stock,
    "regmean": _regmean,
    "weight_matching": _weight_matching,
    "weight_matching_repair": _weight_matching_repair,
    "uniform_soup": lambda base, c, none, f: {k: np.mean([i[k] for i in c], axis=0) for k in base},
}


def weights_of(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=g, dtype=torch.float64).to(dtype),
        "bias": torch.randn((), generator=g, dtype=torch.float64).to(dtype),
        "bn.num_batches_tracked": torch.tensor(10 + seed),
        "bn.running_var": torch.rand(4, generator=g, dtype=torch.float64).to(dtype),
        "mask": torch.tensor([True, False, bool(seed % 2)]),
        "fc.weight": torch.randn(3, 5, generator=g, dtype=torch.float64).to(dtype),
        "conv1d.weight": torch.randn(5, 3, generator=g, dtype=torch.float64).to(dtype),
        "fc.bias": torch.randn(3, generator=g, dtype=torch.float64).to(dtype),
    }


def fishers_of(many: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    # of parameters only; some vanish in one model, one vanishes in all
    out: list[dict[str, Tensor]] = []
    for i in range(many):
        g = torch.Generator().manual_seed(100 + i)
        values = torch.rand(4, 3, 3, 3, generator=g, dtype=torch.float64).square()
        values[i, 0] = 0
        values[3, 2, 2, 2] = 0
        out.append(
            {"conv.weight": values.to(dtype), "bias": torch.rand((), generator=g, dtype=torch.float64).to(dtype)}
        )
    return out


def grams_of(many: int) -> list[dict[str, Gram]]:
    # of 40 inputs each, so that the matrices are well-conditioned
    out: list[dict[str, Gram]] = []
    for i in range(many):
        g = torch.Generator().manual_seed(200 + i)
        x = torch.randn(2, 40, 5, generator=g, dtype=torch.float64)
        out.append({k: Gram(v.T @ v / 40, axis) for (k, axis), v in zip(_LINEAR.items(), x, strict=True)})
    return out


class Hidden(nn.Module):
    """Two linear maps around three hidden units, with the names of the small models here."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv1d = nn.Linear(5, 3), nn.Linear(3, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [n, 5] of inputs [n, 5]."""
        return self.conv1d(self.fc(x).relu())


_NETWORK = Hidden()  # once, because building draws random numbers
HIDDEN = ("fc.weight", "fc.bias", "conv1d.weight")
HIDDEN_MAP = PermutationMap((Group(3, tuple(Axis(k, i) for k, i in zip(HIDDEN, (0, 0, 1), strict=True))),), ("fc",))


def inputs_of() -> Tensor:
    return torch.randn(40, 5, generator=torch.Generator().manual_seed(300), dtype=torch.float64)


def alignments_of(children: Sequence[dict[str, Tensor]]) -> list[Moves]:
    return [{}, match_weights(HIDDEN_MAP, children[0], children[1], SEED), *({} for _ in children[2:])]


def extras_of(children: Sequence[dict[str, Tensor]], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Everything that a merge may need beside the weights; `dtype` is that of the Fishers."""
    many = len(children)
    fishers = fishers_of(many, dtype or children[0]["bias"].dtype)
    moves = alignments_of(children) if many > 1 else [{}] * many
    repair = Repair(_NETWORK, HIDDEN_MAP.linear_maps, inputs_of())
    return {"fishers": fishers, "grams": grams_of(many), "moments": fishers, "alignments": moves, "repair": repair}


_LINEAR = {"fc.weight": 1, "conv1d.weight": 0}


def models_of(many: int = 2, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    return weights_of(0, dtype), [weights_of(1 + i, dtype) for i in range(many)]


def merge_by_name(
    name: str, base: dict[str, Tensor], children: Sequence[dict[str, Tensor]], coefficient: float
) -> dict[str, Tensor]:
    return MERGES[name](base, children, coefficient, seed=SEED, **extras_of(children))


def counts_of(name: str) -> tuple[int, ...]:
    return (2,) if MERGES[name].arity == "pair" else (2, 3, 4)


def arrays_of(weights: dict[str, Tensor]) -> Arrays:
    return {k: v.numpy().astype(np.float64) for k, v in weights.items() if v.is_floating_point()}


CASES = [(name, many) for name in sorted(MERGES) for many in counts_of(name)]
every_merge = pytest.mark.parametrize("name", sorted(MERGES))
every_case = pytest.mark.parametrize(("name", "many"), CASES)

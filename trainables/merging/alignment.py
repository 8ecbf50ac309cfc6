"""Weight matching, which reorders the units of one network as those of another, and REPAIR of their interpolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from trainables.merging.formulas import Weights, is_statistic
from trainables.models.permutations import Group, Moves, PermutationMap, find_map, list_moves, permute
from trainables.models.tensors import mount

MOST_SWEEPS = 100
LEAST_GAIN = 1e-12  # relative; below it an assignment counts as equal

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Name of a linear map -> means and standard deviations of its outputs, float64 [outputs]."""


def need_map(model: nn.Module, name: str) -> PermutationMap:
    """Return the permutation map of a model.

    Raises:
        ValueError: It has none.
    """
    found = find_map(model)
    if found is None:
        raise ValueError(
            f"weight matching needs a model with a permutation map, such as mlp, small_cnn or resnet18_32, got "
            f"{name!r}; leave its merges out"
        )
    return found


def match_weights(permutation_map: PermutationMap, a: Weights, b: Weights, seed: int) -> Moves:
    """Return what reorders the units of B so that its weights are as near to A's as the search gets.

    Sweeps over the groups, in random order, take the best order of one group with the others as they are, until no
    group changes. Each maximises the inner product of the parameters of both networks. Running statistics do not count.

    Args:
        permutation_map: The networks' map.
        a: State dict that stays.
        b: State dict to reorder.
        seed: Seed of the order of the groups.

    Raises:
        ValueError: scipy is missing.

    Source: Ainsworth et al. 2023, arXiv 2209.04836, algorithm 1.
    """
    groups = permutation_map.groups
    keys = {axis.key for group in groups for axis in group.axes if axis.key in a and not is_statistic(axis.key)}
    first, second = ({k: w[k].detach().to("cpu", torch.float64) for k in sorted(keys)} for w in (a, b))
    orders = [torch.arange(group.units) for group in groups]
    draws = Generator().manual_seed(seed)
    for _ in range(MOST_SWEEPS):
        before = [order.clone() for order in orders]
        for i in _to_list(torch.randperm(len(groups), generator=draws)):
            similarity = _compare(groups, orders, i, first, second)
            found = _assign(similarity, groups[i].blocks) if bool(similarity.isfinite().all()) else orders[i]
            units = torch.arange(len(found))
            gain = float((similarity[units, found] - similarity[units, orders[i]]).sum())
            if gain > LEAST_GAIN * float(similarity.abs().max()) * len(found):
                orders[i] = found
        if all(torch.equal(old, new) for old, new in zip(before, orders, strict=True)):
            break
    return list_moves(groups, orders)


def _compare(groups: Sequence[Group], orders: Sequence[Tensor], index: int, a: Weights, b: Weights) -> Tensor:
    """Return the inner products [units of A, units of B] over all parameters of one group's units."""
    units = groups[index].units
    total = torch.zeros(units, units, dtype=torch.float64)
    moves = list_moves(groups, orders)
    for key, axis, _ in groups[index].axes:
        if key not in a:
            continue
        others = {key: [(at, order) for at, order in moves[key] if at != axis]}
        moved = permute({key: b[key]}, others)[key]
        one, other = (w.movedim(axis, 0).reshape(units, -1) for w in (a[key], moved))
        total += one @ other.T
    return total


def _assign(similarity: Tensor, blocks: int) -> Tensor:
    """Return for every unit of A the unit of B, so that the sum of similarities is highest; blocks stay together."""
    size = len(similarity) // blocks
    tiles = similarity.reshape(blocks, size, blocks, size).permute(0, 2, 1, 3)
    inner = [[_solve(tiles[i, j]) for j in range(blocks)] for i in range(blocks)]
    rows = torch.arange(size)
    values = torch.stack(
        [torch.stack([tiles[i, j][rows, inner[i][j]].sum() for j in range(blocks)]) for i in range(blocks)]
    )
    chosen = _to_list(_solve(values))
    return torch.cat([j * size + inner[i][j] for i, j in enumerate(chosen)])


def _solve(similarity: Tensor) -> Tensor:
    try:
        # here, because training needs torch alone
        from scipy import optimize  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
    except ImportError:
        raise ValueError("weight matching needs scipy; install it, or leave its merges out") from None
    solve = cast(Any, optimize).linear_sum_assignment
    return torch.as_tensor(solve(similarity.numpy(), maximize=True)[1], dtype=torch.int64)


def _to_list(values: Tensor) -> list[int]:
    return cast(list[int], values.tolist())  # pyright: ignore[reportUnknownMemberType]


class Repair:
    """Correction of interpolated networks: every unit gets the mean and the spread that the ends have on average.

    It covers the linear maps with a bias that no BatchNorm follows: the re-estimation of BatchNorm, which every merge
    and both parents get, does the same for the others.

    Args:
        model: Module of the architecture; its own weights stay unchanged.
        linear_maps: Names of the linear maps to correct.
        x: Inputs [n, ...], one batch.

    Source: Jordan et al. 2023, arXiv 2211.08403, section 3: mean and standard deviation of the preactivations.
    """

    def __init__(self, model: nn.Module, linear_maps: Sequence[str], x: Tensor) -> None:
        self.model, self.linear_maps, self.x = model, tuple(linear_maps), x

    def __call__(self, merged: Weights, ends: Sequence[Weights], alpha: float) -> dict[str, Tensor]:
        """Return the merged weights with corrected linear maps.

        Args:
            merged: Interpolation of the ends at alpha.
            ends: Weights of both ends, in one order of units.
            alpha: Weight of the second end.
        """
        one, other = (self.measure(weights) for weights in ends)
        wanted = {
            name: (torch.lerp(one[name][0], other[name][0], alpha), torch.lerp(one[name][1], other[name][1], alpha))
            for name in one
        }
        factors: dict[str, tuple[Tensor, Tensor]] = {}

        def correct(name: str, _: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
            mean, spread = _describe(out)
            ratio = torch.where(spread > 0, wanted[name][1] / spread, 1.0)
            factors[name] = ratio, wanted[name][0] - ratio * mean
            shape = (1, -1, *(1 for _ in out.shape[2:]))
            ratio, shift = (f.to(out.dtype).reshape(shape) for f in factors[name])
            return out * ratio + shift

        self._run(merged, correct)
        out = dict(merged)
        for name, (ratio, shift) in factors.items():
            weight, bias = merged[f"{name}.weight"], merged[f"{name}.bias"]
            ratio, shift = ratio.to(weight.device), shift.to(weight.device)
            out[f"{name}.weight"] = (weight.double() * ratio.reshape(-1, *(1 for _ in weight.shape[1:]))).to(weight)
            out[f"{name}.bias"] = (bias.double() * ratio + shift).to(bias)
        return out

    def measure(self, weights: Weights) -> Statistics:
        """Return means and standard deviations of the linear maps' outputs, over examples and positions."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def note(name: str, _: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            found[name] = _describe(out)

        self._run(weights, note)
        return found

    @torch.no_grad()
    def _run(self, weights: Weights, hook: Any) -> None:
        own = mount(self.model, {k: weights[k] for k in self.model.state_dict() if k in weights}, self.x.device)
        kind = next(v.dtype for v in own.values() if v.is_floating_point())
        handles = [self.model.get_submodule(n).register_forward_hook(partial(hook, n)) for n in self.linear_maps]
        try:
            self.model.eval()
            functional_call(self.model, own, (self.x.to(kind),), tie_weights=False)
        finally:
            for handle in handles:
                handle.remove()


def _describe(out: Tensor) -> tuple[Tensor, Tensor]:
    values = out.detach().double().movedim(1, 0).flatten(1)
    return values.mean(1), values.std(1, correction=0)

"""Permutation maps: which axes of a network's weights belong to the same hidden units.

A network computes the same function after its units are reordered, if every axis of a group is reordered alike. A
module has such a map if it has a method `permutation_map`; models of a user may have one, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Axis(NamedTuple):
    """Axis of an entry of the state dict that lists hidden units, each with the same number of consecutive places."""

    key: str
    axis: int
    places: int = 1


@dataclass(frozen=True)
class Group:
    """Hidden units that are reordered together.

    Attributes:
        units: Their number.
        axes: Every axis that lists them.
        blocks: Equal blocks of consecutive units that stay together, as the groups of a GroupNorm must; 1 without any.
    """

    units: int
    axes: tuple[Axis, ...]
    blocks: int = 1


@dataclass(frozen=True)
class PermutationMap:
    """All groups of hidden units of a network.

    Attributes:
        groups: The groups; no unit is in two of them.
        linear_maps: Names of the convolutions and linear layers with a bias whose outputs are hidden units that no
            BatchNorm normalises.
    """

    groups: tuple[Group, ...]
    linear_maps: tuple[str, ...] = ()


Moves = Mapping[str, Sequence[tuple[int, Tensor]]]
"""Name of an entry of the state dict -> axes, each with the places that it takes its new order from."""


def find_map(model: nn.Module) -> PermutationMap | None:
    """Return the permutation map of a network; None if it has none."""
    make = getattr(model, "permutation_map", None)
    return make() if callable(make) else None  # pyright: ignore[reportReturnType] - by the module's name for it


def list_moves(groups: Sequence[Group], orders: Sequence[Tensor]) -> Moves:
    """Return what reorders the groups.

    Args:
        groups: Groups of a map.
        orders: For each group the units in their new order, int64 [units].
    """
    moves: dict[str, list[tuple[int, Tensor]]] = {}
    for group, order in zip(groups, orders, strict=True):
        for key, axis, places in group.axes:
            index = (order[:, None] * places + torch.arange(places)).flatten()
            moves.setdefault(key, []).append((axis, index))
    return moves


def permute(weights: Mapping[str, Tensor], moves: Moves) -> dict[str, Tensor]:
    """Return weights whose units are reordered; entries without moves are those of `weights`."""
    out = dict(weights)
    for key in moves.keys() & out.keys():
        for axis, index in moves[key]:
            out[key] = out[key].index_select(axis, index.to(out[key].device))
    return out


def map_chain(model: nn.Module, layers: Sequence[tuple[str, str]], head: str) -> PermutationMap:
    """Return the map of a network whose layers follow each other.

    Args:
        model: The network.
        layers: Pairs of names: a linear map and the norm after it, which may be an `Identity`.
        head: Name of the linear layer that gives the logits.
    """
    groups: list[Group] = []
    following = [*(name for name, _ in layers[1:]), head]
    for (name, norm), after in zip(layers, following, strict=True):
        axes = (*list_outputs(model, name, norm), *list_inputs(model, name, after))
        groups.append(Group(count_units(model, name), axes, getattr(model.get_submodule(norm), "num_groups", 1)))
    free = [name for name, norm in layers if not isinstance(model.get_submodule(norm), _BATCHNORMS)]
    return PermutationMap(tuple(groups), tuple(free))


def list_outputs(model: nn.Module, name: str, norm: str) -> list[Axis]:
    """Return the axes of the outputs of a linear map and of the norm after it."""
    entries = {f"{n}.{k}": v for n in (name, norm) for k, v in model.get_submodule(n).state_dict().items()}
    return [Axis(key, 0) for key, value in entries.items() if value.ndim]


def list_inputs(model: nn.Module, name: str, after: str) -> list[Axis]:
    """Return the axis of the inputs of a linear map that reads the outputs of another one."""
    weight = model.get_submodule(after).get_parameter("weight")
    return [Axis(f"{after}.weight", 1, weight.shape[1] // count_units(model, name))]


def count_units(model: nn.Module, name: str) -> int:
    """Return the number of outputs of a linear map."""
    return len(model.get_submodule(name).get_parameter("weight"))

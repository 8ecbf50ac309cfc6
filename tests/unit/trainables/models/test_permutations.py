"""Permutation maps of networks, by value."""

from __future__ import annotations

import torch
from torch import nn

from trainables.models.permutations import Axis, Group, find_map, list_moves, permute
from trainables.models.registry import build


def test_a_flattened_axis_moves_by_the_places_of_a_unit() -> None:
    weights = {"w": torch.arange(3), "head": torch.arange(12).reshape(2, 6), "other": torch.ones(2)}
    moves = list_moves([Group(3, (Axis("w", 0), Axis("head", 1, 2)))], [torch.tensor([2, 0, 1])])
    moved = permute(weights, moves)
    assert moved["w"].tolist() == [2, 0, 1]
    assert moved["head"].tolist() == [[4, 5, 0, 1, 2, 3], [10, 11, 6, 7, 8, 9]]
    assert moved["other"] is weights["other"]
    assert weights["w"].tolist() == [0, 1, 2]


def test_map_of_the_small_network() -> None:
    found = find_map(build("small_cnn", 10, 1, 8, {}))
    assert found is not None
    assert [(g.units, g.blocks) for g in found.groups] == [(16, 4), (32, 4), (28, 4)]
    assert found.linear_maps == ("features.0", "features.3", "features.6")
    last = {f"features.{k}" for k in ("6.weight", "6.bias", "7.weight", "7.bias")}
    assert set(found.groups[2].axes) == {*(Axis(k, 0) for k in last), Axis("head.weight", 1, 4)}


def test_blocks_of_a_stage_share_its_channels() -> None:
    found = find_map(build("resnet18_32", 10, 3, 32, {"width": 4}))
    assert found is not None
    assert sorted(g.units for g in found.groups) == [4] * 3 + [8] * 3 + [16] * 3 + [32] * 3
    assert found.linear_maps == ()
    (first,) = (g for g in found.groups if Axis("conv1.weight", 0) in g.axes)
    entries = {(a.key, a.axis) for a in first.axes if a.key.endswith(("conv1.weight", "conv2.weight", "0.weight"))}
    assert entries == {
        ("conv1.weight", 0), ("layer1.0.conv1.weight", 1), ("layer1.0.conv2.weight", 0), ("layer1.1.conv1.weight", 1),
        ("layer1.1.conv2.weight", 0), ("layer2.0.conv1.weight", 1), ("layer2.0.downsample.0.weight", 1),
    }  # fmt: skip


def test_other_networks_have_no_map() -> None:
    assert find_map(nn.Sequential(nn.Linear(2, 2))) is None

"""Weight matching and REPAIR on the networks of this package."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from tests.support.small_trials import digits_spec
from trainables.merging import alignment
from trainables.merging.alignment import Repair, match_weights, need_map
from trainables.merging.methods import MERGES
from trainables.models.permutations import Group, find_map, list_moves, permute
from trainables.models.registry import build
from trainables.models.seeding import seed_generators
from trainables.pair.run import inspect, run_pair
from trainables.runtime import Runtime

QUIET = Runtime(measure=0)
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "mlp": ("mlp", {"widths": [12, 7]}, 1),
    "mlp-layer": ("mlp", {"widths": [6, 5, 4], "norm": "layer"}, 1),
    "mlp-batch": ("mlp", {"widths": [6], "norm": "batch"}, 1),
    "small_cnn": ("small_cnn", {}, 1),
    "small_cnn-batch": ("small_cnn", {"norm": "batch"}, 1),
    "resnet18_32": ("resnet18_32", {"width": 4}, 3),
}
every_network = pytest.mark.parametrize("name", sorted(NETWORKS))


def _network(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """The network, random weights (statistics included) and 32 images, in float64."""
    model, options, channels = NETWORKS[name]
    with seed_generators(seed):
        module = build(model, 10, channels, 8, options).double().eval()
        draws = Generator().manual_seed(100 + seed)
        weights = {
            k: v.detach() + 0.3 * torch.rand(v.shape, generator=draws, dtype=v.dtype) if v.is_floating_point() else v
            for k, v in module.state_dict().items()
        }
    x = torch.randn(32, channels, 8, 8, generator=Generator().manual_seed(7), dtype=torch.float64)
    return module, weights, x


def _shuffle(group: Group, draws: Generator) -> Tensor:
    """A random order that keeps the group's blocks together."""
    size = group.units // group.blocks
    inner = [torch.randperm(size, generator=draws) for _ in range(group.blocks)]
    return torch.cat([j * size + inner[j] for j in torch.randperm(group.blocks, generator=draws).tolist()])


def _shuffled(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    draws, groups = Generator().manual_seed(3), need_map(module, "").groups
    return permute(weights, list_moves(groups, [_shuffle(g, draws) for g in groups]))


@torch.no_grad()
def _logits(module: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional_call(module, weights, (x,))


@every_network
def test_a_permuted_network_computes_the_same_function(name: str) -> None:
    module, weights, x = _network(name)
    moved = _shuffled(module, weights)
    before = _logits(module, weights, x)
    torch.testing.assert_close(_logits(module, moved, x), before, rtol=0, atol=1e-10 * float(before.abs().max()))
    # every hidden entry moves, and the map misses none
    hidden = [k for k, v in weights.items() if v.ndim and k not in ("head.bias", "fc.bias")]
    assert {k for k in hidden if not torch.equal(moved[k], weights[k])} == set(hidden)


@every_network
def test_a_permuted_copy_is_aligned_back_exactly(name: str) -> None:
    module, weights, _ = _network(name)
    moved = _shuffled(module, weights)
    found = permute(moved, match_weights(need_map(module, ""), weights, moved, seed=1))
    assert all(torch.equal(found[k], weights[k]) for k in weights)


def test_an_aligned_pair_is_as_near_as_any_order_of_one_layer() -> None:
    module = build("mlp", 3, 1, 2, {"widths": [5]}).double()
    a, b = ({k: torch.randn_like(v) for k, v in module.state_dict().items()} for _ in range(2))
    groups = need_map(module, "").groups

    def distance(order: Tensor) -> float:
        moved = permute(b, list_moves(groups, [order]))
        return sum(float((a[k] - moved[k]).square().sum()) for k in a)

    least = min(distance(torch.tensor(p)) for p in permutations(range(5)))
    found = permute(b, match_weights(need_map(module, ""), a, b, seed=0))
    assert sum(float((a[k] - found[k]).square().sum()) for k in a) == pytest.approx(least)


def test_blocks_of_a_group_norm_stay_together() -> None:
    module, a, x = _network("small_cnn")
    b = _network("small_cnn", seed=1)[1]
    moved = permute(b, match_weights(need_map(module, ""), a, b, seed=0))
    torch.testing.assert_close(_logits(module, moved, x), _logits(module, b, x), rtol=0, atol=1e-10)
    near, far = (sum(float((a[k] - w[k]).square().sum()) for k in a) for w in (moved, b))
    assert near < far


def test_weights_that_are_not_finite_keep_their_order() -> None:
    module, a, _ = _network("mlp")
    b = {k: torch.full_like(v, torch.nan) for k, v in a.items()}
    moves = match_weights(need_map(module, ""), a, b, seed=0)
    assert all(torch.equal(index, torch.arange(len(index))) for moved in moves.values() for _, index in moved)


@pytest.mark.parametrize("name", ["mlp", "mlp-layer", "small_cnn"])
@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_repair_restores_mean_and_spread_of_each_unit(name: str, alpha: float) -> None:
    module, a, x = _network(name)
    b = _network(name, seed=1)[1]
    repair = Repair(module, need_map(module, "").linear_maps, x)
    plain = MERGES["weight_matching"](a, (a, b), alpha, alignments=({}, {}))
    merged = MERGES["weight_matching_repair"](a, (a, b), alpha, alignments=({}, {}), repair=repair)
    ends, found, without = [repair.measure(w) for w in (a, b)], repair.measure(merged), repair.measure(plain)
    assert len(found) == len(need_map(module, "").groups)
    for layer, statistics in found.items():
        for i, value in enumerate(statistics):
            wanted = (1 - alpha) * ends[0][layer][i] + alpha * ends[1][layer][i]
            torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9)
        # the mean of the first layer is linear in the weights
        assert not torch.allclose(without[layer][1], statistics[1], rtol=1e-2)
    heads = [k for k in a if k.startswith("head")]
    assert all(torch.equal(merged[k], plain[k]) for k in heads)


@pytest.mark.parametrize("name", ["mlp-batch", "small_cnn-batch", "resnet18_32"])
def test_repair_leaves_units_to_batchnorm(name: str) -> None:
    module, a, x = _network(name)
    b = _network(name, seed=1)[1]
    assert need_map(module, "").linear_maps == ()
    merged = MERGES["linear"](a, (a, b), 0.5)
    repaired = Repair(module, (), x)(merged, (a, b), 0.5)
    assert all(torch.equal(merged[k], repaired[k]) for k in merged)


def test_a_unit_without_spread_keeps_its_weights() -> None:
    module, a, x = _network("mlp")
    dead = {**a, "features.1.weight": a["features.1.weight"].clone()}
    dead["features.1.weight"][0] = 0
    repaired = Repair(module, ("features.1",), x)(dead, (a, a), 0.5)
    assert repaired["features.1.weight"][0].eq(0).all()
    assert all(v.isfinite().all() for v in repaired.values())


# -- in trials --------------------------------------------------------------------------------------------------------

MATCHED = ("linear", "weight_matching", "weight_matching_repair")


@pytest.fixture(scope="module")
def curves() -> dict[str, dict[float, float]]:
    spec = digits_spec(protocol="scratch", merges=MATCHED, epochs=6, augmentation="none")
    output = run_pair(spec, QUIET)
    assert output.result.outcome == "ok"
    found: dict[str, dict[float, float]] = {m: {} for m in MATCHED}
    for row in output.merges:
        found[row.method][row.coefficient] = row.loss_test
    return found


def test_children_of_different_weights_merge_better_after_alignment(curves: dict[str, dict[float, float]]) -> None:
    plain, aligned, repaired = (curves[m] for m in MATCHED)
    assert set(plain) == set(aligned) == set(repaired)
    for end in (0.0, 1.0):
        assert plain[end] == aligned[end] == repaired[end]
    assert aligned[0.5] < plain[0.5]
    assert repaired[0.5] < aligned[0.5]


def test_children_of_one_base_need_no_alignment() -> None:
    # an order other than the given one would be further away
    rows = run_pair(digits_spec(merges=MATCHED[:2]), QUIET).merges
    losses = {(r.method, r.coefficient): r.loss_test for r in rows}
    assert all(losses["weight_matching", c] == pytest.approx(losses["linear", c]) for c in (0.1, 0.5, 0.9))


def test_a_model_without_a_map_is_refused_before_training() -> None:
    spec = digits_spec(model="small_vit", model_options={"depth": 1}, merges=MATCHED[:2])
    with pytest.raises(ValueError, match=r"a permutation map, such as mlp, .*, got 'small_vit'; leave its merges out"):
        inspect([spec], QUIET)
    assert find_map(nn.Linear(2, 2)) is None


def test_several_tasks_are_refused() -> None:
    spec = digits_spec(pair_kind="two_task", dataset_b="digits", dataset_b_options={"split_seed": 1}, merges=MATCHED)
    with pytest.raises(ValueError, match="merge 'weight_matching' takes models of one task, got 2"):
        inspect([spec], QUIET)


def test_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(ValueError, match="weight matching needs scipy; install it, or leave its merges out"):
        alignment._solve(torch.eye(2))


def test_windows_are_aligned_on_their_own() -> None:
    spec = digits_spec(protocol="scratch", merges=MATCHED[:2], window={"size": 4}, epochs=2)
    output = run_pair(spec, QUIET)
    losses = {(r.method, r.window): r.loss_test for r in output.merges if r.coefficient == 0.5}
    assert losses["weight_matching", 4] < losses["linear", 4]
    assert run_pair(replace(spec), QUIET).result.scores == output.result.scores

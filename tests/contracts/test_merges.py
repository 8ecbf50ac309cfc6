"""What every merge keeps; each is compared with its formula written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweeper.formatting import BETWEEN_PARENTS, FROM_BASE, WITHOUT_COEFFICIENT
from tests.support.merge_formulas import (
    FLOATING,
    FORMULAS,
    arrays_of,
    every_case,
    every_merge,
    extras_of,
    fishers_of,
    grams_of,
    merge_by_name,
    models_of,
)
from trainables.merging.formulas import Gram, dare_mask
from trainables.merging.methods import GREEDY, MERGES


def test_every_merge_is_covered_here() -> None:
    assert set(FORMULAS) == set(MERGES)


def test_merges_are_named_by_their_ends() -> None:
    ends = {name: set(merge.ends.values()) for name, merge in MERGES.items()}
    assert {name for name, models in ends.items() if models == {"a", "b"}} == set(BETWEEN_PARENTS)
    assert {name for name, models in ends.items() if models == {"base"}} == set(FROM_BASE)
    assert {name for name, merge in MERGES.items() if merge.symbol == "none"} == {*WITHOUT_COEFFICIENT} - {GREEDY}


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_equals_the_formula(name: str, many: int, dtype: torch.dtype) -> None:
    base, children = models_of(many, dtype)
    fishers = [arrays_of(f) for f in fishers_of(many, dtype)]
    for coefficient in MERGES[name].coefficients(many):
        merged = merge_by_name(name, base, children, coefficient)
        wanted = FORMULAS[name](arrays_of(base), [arrays_of(c) for c in children], coefficient, fishers)
        for key in FLOATING:
            np.testing.assert_allclose(merged[key].numpy(), wanted[key], rtol=0, atol=32 * torch.finfo(dtype).eps)


@every_merge
def test_ends_are_bit_for_bit(name: str) -> None:
    for coefficient, which in MERGES[name].ends.items():
        assert coefficient in MERGES[name].grid
        base, children = models_of()
        merged = merge_by_name(name, base, children, coefficient)
        wanted = {"base": base, "a": children[0], "b": children[1]}[which]
        for key in FLOATING:
            assert torch.equal(merged[key], wanted[key])
            assert merged[key].data_ptr() != wanted[key].data_ptr()


@every_merge
def test_merging_a_model_with_itself_gives_it_back(name: str) -> None:
    base, (a, *_) = models_of(dtype=torch.float64)
    for coefficient in MERGES[name].neutral:
        merged = merge_by_name(name, base, (a, a), coefficient)
        for key, value in a.items():
            torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-15)


@every_case
def test_entries_that_no_child_moved_keep_their_value_exactly(name: str, many: int) -> None:
    base, children = models_of(many)
    for child in children:
        child["conv.weight"] = base["conv.weight"].clone()
    for coefficient in MERGES[name].coefficients(many):
        merged = merge_by_name(name, base, children, coefficient)
        assert torch.equal(merged["conv.weight"], base["conv.weight"])


@every_case
def test_inputs_stay_untouched_and_are_not_shared(name: str, many: int) -> None:
    (base, children), (base_before, before) = models_of(many), models_of(many)
    for coefficient in MERGES[name].coefficients(many):
        merged = merge_by_name(name, base, children, coefficient)
        for value in merged.values():
            value.zero_()
    for weights, kept in zip([base, *children], [base_before, *before], strict=True):
        assert all(torch.equal(weights[key], kept[key]) for key in kept)


@every_merge
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keys_order_dtypes_and_shapes_are_kept(name: str, dtype: torch.dtype) -> None:
    base, children = models_of(dtype=dtype)
    merged = merge_by_name(name, base, children, 0.5)
    assert list(merged) == list(children[0])
    for key, value in children[0].items():
        assert merged[key].dtype == value.dtype
        assert merged[key].shape == value.shape


@every_case
def test_integer_and_boolean_buffers_are_the_first_childs(name: str, many: int) -> None:
    base, children = models_of(many)
    for coefficient in MERGES[name].coefficients(many):
        merged = merge_by_name(name, base, children, coefficient)
        assert merged["bn.num_batches_tracked"].item() == 11
        assert merged["mask"].tolist() == [True, False, True]


@pytest.mark.parametrize("name", sorted(n for n in MERGES if MERGES[n].arity == "any" and MERGES[n].symmetric))
def test_the_order_of_the_children_does_not_matter(name: str) -> None:
    base, children = models_of(3, torch.float64)
    fishers, grams, order = fishers_of(3, torch.float64), grams_of(3), (2, 0, 1)
    for coefficient in MERGES[name].coefficients(3):
        merged = MERGES[name](base, children, coefficient, fishers=fishers, grams=grams, moments=fishers)
        turned = MERGES[name](
            base, [children[i] for i in order], coefficient, fishers=[fishers[i] for i in order],
            grams=[grams[i] for i in order], moments=[fishers[i] for i in order],
        )  # fmt: skip
        for key in FLOATING:
            torch.testing.assert_close(merged[key], turned[key], rtol=0, atol=1e-14)


@every_merge
def test_results_repeat(name: str) -> None:
    state = torch.random.get_rng_state()
    first, second = (merge_by_name(name, *models_of(), 0.5) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.random.get_rng_state(), state)


@every_merge
def test_wrong_keys_and_shapes_are_named(name: str) -> None:
    for position in (0, 2):
        base, children = models_of()
        models = [base, *children]
        del models[position]["bias"]
        with pytest.raises(ValueError, match="same keys; bias is not in all"):
            merge_by_name(name, base, children, 0.5)
        base, children = models_of()
        [base, *children][position]["conv.weight"] = torch.zeros(4, 3, 3, 1)
        with pytest.raises(ValueError, match=r"same shapes; conv\.weight has .*\(4, 3, 3, 1\)"):
            merge_by_name(name, base, children, 0.5)


@every_merge
def test_a_wrong_number_of_children_is_refused(name: str) -> None:
    wanted = {"pair": "exactly two", "any": "two or more"}[MERGES[name].arity]
    for many in (0, 1, *((3,) if MERGES[name].arity == "pair" else ())):
        base, children = models_of(many)
        with pytest.raises(ValueError, match=f"merge '{name}' takes {wanted} children, got {many}"):
            MERGES[name](base, children, 0.5, **extras_of(children, torch.float32))


@pytest.mark.parametrize("name", sorted(n for n in MERGES if "fishers" in MERGES[n].needs))
def test_missing_fishers_are_refused(name: str) -> None:
    base, children = models_of()
    with pytest.raises(ValueError, match=f"merge '{name}' needs one diagonal Fisher per child, 2 in all, got none"):
        MERGES[name](base, children, 0.5)
    with pytest.raises(ValueError, match="2 in all, got 1"):
        MERGES[name](base, children, 0.5, fishers=fishers_of(1))


@pytest.mark.parametrize("name", sorted(n for n in MERGES if "grams" in MERGES[n].needs))
def test_missing_gram_matrices_are_refused(name: str) -> None:
    base, children = models_of()
    with pytest.raises(ValueError, match=f"merge '{name}' needs one set of Gram matrices per child, 2 in all, got non"):
        MERGES[name](base, children, 0.5)


def test_missing_moments_are_refused() -> None:
    base, children = models_of()
    with pytest.raises(ValueError, match="'fisher_adam' needs one set of second moments of Adam per child, 2 in all"):
        MERGES["fisher_adam"](base, children, 0.5, fishers=fishers_of(2))


@pytest.mark.parametrize("name", sorted(n for n in MERGES if MERGES[n].moves_units))
def test_missing_alignments_and_repairs_are_refused(name: str) -> None:
    base, children = models_of()
    with pytest.raises(ValueError, match=f"merge '{name}' needs one alignment per child, 2 in all, got none"):
        MERGES[name](base, children, 0.5)
    if "repair" in MERGES[name].needs:
        with pytest.raises(ValueError, match="needs the network and inputs for its repair, got none"):
            MERGES[name](base, children, 0.5, alignments=({}, {}))


# -- what single methods promise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["task_arithmetic", "uniform_soup"])
def test_half_the_task_vectors_and_the_soup_of_two_are_the_linear_midpoint(other: str) -> None:
    base, children = models_of(dtype=torch.float64)
    midpoint = merge_by_name("linear", base, children, 0.5)
    same = merge_by_name(other, base, children, {"task_arithmetic": 0.5, "uniform_soup": 1.0}[other])
    for key in FLOATING:
        torch.testing.assert_close(same[key], midpoint[key], rtol=0, atol=1e-15)


def test_ties_by_hand() -> None:
    # ten entries: the top 20 % of each task vector are two
    base = {"w": torch.zeros(10)}
    a = {"w": torch.tensor([5.0, -4.0, 1.0, 0, 0, 0, 0, 0, 0, 0.5])}
    b = {"w": torch.tensor([3.0, 6.0, 1.0, 0, 0, 0, 0, 0, 0, 0.5])}
    wanted = [4.0, 6.0] + [0.0] * 8  # agree: their mean; clash: the elected sign's alone; trimmed: 0
    assert MERGES["ties"](base, (a, b), 1.0)["w"].tolist() == wanted
    assert MERGES["ties"](base, (a, b), 0.5)["w"].tolist() == [v / 2 for v in wanted]


def test_ties_drops_what_cancels() -> None:
    base, sign = {"w": torch.zeros(5)}, torch.tensor([1.0, 0, 0, 0, 0])
    merged = MERGES["ties"](base, ({"w": 2 * sign}, {"w": -2 * sign}), 1.0)
    assert merged["w"].tolist() == [0.0] * 5


def test_dare_is_task_arithmetic_on_average() -> None:
    base, children = models_of(dtype=torch.float64)
    draws = torch.stack([MERGES["dare"](base, children, 0.5, seed=i)["conv.weight"] for i in range(400)])
    wanted = MERGES["task_arithmetic"](base, children, 0.5)["conv.weight"]
    # each draw adds s tau (2m - 1) to the mean: variance s^2 sum tau^2
    spread = 0.5 * sum((c["conv.weight"] - base["conv.weight"]).square() for c in children).sqrt()
    z = (draws.mean(0) - wanted) / (spread / 400**0.5)
    assert z.abs().max() < 5  # of 108 standard normals
    assert abs(float(z.square().mean()) - 1) < 0.5


def test_dares_masks_are_independent_of_each_other() -> None:
    like = torch.zeros(10_000)
    masks = {
        (seed, key, child): dare_mask(seed, key, child, like).double()
        for seed in (0, 1)
        for key in "vw"
        for child in (0, 1)
    }
    assert all(abs(float(m.mean()) - 0.5) < 0.025 for m in masks.values())
    correlations = torch.corrcoef(torch.stack(list(masks.values()))) - torch.eye(8)
    assert correlations.abs().max() < 0.05  # 5 standard errors
    assert torch.equal(masks[0, "v", 1], dare_mask(0, "v", 1, like).double())


def test_slerp_stays_on_the_circle_of_equal_norms() -> None:
    a, b = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    a[0], b[1] = 2.0, 2.0
    for alpha in MERGES["slerp"].grid:
        merged = MERGES["slerp"]({"w": a}, ({"w": a}, {"w": b}), alpha)["w"]
        angle = alpha * np.pi / 2
        np.testing.assert_allclose(merged.numpy(), [2 * np.cos(angle), 2 * np.sin(angle), 0], atol=1e-15)


@pytest.mark.parametrize(
    "b", [[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0], [1.001, 2.0]], ids=["longer", "opposite", "0", "near"]
)
def test_slerp_is_linear_between_colinear_tensors(b: list[float]) -> None:
    one, other = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor(b)}
    for alpha in MERGES["slerp"].grid:
        merged = MERGES["slerp"](one, (one, other), alpha)
        assert torch.equal(merged["w"], MERGES["linear"](one, (one, other), alpha)["w"])


def test_fisher_with_equal_fishers_is_linear_and_a_dominant_one_wins() -> None:
    base, children = models_of(dtype=torch.float64)
    (own, *_) = fishers_of(1, torch.float64)
    for alpha in MERGES["fisher"].grid:
        merged = MERGES["fisher"](base, children, alpha, fishers=(own, own))
        line = MERGES["linear"](base, children, alpha)
        for key in FLOATING:
            torch.testing.assert_close(merged[key], line[key], rtol=0, atol=1e-14)
    ones = {"conv.weight": torch.ones(4, 3, 3, 3), "bias": torch.ones(())}
    sure = {k: 1e12 * v for k, v in ones.items()}
    merged = MERGES["fisher"](base, children, 0.5, fishers=(ones, sure))
    for key in ones:
        torch.testing.assert_close(merged[key], children[1][key], rtol=0, atol=1e-10)


def test_fisher_refuses_other_shapes_and_weightings() -> None:
    base, children = models_of(3)
    with pytest.raises(ValueError, match=r"alpha must be 1/3 for 3 models, got 0\.5"):
        MERGES["fisher"](base, children, 0.5, fishers=fishers_of(3))
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\] in Fisher averages, got 1\.5"):
        MERGES["fisher"](base, children[:2], 1.5, fishers=fishers_of(2))
    fishers = fishers_of(2)
    fishers[1]["bias"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"Fisher must have the shape of bias, \(\), got \[\(\), \(2,\)\]"):
        MERGES["fisher"](base, children[:2], 0.5, fishers=fishers)
    del fishers[1]["bias"]
    with pytest.raises(ValueError, match=r"shape of bias, \(\), got \[\(\)\]"):
        MERGES["fisher"](base, children[:2], 0.5, fishers=fishers)


def test_fisher_of_adam_weighs_by_the_moments_alone() -> None:
    base, children = models_of(dtype=torch.float64)
    moments, others = fishers_of(2, torch.float64), fishers_of(3, torch.float64)[1:]
    for alpha in MERGES["fisher_adam"].grid:
        merged = MERGES["fisher_adam"](base, children, alpha, fishers=others, moments=moments)
        wanted = MERGES["fisher"](base, children, alpha, fishers=moments)
        assert all(torch.equal(merged[k], wanted[k]) for k in FLOATING)


@pytest.mark.parametrize("many", [2, 3, 5])
@pytest.mark.parametrize("cosine", [0.1, 0.5, 0.9])
def test_model_stock_is_the_foot_of_the_perpendicular_from_the_centre(many: int, cosine: float) -> None:
    # of task vectors with one norm r and one cosine c, it has the product c r^2 with each of them
    root = torch.linalg.cholesky(cosine + (1 - cosine) * torch.eye(many, dtype=torch.float64))
    taus = 3.0 * torch.nn.functional.pad(root, (0, 7 - many))
    base = {"w": torch.arange(7, dtype=torch.float64)}
    merged = MERGES["model_stock"](base, [{"w": base["w"] + t} for t in taus], 1.0)["w"] - base["w"]
    torch.testing.assert_close(taus @ merged, torch.full((many,), 9 * cosine, dtype=torch.float64))
    assert torch.linalg.matrix_rank(torch.vstack([taus, merged])) == many


def test_model_stock_of_two_by_hand_and_by_tensor() -> None:
    base = {"right": torch.zeros(2), "sixty": torch.zeros(2), "against": torch.ones(2), "still": torch.ones(2)}
    a = {"right": [2.0, 0.0], "sixty": [1.0, 0.0], "against": [2.0, 1.0], "still": [1.0, 1.0]}
    b = {"right": [0.0, 5.0], "sixty": [0.5, 0.75**0.5], "against": [0.5, 1.0], "still": [3.0, 1.0]}
    children = [{k: torch.tensor(v) for k, v in c.items()} for c in (a, b)]
    merged = MERGES["model_stock"](base, children, 1.0)
    torch.testing.assert_close(merged["sixty"], 2 / 3 * (children[0]["sixty"] + children[1]["sixty"]) / 2)
    for key in ("right", "against", "still"):  # nothing in common: 90 degrees, beyond, one child at the base
        assert torch.equal(merged[key], base[key])


def test_regmean_is_the_average_with_orthonormal_inputs_and_follows_a_child_that_alone_has_inputs() -> None:
    base, children = models_of(3, torch.float64)
    average = MERGES["uniform_soup"](base, children, 1.0)
    unit = [{"fc.weight": Gram(torch.eye(5, dtype=torch.float64), 1)}] * 3
    nothing = Gram(torch.zeros(5, 5, dtype=torch.float64), 1)
    alone = [{"fc.weight": nothing}, grams_of(1)[0], {"fc.weight": nothing}]
    for gamma in MERGES["regmean"].grid:
        merged = MERGES["regmean"](base, children, gamma, grams=unit)
        for key in FLOATING:
            torch.testing.assert_close(merged[key], average[key], rtol=0, atol=1e-15)
        merged = MERGES["regmean"](base, children, gamma, grams=alone)
        torch.testing.assert_close(merged["fc.weight"], children[1]["fc.weight"], rtol=0, atol=1e-12)


def test_regmean_solves_the_normal_equations_of_the_inputs() -> None:
    base, children = models_of(2, torch.float64)
    g = torch.Generator().manual_seed(3)
    inputs = [torch.randn(40, 5, generator=g, dtype=torch.float64) for _ in children]
    grams = [{"fc.weight": Gram(x.T @ x / len(x), 1)} for x in inputs]
    merged = MERGES["regmean"](base, children, 1.0, grams=grams)["fc.weight"]
    outputs = [x @ c["fc.weight"].T for x, c in zip(inputs, children, strict=True)]
    wanted = torch.linalg.lstsq(torch.cat(inputs), torch.cat(outputs)).solution.T
    torch.testing.assert_close(merged, wanted, rtol=0, atol=1e-12)


def test_regmean_keeps_the_average_where_no_input_points() -> None:
    base, children = models_of(2, torch.float64)
    x = torch.zeros(6, 5, dtype=torch.float64)
    x[:, :2] = torch.randn(6, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    grams = [{"fc.weight": Gram(x.T @ x / 6, 1)}] * 2
    merged = MERGES["regmean"](base, children, 1.0, grams=grams)["fc.weight"]
    average = (children[0]["fc.weight"] + children[1]["fc.weight"]) / 2
    torch.testing.assert_close(merged, average, rtol=0, atol=1e-12)


def test_grids() -> None:
    for name in ("linear", "slerp", "fisher", "fisher_adam", "weight_matching", "weight_matching_repair"):
        assert MERGES[name].grid == pytest.approx(np.linspace(0, 1, 11))
        assert 0.5 in MERGES[name].grid  # the paper's number, to be found by ==
    for name in ("task_arithmetic", "ties", "dare"):
        assert MERGES[name].grid == pytest.approx(np.linspace(0, 1.5, 7))
    assert MERGES["uniform_soup"].grid == MERGES["model_stock"].grid == (1.0,)
    assert MERGES["fisher"].coefficients(4) == (0.25,)
    assert MERGES["ties"].coefficients(4) == MERGES["ties"].grid

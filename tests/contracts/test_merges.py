"""What every merge keeps; each is compared with its formula written out in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.combining import kept_mask
from trainables.merging import MERGES

Arrays = dict[str, np.ndarray]
# base, children, coefficient, Fishers -> merged; plain loops over single numbers where that is the clearest
Formula = Callable[[Arrays, list[Arrays], float, list[Arrays]], Arrays]
FLOATING = ("conv.weight", "bias", "bn.running_var")
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
            kept = kept_mask(SEED, k, i, torch.from_numpy(v)).numpy()
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


FORMULAS: dict[str, Formula] = {
    "linear": lambda base, c, alpha, f: {k: (1 - alpha) * c[0][k] + alpha * c[1][k] for k in base},
    "task_arithmetic": lambda base, c, s, f: {k: v + sum(s * (i[k] - v) for i in c) for k, v in base.items()},
    "ties": _ties,
    "dare": _dare,
    "slerp": _slerp,
    "fisher": _fisher,
    "uniform_soup": lambda base, c, none, f: {k: np.mean([i[k] for i in c], axis=0) for k in base},
}


def _weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=g, dtype=torch.float64).to(dtype),
        "bias": torch.randn((), generator=g, dtype=torch.float64).to(dtype),
        "bn.num_batches_tracked": torch.tensor(10 + seed),
        "bn.running_var": torch.rand(4, generator=g, dtype=torch.float64).to(dtype),
        "mask": torch.tensor([True, False, bool(seed % 2)]),
    }


def _fishers(many: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
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


def _models(many: int = 2, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    return _weights(0, dtype), [_weights(1 + i, dtype) for i in range(many)]


def _merge(
    name: str, base: dict[str, Tensor], children: Sequence[dict[str, Tensor]], coefficient: float
) -> dict[str, Tensor]:
    fishers = _fishers(len(children), children[0]["bias"].dtype)
    return MERGES[name](base, children, coefficient, seed=SEED, fishers=fishers)


def _counts(name: str) -> tuple[int, ...]:
    return (2,) if MERGES[name].arity == "pair" else (2, 3, 4)


def _arrays(weights: dict[str, Tensor]) -> Arrays:
    return {k: v.numpy().astype(np.float64) for k, v in weights.items() if v.is_floating_point()}


CASES = [(name, many) for name in sorted(MERGES) for many in _counts(name)]
every_merge = pytest.mark.parametrize("name", sorted(MERGES))
every_case = pytest.mark.parametrize(("name", "many"), CASES)


def test_every_merge_is_covered_here() -> None:
    assert set(FORMULAS) == set(MERGES)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_equals_the_formula(name: str, many: int, dtype: torch.dtype) -> None:
    base, children = _models(many, dtype)
    fishers = [_arrays(f) for f in _fishers(many, dtype)]
    for coefficient in MERGES[name].coefficients(many):
        merged = _merge(name, base, children, coefficient)
        wanted = FORMULAS[name](_arrays(base), [_arrays(c) for c in children], coefficient, fishers)
        for key in FLOATING:
            np.testing.assert_allclose(merged[key].numpy(), wanted[key], rtol=0, atol=32 * torch.finfo(dtype).eps)


@every_merge
def test_ends_are_bit_for_bit(name: str) -> None:
    for coefficient, which in MERGES[name].ends.items():
        assert coefficient in MERGES[name].grid
        base, children = _models()
        merged = _merge(name, base, children, coefficient)
        wanted = {"base": base, "a": children[0], "b": children[1]}[which]
        for key in FLOATING:
            assert torch.equal(merged[key], wanted[key])
            assert merged[key].data_ptr() != wanted[key].data_ptr()


@every_merge
def test_merging_a_model_with_itself_gives_it_back(name: str) -> None:
    base, (a, *_) = _models(dtype=torch.float64)
    for coefficient in MERGES[name].neutral:
        merged = _merge(name, base, (a, a), coefficient)
        for key, value in a.items():
            torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-15)


@every_case
def test_entries_that_no_child_moved_keep_their_value_exactly(name: str, many: int) -> None:
    base, children = _models(many)
    for child in children:
        child["conv.weight"] = base["conv.weight"].clone()
    for coefficient in MERGES[name].coefficients(many):
        merged = _merge(name, base, children, coefficient)
        assert torch.equal(merged["conv.weight"], base["conv.weight"])


@every_case
def test_inputs_stay_untouched_and_are_not_shared(name: str, many: int) -> None:
    (base, children), (base_before, before) = _models(many), _models(many)
    for coefficient in MERGES[name].coefficients(many):
        merged = _merge(name, base, children, coefficient)
        for value in merged.values():
            value.zero_()
    for weights, kept in zip([base, *children], [base_before, *before], strict=True):
        assert all(torch.equal(weights[key], kept[key]) for key in kept)


@every_merge
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keys_order_dtypes_and_shapes_are_kept(name: str, dtype: torch.dtype) -> None:
    base, children = _models(dtype=dtype)
    merged = _merge(name, base, children, 0.5)
    assert list(merged) == list(children[0])
    for key, value in children[0].items():
        assert merged[key].dtype == value.dtype
        assert merged[key].shape == value.shape


@every_case
def test_integer_and_boolean_buffers_are_the_first_childs(name: str, many: int) -> None:
    base, children = _models(many)
    for coefficient in MERGES[name].coefficients(many):
        merged = _merge(name, base, children, coefficient)
        assert merged["bn.num_batches_tracked"].item() == 11
        assert merged["mask"].tolist() == [True, False, True]


@pytest.mark.parametrize("name", sorted(n for n in MERGES if MERGES[n].arity == "any" and MERGES[n].symmetric))
def test_the_order_of_the_children_does_not_matter(name: str) -> None:
    base, children = _models(3, torch.float64)
    fishers, order = _fishers(3, torch.float64), (2, 0, 1)
    for coefficient in MERGES[name].coefficients(3):
        merged = MERGES[name](base, children, coefficient, fishers=fishers)
        turned = MERGES[name](base, [children[i] for i in order], coefficient, fishers=[fishers[i] for i in order])
        for key in FLOATING:
            torch.testing.assert_close(merged[key], turned[key], rtol=0, atol=1e-14)


@every_merge
def test_results_repeat(name: str) -> None:
    state = torch.random.get_rng_state()
    first, second = (_merge(name, *_models(), 0.5) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.random.get_rng_state(), state)


@every_merge
def test_wrong_keys_and_shapes_are_named(name: str) -> None:
    for position in (0, 2):
        base, children = _models()
        models = [base, *children]
        del models[position]["bias"]
        with pytest.raises(ValueError, match="same keys; bias is not in all"):
            _merge(name, base, children, 0.5)
        base, children = _models()
        [base, *children][position]["conv.weight"] = torch.zeros(4, 3, 3, 1)
        with pytest.raises(ValueError, match=r"same shapes; conv\.weight has .*\(4, 3, 3, 1\)"):
            _merge(name, base, children, 0.5)


@every_merge
def test_a_wrong_number_of_children_is_refused(name: str) -> None:
    wanted = {"pair": "exactly two", "any": "two or more"}[MERGES[name].arity]
    for many in (0, 1, *((3,) if MERGES[name].arity == "pair" else ())):
        base, children = _models(many)
        with pytest.raises(ValueError, match=f"merge '{name}' takes {wanted} children, got {many}"):
            MERGES[name](base, children, 0.5, fishers=_fishers(many))


@pytest.mark.parametrize("name", sorted(n for n in MERGES if "fishers" in MERGES[n].needs))
def test_missing_fishers_are_refused(name: str) -> None:
    base, children = _models()
    with pytest.raises(ValueError, match=f"merge '{name}' needs one diagonal Fisher per child, 2 in all, got none"):
        MERGES[name](base, children, 0.5)
    with pytest.raises(ValueError, match="2 in all, got 1"):
        MERGES[name](base, children, 0.5, fishers=_fishers(1))


# -- what single methods promise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["task_arithmetic", "uniform_soup"])
def test_half_the_task_vectors_and_the_soup_of_two_are_the_linear_midpoint(other: str) -> None:
    base, children = _models(dtype=torch.float64)
    midpoint = _merge("linear", base, children, 0.5)
    same = _merge(other, base, children, {"task_arithmetic": 0.5, "uniform_soup": 1.0}[other])
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
    base, children = _models(dtype=torch.float64)
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
        (seed, key, child): kept_mask(seed, key, child, like).double()
        for seed in (0, 1)
        for key in "vw"
        for child in (0, 1)
    }
    assert all(abs(float(m.mean()) - 0.5) < 0.025 for m in masks.values())
    correlations = torch.corrcoef(torch.stack(list(masks.values()))) - torch.eye(8)
    assert correlations.abs().max() < 0.05  # 5 standard errors
    assert torch.equal(masks[0, "v", 1], kept_mask(0, "v", 1, like).double())


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
    base, children = _models(dtype=torch.float64)
    (own, *_) = _fishers(1, torch.float64)
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
    base, children = _models(3)
    with pytest.raises(ValueError, match=r"alpha must be 1/3, the one weighting of 3 models, got 0\.5"):
        MERGES["fisher"](base, children, 0.5, fishers=_fishers(3))
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\] in merge 'fisher', got 1\.5"):
        MERGES["fisher"](base, children[:2], 1.5, fishers=_fishers(2))
    fishers = _fishers(2)
    fishers[1]["bias"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"Fisher must have the shape of bias, \(\), got \[\(\), \(2,\)\]"):
        MERGES["fisher"](base, children[:2], 0.5, fishers=fishers)
    del fishers[1]["bias"]
    with pytest.raises(ValueError, match=r"shape of bias, \(\), got \[\(\)\]"):
        MERGES["fisher"](base, children[:2], 0.5, fishers=fishers)


def test_grids() -> None:
    for name in ("linear", "slerp", "fisher"):
        assert MERGES[name].grid == pytest.approx(np.linspace(0, 1, 11))
        assert 0.5 in MERGES[name].grid  # the paper's number, to be found by ==
    for name in ("task_arithmetic", "ties", "dare"):
        assert MERGES[name].grid == pytest.approx(np.linspace(0, 1.5, 7))
    assert MERGES["uniform_soup"].grid == (1.0,)
    assert MERGES["fisher"].coefficients(4) == (0.25,)
    assert MERGES["ties"].coefficients(4) == MERGES["ties"].grid

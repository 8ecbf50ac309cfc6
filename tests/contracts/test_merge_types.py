"""Types of different width, numbers that are not finite, and running variances, in every merge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sweeper.formatting import FROM_BASE
from tests.support.merge_formulas import (
    FLOATING,
    FORMULAS,
    SEED,
    arrays_of,
    every_case,
    every_merge,
    extras_of,
    fishers_of,
    merge_by_name,
    models_of,
)
from trainables.merging.methods import MERGES

HALVES = [torch.float16, torch.bfloat16]


def _cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}


@every_case
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_combined_in_float32(name: str, many: int, dtype: torch.dtype) -> None:
    base, children = models_of(many, dtype)
    for coefficient in MERGES[name].coefficients(many):
        merged = merge_by_name(name, base, children, coefficient)
        wide = MERGES[name](
            _cast(base, torch.float32), [_cast(c, torch.float32) for c in children], coefficient, seed=SEED,
            **extras_of(children),
        )  # fmt: skip
        for key in FLOATING:
            assert merged[key].dtype == dtype
            assert torch.equal(merged[key], wide[key].to(dtype))


@every_merge
@pytest.mark.parametrize(
    ("one", "other", "widest"),
    [
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_the_widest_type_stays(name: str, one: torch.dtype, other: torch.dtype, widest: torch.dtype) -> None:
    base, (a, b) = models_of()
    models = [_cast(base, one), _cast(a, one), _cast(b, other)]
    extras = extras_of(models[1:], torch.float64)
    for coefficient in MERGES[name].grid:
        merged = MERGES[name](models[0], models[1:], coefficient, seed=SEED, **extras)
        wide = [_cast(m, widest) for m in models]
        wanted = MERGES[name](wide[0], wide[1:], coefficient, seed=SEED, **extras)
        for key in FLOATING:
            assert merged[key].dtype == widest
            torch.testing.assert_close(merged[key], wanted[key], rtol=0, atol=8 * torch.finfo(widest).eps)


@every_merge
def test_running_variances_are_extrapolated_to_0_at_most(name: str) -> None:
    base, children = models_of(dtype=torch.float64)
    base["bn.running_var"] = torch.tensor([1.0, 0.1, 2.0, 1.0], dtype=torch.float64)
    children[0]["bn.running_var"] = torch.tensor([0.01, 0.5, 0.1, 0.9], dtype=torch.float64)
    children[1]["bn.running_var"] = torch.tensor([0.02, 0.4, 1.9, 0.1], dtype=torch.float64)
    beyond = (-1.0, 2.0, 3.0) if name in ("linear", "slerp", *FROM_BASE) else ()
    for coefficient in (*MERGES[name].grid, *beyond):
        merged = merge_by_name(name, base, children, coefficient)
        fishers = [arrays_of(f) for f in fishers_of(2, torch.float64)]
        wanted = FORMULAS[name](arrays_of(base), [arrays_of(c) for c in children], coefficient, fishers)
        for key in FLOATING:
            formula = np.maximum(wanted[key], 0) if "running_var" in key else wanted[key]
            np.testing.assert_allclose(merged[key].numpy(), formula, rtol=0, atol=1e-13)


@every_case
def test_infinities_that_all_models_have_stay(name: str, many: int) -> None:
    base, children = models_of(many)
    mask = torch.full((3, 3), -float("inf")).triu(1)
    plain = [merge_by_name(name, base, children, c) for c in MERGES[name].coefficients(many)]
    models = [{**m, "mask": mask.clone()} for m in (base, *children)]
    for coefficient, without in zip(MERGES[name].coefficients(many), plain, strict=True):
        merged = merge_by_name(name, models[0], models[1:], coefficient)
        assert torch.equal(merged["mask"], mask)
        assert all(torch.equal(merged[k], without[k]) for k in FLOATING)


@every_case
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_child_that_is_not_finite_is_never_dropped(name: str, many: int, value: float) -> None:
    base, children = models_of(many)
    children[0]["conv.weight"][1, 1, 1, 1] = value
    for coefficient in MERGES[name].coefficients(many):
        merged = merge_by_name(name, base, children, coefficient)
        if MERGES[name].ends.get(coefficient) != "b":
            unused = MERGES[name].ends.get(coefficient) == "base"
            assert unused or not merged["conv.weight"].isfinite().all()


def test_a_fisher_that_is_not_finite_is_not_taken_for_0() -> None:
    base, children = models_of()
    fishers = fishers_of(2)
    fishers[1]["bias"] = torch.tensor(float("nan"))
    assert MERGES["fisher"](base, children, 0.5, fishers=fishers)["bias"].isnan()

"""What every merge keeps; each is compared with its formula written out in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.merging import MERGES

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
FORMULAS: dict[str, Formula] = {
    "linear": lambda base, a, b, alpha: (1 - alpha) * a + alpha * b,
    "task_arithmetic": lambda base, a, b, s: base + s * (a - base) + s * (b - base),
}
# coefficients at which merging a model with itself must give it back
NEUTRAL = {"linear": (0.0, 0.3, 0.5, 1.0), "task_arithmetic": (0.5,)}
# coefficient -> which of (base, a, b) comes out, bit for bit
ENDS = {"linear": {0.0: 1, 1.0: 2}, "task_arithmetic": {0.0: 0}}


def _weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=g, dtype=torch.float64).to(dtype),
        "bias": torch.randn((), generator=g, dtype=torch.float64).to(dtype),
        "bn.num_batches_tracked": torch.tensor(10 + seed),
        "mask": torch.tensor([True, False, bool(seed % 2)]),
    }


def _trio(dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    return _weights(0, dtype), _weights(1, dtype), _weights(2, dtype)


every_merge = pytest.mark.parametrize("name", sorted(MERGES))


def test_every_merge_is_covered_here() -> None:
    assert set(FORMULAS) == set(NEUTRAL) == set(ENDS) == set(MERGES)


@every_merge
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_equals_the_formula(name: str, dtype: torch.dtype) -> None:
    trio = _trio(dtype)
    for coefficient in MERGES[name].grid:
        merged = MERGES[name](*trio, coefficient)
        for key in ("conv.weight", "bias"):
            wanted = FORMULAS[name](*(w[key].numpy().astype(np.float64) for w in trio), coefficient)
            np.testing.assert_allclose(merged[key].numpy(), wanted, rtol=0, atol=8 * torch.finfo(dtype).eps)


@every_merge
def test_ends_are_bit_for_bit(name: str) -> None:
    for coefficient, which in ENDS[name].items():
        assert coefficient in MERGES[name].grid
        trio = _trio()
        merged = MERGES[name](*trio, coefficient)
        for key in ("conv.weight", "bias"):
            assert torch.equal(merged[key], trio[which][key])
            assert merged[key].data_ptr() != trio[which][key].data_ptr()


@every_merge
def test_merging_a_model_with_itself_gives_it_back(name: str) -> None:
    base, a, _ = _trio(torch.float64)
    for coefficient in NEUTRAL[name]:
        merged = MERGES[name](base, a, a, coefficient)
        for key, value in a.items():
            torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-15)


@every_merge
def test_inputs_stay_untouched_and_are_not_shared(name: str) -> None:
    trio, before = _trio(), _trio()
    for coefficient in MERGES[name].grid:
        merged = MERGES[name](*trio, coefficient)
        for value in merged.values():
            value.zero_()
    for weights, kept in zip(trio, before, strict=True):
        assert all(torch.equal(weights[key], kept[key]) for key in kept)


@every_merge
def test_keys_order_dtypes_and_shapes_are_kept(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        trio = _trio(dtype)
        merged = MERGES[name](*trio, 0.5)
        assert list(merged) == list(trio[1])
        for key, value in trio[1].items():
            assert merged[key].dtype == value.dtype
            assert merged[key].shape == value.shape


@every_merge
def test_integer_and_boolean_buffers_are_kept_from_a(name: str) -> None:
    trio = _trio()
    for coefficient in MERGES[name].grid:
        merged = MERGES[name](*trio, coefficient)
        assert merged["bn.num_batches_tracked"].item() == 11
        assert merged["mask"].tolist() == [True, False, True]


@every_merge
def test_wrong_keys_and_shapes_are_named(name: str) -> None:
    for position in (0, 2):
        trio = list(_trio())
        del trio[position]["bias"]
        with pytest.raises(ValueError, match="same keys; bias is not in all"):
            MERGES[name](trio[0], trio[1], trio[2], 0.5)
        trio = list(_trio())
        trio[position]["conv.weight"] = torch.zeros(4, 3, 3, 1)
        with pytest.raises(ValueError, match=r"same shapes; conv\.weight has .*\(4, 3, 3, 1\)"):
            MERGES[name](trio[0], trio[1], trio[2], 0.5)


def test_task_arithmetic_at_one_half_is_the_linear_midpoint() -> None:
    trio = _trio(torch.float64)
    half, midpoint = MERGES["task_arithmetic"](*trio, 0.5), MERGES["linear"](*trio, 0.5)
    for key in ("conv.weight", "bias"):
        torch.testing.assert_close(half[key], midpoint[key], rtol=0, atol=1e-15)


def test_grids() -> None:
    assert MERGES["linear"].grid == pytest.approx(np.linspace(0, 1, 11))
    assert 0.5 in MERGES["linear"].grid  # the paper's number, to be found by ==
    assert MERGES["task_arithmetic"].grid == pytest.approx(np.linspace(0, 1.5, 7))

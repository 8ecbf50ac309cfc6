from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainables.merging.grams import gram_matrices
from trainables.models.registry import build


class Conv1D(nn.Module):
    """The layer of transformers' GPT-2: weight [inputs, outputs]."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf, self.weight = outputs, nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out, self.unused = nn.Linear(6, 4), Conv1D(5, 4), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(x).relu()).mean(1))


def test_gram_matrices_are_the_mean_outer_products_of_the_inputs() -> None:
    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(300, 7, 6, dtype=torch.float64)
    grams = gram_matrices(model, model.state_dict(), x)
    hidden = model.first(x).relu()
    pooled = model.second(hidden).mean(1)
    wanted = {"first.weight": (x, 1), "second.weight": (hidden, 0), "out.weight": (pooled, 1)}
    assert set(grams) == set(wanted)
    for key, (inputs, axis) in wanted.items():
        rows = inputs.reshape(-1, inputs.shape[-1])
        outer = sum((torch.outer(r, r) for r in rows), torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype))
        torch.testing.assert_close(grams[key].matrix, outer / len(rows), rtol=1e-10, atol=1e-12)
        assert grams[key].axis == axis


def test_the_weights_count_and_the_models_own_stay() -> None:
    model = build("mlp", 3, 1, 4, {"widths": [5]})
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    others = {k: 2 * v for k, v in kept.items()}
    x = torch.rand(20, 1, 4, 4)
    one, other = gram_matrices(model, kept, x), gram_matrices(model, others, x)
    torch.testing.assert_close(other["head.weight"].matrix, 4 * one["head.weight"].matrix)
    torch.testing.assert_close(other["features.1.weight"].matrix, one["features.1.weight"].matrix)
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())


def test_a_weight_that_two_layers_share_has_none() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    assert set(gram_matrices(model, model.state_dict(), torch.rand(5, 4))) == {"3.weight"}


def test_no_inputs_are_refused() -> None:
    model = build("mlp", 3, 1, 4, {"widths": [5]})
    with pytest.raises(ValueError, match="need at least one input, got 0"):
        gram_matrices(model, model.state_dict(), torch.rand(0, 1, 4, 4))

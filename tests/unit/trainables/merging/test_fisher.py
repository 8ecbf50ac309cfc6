"""The Fisher against a loop over examples and classes, and against softmax regression's closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from trainables.merging.fisher import diagonal_fisher
from trainables.models.freezing import freeze
from trainables.models.registry import build
from trainables.models.seeding import seed_generators


def _images(n: int, channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(n, channels, size, size, generator=Generator().manual_seed(1), dtype=torch.float64)


def _model(name: str, classes: int, **options: Any) -> nn.Module:
    with seed_generators(0):
        return build(name, classes, 1, 8, options).double()


def _loop(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.eval()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = {n: torch.zeros_like(p) for n, p in trained.items()}
    for image in x:
        log_p = model(image[None]).log_softmax(1)[0]
        for value in log_p:
            gradients = torch.autograd.grad(value, list(trained.values()), retain_graph=True)
            for name, g in zip(trained, gradients, strict=True):
                total[name] += value.exp().detach() * g.square() / len(x)
    return total


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small_cnn", {}),
        ("small_cnn", {"norm": "batch"}),
        ("resnet18_32", {"width": 2}),
        ("small_vit", {"dim": 12, "depth": 2}),
    ],
)
def test_it_is_the_loop_over_examples_and_classes(name: str, options: dict[str, Any]) -> None:
    model, x = _model(name, 4, **options), _images(3)
    fisher = diagonal_fisher(model, model.state_dict(), x)
    wanted = _loop(model, x)
    assert list(fisher) == list(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(fisher[key], value, rtol=1e-9, atol=1e-13)
        assert not fisher[key].requires_grad
    assert max(v.max() for v in fisher.values()) > 1e-3


def test_softmax_regression_has_a_closed_form() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(), _images(50)
    with torch.no_grad():
        model[1].weight.mul_(4)
    fisher = diagonal_fisher(model, model.state_dict(), x)
    p = model(x).softmax(1).detach()
    spread = p * (1 - p)  # variance of [y = k] under the model's own labels
    wanted = spread.T @ x.flatten(1).square() / len(x)
    torch.testing.assert_close(fisher["1.weight"], wanted, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(fisher["1.bias"], spread.mean(0), rtol=1e-12, atol=1e-15)


def test_the_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = _model("small_cnn", 3), _images(5)
    whole = diagonal_fisher(model, model.state_dict(), x)
    for entries in (1, 2 * sum(p.numel() for p in model.parameters())):
        monkeypatch.setattr("trainables.merging.fisher.CHUNK", entries)
        parts = diagonal_fisher(model, model.state_dict(), x)
        for key, value in whole.items():
            torch.testing.assert_close(parts[key], value, rtol=1e-12, atol=1e-15)


def test_more_than_ten_classes_draw_one_label_an_image_without_bias() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 12)).double(), _images(4)
    weights = model.state_dict()
    p = model(x).softmax(1).detach()
    wanted = (p * (1 - p)).T @ x.flatten(1).square() / len(x)
    many = x.repeat(2000, 1, 1, 1)
    drawn = diagonal_fisher(model, weights, many, Generator().manual_seed(0))
    # of one draw (1 - p)^2 comes with probability p, p^2 else: variance p (1 - p) (1 - 2p)^2
    variance = (p * (1 - p) * (1 - 2 * p) ** 2).T @ x.flatten(1) ** 4 / len(x) / len(many)
    z = (drawn["1.weight"] - wanted) / variance.sqrt()
    assert z.abs().max() < 5  # of 768, which share 48 draws
    assert 0.5 < z.square().mean().item() < 2
    again = diagonal_fisher(model, weights, many, Generator().manual_seed(0))
    assert torch.equal(drawn["1.weight"], again["1.weight"])
    with pytest.raises(ValueError, match="a Fisher of more than 10 classes needs a generator, got 12 classes and none"):
        diagonal_fisher(model, weights, x)


def test_it_is_taken_at_the_weights_given_and_leaves_the_model_alone() -> None:
    model, other, x = _model("small_cnn", 3, norm="batch").train(), _model("small_cnn", 3, norm="batch"), _images(2)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.3)
        other.features[1].running_mean.add_(0.1)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    fisher = diagonal_fisher(model, other.state_dict(), x)
    for key, value in _loop(other, x).items():
        torch.testing.assert_close(fisher[key], value, rtol=1e-9, atol=1e-13)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_frozen_parameters_have_none_and_shared_ones_have_it_under_both_names() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 3), nn.Linear(3, 3)).double()
    model[3].weight = model[2].weight
    freeze(model, ["1.*"])
    fisher = diagonal_fisher(model, model.state_dict(), _images(4))
    assert set(fisher) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    assert torch.equal(fisher["2.weight"], fisher["3.weight"])
    # the gradient of the shared weight is the sum of what both layers see
    torch.testing.assert_close(fisher["2.weight"], _loop(model, _images(4))["2.weight"], rtol=1e-9, atol=1e-13)


def test_no_images_are_refused() -> None:
    model = _model("small_cnn", 3)
    with pytest.raises(ValueError, match="a Fisher needs at least one image, got 0"):
        diagonal_fisher(model, model.state_dict(), _images(0))

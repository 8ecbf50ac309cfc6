from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainables.models.heads import head_of, penultimate, replace_head
from trainables.models.registry import build
from trainables.models.seeding import seed_generators

HEADS = {
    "small_cnn": "head",
    "resnet18_32": "fc",
    "resnet18": "fc",
    "small_vit": "head",
    "timm:test_resnet": "fc",
    "timm:test_convnext": "head.fc",
    "timm:test_efficientnet": "classifier",
    "timm:test_nfnet": "head.fc",
    "torchvision:shufflenet_v2_x0_5": "fc",
    "torchvision:squeezenet1_1": "classifier.1",
    "torchvision:mobilenet_v3_small": "classifier.3",
    "torchvision:mnasnet0_5": "classifier.1",
}
OPTIONS = {"resnet18_32": {"width": 4}, "small_vit": {"dim": 12, "depth": 2}}


def _model(name: str) -> nn.Module:
    with seed_generators(0):
        return build(name, 6, 3, 32, OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", sorted(HEADS))
def test_the_head_turns_the_penultimate_features_into_the_logits(name: str) -> None:
    model = _model(name).eval()
    head = head_of(model)
    assert head == HEADS[name] == head_of(model, 6)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    features = penultimate(model, model.state_dict(), x, head)
    layer = model.get_submodule(head)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    assert features.shape == (3, weight.shape[1])
    if name != "torchvision:squeezenet1_1":  # its head is followed by a ReLU
        with torch.no_grad():
            torch.testing.assert_close(features @ weight.flatten(1).T + bias, model(x), rtol=1e-4, atol=1e-5)


def test_features_are_those_of_the_weights_given_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.9), nn.Linear(3, 2)).train()
    weights = {k: torch.full_like(v, 2.0) for k, v in model.state_dict().items()}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    features = penultimate(model, weights, torch.ones(5, 1, 2, 2), "3")
    assert features.tolist() == [[10.0] * 3] * 5
    assert not features.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model[3]._forward_pre_hooks


@pytest.mark.parametrize("name", ["small_cnn", "resnet18_32", "timm:test_vit", "torchvision:squeezenet1_1"])
def test_a_replaced_head_has_the_new_classes_and_fresh_weights(name: str) -> None:
    model = _model(name).double()
    head = head_of(model)
    kept = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith(f"{head}.")}
    with seed_generators(1):
        replace_head(model, head, 9)
    assert model.eval()(torch.zeros(2, 3, 32, 32).double()).shape == (2, 9)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in kept.items())
    layer = model.get_submodule(head)
    assert (layer.weight.dtype, layer.weight.requires_grad) == (torch.float64, True)
    # uniform in +-1/sqrt(inputs), as torch draws them
    bound = layer.weight[0].numel() ** -0.5
    assert 0.9 * bound < layer.weight.abs().max().item() <= bound
    assert 0 < layer.bias.abs().max().item() <= bound


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.output, self.aside = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.body(x))


def test_without_a_usual_name_the_last_linear_layer_with_the_classes_counts() -> None:
    assert head_of(_Own(), 2) == "output"
    assert head_of(_Own()) == "aside"
    assert head_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2), nn.ReLU())) == "2"


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head(x))


def test_models_without_one_head_are_refused() -> None:
    with pytest.raises(ValueError, match="must end in a linear layer with 9 outputs"):
        head_of(_Own(), 9)
    with pytest.raises(ValueError, match="must end in a linear layer to have"):
        head_of(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()))
    with pytest.raises(ValueError, match="must have one head, this one has several"):
        head_of(build("timm:deit_tiny_distilled_patch16_224", 5, 3, 32, {"depth": 1, "embed_dim": 12}))
    with pytest.raises(ValueError, match=r"head 'head' must run once, on \[n, features\], got \[\(2, 4\), \(2, 4\)\]"):
        penultimate(_Twice(), _Twice().state_dict(), torch.ones(2, 4), "head")

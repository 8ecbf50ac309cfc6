from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from tests.support.waiting import PATIENCE
from trainables.models.freezing import freeze
from trainables.models.registry import build, has_batchnorm
from trainables.models.seeding import seed_generators


def _resnet() -> nn.Module:
    with seed_generators(0):
        model = build("resnet18_32", 5, 3, 16, {"width": 4})
        update_bn([torch.randn(32, 3, 16, 16)], model)  # statistics that are not the initial ones
    return model.eval()


def _images() -> Tensor:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_parameters_that_match_are_frozen_and_no_others() -> None:
    model = _resnet()
    frozen = freeze(model, ["conv1.*", "layer[12].*.conv?.weight"])
    names = {n for n, _ in _resnet().named_parameters()}
    wanted = {n for n in names if n.startswith(("conv1.", "layer1.", "layer2.")) and "conv" in n}
    assert set(frozen) == wanted
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == wanted
    assert len(wanted) == 9


def test_frozen_features_stay_through_training_and_re_estimation() -> None:
    model = _resnet()
    before, x = copy.deepcopy(model), _images()
    freeze(model, ["conv1.*", "bn1.*", "layer1.*"])

    def features(of: nn.Module) -> Tensor:
        return of.layer1(of.relu(of.bn1(of.conv1(x)))).detach()

    reference = features(before)
    torch.testing.assert_close(features(model), reference, rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    update_bn([x], model)
    torch.testing.assert_close(features(model.train()), reference, rtol=1e-5, atol=1e-5)
    # behind them statistics and weights moved
    assert not torch.equal(model.layer2[0].bn1.running_mean, before.layer2[0].bn1.running_mean)
    assert not torch.equal(model.fc.weight, before.fc.weight)


def test_weights_keep_their_names_and_load_into_the_model_as_it_was() -> None:
    model, plain = _resnet(), _resnet()
    names = set(model.state_dict())
    freeze(model, ["layer*"])
    assert {n for n in names if not n.endswith("num_batches_tracked")} <= set(model.state_dict()) <= names
    with torch.no_grad():
        model.fc.weight.mul_(2)
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(plain(_images()), model(_images()), rtol=1e-5, atol=1e-5)


def test_batchnorm_moves_while_one_of_its_parameters_is_trained() -> None:
    model = _resnet()
    freeze(model, ["bn1.weight", "layer*"])
    assert type(model.bn1) is nn.BatchNorm2d
    assert has_batchnorm(model)
    freeze(model, ["bn1.*"])
    assert not has_batchnorm(model)


@pytest.mark.parametrize("norm", [BatchNormAct2d(3), nn.BatchNorm2d(3, affine=False)], ids=["timm", "plain"])
def test_every_kind_of_batchnorm_for_images_is_fixed(norm: nn.Module) -> None:
    norm.running_mean += 0.5
    model = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Flatten(), nn.Linear(3 * 256, 2)).double().eval()
    x = _images().double()
    wanted = model(x).detach()
    freeze(model, ["0.*", "1.*"] if list(norm.parameters()) else ["0.*", "[01].*"])
    assert has_batchnorm(model) is False
    torch.testing.assert_close(model.train()(x), wanted, rtol=1e-12, atol=1e-12)


def test_layers_that_keep_no_statistics_are_left_alone() -> None:
    plain = nn.BatchNorm2d(3, track_running_stats=False)
    model = nn.Sequential(plain, nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 2))
    freeze(model, ["0.*", "1.*"])
    assert model[0] is plain


def test_parameters_with_two_names_answer_to_both() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    freeze(model, ["1.weight"])
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["layer5.*"], r"freeze pattern 'layer5\.\*' matches no parameter; the nearest are layer"),
        (["conv1.*", "fcc.weight"], r"freeze pattern 'fcc\.weight' matches no parameter; the nearest are fc\.weight"),
        (["zzz"], r"freeze pattern 'zzz' matches no parameter; the nearest are conv1\.weight"),
        (["*"], r"freeze must leave parameters to train, got \['\*'\], which match all 62"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(patterns: list[str], message: str) -> None:
    model = _resnet()
    with pytest.raises(ValueError, match=message):
        freeze(model, patterns)
    assert all(p.requires_grad for p in model.parameters())


def test_batchnorm_of_vectors_cannot_be_fixed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="a frozen normalisation must be BatchNorm2d, 1 is BatchNorm1d"):
        freeze(model, ["0.*", "1.*"])


def test_a_small_network_trains_without_the_large_libraries() -> None:
    # each takes a second or more, in every process that trains
    code = (
        "import sys; from trainables.pair.run import inspect, run_pair; from trainables.runtime import Runtime;"
        "from trainables.spec import PairSpec;"
        "spec = PairSpec(dataset='digits', model='small_cnn', learning_rate=.1, batch_size=64, steps=2,"
        " base={'steps': 1});"
        "inspect([spec], Runtime()); run_pair(spec, Runtime(measure=0));"
        "print({'timm', 'torchvision', 'transformers', 'peft', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.strip() == "set()"

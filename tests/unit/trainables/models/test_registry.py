from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.models import registry
from trainables.models.heads import head_of
from trainables.models.registry import MODELS, build, has_batchnorm
from trainables.models.seeding import seed_generators
from trainables.registry import UnknownName

SMALL = {"resnet18_32": {"width": 4}, "small_vit": {"dim": 12, "depth": 2}}
EXACT = {
    # three convolutions with bias, a scale and a shift per normalised channel, the head on 2x2 positions
    "small_cnn": (1, (9 * 16 + 16) + (9 * 16 * 32 + 32) + (9 * 32 * 28 + 28) + 2 * (16 + 32 + 28) + (28 * 4 * 10 + 10)),
    "mlp": (1, (32 * 32 * 256 + 256) + (256 * 128 + 128) + (128 * 10 + 10)),
    "resnet18_32": (3, 11_173_962),
    "resnet18": (3, 11_689_512 - 513 * 990),  # torchvision's published count, less its other 990 classes
    # patches, class token, 65 positions, blocks of two norms, attention and a 4x MLP, norm, head
    "small_vit": (3, 49 * 192 + 192 * 66 + 6 * (12 * 192**2 + 13 * 192) + 2 * 192 + 193 * 10),
}


@pytest.fixture(autouse=True)
def _one_seed():
    with seed_generators(0):
        yield


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _logits(model: nn.Module, channels: int, size: int) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.rand(2, channels, size, size))


def test_sizes() -> None:
    assert EXACT["small_cnn"] == (1, 14_174)
    assert set(EXACT) == set(MODELS) - {"gpt"}
    for name, (channels, wanted) in EXACT.items():
        assert _count(build(name, 10, channels, 32, {})) == wanted


@pytest.mark.parametrize("name", sorted(EXACT))
@pytest.mark.parametrize(("classes", "channels", "size"), [(10, 1, 8), (7, 3, 28)])
def test_models_map_images_to_logits(name: str, classes: int, channels: int, size: int) -> None:
    model = build(name, classes, channels, size, SMALL.get(name, {}))
    assert _logits(model, channels, size).shape == (2, classes)
    with seed_generators(0):
        first = build(name, classes, channels, size, SMALL.get(name, {})).state_dict()
    with seed_generators(0):
        again = build(name, classes, channels, size, SMALL.get(name, {})).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in first.items())


def test_the_small_resnet_is_torchvisions_but_for_its_stem() -> None:
    from torchvision.models import resnet18

    ours, theirs = build("resnet18_32", 10, 3, 32, {}).eval(), resnet18(num_classes=10).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        assert ours.layer1(ours.conv1(x)).shape == (2, 64, 32, 32)
    # torchvision's initial weights: variance 2 / (outputs * area)
    assert ours.layer2[0].conv2.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


def test_stem_stride_quarters_the_work() -> None:
    narrow, wide = MODELS["small_cnn"](10, 1, stem_stride=2), MODELS["small_cnn"](10, 1)
    x = torch.zeros(1, 1, 28, 28)
    assert narrow(x).shape == (1, 10)
    assert narrow.features[0](x).shape[2:] == (14, 14)
    assert wide.features[0](x).shape[2:] == (28, 28)


def test_batchnorm_is_seen_wherever_it_is() -> None:
    assert not has_batchnorm(MODELS["small_cnn"](10, 1))
    assert has_batchnorm(MODELS["small_cnn"](10, 1, norm="batch"))
    assert has_batchnorm(build("resnet18_32", 10, 3, 32, {"width": 4}))
    assert has_batchnorm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(3))))
    assert not has_batchnorm(nn.Sequential(nn.LayerNorm(3), nn.Dropout()))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("small_cnn", {"norm": "layer"}, "norm must be 'group' or 'batch', got 'layer'"),
        ("mlp", {"norm": "group"}, "norm must be 'none', 'layer' or 'batch', got 'group'"),
        ("mlp", {"widths": []}, r"widths must be a list of 1 to 64 whole numbers >= 1, got \[\]"),
        ("mlp", {"widths": [8, 0.5]}, r"widths must be a list of 1 to 64 whole numbers >= 1, got \[8, 0.5\]"),
        ("mlp", {"widths": 8}, "widths must be a list of 1 to 64 whole numbers >= 1, got 8"),
        ("resnet18_32", {"width": 0}, "width must be >= 1, got 0"),
        ("small_vit", {"patch": 5}, "patch must divide the image's size 32x32, got 5"),
        ("small_vit", {"heads": 5}, "heads must divide dim 192, got 5"),
        ("small_cnn", {"depth": 3}, "model 'small_cnn' has no option 'depth'; known: "),
        ("small_cnn", {"stem_stride": "2"}, "option stem_stride of model 'small_cnn' must be a whole number, got '2'"),
        ("resnet18", {"depth": 3}, "model 'resnet18' has no option 'depth'"),
        ("timm:resnet18", {"bogus": 3}, "model 'timm:resnet18' has no option 'bogus'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, 10, 3, 32, options)


# -- a user's own -----------------------------------------------------------------------------------------------------


def _mlp(classes: int, channels: int, width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, classes))


def test_an_mlp_has_the_norm_before_each_relu_and_only_batchnorm_has_statistics() -> None:
    for norm, kind in {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}.items():
        model = build("mlp", 4, 3, (8, 6), {"widths": [7, 5], "norm": norm})
        assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [7, 5, 4]
        assert sum(isinstance(m, kind) for m in model.modules()) == 2
        assert has_batchnorm(model) == (norm == "batch")
        assert model.eval()(torch.rand(2, 3, 8, 6)).shape == (2, 4)


def _sized(classes: int, channels: int, size: int | tuple[int, int], **options: int) -> nn.Module:
    height, width = (size, size) if isinstance(size, int) else size
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width + options["more"], classes))


@pytest.mark.usefixtures("own_registries")
def test_a_users_builder_takes_the_size_only_where_it_asks_for_it() -> None:
    MODELS.add("my_mlp", _mlp)
    MODELS.add("my_sized", _sized)
    assert build("my_mlp", 5, 1, 8, {"width": 3})[3].in_features == 3
    for size in (8, (8, 8), (4, 16)):
        assert build("my_sized", 5, 2, size, {"more": 1})[1].in_features == 2 * 64 + 1
    assert build("my_sized", 5, 2, 8, {"more": 0, "size": 4})[1].in_features == 2 * 16
    with pytest.raises(ValueError, match="model 'my_mlp' has no option 'depth'; did you mean width"):
        build("my_mlp", 5, 1, 8, {"depth": 3})


# -- timm and torchvision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module", "size", "channels"),
    [
        ("test_resnet", "timm", 40, 1),  # any size, converted stem
        ("vit_tiny_patch16_224", "timm", 32, 3),  # a fixed size
        ("timm:test_vit", "timm", 48, 2),
        ("timm:mobilenetv3_small_050.lamb_in1k", "timm", 32, 3),  # a name with the tag of its weights
        ("torchvision:squeezenet1_1", "torchvision", 32, 1),  # a convolution as head
        ("shufflenet_v2_x0_5", "torchvision", 32, 4),
    ],
)
def test_library_models_map_images_to_logits(name: str, module: str, size: int, channels: int) -> None:
    model = build(name, 6, channels, size, {})
    assert type(model).__module__.split(".")[0] == module
    assert _logits(model, channels, size).shape == (2, 6)
    assert model.get_submodule(head_of(model, 6)).weight.shape[0] == 6


def test_sizes_that_a_library_refuses_are_its_own_words() -> None:
    wanted = "timm cannot build 'test_vit_relpos' for images of size 4: Trying to create tensor with negative dimension"
    with pytest.raises(ValueError, match=wanted):
        build("timm:test_vit_relpos", 10, 3, 4, {})


def test_our_names_go_first_then_timms() -> None:
    assert MODELS["resnet18"] is registry.resnet18
    assert MODELS["torchvision:resnet18"].args == ("resnet18",)
    assert MODELS["timm:resnet18"].func is MODELS["densenet121"].func is registry._timm
    assert MODELS["vit_b_16"].func is registry._torchvision
    assert "densenet121" not in MODELS  # names that are listed are ours
    assert MODELS.get("no such thing") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal_cnn", "unknown model 'smal_cnn'; did you mean .*small_cnn"),
        ("resnet19", "unknown model 'resnet19'; did you mean .*resnet1"),
        ("vit_tiny_patch16_223", "did you mean .*vit_tiny_patch16_224"),
        ("timm:resnet18x", "unknown model 'timm:resnet18x'; did you mean .*timm:resnet18"),
        ("torchvision:densenet120", "did you mean .*torchvision:densenet121"),
        ("resnet18.a1_in1", r"did you mean .*resnet18\.a1_in1k"),
        ("timm:vit_b_16_", "did you mean timm:"),
        (
            "qqqqqqqqqqqqqq",
            r"'qqqqqqqqqqqqqq'; known: gpt, .*resnet18, .*small_vit, every model of timm and",
        ),
        ("hf-hub:timm/resnet18", "unknown model 'hf-hub:timm/resnet18'; did you mean"),
    ],
)
def test_an_unknown_name_is_met_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message) as error:
        build(name, 10, 3, 32, {})
    assert len(str(error.value)) < 200


# -- pretrained weights -----------------------------------------------------------------------------------------------


def _save_timm(path: Path) -> dict[str, Tensor]:
    import timm

    state = timm.create_model("test_vit", num_classes=1000).state_dict()
    torch.save(state, path)
    return state


def test_pretrained_weights_of_timm_keep_all_but_the_head(tmp_path: Path) -> None:
    state = _save_timm(tmp_path / "w.pth")
    options = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.pth")}}
    model = build("timm:test_vit", 7, 3, 160, options, pretrained=True)
    head = head_of(model, 7)
    now = model.state_dict()
    assert {k for k in state if not torch.equal(state[k], now[k])} == {f"{head}.weight", f"{head}.bias"}
    # timm sums a stem's channels, so that grey images as colours give what they gave
    grey = build("timm:test_vit", 7, 1, 160, options, pretrained=True).state_dict()
    stem = next(k for k in state if k.endswith("patch_embed.proj.weight"))
    torch.testing.assert_close(grey[stem], state[stem].sum(1, keepdim=True))


def _hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_pretrained_weights_of_torchvision_come_from_its_cache(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torchvision.models import get_model, get_model_weights

    state = get_model(name).state_dict()
    torch.save(state, _hub(monkeypatch, tmp_path) / Path(get_model_weights(name).DEFAULT.url).name)
    model = build(f"torchvision:{name}", 7, 3, 32, {}, pretrained=True)
    head, now = head_of(model, 7), model.state_dict()
    differ = {k for k in state if state[k].shape != now[k].shape or not torch.equal(state[k], now[k])}
    assert differ == {f"{head}.weight", f"{head}.bias"}
    assert _logits(model, 3, 32).shape == (2, 7)


def _no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network in tests\nat all")


def _no_weights(*args: object, **kwargs: object) -> None:
    raise RuntimeError("No pretrained weights exist")


def test_pretrained_weights_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hub(monkeypatch, tmp_path)
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", _no_network)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=lambda *_, **__: None))
    for name, full in {"resnet18": "torchvision:resnet18", "test_vit": "timm:test_vit"}.items():
        wanted = (
            rf"weights of {full} are not in .* cache and cannot be downloaded \(no network in tests\); fetch them once"
        )
        with pytest.raises(ValueError, match=wanted):
            build(name, 10, 3, 32, {}, pretrained=True)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    offline: list[bool] = []

    def load(*args: object, **kwargs: object) -> None:
        offline.append(constants.HF_HUB_OFFLINE)
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", load)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=_no_network))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    wanted = r"timm:test_vit are not in .* \(https://\S+ does not answer: no network in tests\); fetch them once"
    with pytest.raises(ValueError, match=wanted):
        build("test_vit", 10, 3, 32, {}, pretrained=True)
    assert offline == [True]  # only the cache was read
    assert not constants.HF_HUB_OFFLINE


def test_the_head_is_the_same_whether_weights_come_from_the_cache_or_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from huggingface_hub import constants

    full = timm.create_model("test_vit").state_dict()

    def load(missing: bool) -> Any:
        def read(*args: object, **kwargs: object) -> Any:
            if missing and constants.HF_HUB_OFFLINE:
                raise FileNotFoundError("not in the cache")
            return dict(full)

        return read

    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=lambda *_, **__: None))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    heads: list[torch.Tensor] = []
    for missing in (False, True):
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", load(missing))
        torch.manual_seed(3)
        heads.append(build("test_vit", 7, 3, 160, {}, pretrained=True).state_dict()["head.weight"])
    assert torch.equal(*heads)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(build, "small_cnn", 10, 3, 32, {}),
            "model 'small_cnn' has no pretrained weights; name a",
        ),
        (
            partial(build, "resnet18", 10, 1, 32, {}),
            "weights of torchvision:resnet18 take 3 channels, got 1",
        ),
        (
            partial(build, "timm:test_vit", 10, 3, 32, {}),
            "weights of timm:test_vit cannot be used: No pretrained",
        ),
        (partial(build, "torchvision:vit_b_16", 10, 3, 32, {}), "vit_b_16 cannot be used: .*expected value 224"),
    ],
)
def test_pretrained_weights_that_cannot_be_used(
    make: Callable[..., nn.Module], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm.models._builder.load_pretrained", _no_weights)
    with pytest.raises(ValueError, match=message):
        make(pretrained=True)

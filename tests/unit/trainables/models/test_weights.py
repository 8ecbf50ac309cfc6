"""Start weights from a file, compared with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.models.heads import head_of
from trainables.models.registry import build
from trainables.models.seeding import seed_generators
from trainables.models.weight_files import sha256_of
from trainables.models.weights import load_start


def _model(name: str = "small_cnn", classes: int = 10, seed: int = 0, **options: Any) -> nn.Module:
    with seed_generators(seed):
        return build(name, classes, 3, 16, options)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize(
    ("name", "options"),
    [("small_cnn", {"norm": "batch"}), ("resnet18_32", {"width": 4}), ("small_vit", {"dim": 12, "depth": 1})],
)
def test_all_values_are_the_files(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs, model = _model(name, seed=1, **options), _model(name, seed=2, **options)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    start, sha = load_start(model, tmp_path / "w.pt", head_of(model, 10))
    assert _same(start, dict(theirs.state_dict()))
    assert sha == sha256_of(tmp_path / "w.pt")
    assert _same(dict(model.state_dict()), before)  # left as it was, and not shared
    assert not {v.data_ptr() for v in start.values()} & {v.data_ptr() for v in model.state_dict().values()}


@pytest.mark.parametrize("change", ["classes", "no head", "no bias"])
def test_another_tasks_head_is_left_fresh_as_a_whole(change: str, tmp_path: Path) -> None:
    theirs, model = _model(classes=7 if change == "classes" else 10, seed=1), _model(seed=2)
    state = theirs.state_dict()
    for key in {"classes": [], "no head": ["head.weight", "head.bias"], "no bias": ["head.bias"]}[change]:
        del state[key]
    torch.save(state, tmp_path / "w.pt")
    start, _ = load_start(model, tmp_path / "w.pt", "head")
    own = model.state_dict()
    assert list(start) == list(own)
    assert all(torch.equal(v, own[k] if k.startswith("head.") else state[k]) for k, v in start.items())


def test_values_take_the_models_type_and_old_files_need_no_counters(tmp_path: Path) -> None:
    theirs, model = _model(seed=1, norm="batch"), _model(seed=2, norm="batch").double()
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "w.safetensors")
    start, _ = load_start(model, tmp_path / "w.safetensors", "head")
    assert {v.dtype for k, v in start.items() if k in state} == {torch.float64}
    assert all(torch.equal(start[k], v.half().double()) for k, v in state.items())
    assert all(start[k].item() == 0 for k in start if k not in state)


def test_a_file_of_another_architecture_names_the_keys_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(_model("resnet18_32", width=4).state_dict(), path)
    with pytest.raises(ValueError, match="does not fit model SmallCNN") as error:
        load_start(_model(), path, "head")
    assert str(error.value) == (
        f"weights file {path} does not fit model SmallCNN: "
        "12 missing (features.0.weight, features.0.bias, features.1.weight, ...); "
        "102 unexpected (conv1.weight, bn1.weight, bn1.bias, ...)"
    )


def test_other_shapes_are_named_with_both(tmp_path: Path) -> None:
    grey = build("small_cnn", 10, 1, 16, {})
    torch.save(grey.state_dict(), tmp_path / "w.pt")
    wanted = r"SmallCNN: 1 other shape \(features\.0\.weight \(16, 1, 3, 3\) instead of \(16, 3, 3, 3\)\)$"
    with pytest.raises(ValueError, match=wanted):
        load_start(_model(), tmp_path / "w.pt", "head")


# -- numbers that no model can have ------------------------------------------------------------------------------------


def _refused(state: dict[str, Tensor], message: str, folder: Path, model: nn.Module | None = None) -> None:
    torch.save(state, folder / "w.pt")
    with pytest.raises(ValueError, match=message) as error:
        load_start(model or _model(norm="batch"), folder / "w.pt", "head")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    state = dict(_model(norm="batch").state_dict())
    state["features.1.running_var"][2] = value
    _refused(
        state, r"w\.pt holds numbers that are not finite in features\.1\.running_var; the model diverged", tmp_path
    )
    for key in state:
        if state[key].is_floating_point():
            state[key] = torch.full_like(state[key], value)
    named = r"not finite in features\.0\.weight, features\.0\.bias, features\.1\.weight, \.\.\.; the model"
    _refused(state, named, tmp_path)


def test_numbers_that_the_models_type_cannot_hold_are_named(tmp_path: Path) -> None:
    state = {k: v.double() if v.is_floating_point() else v for k, v in _model(norm="batch").state_dict().items()}
    state["head.bias"][0] = 1e300
    _refused(state, r"w\.pt holds numbers in head\.bias that are too large for float32$", tmp_path)
    torch.save(state, tmp_path / "w.pt")
    start, _ = load_start(_model(norm="batch").double(), tmp_path / "w.pt", "head")
    assert start["head.bias"][0].item() == 1e300


class Masked(nn.Module):
    """A constant of infinities, as causal attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.register_buffer("mask", torch.full((3, 3), -float("inf")).triu(1))


def test_infinities_that_the_model_has_itself_are_no_fault(tmp_path: Path) -> None:
    state = dict(Masked().state_dict())
    torch.save(state, tmp_path / "w.pt")
    start, _ = load_start(Masked(), tmp_path / "w.pt", "head")
    assert torch.equal(start["mask"], state["mask"])
    _refused(state | {"mask": state["mask"] - 1e9 * torch.eye(3) / 0}, "not finite in mask", tmp_path, Masked())


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.uint8])
def test_parameters_that_are_no_floating_point_numbers_are_named(dtype: torch.dtype, tmp_path: Path) -> None:
    kind = str(dtype).removeprefix("torch.")
    state = dict(_model(norm="batch").state_dict())
    _refused(
        state | {"head.bias": torch.ones(10).to(dtype)},
        rf"holds weights that are not floating-point numbers: head\.bias \({kind}\); save the model before",
        tmp_path,
    )
    ints = {k: v.to(dtype) for k, v in state.items()}
    _refused(ints, rf"features\.0\.weight \({kind}\), features\.0\.bias .*, features\.1\.weight .*, \.\.\.; ", tmp_path)
    _refused(state | {"features.1.running_var": torch.ones(16).to(dtype)}, rf"1\.running_var \({kind}\)", tmp_path)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(10, dtype=torch.complex64), "complex64"),
        (torch.ones(10).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(10).to_sparse(), "sparse_coo float32"),
        (torch.empty(10, device="meta"), "meta float32"),
    ],
    ids=["complex", "float8", "sparse", "meta"],
)
def test_other_types_and_layouts_are_named(tensor: Tensor, kind: str, tmp_path: Path) -> None:
    state = dict(_model(norm="batch").state_dict()) | {"head.bias": tensor}
    _refused(
        state,
        rf"holds tensors that cannot be merged: head\.bias \({kind}\); save a dense floating-point model",
        tmp_path,
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_tensors_are_named(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8)
    state = dict(_model(norm="batch").state_dict()) | {"head.bias": tensor}
    _refused(state, r"cannot be merged: head\.bias \(quantized qint8\)", tmp_path)


def test_counters_take_whole_numbers_of_any_type(tmp_path: Path) -> None:
    state, counter = dict(_model(norm="batch").state_dict()), "features.1.num_batches_tracked"
    for value in (torch.tensor(7), torch.tensor(7, dtype=torch.int32), torch.tensor(7.0)):
        torch.save(state | {counter: value}, tmp_path / "w.pt")
        start, _ = load_start(_model(norm="batch"), tmp_path / "w.pt", "head")
        assert (start[counter].item(), start[counter].dtype) == (7, torch.int64)
    _refused(state | {counter: torch.tensor(7.5)}, rf"{counter} as float32, which does not fit int64", tmp_path)


def test_a_model_without_shapes_takes_no_file(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"but 1\.weight has none yet; run one batch in its builder"):
        load_start(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), tmp_path / "w.pt", "")


def test_double_precision_of_a_file_reaches_a_double_model(tmp_path: Path) -> None:
    from trainables.pair.setup import prepare
    from trainables.runtime import Runtime
    from trainables.spec import PairSpec

    with seed_generators(3):
        state = build("small_cnn", 10, 1, 8, {}).double().state_dict()
    state["head.bias"] += 1e-12
    torch.save(state, tmp_path / "w.pt")
    spec = PairSpec(
        dataset="digits", model="small_cnn", learning_rate=0.1, batch_size=32, dtype="float64",
        weights=str(tmp_path / "w.pt"), base={"steps": 0},
    )  # fmt: skip
    base = prepare(spec, Runtime()).tasks[0].base
    assert all(torch.equal(v, base[k]) for k, v in state.items())

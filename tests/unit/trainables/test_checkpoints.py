from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.checkpoints import load_start, read_weights, sha256_of
from trainables.heads import head_of
from trainables.models import build
from trainables.seeding import seeded


def _model(name: str = "small_cnn", classes: int = 10, seed: int = 0, **options: Any) -> nn.Module:
    with seeded(seed):
        return build(name, classes, 3, 16, options)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"epoch": 3, "model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"model_state_dict": {"state_dict": s}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
    ],
    ids=["plain", "state_dict", "model", "nested", "ddp", "compiled", "both"],
)
def test_torch_files_are_opened_to_the_state_dict(wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path) -> None:
    state = _model(norm="batch").state_dict()
    torch.save(wrap(dict(state)), tmp_path / "w.pt")
    assert _same(read_weights(tmp_path / "w.pt"), dict(state))


def test_safetensors_are_read_by_their_suffix(tmp_path: Path) -> None:
    state = dict(_model(norm="batch").state_dict())
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.safetensors")
    read = read_weights(str(tmp_path / "w.safetensors"))
    assert _same({k: read[k] for k in state}, state)
    assert len(read) == len(state)


def test_a_prefix_that_only_some_keys_have_is_a_name(tmp_path: Path) -> None:
    weights = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "w.pt")
    assert _same(read_weights(tmp_path / "w.pt"), weights)


class _Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _torch(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("w.pt", lambda path: None, r"weights must name a file, got '.*w\.pt', which is none"),
        (
            "w.pt",
            _torch({"a": _Runs()}),
            r"w\.pt holds more than tensors, and unpickling it could run code; save",
        ),
        ("w.pt", _torch(nn.Linear(2, 2)), r"w\.pt holds more than tensors"),
        ("w.pt", _bytes(b""), r"w\.pt is no file of torch\.save: \S"),
        ("w.pt", _bytes(b"PK\x03\x04 no archive"), r"w\.pt is no file of torch\.save: \S"),
        ("w.pt", _torch([torch.ones(2)]), r"w\.pt must hold a dict of tensors, got list"),
        ("w.pt", _torch({"a": torch.ones(1), "b": 3}), r"w\.pt must hold tensors only, got int as 'b'"),
        ("w.safetensors", _bytes(b"something else"), r"w\.safetensors is no safetensors file: \S"),
        ("w.safetensors", _bytes(b""), r"w\.safetensors is no safetensors file: \S"),
    ],
    ids=["missing", "code", "module", "empty", "broken", "list", "number", "text", "nothing"],
)
def test_what_is_no_weights_file_is_refused_in_one_line(
    name: str, write: Callable[[Path], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_the_sha_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    assert sha256_of(tmp_path / "w") == hashlib.sha256(b"weights").hexdigest()


# -- into a model -----------------------------------------------------------------------------------------------------


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

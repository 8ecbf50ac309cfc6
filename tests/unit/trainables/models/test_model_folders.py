"""Model folders: what is refused, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainables.models.model_folders import Draft, check_alike, open_model_folder

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a folder with one tensor and further entries of its configuration."""

    def write(name: str, shape: tuple[int, ...] = (2, 3), key: str = "weight", **config: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"architectures": ["A"], "vocab_size": 5, **config}))
        save_file({key: torch.zeros(shape)}, folder / "model.safetensors")
        return folder

    return write


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"architectures": ["B"]}, "must have one class, got A in .*one and B in .*two"),
        ({"vocab_size": 6}, "must have one vocabulary size, got 5 in .*one and 6 in .*two"),
        ({"key": "bias"}, r"must have the same keys; only .*two has bias, weight|only .*two has bias"),
        ({"shape": (3, 2)}, r"must have the same shapes; weight has \(2, 3\) and \(3, 2\) in .*one and .*two"),
    ],
)
def test_models_that_differ_are_refused(make: Make, other: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_alike([open_model_folder(make("one")), open_model_folder(make("two", **other))])


def test_folders_that_hold_no_model_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold config.json, but .* has none"):
        open_model_folder(tmp_path)
    with pytest.raises(ValueError, match="holds quantised weights"):
        open_model_folder(make("quantised", quantization_config={}))
    torn = make("torn")
    (torn / "model.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        open_model_folder(torn)
    (torn / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must hold model.safetensors or .*index.json; save the model as"):
        open_model_folder(torn)
    index = {"weight_map": {"weight": "../one/model.safetensors"}}
    (torn / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must name shards in its own folder"):
        open_model_folder(torn)
    (torn / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": "gone.safetensors"}}))
    with pytest.raises(ValueError, match=r"needs 1 shards, of which gone.safetensors are missing"):
        open_model_folder(torn)
    (torn / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a mapping, got list"):
        open_model_folder(torn)


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs 1000000000.0 GB, but .* GB are free"):
        Draft(tmp_path / "out", 10**18)

"""Files with weights: recognised by their first bytes, read without running code."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trainables.models.registry import build
from trainables.models.seeding import seed_generators
from trainables.models.weight_files import read_weights, sha256_of


def _state() -> dict[str, Tensor]:
    with seed_generators(0):
        return dict(build("small_cnn", 10, 3, 16, {"norm": "batch"}).state_dict())


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


STATE = _state()


def _swa(state: dict[str, Tensor]) -> Any:
    model = nn.Module()
    model.weight = nn.Parameter(state["head.weight"])
    return dict(AveragedModel(model).state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"epoch": 3, "model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"model_state_dict": {"state_dict": s}},
        lambda s: {"module": s, "global_steps": 7},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
        lambda s: {"n_averaged": torch.tensor(5)} | {f"module.module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict_ema": s, "epoch": 3},
        lambda s: {"model_ema": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": s, "state_dict_ema": {k: 0 * v for k, v in s.items()}},
        lambda s: {"initted": torch.tensor(True), "step": torch.tensor(9)} | {f"ema_model.{k}": s[k] for k in s},
    ],
    ids=[
        "plain", "state_dict", "model", "nested", "deepspeed", "ddp", "compiled", "both", "averaged", "ema only",
        "ema of ddp", "weights before their average", "ema_pytorch",
    ],
)  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_are_opened_to_the_state_dict(
    wrap: Callable[[dict[str, Tensor]], Any], legacy: bool, tmp_path: Path
) -> None:
    torch.save(wrap(STATE), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    assert _same(read_weights(tmp_path / "w.pt"), STATE)


def test_an_averaged_model_is_read_as_torch_writes_it(tmp_path: Path) -> None:
    torch.save(_swa(STATE), tmp_path / "w.pt")
    assert _same(read_weights(tmp_path / "w.pt"), {"weight": STATE["head.weight"]})


def test_a_prefix_that_only_some_keys_have_or_that_is_the_models_is_a_name(tmp_path: Path) -> None:
    weights = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "w.pt")
    assert _same(read_weights(tmp_path / "w.pt"), weights)
    torch.save({"module.weight": torch.ones(1)}, tmp_path / "w.pt")
    assert list(read_weights(tmp_path / "w.pt", ["module.weight"])) == ["module.weight"]


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    save_file({f"module.{k}": v for k, v in STATE.items()}, tmp_path / "w.pt")
    torch.save(STATE, tmp_path / "w.safetensors")
    torch.save(STATE, tmp_path / "weights")
    for name in ("w.pt", "w.safetensors", "weights"):
        read = read_weights(str(tmp_path / name))
        assert _same({k: read[k] for k in STATE}, STATE)
        assert len(read) == len(STATE)


# -- what is refused ---------------------------------------------------------------------------------------------------


class _Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def _saved(content: Any, legacy: bool = False) -> bytes:
    memory = io.BytesIO()
    torch.save(content, memory, _use_new_zipfile_serialization=not legacy)
    return memory.getvalue()


def _tensors(content: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(content)


def _zip(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def _tar() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pt"))
    return memory.getvalue()


def _flipped(content: bytes) -> bytes:
    at = content.index(STATE["head.weight"].numpy().tobytes()) + 5
    return content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]


def _npz() -> bytes:
    memory = io.BytesIO()
    np.savez(memory, a=np.ones(3))
    return memory.getvalue()


WHOLE, LEGACY, SAFE = _saved(STATE), _saved(STATE, legacy=True), _tensors(STATE)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CUT = r"w\.pt is cut short or damaged.*; copy or download it again$"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_saved({"a": _Runs()}), r"w\.pt holds more than tensors \(posix\.mkdir\), and unpickling it could run"),
        (_saved({"a": _Runs()}, True), r"w\.pt holds more than tensors \(posix\.mkdir\)"),
        (_saved(nn.Linear(2, 2)), r"w\.pt holds more than tensors \(torch\.nn\.modules\.linear\.Linear\)"),
        (pickle.dumps({"a": np.ones(3)}), r"w\.pt is a pickle but no file of torch\.save; save model\.state_dict\(\)"),
        (b"", r"w\.pt is empty; copy or download it again$"),
        (b"PK\x03\x04 no archive", CUT),
        (WHOLE[: len(WHOLE) // 2], CUT),
        (WHOLE[:-30], CUT),
        (_flipped(WHOLE), r"w\.pt is damaged: archive/data/\d+ does not match its checksum; copy or"),
        (LEGACY[: len(LEGACY) // 2], CUT),
        (LEGACY[:60], CUT),
        (SAFE[: len(SAFE) // 2], r"w\.pt is a damaged safetensors file \(.+\); copy or download it again$"),
        (SAFE[:40], r"w\.pt is a damaged safetensors file"),
        (POINTER, r"w\.pt is a Git LFS pointer, not the weights; run `git lfs pull` in its folder$"),
        (b"\n<!DOCTYPE html>\n<html>", r"w\.pt is a web page, not the weights; download the file itself$"),
        (b"<HTML><body>404", r"w\.pt is a web page"),
        (_zip({"notes.txt": b"hello"}), r"w\.pt is a zip archive but no file of torch\.save; unpack it"),
        (_npz(), r"w\.pt is a zip archive but no file of torch\.save"),
        (_zip({"a/data.pkl": b"", "a/constants.pkl": b""}), r"w\.pt is a TorchScript program, which is code; save"),
        (gzip.compress(WHOLE), r"w\.pt is a gzip archive; unpack it and name the file with the weights$"),
        (_tar(), r"w\.pt is a tar archive; unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), r"w\.pt is an HDF5 file; save model\.state_dict\(\) by torch"),
        (b"something else", r"w\.pt is no weights file: it starts with b'somethin', neither safetensors"),
        (_saved([torch.ones(2)]), r"w\.pt must hold a dict of tensors, got list"),
        (_saved({"a": torch.ones(1), "b": 3}), r"w\.pt must hold tensors only, got int as 'b'"),
        (_saved({}), r"w\.pt holds no tensors; save model\.state_dict\(\)$"),
        (_saved({"state_dict": {}}), r"w\.pt holds no tensors"),
        (
            _saved({"ema": {"decay": 0.9, "shadow_params": [torch.ones(1)]}}),
            r"w\.pt holds an average without names; copy it into the model, and save model\.state_dict\(\)$",
        ),
        (
            _saved({"ema_model.w": torch.ones(1), "online_model.w": torch.ones(1), "step": torch.tensor(1)}),
            r"w\.pt holds two models, online_model and ema_model; save model\.state_dict\(\) of one of them$",
        ),
        (_saved(torch.optim.SGD(nn.Linear(1, 1).parameters()).state_dict()), r"w\.pt holds the state of an optimizer"),
        (b'{"a": 1}', r"w\.pt is JSON without a `weight_map`, so no index of shards; name the file with the weights$"),
        (b'{"weight_map": ', r"w\.pt starts like JSON but is none"),
    ],
    ids=[
        "code", "old code", "module", "pickle", "empty", "no zip", "half", "without end", "flipped bit", "old half",
        "old start", "safetensors half", "safetensors start", "lfs", "html", "HTML", "zip", "npz", "script", "gzip",
        "tar", "hdf5", "text", "list", "number", "nothing", "nothing wrapped", "nameless average", "two models",
        "optimizer", "json", "half json",
    ],
)  # fmt: skip
def test_damaged_and_foreign_files_are_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_weights(tmp_path / "w.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_folder_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights must name a file, got '.*', which is a folder; name a file in it"):
        read_weights(tmp_path)
    with pytest.raises(ValueError, match=r"weights must name a file, got '.*w\.pt', which does not exist"):
        read_weights(tmp_path / "w.pt")


# -- shards ------------------------------------------------------------------------------------------------------------


def _shards(folder: Path, suffix: str) -> Path:
    """Write the state in two shards with their index, the second one by torch.save where it is a .bin."""
    names, where = list(STATE), {}
    for i, part in enumerate((names[:4], names[4:])):
        file = f"model-0000{i + 1}-of-00002.{suffix}"
        content = {k: STATE[k] for k in part}
        if suffix == "bin":
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file)
        where |= dict.fromkeys(part, file)
    index = folder / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_index_of_shards_is_read_with_them(suffix: str, tmp_path: Path) -> None:
    index = _shards(tmp_path, suffix)
    assert _same({k: read_weights(index)[k] for k in STATE}, STATE)
    files = [index, *sorted(tmp_path.glob(f"*.{suffix}"))]
    content = b"".join(f.read_bytes() for f in files)
    assert sha256_of(index) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("shard", ["../secret.bin", "/etc/passwd", "a/b.bin", "..", "", "a\\b.bin", 3, None])
def test_an_index_reaches_no_other_folder(shard: Any, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "secret.bin")
    (tmp_path / "model").mkdir()
    index = tmp_path / "model" / "i.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(
        ValueError, match=r"i\.index\.json must name shards in its own folder, got .*; copy or download"
    ):
        read_weights(index)


def test_shards_that_are_missing_damaged_or_others_are_named(tmp_path: Path) -> None:
    index = _shards(tmp_path, "safetensors")
    second = tmp_path / "model-00002-of-00002.safetensors"
    second.write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors is a Git LFS pointer"):
        read_weights(index)
    second.write_bytes(index.read_bytes())
    with pytest.raises(
        ValueError, match=r"model-00002-of-00002\.safetensors is JSON, not the shard that model\.safetens"
    ):
        read_weights(index)
    save_file({"other": torch.ones(1)}, second)
    with pytest.raises(
        ValueError, match=r"model-00002-of-00002\.safetensors does not hold .*, \.\.\., which model\.safet"
    ):
        read_weights(index)
    second.unlink()
    with pytest.raises(
        ValueError, match=r"needs 2 shards, of which model-00002-of-00002\.safetensors are missing; put"
    ):
        read_weights(index)


def test_the_sha_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    assert sha256_of(tmp_path / "w") == hashlib.sha256(b"weights").hexdigest()

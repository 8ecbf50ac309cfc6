"""Weight files: the first bytes decide their format, not the suffix; reading them runs no code."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from trainables.models.tensors import is_dense, kind_of, list_some

# keys under which training scripts store a state dict (the trained weights before their average), and prefixes that
# wrapper modules add to its keys
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
PREFIXES = ("module.", "_orig_mod.", "ema_model.")
_COUNTERS = {"n_averaged", "initted", "step"}  # of AveragedModel and of ema_pytorch

_AGAIN = "copy or download it again"
_SAVE = "save model.state_dict()"
_UNPACK = "unpack it and name the file with the weights"
_HEAD = 512  # bytes that identify the format
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number of torch.save before it wrote zip archives
_LONGEST_HEADER = 100_000_000  # of safetensors
_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "run `git lfs pull` in its folder"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", f"{_SAVE} by torch.save or safetensors"),
    (b"\x93NUMPY", "a NumPy array", f"{_SAVE} by torch.save or safetensors"),
    (b"GGUF", "a GGUF file", f"{_SAVE} by torch.save or safetensors"),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits; the hash of an index covers its shards in order."""
    path = Path(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if _is_json(_head(path)):
        for shard in sorted(set(weight_map(path).values())):
            digest.update((path.parent / shard).read_bytes())
    return digest.hexdigest()


def read_weights(path: str | Path, names: Collection[str] = ()) -> dict[str, Tensor]:
    """Return a state dict, on the CPU, from safetensors, a file of `torch.save`, or the index of a model's shards.

    It may lie under one of `WRAPPERS`, or as a moving average alone under one of `AVERAGES`. The function removes
    prefixes that all keys share: `module.` of DDP and AveragedModel, `_orig_mod.` of torch.compile.

    Args:
        path: The file.
        names: Keys of the model's state dict; a prefix that is part of them stays.

    Raises:
        ValueError: The file does not exist, is damaged, is no weights file, or holds more than dense tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"weights must name a file, got {str(path)!r}, which is a folder; name a file in it")
    if not path.is_file():
        raise ValueError(f"weights must name a file, got {str(path)!r}, which does not exist")
    try:
        content = _content(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    weights = _without_prefixes(_without_counters(_open_state_dict(path, content), names, path), names)
    if wrong := [f"{k} ({kind_of(v)})" for k, v in weights.items() if not is_dense(v)]:
        raise ValueError(
            f"{path} holds tensors that cannot be merged: {list_some(wrong)}; save a dense floating-point model"
        )
    return weights


def _content(path: Path) -> object:
    head = _head(path)
    if _is_json(head):
        return _read_shards(path)
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head.startswith(b"\x80"):
        if _LEGACY not in head:
            raise ValueError(f"{path} is a pickle but no file of torch.save; {_SAVE} by torch.save or safetensors")
        return _read_torch(path)
    raise ValueError(f"{path} is {_describe_foreign(head)}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_json(head: bytes) -> bool:
    return head.lstrip().startswith(b"{") and not _is_safetensors(head)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def _describe_foreign(head: bytes) -> str:
    if not head:
        return f"empty; {_AGAIN}"
    for magic, what, way_out in _FOREIGN:
        if head.startswith(magic):
            return f"{what}; {way_out}"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not the weights; download the file itself"
    if head[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    return f"no weights file: it starts with {head[:8]!r}, neither safetensors nor torch.save; {_AGAIN}"


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: torch lacks the type
        raise ValueError(f"{path} is a damaged safetensors file ({_line(error)}); {_AGAIN}") from None


def _read_zip(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # torch ignores the checksums and would read a flipped bit as a weight
            broken = archive.testzip() if _has(names, "data.pkl") else None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError):
        raise ValueError(f"{path} is cut short or damaged: its zip archive has no readable end; {_AGAIN}") from None
    if broken:
        raise ValueError(f"{path} is damaged: {broken} does not match its checksum; {_AGAIN}")
    if _has(names, "constants.pkl"):
        raise ValueError(f"{path} is a TorchScript program, which is code; {_SAVE} of the original module")
    if not _has(names, "data.pkl"):
        raise ValueError(f"{path} is a zip archive but no file of torch.save; {_UNPACK}")
    return _read_torch(path)


def _has(names: Iterable[str], file: str) -> bool:
    return any(n == file or (n.endswith("/" + file) and n.count("/") == 1) for n in names)


def _read_torch(path: Path) -> object:
    try:
        # opened here, because torch would look at the suffix of a path
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about quantised and sparse tensors, which are rejected later
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} holds more than tensors ({found[1]}), and unpickling it could run code; {_SAVE}"
            ) from None
        raise _damaged_error(path, error) from None
    except Exception as error:  # a damaged pickle may raise anything
        raise _damaged_error(path, error) from None


def _damaged_error(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is cut short or damaged ({type(error).__name__}); {_AGAIN}")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def weight_map(path: Path) -> dict[str, str]:
    """Return key -> name of its shard, from the index of a model's shards.

    Raises:
        ValueError: The file is no such index, or names files outside its folder.
    """
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} starts like JSON but is none; {_AGAIN}") from None
    found = cast(Mapping[str, Any], index).get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{path} is JSON without a `weight_map`, so no index of shards; name the file with the weights"
        )
    shards = {str(k): v for k, v in cast(dict[Any, Any], found).items()}
    for shard in shards.values():
        # a name only: an index from elsewhere must not reach other folders
        if not isinstance(shard, str) or shard in ("", ".", "..") or set(shard) & {"/", "\\", "\0"}:
            raise ValueError(f"{path} must name shards in its own folder, got {shard!r}; {_AGAIN}")
    return shards


def _read_shards(path: Path) -> object:
    where = weight_map(path)
    files = sorted(set(where.values()))
    if missing := [f for f in files if not (path.parent / f).is_file()]:
        raise ValueError(
            f"{path} needs {len(files)} shards, of which {list_some(missing)} are missing; put them beside it"
        )
    weights: dict[str, Tensor] = {}
    for file in files:
        shard = path.parent / file
        if _is_json(_head(shard)):
            raise ValueError(f"{shard} is JSON, not the shard that {path.name} names; {_AGAIN}")
        held, wanted = _open_state_dict(shard, _content(shard)), [k for k, v in where.items() if v == file]
        if lost := [k for k in wanted if k not in held]:
            raise ValueError(f"{shard} does not hold {list_some(lost)}, which {path.name} says it does; {_AGAIN}")
        weights |= {k: held[k] for k in wanted}
    return weights


def _open_state_dict(path: Path, content: object) -> dict[str, Tensor]:
    while isinstance(content, Mapping) and (inner := _unwrap(cast(Mapping[Any, Any], content))) is not None:
        content = inner
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold a dict of tensors, got {type(content).__name__}; {_SAVE}")
    weights = {str(k): v for k, v in cast(Mapping[Any, Any], content).items()}
    if "shadow_params" in weights:
        raise ValueError(f"{path} holds an average without names; copy it into the model, and {_SAVE}")
    if "param_groups" in weights:
        raise ValueError(f"{path} holds the state of an optimizer, not the weights; {_SAVE}")
    if wrong := next((k for k, v in weights.items() if not isinstance(v, Tensor)), None):
        raise ValueError(f"{path} must hold tensors only, got {type(weights[wrong]).__name__} as {wrong!r}; {_SAVE}")
    if not weights:
        raise ValueError(f"{path} holds no tensors; {_SAVE}")
    return weights


def _unwrap(content: Mapping[Any, Any]) -> object:
    return next((content[n] for n in (*WRAPPERS, *AVERAGES) if isinstance(content.get(n), Mapping)), None)


def _without_counters(weights: dict[str, Tensor], names: Collection[str], path: Path) -> dict[str, Tensor]:
    rest = {k: v for k, v in weights.items() if k not in _COUNTERS or k in names}
    tops = {k.partition(".")[0] for k in rest}
    if tops == {"ema_model", "online_model"}:
        raise ValueError(f"{path} holds two models, online_model and ema_model; {_SAVE} of one of them")
    return rest if tops <= {"module", "ema_model"} else weights


def _without_prefixes(weights: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    while weights and not any(k in names for k in weights):
        shared = next((p for p in PREFIXES if all(k.startswith(p) for k in weights)), None)
        if shared is None:
            break
        weights = {k.removeprefix(shared): v for k, v in weights.items()}
    return weights

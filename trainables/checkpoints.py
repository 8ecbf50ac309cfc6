"""Weights from a file: read without running code, compared with the model, the head left fresh where it differs."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

# what training scripts wrap a state dict in, and what wrapped modules put before its keys
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 3


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU, from a safetensors file (by suffix) or a file of `torch.save`.

    A dict that holds it as `state_dict`, `model_state_dict` or `model` is opened; prefixes that all keys share,
    `module.` of DDP and `_orig_mod.` of torch.compile, are taken off.

    Raises:
        ValueError: There is no such file, it is no weights file, or it holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights must name a file, got {str(path)!r}, which is none")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    while isinstance(content, Mapping) and (inner := _wrapped(cast(Mapping[str, Any], content))):
        content = inner
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold a dict of tensors, got {type(content).__name__}; save model.state_dict()")
    weights = {str(k): v for k, v in cast(Mapping[Any, Any], content).items()}
    if wrong := next((k for k, v in weights.items() if not isinstance(v, Tensor)), None):
        kind = type(weights[wrong]).__name__
        raise ValueError(f"{path} must hold tensors only, got {kind} as {wrong!r}; save model.state_dict()")
    return _without_prefixes(weights)


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} holds more than tensors, and unpickling it could run code; save model.state_dict()"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is no file of torch.save: {reason}") from None


def _wrapped(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
    return cast(Mapping[str, Any] | None, inner)


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    while weights and (shared := next((p for p in PREFIXES if all(k.startswith(p) for k in weights)), None)):
        weights = {k.removeprefix(shared): v for k, v in weights.items()}
    return weights


def load_start(model: nn.Module, path: str | Path, head: str) -> tuple[dict[str, Tensor], str]:
    """Return the model's state dict with the file's values, and the file's SHA-256; the model stays untouched.

    The head keeps the model's own values where the file's has another shape or is missing: it belongs to another task.
    Counters of BatchNorm, which old files lack, keep theirs too.

    Args:
        model: Module with its initial weights; decides devices and dtypes.
        path: File, see `read_weights`.
        head: Module name of the final classifier, from `trainables.heads.head_of`; empty takes no part of the model for
            one that may differ.

    Raises:
        ValueError: The file cannot be read, or is of another architecture; the message names the keys that differ.
    """
    own, found = model.state_dict(), read_weights(path)
    fresh = [k for k in own if head and k.rpartition(".")[0] == head]
    if all(k in found and found[k].shape == own[k].shape for k in fresh):
        fresh = []
    expected = {k: v for k, v in own.items() if k not in fresh}
    _compare(str(path), type(model).__name__, expected, {k: v for k, v in found.items() if k not in fresh})
    loaded = {k: found[k].to(v.device, v.dtype) if k in found else v for k, v in expected.items()}
    return {k: loaded.get(k, v).detach().clone() for k, v in own.items()}, sha256_of(path)


def _compare(file: str, model: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = [k for k in expected if k not in found and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in found if k not in expected and not k.endswith("num_batches_tracked")]
    other = [
        f"{k} {tuple(found[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in found and found[k].shape != v.shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "other shape": other}
    if any(lists.values()):
        faults = "; ".join(f"{len(names)} {what} ({_few(names)})" for what, names in lists.items() if names)
        raise ValueError(f"weights file {file} does not fit model {model}: {faults}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")

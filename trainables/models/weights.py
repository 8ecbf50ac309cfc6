"""Start weights from a file: checked against the model, tied names filled in, a differing head left as initialised."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainables.models.tensors import FLOATS, HOST, aliases, kind_of, list_some, non_finite_names
from trainables.models.weight_files import read_weights, sha256_of

_SHARD = re.compile(r"-\d+-of-\d+\.")


def load_start(model: nn.Module, path: str | Path, head: str) -> tuple[dict[str, Tensor], str]:
    """Return the model's state dict with the file's values, on the host, and the file's SHA-256; the model stays.

    If the file's head is missing or has another shape, it belongs to another task: the head keeps the model's values.
    BatchNorm counters, which old files lack, keep them too. A parameter with several names needs one of them.

    Args:
        model: Module with its initial weights; decides the dtypes.
        path: File, see `read_weights`.
        head: Module name of the final classifier, from `trainables.models.heads.head_of`; with an empty name the whole
            model must match.

    Raises:
        ValueError: The file cannot be read, belongs to another architecture, or holds numbers that are not finite; the
            message names the keys.
    """
    own, second = model.state_dict(), aliases(model)
    if lazy := next((k for k, v in own.items() if is_lazy(v)), None):
        raise ValueError(f"weights need a model with shapes, but {lazy} has none yet; run one batch in its builder")
    found = read_weights(path, own)
    _fill(found, own, second, str(path))
    fresh = _fresh_keys(own, found, second, head)
    expected = {k: v for k, v in own.items() if k not in fresh}
    given = {k: found[k] for k in expected if k in found}
    _check_types(str(path), model, given)
    _compare(str(path), type(model).__name__, expected, {k: v for k, v in found.items() if k not in fresh})
    loaded = {k: v.to(HOST, own[k].dtype) for k, v in given.items()}
    _check_finite(str(path), model, given, loaded)
    whole = {**own, **loaded}
    return {k: v.detach().to(HOST, copy=True) for k, v in whole.items()}, sha256_of(path)


def _fill(found: dict[str, Tensor], own: Mapping[str, Tensor], second: Mapping[str, str], file: str) -> None:
    """Copy the value of a tied tensor to all of its names; the file may hold one of them."""
    for first in dict.fromkeys(second.values()):
        names = [first, *(n for n, f in second.items() if f == first)]
        given = [n for n in names if n in found]
        for other in given[1:]:
            if not _equal(found[given[0]], found[other], own[first].dtype):
                raise ValueError(
                    f"weights file {file} holds different values for {given[0]} and {other}, which are one parameter "
                    "of the model; leave one of them out"
                )
        found |= {n: found[given[0]] for n in names if given}


def _equal(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    # NaN equals NaN here; `_check_finite` rejects it
    return one.shape == other.shape and torch.allclose(one.to(dtype), other.to(dtype), 0.0, 0.0, equal_nan=True)


def _fresh_keys(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], second: Mapping[str, str], head: str
) -> Collection[str]:
    inside = {k for k in own if head and k.rpartition(".")[0] == head}
    # tensors that the head shares with other layers come from the file, like those layers
    elsewhere = {second.get(k, k) for k in own if k not in inside}
    fresh = [k for k in inside if second.get(k, k) not in elsewhere]
    return () if all(k in found and found[k].shape == own[k].shape for k in fresh) else fresh


def _check_types(file: str, model: nn.Module, given: Mapping[str, Tensor]) -> None:
    own, trained = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    floating = {k for k in given if k in trained or own[k].is_floating_point()}
    if wrong := [f"{k} ({kind_of(given[k])})" for k in given if k in floating and given[k].dtype not in FLOATS]:
        raise ValueError(
            f"weights file {file} holds weights that are not floating-point numbers: {list_some(wrong)}; save the "
            "model before quantisation"
        )
    for key in given.keys() - floating:
        value, dtype = given[key], own[key].dtype
        if not torch.equal(value.to(dtype).to(value.dtype), value):
            raise ValueError(
                f"weights file {file} holds {key} as {kind_of(value)}, which does not fit {kind_of(own[key])}"
            )


def _check_finite(file: str, model: nn.Module, given: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    constants = dict(model.named_buffers())  # an attention mask may hold -inf
    if wrong := non_finite_names(given, constants):
        raise ValueError(
            f"weights file {file} holds numbers that are not finite in {list_some(wrong)}; the model diverged or "
            "the file is damaged: choose another file"
        )
    if wrong := non_finite_names(loaded, constants):
        types = kind_of(loaded[wrong[0]])
        raise ValueError(f"weights file {file} holds numbers in {list_some(wrong)} that are too large for {types}")


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
        faults = "; ".join(f"{len(names)} {what} ({list_some(names)})" for what, names in lists.items() if names)
        if missing and _SHARD.search(file):
            faults += "; it is one of several shards: name their index (*.index.json)"
        raise ValueError(f"weights file {file} does not fit model {model}: {faults}")

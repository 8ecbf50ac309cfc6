"""Checks of state dicts: types and layouts that can be merged, finite numbers, tensors with two names."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of parameters."""
HOST = torch.device("cpu")
"""Where weights stay between their uses; the device holds those of one model."""
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_SHOWN = 3


def list_some(names: Sequence[str]) -> str:
    """Return the first three names, separated by commas, with an ellipsis if there are more."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def kind_of(tensor: Tensor) -> str:
    """Return layout and type of a tensor as words, such as `float32` or `sparse_coo float32`."""
    words = [str(tensor.dtype).removeprefix("torch.")]
    if tensor.is_meta:
        words.insert(0, "meta")
    if tensor.is_quantized:
        words.insert(0, "quantized")
    if tensor.layout != torch.strided:
        words.insert(0, str(tensor.layout).removeprefix("torch.").removeprefix("_"))
    return " ".join(words)


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor is strided and holds real numbers or integers."""
    plain = not (tensor.is_meta or tensor.is_quantized) and tensor.layout == torch.strided and not tensor.is_nested
    return plain and tensor.dtype in (*FLOATS, *_WHOLE)


def hold(model: nn.Module, kind: torch.dtype) -> nn.Module:
    """Return a module after rounding its parameters to a type, in place; its buffers, such as frequencies, stay."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(kind)
    return model


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for a type of half precision; other types stay."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor of half precision in float32; others stay."""
    return tensor.to(wide_type(tensor.dtype))


def move(weights: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Return a state dict on a device; names of one tensor keep one, and a tensor that is there stays itself."""
    there = {id(v): v for v in weights.values()}
    there = {i: v.to(device) for i, v in there.items()}
    return {k: there[id(v)] for k, v in weights.items()}


def mount(model: nn.Module, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a state dict on a device: weights that are elsewhere overwrite the module's, and the result is these.

    So the device holds one set of weights. The result changes with the module, and holds until the next call. Weights
    that are there stay themselves; those of another type than the module's get memory of their own.

    Args:
        model: Module of the architecture, on the device.
        weights: State dict, or a part of one.
        device: The device.
    """
    if all(v.device == device for v in weights.values()):
        return dict(weights)
    own = model.state_dict()
    if any(v.dtype != own[k].dtype for k, v in weights.items()):
        return move(weights, device)
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    return {k: own[k] for k in weights}


def copy_to_host(value: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples, with all tensors on the host."""
    if isinstance(value, Tensor):
        return value.detach().to(HOST, copy=True)
    if isinstance(value, dict):
        return {k: copy_to_host(v) for k, v in cast(dict[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        copies = [copy_to_host(v) for v in cast(Sequence[Any], value)]
        return tuple(copies) if isinstance(value, tuple) else copies
    return copy.deepcopy(value)


def non_finite_entries(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the entries with numbers that are not finite; attention masks may hold some."""
    settled = {k: v for k, v in weights.items() if not is_lazy(v)}
    return {k: v.detach().clone() for k, v in settled.items() if not bool(torch.isfinite(v).all())}


def non_finite_names(weights: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> list[str]:
    """Return the names of entries with non-finite numbers, except entries that `constants` holds unchanged.

    Args:
        weights: State dict or a part of one.
        constants: From `non_finite_entries` of the start weights, or a whole state dict.
    """
    return [k for k, v in weights.items() if not bool(torch.isfinite(v).all()) and not _same(v, constants.get(k))]


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and torch.equal(one, other.to(one.device))


# -- tied parameters ------------------------------------------------------------------------------------------------


def aliases(model: nn.Module) -> dict[str, str]:
    """Return second name -> first name of every parameter or buffer that a module holds under several names."""
    first: dict[int, str] = {}
    names = ((name, first.setdefault(id(t), name)) for name, t in model.state_dict(keep_vars=True).items())
    return {name: first_name for name, first_name in names if first_name != name}


def tied_names(models: Sequence[Mapping[str, Tensor]]) -> dict[str, str]:
    """Return second name -> first name of entries that are one tensor in every model."""
    first: dict[tuple[object, ...], str] = {}
    second: dict[str, str] = {}
    for name in models[0]:
        first_name = first.setdefault(tuple(_memory_of(m[name]) for m in models), name)
        if first_name != name and models[0][name].numel():
            second[name] = first_name
    return second


def _memory_of(tensor: Tensor) -> tuple[object, ...]:
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def unite(model: nn.Module) -> None:
    """Replace parameters of a module that use the same memory by one parameter, in place.

    Raises:
        ValueError: A parameter cannot be trained and merged: its type or layout is wrong, or it shares memory with a
            buffer or with a parameter in another layout.
    """
    named = {n: p for n, p in model.named_parameters(remove_duplicate=False) if not is_lazy(p)}
    if wrong := [f"{n} ({kind_of(p)})" for n, p in named.items() if not is_dense(p) or p.dtype not in FLOATS]:
        raise ValueError(f"parameters must be dense floating-point tensors, got {list_some(wrong)}")
    first: dict[tuple[object, ...], tuple[str, nn.Parameter]] = {}
    for name, parameter in named.items():
        kept = first.setdefault(_memory_of(parameter), (name, parameter))[1]
        if kept is not parameter and parameter.numel():
            kept.requires_grad_(kept.requires_grad or parameter.requires_grad)
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, kept)
    _check_apart(model)


def _check_apart(model: nn.Module) -> None:
    parameters = [(n, p) for n, p in model.named_parameters() if not is_lazy(p) and p.numel()]
    for name, p in parameters:
        if _extent(p) < p.numel():
            raise ValueError(f"parameter {name} repeats its numbers in memory (it is expanded); register a copy of it")
    by_storage: dict[object, list[tuple[int, int, str, bool]]] = {}
    for named, trained in ((parameters, True), (_buffers(model), False)):
        for name, t in named:
            start = t.data_ptr()
            span = (start, start + _extent(t) * t.element_size(), name, trained)
            by_storage.setdefault((t.device, t.untyped_storage().data_ptr()), []).append(span)
    for spans in by_storage.values():
        _check_spans(sorted(spans))


def _buffers(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((n, b) for n, b in model.named_buffers() if not is_lazy(b) and b.numel() and is_dense(b))


def _check_spans(spans: Sequence[tuple[int, int, str, bool]]) -> None:
    for i, (_, end, name, trained) in enumerate(spans):
        for start, _, other, also in spans[i + 1 :]:
            if start >= end:
                break
            if trained or also:
                what = "are one parameter in two layouts" if trained and also else "share memory, one is a buffer"
                raise ValueError(
                    f"{name} and {other} {what}: register the parameter once, and take views of it in `forward`"
                )


def _extent(tensor: Tensor) -> int:
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))

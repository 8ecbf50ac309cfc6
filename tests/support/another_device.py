"""A second device on a machine without one: tensors of the CPU that claim another device and meet no others.

Values are real, so that results can be compared; an operation on tensors of both devices raises, as on a GPU. The
device has no random generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

NAME = "meta"
_DEVICE = torch.device(NAME)
_MOVES = ("aten::_to_copy", "aten::copy_")


class _Away(Tensor):
    """A tensor that claims to be on the other device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Away:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=_DEVICE,
            requires_grad=False,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"_Away({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, Tensor)]
    away = [t for t in tensors if isinstance(t, _Away)]
    name = func._schema.name
    target = kwargs.get("device")
    if name not in _MOVES and away and (here := [t for t in tensors if not isinstance(t, _Away) and t.dim()]):
        raise RuntimeError(f"{name} meets tensors of two devices: {[tuple(t.shape) for t in (*away, *here)]}")
    inner = {k: torch.device("cpu") if k == "device" and v is not None else v for k, v in kwargs.items()}
    plain_args, plain = tree_map_only(_Away, lambda t: t.held, (args, inner))
    out = func(*plain_args, **plain)
    if name == "aten::copy_":
        return args[0]
    goes = away[:1] if target is None else (torch.device(target).type == _DEVICE.type)
    if not goes:
        return out
    known = {id(t.held): t for t in away}  # in-place results stay the same objects
    return tree_map_only(
        Tensor, lambda t: t if isinstance(t, _Away) else known[id(t)] if id(t) in known else _Away(t), out
    )


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def another_device() -> Iterator[str]:
    """Yield the name of a device whose tensors refuse to meet those of the CPU."""
    with _Mode():
        yield NAME

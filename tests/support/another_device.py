"""A second device on a machine without one: tensors of the CPU that claim another device and meet no others.

Values are real, so that results can be compared; an operation on tensors of both devices raises, as on a GPU. The
generators of the device are those of the CPU, so that a whole trial gives the numbers of the CPU.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from trainables.models.tensors import aliases

NAME = "meta"
_DEVICE = torch.device(NAME)
_MOVES = ("aten::_to_copy", "aten::copy_")
_LIVE = WeakIdKeyDictionary()


class Counter:
    """Counts the sets of a model's weights on the device, by the tensors of one of its parameters.

    Args:
        numbers: Numbers in this parameter; no other tensor may have as many.

    Attributes:
        phase: Name of what happens now.
        most: Phase -> most sets at a time so far.
    """

    def __init__(self, numbers: int) -> None:
        self.numbers, self.phase = numbers, ""
        self.most: dict[str, int] = {}

    def note(self) -> None:
        """Count."""
        held = [t.held for t in list(_LIVE) if t.held.numel() == self.numbers]
        sets = len({t.untyped_storage().data_ptr() for t in held})
        self.most[self.phase] = max(sets, self.most.get(self.phase, 0))


_COUNTERS: list[Counter] = []


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
        if any(c.numbers == held.numel() for c in _COUNTERS):
            _LIVE[made] = None
            for counter in _COUNTERS:
                counter.note()
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


def _make_generator(device: object = "cpu") -> Generator:
    return Generator()


@contextmanager
def _patches() -> Iterator[None]:
    """Replace generators of the device by those of the CPU; keep shared parameters, as a move to a GPU does."""
    move = nn.Module.to

    def move_tied(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        tied = aliases(self)
        move(self, *args, **kwargs)
        for second, first in tied.items():
            path, _, leaf = second.rpartition(".")
            setattr(self.get_submodule(path), leaf, self.get_parameter(first))
        return self

    users = [m for n, m in sys.modules.items() if n.startswith("trainables.") and vars(m).get("Generator") is Generator]
    nn.Module.to = move_tied  # type: ignore[method-assign]
    for module in users:
        vars(module)["Generator"] = _make_generator
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]
        for module in users:
            vars(module)["Generator"] = Generator


@contextmanager
def another_device(*counters: Counter) -> Iterator[str]:
    """Yield the name of a device whose tensors refuse to meet those of the CPU, while counters count."""
    with _Mode(), _patches(), warnings.catch_warnings():
        # torch takes the name for that of tensors without numbers
        warnings.filterwarnings("ignore", message="for .*: copying from a non-meta parameter")
        _COUNTERS.extend(counters)
        try:
            yield NAME
        finally:
            _COUNTERS.clear()
            _LIVE.clear()

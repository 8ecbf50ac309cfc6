"""Members of a training step: one child as the module itself, or several as one `torch.func` stack."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, get_type_hints

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from trainables.models.losses import by_label, mean_loss
from trainables.models.registry import has_batchnorm
from trainables.models.tensors import HOST, aliases, copy_to_host
from trainables.spec import PairSpec
from trainables.training.optimizers import elementwise
from trainables.training.ranks import Ranks, ranks

OptimizerState = Mapping[str, Any]


def autocast(spec: PairSpec, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context of forward passes: bfloat16 if the spec sets `autocast`."""
    return torch.autocast(device.type, torch.bfloat16) if spec.autocast else nullcontext()


def stackable(spec: PairSpec, model: nn.Module) -> bool:
    """Return whether the children of `spec.stack` trials train as one stack.

    BatchNorm does not map over members. Clipping and optimizers that use whole tensors would mix members. Ranks share
    one child at a time.
    """
    plain = not (spec.clip_norm or spec.autocast or spec.compile)
    return (
        spec.stack > 1 and plain and elementwise(spec.optimizer) and not has_batchnorm(model) and ranks().size == 1
    )  # fmt: skip


class Members(ABC):
    """Children that step together.

    Attributes:
        names: Names of the trained parameters, in the order of `parameters`.
        parameters: Parameters of the optimizer; those of a stack have a leading member dimension.
        members: Number of members.
        ranks: The processes that share each batch.
        unclipped_norm: Norm of the last gradient before clipping; None without clipping.
    """

    members: int = 1
    unclipped_norm: Tensor | None = None
    names: list[str]
    parameters: list[Tensor]
    ranks: Ranks = Ranks()

    @abstractmethod
    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss [members] of batches x [members, B, ...] and targets y [members, B, ...], see `by_label`."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return logits [members, n, ...] of inputs [n, ...] in evaluation mode."""

    @abstractmethod
    def views(self) -> list[dict[str, Tensor]]:
        """Return each member's state dict in the memory that training changes."""

    def weights(self) -> list[dict[str, Tensor]]:
        """Return the state dicts of the members, copies on the host."""
        return [
            {k: v.to(HOST, copy=True, memory_format=torch.contiguous_format) for k, v in own.items()}
            for own in self.views()
        ]

    @abstractmethod
    def load(self, optimizer: Optimizer, state: OptimizerState) -> None:
        """Load the optimizer state of one child for every member."""

    @abstractmethod
    def moments(self, optimizer: Optimizer, key: str) -> list[dict[str, Tensor]]:
        """Return the entry `key` of the optimizer's state for each member, by parameter name."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Return parameters and buffers, always in the same order."""

    def copy_tensors(self) -> list[Tensor]:
        """Return a copy of all parameters and buffers for `load_tensors`, on the host."""
        return copy_to_host(self.tensors())

    @torch.no_grad()
    def load_tensors(self, values: list[Tensor]) -> None:
        """Restore the tensors that `copy_tensors` returned, bit for bit."""
        for tensor, value in zip(self.tensors(), values, strict=True):
            tensor.copy_(value)

    def norms(self) -> Tensor:
        """Return |theta| [members] over the trained parameters."""
        flat = [p.detach().reshape(self.members, -1) for p in self.parameters]
        return torch.stack([v.square().sum(1) for v in flat]).sum(0).sqrt()


class _Single(Members):
    """One member: the module itself, trained in place; several processes average its gradients."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor], spec: PairSpec, distributed: bool = True) -> None:
        model.load_state_dict(dict(start))
        self.model, self.spec = model, spec
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.names, self.parameters = [n for n, _ in named], [p for _, p in named]
        self.device = self.parameters[0].device
        self.local_norms: list[Tensor] = []
        call: Any = torch.compile(model) if spec.compile else model  # pyright: ignore[reportUnknownMemberType]
        self.ranks = ranks() if distributed else Ranks()
        if self.ranks.size > 1:
            call = DistributedDataParallel(call, device_ids=[self.device] if self.device.type == "cuda" else None)
            call.register_comm_hook(self, _all_reduce_with_norms)
        self.call = call

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.model.training:  # a tenth of a millisecond for a small network
            self.model.train()
        self.local_norms.clear()
        with autocast(self.spec, self.device):
            logits = self.call(self._to_layout(x[0]))
        return mean_loss(logits.to(self.parameters[0].dtype), y[0]).reshape(1)

    def _to_layout(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cuda" and x.dim() == 4 else x

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        self.model.eval()
        with autocast(self.spec, self.device):
            return self.model(self._to_layout(x)).to(self.parameters[0].dtype)[None]

    def views(self) -> list[dict[str, Tensor]]:
        return [self.model.state_dict()]

    def tensors(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    def load(self, optimizer: Optimizer, state: OptimizerState) -> None:
        # a copy, because the optimizer would change tensors that the next child needs
        optimizer.load_state_dict(copy.deepcopy(dict(state)))

    def moments(self, optimizer: Optimizer, key: str) -> list[dict[str, Tensor]]:
        return [{n: optimizer.state[p][key].detach() for n, p in zip(self.names, self.parameters, strict=True)}]


def _all_reduce_with_norms(state: _Single, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    # the estimate of tr Sigma over ranks needs the norms before and after the reduction
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    state.local_norms.append(bucket.buffer().detach().square().sum())
    group = dist.group.WORLD
    assert group is not None  # DDP calls this only within a group
    return allreduce_hook(group, bucket)


# DDP checks the annotations and needs classes, not their names
_all_reduce_with_norms.__annotations__ = get_type_hints(_all_reduce_with_norms)


class _Stack(Members):
    """Several members: parameters have a leading member dimension, over which the forward pass is mapped."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor], members: int) -> None:
        model.load_state_dict(dict(start))
        model.train()
        self.model, self.members = model, members
        self.named: dict[str, Tensor] = {}
        for name, p in model.named_parameters():
            self.named[name] = p.detach().expand(members, *p.shape).clone().requires_grad_(p.requires_grad)
        self.buffers = {n: b.detach() for n, b in model.named_buffers()}
        # a parameter or buffer of two layers has two names in the state dict
        self.second = aliases(model)
        self.names = [n for n, p in self.named.items() if p.requires_grad]
        self.parameters = [self.named[n] for n in self.names]
        # every member draws its own dropout mask
        self.forward = vmap(self._forward, in_dims=(0, 0), randomness="different")
        self.forward_shared = vmap(self._forward, in_dims=(0, None), randomness="different")

    def _forward(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        # vmap does not support the fused attention
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self.model, (parameters, self.buffers), (x,))

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.forward(self.named, x).to(self.parameters[0].dtype)
        flat = cross_entropy(*by_label(logits.flatten(0, 1), y.flatten(0, 1)), reduction="none")
        return flat.reshape(len(y), -1).mean(1)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        self.model.eval()
        out = self.forward_shared(self.named, x).to(self.parameters[0].dtype)
        self.model.train()
        return out

    def views(self) -> list[dict[str, Tensor]]:
        return [{n: self._entry(n, i) for n in self.model.state_dict()} for i in range(self.members)]

    def _entry(self, name: str, member: int) -> Tensor:
        first = self.second.get(name, name)
        return self.named[first][member].detach() if first in self.named else self.buffers[first]

    def tensors(self) -> list[Tensor]:
        return [*self.named.values(), *self.buffers.values()]

    def load(self, optimizer: Optimizer, state: OptimizerState) -> None:
        shapes = [p.shape[1:] for p in self.parameters]

        def spread(index: int, value: Any) -> Any:
            if isinstance(value, Tensor) and value.shape == shapes[index]:
                return value.expand(self.members, *value.shape).contiguous()
            assert not isinstance(value, Tensor) or value.dim() == 0, "the state must belong to one child"
            return value

        entries = {i: {k: spread(i, v) for k, v in entry.items()} for i, entry in state["state"].items()}
        optimizer.load_state_dict(copy.deepcopy({**state, "state": entries}))

    def moments(self, optimizer: Optimizer, key: str) -> list[dict[str, Tensor]]:
        values = [optimizer.state[p][key].detach() for p in self.parameters]
        return [{n: v[i] for n, v in zip(self.names, values, strict=True)} for i in range(self.members)]


class Parking:
    """Keeps the state of an optimizer on the host while its members do not train.

    Args:
        optimizer: The optimizer.
        fixed: Whether recorded steps need state and gradients where they are, between two steps of a course.
    """

    def __init__(self, optimizer: Optimizer, fixed: bool = False) -> None:
        self.optimizer, self.fixed = optimizer, fixed
        self._parked: list[tuple[dict[str, Any], str, torch.device]] = []

    def park(self) -> None:
        """Move the state to the host, until `fetch`, and drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for entry in self.optimizer.state.values():
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.device != HOST:
                    self._parked.append((entry, key, value.device))
                    entry[key] = value.to(HOST)

    def fetch(self) -> None:
        """Move the state back to the device."""
        for entry, key, device in self._parked:
            entry[key] = entry[key].to(device)
        self._parked = []

    @contextmanager
    def away(self) -> Generator[None]:
        """Run the block between two steps, with the state on the host and without gradients, unless they are fixed."""
        if self.fixed:
            yield
            return
        self.park()
        try:
            yield
        finally:
            self.fetch()


def second_moments(
    members: Members,
    optimizer: Any,
    device: torch.device | None = None,
    change: Callable[[Tensor], Tensor] = lambda v: v,
) -> list[dict[str, Tensor]] | None:
    """Return Adam's bias-corrected second moments by name for each member; None for other optimizers.

    Args:
        members: The members.
        optimizer: Their optimizer.
        device: Device of the computation; None is that of training.
        change: Function of one moment, applied before the next one is computed.

    Source: Kingma & Ba 2015, arXiv 1412.6980, algorithm 1.
    """
    states = [optimizer.state[p] for p in members.parameters]
    betas = optimizer.param_groups[0].get("betas")
    if betas is None or not all("exp_avg_sq" in s and "step" in s for s in states):
        return None
    correction = 1 - betas[1] ** float(states[0]["step"])
    return [
        {n: change(v.to(device) / correction) for n, v in own.items()}
        for own in members.moments(optimizer, "exp_avg_sq")
    ]


def make_members(
    spec: PairSpec, model: nn.Module, start: Mapping[str, Tensor], children: int, distributed: bool = True
) -> Members:
    """Return the members for `children` children that start at the weights `start`.

    Args:
        spec: Decides whether several children train as one stack, see `stackable`.
        model: Module of the architecture; its weights are overwritten.
        start: State dict; stays unchanged.
        children: Number of children; 1 without a stack.
        distributed: Whether the processes of an open group share each batch.
    """
    if stackable(spec, model) and distributed:
        return _Stack(model, start, children)
    assert children == 1
    return _Single(model, start, spec, distributed)

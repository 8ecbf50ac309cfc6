"""The one training loop: fine-tune children from a base, one by one or as one stack of members."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from .batches import epoch_batches, steps_per_epoch
from .datasets import Data
from .evaluation import Score, score
from .models import has_batchnorm
from .registry import Registry
from .schedule import SCHEDULES
from .seeding import seeded
from .spec import BaseSpec, PairSpec, stream

OPTIMIZERS: Registry[Callable[[list[Tensor], PairSpec], Optimizer]] = Registry("optimizer")


@OPTIMIZERS.register("sgd")
def sgd(parameters: list[Tensor], spec: PairSpec) -> Optimizer:
    """SGD with momentum v <- mu v + g and weight decay added to the gradient."""
    return torch.optim.SGD(
        parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
    )


@dataclass(frozen=True)
class Seeds:
    """Random streams of one child: its data order and its augmentation draws."""

    order: int
    augment: int


@dataclass(frozen=True)
class Epoch:
    """One child after one epoch; losses in nat."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    val: Score


@dataclass
class Child:
    """A trained child: its weights (parameters and buffers), its history and the step at which it diverged."""

    weights: dict[str, Tensor]
    history: list[Epoch]
    diverged_at: int | None = None


OnEpoch = Callable[[int, Epoch], None]


class _Single:
    """One member: the module itself, trained in place."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor]) -> None:
        model.load_state_dict(dict(start))
        self.model = model
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        self.model.train()
        return cross_entropy(self.model(x[0]), y[0]).reshape(1)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        self.model.eval()
        return self.model(x)[None]

    def weights(self) -> list[dict[str, Tensor]]:
        return [{k: v.detach().clone() for k, v in self.model.state_dict().items()}]


class _Stack:
    """Members as one: parameters carry a leading member dimension, the forward pass is mapped over it."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor], members: int) -> None:
        model.load_state_dict(dict(start))
        model.train()
        self.model = model
        self.named: dict[str, Tensor] = {}
        for name, p in model.named_parameters():
            self.named[name] = p.detach().expand(members, *p.shape).clone().requires_grad_(p.requires_grad)
        self.buffers = {n: b.detach() for n, b in model.named_buffers()}
        self.parameters = [p for p in self.named.values() if p.requires_grad]
        # a parameter shared by two layers has two names in the state dict
        first = {id(p): n for n, p in reversed(list(model.named_parameters()))}
        self.home = {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
        # every member draws its own dropout mask
        self.forward = vmap(self._forward, in_dims=(0, 0), randomness="different")
        self.forward_shared = vmap(self._forward, in_dims=(0, None), randomness="different")

    def _forward(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.model, (parameters, self.buffers), (x,))

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.forward(self.named, x)
        flat = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        return flat.reshape(y.shape).mean(1)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        self.model.eval()
        out = self.forward_shared(self.named, x)
        self.model.train()
        return out

    def weights(self) -> list[dict[str, Tensor]]:
        members = len(self.parameters[0])
        return [{n: self._entry(n, i) for n in self.model.state_dict()} for i in range(members)]

    def _entry(self, name: str, member: int) -> Tensor:
        if name in self.home:
            return self.named[self.home[name]][member].detach().clone()
        return self.buffers[name].clone()


def finetune(
    spec: PairSpec,
    model: nn.Module,
    start: Mapping[str, Tensor],
    data: Data,
    seeds: Sequence[Seeds],
    on_epoch: OnEpoch = lambda child, epoch: None,
) -> list[Child]:
    """Train one child per entry of `seeds` from the weights `start`.

    Children train as one `torch.func` stack where `spec.stack` > 1 and the model has no BatchNorm (which does not map
    over members), else one after the other. Both are the same computation up to rounding.

    Args:
        spec: Hyperparameters.
        model: Module of the architecture; its weights are overwritten.
        start: State dict to start from; stays untouched.
        data: Data set on the model's device.
        seeds: Random streams, one entry per child.
        on_epoch: Called after every epoch of every child with (index of the child, record).

    Returns:
        The children, in order of `seeds`.

    Raises:
        ValueError: The batch is larger than the training set.
    """
    if spec.stack > 1 and not has_batchnorm(model):
        return _train(spec, _Stack(model, start, len(seeds)), data, seeds, on_epoch)
    children: list[Child] = []
    for i, one in enumerate(seeds):
        single = _Single(model, start)
        children += _train(spec, single, data, [one], lambda _, epoch, i=i: on_epoch(i, epoch))
    return children


def _generators(seeds: Sequence[Seeds], device: torch.device) -> list[tuple[Generator, Generator]]:
    # data order on the CPU, so that it does not depend on the device
    return [(Generator().manual_seed(s.order), Generator(device=device).manual_seed(s.augment)) for s in seeds]


def _train(
    spec: PairSpec, members: _Single | _Stack, data: Data, seeds: Sequence[Seeds], on_epoch: OnEpoch
) -> list[Child]:
    device = data.y["train"].device
    with seeded(seeds[0].order, device):
        return _train_members(spec, members, data, seeds, on_epoch)


def _train_members(
    spec: PairSpec, members: _Single | _Stack, data: Data, seeds: Sequence[Seeds], on_epoch: OnEpoch
) -> list[Child]:
    device = data.y["train"].device
    generators = _generators(seeds, device)
    per_epoch = steps_per_epoch(data.examples, spec.batch_size)
    total = per_epoch * spec.epochs
    factor = SCHEDULES[spec.schedule]
    optimizer = OPTIMIZERS[spec.optimizer](members.parameters, spec)
    histories: list[list[Epoch]] = [[] for _ in seeds]
    diverged: list[int | None] = [None] * len(seeds)
    step, rate = 0, 0.0
    for epoch in range(1, spec.epochs + 1):
        losses: list[Tensor] = []
        batches = [epoch_batches(data, spec, *g) for g in generators]
        for parts in zip(*batches, strict=True):
            rate = spec.learning_rate * factor(step, total, spec.warmup, spec.decay)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = members.losses(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]))
            optimizer.zero_grad(set_to_none=True)
            # the sum's gradient with respect to a member's weights is that of the member's own loss
            loss.sum().backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()
            losses.append(loss.detach())
            step += 1
        # one synchronisation per epoch, none per step
        curve = torch.stack(losses, 1).cpu()
        logits = members.logits(data.x["val"][:])
        for i, history in enumerate(histories):
            diverged[i] = diverged[i] or _first_bad(curve[i], step - per_epoch)
            val = score(logits[i], data.y["val"])
            history.append(Epoch(epoch, step, rate, curve[i].double().mean().item(), val))
            on_epoch(i, history[-1])
        if all(diverged):
            break
    weights = members.weights()
    for i, own in enumerate(weights):
        if diverged[i] is None and not all(bool(torch.isfinite(v).all()) for v in own.values()):
            diverged[i] = step
    return [Child(w, h, d) for w, h, d in zip(weights, histories, diverged, strict=True)]


def _first_bad(losses: Tensor, before: int) -> int | None:
    bad = torch.nonzero(~torch.isfinite(losses))
    return before + int(bad[0]) + 1 if len(bad) else None


def train_base(spec: PairSpec, model: nn.Module, data: Data) -> dict[str, Tensor]:
    """Train the shared base weights theta_0 from the model's initial ones: constant learning rate, no augmentation.

    Args:
        spec: Its `base` says how; only what `base_digest` covers matters.
        model: Module with its initial weights; it is trained in place.
        data: Data set.

    Returns:
        The state dict after `spec.base.steps` steps.

    Raises:
        ValueError: The base diverged, or its batch is larger than the training set.
    """
    base = spec.base
    steps_per_epoch(data.examples, base.batch_size, "base batch_size")
    recipe = _base_recipe(spec, base)
    order = Generator().manual_seed(stream(spec.base_digest, "order"))
    unused = Generator(device=data.y["train"].device).manual_seed(0)
    members = _Single(model, model.state_dict())
    optimizer = OPTIMIZERS["sgd"](members.parameters, recipe)
    epochs = (epoch_batches(data, recipe, order, unused) for _ in count())
    with seeded(stream(spec.base_digest, "dropout"), data.y["train"].device):
        for x, y in islice(chain.from_iterable(epochs), base.steps):
            optimizer.zero_grad(set_to_none=True)
            members.losses(x[None], y[None]).sum().backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()
    weights = members.weights()[0]
    if not all(math.isfinite(float(v.double().sum())) for v in weights.values()):
        raise ValueError(f"the base diverged with learning_rate {base.learning_rate} in {base.steps} steps; lower it")
    return weights


def _base_recipe(spec: PairSpec, base: BaseSpec) -> PairSpec:
    return replace(
        spec,
        learning_rate=base.learning_rate,
        batch_size=base.batch_size,
        momentum=base.momentum,
        weight_decay=base.weight_decay,
        augmentation="none",
        augmentation_strength=0.0,
    )


def build_model(builder: Callable[[], nn.Module], seed: int, device: str, dtype: torch.dtype) -> nn.Module:
    """Build a module with weights that depend on `seed` alone; the global generator is left as it was."""
    with seeded(seed):
        return copy.deepcopy(builder()).to(device, dtype)

"""The one training loop: train children from start weights, one by one or as one stack of members."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Generator, Tensor, nn

from trainables.datasets.dataset import Data
from trainables.models.seeding import Stream, seeded
from trainables.models.tensors import spoiled, unbounded
from trainables.spec import PairSpec
from trainables.tasks.batches import Batch, augmented_at_once, epoch_batches, steps_per_epoch
from trainables.tasks.evaluation import Score, score_inputs
from trainables.training.members import Members, OptimizerState, make_members, stackable
from trainables.training.optimizers import build
from trainables.training.schedules import SCHEDULES, constant


@dataclass(frozen=True)
class Seeds:
    """Random streams of one child: its data order and its augmentation draws."""

    order: int
    augment: int


@dataclass(frozen=True)
class Epoch:
    """One child after one epoch (or after its last, incomplete one); losses in nat."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    val: Score
    weight_norm: float = math.nan
    clipped: float = 0.0


@dataclass
class Child:
    """A trained child: its weights (parameters and buffers), its history and the step at which it diverged.

    Attributes:
        state: State of its optimizer, where it was asked for.
    """

    weights: dict[str, Tensor]
    history: list[Epoch]
    diverged_at: int | None = None
    state: OptimizerState | None = None

    @property
    def clipped_fraction(self) -> float:
        """Fraction of the steps whose gradient was clipped."""
        ends = [0, *(e.step for e in self.history)]
        return sum(e.clipped * (e.step - start) for start, e in zip(ends, self.history, strict=False)) / max(
            1, ends[-1]
        )


OnEpoch = Callable[[int, Epoch], None]
OnStep = Callable[[int, Members, Any], None]  # (steps done, members, optimizer); never changes them


@dataclass(frozen=True)
class Leg:
    """One stretch of training: its steps and the learning rate of each."""

    steps: int
    rate: Callable[[int], float]


def child_steps(spec: PairSpec, examples: int) -> int:
    """Return the optimizer steps T of one child that trains on `examples` examples.

    Raises:
        ValueError: The batch is larger than the training set.
    """
    per_epoch = steps_per_epoch(examples, spec.batch_size)
    return spec.steps or per_epoch * spec.epochs


def child_leg(spec: PairSpec, examples: int) -> Leg:
    """Return the leg of the children; after a trunk there is no second warmup."""
    total, factor = child_steps(spec, examples), SCHEDULES[spec.schedule]
    warmup = 0.0 if spec.protocol == "branch" else spec.warmup
    return Leg(total, lambda step: spec.learning_rate * factor(step, total, warmup, spec.decay))


def trunk_leg(spec: PairSpec) -> Leg:
    """Return the leg of the trunk: warmup over its own steps, then the stable learning rate of the trial."""
    return Leg(
        spec.branch_step, lambda step: spec.learning_rate * constant(step, spec.branch_step, spec.warmup, 0.0)
    )  # fmt: skip


def finetune(
    spec: PairSpec,
    model: nn.Module,
    start: Mapping[str, Tensor],
    data: Data | Sequence[Data],
    seeds: Sequence[Seeds],
    on_epoch: OnEpoch = lambda child, epoch: None,
    *,
    leg: Leg | None = None,
    state: OptimizerState | None = None,
    on_step: Callable[[int], OnStep] = lambda first: lambda step, members, optimizer: None,
    keep_state: bool = False,
) -> list[Child]:
    """Train one child per entry of `seeds` from the weights `start` to its end; see `courses`."""
    found = courses(
        spec, model, start, data, seeds, on_epoch, leg=leg, state=state, on_step=on_step, keep_state=keep_state
    )  # fmt: skip
    for course in found:
        course.advance()
    return [child for course in found for child in course.children]


def courses(
    spec: PairSpec,
    model: nn.Module,
    start: Mapping[str, Tensor],
    data: Data | Sequence[Data],
    seeds: Sequence[Seeds],
    on_epoch: OnEpoch = lambda child, epoch: None,
    *,
    leg: Leg | None = None,
    state: OptimizerState | None = None,
    on_step: Callable[[int], OnStep] = lambda first: lambda step, members, optimizer: None,
    keep_state: bool = False,
) -> list[Course]:
    """Return what trains one child per entry of `seeds` from the weights `start`; nothing is trained yet.

    Children train as one `torch.func` stack where `stackable` holds, else each has a course of its own. Both are the
    same computation up to rounding. Courses may take turns on one module.

    Args:
        spec: Hyperparameters.
        model: Module of the architecture; its weights are overwritten.
        start: State dict to start from; stays untouched.
        data: Data set on the model's device, or one per child.
        seeds: Random streams, one entry per child.
        on_epoch: Called after every epoch of every child with (index of the child, record).
        leg: Steps and learning rates; None is `child_leg`.
        state: Optimizer state to continue with.
        on_step: Called with the index of the first child that trains; what it returns is called after each step.
        keep_state: Whether the children hold their optimizer state at the end.

    Raises:
        ValueError: The batch is larger than the training set.
    """
    sets = [data] * len(seeds) if isinstance(data, Data) else list(data)
    leg = leg or child_leg(spec, sets[0].examples)
    constants = unbounded(start)
    groups = [range(len(seeds))] if stackable(spec, model) else [range(i, i + 1) for i in range(len(seeds))]
    return [
        Course(
            spec, lambda g=g: make_members(spec, model, start, len(g)),
            [sets[i] for i in g], [seeds[i] for i in g], leg, state=state, keep_state=keep_state, on_step=on_step(g[0]),
            on_epoch=lambda i, epoch, first=g[0]: on_epoch(first + i, epoch), constants=constants,
        )
        for g in groups
    ]  # fmt: skip


class Course:
    """One pass of the training loop over children that train in step; it can be left and taken up again.

    Attributes:
        leg: Its steps and learning rates.
        done: Steps so far.
        histories: Epochs so far of each child.
        diverged: Step at which each child diverged, None where it did not.
        children: The trained children; empty before the end.
    """

    def __init__(
        self,
        spec: PairSpec,
        open_members: Callable[[], Members],
        data: Sequence[Data],
        seeds: Sequence[Seeds],
        leg: Leg,
        *,
        state: OptimizerState | None,
        keep_state: bool,
        on_step: OnStep,
        on_epoch: OnEpoch,
        constants: Mapping[str, Tensor],
    ) -> None:
        self.constants = constants
        self.spec, self.open_members, self.data, self.seeds, self.leg = spec, open_members, data, seeds, leg
        self.state, self.keep_state, self.on_step, self.on_epoch = state, keep_state, on_step, on_epoch
        self.device = data[0].y["train"].device
        self.done, self.until, self.rate = 0, leg.steps, 0.0
        self.histories: list[list[Epoch]] = [[] for _ in seeds]
        self.diverged: list[int | None] = [None] * len(seeds)
        self.children: list[Child] = []
        self.held: list[Tensor] | None = None  # the weights while another course has the module
        self.within: Mapping[str, Any] | None = None  # where in an epoch a checkpoint was written

    def begin(self, until: int | None = None) -> None:
        """Nothing: a course of this process trains when it is waited for."""

    def advance(self, until: int | None = None) -> None:
        """Train until so many steps are done, by default to the end; the numbers do not depend on the pauses."""
        if self.children:
            return
        self.until = self.leg.steps if until is None else until
        if self.held is None:
            self._open()
        else:
            self.members.take(self.held)
            self.held = []  # no second copy while it trains
        with self.stream.entered():
            paused = next(self.steps, False)
        if paused:
            self.held = self.members.held()
        else:
            self._finish()

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` goes on from, as tensors and plain values; only while it is left, or at its end."""
        histories = [[asdict(e) for e in h] for h in self.histories]
        found: dict[str, Any] = {"done": self.done, "histories": histories, "diverged": list(self.diverged)}
        if self.children:
            return found | {"weights": [c.weights for c in self.children]}
        if self.held is None:
            return found
        if self.within is not None:  # restored, and not begun since
            return dict(self.within)
        return found | {
            "held": self.held,
            "optimizer": self.optimizer.state_dict(),
            "stream": self.stream.states,
            "epoch": self.epoch,
            "start": self.start,
            "streams": self.drawn,
            "losses": torch.stack(self.losses, 1) if self.losses else None,
            "clipped": self.clipped,
            "rate": self.rate,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a course of the same arguments was at its snapshot; bit for bit on the same device."""
        self.done, self.diverged = state["done"], list(state["diverged"])
        self.histories = [[epoch_of(e) for e in h] for h in state["histories"]]
        if "weights" in state:
            own = [{k: v.to(self.device) for k, v in w.items()} for w in state["weights"]]
            self.children = [Child(w, h, d) for w, h, d in zip(own, self.histories, self.diverged, strict=True)]
        elif "held" in state:
            self._open()
            self.held = [v.to(self.device) for v in state["held"]]
            self.members.take(self.held)
            self.optimizer.load_state_dict(state["optimizer"])
            self.stream.states, self.within, self.rate = state["stream"], state, state["rate"]

    def annealed(self, leg: Leg, seeds: Sequence[Seeds]) -> list[dict[str, Tensor]]:
        """Return the children's weights after a further leg with streams of its own; the course stays where it is."""
        if self.children:
            return [c.weights for c in self.children]
        assert self.held is not None
        self.members.take(self.held)
        if leg.steps:
            before = copy.deepcopy(self.optimizer.state_dict())
            with seeded(seeds[0].order, self.device):
                endless = zip(*(self._endless(d, s) for d, s in zip(self.data, seeds, strict=True)), strict=True)
                for step, parts in enumerate(islice(endless, leg.steps)):
                    self._step(parts, leg.rate(step))
            self.optimizer.load_state_dict(before)
        return self.members.weights()

    def _endless(self, data: Data, seeds: Seeds) -> Iterator[Batch]:
        streams = self._streams(seeds)
        return chain.from_iterable(epoch_batches(data, self.spec, *streams) for _ in count())

    def _streams(self, seeds: Seeds) -> tuple[Generator, Generator]:
        # data order on the CPU, so that it does not depend on the device
        return Generator().manual_seed(seeds.order), Generator(device=self.device).manual_seed(seeds.augment)

    def _open(self) -> None:
        self.members = self.open_members()
        self.optimizer = build(self.members.parameters, self.spec)
        if self.state is not None:
            self.members.load(self.optimizer, self.state)
        # every rank draws dropout masks of its own
        self.stream = Stream((self.seeds[0].order + self.members.ranks.rank) % 2**63, self.device)
        self.steps = self._epochs()

    def _finish(self) -> None:
        weights = self.members.weights()
        for i, own in enumerate(weights):
            if self.diverged[i] is None and spoiled(own, self.constants):
                self.diverged[i] = self.leg.steps
        kept = copy.deepcopy(self.optimizer.state_dict()) if self.keep_state else None
        self.children = [
            Child(w, h, d, kept) for w, h, d in zip(weights, self.histories, self.diverged, strict=True)
        ]  # fmt: skip
        del self.members, self.optimizer, self.steps, self.held

    def _epochs(self) -> Iterator[bool]:
        streams = [self._streams(s) for s in self.seeds]
        within, self.within = self.within, None
        for self.epoch in count(within["epoch"] if within else 1):
            if within:
                for generators, states in zip(streams, within["streams"], strict=True):
                    for generator, state in zip(generators, states, strict=True):
                        generator.set_state(state)
            # order at the epoch's start, augmentation before the images that were augmented last
            self.drawn: list[tuple[Tensor, Tensor]] = [(o.get_state(), a.get_state()) for o, a in streams]
            self.start = within["start"] if within else self.done
            share = self.members.ranks.rank, self.members.ranks.size, self.done - self.start
            batches = [epoch_batches(d, self.spec, *g, *share) for d, g in zip(self.data, streams, strict=True)]
            yield from self._epoch(zip(*batches, strict=True), [augment for _, augment in streams], within)
            within = None
            if self.done == self.start:
                return
            self._close(self.epoch, self.start)
            if self.done == self.leg.steps or all(self.diverged):
                return

    def _epoch(
        self, batches: Iterator[tuple[Batch, ...]], augment: Sequence[Generator], within: Mapping[str, Any] | None
    ) -> Iterator[bool]:
        self.losses: list[Tensor] = []
        self.clipped = torch.zeros((), device=self.device)
        at_once = augmented_at_once(self.spec.batch_size, self.data[0].x["train"].shape) // self.spec.batch_size
        if within:
            self.losses = [] if within["losses"] is None else list(within["losses"].to(self.device).unbind(1))
            self.clipped = within["clipped"].to(self.device)
        for parts in islice(batches, self.leg.steps - self.done):
            if self.done == self.until:
                yield True
            self.rate = self.leg.rate(self.done)
            self.losses.append(self._step(parts, self.rate))
            self.done += 1
            if self.members.unclipped_norm is not None:
                self.clipped += self.members.unclipped_norm > self.spec.clip_norm
            self.on_step(self.done, self.members, self.optimizer)
            if (self.done - self.start) % at_once == 0:
                self.drawn = [(order, a.get_state()) for (order, _), a in zip(self.drawn, augment, strict=True)]

    def _step(self, parts: Sequence[Batch], rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.members.losses(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]))
        self.optimizer.zero_grad(set_to_none=True)
        # the sum's gradient with respect to a member's weights is that of the member's own loss
        loss.sum().backward()  # pyright: ignore[reportUnknownMemberType]
        if self.spec.clip_norm:
            self.members.unclipped_norm = nn.utils.clip_grad_norm_(self.members.parameters, self.spec.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _close(self, epoch: int, start: int) -> None:
        # one synchronisation per epoch, none per step
        curve = self.members.ranks.mean(torch.stack(self.losses, 1)).cpu()
        norms, clipped = self.members.norms().cpu(), float(self.clipped) / (self.done - start)
        for i, history in enumerate(self.histories):
            self.diverged[i] = self.diverged[i] or _first_bad(curve[i], start)
            mean = curve[i].double().mean().item()
            val = score_inputs(lambda x, i=i: self.members.logits(x)[i], *self.data[i].scored("val"))
            history.append(Epoch(epoch, self.done, self.rate, mean, val, float(norms[i]), clipped))
            self.on_epoch(i, history[-1])


def epoch_of(plain: Mapping[str, Any]) -> Epoch:
    """Return an epoch from what `asdict` made of it."""
    settings = dict(plain)
    return Epoch(val=Score(**settings.pop("val")), **settings)


def _first_bad(losses: Tensor, before: int) -> int | None:
    bad = torch.nonzero(~torch.isfinite(losses))
    return before + int(bad[0]) + 1 if len(bad) else None

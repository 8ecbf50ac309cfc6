"""The training loop: trains children from their start weights, one by one or as one stack of members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain, count, islice
from typing import Any

import torch
from torch import Generator, Tensor, nn

from trainables.datasets.dataset import Data
from trainables.models.seeding import Stream, seed_generators
from trainables.models.tensors import HOST, copy_to_host, non_finite_entries, non_finite_names
from trainables.spec import PairSpec
from trainables.tasks.batches import Batch, epoch_batches, group_batches, steps_per_epoch
from trainables.tasks.evaluation import score_inputs
from trainables.training.child import Child, Epoch, read_epoch
from trainables.training.legs import Leg
from trainables.training.members import Members, OptimizerState, Parking, make_members, second_moments, stackable
from trainables.training.optimizers import build
from trainables.training.ranks import Ranks
from trainables.training.servo import Steering, make_servo
from trainables.training.steps import Stepper, check_graphs, record_cuda_graph
from trainables.training.windows import LAST, Window, make_averages


@dataclass(frozen=True)
class Seeds:
    """Seeds of one child: of its data order and of its augmentation.

    Attributes:
        half: Which half of each pair of batches the child takes first, 0 or 1; None takes the batches in order. See
            `trainables.tasks.batches.epoch_batches`.
    """

    order: int
    augment: int
    half: int | None = None


@dataclass(frozen=True)
class Training:
    """What some children train: a model from its start weights, on their data, over one leg.

    Attributes:
        spec: Hyperparameters.
        model: Module of the architecture on the device; training overwrites its weights.
        start: State dict to start from, on the host; stays unchanged.
        data: Data set of each child, on the model's device.
        seeds: Seeds of each child.
        leg: Steps and learning rates.
        state: Optimizer state of one child to continue from; None starts a new optimizer.
        keep_state: Whether the trained children hold their optimizer state.
        keep_moments: Whether the trained children hold Adam's second moments.
        window: Which means of last checkpoints the trained children hold.
        fold: Turns the state dict of `model` into the weights of a child.
        first: Index of the first child, for the callbacks.
        on_epoch: Receives each epoch of each child: index of the child, record.
        on_step: Receives each step: index of the first child that trains, steps done, members, optimizer and its
            state. It must not change them.
    """

    spec: PairSpec
    model: nn.Module
    start: Mapping[str, Tensor]
    data: Sequence[Data]
    seeds: Sequence[Seeds]
    leg: Leg
    state: OptimizerState | None = None
    keep_state: bool = False
    keep_moments: bool = False
    window: Window = LAST
    fold: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    first: int = 0
    on_epoch: Callable[[int, Epoch], None] = lambda child, epoch: None
    on_step: Callable[[int, int, Members, Parking], None] = lambda child, step, members, parking: None

    @property
    def device(self) -> torch.device:
        """Device of the data and the model."""
        return self.data[0].y["train"].device


def make_courses(training: Training) -> list[Course]:
    """Return the courses that train the children; nothing trains yet.

    Children train as one `torch.func` stack if `stackable` allows it, else each has its own course. Both compute the
    same numbers up to rounding. Courses may take turns on one module.
    """
    children = len(training.seeds)
    size = children if stackable(training.spec, training.model) else 1
    return [
        Course(
            replace(
                training,
                data=training.data[i : i + size],
                seeds=training.seeds[i : i + size],
                first=training.first + i,
            )
        )
        for i in range(0, children, size)
    ]


class Course:
    """The training of children that step together; it can pause and resume.

    In a pause and at the end, weights and optimizer state are on the host: the device holds the course that trains.

    Attributes:
        training: What it trains.
        leg: Its steps and learning rates.
        done: Number of steps done.
        histories: Epochs of each child so far.
        diverged: Step at which each child diverged; None if it did not.
        children: The trained children; empty before the end.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.leg = training, training.leg
        self.done = 0
        self.histories: list[list[Epoch]] = [[] for _ in training.seeds]
        self.diverged: list[int | None] = [None] * len(training.seeds)
        self.children: list[Child] = []
        self._windows = make_averages(training.window, self.leg.steps, len(training.seeds))
        spec, leg = training.spec, training.leg
        self.servo = make_servo(spec.servo, leg.stable, lambda step: leg.size(step, spec.batch_size))
        self._run: _Run | None = None  # from the first step to the last one
        self._held: list[Tensor] = []  # weights during a pause, when another course may use the module

    @property
    def steering(self) -> Steering:
        """What a servo did so far to the learning rate of its children."""
        return self.servo.steering

    def begin(self, until: int | None = None) -> None:
        """Do nothing: a course of this process trains in `advance`."""

    def advance(self, until: int | None = None) -> None:
        """Train until `until` steps are done, by default to the end; pauses do not change the numbers."""
        if self.children:
            return
        until = self.leg.steps if until is None else min(until, self.leg.steps)
        run = self._resume()
        with run.dropout.enter():
            while self.done < until and not all(self.diverged):
                factor = self.servo.steer(self.done, run.epoch.losses, run.members.ranks)
                run.rate = factor * self.leg.rate(self.done)
                losses = run.stepper.take(next(run.epoch.batches), run.rate)
                self.servo.note(self.done, run.members.parameters)
                self.done += 1
                run.epoch.add_step(losses, run.members.unclipped_norm)
                self._windows.add(self.done, lambda: self._weights(run))
                self.training.on_step(self.training.first, self.done, run.members, run.parking)
                if self.done in (run.epoch.end, self.leg.steps):
                    self._close_epoch(run)
        if self.done == self.leg.steps or all(self.diverged):
            self._finish(run)
        else:
            self._held = run.members.copy_tensors()
            run.park()

    def _resume(self) -> _Run:
        if self._run is None:
            self._run = _Run(self.training)
        else:
            self._run.members.load_tensors(self._held)
            self._run.parking.fetch()
        self._held = []  # no second copy while it trains
        return self._run

    def _close_epoch(self, run: _Run) -> None:
        epoch = run.epoch
        # one synchronisation per epoch, none per step
        curve = run.members.ranks.mean(torch.stack(epoch.losses, 1)).cpu()
        norms, clipped = run.members.norms().cpu(), float(epoch.clipped) / (self.done - epoch.start)
        for i, history in enumerate(self.histories):
            self.diverged[i] = self.diverged[i] or _first_bad_step(curve[i], epoch.start)
            mean = curve[i].double().mean().item()
            val = score_inputs(lambda x, i=i: run.members.logits(x)[i], *self.training.data[i].scored("val"))
            history.append(Epoch(epoch.number, self.done, run.rate, mean, val, float(norms[i]), clipped))
            self.training.on_epoch(self.training.first + i, history[-1])
        run.epoch = run.open_epoch(epoch.number + 1, self.done)

    def _weights(self, run: _Run) -> list[dict[str, Tensor]]:
        return [self.training.fold(w) for w in run.members.weights()]

    def _finish(self, run: _Run) -> None:
        run.optimizer.zero_grad(set_to_none=True)  # no gradients beside the models that are scored
        constants = non_finite_entries(self.training.start)
        for i, state_dict in enumerate(run.members.weights()):
            if self.diverged[i] is None and non_finite_names(state_dict, constants):
                self.diverged[i] = self.leg.steps
        state = copy_to_host(run.optimizer.state_dict()) if self.training.keep_state else None
        weights = self._weights(run)
        moments = run.scaled_moments() if self.training.keep_moments else [None] * len(weights)
        # a child that stops early has diverged, and no averages
        windows = [self._windows.averages(i, w) if self.done == self.leg.steps else {} for i, w in enumerate(weights)]
        self.children = [
            Child(w, h, d, state, m, means, self.steering)
            for w, h, d, m, means in zip(weights, self.histories, self.diverged, moments, windows, strict=True)
        ]
        self._run = None

    def anneal(self, leg: Leg, seeds: Sequence[Seeds]) -> list[dict[str, Tensor]]:
        """Return the children's weights after a further leg with its own seeds; the course stays where it is."""
        if self.children:
            return [c.weights for c in self.children]
        assert self._run is not None
        self._run.members.load_tensors(self._held)
        return [self.training.fold(w) for w in self._run.anneal(leg, seeds, self.servo.factor)]

    def snapshot(self) -> dict[str, Any]:
        """Return the state for `restore` as tensors and plain values; call it during a pause or at the end only."""
        histories = [[asdict(e) for e in h] for h in self.histories]
        state: dict[str, Any] = {"done": self.done, "histories": histories, "diverged": list(self.diverged)}
        state["servo"] = self.servo.snapshot()
        if self.children:
            return state | {n: [getattr(c, n) for c in self.children] for n in ("weights", "moments", "windows")}
        if self._run is None:
            return state
        return state | {"held": self._held, "window": self._windows.snapshot()} | self._run.snapshot()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the snapshot of a course of the same training; bit for bit on the same device."""
        device = self.training.device
        self.done, self.diverged = state["done"], list(state["diverged"])
        self.histories = [[read_epoch(e) for e in h] for h in state["histories"]]
        self.servo.restore(state["servo"], device)
        if "weights" in state:
            kept = zip(state["weights"], state["moments"], state["windows"], strict=True)
            self.children = [
                Child(w, h, d, moments=m, windows=means, steering=self.steering)
                for (w, m, means), h, d in zip(kept, self.histories, self.diverged, strict=True)
            ]
        elif "held" in state:
            self._run = _Run(self.training)
            self._run.restore(state)
            self._windows.restore(state["window"])
            self._held = list(state["held"])
            self._run.park()


class _Run:
    """What a course holds from its first step to its last: members, optimizer, random streams, open epoch."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.members = make_members(training.spec, training.model, training.start, len(training.seeds))
        self.optimizer = build(self.members.parameters, training.spec)
        if training.state is not None:
            self.members.load(self.optimizer, training.state)
        # every rank draws its own dropout masks
        self.dropout = Stream((training.seeds[0].order + self.members.ranks.rank) % 2**63, training.device)
        self.generators = [_make_generators(s, training.device) for s in training.seeds]
        self.epoch = self.open_epoch(1, 0)
        self.rate = 0.0
        recorded = check_graphs(training.spec, training.device, self.members.ranks)
        self.stepper = Stepper(self.members, self.optimizer, training.spec, record_cuda_graph if recorded else None)
        self.parking = Parking(self.optimizer, fixed=recorded)

    def open_epoch(self, number: int, start: int, skip: int = 0) -> _OpenEpoch:
        """Return an epoch that begins after `start` steps of the course, without its first `skip` batches."""
        return _OpenEpoch(self.training, self.generators, self.members.ranks, number, start, skip)

    def park(self) -> None:
        """Move the optimizer's state to the host, for a pause."""
        self.stepper.forget()
        self.parking.park()

    def scaled_moments(self) -> list[dict[str, Tensor]]:
        """Return B times Adam's second moments for each member, copies on the host.

        They estimate the mean squared gradient of an example where the mean gradient is small.
        """
        moments = second_moments(self.members, self.optimizer, HOST)
        assert moments is not None, "the trial's check of its merges knows the optimizer"
        return [{n: self.training.spec.batch_size * v for n, v in own.items()} for own in moments]

    def anneal(self, leg: Leg, seeds: Sequence[Seeds], factor: float) -> list[dict[str, Tensor]]:
        """Return the members' weights after a further leg; the optimizer state comes back as it was.

        The batches of the leg have the size of its first one. `factor` multiplies its learning rates.
        """
        if leg.steps:
            before = copy_to_host(self.optimizer.state_dict())
            self.parking.fetch()
            spec = replace(self.training.spec, batch_size=leg.size(0, self.training.spec.batch_size))
            with seed_generators(seeds[0].order, self.training.device):
                streams = [self._repeat_epochs(spec, d, s) for d, s in zip(self.training.data, seeds, strict=True)]
                endless = zip(*streams, strict=True)
                for step, batches in enumerate(islice(endless, leg.steps)):
                    self.stepper.take(batches, factor * leg.rate(step))
            self.optimizer.load_state_dict(before)
            self.park()
        return self.members.weights()

    def _repeat_epochs(self, spec: PairSpec, data: Data, seeds: Seeds) -> Iterator[Batch]:
        generators = _make_generators(seeds, self.training.device)
        return chain.from_iterable(epoch_batches(data, spec, *generators, half=seeds.half) for _ in count())

    def snapshot(self) -> dict[str, Any]:
        """Return the state for `restore`, without the weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "stream": self.dropout.states,
            "epoch": self.epoch.number,
            "start": self.epoch.start,
            "streams": self.epoch.states,
            "losses": torch.stack(self.epoch.losses, 1) if self.epoch.losses else None,
            "clipped": self.epoch.clipped,
            "rate": self.rate,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken, in the middle of an epoch too."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.dropout.states, self.rate = state["stream"], state["rate"]
        for generators, states in zip(self.generators, state["streams"], strict=True):
            for generator, generator_state in zip(generators, states, strict=True):
                generator.set_state(generator_state)
        self.epoch = self.open_epoch(state["epoch"], state["start"], state["done"] - state["start"])
        device, losses = self.training.device, state["losses"]
        self.epoch.losses = [] if losses is None else list(losses.to(device).unbind(1))
        self.epoch.clipped = state["clipped"].to(device)


class _OpenEpoch:
    """An epoch in progress.

    Attributes:
        number: From 1.
        start: Steps of the course before it.
        end: Steps of the course after it, if the leg is long enough.
        batches: One batch per member for each step to come.
        losses: Losses [members] of each step so far.
        clipped: Number of steps so far whose gradient was clipped.
        states: Generator states to draw the next batch again: order at the start of the epoch, augmentation before the
            images that were augmented last.
    """

    def __init__(
        self,
        training: Training,
        generators: Sequence[tuple[Generator, Generator]],
        ranks: Ranks,
        number: int,
        start: int,
        skip: int,
    ) -> None:
        spec, data = training.spec, training.data
        self.number, self.start = number, start
        per_epoch, plan = steps_per_epoch(data[0].examples, spec.batch_size), training.leg.plan
        sizes = plan.sizes_after(start) if plan else ()
        self.end = start + (len(sizes) or per_epoch)
        self.states: list[tuple[Tensor, Tensor]] = [(o.get_state(), a.get_state()) for o, a in generators]
        self._generators, self._clip_norm = generators, spec.clip_norm
        calls = group_batches(sizes or [spec.batch_size] * per_epoch, data[0].x["train"].shape)
        self._redraws = frozenset(accumulate(calls))
        share = ranks.rank, ranks.size, skip
        halves = [s.half for s in training.seeds]
        batches = [
            epoch_batches(d, spec, *g, *share, half, sizes) for d, g, half in zip(data, generators, halves, strict=True)
        ]
        self.batches: Iterator[tuple[Batch, ...]] = zip(*batches, strict=True)
        self.losses: list[Tensor] = []
        self.clipped = torch.zeros((), device=training.device)

    def add_step(self, losses: Tensor, unclipped_norm: Tensor | None) -> None:
        """Note the losses [members] of a step and the norm of its gradient before clipping."""
        self.losses.append(losses)
        if unclipped_norm is not None:
            self.clipped += unclipped_norm > self._clip_norm
        # the next step draws new augmented images
        if len(self.losses) in self._redraws:
            augment = [a.get_state() for _, a in self._generators]
            self.states = [(order, a) for (order, _), a in zip(self.states, augment, strict=True)]


def _make_generators(seeds: Seeds, device: torch.device) -> tuple[Generator, Generator]:
    # data order on the CPU, so that it does not depend on the device
    return Generator().manual_seed(seeds.order), Generator(device=device).manual_seed(seeds.augment)


def _first_bad_step(losses: Tensor, before: int) -> int | None:
    bad = torch.nonzero(~torch.isfinite(losses))
    return before + int(bad[0]) + 1 if len(bad) else None

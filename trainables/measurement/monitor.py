"""Measured noise of a trial: gradient statistics of its children during training, outside the training time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from trainables.datasets.augmentation import augment, changes
from trainables.datasets.dataset import Data
from trainables.measurement.dose import dose
from trainables.measurement.gradients import LEAST, Plan, Statistics, at_steps, from_ranks, measure, plan, pool
from trainables.merging.coefficient_grid import Phase
from trainables.models.registry import drops, has_batchnorm
from trainables.models.tensors import HOST
from trainables.spec import PairSpec
from trainables.tasks.tasks import Task
from trainables.training.child import Child
from trainables.training.legs import Leg
from trainables.training.members import Members, Parking, second_moments
from trainables.training.servo import Steering

SMALLEST_NORMALISED = 8  # least examples of a micro-batch with BatchNorm


@dataclass(frozen=True)
class Reading:
    """One measurement of one child, with the steps done before it."""

    step: int
    statistics: Statistics
    weight_norm: float


@dataclass
class Watch:
    """Measures the gradient noise of children during training, with separate random streams.

    Args:
        specs: Spec of each child.
        tasks: Task of each child, in the same order.
        data: Data set of each child.
        legs: Steps and learning rates of each child.
        times: Measurements per child; None spends 2 % of the training, 0 measures nothing.
        phase: Times the phase `measure`.
    """

    specs: Sequence[PairSpec]
    tasks: Sequence[Task]
    data: Sequence[Data]
    legs: Sequence[Leg]
    times: int | None
    phase: Phase
    readings: dict[int, list[Reading]] = field(default_factory=lambda: {})

    def __post_init__(self) -> None:
        spec, model = self.specs[0], self.tasks[0].trainee
        # the noise of BatchNorm depends on its batch, so that micro-batches are as large as the data set allows
        few = min(d.examples for d in self.data) // LEAST
        micro = {"micro_size": max(2, min(spec.batch_size, few))} if has_batchnorm(model) else {}
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        trained = self.legs[0].passed(self.legs[0].steps, spec.batch_size)
        self.plan: Plan = plan(trained, times=self.times, parameters=size, **micro)
        if micro and self.times is None and self.plan.micro_size < SMALLEST_NORMALISED:
            self.plan = Plan(0, 0, 0)  # the share does not pay for large enough batches
        if min(d.examples for d in self.data) < 2 * self.plan.micro_size:
            self.plan = Plan(0, 0, 0)
        self.steps = [frozenset(self._steps(spec, leg)) if self.plan.times else frozenset[int]() for leg in self.legs]

    def _steps(self, spec: PairSpec, leg: Leg) -> Sequence[int]:
        start, end = (leg.stable.start, leg.stable.stop) if len(leg.stable) else (0, leg.steps)
        # after at least one step, so that the optimizer has a second moment
        return [max(1, s) for s in at_steps(leg.steps, start, end, self.plan.times)]

    def on_step(self, first: int, step: int, members: Members, parking: Parking) -> None:
        """Measure the members, whose first is child `first`, if a measurement is due after `step` steps."""
        if step in self.steps[first]:
            with self.phase("measure"):
                self._read(first, step, members, parking)

    def _read(self, first: int, step: int, members: Members, parking: Parking) -> None:
        norms = [float(n) for n in members.norms()]
        if members.ranks.size > 1:
            self._note(first, step, self._from_ranks(members), norms[0])
            return
        moments = _squared_denominators(members, parking.optimizer)
        # the device holds the model and the gradients of the measurement
        with parking.away():
            for i, weights in enumerate(members.views()):
                child = first + i
                (x, target), again = (self._examples(child, step, draw) for draw in ("augment", "augment/again"))
                statistics = measure(
                    self.tasks[child].trainee, weights, members.names, x, target, self.plan.micro_size,
                    moments[i] if moments else None, self.specs[child].stream(f"measure/dropout/{child}/{step}"),
                    again, self.data[child].examples,
                )  # fmt: skip
                self._note(child, step, statistics, norms[i])

    def snapshot(self) -> dict[int, list[dict[str, Any]]]:
        """Return the measurements so far as plain values for `restore`."""
        return {child: [asdict(r) for r in readings] for child, readings in self.readings.items()}

    def restore(self, state: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
        """Load the measurements that `snapshot` returned."""
        self.readings = {
            child: [Reading(r["step"], Statistics(**r["statistics"]), r["weight_norm"]) for r in readings]
            for child, readings in state.items()
        }

    def _note(self, child: int, step: int, statistics: Statistics, norm: float) -> None:
        if math.isfinite(statistics.trace_sigma):  # not finite if the child diverges
            self.readings.setdefault(child, []).append(Reading(step, statistics, norm))

    def _from_ranks(self, members: Members) -> Statistics:
        local = torch.stack(members.local_norms).sum()  # type: ignore[attr-defined]
        gathered = [torch.zeros_like(local) for _ in range(members.ranks.size)]
        torch.distributed.all_gather(gathered, local)
        reduced = sum(float(p.grad.double().square().sum()) for p in members.parameters if p.grad is not None)
        if members.unclipped_norm is not None:
            reduced = float(members.unclipped_norm) ** 2
        spec, data = self.specs[0], self.data[0]
        random = changes(spec.augmentation, spec.augmentation_strength) or drops(self.tasks[0].trainee)
        per_rank = spec.batch_size // members.ranks.size
        return from_ranks([float(v) for v in gathered], reduced, per_rank, data.examples, random)

    def _examples(self, child: int, step: int, draw: str) -> tuple[Tensor, Tensor]:
        spec, data = self.specs[child], self.data[child]
        y, role = data.y["train"], f"measure/{child}/{step}"
        count = min(len(y), self.plan.micro_batches * self.plan.micro_size)
        index = torch.randperm(len(y), generator=Generator().manual_seed(spec.stream(role)))[:count].to(y.device)
        draws = Generator(device=y.device).manual_seed(spec.stream(f"{role}/{draw}"))
        policy, strength = spec.augmentation, spec.augmentation_strength
        return augment(policy, strength, data.x["train"][index], y[index], data.classes, draws)

    def summary(
        self, children: Sequence[int], momentum: float, steering: Sequence[Steering] = ()
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Return the measurements of some children, usually those of one trial.

        Args:
            children: Their indices.
            momentum: mu.
            steering: What a servo did to each of them; empty without one.

        Returns:
            Fields of `TrialResult`, and settings of measured noise scales (`dose`, `weight_norm`); both empty without
            measurements.
        """
        readings = [r for c in children for r in self.readings.get(c, [])]
        if not readings:
            return {}, {}
        pooled = pool([r.statistics for r in readings])
        fields = {
            "trace_sigma": pooled.trace_sigma,
            "trace_sigma_se": pooled.trace_sigma_se,
            "trace_sigma_preconditioned": pooled.preconditioned,
            "gradient_norm2": pooled.norm2,
            "b_simple": pooled.b_simple,
        }
        factors = dict(zip(children, steering, strict=True)) if steering else {}
        rates = {c: self._rates(c, factors.get(c, Steering())) for c in children}
        doses = [
            dose(
                rates[c],
                plan.sizes if (plan := self.legs[c].plan) else self.specs[c].batch_size,
                momentum,
                {r.step: max(0.0, r.statistics.trace_sigma) for r in measured},
            )
            for c in children
            if (measured := self.readings.get(c))
        ]  # fmt: skip
        norm = sum(r.weight_norm for r in readings) / len(readings)
        return fields, {"dose": sum(doses) / len(doses), "weight_norm": norm}

    def _rates(self, child: int, steering: Steering) -> list[float]:
        leg = self.legs[child]
        return [leg.rate(t) * steering.at(t) for t in range(leg.steps)]

    def at_epochs(self, child: int, trained: Child) -> Mapping[int, Statistics]:
        """Return epoch -> pooled statistics of its measurements."""
        by_epoch: dict[int, list[Statistics]] = {}
        for reading in self.readings.get(child, []):
            epoch = next((e.epoch for e in trained.history if e.step >= reading.step), None)
            if epoch is not None:
                by_epoch.setdefault(epoch, []).append(reading.statistics)
        return {epoch: pool(statistics) for epoch, statistics in by_epoch.items()}


def _squared_denominators(members: Members, optimizer: Any) -> list[dict[str, Tensor]] | None:
    """Return Adam's squared denominator (sqrt(v_hat) + eps)^2 by name for each member, on the host, or None."""
    eps = optimizer.param_groups[0].get("eps", 0.0)
    return second_moments(members, optimizer, change=lambda v: (v.sqrt() + eps).square().to(HOST))

"""What each trial takes of a cluster: bundles of one placement group, and whether the cluster can ever hold them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sweeper.config.fields import parse_bytes
from sweeper.config.yaml_source import SpecError

Bundle = dict[str, float]


class Resources(BaseModel):
    """What one trial takes.

    Attributes:
        gpus_per_pair: GPUs of one process that trains the children one after the other; a fraction shares a GPU among
            trials. None is one GPU where there are GPUs.
        gpus_per_member: Each child trains on so many GPUs of its own, all children at the same time: one process a GPU.
        ranks_per_member: The same with so many processes on CPUs.
        cpus_per_rank: CPUs of each process; None is the sweep's `threads`.
        memory_per_rank: Memory that each process reserves [bytes, or text such as 8GB].
        placement: How the processes of a trial are placed: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.
        custom: Amounts of the cluster's own resources that each process takes.
        labels: Labels of the nodes on which the processes run, as Ray's label selectors.
        autoscaling: The cluster adds nodes by itself: what today's nodes lack is waited for, not refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus_per_pair: float | None = Field(None, ge=0, le=1024, allow_inf_nan=False)
    gpus_per_member: int | None = Field(None, ge=1, le=1024)
    ranks_per_member: int | None = Field(None, ge=1, le=1024)
    cpus_per_rank: float | None = Field(None, gt=0, allow_inf_nan=False)
    memory_per_rank: Annotated[float, BeforeValidator(parse_bytes)] | None = Field(None, gt=0, allow_inf_nan=False)
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    custom: dict[str, float] = {}
    labels: dict[str, str] = {}
    autoscaling: bool = False

    @field_validator(
        "gpus_per_pair", "gpus_per_member", "ranks_per_member", "cpus_per_rank", "memory_per_rank", mode="before"
    )
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be a number, got {value}")
        return value

    @model_validator(mode="after")
    def _one_layout(self) -> Resources:
        if self.gpus_per_pair is not None and self.ranks is not None:
            raise ValueError("give gpus_per_pair (one process a trial) or gpus_per_member, not both")
        pair = self.gpus_per_pair
        if pair is not None and pair > 1 and pair != int(pair):
            raise ValueError(f"gpus_per_pair must be a fraction up to 1 or a whole number, got {pair:g}")
        if self.gpus_per_member and self.ranks_per_member not in (None, self.gpus_per_member):
            raise ValueError(f"ranks_per_member must be gpus_per_member: leave it out, got {self.ranks_per_member}")
        wrong = [f"{name}: {amount:g}" for name, amount in self.custom.items() if not amount > 0]
        if wrong or {"CPU", "GPU", "memory"} & set(self.custom):
            raise ValueError(f"custom must give amounts > 0 of resources other than CPU, GPU and memory, got {wrong}")
        return self

    @property
    def ranks(self) -> int | None:
        """Processes that train one child; None where one process trains all children of a trial."""
        return self.gpus_per_member or self.ranks_per_member

    def gpus(self, members: int) -> float:
        """Return the GPUs that a trial of so many children holds where it runs on GPUs."""
        return self.gpus_per_member * members if self.gpus_per_member else self.gpus_per_pair or 1.0

    @property
    def without_gpus(self) -> str:
        """What asks for processes without GPUs, as `key: value`; empty where nothing does."""
        if self.gpus_per_pair == 0:
            return "gpus_per_pair: 0"
        return f"ranks_per_member: {self.ranks_per_member}" if self.ranks and not self.gpus_per_member else ""

    def device(self, asked: str) -> str:
        """Return the device of the trials where `asked` is: without GPUs of their own they take no other trial's.

        Raises:
            SpecError: A GPU is asked for, and none is reserved.
        """
        if self.without_gpus and asked.startswith("cuda"):
            raise SpecError(
                f"device {asked!r} needs GPUs, and resources.{self.without_gpus} reserves none: give gpus_per_pair or "
                "gpus_per_member instead, or --device cpu"
            )
        return "cpu" if self.without_gpus and asked == "auto" else asked


@dataclass(frozen=True)
class Layout:
    """How a trial lies on the cluster.

    Attributes:
        bundles: Of its placement group; one per process.
        strategy: Of the placement group.
        members: Children of a trial where each has processes of its own; 0 where one process trains all.
        ranks: Processes of each child.
        labels: Label selector of every bundle.
    """

    bundles: tuple[Bundle, ...]
    strategy: str = "PACK"
    members: int = 0
    ranks: int = 1
    labels: Mapping[str, str] | None = None

    @property
    def cpus(self) -> float:
        """CPUs of a trial."""
        return sum(b.get("CPU", 0) for b in self.bundles)

    @property
    def gpus(self) -> float:
        """GPUs of a trial."""
        return sum(b.get("GPU", 0) for b in self.bundles)


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def layout(asked: Resources, threads: int, gpus: float, members: int) -> Layout:
    """Return the bundles of a trial.

    Args:
        asked: What the sweep asks for.
        threads: torch threads of each process; it gets at least as many CPUs.
        gpus: GPUs of a process where the sweep says nothing.
        members: Children of a trial.

    Raises:
        SpecError: The CPUs are fewer than the threads.
    """
    if asked.cpus_per_rank is not None and asked.cpus_per_rank < threads:
        raise SpecError(f"resources.cpus_per_rank must be at least threads = {threads}, got {asked.cpus_per_rank:g}")
    own: Bundle = {"CPU": asked.cpus_per_rank or threads, **asked.custom}
    if asked.memory_per_rank:
        own["memory"] = asked.memory_per_rank
    if asked.ranks is None:
        share = gpus if asked.gpus_per_pair is None else asked.gpus_per_pair
        found = Layout(({**own, **({"GPU": share} if share else {})},), asked.placement)
    else:
        rank = {**own, **({"GPU": 1.0} if asked.gpus_per_member else {})}
        found = Layout((rank,) * (asked.ranks * members), asked.placement, members, asked.ranks)
    return Layout(found.bundles, found.strategy, found.members, found.ranks, dict(asked.labels) or None)


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: what it has in all, and its labels."""

    has: Mapping[str, float]
    labels: Mapping[str, str]


def capacity(nodes: Sequence[Node], found: Layout, most: int = 100_000) -> int:
    """Return how many trials fit on empty nodes at a time, at most `most`."""
    free = [dict(n.has) for n in nodes if _suits(n, found)]
    count = 0
    while count < most and _place(free, found):
        count += 1
    return count


def check_fits(nodes: Sequence[Node], found: Layout) -> None:
    """Check that the cluster can hold a trial at all.

    Raises:
        SpecError: It never can; the line says what the cluster has.
    """
    if capacity(nodes, found, 1):
        return
    there = [n for n in nodes if _suits(n, found)]
    if found.labels and not there:
        raise SpecError(f"resources.labels = {dict(found.labels)} are those of no node; {_have(nodes)}")
    how = {"STRICT_PACK": "on one node", "STRICT_SPREAD": "on nodes of their own"}.get(found.strategy, "on its nodes")
    count = len(found.bundles)
    each = f"{count} bundles of {_said(found.bundles[0])}" if count > 1 else _said(found.bundles[0])
    raise SpecError(
        f"a trial takes {each}, and the cluster can never place that {how}; {_have(nodes)}; ask for less under "
        "resources (or set resources.autoscaling where the cluster adds nodes)"
    )


def lack(nodes: Sequence[Node], found: Layout) -> str:
    """Return why the cluster cannot hold a trial, empty where it can."""
    try:
        check_fits(nodes, found)
    except SpecError as error:
        return str(error)
    return ""


def _have(nodes: Sequence[Node]) -> str:
    kinds: dict[str, int] = {}
    for node in nodes:
        kinds[_said(node.has)] = kinds.get(_said(node.has), 0) + 1
    return "it has " + ", ".join(f"{n} node{'s' if n > 1 else ''} with {what}" for what, n in kinds.items())


def _said(has: Mapping[str, float]) -> str:
    own = {k: v for k, v in has.items() if not k.startswith("node:") and k != "object_store_memory" and v}
    parts = [f"{own.pop('CPU', 0):g} CPU", f"{own.pop('GPU', 0):g} GPU"]
    if "memory" in own:
        parts.append(f"{own.pop('memory') / 2**30:.1f} GiB of memory")
    return ", ".join([*parts, *(f"{v:g} {k}" for k, v in sorted(own.items()))])


def _suits(node: Node, found: Layout) -> bool:
    return all(_matches(node.labels.get(k), rule) for k, rule in (found.labels or {}).items())


def _matches(value: str | None, rule: str) -> bool:
    # Ray's selectors: value, !value, in(a,b), !in(a,b)
    negated = rule.startswith("!")
    rule = rule.removeprefix("!")
    allowed = rule[3:-1].split(",") if rule.startswith("in(") and rule.endswith(")") else [rule]
    return (value in [a.strip() for a in allowed]) != negated


def _place(free: list[dict[str, float]], found: Layout) -> bool:
    """Take a trial's bundles off what is free; returns whether they fit, and takes nothing where they do not."""
    if found.strategy == "STRICT_PACK":
        whole: Bundle = {}
        for bundle in found.bundles:
            for name, amount in bundle.items():
                whole[name] = whole.get(name, 0) + amount
        return _take(free, [whole], False)
    return _take(free, found.bundles, found.strategy == "STRICT_SPREAD")


def _take(free: list[dict[str, float]], bundles: Iterable[Bundle], apart: bool) -> bool:
    taken: list[tuple[int, Bundle]] = []
    for bundle in bundles:
        used = {i for i, _ in taken} if apart else set[int]()
        # the emptiest ones first where all must differ, else the first that holds it
        order = sorted(range(len(free)), key=lambda i: -_room(free[i], bundle) if apart else 0.0)
        home = next((i for i in order if i not in used and _holds(free[i], bundle)), None)
        if home is None:
            for i, back in taken:
                _add(free[i], back, 1)
            return False
        _add(free[home], bundle, -1)
        taken.append((home, bundle))
    return True


def _room(free: Mapping[str, float], bundle: Bundle) -> float:
    return sum(free.get(name, 0) for name in bundle)


def _holds(free: Mapping[str, float], bundle: Bundle) -> bool:
    return all(free.get(name, 0) >= amount - 1e-9 for name, amount in bundle.items())


def _add(free: dict[str, float], bundle: Bundle, sign: int) -> None:
    for name, amount in bundle.items():
        free[name] = free.get(name, 0) + sign * amount


def request(found: Layout) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the arguments of a `PlacementGroupFactory`: with ranks, the trial itself takes nothing of its own."""
    bundles: list[dict[str, Any]] = [dict(b) for b in found.bundles]
    if found.members:
        bundles.insert(0, {})
    options: dict[str, Any] = {"strategy": found.strategy}
    if found.labels:
        options["bundle_label_selector"] = [dict(found.labels) for _ in found.bundles]
    return bundles, options

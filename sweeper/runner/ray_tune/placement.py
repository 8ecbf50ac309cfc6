"""What each trial takes of a cluster: bundles of one placement group, and whether the cluster can ever hold them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.resources import Resources
from sweeper.errors import SpecError

Bundle = dict[str, float]


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

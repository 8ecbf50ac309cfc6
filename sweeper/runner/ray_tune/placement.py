"""Placement of a trial on a cluster: the bundles of its placement group, and a check that they fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.resources import Resources
from sweeper.errors import SpecError
from sweeper.formatting import pluralize

Bundle = dict[str, float]


@dataclass(frozen=True)
class Layout:
    """Placement group of a trial.

    Attributes:
        bundles: Bundles of the group, one per process.
        strategy: Strategy of the group.
        members: Children of a trial that have processes of their own; 0 if one process trains all children.
        ranks: Processes per child.
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
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def layout(resources: Resources, threads: int, gpus: float, members: int) -> Layout:
    """Return the bundles of a trial.

    Args:
        resources: Resources of the sweep.
        threads: torch threads of a process, which needs at least as many CPUs.
        gpus: GPUs of a process if the sweep does not set them.
        members: Children of a trial.

    Raises:
        SpecError: A process has fewer CPUs than threads.
    """
    cpus = resources.cpus_per_rank
    if cpus is not None and cpus < threads:
        raise SpecError(f"resources.cpus_per_rank must be at least threads = {threads}, got {cpus:g}")
    bundle: Bundle = {"CPU": resources.cpus_per_rank or threads, **resources.custom}
    if resources.memory_per_rank:
        bundle["memory"] = resources.memory_per_rank
    labels = dict(resources.labels) or None
    if resources.ranks is None:
        share = gpus if resources.gpus_per_pair is None else resources.gpus_per_pair
        return Layout((bundle | ({"GPU": share} if share else {}),), resources.placement, labels=labels)
    bundle |= {"GPU": 1.0} if resources.gpus_per_member else {}
    return Layout((bundle,) * (resources.ranks * members), resources.placement, members, resources.ranks, labels)


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its total resources and its labels."""

    total: Mapping[str, float]
    labels: Mapping[str, str]


def capacity(nodes: Sequence[Node], trial: Layout, limit: int = 100_000) -> int:
    """Return the number of trials that empty nodes hold at a time, up to `limit`."""
    free = [dict(n.total) for n in nodes if _suits(n, trial)]
    count = 0
    while count < limit and _place(free, trial):
        count += 1
    return count


def check_fits(nodes: Sequence[Node], trial: Layout) -> None:
    """Check that the cluster can hold a trial.

    Raises:
        SpecError: It never can; the message lists the resources of the cluster.
    """
    if capacity(nodes, trial, 1):
        return
    if trial.labels and not any(_suits(n, trial) for n in nodes):
        raise SpecError(f"no node has resources.labels = {dict(trial.labels)}; {_describe_nodes(nodes)}")
    where = {"STRICT_PACK": "on one node", "STRICT_SPREAD": "on separate nodes"}.get(trial.strategy, "on its nodes")
    count = len(trial.bundles)
    bundle = _describe(trial.bundles[0])
    needs = f"{count} bundles of {bundle}" if count > 1 else bundle
    raise SpecError(
        f"a trial needs {needs}, which the cluster can never place {where}; {_describe_nodes(nodes)}; lower resources, "
        "or set resources.autoscaling if the cluster adds nodes"
    )


def describe_lack(nodes: Sequence[Node], trial: Layout) -> str:
    """Return why the cluster cannot hold a trial; empty if it can."""
    try:
        check_fits(nodes, trial)
    except SpecError as error:
        return str(error)
    return ""


def _describe_nodes(nodes: Sequence[Node]) -> str:
    kinds: dict[str, int] = {}
    for node in nodes:
        kinds[_describe(node.total)] = kinds.get(_describe(node.total), 0) + 1
    return "it has " + ", ".join(f"{pluralize(n, 'node')} with {kind}" for kind, n in kinds.items())


def _describe(resources: Mapping[str, float]) -> str:
    amounts = {k: v for k, v in resources.items() if not k.startswith("node:") and k != "object_store_memory" and v}
    parts = [f"{amounts.pop('CPU', 0):g} CPU", f"{amounts.pop('GPU', 0):g} GPU"]
    if "memory" in amounts:
        parts.append(f"{amounts.pop('memory') / 2**30:.1f} GiB of memory")
    return ", ".join([*parts, *(f"{v:g} {k}" for k, v in sorted(amounts.items()))])


def _suits(node: Node, trial: Layout) -> bool:
    return all(_matches(node.labels.get(k), rule) for k, rule in (trial.labels or {}).items())


def _matches(value: str | None, rule: str) -> bool:
    # Ray's selectors: value, !value, in(a,b), !in(a,b)
    negated = rule.startswith("!")
    rule = rule.removeprefix("!")
    allowed = rule[3:-1].split(",") if rule.startswith("in(") and rule.endswith(")") else [rule]
    return (value in [a.strip() for a in allowed]) != negated


def _place(free: list[dict[str, float]], trial: Layout) -> bool:
    """Take the bundles of a trial from the free resources; returns False, and takes nothing, if they do not fit."""
    if trial.strategy == "STRICT_PACK":
        whole: Bundle = {}
        for bundle in trial.bundles:
            for name, amount in bundle.items():
                whole[name] = whole.get(name, 0) + amount
        return _take(free, [whole], False)
    return _take(free, trial.bundles, trial.strategy == "STRICT_SPREAD")


def _take(free: list[dict[str, float]], bundles: Iterable[Bundle], apart: bool) -> bool:
    taken: list[tuple[int, Bundle]] = []
    for bundle in bundles:
        used = {i for i, _ in taken} if apart else set[int]()
        # the emptiest node first if all nodes must differ, else the first node with room
        order = sorted(range(len(free)), key=lambda i: -_sum_free(free[i], bundle) if apart else 0.0)
        index = next((i for i in order if i not in used and _has_room(free[i], bundle)), None)
        if index is None:
            for i, bundle in taken:
                _add(free[i], bundle, 1)
            return False
        _add(free[index], bundle, -1)
        taken.append((index, bundle))
    return True


def _sum_free(free: Mapping[str, float], bundle: Bundle) -> float:
    return sum(free.get(name, 0) for name in bundle)


def _has_room(free: Mapping[str, float], bundle: Bundle) -> bool:
    return all(free.get(name, 0) >= amount - 1e-9 for name, amount in bundle.items())


def _add(free: dict[str, float], bundle: Bundle, sign: int) -> None:
    for name, amount in bundle.items():
        free[name] = free.get(name, 0) + sign * amount


def request(trial: Layout) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the arguments of a `PlacementGroupFactory`; with ranks, the trial's actor itself takes nothing."""
    bundles: list[dict[str, Any]] = [dict(b) for b in trial.bundles]
    if trial.members:
        bundles.insert(0, {})
    options: dict[str, Any] = {"strategy": trial.strategy}
    if trial.labels:
        options["bundle_label_selector"] = [dict(trial.labels) for _ in trial.bundles]
    return bundles, options

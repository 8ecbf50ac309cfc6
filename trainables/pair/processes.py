"""Children that train at the same time, each by processes of its own; one process leads, merges and scores.

Nothing here knows how the processes are started or reached: the leading one talks to `Peer`s, and each of the others
answers from a `Follower`. The numbers are those of one process that trains the children one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from trainables.measurement.monitor import Reading, Watch
from trainables.pair.children import Children
from trainables.pair.rungs import Rungs, anneal_leg
from trainables.pair.setup import prepare, resolve_device
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec
from trainables.training.loop import Child, Course, Epoch, Leg, Seeds, child_leg, read_epoch
from trainables.training.torch_settings import torch_settings


class Peer(Protocol):
    """Another process that trains a child, as the leading one sees it. One call at a time."""

    def begin(self, name: str, *args: Any) -> None:
        """Call a method of the process's `Follower`; returns at once."""
        ...

    def end(self) -> Any:
        """Return what the call that was begun last returns; waits for it."""
        ...


@dataclass(frozen=True)
class Answer:
    """Where a child stands in its process."""

    done: int
    history: list[Epoch]
    diverged: int | None
    child: Child | None
    readings: list[Reading]
    reports: list[Mapping[str, object]]


class Follower:
    """One process's part of a trial: the course of one child, which it trains alone or with others.

    Args:
        spec: The trial; not one of a stack, whose children train as one.
        runtime: Where to run.
        child: Index of the child.
        kept: Told of each checkpoint that this process writes, of a trunk; it lies on this machine, so the leading
            process is not told.

    Raises:
        ValueError: The spec cannot be run.
    """

    def __init__(self, spec: PairSpec, runtime: Runtime, child: int, kept: Report = lambda _: None) -> None:
        self.spec, self.child, self.kept = spec, child, kept
        self.runtime = resolve_device(runtime)
        self.reports: list[Mapping[str, object]] = []
        with torch_settings(self.runtime):
            lab = prepare(spec, self.runtime)
            legs = [child_leg(spec, data.examples) for data in lab.data]
            self.watch = Watch([spec] * spec.members, lab.children, lab.data, legs, runtime.measure, lab.clock.phase)
            children = Children([spec], lab, self.watch, Rungs([spec], lab, runtime.rungs), self._report)
            children.open()
        self.course = children.courses[child] if children.lost is None else None

    def _report(self, record: Mapping[str, object]) -> None:
        if "checkpoint" in record:
            self.kept(record)
        else:
            self.reports.append(record)

    def advance(self, until: int | None) -> Answer:
        """Train until so many steps are done, None to the end."""
        assert self.course is not None, "the trunk diverged: the leading process asks for nothing"
        with torch_settings(self.runtime):
            self.course.advance(until)
        reports = self.reports[:]
        self.reports.clear()
        own = _on_cpu(self.course.children[0]) if self.course.children else None
        return Answer(
            self.course.done, self.course.histories[0], self.course.diverged[0], own,
            self.watch.readings.get(self.child, []), reports,
        )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """Return where the child stands in this process; see `Course.snapshot`."""
        assert self.course is not None
        return {"course": self.course.snapshot(), "measured": self.watch.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` returned."""
        assert self.course is not None
        with torch_settings(self.runtime):
            self.course.restore(state["course"])
        self.watch.restore(state["measured"])

    def anneal(self, seeds: Sequence[Seeds]) -> dict[str, Tensor]:
        """Return the child's weights after the shortened anneal of a rung, on the CPU."""
        assert self.course is not None
        leg = anneal_leg(self.spec, self.course.leg, self.course.done, self.runtime.rungs)
        with torch_settings(self.runtime):
            found = self.course.anneal(leg, seeds)[0]
        return {k: v.cpu() for k, v in found.items()}


class Away:
    """A course that runs in other processes, as far as `Children` and `Rungs` use one.

    Args:
        course: The course as it would run here; it is never opened.
        peers: Processes that train the child together; the first one answers.
        watch: Takes in what they measured.
        child: Index of the child.
        report: Gets what they reported.
    """

    def __init__(self, course: Course, peers: Sequence[Peer], watch: Watch, child: int, report: Report) -> None:
        self.training, self.leg = course.training, course.leg
        self.peers, self.watch, self.child, self.report = peers, watch, child, report
        self.device = course.training.device
        self.done = 0
        self.histories: list[list[Epoch]] = [[]]
        self.diverged: list[int | None] = [None]
        self.children: list[Child] = []
        self._begun = False

    def begin(self, until: int | None = None) -> None:
        """Let the processes train; returns at once."""
        if not self.children:
            for peer in self.peers:
                peer.begin("advance", until)
            self._begun = True

    def advance(self, until: int | None = None) -> None:
        """Wait until so many steps are done."""
        if self.children:
            return
        if not self._begun:
            self.begin(until)
        self._begun = False
        answers = [peer.end() for peer in self.peers]
        answer: Answer = answers[0]
        self.done, self.histories, self.diverged = answer.done, [answer.history], [answer.diverged]
        self.watch.readings[self.child] = answer.readings
        self.children = [_moved(answer.child, self.device)] if answer.child is not None else []
        for record in answer.reports:
            self.report(record)

    def snapshot(self) -> dict[str, Any]:
        """Return where the child stands in each of its processes."""
        return {"peers": _all(self.peers, "snapshot")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let the processes take up what `snapshot` returned."""
        _each(self.peers, "restore", state["peers"])
        own = state["peers"][0]["course"]
        self.done, self.diverged = own["done"], list(own["diverged"])
        self.histories = [[read_epoch(e) for e in h] for h in own["histories"]]
        if "weights" in own:
            self.advance()

    def anneal(self, leg: Leg, seeds: Sequence[Seeds]) -> list[dict[str, Tensor]]:
        """Return the child's weights after the shortened anneal of a rung, whose leg its process knows."""
        if self.children:
            return [c.weights for c in self.children]
        self.peers[0].begin("anneal", seeds)
        return [{k: v.to(self.device) for k, v in self.peers[0].end().items()}]


class Led:
    """A course of this process that others train along with, each with its share of every batch."""

    def __init__(self, course: Course, peers: Sequence[Peer]) -> None:
        self._course, self._peers = course, peers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._course, name)

    def snapshot(self) -> dict[str, Any]:
        """Return where the child stands in each of its processes."""
        return {"course": self._course.snapshot(), "peers": _all(self._peers, "snapshot")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let all of the processes take up what `snapshot` returned."""
        for peer, own in zip(self._peers, state["peers"], strict=True):
            peer.begin("restore", own)
        self._course.restore(state["course"])
        for peer in self._peers:
            peer.end()

    def advance(self, until: int | None = None) -> None:
        """Train, together with the others, until so many steps are done."""
        if self._course.children:
            return
        for peer in self._peers:
            peer.begin("advance", until)
        self._course.advance(until)
        for peer in self._peers:
            peer.end()


def _all(peers: Sequence[Peer], name: str) -> list[Any]:
    for peer in peers:
        peer.begin(name)
    return [peer.end() for peer in peers]


def _each(peers: Sequence[Peer], name: str, args: Sequence[Any]) -> None:
    for peer, arg in zip(peers, args, strict=True):
        peer.begin(name, arg)
    for peer in peers:
        peer.end()


def spread(children: Children, peers: Sequence[Sequence[Peer]]) -> list[Any]:
    """Return the courses of a trial's children, each run where its processes are.

    Args:
        children: With their courses as they would run here.
        peers: For each child the processes that train it beside this one, which trains the first child.

    Raises:
        ValueError: The trial is one of a stack, or the first child has no course of its own.
    """
    spec = children.specs[0]
    if len(children.specs) > 1 or len(children.courses) != spec.members:
        raise ValueError(
            f"children of one stack cannot train apart: stack must be 1 there, got {spec.stack}; use --stack off"
        )
    first: Any = Led(children.courses[0], peers[0]) if peers[0] else children.courses[0]
    others = [
        Away(children.courses[i], peers[i], children.watch, i, children.report) for i in range(1, spec.members)
    ]  # fmt: skip
    return [first, *others]


def _on_cpu(child: Child) -> Child:
    return replace(child, weights={k: v.cpu() for k, v in child.weights.items()}, state=None)


def _moved(child: Child, device: torch.device) -> Child:
    return replace(child, weights={k: v.to(device) for k, v in child.weights.items()})

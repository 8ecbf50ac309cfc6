"""Children that train at the same time in separate processes; one process leads, merges and scores.

This module does not start processes: the leader calls `Peer`s, and every other process answers with a `Follower`. The
numbers equal those of one process that trains the children one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from trainables.measurement.monitor import Reading, Watch
from trainables.pair.children import Children
from trainables.pair.rungs import Rungs, anneal_leg
from trainables.pair.setup import prepare, resolve_device
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec
from trainables.training.child import Child, Epoch, read_epoch
from trainables.training.legs import Leg, child_leg
from trainables.training.loop import Course, Seeds
from trainables.training.servo import FREE, Steering
from trainables.training.torch_settings import torch_settings


class Peer(Protocol):
    """Handle of the leader for another process that trains a child; it handles one call at a time."""

    def begin(self, name: str, *args: Any) -> None:
        """Start a call of a method of the process's `Follower` and return at once."""
        ...

    def end(self) -> Any:
        """Wait for the last call and return its result."""
        ...


@dataclass(frozen=True)
class Answer:
    """State of a child in its process."""

    done: int
    history: list[Epoch]
    diverged: int | None
    child: Child | None
    readings: list[Reading]
    reports: list[Mapping[str, object]]
    steering: Steering


class Follower:
    """Part of a trial in one process: the course of one child, which it trains alone or with others.

    Args:
        spec: The trial, without a stack.
        runtime: Where to run.
        child: Index of the child.
        on_checkpoint: Receives each checkpoint of a trunk that this process writes. The file is on this machine, so
            that the leader does not need it.

    Raises:
        ValueError: The spec cannot be run.
    """

    def __init__(self, spec: PairSpec, runtime: Runtime, child: int, on_checkpoint: Report = lambda _: None) -> None:
        self.spec, self.child, self.on_checkpoint = spec, child, on_checkpoint
        self.runtime = resolve_device(runtime)
        self.reports: list[Mapping[str, object]] = []
        with torch_settings(self.runtime):
            lab = prepare(spec, self.runtime)
            specs = spec.child_specs()
            legs = [child_leg(s, data.examples) for s, data in zip(specs, lab.data, strict=True)]
            self.watch = Watch(specs, lab.children, lab.data, legs, runtime.measure, lab.clock.phase)
            children = Children([spec], lab, self.watch, Rungs([spec], lab, runtime.rungs), self._report)
            children.open()
        self.course = children.courses[child] if children.lost is None else None

    def _report(self, record: Mapping[str, object]) -> None:
        if "checkpoint" in record:
            self.on_checkpoint(record)
        else:
            self.reports.append(record)

    def advance(self, until: int | None) -> Answer:
        """Train until `until` steps are done; None trains to the end."""
        assert self.course is not None, "after a diverged trunk the leader makes no calls"
        with torch_settings(self.runtime):
            self.course.advance(until)
        reports = self.reports[:]
        self.reports.clear()
        child = replace(self.course.children[0], state=None) if self.course.children else None
        return Answer(
            self.course.done, self.course.histories[0], self.course.diverged[0], child,
            self.watch.readings.get(self.child, []), reports, self.course.steering,
        )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the child in this process; see `Course.snapshot`."""
        assert self.course is not None
        return {"course": self.course.snapshot(), "measured": self.watch.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `snapshot`."""
        assert self.course is not None
        with torch_settings(self.runtime):
            self.course.restore(state["course"])
        self.watch.restore(state["measured"])

    def anneal(self, seeds: Sequence[Seeds]) -> dict[str, Tensor]:
        """Return the child's weights after the shortened anneal of a rung."""
        assert self.course is not None
        leg = anneal_leg(self.spec, self.course.leg, self.course.done, self.runtime.rungs)
        with torch_settings(self.runtime):
            return self.course.anneal(leg, seeds)[0]


class RemoteCourse:
    """A course in other processes, with the interface that `Children` and `Rungs` need.

    Args:
        course: The course for this process; it never trains.
        peers: Processes that train the child together; the first one answers.
        watch: Receives their measurements.
        child: Index of the child.
        report: Receives their reports.
    """

    def __init__(self, course: Course, peers: Sequence[Peer], watch: Watch, child: int, report: Report) -> None:
        self.training, self.leg = course.training, course.leg
        self.peers, self.watch, self.child, self.report = peers, watch, child, report
        self.done = 0
        self.histories: list[list[Epoch]] = [[]]
        self.diverged: list[int | None] = [None]
        self.children: list[Child] = []
        self.steering = FREE
        self._begun = False

    def begin(self, until: int | None = None) -> None:
        """Start training in the processes and return at once."""
        if not self.children:
            for peer in self.peers:
                peer.begin("advance", until)
            self._begun = True

    def advance(self, until: int | None = None) -> None:
        """Wait until `until` steps are done."""
        if self.children:
            return
        if not self._begun:
            self.begin(until)
        self._begun = False
        answers = [peer.end() for peer in self.peers]
        answer: Answer = answers[0]
        self.done, self.histories, self.diverged = answer.done, [answer.history], [answer.diverged]
        self.steering = answer.steering
        self.watch.readings[self.child] = answer.readings
        self.children = [answer.child] if answer.child is not None else []
        for record in answer.reports:
            self.report(record)

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the child in each of its processes."""
        return {"peers": _call_all(self.peers, "snapshot")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `snapshot` in all processes."""
        _call_each(self.peers, "restore", state["peers"])
        first = state["peers"][0]["course"]
        self.done, self.diverged = first["done"], list(first["diverged"])
        self.histories = [[read_epoch(e) for e in h] for h in first["histories"]]
        if "weights" in first:
            self.advance()

    def anneal(self, leg: Leg, seeds: Sequence[Seeds]) -> list[dict[str, Tensor]]:
        """Return the child's weights after the shortened anneal of a rung; its process knows the leg."""
        if self.children:
            return [c.weights for c in self.children]
        self.peers[0].begin("anneal", seeds)
        return [self.peers[0].end()]


class SharedCourse:
    """A course of this process that other processes train too, each with its share of every batch."""

    def __init__(self, course: Course, peers: Sequence[Peer]) -> None:
        self._course, self._peers = course, peers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._course, name)

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the child in each of its processes."""
        return {"course": self._course.snapshot(), "peers": _call_all(self._peers, "snapshot")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `snapshot` in all processes."""
        for peer, peer_state in zip(self._peers, state["peers"], strict=True):
            peer.begin("restore", peer_state)
        self._course.restore(state["course"])
        for peer in self._peers:
            peer.end()

    def advance(self, until: int | None = None) -> None:
        """Train together with the other processes until `until` steps are done."""
        if self._course.children:
            return
        for peer in self._peers:
            peer.begin("advance", until)
        self._course.advance(until)
        for peer in self._peers:
            peer.end()


def _call_all(peers: Sequence[Peer], name: str) -> list[Any]:
    for peer in peers:
        peer.begin(name)
    return [peer.end() for peer in peers]


def _call_each(peers: Sequence[Peer], name: str, args: Sequence[Any]) -> None:
    for peer, arg in zip(peers, args, strict=True):
        peer.begin(name, arg)
    for peer in peers:
        peer.end()


def distribute(children: Children, peers: Sequence[Sequence[Peer]]) -> list[Any]:
    """Return the courses of a trial's children, with training in the peers.

    Args:
        children: Children with their courses for this process.
        peers: Further processes of each child; this process trains the first child.

    Raises:
        ValueError: The trial belongs to a stack, or a course trains several children.
    """
    spec = children.specs[0]
    if len(children.specs) > 1 or len(children.courses) != spec.members:
        raise ValueError(f"stack must be 1 if children train in separate processes, got {spec.stack}; use --stack off")
    first: Any = SharedCourse(children.courses[0], peers[0]) if peers[0] else children.courses[0]
    others = [
        RemoteCourse(children.courses[i], peers[i], children.watch, i, children.report) for i in range(1, spec.members)
    ]  # fmt: skip
    return [first, *others]

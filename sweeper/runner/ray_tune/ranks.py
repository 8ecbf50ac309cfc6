"""Rank processes: actors in the placement group of a trial that train its children, one per child and rank.

The first process leads: it merges and scores, see `trainables.pair.processes`. The processes outlive a trial that ends
well, so that the next trial of a reused Tune actor has data and libraries loaded.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweeper.runner.jobs import WorkerLost
from sweeper.runner.ray_tune.oom import first_line
from sweeper.storage.checkpoints import checkpoints_of
from sweeper.storage.location import place_of
from trainables.pair.processes import Follower
from trainables.pair.record import is_out_of_memory
from trainables.pair.setup import resolve_device
from trainables.result import Outcome, PairOutput
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec
from trainables.training.ranks import host_group, join_group
from trainables.trial import run_trials

DIED = "a process that trains a child died"
GRACE_SECONDS = 10.0  # Ray may report a death this long after another process noticed it


class RankProcess:
    """Actor that trains its share of one child; the first one also leads the trial."""

    def __init__(self) -> None:
        warnings.simplefilter("ignore")
        self.changed = threading.Condition()
        self.trial, self.follower, self.error = "", None, None
        self.trouble: queue.Queue[Exception] = queue.Queue()
        self.store: Any = None

    def host(self, size: int) -> tuple[str, int]:
        """Open the meeting point of a child's processes, and return its address."""
        address = ray.util.get_node_ip_address()
        self.store = host_group(address, size)
        return address, self.store.port

    def join(self, at: tuple[str, int], rank: int, size: int, runtime: Mapping[str, Any]) -> None:
        """Join the other processes of the child."""
        join_group(*at, rank, size, resolve_device(Runtime(**runtime)).device, self.store)

    def follow(self, trial: str, spec: str, runtime: Mapping[str, Any], child: int, run: str) -> None:
        """Prepare for a trial; calls for the trial wait until then."""
        follower = error = None
        try:
            follower = _make_follower(PairSpec.from_json(spec), Runtime(**runtime), child, run)
        except Exception as raised:  # `call` raises it
            error = raised
            self.trouble.put(raised)
        with self.changed:
            self.trial, self.follower, self.error = trial, follower, error
            self.changed.notify_all()

    def call(self, trial: str, name: str, args: Sequence[Any]) -> Any:
        """Return the result of a method of this trial's `Follower`."""
        with self.changed:
            self.changed.wait_for(lambda: self.trial == trial)
        if self.error is not None:
            raise self.error
        try:
            return getattr(self.follower, name)(*args)
        except Exception as error:
            self.trouble.put(error)
            raise

    def lead(
        self, specs: Sequence[str], runtime: Mapping[str, Any], peers: Sequence[Sequence[RankPeer]], run: str
    ) -> Iterator[tuple[str, Any]]:
        """Run trials of one configuration; yields (kind, value): reports, then the outputs or an error."""
        messages: queue.Queue[tuple[str, Any]] = queue.Queue()

        def work() -> None:
            try:
                trials, local = [PairSpec.from_json(s) for s in specs], Runtime(**runtime)
                checkpoints = checkpoints_of(place_of(run).patient(), local, trials[0].digest)

                def run_all(report: Report) -> list[PairOutput]:
                    return run_trials(trials, local, report, peers)

                def report(record: Mapping[str, object]) -> None:
                    messages.put(("report", dict(record)))

                messages.put(("done", checkpoints.wrap(run_all, report) if checkpoints else run_all(report)))
            except Exception as error:
                messages.put(("failed", error))

        threading.Thread(target=work, daemon=True).start()
        while True:
            kind, value = messages.get()
            yield kind, value
            if kind != "report":
                return

    def live(self) -> None:
        """Wait until a call fails, and raise its error, because other processes of the child wait for this one."""
        raise self.trouble.get()


def _make_follower(spec: PairSpec, runtime: Runtime, child: int, run: str) -> Follower:
    # if the leading process is on another node, this one may train the trunk itself
    checkpoints = checkpoints_of(place_of(run).patient(), runtime, f"{spec.digest}.trunk")
    if checkpoints is None:
        return Follower(spec, runtime, child)
    follower = checkpoints.wrap(lambda kept: Follower(spec, runtime, child, kept), lambda _: None)
    checkpoints.drop()
    return follower


@dataclass
class RankPeer:
    """Handle of a process for the leading one."""

    actor: Any
    trial: str
    _answer: Any = None

    def begin(self, name: str, *args: Any) -> None:
        """See `trainables.pair.processes.Peer`."""
        self._answer = self.actor.call.remote(self.trial, name, args)

    def end(self) -> Any:
        """See `trainables.pair.processes.Peer`."""
        try:
            return ray.get(self._answer)
        except RayError as error:
            raise find_cause(error) from None


@dataclass
class RankProcesses:
    """All processes of one placement group.

    Attributes:
        members: Children of a trial.
        ranks: Processes per child.
        group: The placement group.
        actors: The processes, child by child and rank by rank.
        lives: Calls of `RankProcess.live`, which end when the process dies or another of its calls fails.
    """

    members: int
    ranks: int
    group: Any
    actors: list[Any] = field(default_factory=lambda: [])
    lives: list[Any] = field(default_factory=lambda: [])

    def start(self, bundles: Sequence[Mapping[str, float]], runtime: Runtime) -> None:
        """Start one process per bundle, and connect the processes of each child."""
        # at least three calls run at a time: `live`, the one of the trial, and one that waits for the trial
        kind: Any = ray.remote(RankProcess)
        for index, bundle in enumerate(bundles):
            custom = {k: v for k, v in bundle.items() if k not in ("CPU", "GPU", "memory")}
            strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
            options = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0), "resources": custom}
            if "memory" in bundle:
                options["memory"] = bundle["memory"]
            self.actors.append(kind.options(scheduling_strategy=strategy, max_concurrency=4, **options).remote())
        self.lives = [a.live.remote() for a in self.actors]
        if self.ranks > 1:
            groups = self._by_child()
            points = ray.get([group[0].host.remote(self.ranks) for group in groups])
            ray.get([
                actor.join.remote(at, rank, self.ranks, vars(runtime))
                for group, at in zip(groups, points, strict=True) for rank, actor in enumerate(group)
            ])  # fmt: skip

    def run(self, specs: Sequence[PairSpec], runtime: Runtime, report: Report, run: str) -> list[PairOutput]:
        """Return the outputs of trials of one configuration; see `trainables.pair.run.run_pairs`.

        Raises:
            WorkerLost: One of the processes died.
            Exception: One of the processes failed.
        """
        trial, plain = uuid.uuid4().hex, vars(runtime)
        texts = [s.to_json() for s in specs]
        leader, *first = self._by_child()[0]
        others = [first, *self._by_child()[1:]]
        peers = [[RankPeer(a, trial) for a in group] for group in others]
        for child, group in enumerate(others):
            for actor in group:
                actor.follow.remote(trial, texts[0], plain, child, run)
        messages = leader.lead.options(num_returns="streaming").remote(texts, plain, peers, run)
        while True:
            ready, _ = ray.wait([messages, *self.lives], num_returns=1)
            if ready[0] is not messages:
                raise self._find_error() or WorkerLost(DIED)
            try:
                kind, value = ray.get(next(messages))
            except RayError as error:
                raise find_cause(error) from None
            except StopIteration:
                raise self._find_error() or WorkerLost(DIED) from None
            if kind == "report":
                report(value)
            elif kind == "done":
                return value
            else:
                raise value if _is_final(value) else self._find_error() or value

    def _find_error(self) -> Exception | None:
        """Return the error of the process that failed; None while all run.

        If one dies or runs out of memory, collective operations of the others may fail before Ray reports it.
        """
        end, left = time.monotonic() + (GRACE_SECONDS if self.ranks > 1 else 0), list(self.lives)
        first: Exception | None = None
        while left:
            ready, left = ray.wait(left, num_returns=1, timeout=max(0.0, end - time.monotonic()))
            if not ready:
                break
            try:
                ray.get(ready[0])
            except RayError as error:
                reason = find_cause(error)
                if _is_final(reason):
                    return reason
                first = first or reason
        return first

    def _by_child(self) -> list[list[Any]]:
        return [self.actors[i : i + self.ranks] for i in range(0, len(self.actors), self.ranks)]

    def kill(self) -> None:
        """Kill the processes."""
        for actor in self.actors:
            ray.kill(actor)


def _is_final(error: BaseException) -> bool:
    """Return whether an error does not follow from the error of another process."""
    return isinstance(error, WorkerLost) or is_out_of_memory(error)


def find_cause(error: RayError) -> Exception:
    """Return why a call to a process failed: its exception, the death of the process, or lack of memory."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return error.cause
    if isinstance(error, OutOfMemoryError):
        return MemoryError(first_line(error))
    return WorkerLost(DIED) if isinstance(error, RayActorError) else error


_HELD: list[RankProcesses] = []


def run_apart(
    specs: Sequence[PairSpec], runtime: Runtime, report: Report, run: str, members: int,
    bundles: Sequence[Mapping[str, float]],
) -> list[PairOutput]:  # fmt: skip
    """Return the outputs of trials of one configuration, from the processes of this Tune actor's placement group.

    If the run folder `run` is in a store, each process stores its own checkpoints, because nodes may differ.

    Raises:
        WorkerLost: One of the processes died.
        MemoryError: The memory of its node ran out.
        Exception: One of the processes raised it; all of them are killed.
    """
    group: Any = ray.util.get_current_placement_group()
    held = _HELD.pop() if _HELD else None  # processes of a trial that was stopped must not continue
    if held and (held.group.id != group.id or held.members != members):
        held.kill()
        held = None
    try:
        if held is None:
            held = RankProcesses(members, len(bundles) // members, group)
            held.start(bundles, runtime)
        outputs = held.run(specs, runtime, report, run)
    except RayError as error:  # from their start
        _end(held)
        raise find_cause(error) from None
    except BaseException:  # such as the end of a pruned trial
        _end(held)
        raise
    if any(o.result.outcome == Outcome.OUT_OF_MEMORY for o in outputs):
        held.kill()
    else:
        _HELD.append(held)
    return outputs


def _end(held: RankProcesses | None) -> None:
    if held:
        held.kill()

"""The processes that train a trial's children: actors in the trial's placement group, one per child and rank.

The first one leads: it merges and scores, see `trainables.pair.processes`. They outlive a trial that ends well, so
that the next one of a reused Tune actor finds data and libraries loaded.
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
from trainables.training.ranks import hosted, join_group
from trainables.trial import run_trials

DIED = "a process that trains a child died"
GRACE_SECONDS = 10.0  # within which Ray tells of a process that died after another one noticed


class RankProcess:
    """One process, as an actor: trains its share of one child; the first one leads the trial, too."""

    def __init__(self) -> None:
        warnings.simplefilter("ignore")
        self.changed = threading.Condition()
        self.trial, self.follower, self.error = "", None, None
        self.trouble: queue.Queue[Exception] = queue.Queue()
        self.store: Any = None

    def host(self, size: int) -> tuple[str, int]:
        """Open the meeting point of a child's processes; returns its address."""
        address = ray.util.get_node_ip_address()
        self.store = hosted(address, size)
        return address, self.store.port

    def join(self, at: tuple[str, int], rank: int, size: int, runtime: Mapping[str, Any]) -> None:
        """Join the other processes of the child."""
        join_group(*at, rank, size, resolve_device(Runtime(**runtime)).device, self.store)

    def follow(self, trial: str, spec: str, runtime: Mapping[str, Any], child: int, run: str) -> None:
        """Get ready for a trial; calls for it wait until then."""
        follower = error = None
        try:
            follower = _follower(PairSpec.from_json(spec), Runtime(**runtime), child, run)
        except Exception as raised:  # told to whoever calls
            error = raised
            self.trouble.put(raised)
        with self.changed:
            self.trial, self.follower, self.error = trial, follower, error
            self.changed.notify_all()

    def call(self, trial: str, name: str, args: Sequence[Any]) -> Any:
        """Return what a method of this trial's `Follower` returns."""
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
        """Run trials of one configuration; yields (kind, value): reports, and at last outputs or an error."""
        said: queue.Queue[tuple[str, Any]] = queue.Queue()

        def work() -> None:
            try:
                trials, mine = [PairSpec.from_json(s) for s in specs], Runtime(**runtime)
                carried = checkpoints_of(place_of(run).patient(), mine, trials[0].digest)

                def all_of_them(report: Report) -> list[PairOutput]:
                    return run_trials(trials, mine, report, peers)

                def report(record: Mapping[str, object]) -> None:
                    said.put(("report", dict(record)))

                said.put(("done", carried.around(all_of_them, report) if carried else all_of_them(report)))
            except Exception as error:
                said.put(("failed", error))

        threading.Thread(target=work, daemon=True).start()
        while True:
            kind, what = said.get()
            yield kind, what
            if kind != "report":
                return

    def live(self) -> None:
        """Wait for ever, or until a call fails, whose error it raises: others of the child wait for this process."""
        raise self.trouble.get()


def _follower(spec: PairSpec, runtime: Runtime, child: int, run: str) -> Follower:
    # it may train a trunk of its own where the leading process is on another node
    carried = checkpoints_of(place_of(run).patient(), runtime, f"{spec.digest}.trunk")
    if carried is None:
        return Follower(spec, runtime, child)
    found = carried.around(lambda kept: Follower(spec, runtime, child, kept), lambda _: None)
    carried.drop()
    return found


@dataclass
class RankPeer:
    """A process as the leading one sees it."""

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
            raise cause(error) from None


@dataclass
class RankProcesses:
    """All processes of one placement group.

    Attributes:
        members: Children of a trial.
        ranks: Processes of each child.
        actors: Child by child, rank by rank.
        lives: One call of each that ends when the process dies or one of its other calls fails.
    """

    members: int
    ranks: int
    group: Any
    actors: list[Any] = field(default_factory=lambda: [])
    lives: list[Any] = field(default_factory=lambda: [])

    def start(self, bundles: Sequence[Mapping[str, float]], runtime: Runtime) -> None:
        """Start the processes, one a bundle, and let those of each child meet."""
        # three calls at a time: the one that never ends, the trial's, and one that waits for it
        kind: Any = ray.remote(RankProcess)
        for index, bundle in enumerate(bundles):
            more = {k: v for k, v in bundle.items() if k not in ("CPU", "GPU", "memory")}
            place = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
            options = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0), "resources": more}
            if "memory" in bundle:
                options["memory"] = bundle["memory"]
            self.actors.append(kind.options(scheduling_strategy=place, max_concurrency=4, **options).remote())
        self.lives = [a.live.remote() for a in self.actors]
        if self.ranks > 1:
            groups = self._by_child()
            points = ray.get([own[0].host.remote(self.ranks) for own in groups])
            ray.get([
                actor.join.remote(at, rank, self.ranks, vars(runtime))
                for own, at in zip(groups, points, strict=True) for rank, actor in enumerate(own)
            ])  # fmt: skip

    def run(self, specs: Sequence[PairSpec], runtime: Runtime, report: Report, run: str) -> list[PairOutput]:
        """Run trials of one configuration of the run folder `run`; see `trainables.pair.run.run_pairs`.

        Raises:
            WorkerLost: One of the processes died.
            Exception: One of them failed, whatever the others wait for.
        """
        trial, plain = uuid.uuid4().hex, vars(runtime)
        texts = [s.to_json() for s in specs]
        leader, *first = self._by_child()[0]
        others = [first, *self._by_child()[1:]]
        peers = [[RankPeer(a, trial) for a in own] for own in others]
        for child, own in enumerate(others):
            for actor in own:
                actor.follow.remote(trial, texts[0], plain, child, run)
        said = leader.lead.options(num_returns="streaming").remote(texts, plain, peers, run)
        while True:
            ready, _ = ray.wait([said, *self.lives], num_returns=1)
            if ready[0] is not said:
                raise self._trouble() or WorkerLost(DIED)
            try:
                kind, what = ray.get(next(said))
            except RayError as error:
                raise cause(error) from None
            except StopIteration:
                raise self._trouble() or WorkerLost(DIED) from None
            if kind == "report":
                report(what)
            elif kind == "done":
                return what
            else:
                raise what if _is_final(what) else self._trouble() or what

    def _trouble(self) -> Exception | None:
        """Return why one of the processes gave up; None where all go on.

        Where one dies or runs out of memory, the others' collective operations may fail before Ray tells of it.
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
                found = cause(error)
                if _is_final(found):
                    return found
                first = first or found
        return first

    def _by_child(self) -> list[list[Any]]:
        return [self.actors[i : i + self.ranks] for i in range(0, len(self.actors), self.ranks)]

    def kill(self) -> None:
        """End the processes."""
        for actor in self.actors:
            ray.kill(actor)


def _is_final(error: BaseException) -> bool:
    """Whether an error is no consequence of another process's error."""
    return isinstance(error, WorkerLost) or is_out_of_memory(error)


def cause(error: RayError) -> Exception:
    """Return what a call to a process failed of: what it raised, the death of the process, or its lack of memory."""
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
    """Run trials of one configuration by the processes of this Tune actor's placement group; starts them if need be.

    They carry their own checkpoints where the run folder `run` is in a store: each may be on another node.

    Raises:
        WorkerLost: One of the processes died.
        MemoryError: The memory of its node ran out.
        Exception: What one of them raised; all of them are ended.
    """
    group: Any = ray.util.get_current_placement_group()
    held = _HELD.pop() if _HELD else None  # what is left here when a trial was stopped must not go on
    if held and (held.group.id != group.id or held.members != members):
        held.kill()
        held = None
    try:
        if held is None:
            held = RankProcesses(members, len(bundles) // members, group)
            held.start(bundles, runtime)
        outputs = held.run(specs, runtime, report, run)
    except RayError as error:  # at their start
        _end(held)
        raise cause(error) from None
    except BaseException:  # also the end of a trial that is stopped at a rung
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

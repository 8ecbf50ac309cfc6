"""The supervisor: starts waiting sweeps, watches their processes, and takes note of how they end.

What it knows stands in the database and in the control folders, so another server goes on where one was killed: it
adopts the processes that live and starts those anew that died.
"""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from sweeper.places import place_of
from sweeper.spec import SpecError, SweepSpec

from .catalog import Catalog, Entry, StateError
from .control import Control
from .fair import order
from .quotas import gpu_hours_left, gpu_hours_to_go, to_go
from .records import ACTIVE, Quota, State
from .views import Views

TICK_SECONDS = 0.5
GRACE_SECONDS = 30.0
DEATHS = 3
SERVER = "the server was stopped; it goes on when the server is back"
BACK = "the server is back"


class Supervisor:
    """Runs the sweeps of a catalog, a process each.

    Args:
        catalog: The sweeps.
        views: Reads their folders.
        state: Folder of the control folders, on this machine.
        address: Returns the Ray cluster that sweeps run at.
        quota: User -> what it may have.
        most: Sweeps that run at a time.
    """

    def __init__(
        self,
        catalog: Catalog,
        views: Views,
        state: Path,
        address: Callable[[], str],
        quota: Callable[[str], Quota],
        most: int,
    ) -> None:
        self.catalog, self.views, self.state = catalog, views, state
        self.address, self.quota, self.most = address, quota, most
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # processes that this server started
        self._positions: tuple[float, Mapping[str, int]] = (-math.inf, {})
        self._at: str | SpecError = ""  # Ray's address, or why there is none
        self._woken, self._ended = threading.Event(), threading.Event()
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []

    def control(self, sweep: str) -> Control:
        """Return the control folder of a sweep."""
        return Control(self.state / "sweeps" / sweep)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up the sweeps of an earlier server and begin to run those that wait."""
        for entry in self.catalog.in_states([State.INTERRUPTED]):
            if entry.reason == SERVER:
                self.catalog.move(entry.id, State.QUEUED, BACK)
        for work, name in ((self._run, "supervisor"), (self._read, "reader")):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def wake(self) -> None:
        """Look at the queue at once."""
        self._woken.set()

    def close(self) -> None:
        """Interrupt the sweeps that run, and wait until they have ended; they go on with the next server."""
        self._ended.set()
        self._woken.set()
        for thread in self._threads:
            thread.join()
        with self._lock:
            running = self.catalog.in_states(ACTIVE)
            for entry in running:
                control = self.control(entry.id)
                control.halt("server", SERVER)
                control.signal(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while running and time.monotonic() < deadline:
                running = [e for e in running if not self._over(self.catalog.get(e.id))]
                time.sleep(0.1)
            for entry in running:
                self.control(entry.id).signal(signal.SIGKILL, group=True)
                self._reap(entry.id)
                self.catalog.move(entry.id, State.INTERRUPTED, SERVER)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._woken.clear()
            try:
                self._prepare()
                with self._lock:
                    self.tick()
            except Exception:  # the next look may succeed: a database that is away must not end the service
                traceback.print_exc()
            self._woken.wait(TICK_SECONDS)

    def _prepare(self) -> None:
        # Ray takes seconds to start: what users ask for meanwhile must not wait for it
        if self.catalog.any_waits_for_ray():
            try:
                self._at = self.address()
            except SpecError as error:
                self._at = error

    def _read(self) -> None:
        while not self._ended.wait(1.0):
            try:
                self.views.follow(self.catalog.in_states(ACTIVE))
            except Exception:
                traceback.print_exc()

    def tick(self) -> None:
        """Look at every process once, and start what may start."""
        active = [e for e in self.catalog.in_states(ACTIVE) if not self._looked(e)]
        chosen = (sweep for sweep, may in self._order(active) if may)
        for sweep in list(islice(chosen, max(0, self.most - len(active)))):
            self._begin(self.catalog.get(sweep))

    def _looked(self, entry: Entry) -> bool:
        try:
            return self._over(entry)
        except Exception:  # one sweep's folder must not hold up the others
            traceback.print_exc()
            return False

    def _order(self, active: Sequence[Entry]) -> Iterator[tuple[str, bool]]:
        waiting = self.catalog.waiting()
        return order(
            waiting, [e.owner for e in active], cache(self.quota), self.catalog.last_starts() if waiting else {}
        )

    def positions(self) -> Mapping[str, int]:
        """Return the places of the waiting sweeps in the queue, from 1, of half a second ago at most."""
        when, known = self._positions
        if time.monotonic() - when > TICK_SECONDS:
            known = {sweep: i for i, (sweep, _) in enumerate(self._order(self.catalog.in_states(ACTIVE)), 1)}
            self._positions = time.monotonic(), known
        return known

    # -- one process --------------------------------------------------------------------------------------------------

    def _begin(self, entry: Entry) -> None:
        attempt = entry.task.get("attempt", 0) + 1
        task = {**entry.task, "attempt": attempt, "seen": self._count(entry)}
        self.catalog.move(entry.id, State.STARTING, "its turn", task=task)
        try:
            spec = self.views.spec(entry)
            if spec.runner == "ray":
                if isinstance(self._at, SpecError):
                    raise self._at
                spec = spec.model_copy(update={"address": self._at or self.address()})
            spec = self._within_quota(entry, spec)
            text = yaml.safe_dump(spec.asked(), sort_keys=False)
            started = self.control(entry.id).start(task, text)
        except (SpecError, OSError) as error:
            self._end(entry, State.FAILED, str(error))
            return
        if started:
            self._children[entry.id] = started
        else:
            # a process lives that an earlier server started: what it says of its end has another attempt's number
            task = self.control(entry.id).task
            self.catalog.change(entry.id, task=task)

    def _within_quota(self, entry: Entry, spec: SweepSpec) -> SweepSpec:
        most = self.quota(entry.owner).gpu_hours
        if most is None:
            return spec
        try:
            own = self.views.reader(entry).found.cost.gpu_hours
        except SpecError:
            own = entry.gpu_hours
        # what this sweep has used counts in its own budget
        left = max(1e-6, gpu_hours_left(self.catalog, entry, most) + own)
        return spec.model_copy(update={"max_gpu_hours": min(spec.max_gpu_hours or left, left)})

    def _over(self, entry: Entry) -> bool:
        """Take note of what an active sweep's process did; returns whether it has ended."""
        control = self.control(entry.id)
        if control.alive:
            if entry.state == State.STARTING and control.begun:
                self.catalog.move(entry.id, State.RUNNING, "trials are started")
            self._insist(entry, control)
            return False
        self._reap(entry.id)
        attempt = entry.task.get("attempt", 0)
        outcome, halted = control.outcome(attempt), control.halted(attempt)
        if (
            halted
            and halted.kind == "server"
            and not self._ended.is_set()
            and not (outcome and outcome.state == "done")
        ):
            # an earlier server was killed while it waited for the process to end
            self.catalog.move(entry.id, State.QUEUED, BACK)
            return True
        if outcome:
            self._end(entry, State(outcome.state), outcome.reason)
        elif halted and halted.kind == "cancel":
            self._end(entry, State.CANCELLED, halted.cause)
        elif halted and halted.kind == "server":
            self._end(entry, State.INTERRUPTED, SERVER)
        elif halted:
            self._end(entry, State.DONE, f"{halted.cause}; its process died before the last trials were finished")
        else:
            self._died(entry, control)
        return True

    def _insist(self, entry: Entry, control: Control) -> None:
        halted = control.halted(entry.task.get("attempt", 0))
        if halted and halted.kind == "cancel" and time.time() - halted.time > GRACE_SECONDS:
            control.signal(signal.SIGKILL, group=True)

    def _died(self, entry: Entry, control: Control) -> None:
        count = self._count(entry)
        deaths = 1 if count > entry.task.get("seen", 0) else entry.deaths + 1
        words = f" (its last line: {control.last_words})" if control.last_words else ""
        if deaths >= DEATHS:
            reason = f"its process died {deaths} times without finishing a trial{words}; finished trials are kept"
            self._end(entry, State.INTERRUPTED, reason, deaths=deaths)
        else:
            self.catalog.move(entry.id, State.QUEUED, "its process died; it is gone on with", deaths=deaths)

    def _reap(self, sweep: str) -> None:
        if child := self._children.pop(sweep, None):
            child.wait()

    def _end(self, entry: Entry, state: State, reason: str, **changes: Any) -> None:
        changes.setdefault("deaths", 0)
        try:
            self.views.conclude(entry)
        except SpecError as error:
            print(f"sweep {entry.id}: {error}", file=sys.stderr)
        self.catalog.move(entry.id, state, reason, **changes)

    def _count(self, entry: Entry) -> int:
        try:
            return self.views.reader(entry, 0.0).found.progress.trials
        except SpecError:
            return 0

    # -- what users ask for -------------------------------------------------------------------------------------------

    def stop(self, sweep: str, by: str) -> Entry:
        """Start no further configuration of a sweep; those that run are finished.

        Raises:
            StateError: It has ended.
            UnknownSweepError: There is none.
        """
        return self._halt(sweep, "stop", f"stopped by {by}")

    def cancel(self, sweep: str, by: str) -> Entry:
        """Kill a sweep; finished trials are kept.

        Raises:
            StateError: It has ended.
            UnknownSweepError: There is none.
        """
        return self._halt(sweep, "cancel", f"cancelled by {by}")

    def _halt(self, sweep: str, kind: str, cause: str) -> Entry:
        with self._lock:
            entry = self.catalog.get(sweep)
            state = State(entry.state)
            if state == State.QUEUED:
                return self.catalog.move(sweep, State.CANCELLED, f"{cause} while it waited")
            if state.ended:
                raise StateError(f"sweep {sweep} is {state.value}: there is nothing to {kind}")
            control = self.control(sweep)
            control.halt(kind, cause)
            if kind == "cancel":
                control.signal(signal.SIGTERM)
            if state != State.STOPPING:
                entry = self.catalog.move(sweep, State.STOPPING, cause)
            elif kind == "cancel":
                self.catalog.change(sweep, reason=cause)
                entry = self.catalog.get(sweep)
            self.wake()
            return entry

    def resume(self, sweep: str, by: str, changes: Mapping[str, Any] | None = None) -> Entry:
        """Queue a sweep that ended again, to be gone on with.

        Args:
            sweep: Its id.
            by: Who asks.
            changes: Keys of its spec with other values, such as `trials`.

        Raises:
            SpecError: A value breaks its rule.
            StateError: It has not ended.
            UnknownSweepError: There is none.
        """
        from sweeper.proposer import budget_of

        with self._lock:
            entry = self.catalog.get(sweep)
            spec = SweepSpec.checked({**entry.spec, **(changes or {})})
            budget = budget_of(spec, spec.load_space())
            ask = to_go(entry, spec, budget)
            entry = self.catalog.move(
                sweep, State.QUEUED, f"resumed by {by}", deaths=0, task={**entry.task, "kind": "run"},
                budget=budget, trials=budget * spec.repeats, spec=spec.asked(),
                due=ask.trials, due_gpu_seconds=3600 * ask.gpu_hours,
            )  # fmt: skip
            self.views.forget(sweep)
            self.wake()
            return entry

    def extend(self, sweep: str, by: str, options: Mapping[str, Any]) -> Entry:
        """Queue the trials that a firm answer lacks; see `sweeper.extending`.

        Raises:
            SpecError: There are none, or an unknown name.
            StateError: The sweep has not ended.
            UnknownSweepError: There is none.
        """
        plan = self.views.plan(self.catalog.get(sweep), options, dry_run=False)
        with self._lock:
            entry = self.catalog.get(sweep)
            task = {**entry.task, "kind": "extend", "options": dict(options)}
            cause = f"extended by {by}: {plan.trials} trials"
            left = gpu_hours_to_go(entry, entry.spec.get("max_gpu_hours"))
            entry = self.catalog.move(
                sweep, State.QUEUED, cause, deaths=0, task=task, due=plan.trials, due_gpu_seconds=3600 * left
            )
            self.wake()
            return entry

    def remove(self, sweep: str) -> None:
        """Delete a sweep that ended, with all its results.

        Raises:
            StateError: It has not ended.
            StorageError: Its folder cannot be removed; the sweep is still known.
            UnknownSweepError: There is none.
        """
        with self._lock:
            entry = self.catalog.get(sweep)
            if not State(entry.state).ended:
                raise StateError(f"sweep {sweep} is {entry.state}: cancel it first")
            place_of(self.views.run_of(sweep)).clear()
            self.catalog.remove(sweep)
            shutil.rmtree(self.control(sweep).folder, ignore_errors=True)
            self.views.forget(sweep)

"""The supervisor: starts waiting sweeps, watches their processes and records how they end.

Its state lies in the database and the control folders, so a new server continues after one was killed: it adopts live
processes and restarts dead ones.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from sweeper.client.models import ACTIVE, Quota, State, SweepRecord
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_text import write_stored
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.service.db.sweeps import Catalog, Entry, StateError
from sweeper.service.policy.memory import Room
from sweeper.service.policy.quotas import remaining_demand, remaining_gpu_hours
from sweeper.service.scheduler.cancels import GRACE_SECONDS, Cancels
from sweeper.service.scheduler.finalise import Endings, drop_unread
from sweeper.service.scheduler.process import Control
from sweeper.service.scheduler.queue import Queue
from sweeper.service.scheduler.ray_address import RayAddress
from sweeper.service.scheduler.shortage import Shortage
from sweeper.service.scheduler.starts import spec_to_run
from sweeper.service.views.views import Views
from sweeper.storage.location import place_of

TICK_SECONDS = 0.5
KILL_SECONDS = 5.0
DEATHS = 3
SERVER = "the server stopped; the sweep continues when the server is back"
BACK = "the server is back"


class Supervisor:
    """Runs the sweeps of a catalog, one process per sweep.

    Args:
        catalog: The sweeps.
        views: Reads their folders.
        state: Folder of the control folders, on this machine.
        address: Returns the address of the sweeps' Ray cluster; it may take minutes.
        quota: User -> quota.
        most: Sweeps that may run at a time.
        environment: Returns the environment for processes that join that cluster; None is the server's.
        room: Memory for sweeps of the inline runner.
    """

    def __init__(
        self,
        catalog: Catalog,
        views: Views,
        state: Path,
        address: Callable[[], str],
        quota: Callable[[str], Quota],
        most: int,
        environment: Callable[[], Mapping[str, str] | None] = lambda: None,
        room: Room | None = None,
    ) -> None:
        self.catalog, self.views, self.state = catalog, views, state
        self.quota, self.environment, self.room = quota, environment, room or Room()
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # processes that this server started
        self._woken, self._ended = threading.Event(), threading.Event()
        # held only briefly: never while a folder is read or Ray starts
        self._lock = threading.RLock()
        self._removing: set[str] = set()
        self.cancels = Cancels(catalog, self.control)
        self._held: set[str] = set()  # sweeps whose reason says why they cannot start
        self._shortage = Shortage()
        self.queue = Queue(catalog, quota, most, RayAddress(address, self.wake), self.room.sweeps)
        self.endings = Endings(catalog, views, self._lock)
        self.looked = time.monotonic()
        """Time of the last successful check of all sweeps, from `time.monotonic`."""
        self._threads: list[threading.Thread] = []

    def control(self, sweep: str) -> Control:
        """Return the control folder of a sweep."""
        return Control(self.state / "sweeps" / sweep)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Continue the sweeps of an earlier server and start to run waiting ones."""
        for entry in self.catalog.in_states([State.INTERRUPTED]):
            if entry.reason == SERVER:
                self.catalog.move(entry.id, State.QUEUED, BACK)
        self.endings.take_up()
        for work, name in ((self._run, "supervisor"), (self._read, "reader")):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def wake(self) -> None:
        """Check the queue at once."""
        self._woken.set()

    def close(self) -> None:
        """Interrupt the running sweeps and wait until they have ended; the next server continues them."""
        self._ended.set()
        self._woken.set()
        for thread in self._threads:
            thread.join()
        active = self._attempts()
        with self._lock:
            for sweep, attempt in active.items():
                self._try(self.control(sweep).halt, "server", SERVER, attempt)
                self.control(sweep).signal(signal.SIGTERM)
        running = self._wait_for_end(list(active), GRACE_SECONDS)
        for sweep in running:
            self.control(sweep).signal(signal.SIGKILL, group=True)
        for sweep in self._wait_for_end(running, KILL_SECONDS):
            self._try(self.catalog.move, sweep, State.INTERRUPTED, SERVER)

    def _attempts(self) -> dict[str, int]:
        """Return running sweep -> attempt; if the database is away, the sweeps whose process lives."""
        try:
            return {entry.id: entry.task.get("attempt", 0) for entry in self.catalog.in_states(ACTIVE)}
        except SQLAlchemyError as error:
            self._shortage.report("the list of running sweeps", error)
            controls = (Control(folder) for folder in (self.state / "sweeps").glob("*"))
            return {c.folder.name: c.task.get("attempt", 0) for c in controls if c.alive}

    def _wait_for_end(self, running: Sequence[str], seconds: float) -> Sequence[str]:
        """Wait until processes have ended; returns the sweeps whose process has not."""
        deadline = time.monotonic() + seconds
        while (running := [s for s in running if not self._try(self._check_end, s)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        return running

    def _run(self) -> None:
        while not self._ended.is_set():
            self._woken.clear()
            try:
                self.tick()
            except Exception as error:  # the next check may succeed: an absent database must not end the service
                self._shortage.report("the check of all sweeps", error)
            self._woken.wait(TICK_SECONDS)

    def _read(self) -> None:
        while not self._ended.wait(1.0):
            try:
                self.views.follow(self.catalog.in_states(ACTIVE))
                self.endings.retry()
            except Exception as error:
                self._shortage.report("the check of folders", error)

    def tick(self) -> None:
        """Check every process once, and start the sweeps that may start."""
        active = [e for e in self.catalog.in_states(ACTIVE) if not self._try(self._check_end, e.id)]
        turns, held = self.queue.turns(active)
        if self._shortage.lasts:
            turns, held = {}, {**held, **dict.fromkeys(turns, self._shortage.reason)}
        released = dict.fromkeys(self._held - held.keys(), "")
        for sweep, reason in {**released, **held}.items():
            with self._lock:
                self._try(self.queue.explain, sweep, reason)
        self._held = set(held)
        for sweep, address in turns.items():
            self._try(self._begin, sweep, address)
        self.looked = time.monotonic()

    def _try(self, do: Callable[..., Any], *args: Any) -> Any:
        try:
            return do(*args)
        except Exception as error:  # one sweep must not block the others
            self._shortage.report(f"the step {do.__name__.strip('_')}", error)
            return None

    # -- one process --------------------------------------------------------------------------------------------------

    def _begin(self, sweep: str, address: str | None) -> None:
        snapshot = self.endings.look(self.catalog.get(sweep))
        seen = snapshot.progress.trials if snapshot else 0
        with self._lock:
            entry = self.catalog.get(sweep)
            if entry.state != State.QUEUED or self._shortage.lasts:
                return  # just cancelled, or the sweep before it could not start
            start = {"attempt": entry.task.get("attempt", 0) + 1, "seen": seen, "memory": self.room.each}
            task = {**drop_unread(entry.task), **start}
            last, entry = entry.started, self.catalog.move(sweep, State.STARTING, "its turn", task=task)
            try:
                text = write_stored(spec_to_run(self.views, self.quota, entry, address, snapshot).dump_explicit())
                env = None if address is None else self.environment()
                process = self.control(sweep).start(task, text, env)
            except (SpecError, OSError) as error:
                if self._shortage.note(error):
                    self.catalog.move(sweep, State.QUEUED, self._shortage.reason, queued=entry.queued, started=last)
                    return
                failure = str(error)
            else:
                if process:
                    self._children[sweep] = process
                else:
                    # a process of an earlier server lives: its outcome has that attempt's number
                    self.catalog.change(sweep, task=self.control(sweep).task)
                return
        snapshot = self.endings.read(entry)
        with self._lock:
            self._end(self.catalog.get(sweep), State.FAILED, failure, snapshot)

    def _check_end(self, sweep: str) -> bool:
        """Return whether an active sweep's process has ended, and record how."""
        with self._lock:
            entry = self.catalog.get(sweep)
            if self._lives(entry):
                return False
            self._reap(sweep)
        snapshot = self.endings.read(entry)
        with self._lock:
            self._settle(self.catalog.get(sweep), snapshot)
        return True

    def _lives(self, entry: Entry) -> bool:
        control = self.control(entry.id)
        if not control.alive:
            return False
        if entry.state == State.STARTING and control.begun:
            self.catalog.move(entry.id, State.RUNNING, "trials are starting")
        self.cancels.insist(entry)
        return True

    def _settle(self, entry: Entry, snapshot: SweepRecord | None) -> None:
        control, attempt = self.control(entry.id), entry.task.get("attempt", 0)
        outcome, halt = control.outcome(attempt), self.cancels.find_halt(entry)
        if halt and halt.kind == "cancel" and outcome and outcome.state == State.INTERRUPTED:
            outcome = None  # the signal arrived before the file
        by_server = halt is not None and halt.kind == "server"
        if by_server and (outcome is None or outcome.state == State.INTERRUPTED):
            if self._ended.is_set():
                self._end(entry, State.INTERRUPTED, SERVER, snapshot)
            else:  # an earlier server was killed while it waited for the process
                self.catalog.move(entry.id, State.QUEUED, BACK)
        elif outcome:
            self._end(entry, State(outcome.state), outcome.reason, snapshot)
        elif halt and halt.kind == "cancel":
            self._end(entry, State.CANCELLED, halt.cause, snapshot)
        elif halt:
            reason = f"{halt.cause}; process died before the last trials finished"
            self._end(entry, State.DONE, reason, snapshot)
        else:
            self._handle_death(entry, control, snapshot)

    def _handle_death(self, entry: Entry, control: Control, snapshot: SweepRecord | None) -> None:
        if control.task.get("attempt") != entry.task.get("attempt", 0):  # the database went away before the start
            self.catalog.move(entry.id, State.QUEUED, "process did not start; restarting")
            return
        count = snapshot.progress.trials if snapshot else 0
        deaths = 1 if count > entry.task.get("seen", 0) else entry.deaths + 1
        last_line = f" (last line of its log: {control.last_line})" if control.last_line else ""
        if deaths >= DEATHS:
            died = f"process died {pluralize(deaths, 'time')} without finishing a trial"
            reason = f"{died}{last_line}; finished trials are kept"
            self._end(entry, State.INTERRUPTED, reason, snapshot, deaths)
        else:
            self.catalog.move(entry.id, State.QUEUED, "process died; restarting", deaths=deaths)

    def _reap(self, sweep: str) -> None:
        if child := self._children.pop(sweep, None):
            child.wait()

    def _end(self, entry: Entry, state: State, reason: str, snapshot: SweepRecord | None, deaths: int = 0) -> None:
        self.catalog.move(entry.id, state, reason, deaths=deaths, task=self.endings.task_of(entry, snapshot))
        self.cancels.forget(entry)

    # -- requests of users --------------------------------------------------------------------------------------------

    def stop(self, sweep: str, by: str) -> Entry:
        """Start no further configurations of a sweep; running ones finish.

        Raises:
            StateError: The sweep has ended.
            UnknownSweepError: The sweep does not exist.
        """
        return self._halt(sweep, "stop", f"stopped by {by}")

    def cancel(self, sweep: str, by: str) -> Entry:
        """Kill a sweep; finished trials are kept.

        Raises:
            StateError: The sweep has ended.
            UnknownSweepError: The sweep does not exist.
        """
        return self._halt(sweep, "cancel", f"cancelled by {by}")

    def _halt(self, sweep: str, kind: str, cause: str) -> Entry:
        with self._lock:
            entry = self.catalog.get(sweep)
            state = State(entry.state)
            if state == State.QUEUED:
                # its results may not be stored yet, if its store was away at the end or its process died
                task = entry.task if entry.started is None else self.endings.task_of(entry, None)
                return self.catalog.move(sweep, State.CANCELLED, f"{cause} while it waited", task=task)
            if state.ended:
                raise StateError(f"sweep {sweep} is {state.value}: there is nothing to {kind}")
            if kind == "cancel":
                self.wake()
                return self.cancels.request(entry, cause)
            self.control(sweep).halt(kind, cause, entry.task.get("attempt", 0))
            if state != State.STOPPING:
                entry = self.catalog.move(sweep, State.STOPPING, cause)
            self.wake()
            return entry

    def resume(self, sweep: str, by: str, changes: Mapping[str, Any] | None = None, budget: int = 0) -> Entry:
        """Queue an ended sweep again to continue it.

        Args:
            sweep: Id of the sweep.
            by: Name of the user.
            changes: Keys of its spec with new values, such as `trials`.
            budget: New number of configurations; 0 keeps the old one.

        Raises:
            SpecError: A value breaks its rule.
            StateError: The sweep has not ended.
            UnknownSweepError: The sweep does not exist.
        """
        spec = SweepSpec.checked({**self.catalog.get(sweep).spec, **(changes or {})})
        with self._lock:
            entry = self._get_ended(sweep, "resume it after it has ended")
            budget = budget or entry.budget
            demand = remaining_demand(entry, spec, budget)
            entry = self.catalog.move(
                sweep, State.QUEUED, f"resumed by {by}", deaths=0, task={**entry.task, "kind": "run"},
                budget=budget, trials=budget * spec.repeats, spec=spec.dump_explicit(),
                due=demand.trials, due_gpu_seconds=3600 * demand.gpu_hours,
            )  # fmt: skip
            self.wake()
            return entry

    def extend(self, sweep: str, by: str, options: Mapping[str, Any], trials: int) -> Entry:
        """Queue the trials that a firm answer still needs; see `sweeper.cli.commands.extend`.

        Args:
            sweep: Id of the sweep.
            by: Name of the user.
            options: Options of the extension.
            trials: Number of these trials, from `Views.plan`.

        Raises:
            StateError: The sweep has not ended.
            UnknownSweepError: The sweep does not exist.
        """
        with self._lock:
            entry = self._get_ended(sweep, "extend it after it has ended")
            task = {**entry.task, "kind": "extend", "options": dict(options)}
            cause = f"extended by {by}: {pluralize(trials, 'trial')}"
            left = remaining_gpu_hours(entry, entry.spec.get("max_gpu_hours"))
            entry = self.catalog.move(
                sweep, State.QUEUED, cause, deaths=0, task=task, due=trials, due_gpu_seconds=3600 * left
            )
            self.wake()
            return entry

    def remove(self, sweep: str) -> None:
        """Delete an ended sweep with all its results.

        Raises:
            StateError: The sweep has not ended.
            StorageError: Its folder cannot be removed; the sweep stays listed.
            UnknownSweepError: The sweep does not exist.
        """
        with self._lock:
            self._get_ended(sweep, "cancel it first")
            self._removing.add(sweep)
        try:
            place_of(self.views.run_of(sweep)).clear()
            with self._lock:
                # before the row: `rebuild` would list a remaining folder again
                shutil.rmtree(self.control(sweep).folder, ignore_errors=True)
                self.catalog.remove(sweep)
                self.views.forget(sweep)
        finally:
            self._removing.discard(sweep)

    def _get_ended(self, sweep: str, otherwise: str) -> Entry:
        if sweep in self._removing:
            raise StateError(f"sweep {sweep} is being deleted")
        entry = self.catalog.get(sweep)
        if not State(entry.state).ended:
            raise StateError(f"sweep {sweep} is {entry.state}: {otherwise}")
        return entry

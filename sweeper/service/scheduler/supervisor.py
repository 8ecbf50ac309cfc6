"""The supervisor: starts waiting sweeps, watches their processes, and takes note of how they end.

What it knows stands in the database and in the control folders, so another server goes on where one was killed: it
adopts the processes that live and starts those anew that died.
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

from sweeper.client.models import ACTIVE, Quota, State
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_text import write_stored
from sweeper.errors import SpecError
from sweeper.service.db.sweeps import Catalog, Entry, StateError
from sweeper.service.policy.quotas import remaining_demand, remaining_gpu_hours
from sweeper.service.scheduler.cancels import GRACE_SECONDS, Cancels
from sweeper.service.scheduler.finalise import Endings, settled
from sweeper.service.scheduler.memory import Room
from sweeper.service.scheduler.process import Control
from sweeper.service.scheduler.queue import Queue
from sweeper.service.scheduler.ray_address import RayAddress
from sweeper.service.scheduler.shortage import Shortage
from sweeper.service.scheduler.starts import spec_to_run
from sweeper.service.views.reader import Found
from sweeper.service.views.views import Views
from sweeper.storage.location import place_of

TICK_SECONDS = 0.5
KILL_SECONDS = 5.0
DEATHS = 3
SERVER = "the server was stopped; it goes on when the server is back"
BACK = "the server is back"


class Supervisor:
    """Runs the sweeps of a catalog, a process each.

    Args:
        catalog: The sweeps.
        views: Reads their folders.
        state: Folder of the control folders, on this machine.
        address: Returns the Ray cluster that sweeps run at; it may take its time.
        quota: User -> what it may have.
        most: Sweeps that run at a time.
        environment: Returns the environment in which sweeps join that cluster; None is the server's.
        room: Of those of runner inline.
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
        # held for moments: never while a folder is read, or Ray starts
        self._lock = threading.RLock()
        self._removing: set[str] = set()
        self.cancels = Cancels(catalog, self.control)
        self._held: set[str] = set()  # whose reason says why they cannot start
        self._shortage = Shortage()
        self.queue = Queue(catalog, quota, most, RayAddress(address, self.wake), self.room.sweeps)
        self.endings = Endings(catalog, views, self._lock)
        self.looked = time.monotonic()
        """Time of the last look at all sweeps that succeeded, of `time.monotonic`."""
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
        self.endings.take_up()
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
        active = self._attempts()
        with self._lock:
            for sweep, attempt in active.items():
                self._tried(self.control(sweep).halt, "server", SERVER, attempt)
                self.control(sweep).signal(signal.SIGTERM)
        running = self._awaited(list(active), GRACE_SECONDS)
        for sweep in running:
            self.control(sweep).signal(signal.SIGKILL, group=True)
        for sweep in self._awaited(running, KILL_SECONDS):
            self._tried(self.catalog.move, sweep, State.INTERRUPTED, SERVER)

    def _attempts(self) -> dict[str, int]:
        """Return the sweeps that run -> attempt; where the database is away, those whose process lives."""
        try:
            return {entry.id: entry.task.get("attempt", 0) for entry in self.catalog.in_states(ACTIVE)}
        except SQLAlchemyError as error:
            self._shortage.report("the list of sweeps that run", error)
            found = (Control(folder) for folder in (self.state / "sweeps").glob("*"))
            return {c.folder.name: c.task.get("attempt", 0) for c in found if c.alive}

    def _awaited(self, running: Sequence[str], seconds: float) -> Sequence[str]:
        """Wait until processes have ended; returns the sweeps of those that have not."""
        deadline = time.monotonic() + seconds
        while (running := [s for s in running if not self._tried(self._over, s)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        return running

    def _run(self) -> None:
        while not self._ended.is_set():
            self._woken.clear()
            try:
                self.tick()
            except Exception as error:  # the next look may succeed: a database that is away must not end the service
                self._shortage.report("the look at all sweeps", error)
            self._woken.wait(TICK_SECONDS)

    def _read(self) -> None:
        while not self._ended.wait(1.0):
            try:
                self.views.follow(self.catalog.in_states(ACTIVE))
                self.endings.retry()
            except Exception as error:
                self._shortage.report("the look at folders", error)

    def tick(self) -> None:
        """Look at every process once, and start what may start."""
        active = [e for e in self.catalog.in_states(ACTIVE) if not self._tried(self._over, e.id)]
        turns, held = self.queue.turns(active)
        if self._shortage.lasts:
            turns, held = {}, {**held, **dict.fromkeys(turns, self._shortage.reason)}
        over = dict.fromkeys(self._held - held.keys(), "")
        for sweep, reason in {**over, **held}.items():
            with self._lock:
                self._tried(self.queue.explain, sweep, reason)
        self._held = set(held)
        for sweep, address in turns.items():
            self._tried(self._begin, sweep, address)
        self.looked = time.monotonic()

    def _tried(self, do: Callable[..., Any], *args: Any) -> Any:
        try:
            return do(*args)
        except Exception as error:  # one sweep must not hold up the others
            self._shortage.report(f"a step of {do.__name__.strip('_')}", error)
            return None

    # -- one process --------------------------------------------------------------------------------------------------

    def _begin(self, sweep: str, address: str | None) -> None:
        found = self.endings.look(self.catalog.get(sweep))
        seen = found.progress.trials if found else 0
        with self._lock:
            entry = self.catalog.get(sweep)
            if entry.state != State.QUEUED or self._shortage.lasts:
                return  # cancelled a moment ago, or the one before it could not be started
            more = {"attempt": entry.task.get("attempt", 0) + 1, "seen": seen, "memory": self.room.each}
            task = {**settled(entry.task), **more}
            last, entry = entry.started, self.catalog.move(sweep, State.STARTING, "its turn", task=task)
            try:
                text = write_stored(spec_to_run(self.views, self.quota, entry, address, found).asked())
                env = None if address is None else self.environment()
                started = self.control(sweep).start(task, text, env)
            except (SpecError, OSError) as error:
                if self._shortage.caused(error):
                    self.catalog.move(sweep, State.QUEUED, self._shortage.reason, queued=entry.queued, started=last)
                    return
                failed = str(error)
            else:
                if started:
                    self._children[sweep] = started
                else:
                    # a process lives that an earlier server started: its end has another attempt's number
                    self.catalog.change(sweep, task=self.control(sweep).task)
                return
        found = self.endings.read(entry)
        with self._lock:
            self._end(self.catalog.get(sweep), State.FAILED, failed, found)

    def _over(self, sweep: str) -> bool:
        """Take note of what an active sweep's process did; returns whether it has ended."""
        with self._lock:
            entry = self.catalog.get(sweep)
            if self._lives(entry):
                return False
            self._reap(sweep)
        found = self.endings.read(entry)
        with self._lock:
            self._settle(self.catalog.get(sweep), found)
        return True

    def _lives(self, entry: Entry) -> bool:
        control = self.control(entry.id)
        if not control.alive:
            return False
        if entry.state == State.STARTING and control.begun:
            self.catalog.move(entry.id, State.RUNNING, "trials are started")
        self.cancels.insist(entry)
        return True

    def _settle(self, entry: Entry, found: Found | None) -> None:
        control, attempt = self.control(entry.id), entry.task.get("attempt", 0)
        outcome, halted = control.outcome(attempt), self.cancels.halted(entry)
        if halted and halted.kind == "cancel" and outcome and outcome.state == State.INTERRUPTED:
            outcome = None  # the signal came before the word
        by_server = halted is not None and halted.kind == "server"
        if by_server and (outcome is None or outcome.state == State.INTERRUPTED):
            if self._ended.is_set():
                self._end(entry, State.INTERRUPTED, SERVER, found)
            else:  # an earlier server was killed while it waited for the process to end
                self.catalog.move(entry.id, State.QUEUED, BACK)
        elif outcome:
            self._end(entry, State(outcome.state), outcome.reason, found)
        elif halted and halted.kind == "cancel":
            self._end(entry, State.CANCELLED, halted.cause, found)
        elif halted:
            reason = f"{halted.cause}; its process died before the last trials were finished"
            self._end(entry, State.DONE, reason, found)
        else:
            self._died(entry, control, found)

    def _died(self, entry: Entry, control: Control, found: Found | None) -> None:
        if control.task.get("attempt") != entry.task.get("attempt", 0):  # the database went away before it began
            self.catalog.move(entry.id, State.QUEUED, "its process was not started")
            return
        count = found.progress.trials if found else 0
        deaths = 1 if count > entry.task.get("seen", 0) else entry.deaths + 1
        words = f" (its last line: {control.last_words})" if control.last_words else ""
        if deaths >= DEATHS:
            reason = f"its process died {deaths} times without finishing a trial{words}; finished trials are kept"
            self._end(entry, State.INTERRUPTED, reason, found, deaths)
        else:
            self.catalog.move(entry.id, State.QUEUED, "its process died; it is gone on with", deaths=deaths)

    def _reap(self, sweep: str) -> None:
        if child := self._children.pop(sweep, None):
            child.wait()

    def _end(self, entry: Entry, state: State, reason: str, found: Found | None, deaths: int = 0) -> None:
        self.catalog.move(entry.id, state, reason, deaths=deaths, task=self.endings.noted(entry, found))
        self.cancels.forget(entry)

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
                # what it had run may not be stored: its store was away when it ended, or its process died
                task = entry.task if entry.started is None else self.endings.noted(entry, None)
                return self.catalog.move(sweep, State.CANCELLED, f"{cause} while it waited", task=task)
            if state.ended:
                raise StateError(f"sweep {sweep} is {state.value}: there is nothing to {kind}")
            if kind == "cancel":
                self.wake()
                return self.cancels.ask(entry, cause)
            self.control(sweep).halt(kind, cause, entry.task.get("attempt", 0))
            if state != State.STOPPING:
                entry = self.catalog.move(sweep, State.STOPPING, cause)
            self.wake()
            return entry

    def resume(self, sweep: str, by: str, changes: Mapping[str, Any] | None = None, budget: int = 0) -> Entry:
        """Queue a sweep that ended again, to be gone on with.

        Args:
            sweep: Its id.
            by: Who asks.
            changes: Keys of its spec with other values, such as `trials`.
            budget: Its configurations then; 0 leaves their number as it is.

        Raises:
            SpecError: A value breaks its rule.
            StateError: It has not ended.
            UnknownSweepError: There is none.
        """
        spec = SweepSpec.checked({**self.catalog.get(sweep).spec, **(changes or {})})
        with self._lock:
            entry = self._ended_one(sweep, "it is resumed when it has ended")
            budget = budget or entry.budget
            ask = remaining_demand(entry, spec, budget)
            entry = self.catalog.move(
                sweep, State.QUEUED, f"resumed by {by}", deaths=0, task={**entry.task, "kind": "run"},
                budget=budget, trials=budget * spec.repeats, spec=spec.asked(),
                due=ask.trials, due_gpu_seconds=3600 * ask.gpu_hours,
            )  # fmt: skip
            self.wake()
            return entry

    def extend(self, sweep: str, by: str, options: Mapping[str, Any], trials: int) -> Entry:
        """Queue the trials that a firm answer lacks; see `sweeper.cli.commands.extend`.

        Args:
            sweep: Its id.
            by: Who asks.
            options: What the answer is to be like.
            trials: Number of those trials, as `Views.plan` has it.

        Raises:
            StateError: The sweep has not ended.
            UnknownSweepError: There is none.
        """
        with self._lock:
            entry = self._ended_one(sweep, "it is extended when it has ended")
            task = {**entry.task, "kind": "extend", "options": dict(options)}
            cause = f"extended by {by}: {trials} trials"
            left = remaining_gpu_hours(entry, entry.spec.get("max_gpu_hours"))
            entry = self.catalog.move(
                sweep, State.QUEUED, cause, deaths=0, task=task, due=trials, due_gpu_seconds=3600 * left
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
            self._ended_one(sweep, "cancel it first")
            self._removing.add(sweep)
        try:
            place_of(self.views.run_of(sweep)).clear()
            with self._lock:
                # before the list: a folder that stays would be listed again
                shutil.rmtree(self.control(sweep).folder, ignore_errors=True)
                self.catalog.remove(sweep)
                self.views.forget(sweep)
        finally:
            self._removing.discard(sweep)

    def _ended_one(self, sweep: str, otherwise: str) -> Entry:
        if sweep in self._removing:
            raise StateError(f"sweep {sweep} is being deleted")
        entry = self.catalog.get(sweep)
        if not State(entry.state).ended:
            raise StateError(f"sweep {sweep} is {entry.state}: {otherwise}")
        return entry

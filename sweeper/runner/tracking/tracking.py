"""Tracking of a sweep: passes finished trials to the trackers that the user asked for.

The driver reads the trials from the run folder, and a thread passes them on, so that a slow network delays no trial. An
error of a tracker costs no trial: it ends the tracking with one warning, and a resume adds what is missing.
"""

from __future__ import annotations

import queue
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Protocol

from search_spaces import Space
from sweeper.config.prepared import PreparedSweep
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError, StorageError
from sweeper.runner.status import Callbacks, Status
from sweeper.runner.tracking.record import TrialRecord, make_record
from sweeper.runner.tracking.tensorboard import TensorBoard
from sweeper.runner.tracking.wandb import WeightsAndBiases, check_account
from sweeper.storage.location import Place
from sweeper.storage.tables import read, read_rows, read_trials
from trainables.result import Outcome

Row = Mapping[str, Any]

CLOSE_SECONDS = 120.0
"""Longest wait for the trackers at the end of a sweep."""


class Tracker(Protocol):
    """Program that shows trials."""

    def track(self, record: TrialRecord) -> None:
        """Show a finished trial."""
        ...


TRACKERS: Mapping[str, Callable[[Place], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def tracker_names(spec: SweepSpec) -> list[str]:
    """Return the names of the trackers of a sweep."""
    return [name for name in dict.fromkeys(spec.track) if name in TRACKERS]


def check_trackers(names: Iterable[str]) -> None:
    """Check that the packages of trackers are installed, and that wandb has an account or is offline.

    Raises:
        SpecError: Something is missing; the message names the command that helps.
    """
    for name in names:
        if find_spec(name) is None:
            raise SpecError(f"track {name} needs the package {name}: pip install 'sweeper[{name}]'")
        if name == "wandb":
            check_account()


class Tracking:
    """Passes finished trials to trackers, each of them once.

    Args:
        spec: The sweep.
        space: Its space.
        place: The run folder, which holds the tables and the names of the trials that a tracker has.
    """

    def __init__(self, spec: SweepSpec, space: Space, place: Place) -> None:
        self.spec, self.space, self.place = spec, space, place
        self.trackers = {name: TRACKERS[name](place) for name in tracker_names(spec)}
        self.tracked = {name: set(place.files(_marks(name))) for name in self.trackers}
        self.warnings: dict[str, str] = {}
        self.histories: dict[str, list[Row]] | None = None
        self.queue: queue.Queue[TrialRecord | None] = queue.Queue()
        self.thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self.thread.start()

    def add(self, rows: Iterable[Row]) -> None:
        """Pass on finished trials; a failed one runs again, so that it is left out."""
        for row in rows:
            if row["outcome"] == Outcome.FAILED or all(row["digest"] in done for done in self.tracked.values()):
                continue
            try:
                self.queue.put(self._read(row))
            except (SpecError, StorageError) as error:
                self._warn("track", f"trial {row['digest']} cannot be read for the trackers: {error}")

    def _read(self, row: Row) -> TrialRecord:
        digest = row["digest"]
        if "spec" in row:  # of an earlier driver: its tables may be compacted
            if self.histories is None:
                self.histories = group_histories(self.place)
            history = self.histories.get(digest, [])
        else:
            row, history = read_rows(self.place, "trials", [digest])[0], read_rows(self.place, "history", [digest])
        return make_record(self.spec, self.space, self.place.name, row, history)

    def close(self) -> None:
        """Wait until the trackers have all trials, at most `CLOSE_SECONDS`."""
        self.queue.put(None)
        self.thread.join(CLOSE_SECONDS)
        if self.thread.is_alive():
            self._warn("track", f"the trackers are too slow; {self._advice(*self.trackers)}")

    def _work(self) -> None:
        while (record := self.queue.get()) is not None:
            for name in list(self.trackers):
                if record.digest not in self.tracked[name]:
                    self._track(name, record)

    def _track(self, name: str, record: TrialRecord) -> None:
        try:
            self.trackers[name].track(record)
            self.place.write(f"{_marks(name)}/{record.digest}", b"")
            self.tracked[name].add(record.digest)
        except Exception as error:
            del self.trackers[name]
            text = " ".join(str(error).split()) or type(error).__name__
            self._warn(f"track_{name}", f"{name} gets no further trials: {text}; {self._advice(name)}")

    def _advice(self, *names: str) -> str:
        flags = " ".join(f"--track {name}" for name in names)
        return f"`sweeper resume {shlex.quote(self.place.uri)} {flags}` adds what is missing"

    def _warn(self, key: str, text: str) -> None:
        self.warnings.setdefault(key, text)


def _marks(name: str) -> str:
    return f"{name}/tracked"


def group_histories(place: Place) -> dict[str, list[Row]]:
    """Return digest -> rows of the history table of a run folder."""
    groups: dict[str, list[Row]] = {}
    for row in read(place, "history").to_pylist():
        groups.setdefault(row["digest"], []).append(row)
    return groups


@contextmanager
def tracked(sweep: PreparedSweep, place: Place, callbacks: Callbacks) -> Iterator[Callbacks]:
    """Yield the callbacks of a session whose finished trials go to the trackers of the sweep.

    Args:
        sweep: The sweep.
        place: Its run folder.
        callbacks: The caller's functions; `listener` also gets the warnings of the trackers.
    """
    if not tracker_names(sweep.spec):
        yield callbacks
        return
    tracking = Tracking(sweep.spec, sweep.space, place)

    last: list[Status] = []

    def listen(status: Status) -> None:
        last[:] = [status]
        status.warnings.update(tracking.warnings)
        callbacks.listener(status)

    try:
        yield replace(callbacks, listener=listen, finished=tracking.add)
    finally:
        tracking.close()
        for status in last:
            if tracking.warnings.keys() - status.warnings.keys():
                listen(status)


def export_events(spec: SweepSpec, space: Space | None, run: Place, target: Place) -> int:
    """Write the trials of a run folder for TensorBoard, and return their number.

    Args:
        spec: The sweep.
        space: Its space; None leaves out knobs that are no column of the trials table.
        run: The run folder.
        target: Folder for `tensorboard --logdir`.

    Raises:
        SpecError: The package is missing, or the run folder cannot be read.
        StorageError: The target cannot be written to.
    """
    check_trackers(["tensorboard"])
    tracker, histories = TensorBoard(target, ""), group_histories(run)
    rows: Sequence[Row] = [r for r in read_trials(run).to_pylist() if r["outcome"] != Outcome.FAILED]
    for row in rows:
        tracker.track(make_record(spec, space, run.name, row, histories.get(row["digest"], [])))
    return len(rows)

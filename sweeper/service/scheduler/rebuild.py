"""The list of sweeps, made anew from the folders that lie beside a lost database."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from sweeper.client.models import ACTIVE, ENDED, State
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_text import YamlError, read
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.service.db.landing import Landing
from sweeper.service.db.sweeps import Catalog, Entry
from sweeper.service.db.tables import DAY_SECONDS, sweeps, transitions
from sweeper.service.scheduler.finalise import UNREAD
from sweeper.service.scheduler.process import Control
from sweeper.storage.location import place_of
from sweeper.storage.retry import line
from sweeper.storage.tables import read_trials

pc: Any = pyarrow.compute  # whose functions are made when it is imported
NOBODY = "(unknown)"
"""Owner of a sweep whose folder does not tell it: no user can have this name, and admins see all sweeps."""
CAUSE = "listed again from its folder"
_log = logging.getLogger("sweeper.service")


def record(state: Path, entry: Entry) -> None:
    """Keep a sweep's row in its control folder.

    Raises:
        OSError: It cannot be written.
    """
    row = {column.name: getattr(entry, column.name) for column in sweeps.c}
    Control(state / "sweeps" / entry.id).keep(row)


def record_missing(state: Path, catalog: Catalog) -> None:
    """Keep the rows of sweeps that an earlier version sent."""
    with catalog.engine.connect() as connection:
        known = connection.execute(select(sweeps.c.id)).scalars().all()
    for sweep in known:
        if not (state / "sweeps" / sweep / Control.ENTRY).exists():
            try:
                record(state, catalog.get(sweep))
            except SpecError:
                continue  # deleted a moment ago


def unlisted(state: Path, catalog: Catalog) -> list[str]:
    """Return the sweeps that have a control folder and no row.

    Raises:
        SpecError: No sweep has a row, so the database was lost.
    """
    found = _folders(state)
    with catalog.engine.connect() as connection:
        known = set(connection.execute(select(sweeps.c.id)).scalars()) if found else set()
    lost = [sweep for sweep in found if sweep not in known]
    if lost and not known:
        raise SpecError(
            f"the database lists no sweep, but {state / 'sweeps'} holds the folders of {len(lost)}: put the database "
            "back, or add --rebuild to list them again from their folders"
        )
    return lost


def rebuild(state: Path, catalog: Catalog, run_of: Callable[[str], str]) -> str:
    """List the sweeps again that have a control folder and no row; returns what was done, as a sentence.

    Args:
        state: The state folder.
        catalog: The list.
        run_of: Sweep -> its run folder.
    """
    with catalog.engine.connect() as connection:
        known = set(connection.execute(select(sweeps.c.id)).scalars())
    listed, partly, unread = 0, 0, list[str]()
    for sweep in _folders(state):
        if sweep in known:
            continue
        control = Control(state / "sweeps" / sweep)
        try:
            values = _recorded(control, sweep) or _guessed(control, sweep, catalog.clock())
            _add(catalog, values, catalog.clock())
        except (SpecError, OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("sweep %s cannot be listed again: %s", sweep, line(error))
            unread.append(sweep)
            continue
        listed += 1
        partly += values["owner"] == NOBODY
        _charge(catalog, catalog.get(sweep), run_of(sweep))
    said = f"listed again from their folders: {pluralize(listed, 'sweep')}"
    said += f"; of {partly} of them owner and name are unknown, for an earlier version kept none" if partly else ""
    said += f"; {pluralize(len(unread), 'folder')} cannot be read: {', '.join(unread[:5])}" if unread else ""
    return f"{said}; users, tokens and the audit log are not in the folders"


def _folders(state: Path) -> list[str]:
    folder = state / "sweeps"
    tell = (Control.ENTRY, "spec.yaml")  # one without them is of no sweep that ever ran
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(f.name for f in found if any((f / name).is_file() for name in tell))


def _recorded(control: Control, sweep: str) -> dict[str, Any] | None:
    """Return the row that a control folder keeps, in the state in which the process is now."""
    values = control.kept
    if values is None:
        return None
    if values["id"] != sweep:
        raise ValueError(f"the folder keeps the row of {values['id']}")
    known = {k: v for k, v in values.items() if k in sweeps.c}
    if control.alive:  # the disk may have been full when the row changed last
        known |= {"state": known["state"] if known["state"] in ACTIVE else State.RUNNING, "task": control.task}
    return known


def _guessed(control: Control, sweep: str, now: float) -> dict[str, Any]:
    """Return a row from what an earlier version left."""
    file = control.folder / "spec.yaml"
    try:
        given, _ = read(file.read_text(), stored=True)
    except YamlError as error:
        raise SpecError(str(error)) from None
    spec = SweepSpec.checked({k: v for k, v in given.items() if k not in ("out", "address")})
    task, count = control.task or {"kind": "run"}, spec.trials * spec.repeats
    outcome = control.outcome(task.get("attempt", 0))
    if control.alive:
        state, reason = State.RUNNING, CAUSE
    elif outcome is not None:
        state, reason = State(outcome.state), outcome.reason
    else:
        state, reason = State.INTERRUPTED, f"{CAUSE}; `resume` continues it"
    began = file.stat().st_mtime
    hours = 3600 * (spec.max_gpu_hours or 0.0)
    return {
        "id": sweep, "name": sweep, "owner": NOBODY, "shared": False, "space": Path(spec.space).stem,
        "spec": spec.asked(), "budget": spec.trials, "trials": count, "priority": 0, "state": state, "reason": reason,
        "task": task, "created": began, "queued": began, "started": began, "ended": now if state in ENDED else None,
        "wall_seconds": 0.0, "gpu_hours": 0.0, "deaths": 0, "due": count, "due_gpu_seconds": hours,
    }  # fmt: skip


def _add(catalog: Catalog, values: dict[str, Any], now: float) -> None:
    if values["state"] in ENDED and values.get("summary") is None:
        values["task"] = {**values["task"], UNREAD: True}
    values["due"], values["due_gpu_seconds"] = values["trials"], 3600 * (values["spec"].get("max_gpu_hours") or 0.0)
    change = {"sweep": values["id"], "state": values["state"], "time": now, "cause": CAUSE}
    for key in (values.get("key"), None):
        try:
            with catalog.engine.begin() as connection:
                connection.execute(insert(sweeps).values(**{**values, "key": key}))
                connection.execute(insert(transitions).values(**change))
            return
        except IntegrityError:
            if key is None:
                raise


def _charge(catalog: Catalog, entry: Entry, run: str) -> None:
    """Count the trials that a sweep has run on the days on which they ran: quotas must not take them for new ones."""
    try:
        resources = SweepSpec.checked({**entry.spec, "out": run}).resources
        for day, rows in _by_day(run):
            Landing(catalog.engine, entry.id, resources, lambda day=day: (day + 0.5) * DAY_SECONDS).take(rows)
    except (SpecError, OSError, ValueError) as error:
        _log.warning("sweep %s: what it used is not counted again: %s", entry.id, line(error))


def _by_day(run: str) -> Iterator[tuple[int, pa.Table]]:
    if not place_of(run).exists():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts that are left out were told of when the sweep ran
        trials = read_trials(run)
    started = pc.cast(pc.utf8_slice_codeunits(trials["started"], 0, 10), pa.date32())
    days = pc.cast(started, pa.int32())
    for day in sorted(set(days.to_pylist()) - {None}):
        yield day, trials.filter(pc.equal(days, day))

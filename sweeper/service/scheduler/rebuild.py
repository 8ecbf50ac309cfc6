"""Rebuild of a lost database: lists the sweeps again from their control folders."""

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

pc: Any = pyarrow.compute  # creates its functions at import, so type checkers do not see them
NOBODY = "(unknown)"
"""Owner of a sweep whose folder names none; no user can have this name, so only admins see the sweep."""
CAUSE = "listed again from its folder"
_log = logging.getLogger("sweeper.service")


def store_row(state: Path, entry: Entry) -> None:
    """Store a sweep's row in its control folder.

    Raises:
        OSError: The row cannot be written.
    """
    row = {column.name: getattr(entry, column.name) for column in sweeps.c}
    Control(state / "sweeps" / entry.id).store_row(row)


def store_missing_rows(state: Path, catalog: Catalog) -> None:
    """Store the rows of sweeps whose control folder, written by an earlier version, has none."""
    with catalog.engine.connect() as connection:
        known = connection.execute(select(sweeps.c.id)).scalars().all()
    for sweep in known:
        if not (state / "sweeps" / sweep / Control.ENTRY).exists():
            try:
                store_row(state, catalog.get(sweep))
            except SpecError:
                continue  # deleted a moment ago


def find_unlisted(state: Path, catalog: Catalog) -> list[str]:
    """Return the sweeps that have a control folder but no row.

    Raises:
        SpecError: No sweep has a row, so the database was lost.
    """
    folders = _folders(state)
    with catalog.engine.connect() as connection:
        listed = set(connection.execute(select(sweeps.c.id)).scalars()) if folders else set()
    unlisted = [sweep for sweep in folders if sweep not in listed]
    if unlisted and not listed:
        raise SpecError(
            f"the database lists no sweep, but {state / 'sweeps'} holds the folders of {len(unlisted)}: restore the "
            "database, or add --rebuild to list the sweeps again from their folders"
        )
    return unlisted


def rebuild(state: Path, catalog: Catalog, run_of: Callable[[str], str]) -> str:
    """Add a row for each sweep that has a control folder but no row; returns a sentence about the result.

    Args:
        state: The state folder.
        catalog: The catalog to fill.
        run_of: Sweep -> its run folder.
    """
    with catalog.engine.connect() as connection:
        known = set(connection.execute(select(sweeps.c.id)).scalars())
    listed, without_owner, unread = 0, 0, list[str]()
    for sweep in _folders(state):
        if sweep in known:
            continue
        control = Control(state / "sweeps" / sweep)
        try:
            values = _read_row(control, sweep) or _guess_row(control, sweep, catalog.clock())
            _add(catalog, values, catalog.clock())
        except (SpecError, OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("sweep %s cannot be listed again: %s", sweep, line(error))
            unread.append(sweep)
            continue
        listed += 1
        without_owner += values["owner"] == NOBODY
        _charge(catalog, catalog.get(sweep), run_of(sweep))
    result = f"listed {pluralize(listed, 'sweep')} again from their folders"
    result += f"; {without_owner} without owner and name, which earlier versions did not store" if without_owner else ""
    result += f"; cannot read {pluralize(len(unread), 'folder')}: {', '.join(unread[:5])}" if unread else ""
    return f"{result}; users, tokens and the audit log are lost, since the folders do not hold them"


def _folders(state: Path) -> list[str]:
    folder = state / "sweeps"
    files = (Control.ENTRY, "spec.yaml")  # a sweep without either never ran
    folders = folder.iterdir() if folder.is_dir() else ()
    return sorted(f.name for f in folders if any((f / name).is_file() for name in files))


def _read_row(control: Control, sweep: str) -> dict[str, Any] | None:
    """Return the row in a control folder, with the present state of its process."""
    stored = control.row
    if stored is None:
        return None
    if stored["id"] != sweep:
        raise ValueError(f"the folder holds the row of {stored['id']}")
    row = {k: v for k, v in stored.items() if k in sweeps.c}
    if control.alive:  # a full disk may have prevented the last update of the row
        row |= {"state": row["state"] if row["state"] in ACTIVE else State.RUNNING, "task": control.task}
    return row


def _guess_row(control: Control, sweep: str, now: float) -> dict[str, Any]:
    """Return a row made from the files of an earlier version."""
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
        "spec": spec.dump_explicit(), "budget": spec.trials, "trials": count, "priority": 0, "state": state,
        "reason": reason,
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
    """Charge a sweep's finished trials to the days on which they ran, so quotas do not count them as new."""
    try:
        resources = SweepSpec.checked({**entry.spec, "out": run}).resources
        for day, rows in _by_day(run):
            Landing(catalog.engine, entry.id, resources, lambda day=day: (day + 0.5) * DAY_SECONDS).take(rows)
    except (SpecError, OSError, ValueError) as error:
        _log.warning("sweep %s: cannot count its earlier usage: %s", entry.id, line(error))


def _by_day(run: str) -> Iterator[tuple[int, pa.Table]]:
    if not place_of(run).exists():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sweep already reported skipped parts
        trials = read_trials(run)
    started = pc.cast(pc.utf8_slice_codeunits(trials["started"], 0, 10), pa.date32())
    days = pc.cast(started, pa.int32())
    for day in sorted(set(days.to_pylist()) - {None}):
        yield day, trials.filter(pc.equal(days, day))

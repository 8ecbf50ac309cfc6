"""Lease: limits a run folder without kernel locks to one driver, by a small file that the driver renews.

An object store has no locks. A driver writes the lease, waits, and reads it again, so that only one of two concurrent
drivers continues. A driver that finds another owner when it renews its lease stops. The clocks of the drivers must
agree within half a minute.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sweeper.errors import SpecError, StorageError
from sweeper.storage.location import Place

LEASE_FILE = ".lease.json"
RENEW_SECONDS, STALE_SECONDS, SETTLE_SECONDS = 15.0, 75.0, 1.0
DRIFT_SECONDS, LOOK_SECONDS = 30.0, 5.0


def _nothing(_: str) -> None:
    return


@dataclass
class Hold:
    """A locked folder. `lost` receives a sentence if another driver takes it over."""

    lost: Callable[[str], None] = field(default=_nothing)


def holder(place: Place) -> dict[str, Any] | None:
    """Return the holder of a place: `owner`, `host`, `pid`, `time`; None without a valid lease.

    Raises:
        SpecError: The store cannot be reached.
    """
    lease = _read(place)
    return lease if lease and time.time() - lease["time"] < STALE_SECONDS else None


def _read(place: Place) -> dict[str, Any] | None:
    try:
        lease = json.loads(place.read_text(LEASE_FILE) or "null")
        return {"owner": str(lease["owner"]), "host": str(lease["host"]), "pid": int(lease["pid"]),
                "time": float(lease["time"])}  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, SpecError):
            raise
        return None  # no lease, or a foreign file


def await_free(place: Place, say: Callable[[str], None], stop: Callable[[], str]) -> str:
    """Wait until the lease of a killed driver expires; the lease of a live driver does not expire.

    Args:
        place: The folder.
        say: Receives a line if there is a lease to wait for.
        stop: Returns a reason to stop waiting, else an empty text.

    Returns:
        The reason of `stop`; empty if the place is free, or a live driver holds it.

    Raises:
        SpecError: The store cannot be reached; a `StorageError` for a `patient` place.
    """
    end, look, said = time.monotonic() + STALE_SECONDS + DRIFT_SECONDS, 0.0, False
    while (now := time.monotonic()) < end:
        if now >= look:
            other = holder(place)
            if other is None:
                break
            look = now + LOOK_SECONDS
            if not said:
                said = True
                say(
                    f"process {other['pid']} on {other['host']} holds {place.text}; if it was killed, the folder is "
                    f"free within {STALE_SECONDS:g} s: waiting"
                )
        if why := stop():
            return why
        time.sleep(min(0.2, LOOK_SECONDS))
    return ""


@contextmanager
def hold_lease(place: Place) -> Iterator[Hold]:
    """Hold the lease of a place during the block.

    Raises:
        SpecError: Another driver holds it, or the place cannot be written to.
    """
    owner = uuid.uuid4().hex
    _refuse(place, holder(place))
    try:
        _renew(place, owner)
        time.sleep(SETTLE_SECONDS)
        now = _read(place)
    except StorageError as error:
        raise SpecError(str(error)) from None
    if not now or now["owner"] != owner:
        _refuse(place, now)
    hold, done = Hold(), threading.Event()
    keeper = threading.Thread(target=_keep, args=(place.patient(), owner, hold, done), daemon=True)
    keeper.start()
    try:
        yield hold
    finally:
        done.set()
        keeper.join()
        _release(place, owner)


def _refuse(place: Place, other: dict[str, Any] | None) -> None:
    if other:
        raise SpecError(
            f"another process is running the sweep in {place.text} (process {other['pid']} on {other['host']}); wait "
            f"for it or stop it first; after a crash the folder is free within {STALE_SECONDS:g} s"
        )


def _renew(place: Place, owner: str) -> None:
    lease = {"owner": owner, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    place.write(LEASE_FILE, json.dumps(lease).encode())


def _keep(place: Place, owner: str, hold: Hold, done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        try:
            now = _read(place)
            if now and now["owner"] != owner:
                hold.lost(f"process {now['pid']} on {now['host']} took over the sweep in {place.text}")
                return
            if not done.is_set():
                _renew(place, owner)
        except (SpecError, OSError):
            continue  # the sweep handles an unreachable store


def _release(place: Place, owner: str) -> None:
    try:
        now = _read(place)
        if now and now["owner"] == owner:
            place.remove(LEASE_FILE)
    except (SpecError, OSError):
        pass  # the lease expires

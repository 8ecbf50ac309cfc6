"""One driver at a time where no kernel keeps a lock: a small file with owner and time that is renewed while it runs.

An object store has no lock. Who takes the lease writes it, waits and looks whether it is still its own, so of two that
come at once one goes on; whoever finds another's name when it renews stops. Times are those of the drivers' clocks,
which must agree within half a minute.
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
    """A folder that is held. `lost` is called with a sentence when another driver took it over."""

    lost: Callable[[str], None] = field(default=_nothing)


def holder(place: Place) -> dict[str, Any] | None:
    """Return who holds a place: `owner`, `host`, `pid`, `time`; None where nobody does, or has for too long.

    Raises:
        SpecError: The store cannot be reached.
    """
    found = _read(place)
    return found if found and time.time() - found["time"] < STALE_SECONDS else None


def _read(place: Place) -> dict[str, Any] | None:
    try:
        found = json.loads(place.read_text(LEASE_FILE) or "null")
        return {"owner": str(found["owner"]), "host": str(found["host"]), "pid": int(found["pid"]),
                "time": float(found["time"])}  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, SpecError):
            raise
        return None  # no lease, or not one of ours


def outwaited(place: Place, say: Callable[[str], None], stop: Callable[[], str]) -> str:
    """Wait while a place is held, as long as the lease of a driver that was killed lasts; one that lives keeps it.

    Args:
        place: The folder.
        say: Called with a line where there is something to wait for.
        stop: Returns why not to wait any longer; empty where it goes on.

    Returns:
        What `stop` returned; empty where the place is free, or is held by a driver that lives.

    Raises:
        SpecError: The store cannot be reached; a `StorageError` of a place that is `patient`.
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
                    f"free within {STALE_SECONDS:g} s: waiting for that"
                )
        if why := stop():
            return why
        time.sleep(min(0.2, LOOK_SECONDS))
    return ""


@contextmanager
def leased(place: Place) -> Iterator[Hold]:
    """Hold a place for one driver.

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
            continue  # the store is away: the sweep itself notices


def _release(place: Place, owner: str) -> None:
    try:
        now = _read(place)
        if now and now["owner"] == owner:
            place.remove(LEASE_FILE)
    except (SpecError, OSError):
        pass  # it becomes stale

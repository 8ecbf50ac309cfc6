"""Service: the sweeps of many users on one cluster, without the HTTP that leads to it."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from sweeper.client.models import ACTIVE
from sweeper.config.spec import SpecError
from sweeper.service.db.health import Health
from sweeper.service.db.ownership import Ownership
from sweeper.service.db.private import make_private_folder
from sweeper.service.db.sweeps import Catalog, Entry
from sweeper.service.db.tables import DAY_SECONDS, open_database
from sweeper.service.db.users import Users
from sweeper.service.logs import report_failure
from sweeper.service.policy.quotas import holding
from sweeper.service.policy.space_files import SpaceFiles
from sweeper.service.scheduler.housekeeping import Housekeeping
from sweeper.service.scheduler.local_ray import LocalRay
from sweeper.service.scheduler.memory import room
from sweeper.service.scheduler.rebuild import rebuild, record, unlisted
from sweeper.service.scheduler.supervisor import Supervisor
from sweeper.service.views.events import Hub
from sweeper.service.views.outward import Outward
from sweeper.service.views.views import Views
from sweeper.storage.location import is_uri

_log = logging.getLogger("sweeper.service")
FOLDER = ".service"
DATABASE = "service.db"


@dataclass(frozen=True)
class Config:
    """How a service runs.

    Attributes:
        root: Folder or URI under which each sweep has its run folder.
        state: Folder of this machine for what the server needs beside: control files, logs, the SQLite file. None is
            `.service` under a root that is a folder of this machine.
        database: URL; None is a SQLite file in `state`.
        address: Ray cluster; None starts a Ray on this machine when a sweep needs it.
        max_running: Sweeps that run at a time.
        inline_memory: Memory of a sweep of runner inline [bytes]; 0 is no limit, None a share of the machine's.
        data: Folder with the data sets; None takes the root's `data` where there is one.
        spaces: Folder of space files that users may name; None allows none.
        webhooks: URLs that may be told of ends, as prefixes.
        auth: Whether a token is needed.
        rate: Requests a second of one user.
        max_body: Largest request [bytes].
        max_workers: Most trials at a time of one sweep; None is no limit.
        max_connections: Most open connections.
        audit_days: For so long an entry of the audit log is kept.
        rebuild: Whether sweeps that have folders and are not in the database are listed again.
    """

    root: str
    state: Path | None = None
    database: str | None = None
    address: str | None = None
    max_running: int = 4
    inline_memory: int | None = None
    data: str | None = None
    spaces: Path | None = None
    webhooks: tuple[str, ...] = ()
    auth: bool = False
    rate: float = 200.0
    max_body: int = 1 << 20
    max_workers: int | None = None
    max_connections: int = 2048
    audit_days: int = 400
    rebuild: bool = False

    @property
    def folder(self) -> Path:
        """The folder of `state`.

        Raises:
            SpecError: The root is a store, and none is given.
        """
        if self.state:
            return self.state.expanduser().absolute()
        if is_uri(self.root):
            raise SpecError(
                f"--root {self.root.partition('?')[0]} is a store: give a folder of this machine by --state DIR"
            )
        return Path(self.root).expanduser().absolute() / FOLDER

    def run_of(self, sweep: str) -> str:
        """Return the run folder of a sweep."""
        if not is_uri(self.root):
            return str(Path(self.root).expanduser().absolute() / sweep)
        base, mark, query = self.root.partition("?")
        return f"{base.rstrip('/')}/{sweep}{mark}{query}"


class Service:
    """All of a server but its HTTP.

    Args:
        config: How it runs.
        extra: Called with each sweep's row after a change of its state, beside the events.

    Raises:
        SpecError: The folder cannot be written to, another server uses it, or the database cannot be opened, is
            another folder's or has lost its sweeps.
    """

    def __init__(self, config: Config, extra: Callable[[Entry], None] = lambda _: None) -> None:
        self.config, self.extra = config, extra
        self._hold()
        folder = config.folder
        engine = self._opened(folder)
        runs = None if is_uri(config.root) else Path(config.root).expanduser().absolute()
        self.health = Health(engine, folder, runs)
        self.hub = Hub()
        self.catalog = Catalog(engine, told=self._told)
        self.users = Users(engine)
        self.ray = LocalRay(folder, self._on_ray)
        spaces = Path(config.spaces).expanduser().absolute() if config.spaces else None
        self.spaces = SpaceFiles(spaces, folder / "spaces")
        self.views = Views(
            self.catalog, self.hub, config.run_of, lambda: self.supervisor.queue.positions(), Outward.of(config)
        )
        quota = self.users.quota
        self.supervisor = Supervisor(
            self.catalog, self.views, folder, self._address, holding(self.catalog, quota), config.max_running,
            lambda: None if config.address else self.ray.environment(),
            room(config.inline_memory, config.max_running),
        )  # fmt: skip
        self.housekeeping = Housekeeping(
            self.catalog, self.ownership, folder, quota, self.supervisor.stop, config.audit_days * DAY_SECONDS
        )

    def _hold(self) -> None:
        folder = self.config.folder
        try:
            make_private_folder(folder)
            self._lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SpecError(f"another server uses {folder}; stop it, or give another --root or --state") from None
        except OSError as error:
            raise SpecError(f"cannot write to {folder}: {error.strerror or error}") from None

    def _opened(self, folder: Path) -> Engine:
        try:
            engine = open_database(self.config.database or f"sqlite:///{folder / DATABASE}")
            try:
                self.ownership = Ownership(engine, folder)
                self.rebuilt = self._compared(engine, folder)
            except BaseException:
                engine.dispose()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        return engine

    def _compared(self, engine: Engine, folder: Path) -> str:
        """Compare the list of sweeps with their folders; returns what was listed again."""
        catalog = Catalog(engine)
        try:
            if self.config.rebuild:
                return rebuild(folder, catalog, self.config.run_of)
            if lost := unlisted(folder, catalog):
                _log.warning("%d sweeps have folders and are not in the database: --rebuild lists them", len(lost))
            return ""
        except BaseException:
            self.ownership.close()
            raise

    def _address(self) -> str:
        return self.config.address or self.ray.address()

    def _on_ray(self) -> bool:
        return bool(self.catalog.on_ray(ACTIVE))

    def _told(self, entry: Entry) -> None:
        reason = self.views.outward.text(entry.reason)
        self.hub.publish(entry.id, "state", {"state": entry.state, "reason": reason, "owner": entry.owner})
        try:
            record(self.config.folder, entry)
        except OSError as error:
            report_failure("the record of a sweep beside the database", error)
        self.extra(entry)

    def start(self) -> None:
        """Take up what an earlier server left and begin to run what waits."""
        sys.setswitchinterval(1e-3)  # a verdict is computed in a thread: answers must not wait for it
        self.health.start()
        self.supervisor.start()
        self.housekeeping.start()
        self.spaces.start()

    def close(self) -> None:
        """Interrupt the sweeps that run, end the Ray of this machine and let the folder go."""
        self.health.close()
        self.spaces.close()
        self.housekeeping.close()
        self.supervisor.close()
        self.ray.close()
        self.ownership.close()
        self.catalog.engine.dispose()
        os.close(self._lock)

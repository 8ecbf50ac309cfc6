"""Service: the sweeps of many users on one cluster, without HTTP."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from sweeper.client.models import ACTIVE
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.service.config import Config
from sweeper.service.db.health import Health
from sweeper.service.db.ownership import Ownership
from sweeper.service.db.private import make_private_folder
from sweeper.service.db.sweeps import Catalog, Entry
from sweeper.service.db.tables import DAY_SECONDS, open_database
from sweeper.service.db.users import Users
from sweeper.service.logs import report_failure
from sweeper.service.policy.memory import share_memory
from sweeper.service.policy.quotas import hold_exhausted
from sweeper.service.policy.space_files import SpaceFiles
from sweeper.service.scheduler.housekeeping import Housekeeping
from sweeper.service.scheduler.local_ray import LocalRay
from sweeper.service.scheduler.rebuild import find_unlisted, rebuild, store_row
from sweeper.service.scheduler.supervisor import Supervisor
from sweeper.service.views.events import Hub
from sweeper.service.views.models import ModelFolders
from sweeper.service.views.outward import Outward
from sweeper.service.views.views import Views
from sweeper.storage.location import is_uri

_log = logging.getLogger("sweeper.service")
DATABASE = "service.db"


class Service:
    """All parts of a server except HTTP.

    Args:
        config: The settings.
        extra: Called with a sweep's row after each change of its state.

    Raises:
        SpecError: The state folder is not writable or in use, or the database cannot be opened, belongs to another
            folder or has lost its sweeps.
    """

    def __init__(self, config: Config, extra: Callable[[Entry], None] = lambda _: None) -> None:
        self.config, self.extra = config, extra
        self._lock_folder()
        folder = config.folder
        engine = self._open_database(folder)
        runs = None if is_uri(config.root) else Path(config.root).expanduser().absolute()
        self.health = Health(engine, folder, runs)
        self.hub = Hub()
        self.catalog = Catalog(engine, on_change=self._publish)
        self.users = Users(engine)
        self.ray = LocalRay(folder, self._on_ray)
        spaces = Path(config.spaces).expanduser().absolute() if config.spaces else None
        self.spaces = SpaceFiles(spaces, folder / "spaces")
        self.views = Views(
            self.catalog, self.hub, config.run_of, lambda: self.supervisor.queue.positions(), Outward.of(config)
        )
        quota = self.users.quota
        room = share_memory(config.inline_memory, config.max_running)
        self.models = ModelFolders(self.views, room.each)
        self.supervisor = Supervisor(
            self.catalog, self.views, folder, self._address, hold_exhausted(self.catalog, quota), config.max_running,
            lambda: None if config.address else self.ray.environment(),
            room,
        )  # fmt: skip
        self.housekeeping = Housekeeping(
            self.catalog, self.ownership, folder, quota, self.supervisor.stop, config.audit_days * DAY_SECONDS
        )

    def _lock_folder(self) -> None:
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

    def _open_database(self, folder: Path) -> Engine:
        try:
            engine = open_database(self.config.database or f"sqlite:///{folder / DATABASE}")
            try:
                self.ownership = Ownership(engine, folder)
                self.rebuilt = self._compare_folders(engine, folder)
            except BaseException:
                engine.dispose()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        return engine

    def _compare_folders(self, engine: Engine, folder: Path) -> str:
        """Compare the database with the sweeps' folders; returns a sentence about rebuilt rows."""
        catalog = Catalog(engine)
        try:
            if self.config.rebuild:
                return rebuild(folder, catalog, self.config.run_of)
            if lost := find_unlisted(folder, catalog):
                found = pluralize(len(lost), "sweep has a folder but is", "sweeps have folders but are")
                _log.warning("%s not in the database: --rebuild lists them", found)
            return ""
        except BaseException:
            self.ownership.close()
            raise

    def _address(self) -> str:
        return self.config.address or self.ray.address()

    def _on_ray(self) -> bool:
        return bool(self.catalog.on_ray(ACTIVE))

    def _publish(self, entry: Entry) -> None:
        reason = self.views.outward.text(entry.reason)
        self.hub.publish(entry.id, "state", {"state": entry.state, "reason": reason, "owner": entry.owner})
        try:
            store_row(self.config.folder, entry)
        except OSError as error:
            report_failure("the copy of a sweep's row in its folder", error)
        self.extra(entry)

    def start(self) -> None:
        """Continue the work of an earlier server and start to run waiting sweeps."""
        sys.setswitchinterval(1e-3)  # requests must not wait for analyses in other threads
        self.health.start()
        self.supervisor.start()
        self.housekeeping.start()
        self.spaces.start()

    def close(self) -> None:
        """Interrupt the running sweeps, end the Ray of this machine and release the state folder."""
        self.health.close()
        self.spaces.close()
        self.housekeeping.close()
        self.supervisor.close()
        self.ray.close()
        self.ownership.close()
        self.catalog.engine.dispose()
        os.close(self._lock)

"""Configuration of a service: folders, database, Ray, limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import SpecError
from sweeper.storage.location import is_uri

FOLDER = ".service"


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

"""Configuration of a service: folders, database, Ray, limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import SpecError
from sweeper.storage.location import is_uri

FOLDER = ".service"


@dataclass(frozen=True)
class Config:
    """Settings of a service.

    Attributes:
        root: Folder or URI that holds the run folders.
        state: Local folder for control files, logs and the SQLite file. None is `.service` under the root, if the root
            is a local folder.
        database: URL; None is a SQLite file in `state`.
        address: Ray cluster; None starts a Ray on this machine when a sweep needs it.
        max_running: Sweeps that may run at a time.
        inline_memory: Memory of an inline sweep [bytes]; 0 is no limit, None a share of the machine's.
        data: Folder with the data sets; None is `data` under the root, if it exists.
        spaces: Folder of space files that users may name; None allows none.
        webhooks: Prefixes of URLs to which webhooks may be sent.
        auth: Whether requests need a token.
        rate: Requests per second of one user.
        max_body: Largest request body [bytes].
        max_workers: Parallel trials of one sweep; None is no limit.
        max_connections: Open connections.
        audit_days: Days after which entries of the audit log are deleted.
        rebuild: Whether to list sweeps again that have folders but are not in the database.
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
        """The state folder.

        Raises:
            SpecError: The root is a store, and `state` is not set.
        """
        if self.state:
            return self.state.expanduser().absolute()
        if is_uri(self.root):
            raise SpecError(f"--root {self.root.partition('?')[0]} is a store: give a local folder by --state DIR")
        return Path(self.root).expanduser().absolute() / FOLDER

    def run_of(self, sweep: str) -> str:
        """Return the run folder of a sweep."""
        if not is_uri(self.root):
            return str(Path(self.root).expanduser().absolute() / sweep)
        base, mark, query = self.root.partition("?")
        return f"{base.rstrip('/')}/{sweep}{mark}{query}"

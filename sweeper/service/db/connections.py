"""Connections to the database: every wait has a deadline, and a removed file is never silently created again.

If the host of a PostgreSQL stops, its connections stay open and never answer. No server setting helps, so the client
keeps the deadline. After the first timeout, other requests fail at once until one gets an answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from sweeper.service.db.private import make_private_file

CONNECT_SECONDS = 3
STATEMENT_SECONDS, SHORT_SECONDS = 10.0, 3.0
"""Deadlines of a statement: normally, and after the database missed one."""
OPENING_SECONDS = 600.0
"""Deadline of a statement that creates or upgrades tables."""
POOL_SECONDS = 5.0
AGAIN_SECONDS = 1.0
LOCKED_SECONDS = 10.0
_ALIVE = {
    "connect_timeout": CONNECT_SECONDS, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5,
    "keepalives_count": 3, "tcp_user_timeout": 15_000, "application_name": "sweeper",
}  # fmt: skip
_LINK = "sweeper_link"
_SILENT = "the database did not answer a moment ago; try again in a few seconds"


class LostError(OperationalError):
    """The database file or the state folder was removed or replaced while the service ran.

    Args:
        why: The message for users.
    """

    def __init__(self, why: str) -> None:
        super().__init__(None, None, Exception(why))
        self.why = why

    def __str__(self) -> str:
        return self.why


class Link:
    """State that all connections of one engine share: whether the database is silent, or lost.

    Attributes:
        seconds: Deadline of a statement.
    """

    def __init__(self) -> None:
        self.seconds = OPENING_SECONDS
        self._lock = threading.Lock()
        self._silent_until = 0.0
        self._silent = False
        self._watched: dict[Path, tuple[str, tuple[int, int]]] = {}

    # -- silence ------------------------------------------------------------------------------------------------------

    @property
    def silent(self) -> bool:
        """Whether the last wait for the database timed out."""
        return self._silent

    def admit(self) -> bool:
        """Whether a request may use the database now; a silent database gets one attempt at a time."""
        with self._lock:
            now = time.monotonic()
            if self._silent and now < self._silent_until:
                return False
            if self._silent:
                self._silent_until = now + CONNECT_SECONDS + AGAIN_SECONDS
            return True

    def note_silence(self) -> None:
        """Record that the database missed a deadline."""
        with self._lock:
            self._silent, self._silent_until = True, time.monotonic() + AGAIN_SECONDS

    def note_answer(self) -> None:
        """Record that the database answered."""
        self._silent = False

    # -- loss ---------------------------------------------------------------------------------------------------------

    def watch(self, path: Path, name: str) -> None:
        """Detect from now on that a file or folder is removed or replaced."""
        self._watched[path] = name, _inode(path)

    def find_loss(self) -> str:
        """Return a sentence about what was removed or replaced, without its path; empty if nothing was."""
        for path, (name, inode) in self._watched.items():
            try:
                same = _inode(path) == inode
            except OSError as error:
                return f"{name} was removed while the service ran ({error.strerror}): an admin must stop the service"
            if not same:
                return f"{name} was replaced while the service ran: an admin must stop the service"
        return ""

    def check(self, *_: Any) -> None:
        """Check that no watched file or folder was removed or replaced.

        Raises:
            LostError: One was.
        """
        if why := self.find_loss():
            raise LostError(why)


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def create_service_engine(url: str) -> Engine:
    """Return the engine of a database without connecting to it.

    Raises:
        OSError: A SQLite file cannot be created.
        SpecError: Other users can read the SQLite file, and this account cannot change that.
    """
    link = Link()
    pool: dict[str, Any] = {"pool_size": 5, "max_overflow": 15, "pool_timeout": POOL_SECONDS, "pool_pre_ping": True}
    engine = create_engine(_with_driver(url), **pool, execution_options={_LINK: link})
    if engine.dialect.name == "sqlite":
        if (file := make_url(url).database) and not file.startswith((":", "file:")):
            make_private_file(Path(file))
            link.watch(Path(file).absolute(), "the service's database file")
        event.listen(engine, "connect", _tune)
        event.listen(engine, "do_connect", lambda *_: link.check())
    elif engine.dialect.driver == "psycopg":
        event.listen(engine, "do_connect", lambda _d, _r, args, options: connect(link, *args, **options))
    event.listen(engine, "checkout", link.check)
    return engine


def finish_opening(engine: Engine) -> None:
    """Set the deadline of normal statements, now that the tables are up to date."""
    link_of(engine).seconds = STATEMENT_SECONDS
    engine.dispose()  # new connections send the deadline to the server


def link_of(engine: Engine) -> Link:
    """Return the state that the connections of an engine share."""
    return engine.get_execution_options()[_LINK]


def connect(link: Link, *args: Any, check: bool = False, **options: Any) -> Any:
    """Return a new connection to PostgreSQL with a deadline for every wait.

    Args:
        link: The engine's shared state.
        args: Arguments of `psycopg.connect`.
        check: Whether this is a health check, which may use a silent database.
        options: Options of `psycopg.connect`.

    Raises:
        psycopg.OperationalError: The database does not answer, or did not a moment ago.
    """
    from psycopg import OperationalError
    from psycopg.errors import ConnectionTimeout

    if not check and not link.admit():
        raise OperationalError(_SILENT)
    try:
        connection = _connection_class().connect(*args, **{**_ALIVE, **options})
    except ConnectionTimeout:
        link.note_silence()
        raise
    connection.link, connection.check = link, check
    try:
        # the server, too, ends statements for which the client no longer waits
        connection.execute(f"SET statement_timeout = {round(2000 * link.seconds)}".encode())
        connection.execute(b"SET idle_in_transaction_session_timeout = 60000")
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


@cache
def _connection_class() -> Any:
    import psycopg

    class Connection(psycopg.Connection[Any]):
        link: Link
        check: bool

        def wait(self, gen: Any, *more: Any, **options: Any) -> Any:
            if not self.check and not self.link.admit():
                self.close()
                raise psycopg.OperationalError(_SILENT)
            try:
                result = super().wait(_limit_wait(gen, self.link, self.check), *more, **options)
            except TimeoutError as error:
                self.link.note_silence()
                self.close()
                raise psycopg.OperationalError(str(error)) from None
            self.link.note_answer()
            return result

    return Connection


def _limit_wait(gen: Generator[Any, Any, Any], link: Link, check: bool) -> Generator[Any, Any, Any]:
    """Yield what psycopg waits for, and raise `TimeoutError` after the deadline."""
    began, ready = time.monotonic(), None
    while True:
        try:
            state = gen.send(ready)
        except StopIteration as end:
            return end.value
        ready = yield state
        deadline = SHORT_SECONDS if check or link.silent else link.seconds
        if not ready and time.monotonic() - began > deadline:
            raise TimeoutError(f"the database did not answer within {deadline:g} s")


def _with_driver(url: str) -> str:
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def _tune(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    busy = f"busy_timeout={round(1000 * LOCKED_SECONDS)}"
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", busy):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()

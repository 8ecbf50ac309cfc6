"""Connections to the database: each wait has a deadline, and a file that was removed is not silently made anew.

A PostgreSQL whose host stops keeps its connections open and answers nothing. No setting of the server helps then, so
the client counts the seconds. After the first one that waited in vain the others fail at once until one gets through.
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
"""A statement may take so long; the shorter time counts once the database is known to be silent."""
OPENING_SECONDS = 600.0
"""So long a statement may take while the tables are made or upgraded."""
POOL_SECONDS = 5.0
AGAIN_SECONDS = 1.0
LOCKED_SECONDS = 10.0
_ALIVE = {
    "connect_timeout": CONNECT_SECONDS, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5,
    "keepalives_count": 3, "tcp_user_timeout": 15_000, "application_name": "sweeper",
}  # fmt: skip
_LINK = "sweeper_link"
_SILENT = "the database did not answer a moment ago"


class LostError(OperationalError):
    """What the service keeps its state in was removed or replaced while it ran.

    Args:
        why: The sentence for people.
    """

    def __init__(self, why: str) -> None:
        super().__init__(None, None, Exception(why))
        self.why = why

    def __str__(self) -> str:
        return self.why


class Link:
    """What the connections of one engine know together.

    Attributes:
        seconds: Longest time of a statement.
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
        """Whether the last one that waited for the database waited in vain."""
        return self._silent

    def admit(self) -> bool:
        """Whether one may ask the database now; where it is silent, one may each second."""
        with self._lock:
            now = time.monotonic()
            if self._silent and now < self._silent_until:
                return False
            if self._silent:
                self._silent_until = now + CONNECT_SECONDS + AGAIN_SECONDS
            return True

    def failed(self) -> None:
        """Note that the database was silent."""
        with self._lock:
            self._silent, self._silent_until = True, time.monotonic() + AGAIN_SECONDS

    def answered(self) -> None:
        """Note that the database answers."""
        self._silent = False

    # -- loss ---------------------------------------------------------------------------------------------------------

    def watch(self, path: Path, name: str) -> None:
        """Notice from now on when a file or folder is removed or replaced."""
        self._watched[path] = name, _mark(path)

    def lost(self) -> str:
        """Return what was removed or replaced, as a sentence without a path; empty where all is as it was."""
        for path, (name, mark) in self._watched.items():
            try:
                same = _mark(path) == mark
            except OSError as error:
                return f"{name} was removed while the service ran ({error.strerror}): an admin must stop the service"
            if not same:
                return f"{name} was replaced while the service ran: an admin must stop the service"
        return ""

    def check(self, *_: Any) -> None:
        """Refuse to go on where something was lost.

        Raises:
            LostError: It was.
        """
        if why := self.lost():
            raise LostError(why)


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def engine_of(url: str) -> Engine:
    """Return the engine of a database; nothing is asked of it yet.

    Raises:
        OSError: A SQLite file cannot be made.
        SpecError: Others may read the SQLite file, and this account cannot change that.
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
        event.listen(engine, "do_connect", lambda _d, _r, args, given: connect(link, *args, **given))
    event.listen(engine, "checkout", link.check)
    return engine


def finish_opening(engine: Engine) -> None:
    """Give statements the deadline of daily work, now that the tables are as they must be."""
    link_of(engine).seconds = STATEMENT_SECONDS
    engine.dispose()  # those that follow tell the server so


def link_of(engine: Engine) -> Link:
    """Return what the connections of an engine know together."""
    return engine.get_execution_options()[_LINK]


def connect(link: Link, *args: Any, check: bool = False, **given: Any) -> Any:
    """Return a new connection to PostgreSQL whose every wait has a deadline.

    Args:
        link: Of its engine.
        args: As `psycopg.connect` takes them.
        check: Whether it only looks if the database answers, and so need not be admitted.
        given: As `psycopg.connect` takes them.

    Raises:
        psycopg.OperationalError: The database does not answer, or did not a moment ago.
    """
    from psycopg import OperationalError
    from psycopg.errors import ConnectionTimeout

    if not check and not link.admit():
        raise OperationalError(_SILENT)
    try:
        made = _connection_class().connect(*args, **{**_ALIVE, **given})
    except ConnectionTimeout:
        link.failed()
        raise
    made.link, made.check = link, check
    try:
        # what the client no longer waits for ends in the server, too
        made.execute(f"SET statement_timeout = {round(2000 * link.seconds)}".encode())
        made.execute(b"SET idle_in_transaction_session_timeout = 60000")
        made.commit()
    except BaseException:
        made.close()
        raise
    return made


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
                found = super().wait(_bounded(gen, self.link, self.check), *more, **options)
            except TimeoutError as error:
                self.link.failed()
                self.close()
                raise psycopg.OperationalError(str(error)) from None
            self.link.answered()
            return found

    return Connection


def _bounded(gen: Generator[Any, Any, Any], link: Link, check: bool) -> Generator[Any, Any, Any]:
    """Yield what psycopg waits for, and end the wait where it takes too long."""
    began, ready = time.monotonic(), None
    while True:
        try:
            state = gen.send(ready)
        except StopIteration as end:
            return end.value
        ready = yield state
        most = SHORT_SECONDS if check or link.silent else link.seconds
        if not ready and time.monotonic() - began > most:
            raise TimeoutError(f"the database did not answer within {most:g} s")


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

"""The service's tests run on SQLite, and those with a database on PostgreSQL, too."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from sweeper.service.db.sweeps import Catalog
from sweeper.service.db.tables import open_database
from sweeper.service.logs import LOGGERS
from tests.support.clock import Clock
from tests.support.databases import POSTGRES, dispose, new_database
from tests.support.waiting import until

ON_BOTH = (
    "api.test_sweeps",
    "api.test_authorisation",
    "api.test_events",
    "db.test_ownership",
    "db.test_sweeps",
    "db.test_users",
    "policy.test_quotas",
    "scheduler.test_endings",
    "scheduler.test_supervisor_states",
    "scheduler.test_waiting",
    "test_webhooks",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.partition(".service.")[2] in ON_BOTH:
        metafunc.fixturenames.append("database")
        kinds = ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)]
        metafunc.parametrize("database", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module")
def database(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let `new_database` make databases of the kind that is asked for."""
    if request.param == "sqlite":
        yield
        dispose()
        return
    before = POSTGRES.set(request.getfixturevalue("postgres"))
    yield
    dispose()
    POSTGRES.reset(before)


@pytest.fixture(autouse=True)
def all_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every record of the log written, also where an earlier test served and held back repeated ones."""
    for name in LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "filters", [])


@pytest.fixture
def url(database: None, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    return new_database(tmp_path)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Yield a new database of the service."""
    found = open_database(url)
    yield found
    found.dispose()


@pytest.fixture
def clock() -> Clock:
    """Return the catalog's clock."""
    return Clock()


@pytest.fixture
def catalog(engine: Engine, clock: Clock) -> Catalog:
    """Return an empty catalog."""
    return Catalog(engine, clock)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Address of a service that runs sweeps in processes."""
    import uvicorn

    from sweeper.service.api.app import make_api
    from sweeper.service.config import Config
    from sweeper.service.service import Service

    service = Service(Config(root=str(tmp_path)))
    service.start()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_api(service), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()
    service.close()

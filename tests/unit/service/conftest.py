"""The service's tests run on SQLite, and those with a database on PostgreSQL, too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from sweeper.service.db.sweeps import Catalog
from sweeper.service.db.tables import DAY_SECONDS, open_database
from sweeper.service.logs import LOGGERS
from tests.databases import POSTGRES, dispose, new_database

_BOTH = ("api", "authorisation", "catalog", "events", "ownership", "supervisor_states", "usage", "users", "webhooks")
ON_BOTH = tuple(f"test_{name}" for name in _BOTH)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        metafunc.fixturenames.append("database")
        marks = (pytest.mark.service, pytest.mark.xdist_group("postgresql"))  # one server for all of them
        kinds = ["sqlite", pytest.param("postgresql", marks=marks)]
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


class Clock:
    """A clock that is set by hand; it starts at noon."""

    def __init__(self) -> None:
        self.now = 1000.5 * DAY_SECONDS

    def __call__(self) -> float:
        return self.now


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

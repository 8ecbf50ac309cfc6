"""The service's tests run on SQLite, and those with a database on PostgreSQL, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import POSTGRES, dispose

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

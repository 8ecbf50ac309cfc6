"""A database is one state folder's, and one server's at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, text

from sweeper.errors import SpecError
from sweeper.service.db.ownership import FILE, Ownership, TakenError, read_identity
from sweeper.service.db.tables import meta, open_database
from tests.support.databases import new_database


@pytest.fixture
def engine(database: None, tmp_path: Path) -> Iterator[Engine]:
    found = open_database(new_database(tmp_path))
    yield found
    found.dispose()


@pytest.fixture
def own(engine: Engine, tmp_path: Path) -> Iterator[Callable[[str], Ownership]]:
    made: list[Ownership] = []

    def owned(name: str) -> Ownership:
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(Ownership(engine, tmp_path / name, lambda _: None))
        return made[-1]

    yield owned
    for ownership in made:
        ownership.close()


def test_a_folder_keeps_its_id(tmp_path: Path) -> None:
    first = read_identity(tmp_path)
    assert read_identity(tmp_path) == first
    (tmp_path / FILE).write_text("")  # the disk was full
    assert read_identity(tmp_path) != first


def test_another_folder_is_refused_with_the_way_out(own: Callable[[str], Ownership], tmp_path: Path) -> None:
    own("a").close()
    with pytest.raises(SpecError, match=r"belongs to the state folder .*/a on ") as error:
        own("b")
    assert "\n" not in str(error.value)
    own("a").close()
    # the way out of the sentence
    (tmp_path / "b" / FILE).write_text(read_identity(tmp_path / "a"))
    own("b").close()


def test_a_folder_that_was_moved_is_the_same(own: Callable[[str], Ownership], tmp_path: Path) -> None:
    own("a").close()
    (tmp_path / "a").rename(tmp_path / "moved")
    own("moved").close()
    with pytest.raises(SpecError, match=r"the state folder .*/moved on "):
        own("b")


def test_a_database_without_an_owner_is_its_next_servers(own: Callable[[str], Ownership], engine: Engine) -> None:
    own("a").close()
    with engine.begin() as connection:
        connection.execute(delete(meta).where(meta.c.key != "version"))
    own("b").close()
    with pytest.raises(SpecError, match="belongs to the state folder"):
        own("a")


def test_a_server_excludes_others_of_its_folder_and_of_copies(own: Callable[[str], Ownership], engine: Engine) -> None:
    first = own("a")
    with pytest.raises(TakenError, match="another server uses the database"):
        own("a")
    first.renew()
    if engine.dialect.name == "postgresql":  # the connection is lost, and nobody came
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                     " AND pid <> pg_backend_pid()")
            )  # fmt: skip
        first.renew()
        with pytest.raises(TakenError, match="another server uses the database"):
            own("a")
    first.close()
    own("a")
    with pytest.raises(TakenError, match="another server uses the database"):
        first.renew()

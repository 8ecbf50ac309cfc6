"""What belongs to the server's account alone, also where an earlier version made it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.errors import SpecError
from sweeper.service.db.private import make_private_folder
from sweeper.service.db.tables import open_database
from tests.support.real_service import make_real


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o7777)


def test_what_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    state = tmp_path / "root" / ".service"
    control = state / "sweeps" / "a"
    control.mkdir(parents=True)
    database = tmp_path / "elsewhere" / "service.db"
    database.parent.mkdir()
    open_database(f"sqlite:///{database}").dispose()
    for path, wide in ((state, 0o755), (control.parent, 0o775), (control, 0o777), (database, 0o644)):
        path.chmod(wide)
    lock = database.with_name("service.db.lock")
    lock.touch(0o666)
    served = make_real(tmp_path / "root", database=f"sqlite:///{database}")
    try:
        assert {mode(p) for p in (state, control.parent, control)} == {"0o700"}
        with served.catalog.engine.connect():
            beside = sorted(database.parent.iterdir())
            assert {p.name: mode(p) for p in beside} == {p.name: "0o600" for p in beside}
            assert database.with_name("service.db-wal") in beside
        assert mode(database.parent) == oct(0o777 & ~_umask())  # it may hold other things
    finally:
        served.close()


def test_new_ones_are_closed_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        assert main(["token", "create", "anna", "--role", "admin"]) == 0
    finally:
        os.umask(before)
    assert mode(tmp_path / "sweeps" / ".service") == "0o700"
    assert mode(tmp_path / "sweeps" / ".service" / "service.db") == "0o600"


def test_a_folder_of_all_users_is_refused_and_left_alone(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(SpecError, match=r"all users can write to .*: give the server a private folder"):
        make_private_folder(shared)
    assert mode(shared) == "0o1777"


def test_what_cannot_be_closed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o755)

    def refused(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(SpecError, match=r"other users can read .*state, and this account cannot change that"):
        make_private_folder(tmp_path / "state")


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found

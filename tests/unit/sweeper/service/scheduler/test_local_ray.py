"""The Ray of a service on this machine, with a script in place of Ray: started, found again, replaced, ended."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sweeper.errors import SpecError
from sweeper.service.scheduler import local_ray
from sweeper.service.scheduler.local_ray import LocalRay
from tests.support.waiting import PATIENCE, until

WORKS = "echo Ray runtime started; exec sleep 60"


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LocalRay]]:
    """Make a Ray of this machine that a script starts."""
    made: list[LocalRay] = []
    monkeypatch.setattr(local_ray.own_ray, "make_folder", lambda: tempfile.mkdtemp(prefix="sweeper-ray-", dir=tmp_path))
    monkeypatch.setattr(local_ray, "sys", SimpleNamespace(executable=str(tmp_path / "python")))
    monkeypatch.setattr(local_ray, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(local_ray.own_ray, "check_closed", lambda *_: None)

    def make(script: str = WORKS, used: bool = False) -> LocalRay:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "python").chmod(0o755)
        made.append(LocalRay(tmp_path, lambda: used))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(local_ray, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def pid(one: LocalRay) -> int:
    return json.loads(one.file.read_text())["pid"]


def listening(address: str) -> socket.socket:
    return socket.create_server(("127.0.0.1", int(address.rpartition(":")[2])))


def test_ray_is_started_adopted_and_ended(ray: Callable[..., LocalRay], tmp_path: Path) -> None:
    first = ray()
    address = first.address()
    with listening(address):
        assert first.address() == ray().address() == address
    number, token = pid(first), first.token
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) >= 32
    assert token.read_text() not in " ".join(psutil.Process(number).cmdline())
    assert len(list(tmp_path.glob("sweeper-ray-*"))) == 1
    first.close()
    assert not psutil.pid_exists(number)
    assert not list(tmp_path.glob("sweeper-ray-*"))
    assert not token.exists()
    with pytest.raises(SpecError, match="the service is stopping"):
        first.address()


def test_its_sweeps_join_with_its_token_and_no_other(
    ray: Callable[..., LocalRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-cluster's")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    one = ray("env; echo Ray runtime started; exec sleep 60")
    one.address()
    ours = one.environment()
    assert "RAY_AUTH_TOKEN" not in ours
    assert (ours["RAY_AUTH_MODE"], ours["RAY_AUTH_TOKEN_PATH"]) == ("token", str(one.token))
    assert ours["PATH"]
    started = dict(line.split("=", 1) for line in one.log.read_text().splitlines() if "=" in line)
    assert "RAY_AUTH_TOKEN" not in started
    assert started["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == ours["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert started["RAY_AUTH_TOKEN_PATH"] == str(one.token)


@pytest.mark.parametrize("closed", [None, False])
def test_one_of_an_earlier_version_gets_no_new_sweep_and_is_replaced_after_its_last_one(
    ray: Callable[..., LocalRay], closed: bool | None
) -> None:
    one = ray(used=True)
    address = one.address()
    noted = {k: v for k, v in json.loads(one.file.read_text()).items() if k in ("pid", "created", "address")}
    one.file.write_text(json.dumps(noted if closed is None else {**noted, "closed": closed}))
    number = noted["pid"]
    with listening(address):
        with pytest.raises(
            SpecError, match=f"an earlier version started the Ray at {address}, and other users can use it"
        ):
            one.address()
        assert psutil.pid_exists(number)
        assert pid(one) == number
        later = ray()  # a server whose sweeps have ended
        assert later.address() != address
    assert not psutil.pid_exists(number)
    assert pid(later) != number


def test_one_that_others_could_use_is_ended(ray: Callable[..., LocalRay], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def refuse(address: str, processes: list[psutil.Process]) -> None:
        seen.extend(process.pid for process in processes)
        raise SpecError(f"the Ray at {address} lets in a client without its token: others could use it")

    monkeypatch.setattr(local_ray.own_ray, "check_closed", refuse)
    one = ray()
    with pytest.raises(SpecError, match="lets in a client without its token"):
        one.address()
    assert len(seen) == 1
    assert not psutil.pid_exists(seen[0])
    assert not one.file.exists()


@pytest.mark.parametrize("used", [False, True])
def test_one_that_is_silent_is_replaced_only_where_no_sweep_needs_it(
    ray: Callable[..., LocalRay], clock: SimpleNamespace, used: bool
) -> None:
    one = ray(used=used)
    address = one.address()
    number = pid(one)
    for seconds in (0, 20, 9):  # three looks are too few within so short a time
        clock.now += seconds
        with pytest.raises(SpecError, match=f"runs but does not answer at {address}"):
            one.address()
    with listening(address):
        assert one.address() == address  # from here on they count anew
    for seconds in (0, 31):
        clock.now += seconds
        with pytest.raises(SpecError, match="does not answer"):
            one.address()
    if used:
        with pytest.raises(SpecError, match="does not answer"):
            one.address()
        assert pid(one) == number
        assert psutil.pid_exists(number)
    else:
        assert one.address() != address
        assert pid(one) != number
        assert not psutil.pid_exists(number)


def test_one_whose_process_is_gone_is_replaced(ray: Callable[..., LocalRay]) -> None:
    one = ray(used=True)
    address = one.address()
    folder = Path(json.loads(one.file.read_text())["folder"])
    psutil.Process(pid(one)).kill()
    until(lambda: psutil.Process(pid(one)).status() == psutil.STATUS_ZOMBIE)
    assert one.address() != address
    assert not folder.exists()


def test_what_a_start_that_fails_leaves_is_ended(ray: Callable[..., LocalRay], tmp_path: Path) -> None:
    one = ray(f"sleep 60 & echo $! > {tmp_path / 'child'}; echo no space left; exit 1")
    with pytest.raises(SpecError, match="Ray did not start on this machine: no space left"):
        one.address()
    assert not list(tmp_path.glob("sweeper-ray-*"))
    child = int((tmp_path / "child").read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_service_that_ends_does_not_wait_for_a_start(ray: Callable[..., LocalRay]) -> None:
    one = ray("exec sleep 60")
    said: list[str] = []

    def start() -> None:
        try:
            one.address()
        except SpecError as error:
            said.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    until(one.file.exists)
    number = pid(one)
    one.close()
    thread.join(PATIENCE)
    assert said == ["the service is stopping"]
    assert not psutil.pid_exists(number)

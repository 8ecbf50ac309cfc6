"""The Ray of a service on this machine, with a script in place of `ray`: started, found again, replaced, ended."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sweeper.service import local_ray
from sweeper.service.local_ray import LocalRay
from sweeper.spec import SpecError

WORKS = "echo Ray runtime started; exec sleep 60"


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LocalRay]]:
    """Make a Ray of this machine that a script starts."""
    made: list[LocalRay] = []
    monkeypatch.setattr(local_ray.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(local_ray, "sys", SimpleNamespace(executable=str(tmp_path / "python")))
    monkeypatch.setattr(local_ray, "POLL_SECONDS", 0.02)

    def make(script: str = WORKS, used: bool = False) -> LocalRay:
        (tmp_path / "ray").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ray").chmod(0o755)
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


def test_it_is_started_found_again_and_ended(ray: Callable[..., LocalRay]) -> None:
    first = ray()
    address = first.address()
    with listening(address):
        assert first.address() == ray().address() == address
    number = pid(first)
    first.close()
    assert not psutil.pid_exists(number)
    with pytest.raises(SpecError, match="the service is ending"):
        first.address()


@pytest.mark.parametrize("used", [False, True])
def test_one_that_is_silent_is_replaced_only_where_no_sweep_needs_it(
    ray: Callable[..., LocalRay], clock: SimpleNamespace, used: bool
) -> None:
    one = ray(used=used)
    address = one.address()
    number = pid(one)
    for seconds in (0, 20, 9):  # three looks are too few within so short a time
        clock.now += seconds
        with pytest.raises(SpecError, match=f"runs and does not answer at {address}"):
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
    psutil.Process(pid(one)).kill()
    while psutil.Process(pid(one)).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert one.address() != address


def test_what_a_start_that_fails_leaves_is_ended(ray: Callable[..., LocalRay], tmp_path: Path) -> None:
    one = ray(f"sleep 60 & echo $! > {tmp_path / 'child'}; echo no space left; exit 1")
    with pytest.raises(SpecError, match="Ray did not start on this machine: no space left"):
        one.address()
    assert not list(tmp_path.glob("sweeper-ray-*"))
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    while not one.file.exists():
        time.sleep(0.01)
    number = pid(one)
    one.close()
    thread.join(10)
    assert said == ["the service is ending"]
    assert not psutil.pid_exists(number)

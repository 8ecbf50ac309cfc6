"""A machine that is short of descriptors: sweeps wait with the reason, and none is failed."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeper.client.models import State, SweepRecord
from sweeper.errors import SpecError, shortage
from sweeper.net import MOST_DESCRIPTORS, raise_limit
from sweeper.service.api.problems import of_error
from sweeper.service.scheduler import shortage as module
from sweeper.service.scheduler.process import Control
from tests.support.databases import opened
from tests.support.supervisor_rig import Rig


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path, opened(tmp_path))
    monkeypatch.setattr(Control, "start", lambda control, task, spec, env: made.start(control, task, spec))
    yield made
    for sweep in list(made.locks):
        made.ends(sweep)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC])
def test_a_sweep_waits_while_its_process_cannot_be_started(
    rig: Rig, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    first, second = rig.send(), rig.send()
    asked = rig.catalog.get(first)
    tries: list[str] = []

    def short(control: Control, *_: object) -> None:
        tries.append(control.folder.name)
        raise OSError(number, "short")

    with monkeypatch.context() as during:
        during.setattr(Control, "start", short)
        for _ in range(5):
            rig.supervisor.tick()
        assert tries == [first]  # it is not tried at each look, and the next one would not be started either
        found = rig.catalog.get(first)
        assert (found.state, found.queued, found.started) == (State.QUEUED, asked.queued, None)
        assert {rig.catalog.get(s).reason for s in (first, second)} == {found.reason}
        assert found.reason.startswith("waiting to try again: the ")
        clock.now += module.PAUSE_SECONDS
        rig.supervisor.tick()
        assert tries == [first, first]
    clock.now += module.PAUSE_SECONDS
    for sweep in (first, second):
        assert rig.until(sweep, State.STARTING).reason == "its turn"
    told = [r.getMessage() for r in caplog.records]
    assert [text.startswith("sweeps wait, next try in 10 s: the ") for text in told] == [True] * 2
    rig.ends(first, "done", "all run")
    assert rig.until(first, State.DONE).deaths == 0


def test_a_folder_that_cannot_be_opened_now_is_no_death(
    rig: Rig, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = rig.send()
    rig.until(sweep, State.STARTING)
    rig.views.trials = 3
    rig.ends(sweep)
    conclude = rig.views.conclude

    def short(_: object) -> SweepRecord:
        raise SpecError("cannot read it") from OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(rig.views, "conclude", short)
    for _ in range(3):
        rig.supervisor.tick()
    assert [h.cause for h in rig.catalog.history(sweep)] == ["sent", "its turn"]
    monkeypatch.setattr(rig.views, "conclude", conclude)
    clock.now += module.PAUSE_SECONDS
    rig.supervisor.tick()
    assert [h.cause for h in rig.catalog.history(sweep)][2:] == ["process died; restarting", "its turn"]
    assert rig.catalog.get(sweep).deaths == 1


def test_what_is_a_shortage() -> None:
    def caused(outer: Exception, inner: Exception) -> Exception:
        try:
            try:
                raise inner
            except Exception:
                raise outer from None
        except Exception as error:
            return error

    assert "the service has no file descriptor left" in shortage(OSError(errno.EMFILE, ""))
    assert "the machine has no memory left" in shortage(caused(SpecError("x"), OSError(errno.ENOMEM, "")))
    # a lock that somebody holds is none
    assert shortage(caused(SpecError("x"), BlockingIOError(errno.EAGAIN, ""))) == ""
    assert shortage(OSError(errno.ENOENT, "")) == shortage(ValueError()) == shortage(None) == ""


def test_a_refused_request_says_when_to_retry() -> None:
    answer = of_error(OSError(errno.EMFILE, "Too many open files"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_the_limit_is_raised_as_far_as_it_may() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = min(before[1], MOST_DESCRIPTORS) if before[1] != resource.RLIM_INFINITY else MOST_DESCRIPTORS
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), before[1]))
        assert raise_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, before[1])
        assert raise_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

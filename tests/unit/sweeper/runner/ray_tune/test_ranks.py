"""The processes of a trial's children without Ray: a call that fails is noticed whatever the others wait for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

from sweeper.runner.jobs import WorkerLost
from sweeper.runner.ray_tune import ranks
from sweeper.runner.ray_tune.ranks import RankProcess, RankProcesses, find_cause
from trainables.runtime import Runtime


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("live", "traceback", error)


def test_a_process_tells_of_its_failing_call_by_itself() -> None:
    process = RankProcess()
    process.follow("trial", "{}", vars(Runtime()), 1, "runs/a")
    with pytest.raises(ValueError, match="must have dataset"):
        process.live()
    with pytest.raises(ValueError, match="must have dataset"):
        process.call("trial", "advance", (None,))
    process.error, process.follower = None, SimpleNamespace(advance=lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        process.call("trial", "advance", (None,))
    with pytest.raises(ZeroDivisionError):
        process.live()


def test_what_a_call_failed_of() -> None:
    gloo = RuntimeError("connection closed by peer")
    assert find_cause(raised(gloo)) is gloo
    assert isinstance(find_cause(ActorDiedError()), WorkerLost)
    lost = find_cause(OutOfMemoryError("1 worker(s) were killed: low on memory\nand much more"))
    assert isinstance(lost, MemoryError)
    assert str(lost) == "1 worker(s) were killed: low on memory"
    assert isinstance(find_cause(RayError("strange")), RayError)


@pytest.mark.parametrize(
    ("ends", "kind"),
    [
        ({}, type(None)),
        ({1: raised(ValueError("no"))}, ValueError),
        ({0: raised(RuntimeError("connection closed")), 2: ActorDiedError()}, WorkerLost),
        ({0: raised(RuntimeError("connection closed")), 3: raised(torch.OutOfMemoryError("2 GiB"))},
         torch.OutOfMemoryError),
        ({0: raised(RuntimeError("connection closed")), 1: OutOfMemoryError("killed")}, MemoryError),
    ],
)  # fmt: skip
def test_the_first_cause_is_told_from_its_consequences(
    ends: dict[int, RayError], kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(left: list[int], **_: Any) -> tuple[list[int], list[int]]:
        ready = [i for i in left if i in ends][:1]
        return ready, [i for i in left if i not in ready]

    def get(number: int) -> None:
        raise ends[number]

    monkeypatch.setattr(ranks, "ray", SimpleNamespace(wait=wait, get=get))
    processes = RankProcesses(2, 2, None, lives=[0, 1, 2, 3])
    assert isinstance(processes._find_error(), kind)

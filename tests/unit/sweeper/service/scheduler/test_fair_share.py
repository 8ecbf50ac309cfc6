"""Whose sweep starts next, and events for whoever waits."""

import asyncio
import threading

import pytest

from sweeper.client.models import Quota
from sweeper.service.db.sweeps import Waiting
from sweeper.service.scheduler import fair_share
from sweeper.service.scheduler.fair_share import order
from sweeper.service.views.events import Hub


def ids(*waiting: Waiting, running: tuple[str, ...] = (), **more: object) -> list[str]:
    return [sweep for sweep, may in order(waiting, running, **more) if may]  # type: ignore[arg-type]


def test_users_take_turns() -> None:
    sent = [Waiting(f"a{i}", "ann", 0, i) for i in range(3)] + [Waiting(f"b{i}", "bob", 0, 10 + i) for i in range(2)]
    assert ids(*sent) == ["a0", "b0", "a1", "b1", "a2"]


def test_who_runs_less_comes_first_then_who_started_longest_ago() -> None:
    a, b = Waiting("a", "ann", 0, 1), Waiting("b", "bob", 0, 2)
    assert ids(a, b, running=("ann",)) == ["b", "a"]
    assert ids(a, b, last={"ann": 9.0, "bob": 3.0}) == ["b", "a"]


def test_priorities_order_ones_own_and_those_above_0_go_ahead_of_all() -> None:
    low, high = Waiting("low", "ann", -5, 1), Waiting("high", "ann", 0, 2)
    assert ids(low, high) == ["high", "low"]
    other = Waiting("other", "bob", -100, 3)
    assert ids(low, high, other, running=("ann",))[0] == "other"
    urgent = Waiting("urgent", "ann", 1, 9)
    assert ids(low, high, other, urgent, running=("ann", "ann"))[0] == "urgent"


def test_a_quota_holds_back_and_the_place_in_the_queue_is_the_last() -> None:
    sent = [Waiting("a0", "ann", 0, 1), Waiting("a1", "ann", 0, 2), Waiting("b0", "bob", 0, 3)]
    found = list(order(sent, ["ann"], lambda user: Quota(running=2 if user == "ann" else None)))
    assert found == [("b0", True), ("a0", True), ("a1", False)]


def test_thousands_are_ordered_with_few_looks_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = [Waiting(f"s{i:04}", f"u{i % 40}", i % 3, float(i)) for i in range(4000)]
    looked, asked = list[str](), list[str]()
    by = fair_share._user_order
    monkeypatch.setattr(fair_share, "_user_order", lambda sweep: looked.append(sweep.id) or by(sweep))
    found = list(order(sent, [], lambda user: asked.append(user) or Quota(running=50)))
    assert [may for _, may in found] == [True] * 2000 + [False] * 2000
    assert len({sweep for sweep, _ in found}) == len(sent)
    assert len(looked) <= 3 * len(sent)
    assert sorted(asked) == sorted({s.owner for s in sent})


def test_events_are_kept_in_order_and_wake_who_waits() -> None:
    hub = Hub()
    first = hub.publish("a", "state", {"state": "queued"})
    hub.publish("b", "state", {})

    async def waits() -> list[int]:
        threading.Timer(0.05, lambda: hub.publish("a", "trial", {})).start()
        last = hub.last
        await hub.wait(last, 10.0)
        await hub.wait(hub.last, 0.01)  # nothing more
        return [e.id - first.id for e in hub.since(first.id, "a")]

    assert asyncio.run(waits()) == [2]
    assert [e.sweep for e in hub.since(first.id - 1)] == ["a", "b", "a"]
    assert not hub.since(hub.last)

"""A sweep does not wait for ever for nodes that a cluster lost."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

from sweeper.runner.ray_tune.tuner import RoomWatcher
from sweeper.runner.ray_tune.watchdog import PATIENCE_SECONDS, ROOM_SECONDS, Room


class Cluster:
    """A room on a clock of its own, which counts how often it is asked."""

    def __init__(self) -> None:
        self.now, self.lacks, self.asked = 0.0, "", 0
        self.room = Room(self.lack, lambda: self.now)

    def lack(self) -> str:
        self.asked += 1
        return self.lacks

    def pass_by(self, seconds: float, running: bool = False) -> str:
        end = self.now + seconds
        while self.now < end:
            if why := self.room.look(running):
                return why
            self.now += 0.5
        return ""


def test_a_sweep_without_room_ends_after_a_while_and_not_before() -> None:
    cluster = Cluster()
    assert not cluster.pass_by(60)
    assert cluster.asked == 60 / ROOM_SECONDS  # asking costs: not at each step
    cluster.lacks = "it has 1 node with 0 CPU"
    assert not cluster.pass_by(2 * PATIENCE_SECONDS, running=True)
    assert not cluster.pass_by(PATIENCE_SECONDS - ROOM_SECONDS)
    cluster.lacks = ""  # a node came back in time
    assert not cluster.pass_by(60)
    cluster.lacks = "it has 1 node with 0 CPU"
    gone = cluster.now
    found = cluster.pass_by(2 * PATIENCE_SECONDS)
    assert found == "no node could take a trial for 5 minutes: it has 1 node with 0 CPU"
    assert PATIENCE_SECONDS <= cluster.now - gone <= PATIENCE_SECONDS + 2 * ROOM_SECONDS


def test_tunes_loop_ends_with_the_sweeps_reason() -> None:
    halted: list[str] = []
    session: Any = SimpleNamespace(halt=halted.append)
    waiting = RoomWatcher(session, Room(lambda: "no GPU", iter(range(0, 10_000, 100)).__next__))
    steps = 0
    while not waiting.stop_all():
        waiting.on_step_begin(steps, [SimpleNamespace(status="PENDING")])
        steps += 1
    assert steps == 4
    assert halted == ["no node could take a trial for 5 minutes: no GPU"]
    assert pickle.loads(pickle.dumps(waiting)).session is None

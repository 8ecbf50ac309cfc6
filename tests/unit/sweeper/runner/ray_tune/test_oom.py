"""A trial that Ray's memory monitor ended ran out of memory; the sweep goes on."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

from sweeper import SweepSpec
from sweeper.config.prepared import prepare
from sweeper.runner.ray_tune.oom import MemoryKill, translate_memory_kills
from sweeper.runner.ray_tune.reattempts import Attempts
from sweeper.runner.ray_tune.tuner import RungScheduler, SessionSearcher
from sweeper.runner.session import Session
from sweeper.storage.tables import read_trials
from trainables.runtime import Runtime


def ended(error: Exception, file: Path) -> Any:
    file.write_bytes(pickle.dumps(error))
    return SimpleNamespace(trial_id="one", pickled_error_file=str(file))


@pytest.mark.parametrize(
    ("error", "outcomes"),
    [(MemoryKill(error_msg="1 worker(s) were killed"), ["out_of_memory"]), (ActorDiedError(), [])],
)
def test_it_is_an_outcome_and_not_tried_again(error: Exception, outcomes: list[str], tmp_path: Path) -> None:
    spec = SweepSpec.checked({"space": "synthetic", "sampler": "random", "trials": 3})
    session = Session(prepare(spec).with_constants(examples=720), tmp_path / "run", Runtime())
    searcher = SessionSearcher(session, Attempts(2), None)
    assert searcher.suggest("one")["job"]
    RungScheduler(searcher).on_trial_error(None, ended(error, tmp_path / "error.pkl"))
    searcher.on_trial_complete("one", error=True)
    rows = read_trials(tmp_path / "run").to_pylist()
    assert [r["outcome"] for r in rows] == outcomes
    assert all("1 worker(s) were killed" in r["outcome_detail"] for r in rows)
    assert len(searcher.attempts.waiting) == 1 - len(outcomes)


def test_tune_takes_it_for_the_death_of_an_actor() -> None:
    told: list[Exception] = []
    actor = SimpleNamespace(actor_id=1, _on_error=lambda _, error: told.append(error))
    task: Any = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    before = RayActorManager._actor_task_failed
    with translate_memory_kills():
        RayActorManager._actor_task_failed(manager, task, OutOfMemoryError("1 worker(s) were killed\nTop 10 users"))
    assert isinstance(told[0], RayActorError)
    assert str(told[0]) == "1 worker(s) were killed"
    assert RayActorManager._actor_task_failed is before


def test_another_ray_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RayActorManager, "_actor_task_failed")
    with pytest.warns(UserWarning, match=r"ray .*memory_per_rank"), translate_memory_kills():
        pass
    assert not hasattr(RayActorManager, "_actor_task_failed")

"""Numbers of configurations and of Optuna's trials, and configurations that stand under several numbers."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeper import SweepSpec
from sweeper.analysis.best import rank_trials
from sweeper.config.prepared import prepare
from sweeper.runner.proposers.search import StudyProposer
from sweeper.runner.session import Session
from sweeper.storage.tables import read
from tests.support.inline_sweeps import PLAIN, digests, lose, origins, sweep
from trainables.runtime import Runtime

ONE_KNOB: dict[str, Any] = {
    "fixed": {"learning_rate": 0.1, "batch_size": 16, "weight_decay": 1e-4, "augmentation_strength": 0.0},
    "parameters": {"momentum": {"values": [0.0, 0.9]}},
}


def session_of(run: Path, **more: Any) -> Session:
    spec = SweepSpec.checked({"space": "synthetic", "runner": "inline", "trials": 12, **more})
    return Session(prepare(spec).with_constants(examples=720), run, Runtime())


def study_of(session: Session) -> StudyProposer:
    assert isinstance(session.proposer, StudyProposer)
    return session.proposer


@pytest.mark.parametrize("lost", [(0,), (3, 5), (0, 1, 2, 7), (11,), (4, 10, 11)])
def test_start_up_points_lost_in_a_crash_are_proposed_again(tmp_path: Path, lost: tuple[int, ...]) -> None:
    whole = sweep(tmp_path, sampler="noise", **PLAIN)
    lose(whole.run, *lost)
    again = sweep(tmp_path, sampler="noise", **PLAIN)
    assert again.trials["number"].to_pylist() == list(range(12))
    for number, (old, new) in enumerate(zip(digests(whole), digests(again), strict=True)):
        if number not in lost or number < 5:
            assert old == new
    assert Counter(origins(whole.run))["startup"] == 5


def test_trials_have_the_numbers_of_their_configurations(tmp_path: Path) -> None:
    whole = sweep(tmp_path, sampler="noise", repeats=2, **PLAIN)
    rows = whole.trials.to_pylist()
    lose(whole.run, 4, 9)
    (tmp_path / "trials" / f"{rows[4]['digest']}.parquet").unlink()  # a repeat of number 2
    session = session_of(tmp_path, sampler="noise", repeats=2, **PLAIN)
    trials = study_of(session).study.trials
    assert {t.number for t in trials if t.state == TrialState.RUNNING} == {2, 4, 9}
    assert len(trials) == 12
    for trial in trials:
        row = rows[2 * trial.number]
        expected = {name: row[name] for name in trial.params}
        if trial.number != 9:  # which was asked when the others were finished
            assert trial.params == expected
    assert session.open == [9, 4, 2]
    job = session.next_job()
    assert job is not None
    assert [s.digest for s in job.specs] == [rows[4]["digest"]]


def test_a_failed_configuration_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.runner import jobs

    def never(*_: Any) -> Any:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run_trials", never)
        sweep(tmp_path, sampler="noise", trials=2, **PLAIN)
    session = session_of(tmp_path, sampler="noise", trials=2, **PLAIN)
    assert [t.state for t in study_of(session).study.trials] == [TrialState.FAIL] * 2
    # by another one: its own is not proposed again
    rows = sweep(tmp_path, sampler="noise", trials=2, **PLAIN).trials.to_pylist()
    assert sorted((r["number"], r["outcome"]) for r in rows) == [(0, "failed"), (0, "ok"), (1, "failed"), (1, "ok")]
    assert len({r["config"] for r in rows}) == 4


@pytest.mark.parametrize(("sampler", "repeats"), [("random", 3), ("tpe", 1), ("gp", 3), ("noise", 1), ("noise", 3)])
def test_a_configuration_under_several_numbers_has_every_repeat_once(
    tmp_path: Path, sampler: str, repeats: int
) -> None:
    more: dict[str, Any] = {
        "sampler": sampler,
        "trials": 8,
        "repeats": repeats,
        "objective": "gain_mean",
        **ONE_KNOB,
        **PLAIN,
    }
    whole = sweep(tmp_path, **more)
    lose(whole.run, 1, 5, 7)
    again = sweep(tmp_path, **more)
    rows = again.trials.to_pylist()
    assert Counter(r["number"] for r in rows) == dict.fromkeys(range(8), repeats)
    assert len(set(digests(again))) == 8 * repeats
    for row in rows:
        first = min(r["repeat"] for r in rows if r["number"] == row["number"])
        assert first % repeats == 0
        assert row["repeat"] - first < repeats
    means: dict[str, list[float]] = {}
    for row in rows:
        means.setdefault(row["config"], []).append(row["gain_mean_loss_val"])
    best = rank_trials(again.trials, "gain_mean")[0]
    config = max(means, key=lambda c: sum(means[c]) / len(means[c]))
    assert (best["config"], best["config_repeats"]) == (config, len(means[config]))
    assert best["config_mean"] == pytest.approx(sum(means[config]) / len(means[config]))
    session = session_of(tmp_path, **more)
    assert session.status.best == pytest.approx(best["config_mean"])
    leaders = [s.digest for s in session.leaderboard.first(3)]
    assert len({r["config"] for r in rows if r["digest"] in leaders}) == len(leaders) == len(means)


def test_the_study_sees_every_number_of_a_repeated_configuration(tmp_path: Path) -> None:
    more: dict[str, Any] = {"sampler": "noise", "trials": 14, **ONE_KNOB, **PLAIN}
    sweep(tmp_path, **more)
    trials = study_of(session_of(tmp_path, **more)).study.trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 14
    assert len({t.value for t in trials}) == 14  # other seeds each time
    assert len({t.params["momentum"] for t in trials}) == 2
    assert read(tmp_path, "search").num_rows == 14

"""Whole sweeps in this process on the closed form: bookkeeping, resume, repeats, failures, the optimum."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper import SpecError, SweepSpec
from sweeper.config.prepared import prepare
from sweeper.runner.inline import run_inline
from sweeper.runner.proposers.search import StudyProposer
from sweeper.runner.session import Session
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.tables import read
from tests.support.inline_sweeps import PLAIN, stop_after, sweep
from trainables.pair.synthetic import BEST_NOISE
from trainables.result import NEVER_WINS
from trainables.runtime import Runtime


def digests(results: sweeper.Results) -> list[str]:
    return sorted(results.trials["digest"].to_pylist())


def test_the_noise_sampler_finds_the_known_optimum(tmp_path: Path) -> None:
    results = sweep(tmp_path / "run", sampler="noise", objective="gain_mean", trials=40, seed=1, **PLAIN)
    assert results.trials.num_rows == 40
    regime = results.regime
    assert regime.optimum is not None
    assert BEST_NOISE / 2 < regime.optimum < BEST_NOISE * 2
    assert regime.interior
    origins = Counter(read(results.run, "search")["origin"].to_pylist())
    assert origins["startup"] >= 5
    assert origins["level_set"] + origins["neighbour"] + origins["filling"] >= 20
    assert origins["level_set"] >= 3
    assert all(0 <= r["variance_share"] <= 1 for r in read(results.run, "search").to_pylist()[12:])
    aimed = {r["number"] for r in read(results.run, "search").to_pylist() if r["origin"] == "level_set"}
    for row in results.trials.select(["number", "noise_target", "noise_paper"]).to_pylist():
        if row["number"] in aimed:  # at a level of the refined noise
            assert row["noise_target"] > 0
        else:  # at its own noise
            assert row["noise_target"] == pytest.approx(row["noise_paper"])


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "qmc", "grid", "random", "noise"])
def test_every_sampler_fills_the_budget_and_repeats_itself(tmp_path: Path, sampler: str) -> None:
    knobs = {"learning_rate": {"min": 0.01, "max": 1.0, "distribution": "log_uniform"}}
    fixed = {"momentum": 0.9, "weight_decay": 1e-4, "augmentation_strength": 0.0, "batch_size": 16}
    more: dict[str, Any] = {"sampler": sampler, "parameters": knobs, "fixed": fixed}
    one, two = sweep(tmp_path / "one", **more), sweep(tmp_path / "two", **more)
    assert one.trials.num_rows == 12
    assert digests(one) == digests(two)


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_an_interrupted_design_resumes_to_the_same_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    whole = sweep(tmp_path / "whole", sampler=sampler)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        part = sweep(tmp_path / "part", sampler=sampler)
    assert part.interrupted
    assert part.trials.num_rows == 5
    (tmp_path / "part" / "trials" / f"{digests(part)[2]}.parquet").unlink()  # a trial lost in the middle
    seen: list[str] = []
    from sweeper.runner import inline

    real = inline.execute
    monkeypatch.setattr(inline, "execute", lambda job, *a: (seen.extend(s.digest for s in job.specs), real(job, *a))[1])
    again = sweep(tmp_path / "part", sampler=sampler)
    assert digests(again) == digests(whole)
    assert len(seen) == 8
    assert len(set(digests(again))) == 12


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "noise"])
def test_an_adaptive_sweep_resumes_to_its_budget_without_repeating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        before = sweep(tmp_path, sampler=sampler, **PLAIN)
    after = sweep(tmp_path, sampler=sampler, **PLAIN)
    assert len(set(after.trials["config"].to_pylist())) == 12
    assert after.trials.num_rows == 12
    assert set(digests(before)) <= set(digests(after))
    assert after.trials["number"].to_pylist() == list(range(12))


def test_repeats_are_rows_of_one_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = sweep(tmp_path, repeats=3, trials=4)
    assert Counter(results.trials["config"].to_pylist()) == dict.fromkeys(set(results.trials["config"].to_pylist()), 3)
    assert results.trials["repeat"].to_pylist() == [0, 1, 2] * 4
    # one repeat lost: resume runs that one alone
    lost = results.trials["digest"].to_pylist()[4]
    (tmp_path / "trials" / f"{lost}.parquet").unlink()
    seen: list[str] = []
    from sweeper.runner import inline

    real = inline.execute
    monkeypatch.setattr(inline, "execute", lambda job, *a: (seen.extend(s.digest for s in job.specs), real(job, *a))[1])
    assert digests(sweep(tmp_path, repeats=3, trials=4)) == digests(results)
    assert seen == [lost]


def test_an_interrupted_configuration_keeps_its_own_repeats(tmp_path: Path) -> None:
    # two configurations only, so numbers share them; each number owns a block of three repeats
    fixed = {"learning_rate": 0.1, "batch_size": 16, "weight_decay": 1e-4, "augmentation_strength": 0.0}
    more: dict[str, Any] = {
        "fixed": fixed,
        "parameters": {"momentum": {"values": [0.0, 0.9]}},
        "repeats": 3,
        "trials": 6,
    }
    for sampler in ("random", "tpe"):
        run = tmp_path / sampler
        whole = sweep(run, sampler=sampler, **more)
        rows = whole.trials.to_pylist()
        for row in rows:
            if row["number"] > 0 or row["repeat"] > 0:  # all but one repeat of the first number is lost
                (run / "trials" / f"{row['digest']}.parquet").unlink()
        again = sweep(run, sampler=sampler, **more)
        assert Counter(again.trials["number"].to_pylist()) == dict.fromkeys(range(6), 3)
        assert len(set(digests(again))) == 18
        if sampler == "random":
            assert digests(again) == digests(whole)


def test_the_study_learns_the_mean_of_all_repeats_of_an_interrupted_configuration(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="tpe", repeats=2, trials=3)
    lost = results.trials.to_pylist()[3]
    (tmp_path / "trials" / f"{lost['digest']}.parquet").unlink()
    spec = SweepSpec(space="synthetic", runner="inline", sampler="tpe", repeats=2, trials=3)
    session = Session(prepare(spec).with_constants(examples=720), tmp_path, Runtime())
    run_inline(session)
    assert isinstance(session.proposer, StudyProposer)
    told = sorted(t.value for t in session.proposer.study.trials if t.value is not None)
    rows = results.trials.to_pylist()
    means = [sum(OBJECTIVES["merged_loss"].tell(r) for r in rows[i : i + 2]) / 2 for i in (0, 2, 4)]
    assert told == pytest.approx(sorted(means))


def test_a_configuration_proposed_again_gets_new_repeats(tmp_path: Path) -> None:
    fixed = {"learning_rate": 0.1, "batch_size": 16, "weight_decay": 1e-4, "augmentation_strength": 0.0}
    parameters = {"momentum": {"values": [0.0, 0.9]}}
    results = sweep(tmp_path, sampler="tpe", trials=6, fixed=fixed, parameters=parameters)
    assert results.trials.num_rows == 6
    rows = results.trials.select(["config", "repeat"]).to_pylist()
    for config in {r["config"] for r in rows}:
        repeats = sorted(r["repeat"] for r in rows if r["config"] == config)
        assert repeats == list(range(len(repeats)))


def test_stack_is_chosen_by_size_and_stored(tmp_path: Path) -> None:
    parameters = {"batch_size": {"values": [16, 64]}}
    results = sweep(tmp_path / "auto", repeats=4, trials=6, parameters=parameters)
    for row in results.trials.select(["batch_size", "stack"]).to_pylist():
        assert row["stack"] == (4 if row["batch_size"] == 16 else 1)
    off = sweep(tmp_path / "off", repeats=4, trials=2, stack="off", parameters=parameters)
    assert set(off.trials["stack"].to_pylist()) == {1}


def test_more_trials_extend_a_finished_sweep(tmp_path: Path) -> None:
    first = sweep(tmp_path, trials=4)
    second = sweep(tmp_path, trials=9)
    assert second.trials.num_rows == 9
    assert set(digests(first)) <= set(digests(second))


def test_a_trial_that_raises_is_a_row_and_the_sweep_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.runner import jobs

    real, calls = jobs.run_trials, []

    def sometimes(specs: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of\nmemory")
        return real(specs, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run_trials", sometimes)
        results = sweep(tmp_path)
    assert Counter(results.trials["outcome"].to_pylist())["failed"] == 1
    row = next(r for r in results.trials.to_pylist() if r["outcome"] == "failed")
    assert row["outcome_detail"] == "RuntimeError: out of memory"
    assert row["merged_loss_val"] is None
    assert results.failed == 1
    again = sweep(tmp_path)  # resume tries it again
    assert "failed" not in again.trials["outcome"].to_pylist()
    assert again.trials.num_rows == 12


def test_out_of_memory_is_an_outcome_that_is_neither_retried_nor_won(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeper.runner import jobs
    from trainables.pair.record import now, record
    from trainables.result import Outcome, PairOutput

    real, calls = jobs.run_trials, []

    def sometimes(specs: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            return real(specs, *rest)
        return [PairOutput(record(s, rest[0], Outcome.OUT_OF_MEMORY, "batch 64: 3 GiB", now())) for s in specs]

    monkeypatch.setattr(jobs, "run_trials", sometimes)
    stable = {"learning_rate": {"min": 0.01, "max": 0.5, "distribution": "log_uniform"}}
    results = sweep(tmp_path, repeats=2, trials=6, parameters=stable)
    outcomes = {r["config"]: set() for r in results.trials.to_pylist()}
    for row in results.trials.to_pylist():
        outcomes[row["config"]].add(row["outcome"])
    assert sorted(map(sorted, outcomes.values())) == [["ok"]] * 4 + [["ok", "out_of_memory"], ["out_of_memory"]]
    from sweeper.analysis.best import rank_trials

    won = {b["config"] for b in rank_trials(results.trials, "gain_mean", 20)}
    assert won == {c for c, o in outcomes.items() if o == {"ok"}}
    assert results.failed == 0
    done = len(calls)
    assert sweep(tmp_path, repeats=2, trials=6, parameters=stable).trials.num_rows == 12
    assert len(calls) == done


def test_too_many_failures_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.runner import jobs

    def never(*_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(jobs, "run_trials", never)
    results = sweep(tmp_path, max_failed=3)
    assert results.trials.num_rows == 3
    assert "3 configurations failed, the last one: RuntimeError: broken" in results.reason


def test_time_budget_starts_nothing_more(tmp_path: Path) -> None:
    results = sweep(tmp_path, max_seconds=1e-9)
    assert results.trials.num_rows == 0
    assert "max_seconds = " in results.reason
    assert sweep(tmp_path).trials.num_rows == 12


def test_diverged_trials_are_kept_and_never_win(tmp_path: Path) -> None:
    parameters = {"learning_rate": {"min": 1.0, "max": 30.0, "distribution": "log_uniform"}}
    results = sweep(tmp_path, parameters=parameters, trials=20, objective="gain_mean")
    outcomes = Counter(results.trials["outcome"].to_pylist())
    assert outcomes["diverged"] > 0
    from sweeper.analysis.best import rank_trials

    assert all(b["outcome"] == "ok" for b in rank_trials(results.trials, "gain_mean", 20))


def test_a_small_grid_is_finished_when_its_points_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sweeper.cli.main import main

    fixed = {"learning_rate": 0.1, "batch_size": 16, "weight_decay": 1e-4, "augmentation_strength": 0.0}
    results = sweep(tmp_path, sampler="grid", trials=50, fixed=fixed, parameters={"momentum": {"values": [0.0, 0.9]}})
    assert results.trials.num_rows == 2
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["progress"]["budget"] == 2


def test_a_noise_that_is_zero_everywhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="noise 'wd_intrinsic' is 0 for every configuration"):
        sweep(tmp_path / "run", noise="wd_intrinsic", fixed={"weight_decay": 0.0})
    assert not (tmp_path / "run").exists()


def test_the_study_gets_capped_logs() -> None:

    loss, gain = OBJECTIVES["merged_loss"], OBJECTIVES["gain_mean"]
    row: dict[str, Any] = {"outcome": "ok", "classes": 10, "merged_loss_val": 0.3, "gain_mean_loss_val": 0.02}
    assert loss.tell(row) == pytest.approx(math.log(0.3))
    assert gain.tell(row) == 0.02
    cap = 2 * math.log(10)
    assert loss.tell({**row, "merged_loss_val": 150.0}) == pytest.approx(math.log(cap))
    assert loss.tell({**row, "outcome": "diverged", "merged_loss_val": None}) == pytest.approx(math.log(cap))
    for outcome in NEVER_WINS:
        assert loss.tell({**row, "outcome": outcome}) == pytest.approx(math.log(cap))
    assert gain.tell({**row, "gain_mean_loss_val": -40.0}) == pytest.approx(-cap)
    assert gain.tell({**row, "outcome": "not_viable"}) == pytest.approx(-cap)


def test_the_search_table_says_what_was_proposed(tmp_path: Path) -> None:
    results = sweep(tmp_path, trials=3)
    rows = read(results.run, "search").to_pylist()
    trials = {r["number"]: r for r in results.trials.to_pylist()}
    for row in rows:
        params = json.loads(row["params"])
        assert params["learning_rate"] == trials[row["number"]]["learning_rate"]
        assert row["config"] == trials[row["number"]]["config"]
        assert row["noise_target"] == pytest.approx(trials[row["number"]]["noise_paper"])


def test_a_sweep_with_nothing_left_is_not_stopped_early(tmp_path: Path) -> None:
    spec = SweepSpec(space="synthetic", runner="inline", sampler="random", trials=3, out=str(tmp_path / "run"))
    done: list[int] = []

    def stop() -> str:
        return "enough" if done and done[-1] == 3 else ""

    results = sweeper.run(spec, lambda status: done.append(status.done), stop=stop)
    assert (results.trials.num_rows, results.reason) == (3, "")
    assert sweeper.run(spec, stop=lambda: "no time").reason == ""
    longer = spec.model_copy(update={"trials": 5})
    assert sweeper.run(longer, stop=lambda: "no time").reason == "no time"


def test_the_progress_of_a_stage_counts_finished_configurations_as_the_total_does(tmp_path: Path) -> None:
    spec = SweepSpec(space="synthetic", runner="inline", sampler="noise", trials=20, repeats=2, out=str(tmp_path))
    seen: list[tuple[str, int, int, int]] = []
    sweeper.run(spec, listener=lambda s: seen.append((s.stage, s.stage_done, s.stage_budget, s.done)))
    assert list(dict.fromkeys(stage for stage, *_ in seen)) == ["map", "search", "confirm"]
    before = {"map": 0, "search": 12, "confirm": 16}
    for stage, done, size, total in seen:
        assert done + before[stage] == total  # one worker: earlier stages have ended
        assert size == {"map": 12, "search": 4, "confirm": 4}[stage]
    resumed: list[tuple[str, int]] = []
    more = spec.model_copy(update={"trials": 24})
    sweeper.run(more, confirm=lambda *_: True, listener=lambda s: resumed.append((s.stage, s.stage_done)))
    assert resumed[0] == ("search", 4)

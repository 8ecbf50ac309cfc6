"""Sweeps in stages: the same command gives the same trials, resumes continue, confirmation uses fresh pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.stages.confirmation import find_confirmation
from sweeper.search.noise_sampler import acquisition
from sweeper.search.noise_sampler import sampler as noise_sampler
from sweeper.search.noise_sampler.acquisition import CHECKS
from sweeper.search.noise_sampler.study_attrs import is_proxy
from sweeper.search.stages import CHOOSE, MAP, PILOT, REPORT, SEARCH
from sweeper.storage.tables import read, read_trials
from tests.support.inline_sweeps import altered, lose, sweep
from tests.support.simulated_workers import open_session, run_workers
from trainables.result import Outcome
from trainables.spec import PairSpec


def digests_by_number(run: Path) -> dict[int, str]:
    rows = read_trials(run).select(["number", "digest"]).to_pylist()
    return {r["number"]: r["digest"] for r in rows}


def test_a_default_sweep_maps_searches_and_confirms(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=40, seed=1)
    rows = results.trials.to_pylist()
    assert Counter(r["stage"] for r in rows) == {PILOT: 4, MAP: 20, SEARCH: 8, CHOOSE: 4, REPORT: 4}
    assert len({r["digest"] for r in rows}) == 40
    earlier = {(r["config"], r["repeat"]) for r in rows if r["stage"] in (PILOT, MAP, SEARCH)}
    fresh = {(r["config"], r["repeat"]) for r in rows if r["stage"] in (CHOOSE, REPORT)}
    assert not earlier & fresh
    assert len({r["config"] for r in rows if r["stage"] == REPORT}) == 1
    chosen = Counter(r["config"] for r in rows if r["stage"] == CHOOSE)
    assert set(chosen.values()) == {2}
    # every stage is in the search table, too
    stages = {r["number"]: r["stage"] for r in read(tmp_path, "search").to_pylist()}
    assert stages == {r["number"]: r["stage"] for r in rows}


def test_the_order_in_which_workers_finish_changes_nothing(tmp_path: Path) -> None:
    found = []
    for order in range(3):
        run = tmp_path / str(order)
        session = open_session(run, workers=3)
        run_workers(session, 3, order)
        assert not session.open
        found.append(digests_by_number(run))
    assert found[0] == found[1] == found[2]
    free = tmp_path / "free"
    session = open_session(free, workers=3, order="free")
    assert run_workers(session, 3, 0) <= 8  # it waits between stages only
    assert len(digests_by_number(free)) == 24


@pytest.mark.parametrize("stop", [2, 9, 15, 20, 22])
def test_a_resume_in_any_stage_gives_the_trials_of_the_whole_sweep(tmp_path: Path, stop: int) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_workers(open_session(whole, workers=2), 2, 0)
    run_workers(open_session(part, workers=2), 2, 1, stop_after=stop)
    assert len(digests_by_number(part)) == stop
    run_workers(open_session(part, workers=2), 2, 2)
    assert digests_by_number(part) == digests_by_number(whole)


@pytest.mark.parametrize("stop", [2, 9, 15, 20, 22])
def test_a_resume_with_a_proxy_gives_the_trials_of_the_whole_sweep(tmp_path: Path, stop: int) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_workers(open_session(whole, workers=2, proxy=0.5, map=0.5), 2, 0)
    rows = read_trials(whole).to_pylist()
    for row in rows:
        mapped = row["stage"] in (PILOT, MAP)
        assert (row["proxy"], row["epochs"]) == ((0.5, 4) if mapped else (None, 8))
        trial = PairSpec.from_json(row["spec"])
        assert (trial.epochs, trial.digest) == (row["epochs"], row["digest"])
    if stop == 9:  # the order in which workers finish changes nothing
        other = tmp_path / "other"
        run_workers(open_session(other, workers=2, proxy=0.5, map=0.5), 2, 3)
        assert digests_by_number(other) == digests_by_number(whole)
    run_workers(open_session(part, workers=2, proxy=0.5, map=0.5), 2, 1, stop_after=stop)
    run_workers(open_session(part, workers=2, proxy=0.5, map=0.5), 2, 2)
    assert digests_by_number(part) == digests_by_number(whole)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_search_starts_with_checks_of_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    choose, improvement = noise_sampler.choose, acquisition.log_expected_improvement
    used: list[bool] = []
    running: list[int] = []

    def count(aims: Any, taken: Any, rng: Any) -> Any:
        used.append(False)
        running.append(int(aims.running.proxy.sum()))
        return choose(aims, taken, rng)

    def note(*args: Any) -> Any:
        used[-1] = True
        return improvement(*args)

    monkeypatch.setattr(noise_sampler, "choose", count)
    monkeypatch.setattr(acquisition, "log_expected_improvement", note)
    run_workers(open_session(tmp_path, workers=workers, proxy=0.5, map=0.5), workers, 0)
    searched = sum(r["stage"] == SEARCH for r in read_trials(tmp_path).to_pylist())
    assert searched > CHECKS
    assert used == [False] * CHECKS + [True] * (searched - CHECKS)
    # the study still holds the last trials of the map as running ones
    assert running == [max(0, 2 * workers - 2 - i) for i in range(searched)]


@pytest.mark.parametrize("order", ["fixed", "free"])
def test_a_half_done_configuration_of_a_map_stays_a_proxy(tmp_path: Path, order: str) -> None:
    more: dict[str, Any] = {"proxy": 0.5, "map": 0.5, "repeats": 2, "order": order}
    run_workers(open_session(tmp_path, **more), 1, 0, stop_after=12)
    last = max(read_trials(tmp_path).to_pylist(), key=lambda r: (r["number"], r["repeat"]))
    assert (last["number"], last["stage"]) == (11, MAP)
    (tmp_path / "trials" / f"{last['digest']}.parquet").unlink()
    session = open_session(tmp_path, **more)
    run_workers(session, 1, 0, stop_after=3)
    proposer: Any = session.proposer
    trials = proposer.inner.study.get_trials(deepcopy=False)
    assert [is_proxy(t) for t in trials] == [True] * 12 + [False] * (len(trials) - 12)
    assert len(trials) > 12


def test_a_map_at_a_share_leads_to_a_winner_in_full(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=24, proxy=0.25, map=0.75, confirm=0.25)
    rows = results.trials.to_pylist()
    assert Counter(r["stage"] for r in rows) == {PILOT: 4, MAP: 14, CHOOSE: 3, REPORT: 3}
    found = find_confirmation(results.trials, "gain_mean")
    assert found is not None
    assert found.pairs == 3
    assert all(r["proxy"] is None for r in rows if r["config"] == found.config)


def test_lost_trials_in_the_middle_run_again(tmp_path: Path) -> None:
    run_workers(open_session(tmp_path, workers=2), 2, 0)
    whole = digests_by_number(tmp_path)
    lose(tmp_path, 3, 8, 13, 20)
    run_workers(open_session(tmp_path, workers=2), 2, 3)
    assert digests_by_number(tmp_path) == whole


def test_without_map_and_confirm_every_trial_is_search(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=12, map=0, confirm=0)
    assert results.trials["stage"].to_pylist() == [None] * 12
    assert results.trials["sampler"].to_pylist() == ["noise"] * 12


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_other_samplers_may_map_and_confirm(tmp_path: Path, sampler: str) -> None:
    design = sampler in ("qmc", "random")
    stages: dict[str, Any] = {"confirm": 0.25} if design else {"confirm": 0.25, "map": 0.5}
    results = sweep(tmp_path, sampler=sampler, objective="gain_mean", trials=24, **stages)
    counts = Counter(results.trials["stage"].to_pylist())
    assert counts[CHOOSE] == counts[REPORT] == 3
    assert counts[MAP] == (0 if design else 12)
    assert counts[SEARCH] == (18 if design else 6)


def test_enqueued_configurations_run_first(tmp_path: Path) -> None:
    point = {"learning_rate": 0.05, "batch_size": 16}
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=20, enqueue=[point])
    rows = results.trials.to_pylist()
    assert (rows[0]["learning_rate"], rows[0]["batch_size"], rows[0]["stage"]) == (0.05, 16, SEARCH)
    assert rows[1]["stage"] == MAP


def test_settings_that_fail_in_the_report_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[str] = []

    def fail(spec: Any, result: Any) -> Any:
        # the first configuration of the report fails in every fresh pair that reports it
        if reporting() and (not first or spec.config == first[0]):
            first[:] = [spec.config]
            return replace(result, outcome=Outcome.NOT_VIABLE, outcome_detail="parents below the floor")
        return result

    def reporting() -> bool:
        return len(read(tmp_path, "trials")) >= 36

    altered(monkeypatch, fail)
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=40, seed=1)
    confirmed = find_confirmation(results.trials, "gain_mean")
    assert confirmed is not None
    assert confirmed.failed == (first[0],)
    assert confirmed.config != first[0]
    reported = [r["config"] for r in results.trials.to_pylist() if r["stage"] == REPORT]
    assert set(reported) == {first[0], confirmed.config}
    assert confirmed.pairs == reported.count(confirmed.config)


def test_repeats_count_as_one_configuration(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=20, repeats=2)
    rows = results.trials.to_pylist()
    assert len(rows) == 40
    mapped = Counter(r["config"] for r in rows if r["stage"] == MAP)
    assert set(mapped.values()) == {2}  # no point repeats another one
    assert len({(r["config"], r["repeat"]) for r in rows}) == 40

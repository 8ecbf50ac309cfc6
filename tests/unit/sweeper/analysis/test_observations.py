"""Limits on memory and step time: what the sampler is told of them, and that nothing over them wins."""

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sweeper import SpecError, SweepSpec
from sweeper.analysis.observations import is_feasible, measure_constraints
from sweeper.config.fields import parse_bytes
from sweeper.config.prepared import prepare
from sweeper.runner.inline import run_inline
from sweeper.runner.proposers.search import StudyProposer
from sweeper.runner.session import Session
from tests.support.inline_sweeps import altered, sweep
from trainables.result import Outcome
from trainables.runtime import Runtime

GB = 1e9
MODELS = ["noise", "tpe", "gp", "cmaes"]


def spec(**more: Any) -> SweepSpec:
    return SweepSpec(**{"space": "synthetic", "runner": "inline", "trials": 6, **more})


def row(memory: float | None = None, step: float | None = None, outcome: str = "ok") -> dict[str, Any]:
    return {"outcome": outcome, "peak_memory_bytes": memory, "step_seconds": step}


def test_constraints_are_logarithms_of_what_is_over() -> None:
    limited = spec(max_memory="8GB", max_step_time=0.1)
    assert limited.max_memory == 8 * GB
    assert measure_constraints([row(4 * GB, 0.4)], limited) == pytest.approx(
        {"memory": -math.log(2), "step_time": math.log(4)}
    )
    # the worst repeat counts; what is not known is taken as kept
    assert measure_constraints([row(4 * GB), row(16 * GB)], limited) == pytest.approx(
        {"memory": math.log(2), "step_time": -math.log(2)}
    )
    assert measure_constraints([row(9 * GB, 3.0)], spec()) == {}
    assert measure_constraints([row(outcome="out_of_memory")], spec()) == {"memory": math.log(2)}
    assert measure_constraints([row(4 * GB, outcome="out_of_memory")], spec(max_memory=8 * GB)) == {
        "memory": math.log(2)
    }
    assert [is_feasible(row(m), limited) for m in (None, 8 * GB, 8.1 * GB)] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "number"),
    [("8GB", 8e9), ("500 MB", 5e8), ("2GiB", 2.0**31), ("1.5t", 1.5e12), ("1e9", 1e9), (7, 7), ("12b", 12)],
)
def test_amounts_of_memory(text: Any, number: float) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["lots", "8XB", "GB", "1.2.3G"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(SpecError, match="max_memory: must be an amount of memory such as 8GB or 500MB, got '"):
        SweepSpec.checked({"space": "synthetic", "max_memory": text})


def _slow(job: Any, result: Any) -> Any:
    # a step takes as many seconds as the batch has examples
    return replace(result, step_seconds=float(job.batch_size))


def session_of(run: Path, **more: Any) -> Session:

    return Session(prepare(spec(**more)).with_constants(examples=720), run, Runtime())


@pytest.mark.parametrize("sampler", MODELS)
def test_trials_over_a_limit_are_told_as_such_and_never_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    altered(monkeypatch, _slow)
    session = session_of(tmp_path, sampler=sampler, max_step_time=30.0, trials=14, objective="gain_mean")
    run_inline(session)
    assert isinstance(session.proposer, StudyProposer)
    again = session_of(tmp_path, sampler=sampler, max_step_time=30.0, trials=14, objective="gain_mean")
    assert isinstance(again.proposer, StudyProposer)
    told = session.proposer.study.trials
    assert [(t.values, t.constraints) for t in again.proposer.study.trials] == [(t.values, t.constraints) for t in told]
    over = [t for t in told if t.params["batch_size"] > 30]
    assert 0 < len(over) < 14
    if sampler == "cmaes":  # it knows no constraints: they are bad trials to it
        assert {t.value for t in over} == {-2 * math.log(10)}
    else:
        for trial in told:
            assert trial.constraints == {"step_time": pytest.approx(math.log(trial.params["batch_size"] / 30))}
    # a sampler may repeat its best configuration, which then counts by its mean
    repeats: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for trial in told:
        if trial not in over:
            repeats[tuple(sorted(trial.params.items()))].append(trial.value)
    assert session.status.best is not None
    assert session.status.best == pytest.approx(max(map(fmean, repeats.values())))


@pytest.mark.parametrize("sampler", MODELS)
@pytest.mark.parametrize("limit", [None, 8 * GB])
def test_running_out_of_memory_is_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, limit: float | None
) -> None:
    def change(job: Any, result: Any) -> Any:
        if job.batch_size > 30:
            return replace(result, outcome=Outcome.OUT_OF_MEMORY, outcome_detail="batch", scores={})
        return replace(result, peak_memory_bytes=int(4 * GB))

    altered(monkeypatch, change)
    session = session_of(tmp_path, sampler=sampler, max_memory=limit, trials=14)
    run_inline(session)
    assert (session.status.done, session.status.failed) == (14, 0)
    assert isinstance(session.proposer, StudyProposer)
    told = session.proposer.study.trials
    large = [t for t in told if t.params["batch_size"] > 30]
    small = [t for t in told if t not in large]
    assert large
    assert small
    if sampler == "noise":  # it learns from trials without a value
        assert {t.state.name for t in large} == {"FAIL"}
        assert all(t.constraints == {"memory": math.log(2)} for t in large)
    else:
        assert {t.value for t in large} == {math.log(2 * math.log(10))}
        known = {"memory": math.log(2)} if limit and sampler != "cmaes" else {}
        assert all(t.constraints == known for t in large)
    kept = {"memory": pytest.approx(-math.log(2))} if limit and sampler != "cmaes" else {}
    assert all(t.constraints == kept for t in small)
    assert session_of(tmp_path, sampler=sampler, max_memory=limit, trials=14).open == []  # none is tried again


def test_a_sweep_says_which_limits_it_had(tmp_path: Path) -> None:
    more: dict[str, Any] = {"trials": 2, "max_memory": "8GB", "max_step_time": 0.5}
    sweep(tmp_path, **more)
    assert sweep(tmp_path, **{**more, "max_memory": 8e9}).trials.num_rows == 2
    with pytest.raises(SpecError, match=r"holds another sweep \(max_memory is 8000000000.0 there and None here\)"):
        sweep(tmp_path, trials=2, max_step_time=0.5)

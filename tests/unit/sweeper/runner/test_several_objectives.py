"""Several objectives: what the study is told, the Pareto set, kept weights, what is refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper import SpecError, SweepSpec
from sweeper.analysis.best import find_pareto_set
from sweeper.config.load import load_sweep
from sweeper.config.prepared import prepare
from sweeper.runner.inline import run_inline
from sweeper.runner.proposers.search import StudyProposer
from sweeper.runner.session import Session
from sweeper.search.objectives import OBJECTIVES
from tests.support.inline_sweeps import altered, digests, sweep
from trainables.result import Outcome
from trainables.runtime import Runtime

BOTH = ["merged_accuracy", "cost"]


def row(config: str, accuracy: float | None, cost: float, outcome: str = "ok", repeat: int = 0) -> dict[str, Any]:
    names = {"merged_accuracy_val": accuracy, "device_seconds": cost}
    return {"config": config, "digest": f"{config}{repeat}", "number": 0, "outcome": outcome, **names}


def test_the_pareto_set_is_what_none_beats_in_all() -> None:
    rows = [
        row("a", 0.90, 10.0), row("b", 0.80, 5.0), row("c", 0.85, 12.0), row("d", 0.80, 6.0),
        row("e", 0.70, 1.0), row("e", 0.74, 2.0, repeat=1), row("f", 0.99, 1.0), row("f", None, 1.0, "diverged", 1),
        row("g", 0.95, 3.0, "not_viable"), row("h", None, 0.1),
    ]  # fmt: skip
    found = find_pareto_set(rows, BOTH)
    assert [r["config"] for r in found] == ["a", "b", "e"]
    assert found[2] == {
        "config": "e", "number": 0, "digest": "e1", "repeats": 2, "merged_accuracy": pytest.approx(0.72), "cost": 1.5,
    }  # fmt: skip
    assert [r["config"] for r in find_pareto_set(rows, BOTH, lambda r: r["device_seconds"] < 10)] == ["b", "e"]
    assert [r["config"] for r in find_pareto_set(rows, ["merged_accuracy"])] == ["a"]
    assert find_pareto_set([], BOTH) == []
    twins = [row("a", 0.9, 1.0), row("b", 0.9, 1.0)]  # neither beats the other
    assert [r["config"] for r in find_pareto_set(twins, BOTH)] == ["a", "b"]


def test_a_list_of_objectives_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("space: synthetic\nobjective: [gain_mean, cost]\n")
    spec = load_sweep(str(path)).spec
    assert (spec.objective, spec.further_objectives, spec.objectives) == ("gain_mean", ("cost",), ("gain_mean", "cost"))
    path.write_text(spec.to_yaml())
    assert load_sweep(str(path)).spec.identity() == spec.identity()
    assert load_sweep(str(path), {"objective": ["barrier"]}).spec.objectives == ("barrier",)
    for names, message in {
        ("gain_mean", "gain_mean"): "objectives must differ, got 'gain_mean' twice",
        ("gain_mean", "cots"): "unknown objective 'cots'; did you mean cost?",
        ("gian_mean", "cost"): "unknown objective 'gian_mean'; did you mean gain_mean",
    }.items():
        with pytest.raises(SpecError) as error:
            SweepSpec.checked({"space": "synthetic", "objective": names})
        assert message in str(error.value)
    with pytest.raises(SpecError, match="sampler cmaes searches one objective; take one of noise, tpe, gp, qmc, ran"):
        SweepSpec.checked({"space": "synthetic", "objective": BOTH, "sampler": "cmaes"})


def test_gains_that_two_tasks_do_not_have_are_refused_before_the_first_trial(tmp_path: Path) -> None:
    two = {"pair_kind": "two_task", "dataset_b": "digits"}
    with pytest.raises(
        SpecError, match="objective 'barrier' is not defined in pair_kind two_task; use one of merged_l"
    ):
        sweep(tmp_path, fixed=two, objective=["gain_mean", "barrier"])
    assert sweep(tmp_path, fixed=two, objective=["gain_mean", "cost"], trials=2).trials.num_rows == 2


def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial takes as many seconds as it has steps; those that diverge end at once."""

    def change(job: Any, result: Any) -> Any:
        return replace(result, device_seconds=0.001 if result.outcome == Outcome.DIVERGED else 720.0 / job.batch_size)

    altered(monkeypatch, change)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "noise"])
def test_the_study_gets_every_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    costly(monkeypatch)
    wide = {"learning_rate": {"min": 0.01, "max": 100.0, "distribution": "log_uniform"}}

    def session() -> Session:
        spec = SweepSpec.checked(
            {"space": "synthetic", "sampler": sampler, "objective": BOTH, "trials": 15, "parameters": wide}
        )
        return Session(prepare(spec).with_constants(examples=720), tmp_path, Runtime())

    first = session()
    run_inline(first)
    assert isinstance(first.proposer, StudyProposer)
    told = first.proposer.study.trials
    assert [d.name for d in first.proposer.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    costs = [t.values[1] for t in told]
    bad = [t for t in told if t.values[0] == 0.0]
    assert bad
    worst = -math.inf
    for trial, cost in zip(told, costs, strict=True):
        if trial in bad:  # it cost little, and that is no merit: the worst so far
            assert cost == pytest.approx(worst if worst > -math.inf else math.log(0.001))
        else:
            assert cost == pytest.approx(math.log(720.0 / trial.params["batch_size"]))
            worst = max(worst, cost)
    again = session().proposer
    assert isinstance(again, StudyProposer)
    assert [t.values for t in again.study.trials] == [t.values for t in told]


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_designs_take_any_number_of_objectives(tmp_path: Path, sampler: str) -> None:
    one = sweep(tmp_path / "one", sampler=sampler)
    two = sweep(tmp_path / "two", sampler=sampler, objective=["merged_loss", "merged_accuracy", "cost"])
    assert digests(one) == digests(two)
    assert two.objective == "merged_loss"


def test_weights_of_the_pareto_set_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costly(monkeypatch)
    from sweeper.storage import tables

    real = tables.write

    def with_weights(run: Any, output: Any) -> None:
        real(run, output)
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / f"{output.result.digest}.safetensors").touch()

    monkeypatch.setattr("sweeper.runner.jobs.write", with_weights)
    results = sweep(tmp_path, trials=20, objective=BOTH)
    front = {r["digest"] for r in find_pareto_set(results.trials.to_pylist(), BOTH)}
    kept = {p.stem for p in (tmp_path / "weights").glob("*.safetensors")}
    assert len(front) >= 3
    assert front <= kept
    assert len(kept) <= len(front) + 3


@pytest.mark.parametrize(("parameters", "kept"), [(1000, 12), (2**26, 3)])
def test_weights_of_small_models_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: int, kept: int
) -> None:
    """The model chooses the winner at the end; while there is room, the weights of no candidate are lost."""
    from dataclasses import replace

    from sweeper.storage import tables

    real = tables.write

    def with_weights(run: Any, output: Any) -> None:
        real(run, output)
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / f"{output.result.digest}.safetensors").touch()

    altered(monkeypatch, lambda _, result: replace(result, parameters=parameters))
    monkeypatch.setattr("sweeper.runner.jobs.write", with_weights)
    results = sweep(tmp_path, trials=12, objective="merged_loss")
    viable = results.trials["outcome"].to_pylist().count("ok")
    assert len(list((tmp_path / "weights").glob("*.safetensors"))) == min(kept, viable)


def test_the_study_gets_the_logarithm_of_the_cost() -> None:
    assert OBJECTIVES["cost"].tell({"outcome": "ok", "device_seconds": 20.0}) == pytest.approx(math.log(20.0))
    assert not OBJECTIVES["cost"].maximize

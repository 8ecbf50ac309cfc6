"""Trials that are stopped on Ray: told as pruned, written by the driver, done for a resume."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import sweeper
from sweeper import SweepSpec
from sweeper.runner.pruning import estimate_savings
from sweeper.runner.session import Session
from sweeper.storage.schema import SCHEMAS
from sweeper.storage.tables import read, read_trials
from tests.support.inline_sweeps import PLAIN

pytestmark = pytest.mark.ray
PARTS = ("trials", "merges", "history", "rungs")


def sweep(run: Path, **more: Any) -> sweeper.Results:
    settings: dict[str, Any] = {"space": "synthetic", "sampler": "tpe", "prune": True, "workers": 2, "seed": 3}
    return sweeper.run(SweepSpec(**{**settings, "fixed": {"epochs": 8}, "out": str(run), **more}))


def test_hopeless_trials_are_stopped_stored_and_reported_as_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    real = Session.__init__

    def remembered(self: Session, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        sessions.append(self)

    monkeypatch.setattr(Session, "__init__", remembered)
    run = tmp_path / "run"
    rows = sweep(run, trials=36).trials.to_pylist()
    assert [r["number"] for r in rows] == list(range(36))
    outcomes = Counter(r["outcome"] for r in rows)
    assert outcomes["ok"] >= 8
    assert outcomes["pruned"] >= 3
    assert outcomes["failed"] == 0
    assert sessions[0].status.pruned == outcomes["pruned"]
    rungs = read(run, "rungs").to_pylist()
    for row in rows:
        own = [r for r in rungs if r["digest"] == row["digest"]]
        assert {r["number"] for r in own} <= {row["number"]}
        if row["outcome"] == "pruned":
            assert own[-1]["step"] == row["pruned_step"] < row["steps"]
            assert (
                row["outcome_detail"].split(":")[0] in ("hopeless", "diverging") or "far from" in row["outcome_detail"]
            )
            assert row["merged_loss_val"] is None
            assert not list((run / "weights").glob(f"{row['digest']}*"))
        elif row["outcome"] == "ok":
            assert [r["rung"] for r in own] == [1, 2, 3]
    # nothing half written: every part of a trial belongs to a trial that is there
    digests = {r["digest"] for r in rows}
    assert all(p.stem in digests for table in PARTS for p in (run / table).iterdir())
    assert not list((run / ".tmp").iterdir())
    assert estimate_savings(rows) == (0.0, 0.0)  # the closed form takes no time

    # the study: pruned is never complete, and a resume knows it
    for trials in (36, 44):
        again = sweep(run, trials=trials, workers=1)
        assert again.trials.num_rows == trials
        rows = again.trials.to_pylist()
        states = Counter(t.state for t in sessions[-1].proposer.study.trials)  # type: ignore[attr-defined]
        assert states[TrialState.PRUNED] == sum(r["outcome"] == "pruned" for r in rows)
        assert states[TrialState.COMPLETE] == sum(r["outcome"] in ("ok", "diverged") for r in rows)
        assert sessions[-1].status.pruned == states[TrialState.PRUNED]
    assert {r["digest"] for r in rows} >= digests


def test_one_ray_worker_and_inline_prune_the_same_trials(tmp_path: Path) -> None:
    shared: dict[str, Any] = {
        "sampler": "noise",
        "trials": 24,
        "workers": 1,
        "repeats": 2,
        "stack": "off",
        "seed": 2,
        **PLAIN,
    }
    found: list[list[dict[str, Any]]] = []
    for runner in ("ray", "inline"):
        results = sweep(tmp_path / runner, runner=runner, **shared)
        keys = ("digest", "number", "repeat", "outcome", "outcome_detail", "pruned_step", "merged_loss_val")
        found.append([{k: r[k] for k in keys} for r in results.trials.to_pylist()])
    assert found[0] == found[1]
    pruned = [r for r in found[0] if r["outcome"] == "pruned"]
    assert pruned
    numbers = Counter(r["number"] for r in found[0])
    assert any(numbers[r["number"]] == 1 for r in pruned)  # the second repeat was not run
    assert all(r["repeat"] == max(o["repeat"] for o in found[0] if o["number"] == r["number"]) for r in pruned)


def test_real_pairs_are_stopped_with_their_history(tmp_path: Path) -> None:
    # a model whose merge is not finite at the first rung diverges there
    knobs = {"learning_rate": {"values": [0.05, 20.0]}}
    fixed = {"epochs": 4, "momentum": 0.9, "weight_decay": 1e-4, "augmentation_strength": 0.0, "batch_size": 64}
    results = sweep(
        tmp_path, space="digits_cnn", sampler="grid", trials=2, parameters=knobs, fixed=fixed, device="cpu", measure=0
    )
    rows = {r["learning_rate"]: r for r in results.trials.to_pylist()}
    assert rows[0.05]["outcome"] == "ok"
    assert rows[20.0]["outcome"] in ("pruned", "diverged")
    history = [h for h in read(tmp_path, "history").to_pylist() if h["digest"] == rows[20.0]["digest"]]
    if rows[20.0]["outcome"] == "pruned":
        assert max(h["step"] for h in history) == rows[20.0]["pruned_step"]
        assert {h["member"] for h in history} == {"a", "b"}
    assert set(read_trials(tmp_path).column_names) == set(SCHEMAS["trials"].names)

"""Counts of trials, and their warnings, each key once: at the end of a run, in status, on the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.trial_counts import (
    TrialWarning,
    count_costs,
    count_trials,
    count_warnings,
    format_lines,
    split_warnings,
)
from sweeper.cli.main import main
from trainables.pair import synthetic

INERT = "inert_weight_decay: eta lambda T / (1 - mu) is 0.01"
CLIP = "clipping: 0.2 of the steps were clipped"


def row(number: int | None, outcome: str, seconds: float | None = 1.0, detail: str = "") -> dict[str, Any]:
    return {
        "config": f"c{number}", "number": number, "outcome": outcome, "outcome_detail": detail,
        "device_seconds": seconds,
    }  # fmt: skip


def test_configurations_are_done_with_all_repeats_or_when_pruned() -> None:
    rows = [row(0, "ok"), row(0, "diverged", 2.0), row(1, "ok"), row(2, "pruned", float("nan"), "slow")]
    rows += [row(3, "failed"), row(3, "failed", None, "no disk"), row(None, "ok")]
    counts = count_trials(rows, repeats=2)
    assert (counts.trials, counts.configs, counts.done, counts.failed) == (7, 5, 2, 1)
    assert counts.outcomes == {"ok": 3, "failed": 2, "diverged": 1, "pruned": 1}
    assert counts.device_seconds == 6.0
    assert counts.first_details == {"diverged": "", "pruned": "slow", "failed": "no disk"}
    assert count_trials(rows).done == 3
    assert count_trials([row(0, "ok", None)]).device_seconds is None
    assert count_trials([]).device_seconds == 0.0


def test_warnings_are_counted_by_key_with_the_first_sentence() -> None:
    found = count_warnings([f"{INERT} | {CLIP}", "", None, "clipping: 0.7 of the steps were clipped"])
    assert found == [
        TrialWarning("clipping", "0.2 of the steps were clipped", 2),
        TrialWarning("inert_weight_decay", "eta lambda T / (1 - mu) is 0.01", 1),
    ]
    assert format_lines(found, 2)[0] == "clipping (all of 2 trials): 0.2 of the steps were clipped"
    assert format_lines(found, 4)[1] == "inert_weight_decay (1 of 4 trials): eta lambda T / (1 - mu) is 0.01"
    assert list(split_warnings("no key")) == [("no key", "no key")]


def test_a_sweep_says_each_warning_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, count = synthetic.record, iter(range(100))

    def record(*args: Any, **more: Any) -> Any:
        return real(*args, **more, warnings=[INERT] if next(count) % 2 else [INERT, CLIP])

    monkeypatch.setattr(synthetic, "record", record)
    run = tmp_path / "run"
    args = ["run", "synthetic", "--runner", "inline", "--sampler", "random", "--trials", "4", "--out", str(run)]
    assert main(args) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: inert_weight_decay: eta lambda T") == 1
    assert captured.err.count("warning: clipping: ") == 1
    assert main(["best", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "inert_weight_decay (all of 4 trials)" in said
    assert "clipping (2 of 4 trials): 0.2 of the steps were clipped" in said
    assert main(["status", str(run)]) == 0
    assert "clipping (2 of 4 trials)" in capsys.readouterr().out
    assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"][0].startswith("inert_weight_decay (all of 4")
    page = (run / "dashboard.html").read_text()
    assert "clipping (2 of 4 trials): 0.2 of the steps were clipped" in page


def _cost(stage: str | None, seconds: float, proxy: float | None = None, pruned: int | None = None) -> dict[str, Any]:
    trained = {"device_seconds": seconds, "seconds_train": seconds / 2, "steps": 100, "pruned_step": pruned}
    return {"stage": stage, "proxy": proxy, **trained}


def test_costs_by_stage_say_what_the_proxy_and_pruning_saved() -> None:
    rows = [_cost("pilot", 2.0, 0.25), _cost("map", 4.0, 0.25), _cost("search", 8.0, pruned=25), _cost("report", 5.0)]
    costs = count_costs(rows)
    assert costs.stages == {"map": 6.0, "search": 8.0, "confirm": 5.0}
    assert (costs.proxy, costs.saved_by_proxy, costs.saved_by_pruning) == (0.25, 9.0, 12.0)
    assert costs.describe() == (
        "map 6 s at 0.25 of the budget, search 8 s, confirm 5 s; the proxy saved 9 s of training; "
        "pruning saved 12 s of training"
    )
    assert count_costs([_cost(None, 3.0)]).describe() == ""

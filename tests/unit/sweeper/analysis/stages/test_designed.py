"""Designed trials: evidence rests on one training budget, the full one if it has enough noises."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from sweeper.analysis.best import rank_trials
from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.regime import fit_regime
from sweeper.analysis.scorecard.badge import summarize_verdict
from sweeper.analysis.stages.designed import find_share, select_budget, select_designed
from sweeper.search.stages import MAP, SEARCH
from tests.support.trial_rows import table, trial


def _rows(count: int, stage: str | None, **more: Any) -> list[dict[str, Any]]:
    where = f"{stage}{more.get('proxy', '')}{more.get('sampler', '')}"
    kinds = {"sampler": "noise", "stage": stage, **more}
    return [
        trial(f"{where}{i}", 0.03 - 0.004 * abs(i - 4) + more.get("better", 0.0), learning_rate=10 ** (i / 3 - 3),
              **{k: v for k, v in kinds.items() if k != "better"})
        for i in range(count)
    ]  # fmt: skip


def _shares(trials: pa.Table) -> list[float | None]:
    return sorted(set(trials["proxy"].to_pylist()), key=lambda v: v or 0.0)


def test_the_full_budget_comes_first() -> None:
    short, search = _rows(10, MAP, proxy=0.25), _rows(5, SEARCH)
    mapped = table([*short, *search])
    assert find_share(select_designed(mapped, "paper")) == 0.25
    assert select_designed(select_designed(mapped, "paper"), "paper").num_rows == 10
    assert _shares(select_budget(mapped, "paper")) == [0.25]
    few = table([*short, *search, *_rows(4, None, sampler="extend")])
    assert find_share(select_designed(few, "paper")) == 0.25
    extended = table([*short, *search, *_rows(8, None, sampler="extend")])
    assert select_designed(extended, "paper").num_rows == 8
    assert _shares(select_budget(extended, "paper")) == [None]


def test_without_designed_noises_the_budgets_stay_apart() -> None:
    assert _shares(select_designed(table([*_rows(3, MAP, proxy=0.25), *_rows(9, SEARCH)]), "paper")) == [None]
    assert select_designed(table(_rows(3, MAP, proxy=0.25)), "paper").num_rows == 3


def test_the_verdict_says_at_which_share_it_holds() -> None:
    mapped = table([*_rows(12, MAP, proxy=0.25), *_rows(5, SEARCH)])
    fit = fit_regime(mapped, "gain_mean", "paper")
    assert fit.proxy == 0.25
    assert fit.message.endswith("; this is at 0.25 of the budget.")
    analysis = analyse(mapped, "gain_mean", "paper", draws=40)
    assert "at 0.25 of the budget" in analysis.sentences[0]
    assert "at 0.25 of the budget" in summarize_verdict(analysis).reason
    few = summarize_verdict(analyse(table(_rows(7, MAP, proxy=0.25)), "gain_mean", "paper", draws=40))
    assert few.word == "Undetermined"
    assert few.reason.endswith(" at 0.25 of the budget")
    full = fit_regime(table([*_rows(12, MAP, proxy=0.25), *_rows(12, None, sampler="extend")]), "gain_mean", "paper")
    assert full.proxy is None
    assert "budget" not in full.message


def test_only_the_full_budget_wins() -> None:
    trials = table([*_rows(10, MAP, proxy=0.25, better=0.1), *_rows(5, SEARCH)])
    assert rank_trials(trials, "gain_mean")[0]["proxy"] is None
    assert rank_trials(table(_rows(10, MAP, proxy=0.25)), "gain_mean") == []


def test_tables_of_earlier_versions_have_the_full_budget() -> None:
    old = table(_rows(10, MAP)).drop_columns(["proxy"])
    assert select_designed(old, "paper").num_rows == 10
    assert find_share(old) is None
    assert rank_trials(old, "gain_mean") != []
    assert fit_regime(old, "gain_mean", "paper").proxy is None


@pytest.mark.parametrize("share", [None, 0.5])
def test_repeats_of_an_extension_train_in_full(share: float | None) -> None:
    from search_spaces import load
    from sweeper import SweepSpec
    from sweeper.analysis.evidence.needs import Need
    from sweeper.analysis.evidence.plan import plan_trials
    from sweeper.config.trials import build

    spec, space = SweepSpec.checked({"space": "synthetic", "proxy": share}), load("synthetic")
    params = {"learning_rate": 0.1, "batch_size": 16, "momentum": 0.9, "weight_decay": 1e-4,
              "augmentation_strength": 0.5}  # fmt: skip
    ran = build(spec, space, params, proxy=True)
    row = {"config": ran.config, "spec": ran.to_json(), "number": 3, "repeat": 0, "outcome": "ok", "proxy": share}
    plan = plan_trials([Need(2, "why", ran.config)], [row], None, spec, space, "paper", {})
    assert [s.epochs for s in plan.specs] == [8, 8]

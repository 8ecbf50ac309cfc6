"""Candidates of the stage confirm: leaders, and settings at several batch sizes."""

import math
from typing import Any

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces import Space
from sweeper import SweepSpec
from sweeper.analysis.stages.candidates import LEADER, SETTINGS, choose_candidates
from sweeper.errors import SpecError
from tests.support.settings_rows import settings_rows
from tests.support.trial_rows import table
from trainables.spec import PairSpec

SPEC = SweepSpec(space="synthetic", objective="gain_mean")
FIXED = {"dataset": "none", "model": "none", "trainable": "synthetic", "base": {"steps": 0}}
SPACE = Space(
    "sgd", FIXED, {"learning_rate": FloatDistribution(1e-3, 1.0, log=True), "batch_size": IntDistribution(8, 128)}
)


def hump(spec: PairSpec) -> float:
    return 0.05 * math.exp(-0.5 * (math.log(spec.learning_rate / spec.batch_size / 1e-3) / 1.2) ** 2)


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return settings_rows(SPACE, hump, 30)


def test_three_candidates_are_the_leader_and_settings_at_two_batch_sizes(rows: list[Any]) -> None:
    chosen = choose_candidates(SPEC, SPACE, table(rows), 3)
    assert [c.origin for c in chosen] == [LEADER, SETTINGS, SETTINGS]
    tried = [PairSpec.from_json(row["spec"]) for row in rows]
    leader = chosen[0].params
    assert any((t.learning_rate, t.batch_size) == (leader["learning_rate"], leader["batch_size"]) for t in tried)
    one, other = (c.params["batch_size"] for c in chosen[1:])
    assert max(one, other) == pytest.approx(4 * min(one, other), abs=2)
    for candidate in chosen:
        assert hump(SPACE.build(candidate.params, seed=0)) > 0.04


def test_more_candidates_take_turns(rows: list[Any]) -> None:
    origins = [c.origin for c in choose_candidates(SPEC, SPACE, table(rows), 4)]
    assert origins == [LEADER, SETTINGS, SETTINGS, LEADER]
    assert [c.origin for c in choose_candidates(SPEC, SPACE, table(rows), 1)] == [LEADER]


def test_without_a_model_the_leaders_are_the_best_observed(rows: list[Any]) -> None:
    few = sorted(rows, key=lambda row: -row["gain_mean_loss_val"])[:3]
    chosen = choose_candidates(SPEC, SPACE, table(few), 3)
    assert [c.origin for c in chosen] == [LEADER] * 3
    rates = [c.params["learning_rate"] for c in chosen]
    assert rates == [PairSpec.from_json(row["spec"]).learning_rate for row in few]


def test_a_sweep_of_failures_has_no_candidate(rows: list[Any]) -> None:
    broken = [{**row, "outcome": "diverged"} for row in rows]
    with pytest.raises(SpecError, match="no configuration is viable in all its repeats"):
        choose_candidates(SPEC, SPACE, table(broken), 3)

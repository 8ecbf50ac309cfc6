"""Plans of stages: sizes, order, positions, and resumes with another number of trials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.search.stages import CHOOSE, MAP, PILOT, REPORT, SEARCH, STAGES, StagePlan, plan_stages


def stages(plan: StagePlan) -> list[str]:
    return [plan.stage_of(number) for number in range(plan.total)]


def test_a_default_sweep_of_60_trials() -> None:
    plan = plan_stages(60, 0.5, 0.2)
    assert [(s.stage, len(s)) for s in plan.segments] == [
        (PILOT, 4), (MAP, 26), (SEARCH, 18), (CHOOSE, 6), (REPORT, 6)
    ]  # fmt: skip
    assert plan.measure_stage(0) == ("map", 30)
    assert plan.measure_stage(29) == ("map", 30)
    assert plan.measure_stage(30) == ("search", 18)
    assert plan.measure_stage(59) == ("confirm", 12)


def test_without_shares_every_trial_is_search() -> None:
    plan = plan_stages(7, 0.0, 0.0, enqueued=2)
    assert set(stages(plan)) == {SEARCH}
    assert not plan.staged


@pytest.mark.parametrize("trials", [1, 2, 3, 5, 10, 19])
def test_a_small_sweep_has_no_pilots_and_confirms_with_two_candidates_at_least(trials: int) -> None:
    found = stages(plan_stages(trials, 0.5, 0.2))
    assert PILOT not in found
    assert found.count(CHOOSE) + found.count(REPORT) in (0, round(0.2 * trials))
    assert (CHOOSE in found) == (round(0.2 * trials) >= 4)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.data())
def test_a_plan_fills_the_trials_in_the_order_of_the_stages(
    trials: int, map_share: float, share: float, data: st.DataObject
) -> None:
    confirm_share = share * (1 - map_share)
    enqueued = data.draw(st.integers(0, trials))
    plan = plan_stages(trials, map_share, confirm_share, enqueued)
    assert plan.total == trials
    found = stages(plan)[enqueued:]
    assert found == sorted(found, key=STAGES.index)
    assert abs(found.count(CHOOSE) - found.count(REPORT)) <= 1
    known = dict(enumerate(stages(plan)))
    assert plan_stages(trials, map_share, confirm_share, enqueued, known) == plan


@given(st.integers(4, 120), st.integers(1, 120), st.data())
def test_more_trials_keep_the_stages_of_those_that_ran(trials: int, more: int, data: st.DataObject) -> None:
    before = plan_stages(trials, 0.5, 0.2)
    ran = data.draw(st.integers(1, trials))
    known = {number: before.stage_of(number) for number in range(ran)}
    after = plan_stages(trials + more, 0.5, 0.2, known=known)
    assert after.total == trials + more
    assert stages(after)[:ran] == stages(before)[:ran]
    # a choice that began has a report after it
    found = stages(after)
    for number in range(1, len(found)):
        if found[number - 1] == CHOOSE and found[number] != CHOOSE:
            assert found[number] == REPORT


def test_a_finished_sweep_that_gets_more_trials_searches_and_confirms_again() -> None:
    before = plan_stages(40, 0.5, 0.2)
    after = plan_stages(60, 0.5, 0.2, known=dict(enumerate(stages(before))))
    assert [(s.stage, len(s)) for s in after.segments][-3:] == [(SEARCH, 16), (CHOOSE, 2), (REPORT, 2)]
    assert after.measure_stage(40) == ("search", 28)

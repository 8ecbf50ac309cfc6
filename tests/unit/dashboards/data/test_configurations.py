import math
import statistics
from dataclasses import replace

import pyarrow as pa
import pytest

from dashboards.data.configurations import (
    Estimate,
    estimate,
    find_anchor,
    group_configurations,
    make_overview,
    read_settings,
)
from sweeper.analysis.best import rank_configurations
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.schema import SCHEMAS
from sweeper.storage.tables import read_trials
from tests.support.fake_sweep import PARENT_LOSS, at_knobs, gain_at, trial, write_sweep

GAIN = "gain_mean_loss_val"


def test_an_estimate_is_mean_and_standard_error():
    assert estimate([1.0, 3.0, None, math.nan]) == Estimate(2.0, 1.0, 2)
    assert estimate([5.0]) == Estimate(5.0, None, 1)
    assert estimate([None, math.inf]) is None


def test_every_configuration_is_one_point_with_its_own_noise_and_score(trials):
    points = group_configurations(trials, "paper", [GAIN])
    assert [p.number for p in points] == list(range(60))
    for point in points:
        k = point.knobs
        assert point.noise == pytest.approx(k["learning_rate"] / k["batch_size"] / (1 - k["momentum"]))
        assert point.ok == (point.noise <= 0.3)
        if point.ok:
            assert point.values[GAIN].mean == pytest.approx(gain_at(point.noise), abs=0.02)
        else:
            assert point.values == {}


def test_a_point_knows_whether_a_result_chose_its_settings(trials):
    stages = pa.array(["pilot", "map", "search", "choose", "report", None] * 10, pa.string())
    staged = trials.set_column(trials.schema.get_field_index("stage"), "stage", stages)
    noise = pa.array(["noise"] * 60, pa.string())
    staged = staged.set_column(staged.schema.get_field_index("sampler"), "sampler", noise)
    points = group_configurations(staged, "paper", [GAIN])
    assert [p.designed for p in points] == [stage == "map" for stage in stages.to_pylist()]


def test_repeats_are_averaged_over_the_ok_ones(tmp_path):
    trials = read_trials(write_sweep(tmp_path / "run", trials=1, repeats=3))
    scores = trials.column(GAIN).to_pylist()
    (point,) = group_configurations(trials, "paper", [GAIN])
    assert len(point.digests) == 3
    assert point.values[GAIN].n == 3
    assert point.values[GAIN].mean == pytest.approx(statistics.fmean(scores))
    assert point.values[GAIN].error == pytest.approx(statistics.stdev(scores) / math.sqrt(3))


def test_a_noise_of_zero_has_no_place_on_a_log_axis(tmp_path):
    from sweeper.storage import tables

    output = trial(0, noises={"paper": 0.0})
    tables.write(tmp_path, output)
    (point,) = group_configurations(read_trials(tmp_path), "paper", [GAIN])
    assert point.noise is None


def test_a_point_can_win_where_the_leaderboard_has_it(trials):
    points = group_configurations(trials, "paper", [GAIN])
    gains = [s.mean for s in rank_configurations(trials, OBJECTIVES["gain_mean"])]
    assert gains == sorted(gains, reverse=True)
    assert gains == pytest.approx(sorted((p.values[GAIN].mean for p in points if p.can_win), reverse=True))
    assert len(gains) == sum(p.ok for p in points) < 60


def test_the_anchor_is_what_merging_nothing_gives(trials):
    assert find_anchor(trials, GAIN) == 0.0
    assert find_anchor(trials, "merged_loss_val") == pytest.approx(PARENT_LOSS)
    assert find_anchor(SCHEMAS["trials"].empty_table(), "merged_loss_val") is None


def test_the_overview_counts_and_sums(trials):
    found = make_overview(trials, 80)
    assert (found.trials, found.configs, found.budget, found.missing, found.synthetic) == (60, 60, 80, 20, 0)
    assert found.outcomes == {"ok": 57, "diverged": 3}
    assert found.device_seconds == pytest.approx(60 * 2.5)
    assert found.details == {"diverged": "the loss became nan in step 7"}


def test_a_configuration_tried_again_counts_towards_the_budget_and_an_extension_does_not():
    first, second = at_knobs(0).result, at_knobs(1).result
    again, extra = replace(first, digest="again", number=2, repeat=1), replace(at_knobs(3).result, number=None)
    rows = [r.to_row() for r in (first, second, again)] + [{**extra.to_row(), "sampler": "extend"}]
    found = make_overview(pa.Table.from_pylist(rows, schema=SCHEMAS["trials"]), 3)
    assert (found.configs, found.tried, found.added, found.missing) == (3, 3, 1, 0)


def test_a_sweep_falls_back_on_the_trials_and_says_what_it_could_not_read(trials):
    asked = read_settings({"space": "s", "trials": 9, "objective": "barrier", "noise": "linear", "seed": 3}, trials)
    assert (asked.space, asked.trials, asked.objective, asked.noise, asked.seed) == ("s", 9, "barrier", "linear", 3)
    assert asked.noise_label == "noise η/B [1/examples]"
    assert asked.doubts == ()
    bare = read_settings(None, trials)
    assert (bare.space, bare.trials, bare.seed) == ("fake_space", None, 0)
    assert (bare.objective, bare.noise) == ("merged_loss", "paper")
    assert "sweep.yaml" in bare.doubts[0]
    wrong = read_settings({"noise": "papier", "objective": ["x"], "trials": "many"}, trials)
    assert (wrong.noise, wrong.objective, wrong.trials) == ("paper", "merged_loss", None)
    assert len(wrong.doubts) == 2
    assert "papier" in " ".join(wrong.doubts)

"""The list of trials: filters and orders against the same in plain Python."""

import json
from dataclasses import replace

import pytest

from dashboards.app.figure_json import MANY, make_figure_json
from dashboards.charts.chart import make_figure
from dashboards.data.runs import Run
from dashboards.data.trial_rows import STAR, filter_rows, list_heads, rank_rows
from dashboards.text.trial_details import describe_trial, find_row
from dashboards.views.parents import read_scores
from sweeper.analysis.best import choose_winner
from sweeper.analysis.posterior import Posterior
from sweeper.search.objectives import OBJECTIVES
from tests.support.fake_sweep import run_of, trial

RULES = {
    "lessThan": lambda v, x: v < x,
    "greaterThanOrEqual": lambda v, x: v >= x,
    "equals": lambda v, x: v == x,
    "notEqual": lambda v, x: v != x,
}


@pytest.mark.parametrize("kind", RULES)
def test_number_filters(trials, kind):
    rule = {"batch_size": {"filterType": "number", "type": kind, "filter": 32}}
    found, trouble = filter_rows(trials, json.dumps(rule), "")
    wanted = [r["digest"] for r in trials.to_pylist() if RULES[kind](r["batch_size"], 32)]
    assert (found["digest"].to_pylist(), trouble) == (wanted, "")


def test_ranges_texts_blanks_and_orders(trials):
    rows = trials.to_pylist()
    rules = {
        "learning_rate": {"type": "inRange", "filter": 0.01, "filterTo": 1.0},
        "outcome": {"operator": "OR", "conditions": [{"type": "equals", "filter": "OK"}, {"type": "blank"}]},
        "gain_mean_loss_val": {"type": "notBlank"},
    }
    found, _ = filter_rows(trials, json.dumps(rules), json.dumps([{"colId": "momentum", "sort": "desc"}]))
    wanted = [r for r in rows if 0.01 <= r["learning_rate"] <= 1.0 and r["outcome"] == "ok"]
    assert sorted(found["digest"].to_pylist()) == sorted(r["digest"] for r in wanted)
    assert found["momentum"].to_pylist() == sorted((r["momentum"] for r in wanted), reverse=True)


@pytest.mark.parametrize(
    ("rules", "order", "trouble"),
    [
        ("{", "", "The filter in the address is not valid JSON of a filter, so all trials are shown."),
        ("[1]", "", "The filter in the address is not valid JSON of a filter, so all trials are shown."),
        ('{"nothing": {"type": "equals", "filter": 1}}', "", "The filter in the address names 'nothing', which is no "
         "column, so all trials are shown."),
        ('{"momentum": {"type": "near", "filter": 1}}', "", "The filter in the address has no valid rule for column "
         "'momentum', so all trials are shown."),
        ("", "{}", "The order in the address is not valid JSON of an order, so the best trials stand first."),
        ("", '[{"colId": "nothing", "sort": "asc"}]', "The order in the address names 'nothing', which is no column, "
         "so the best trials stand first."),
    ],
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_left_out_and_said(trials, rules, order, trouble):
    found, said = filter_rows(trials, rules, order)
    assert said == trouble
    assert found["digest"].to_pylist() == trials["digest"].to_pylist()


def test_an_invalid_filter_leaves_no_half_of_itself(trials):
    half = '{"momentum": {"type": "lessThan", "filter": 0}, "nothing": {"type": "blank"}}'
    assert filter_rows(trials, half, "")[0].num_rows == trials.num_rows


def test_heads_have_units_and_docs_and_no_empty_columns(trials):
    found = {h.name: h for h in list_heads(trials, "paper", "gain_mean_loss_val")}
    assert found["batch_size"].text == "B [examples]"
    assert found["merged_loss_val"].text == "merged loss val [nat]"
    assert "cross-entropy of linear merge" in found["merged_loss_val"].doc
    assert found["noise_paper"].doc.startswith("noise_paper: η/(B(1−μ)), arXiv 2510.04686")
    assert "warnings" in found
    assert all(trials[name].null_count < trials.num_rows for name in found if name != STAR)


def test_details_of_a_trial(trials):
    output = trial(5)
    row = find_row(trials, output.result.digest)
    import pyarrow as pa

    from sweeper.storage import tables as store

    tables = [
        pa.Table.from_pylist(store._records(rows), schema=store.SCHEMAS[name])
        for name, rows in (("history", output.history), ("merges", output.merges))
    ]
    run = Run("a-1", "my runs/a", None, None, {})
    found = describe_trial(row, run, *tables)
    digest = output.result.digest
    assert found.command == f"sweeper pair 'my runs/a' {digest}"
    served = replace(run, server="https://host:8000")
    assert describe_trial(row, served, *tables).command == f"sweeper pair a-1 {digest} --server https://host:8000"
    assert [c.key for c in found.charts] == ["training", "merges"]
    training, merges = (c.figure for c in found.charts)
    assert list(training.data[1].y) == pytest.approx([1 / e for e in range(1, 9)], rel=1e-5)
    assert list(merges.data[0].y) == pytest.approx(
        [m.loss_test for m in output.merges if m.method == "linear"], rel=1e-5
    )
    assert find_row(trials, "nothing") is None


def test_the_winner_beside_its_parents(trials):
    best = choose_winner(trials, "gain_mean", Posterior())
    found = read_scores(best)
    assert found.loss["chosen"] == best["chosen_loss_test"]
    assert found.accuracy["a"] == best["a_accuracy_test"]
    assert read_scores(None) is None


def test_many_points_are_drawn_by_webgl_as_typed_arrays():
    shown = make_figure()
    shown.add_scatter(x=list(range(MANY + 1)), y=[0.5] * (MANY + 1), mode="markers")
    shown.add_scatter(x=[1, 2], y=[3, None], mode="markers")
    found = make_figure_json(shown, "dark", "r")
    assert [t["type"] for t in found["data"]] == ["scattergl", "scatter"]
    assert found["data"][0]["x"]["dtype"] == "f8"
    assert list(found["data"][1]["y"]) == [3, None]
    assert found["layout"]["uirevision"] == "r"


def test_trials_come_best_first_with_the_star_on_top(trials):
    goal = OBJECTIVES["gain_mean"]
    rows = rank_rows(trials, goal).to_pylist()
    assert {r["digest"] for r in rows} == set(trials["digest"].to_pylist())
    ok = [r for r in rows if r["outcome"] == "ok"]
    assert rows[: len(ok)] == ok
    gains = [r["gain_mean_loss_val"] for r in ok]
    assert gains == sorted(gains, reverse=True)
    starred = ok[3]["config"]
    marked = rank_rows(trials, goal, starred).to_pylist()
    assert (marked[0]["config"], marked[0][STAR], marked[1][STAR]) == (starred, "★", "")
    losses = [r["merged_loss_val"] for r in rank_rows(trials, OBJECTIVES["merged_loss"]).to_pylist()[: len(ok)]]
    assert losses == sorted(losses)


def test_rank_keeps_the_order_of_equal_and_missing_scores():
    run = run_of([trial(0, scores={}), trial(1, outcome="diverged", scores={}), trial(2)])
    assert rank_rows(run.tables["trials"], OBJECTIVES["gain_mean"])["number"].to_pylist() == [2, 0, 1]

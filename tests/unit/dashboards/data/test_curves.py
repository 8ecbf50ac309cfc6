import math

import pyarrow as pa
import pytest

from dashboards.data.configurations import group_configurations, read_settings
from dashboards.data.curves import read_merge_curves, read_search_steps, thin_curves
from dashboards.text.best import make_best_table
from sweeper.analysis.posterior import Favourite
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage import tables as store
from tests.support.fake_sweep import BEST_NOISE, trial
from trainables.result import MergeRow

GAIN = "gain_mean_loss_val"


def _tables(tmp_path, *outputs) -> dict[str, pa.Table]:
    for output in outputs:
        store.write(tmp_path, output)
    return {"trials": store.read_trials(tmp_path), "merges": store.read(tmp_path, "merges")}


def _row(digest: str, method: str, coefficient: float, loss: float) -> MergeRow:
    names = ["loss_train", "loss_val", "accuracy_train", "accuracy_val", "accuracy_test"]
    raw = ["raw_loss_val", "raw_loss_test", "raw_accuracy_val", "raw_accuracy_test"]
    return MergeRow(digest, "c", method, coefficient, loss_test=loss, **dict.fromkeys([*names, *raw]))


def test_excess_is_measured_from_the_line_between_the_ends(tmp_path):
    output = trial(0)
    digest = output.result.digest
    linear = [_row(digest, "linear", a, v) for a, v in ((0.0, 1.0), (0.25, 1.0), (0.5, 3.0), (1.0, 2.0))]
    task = [_row(digest, "task_arithmetic", s, v) for s, v in ((0.0, 4.0), (0.5, 1.0))]
    broken = [_row(digest, "ties", s, v) for s, v in ((0.0, 4.0), (0.5, math.nan), (1.0, 3.0))]
    tables = _tables(tmp_path, type(output)(output.result, (*linear[::-1], *task, *broken)))
    curves = {c.method: c for c in read_merge_curves(tables["trials"], tables["merges"], "paper")}
    assert set(curves) == {"linear", "task_arithmetic"}
    assert curves["linear"].coefficient == (0.0, 0.25, 0.5, 1.0)
    assert curves["linear"].excess == pytest.approx((0.0, 1.0 - 1.25, 3.0 - 1.5, 0.0))
    assert curves["task_arithmetic"].values == (4.0, 1.0)
    assert curves["linear"].noise == pytest.approx(output.result.noises["paper"])


def test_curves_are_of_ok_trials_in_order_of_noise_and_thinned(tmp_path):
    tables = _tables(tmp_path, *(trial(i) for i in range(12)), trial(12, outcome="not_viable"))
    curves = read_merge_curves(tables["trials"], tables["merges"], "paper")
    linear = [c for c in curves if c.method == "linear"]
    ok = sum(o == "ok" for o in tables["trials"].column("outcome").to_pylist())
    assert len(linear) == ok < 13
    assert [c.noise for c in linear] == sorted(c.noise for c in linear)
    few = thin_curves(linear, 4)
    assert len(few) == 4
    assert (few[0], few[-1]) == (linear[0], linear[-1])
    assert thin_curves(linear, 1) == linear[:1]


def test_the_best_so_far_never_worsens_and_skips_what_diverged(run, trials):
    points = group_configurations(trials, "paper", [GAIN])
    steps = read_search_steps(points, store.read(run, "search"), OBJECTIVES["gain_mean"])
    best = [s.best for s in steps if s.best is not None]
    assert best == sorted(best)
    assert best[-1] == max(s.value for s in steps if s.value is not None)
    assert [s.number for s in steps] == list(range(60))
    assert {s.number for s in steps if s.value is None} == {p.number for p in points if not p.ok}
    assert steps[0].optimum is None
    assert steps[59].optimum == pytest.approx(BEST_NOISE * (1 + 1 / 60))
    assert steps[8].origin == "level_set"


def test_a_loss_is_searched_downwards(run, trials):
    points = group_configurations(trials, "paper", ["merged_loss_val"])
    steps = read_search_steps(points[:20], store.read(run, "search"), OBJECTIVES["merged_loss"])
    best = [s.best for s in steps if s.best is not None]
    assert best == sorted(best, reverse=True)
    assert best[-1] == min(s.value for s in steps if s.value is not None)


def test_the_best_table_ranks_by_validation_and_reports_test(trials):
    sweep = read_settings({"objective": "merged_loss", "noise": "paper"}, trials)
    table = make_best_table(trials, sweep, n=5)
    rows = sorted((r for r in trials.to_pylist() if r["outcome"] == "ok"), key=lambda r: r["merged_loss_val"])
    column = [c.text for c in table.head].index("merged loss")
    assert [r[1].text for r in table.rows] == [str(r["number"]) for r in rows[:5]]
    assert [r[column].text for r in table.rows] == [f"{r['merged_loss_test']:.3g}" for r in rows[:5]]
    assert all(len(r) == len(table.head) for r in table.rows)
    assert rows[0]["digest"] in table.rows[0][1].title
    assert table.head[column].title == "cross-entropy of linear merge at alpha = 1/2 on test [nat]"


def test_the_star_of_the_best_table_is_the_answers(trials):
    sweep = read_settings({"objective": "merged_loss", "noise": "paper"}, trials)
    rows = sorted((r for r in trials.to_pylist() if r["outcome"] == "ok"), key=lambda r: r["merged_loss_val"])
    model = Favourite(rows[1]["config"], 0.3, None)
    table = make_best_table(trials, sweep, 2, model, answer=rows[3]["config"])
    assert [r[0].text for r in table.rows] == ["1", "2 (best by the model)", "★ 4"]
    assert table.rows[2][0].title == "the answer's configuration"


def test_the_best_table_names_the_merge_that_was_chosen(tmp_path):
    choices = {0: (0.3,), 1: (1.0, 1.0), 2: (0.5, 0.0)}
    for number, coefficients in choices.items():
        for repeat, coefficient in enumerate(coefficients):
            store.write(tmp_path, trial(number, repeat, chosen_coefficient=coefficient, outcome="ok"))
    trials = store.read_trials(tmp_path)
    table = make_best_table(trials, read_settings({"objective": "gain_mean", "noise": "paper"}, trials))
    column = [c.text for c in table.head].index("chosen")
    cells = {r[1].text: r[column] for r in table.rows}
    expected = {
        "0": ("α = 0.3", "linear at 0.3"),
        "1": ("parent B", "parent B (no merge)"),
        "2": ("differs", "linear at 0.5; parent A (no merge)"),
    }
    assert {number: (cell.text, cell.title) for number, cell in cells.items()} == expected

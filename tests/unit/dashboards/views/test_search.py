import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest

from dashboards.charts.chart import frame_points
from dashboards.charts.knob_importance import draw_contour
from dashboards.charts.parallel_coordinates import draw_parallel, make_coordinates
from dashboards.charts.posterior import describe_posterior, draw_exponents
from dashboards.data.curves import read_search_steps, thin_steps
from dashboards.data.selection import Selection
from dashboards.page.page import read_run
from dashboards.text.failures import group_failures, make_failure_table
from dashboards.views import choices, search
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.stages.noise_exponents import choose_exponents
from sweeper.search.noise_sampler.explanation import Explanation
from sweeper.search.objectives import OBJECTIVES
from tests.support.fake_sweep import at_knobs, run_of, search_row, trial

GAIN = "gain_mean_loss_val"


@pytest.fixture(scope="module")
def sweep():
    return run_of(trial(i) for i in range(60))


def test_failures_are_grouped_by_outcome_and_words():
    ends = [("diverged", f"the loss became nan in step {i}") for i in range(4)]
    ends += [("not_viable", "accuracy .12 is below the floor"), ("failed", "")]
    bad = [trial(i, outcome=o, outcome_detail=d, scores={}) for i, (o, d) in enumerate(ends)]
    run = run_of([*bad, at_knobs(9)])
    found = group_failures(run.tables["trials"], "paper")
    assert [(f.outcome, f.trials) for f in found] == [("diverged", 4), ("not_viable", 1), ("failed", 1)]
    assert found[0].sentence == "the loss became nan in step 0"
    rates = [o.result.learning_rate for o in bad[:4]]
    assert found[0].knobs["learning_rate"] == (min(rates), max(rates))
    noises = [o.result.noises["paper"] for o in bad[:4]]
    assert found[0].noise == (min(noises), max(noises))
    table = make_failure_table(found)
    assert [c.text for c in table.rows[0][:3]] == ["diverged", "4", "0"]
    assert table.rows[0][3].text == f"{min(noises):.3g} – {max(noises):.3g}"
    assert table.rows[2][-1].text == "no reason is stored"
    card = search.build(run, Selection()).tables[-1]
    assert card.caption == "6 of 7 trials failed or cannot win."


def test_a_sweep_without_failures_says_so():
    card = search.build(run_of(at_knobs(i) for i in range(4)), Selection()).tables[-1]
    assert card.caption == "4 trials are all ok."
    assert card.table.rows == ()


def test_parallel_coordinates_run_from_foot_to_top(sweep):
    points = choices.group_points(sweep, "paper", (GAIN,))
    measure = choices.make_measure(sweep, "gain_mean", "val")
    found = {c.title.split("<br>")[0]: c for c in make_coordinates(points, measure, "1/examples")}
    assert list(found) == ["η", "B", "μ", "λ", "augmentation", "noise", "score"]
    rates = np.log10([p.knobs["learning_rate"] for p in points])
    assert found["η"].place == pytest.approx((rates - rates.min()) / np.ptp(rates))
    momenta = np.log10([1 / (1 - p.knobs["momentum"]) for p in points])
    assert found["μ"].place == pytest.approx(momenta / momenta.max())
    assert {text: share for share, text in found["B"].ticks}["32"] == pytest.approx(0.5)
    scored = [p.values[GAIN].mean if p.values else np.nan for p in points]
    assert np.nanargmax(found["score"].place) == np.nanargmax(scored)
    loss = choices.make_measure(sweep, "merged_loss", "val")
    losses = choices.group_points(sweep, "paper", ("merged_loss_val",))
    (*_, score) = make_coordinates(losses, loss, "1/examples")
    lowest = np.nanargmin([p.values["merged_loss_val"].mean if p.values else np.nan for p in losses])
    assert np.nanargmax(score.place) == lowest  # the best stands at the top
    assert frame_points(losses, loss).cut < max(p.values["merged_loss_val"].mean for p in losses if p.values)
    assert np.nanmin(score.place) == 0.0


def test_the_best_lines_are_in_colour(sweep):
    points = choices.group_points(sweep, "paper", (GAIN,))
    chart = draw_parallel(points, choices.make_measure(sweep, "gain_mean", "val"), "1/examples")
    lines = {t.name: sum(v is None for v in t.y) for t in chart.figure.data}
    assert lines == {"other": 51, "best tenth": 6}
    assert "orange" not in chart.caption
    assert "Left out: 3 without a score" in chart.caption


def test_the_orange_line_and_the_star_are_the_answers(sweep):
    points = choices.group_points(sweep, "paper", (GAIN,))
    measure = choices.make_measure(sweep, "gain_mean", "val")
    answer = next(p for p in points if p.values and p.values[GAIN].mean < 0)
    lines = {t.name: t for t in draw_parallel(points, measure, "1/examples", answer.config).figure.data}
    assert {n: sum(v is None for v in t.y) for n, t in lines.items()} == {
        "other": 50,
        "best tenth": 6,
        "the answer's": 1,
    }
    assert draw_contour(points, measure, ("learning_rate", "batch_size")).caption.count("★") == 0
    contour = draw_contour(points, measure, ("learning_rate", "batch_size"), answer.config)
    star = next(t for t in contour.figure.data if t.name == "the answer's")
    assert list(star.x) == [pytest.approx(answer.knobs["learning_rate"], rel=1e-3)]
    assert f"★ the answer's configuration ({answer.values[GAIN].mean:.3g})" in contour.caption


def test_the_posterior_says_which_best_noise_to_use():
    posterior = ((0.01, 0.25), (0.02, 0.5), (0.04, 0.25))
    found = Explanation("paper", {}, optimum=0.02, optimum_low=0.01, optimum_high=0.04, posterior=posterior, trials=60,
                        configs=44)  # fmt: skip
    words = describe_posterior(found)
    assert words.startswith("Model of 60 trials of 44 configurations from any sampler: best noise 0.02,")
    assert "the one to use is the verdict's" in words


def test_exponents_stand_beside_the_definitions():
    found = Explanation("paper", {"learning_rate": 1.0, "batch_size": -0.8}, {"batch_size": -1.1}, {"batch_size": -0.5},
                        trials=30)  # fmt: skip
    believed = Posterior(found, {"learning_rate": 1.0, "batch_size": -1.0})
    chart = draw_exponents(choose_exponents(None, believed.record(), "paper"), "paper")
    given, fitted = chart.figure.data
    assert list(fitted.y) == ["η", "1/B"]
    assert list(given.x) == [1.0, 1.0]
    assert list(fitted.x) == [1.0, 0.8]
    assert list(fitted.error_x.array) == pytest.approx([0.0, 0.3])
    assert list(fitted.error_x.arrayminus) == pytest.approx([0.0, 0.3])
    assert list(fitted.text) == ["as given", "0.80 (0.50 to 1.10)"]


def test_thinned_steps_keep_every_improvement(sweep):
    points = choices.group_points(sweep, "paper", (GAIN,))
    table = run_of([]).tables["search"]
    steps = read_search_steps(points, table, OBJECTIVES["gain_mean"])
    few = thin_steps(steps, 10)
    assert len(few) < 25
    assert (few[0], few[-1]) == (steps[0], steps[-1])
    assert {s.best for s in few} == {s.best for s in steps}
    assert thin_steps(steps, 60) == steps


def test_the_search_is_that_of_the_objective_on_validation():
    run = run_of(at_knobs(i) for i in range(6))
    section = search.build(run, Selection(metric="merged_accuracy", split="test"))
    assert {"progress", "parallel"} <= {c.key for c in section.charts}
    assert "validation loss gain" in section.charts[0].figure.layout.yaxis.title.text.replace("<br>", " ")
    assert section.notes == ()


def test_the_importance_rests_on_designed_trials_and_says_what_is_inert():
    rng = np.random.default_rng(0)
    outputs = []
    for i in range(60):
        # the map: the learning rate decides; the search: good scores at ever lower decay
        searched = i >= 30
        rate = 0.05 if searched else 10 ** rng.uniform(-3, 0)
        decay = 10 ** (rng.uniform(-6, -5) if searched else rng.uniform(-4, -1))
        output = at_knobs(i, learning_rate=rate, weight_decay=decay, batch_size=16, momentum=0.9)
        warnings = "inert_weight_decay: weight decay is inert" if i % 2 else ""
        stage = "search" if searched else "map"
        outputs.append(
            replace(output, result=replace(output.result, sampler="noise", stage=stage, warnings=warnings or None))
        )
    charts = {c.key: c for c in search.build(run_of(outputs), Selection()).charts}
    chart, alone = charts["importance"], search.build(run_of(outputs[:30]), Selection()).charts
    same = next(c for c in alone if c.key == "importance")
    assert list(chart.figure.data[0].y) == list(same.figure.data[0].y)
    assert list(chart.figure.data[0].x) == list(same.figure.data[0].x)
    assert chart.figure.data[0].y[0] == "learning rate η"
    assert "30 viable configurations of designed trials." in chart.caption
    assert "since results chose them" in chart.caption
    assert "in 30 of 60 trials (inert_weight_decay)" in chart.caption
    assert "designed" not in same.caption


def test_several_objectives_have_their_pareto_set(tmp_path):
    import yaml

    from tests.support.fake_sweep import write_sweep

    run = write_sweep(tmp_path / "run", trials=12, budget=12)
    settings = {"space": "digits_cnn", "trials": 12, "objective": "merged_loss", "further_objectives": ["gain_mean"]}
    (run / "sweep.yaml").write_text(yaml.safe_dump({**settings, "noise": "paper", "seed": 0}))
    found = search.find_front(read_run(str(run)))
    section = search.build(read_run(str(run)), Selection())
    assert "front" in [c.key for c in section.charts]
    table = next(t for t in section.tables if t.key == "front-table")
    assert len(table.table.rows) == len(found) >= 1
    assert search_row(0).number == 0


def test_what_is_not_known_is_said():
    assert "No trial has finished" in search.build(run_of([]), Selection()).banners[0]
    section = search.build(run_of(trial(i, outcome="diverged", scores={}) for i in range(3)), Selection())
    assert "parallel" not in [c.key for c in section.charts]


def test_searched_entries_of_fields_are_knobs_of_every_figure():
    outputs = []
    for i in range(24):
        spec = {"noise_schedule": {"kind": "linear", "end": 0.25 * 1.12**i}, "decay": 0.02 * (i % 12)}
        output = at_knobs(i, scatter=0.01 * (i % 12))
        outputs.append(replace(output, result=replace(output.result, spec=json.dumps(spec))))
    run = run_of(outputs)
    names = {"noise_schedule.end": 1.0, "noise_schedule.kind": "linear", "decay": 0.1, "learning_rate": 0.1}
    rows = pa.Table.from_pylist([asdict(replace(search_row(i), params=json.dumps(names))) for i in range(24)],
                                schema=run.tables["search"].schema)  # fmt: skip
    run = replace(run, tables={**run.tables, "search": rows})
    points = choices.group_points(run, "paper", ("gain_mean_loss_val",))
    assert points[3].knobs["noise_schedule.end"] == pytest.approx(0.25 * 1.12**3)
    assert "noise_schedule.kind" not in points[3].knobs  # no number
    charts = {c.key: c for c in search.build(run, Selection()).charts}
    bars = charts["importance"].figure.to_dict()["data"][0]["y"]
    assert {"noise_schedule.end", "decay"} <= set(bars)
    axes = charts["parallel"].figure.layout.xaxis.ticktext
    assert {"noise_schedule.end", "decay"} <= set(axes)
    assert len(axes) == 9

from dataclasses import replace

import numpy as np
import pytest

from dashboards.charts.alignment import fit_curve, rank_orderings, smooth_curve
from dashboards.charts.chart import describe
from dashboards.charts.colours import QuantileScale
from dashboards.data.configurations import KNOBS, group_configurations
from dashboards.data.selection import Selection
from dashboards.views import collapse, verdicts
from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.evidence.linear import Basis
from sweeper.search.objectives import OBJECTIVES
from tests.support.fake_sweep import at_knobs, run_of, trial

GAIN = "gain_mean_loss_val"


@pytest.fixture(scope="module")
def sweep():
    return run_of(trial(i) for i in range(60))


@pytest.fixture(autouse=True)
def _no_verdict(monkeypatch):
    # it takes seconds, and only the table of the named noises shows it
    monkeypatch.setattr(collapse, "ask", lambda *_: (None, True))


def _panels(chart):
    """Title of the x axis -> its traces."""
    figure = chart.figure.to_dict()
    found = {}
    for trace in figure["data"]:
        axis = figure["layout"]["xaxis" + trace.get("xaxis", "x").removeprefix("x")]
        found.setdefault(axis["title"]["text"], []).append(trace)
    return found


def test_the_curve_is_as_free_as_left_out_errors_bear_out():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 60)
    wave, line = np.sin(6 * x) + rng.normal(0, 0.05, 60), x + rng.normal(0, 0.3, 60)
    assert fit_curve(x, wave).basis(x).shape[1] > fit_curve(x, line).basis(x).shape[1]
    curve = smooth_curve(x, wave)
    assert curve.heights == pytest.approx(np.sin(6 * curve.places), abs=0.15)


def test_a_curve_through_many_points_is_fitted_to_some():
    x = np.linspace(0, 1, 5000)
    curve = smooth_curve(x, np.cos(3 * x))
    assert curve.heights == pytest.approx(np.cos(3 * curve.places), abs=0.02)


def test_a_shuffled_axis_predicts_nothing():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, 200)
    y = rng.normal(size=200)
    assert np.var(fit_curve(x, y).residual) > 0.95 * np.var(y)


def test_a_curve_over_few_levels_is_their_means():
    x = np.array([1.0, 1.0, 2.0, 2.0, 3.0])
    curve = smooth_curve(x, np.array([0.0, 2.0, 5.0, 7.0, 1.0]))
    assert curve.places.tolist() == [1.0, 2.0, 3.0]
    assert curve.heights == pytest.approx([1.0, 6.0, 1.0])


def test_every_panel_shows_the_same_configurations_at_their_own_knob(sweep):
    (chart, *_) = collapse.build(sweep, Selection()).charts
    panels = _panels(chart)
    assert list(panels) == [
        "noise η/(B(1−μ)) [1/examples]",
        "learning rate η",
        "batch size B [examples]",
        "momentum μ, as 1/(1−μ)",
        "weight decay λ",
        "augmentation strength",
    ]
    values = {title: next(t for t in traces if t["name"] == "value") for title, traces in panels.items()}
    assert len({tuple(t["y"]) for t in values.values()}) == 1
    points = group_configurations(sweep.tables["trials"], "paper", [GAIN])
    by_text = {describe(p, GAIN): p for p in points}
    shown = values["momentum μ, as 1/(1−μ)"]
    assert len(shown["x"]) > 30
    for x, y, text in zip(shown["x"], shown["y"], shown["text"], strict=True):
        assert x == pytest.approx(1 / (1 - by_text[text].knobs["momentum"]), rel=1e-5)
        assert y == pytest.approx(by_text[text].values[GAIN].mean, rel=1e-5)
    for traces in panels.values():
        assert sum(len(t["x"]) for t in traces if t["mode"] == "markers") == 60


def test_a_panel_has_no_line_where_no_configuration_lies():
    apart = [at_knobs(i, learning_rate=r) for i, r in enumerate(np.geomspace(1e-3, 3e-3, 12))]
    apart += [at_knobs(12 + i, learning_rate=r) for i, r in enumerate(np.geomspace(0.1, 0.3, 12))]
    chart = collapse.build(run_of(apart), Selection()).charts[0]
    assert "Curves are dotted where no data lie." in chart.caption
    traces = _panels(chart)["learning rate η"]
    line = next(t for t in traces if t["name"] == "smooth curve")
    faint = next(t for t in traces if t["name"] == "smooth curve without data nearby")
    inside = [i for i, x in enumerate(line["x"]) if 0.008 < x < 0.04]
    assert len(inside) > 10
    assert all(line["y"][i] is None and faint["y"][i] is not None for i in inside)
    assert faint["line"]["dash"] == "dot"


def test_the_r2_in_the_panels_is_that_of_the_ranking(sweep):
    section = collapse.build(sweep, Selection())
    order = {a.name: a for a in collapse.rank_run(sweep, "gain_mean", "val", "paper")}
    notes = [a["text"] for a in section.charts[0].figure.to_dict()["layout"]["annotations"]]
    assert notes == [f"R² {order[name].r2:.3g}" for name in ("paper", *KNOBS)]
    assert f"by the noise paper: {order['paper'].r2:.3g} (n = {order['paper'].n})" in section.verdicts[0]
    dots = {y: x for t in section.charts[1].figure.data for x, y in zip(t.x, t.y, strict=True)}
    assert dots == pytest.approx({a.label: max(-0.5, a.r2) for a in order.values()}, rel=1e-5)


def test_a_left_out_configuration_is_predicted_without_it():
    run = run_of(at_knobs(i) for i in range(30))
    rows = [r for r in run.tables["trials"].to_pylist() if r["gain_mean_loss_val"] > -0.02]
    run = run_of(at_knobs(r["number"]) for r in rows)  # no tail to tame
    x = np.log([r["noise_paper"] for r in rows])
    y = np.array([r["gain_mean_loss_val"] for r in rows])
    errors = []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        basis = Basis.of(x[rest])  # constant beyond the others
        columns = np.column_stack([np.ones(len(x)), basis(x)])
        errors.append(y[i] - columns[i] @ np.linalg.lstsq(columns[rest], y[rest], rcond=None)[0])
    found = {a.name: a for a in rank_orderings(run.tables["trials"], OBJECTIVES["gain_mean"], "paper")}
    expected = 1 - np.sum(np.square(errors)) / np.sum((y - y.mean()) ** 2)
    assert found["paper"].r2 == pytest.approx(expected, abs=0.02)
    assert found["paper"].r2 > max(a.r2 for a in found.values() if not a.is_noise)


def test_colours_follow_the_choice(sweep):
    by_noise, by_batch, by_outcome = (
        _panels(collapse.build(sweep, Selection(colour=c)).charts[0])["learning rate η"]
        for c in ("", "batch_size", "outcome")
    )
    points = {describe(p, GAIN): p for p in group_configurations(sweep.tables["trials"], "paper", [GAIN])}
    first = next(t for t in by_noise if t["name"] == "value")
    scale = QuantileScale.of(np.array([p.noise for p in points.values()]))
    expected = scale.share(np.array([points[t].noise for t in first["text"]]))
    assert first["marker"]["color"] == pytest.approx(expected, abs=1e-3)
    first = next(t for t in by_batch if t["name"] == "value")
    scale = QuantileScale.of(np.array([p.knobs["batch_size"] for p in points.values()]))
    expected = scale.share(np.array([points[t].knobs["batch_size"] for t in first["text"]]))
    assert first["marker"]["color"] == pytest.approx(expected, abs=1e-3)
    assert next(t for t in by_outcome if t["name"] == "ok")["marker"]["symbol"] == "circle"
    offered = dict(next(c for c in collapse.make_controls(sweep, Selection()) if c.field == "colour").options)
    assert set(offered) == {
        "noise", "learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength", "outcome",
    }  # fmt: skip


def test_runs_read_as_one_can_be_told_apart():
    outputs = [trial(i, seed=s) for s in (0, 1) for i in range(10)]
    run = run_of(outputs)
    names = ["first"] * 10 + ["second"] * 10
    run.tables["trials"] = run.tables["trials"].append_column("run", [names])
    traces = _panels(collapse.build(run, Selection(colour="run")).charts[0])["noise η/(B(1−μ)) [1/examples]"]
    assert {"first", "second"} <= {t["name"] for t in traces}
    assert "run" in dict(collapse.make_controls(run, Selection())[2].options)


def test_metric_split_and_noise_are_those_selected(sweep):
    chosen = Selection(metric="merged_accuracy", split="test", noise="linear")
    figure = collapse.build(sweep, chosen).charts[0].figure.to_dict()
    assert figure["layout"]["xaxis"]["title"]["text"] == "noise η/B [1/examples]"
    assert figure["layout"]["yaxis"]["title"]["text"].replace("<br>", " ") == "merged test accuracy [%]"
    assert figure["layout"]["yaxis"]["tickformat"] == ".1%"
    rows = sweep.tables["trials"].to_pylist()
    known = {f"{r['merged_accuracy_test']:.6g}" for r in rows if r["merged_accuracy_test"] is not None}
    value = next(t for t in figure["data"] if t["name"] == "value")
    assert {f"{y:.6g}" for y in value["y"]} <= known


def test_repeats_have_bars_of_their_standard_error():
    gains = (0.0, 0.004)
    run = run_of(at_knobs(i, r, scatter=g) for i in range(12) for r, g in enumerate(gains))
    chart = collapse.build(run, Selection()).charts[0]
    value = next(t for t in chart.figure.to_dict()["data"] if t["name"] == "value")
    assert value["error_y"]["array"] == pytest.approx([0.002] * len(value["x"]), rel=1e-4)
    assert "Error bars are standard errors" in chart.caption


def test_many_configurations_are_thinned_and_the_best_stay(monkeypatch, sweep):
    monkeypatch.setattr(collapse, "MARKERS", 240)
    section = collapse.build(sweep, Selection())
    assert "Drawn: 33 of 60 configurations" in section.charts[0].caption
    traces = _panels(section.charts[0])["learning rate η"]
    assert sum(len(t["x"]) for t in traces if t["mode"] == "markers") == 33
    best = max(p.values[GAIN].mean for p in group_configurations(sweep.tables["trials"], "paper", [GAIN]) if p.values)
    assert max(next(t for t in traces if t["name"] == "value")["y"]) == pytest.approx(best, rel=1e-5)


def test_the_named_noises_are_ranked_by_the_evidence(monkeypatch):
    monkeypatch.setattr(collapse, "ask", verdicts.ask)
    run = run_of(at_knobs(i) for i in range(14))
    analysis = analyse(run.tables["trials"], "gain_mean", "paper", split="val")
    card = collapse.build(run, Selection()).tables[0]
    assert [r[0].text for r in card.table.rows] == [r.name for r in analysis.ranking.rows]
    assert card.table.rows[0][1].text == f"{analysis.ranking.rows[0].r2:.3g}"
    # the figure and the table say the same
    order = {a.name: a.r2 for a in collapse.rank_run(run, "gain_mean", "val", "paper")}
    named = {r.name: r.r2 for r in analysis.ranking.rows if r.name in order}
    assert len(named) > 5
    assert {n: order[n] for n in named} == pytest.approx(named)
    assert card.caption.startswith(f"Computed on the {analysis.ranking.n} configurations")
    assert all(len(row) == len(card.table.head) for row in card.table.rows)
    assert collapse.build(run, Selection(metric="accuracy_gain")).tables == ()
    few = run_of(at_knobs(i) for i in range(5))
    assert "Not ranked" in collapse.build(few, Selection()).tables[0].caption


def test_curves_and_r2_rest_on_the_trials_of_the_verdict(monkeypatch):
    monkeypatch.setattr(collapse, "ask", verdicts.ask)
    staged = [at_knobs(i) for i in range(24)]
    # a search at low decay, whose gains the noise does not explain
    staged += [at_knobs(24 + i, weight_decay=1e-6 * (1 + i), scatter=0.05 * (-1) ** i) for i in range(20)]
    outputs = [
        replace(o, result=replace(o.result, sampler="noise", stage="map" if i < 24 else "search"))
        for i, o in enumerate(staged)
    ]
    run, alone = run_of(outputs), run_of(outputs[:24])
    section = collapse.build(run, Selection())
    figure, ranking = section.charts[:2]
    analysis = analyse(run.tables["trials"], "gain_mean", "paper", split="val")
    assert analysis.set_aside == 20
    table = {r[0].text: r[1].text for r in section.tables[0].table.rows}
    dots = {y.partition(":")[0]: x for t in ranking.figure.data for x, y in zip(t.x, t.y, strict=True)}
    named = [n for n in table if n in dots]
    assert len(named) > 5
    assert {n: f"{dots[n]:.3g}" for n in named if dots[n] > -0.5} == {n: table[n] for n in named if dots[n] > -0.5}
    rows = "Curves and R² rest on 24 designed trials, as the verdict does; the other 20 enter neither."
    assert rows in figure.caption
    assert rows in ranking.caption
    assert ranking.title == "R² per noise and knob, on the trials of the verdict"
    assert section.tables[0].caption.startswith(f"Computed on the {analysis.ranking.n} configurations of the designed ")
    # all configurations are drawn, the curve is that of the designed ones
    drawn, only = (_panels(collapse.build(r, Selection()).charts[0])["learning rate η"] for r in (run, alone))
    assert sum(len(t["x"]) for t in drawn if t["mode"] == "markers") == 44
    line, expected = (next(t for t in traces if t["name"] == "smooth curve") for traces in (drawn, only))
    assert line["x"] == expected["x"]
    assert "rest on" not in collapse.build(alone, Selection()).charts[0].caption


def test_what_is_not_known_is_said():
    assert "No trial has finished" in collapse.build(run_of([]), Selection()).banners[0]
    diverged = run_of(trial(i, outcome="diverged", scores={}) for i in range(6))
    section = collapse.build(diverged, Selection())
    assert "No configuration has a value" in section.banners[0]
    assert sum(len(t["x"]) for t in section.charts[0].figure.data if t.name == "diverged") == 6 * 6
    knobs = {"learning_rate": 0.1, "batch_size": 16, "momentum": 0.9}
    one = run_of(at_knobs(i, **knobs) for i in range(9))
    section = collapse.build(one, Selection())
    assert "All trials have the same paper noise" in section.banners[0]
    assert "η is 0.1, B is 16, μ is 0.9" in section.notes[0]
    assert section.verdicts == ()

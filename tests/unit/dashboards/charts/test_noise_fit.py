import json
import math
from dataclasses import replace

import pytest

from dashboards.charts.chart import Measure, describe
from dashboards.charts.merge_curves import draw_curves, draw_gains, draw_normalised
from dashboards.charts.noise_fit import draw_noise_fit
from dashboards.charts.search_history import draw_progress
from dashboards.charts.theme import GREY
from dashboards.charts.two_noises import compare_noises, draw_comparison
from dashboards.data.configurations import group_configurations
from dashboards.data.curves import read_merge_curves, read_merge_gains, read_search_steps
from sweeper.analysis.regime import fit_regime
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage import tables
from tests.support.fake_sweep import PARENT_LOSS, trial

GAIN = Measure("gain_mean", "gain_mean_loss_val", "gain_mean_loss_test", "loss gain [nat]", True, 0.0)
LOSS = Measure("merged_loss", "merged_loss_val", "merged_loss_test", "merged loss [nat]", False, PARENT_LOSS)
LABEL = "noise η/(B(1−μ)) [1/examples]"


@pytest.fixture(scope="module")
def points(trials):
    return group_configurations(trials, "paper", [m for x in (GAIN, LOSS) for m in (x.column, x.test_column)])


def _traces(chart) -> dict[str, dict]:
    return {t.get("name", ""): t for t in json.loads(chart.figure.to_json())["data"]}


@pytest.mark.parametrize("measure", [GAIN, LOSS])
def test_every_configuration_is_drawn_once_at_its_value_or_at_the_edge(points, measure):
    traces = _traces(draw_noise_fit(points, measure, LABEL, "title"))
    beyond = "below the frame" if measure.maximize else "above the frame"
    drawn = [traces[n] for n in ("validation", beyond, "diverged")]
    assert sum(len(t["x"]) for t in drawn) == 60
    assert len(traces["diverged"]["x"]) == 3
    at = dict(zip(traces["validation"]["x"], traces["validation"]["y"], strict=True))
    inside = [p for p in points if p.ok and float(f"{p.noise:.6g}") in at]
    assert len(inside) == len(at)
    for p in inside:
        assert at[float(f"{p.noise:.6g}")] == pytest.approx(p.values[measure.column].mean, rel=1e-5)


def test_the_caption_counts_what_is_not_at_its_value(points):
    chart = draw_noise_fit(points, GAIN, LABEL, "title")
    clipped = len(_traces(chart)["below the frame"]["x"])
    assert clipped > 1
    assert chart.caption.startswith("● validation, ○ test. ")
    assert f"{clipped} configurations below the frame appear as ▼ at its edge." in chart.caption
    assert "3 configurations without a value appear along the edge (✖ diverged)" in chart.caption


def test_the_fit_its_optimum_and_interval_are_drawn(trials, points):
    regime = fit_regime(trials, "gain_mean", "paper")
    traces = _traces(draw_noise_fit(points, GAIN, LABEL, "title", regime))
    drawn = [(y, m) for y, m in zip(traces["fit to validation"]["y"], regime.mean, strict=True) if y is not None]
    assert len(drawn) > 150
    assert [y for y, _ in drawn] == pytest.approx([m for _, m in drawn], rel=1e-5)
    optimum = next(t for name, t in traces.items() if name.startswith("optimum 0"))
    assert optimum["x"] == [regime.optimum, regime.optimum]
    assert set(traces["optimum's 90 % interval"]["x"]) == {regime.low, regime.high}
    band = traces["90 % band of the fit"]
    assert len(band["x"]) == len(band["y"]) > len(regime.grid)


def test_points_that_results_chose_look_different_beside_a_fit_of_the_map(trials, points):
    regime = replace(fit_regime(trials, "gain_mean", "paper"), adaptive=False)
    mixed = [replace(p, designed=i % 3 > 0) for i, p in enumerate(points)]
    chart = draw_noise_fit(mixed, GAIN, LABEL, "title", regime)
    traces = _traces(chart)
    designed = [float(f"{p.noise:.6g}") for p in mixed if p.designed and GAIN.column in p.values]
    assert traces["validation, search"]["marker"]["symbol"] == "square"
    assert set(traces["validation, map"]["x"]) <= set(designed)
    assert not set(traces["validation, search"]["x"]) & set(designed)
    assert "■ of pilots, search and fresh pairs" in chart.caption
    assert chart.caption.endswith("so its points lie beyond the fit.")
    assert "validation" in _traces(draw_noise_fit(points, GAIN, LABEL, "title", regime))


def test_where_no_data_lie_the_curve_is_faint_and_has_no_band(trials, points):
    regime = fit_regime(trials, "gain_mean", "paper")
    middle = math.sqrt(regime.grid[0] * regime.grid[-1])
    outer = [p for p in points if not p.noise or not 0.2 * middle < p.noise < 5 * middle]
    chart = draw_noise_fit(outer, GAIN, LABEL, "title", regime)
    traces = _traces(chart)
    at = [i for i, x in enumerate(regime.grid) if 0.6 * middle < x < 1.6 * middle]
    assert all(traces["fit to validation"]["y"][i] is None for i in at)
    assert all(traces["fit to validation without data nearby"]["y"][i] is not None for i in at)
    assert all(traces["end of the band"]["y"][i] is None for i in at)
    assert "dotted where no data lie" in chart.caption


def test_points_of_the_search_do_not_hold_a_fit_of_the_map(trials, points):
    regime = replace(fit_regime(trials, "gain_mean", "paper"), adaptive=False)
    middle = math.sqrt(regime.grid[0] * regime.grid[-1])
    mixed = [replace(p, designed=not p.noise or not 0.2 * middle < p.noise < 5 * middle) for p in points]
    traces = _traces(draw_noise_fit(mixed, GAIN, LABEL, "title", regime))
    at = [i for i, x in enumerate(regime.grid) if 0.6 * middle < x < 1.6 * middle]
    assert all(traces["fit to validation"]["y"][i] is None for i in at)


def test_a_regime_without_optimum_leaves_the_points_alone(trials, points):
    regime = fit_regime(trials.slice(0, 3), "gain_mean", "paper")
    assert regime.optimum is None
    names = set(_traces(draw_noise_fit(points[:3], GAIN, LABEL, "title", regime)))
    assert names <= {"test", "validation", "below the frame", "diverged"}


def test_repeats_have_error_bars(tmp_path):
    for number in range(3):
        for repeat in range(4):
            tables.write(tmp_path, trial(number, repeat))
    points = group_configurations(tables.read_trials(tmp_path), "paper", [GAIN.column, GAIN.test_column])
    trace = _traces(draw_noise_fit(points, GAIN, LABEL, "title"))["validation"]
    errors = {f"{p.noise:.6g}": p.values[GAIN.column].error for p in points if p.values}
    assert len(trace["x"]) >= 1
    assert trace["error_y"]["array"] == pytest.approx([errors[f"{x:.6g}"] for x in trace["x"]], rel=1e-4)


def test_axes_say_quantity_and_unit_and_hold_every_point(points):
    layout = draw_noise_fit(points, GAIN, LABEL, "title").figure.layout
    assert layout.xaxis.title.text == LABEL
    assert layout.yaxis.title.text.replace("<br>", " ") == "loss gain [nat]"
    low, high = layout.xaxis.range
    assert all(low <= math.log10(p.noise) <= high for p in points)


def test_merge_curves_have_one_panel_a_method_and_the_colour_of_their_noise(run, trials):
    curves = read_merge_curves(trials, tables.read(run, "merges"), "paper")
    figure = draw_curves(curves, LABEL).figure
    lines = [t for t in figure.data if t.mode == "lines"]
    assert len(lines) == len(curves) == 2 * 57
    assert {t.xaxis for t in lines} == {"x", "x2"}
    low, high = min(curves, key=lambda c: c.noise), max(curves, key=lambda c: c.noise)
    colours = {t.hovertemplate.split("</b>")[0].split(" ")[-1]: t.line.color for t in lines}
    by_panel = {(t.xaxis, t.hovertemplate.split("</b>")[0].split(" ")[-1]): t.y for t in lines}
    for curve in curves:
        y = curve.excess if curve.method == "linear" else curve.values
        panel = "x" if curve.method == "linear" else "x2"
        assert by_panel[panel, curve.digest] == pytest.approx(y, rel=1e-3, abs=1e-6)
    assert colours[low.digest] == "rgb(42, 120, 214)"
    assert colours[high.digest] == "rgb(208, 100, 26)"


def test_thinned_merge_curves_are_counted(run, trials):
    curves = read_merge_curves(trials, tables.read(run, "merges"), "paper")
    chart = draw_curves(curves, LABEL, limit=20)
    assert len([t for t in chart.figure.data if t.mode == "lines"]) == 2 * 20
    assert "20 of 57 linear lines" in chart.caption
    assert "20 of 57 task arithmetic lines" in chart.caption
    assert "Drawn:" not in draw_curves(curves, LABEL).caption


def test_progress_shows_every_configuration_and_the_running_optimum(run, points):
    steps = read_search_steps(points, tables.read(run, "search"), OBJECTIVES["gain_mean"])
    traces = _traces(draw_progress(steps, GAIN, LABEL))
    above = [traces[n] for n in ("configuration", "outside the frame", "diverged")]
    assert sum(len(t["x"]) for t in above) == 60
    assert len(traces["noise"]["x"]) == 60
    marks = traces["noise"]["marker"]
    assert (
        sum(c == GREY for c in marks["color"]) == len(traces["diverged"]["x"]) == sum(s == "x" for s in marks["symbol"])
    )
    assert traces["best observed"]["y"][-1] == pytest.approx(
        max(s.value for s in steps if s.value is not None), rel=1e-5
    )
    assert traces["sampler's optimum"]["x"] == list(range(8, 60))


def test_words_of_users_are_escaped_in_hover_texts(tmp_path):
    tables.write(tmp_path, trial(0, outcome="failed", outcome_detail="<img src=x> & more", scores={}))
    (point,) = group_configurations(tables.read_trials(tmp_path), "paper", [GAIN.column])
    assert "&lt;img src=x&gt; &amp; more" in describe(point, GAIN.column)


def _more_merges(tmp_path, normalised: bool = False):
    """Six trials with every merge: curves from parent to parent, curves from the base, a soup; two tasks if asked."""
    for number in range(6):
        output = trial(number, outcome="ok", augmentation_strength=number / 5)
        linear = [m for m in output.merges if m.method == "linear"]
        task = [m for m in output.merges if m.method == "task_arithmetic"]
        rows = [replace(m, method=n) for n in ("linear", "slerp", "fisher") for m in linear]
        rows += [replace(m, method=n) for n in ("task_arithmetic", "ties", "dare") for m in task]
        rows.append(replace(linear[5], method="uniform_soup", coefficient=1.0, loss_test=0.1, loss_val=0.1))
        if normalised:
            rows = [replace(m, normalised_accuracy_test=1.0 - 0.1 * m.coefficient) for m in rows]
        tables.write(tmp_path, replace(output, merges=tuple(rows)))
    return tables.read_trials(tmp_path), tables.read(tmp_path, "merges")


def test_every_merge_has_its_panel_and_soups_are_points(tmp_path):
    trials, merges = _more_merges(tmp_path)
    chart = draw_curves(read_merge_curves(trials, merges, "paper"), LABEL)
    titles = [axis.title.text for axis in chart.figure.select_xaxes()]
    between = ["linear: α", "fisher: α", "slerp: α"]
    assert titles == [*between, "dare: s", "task arithmetic: s", "ties: s"]
    lines = [t for t in chart.figure.data if t.mode == "lines"]
    assert len(lines) == 6 * 6
    assert chart.height > 800  # two rows
    gains = read_merge_gains(trials, merges, "paper")
    soups = [g for g in gains if g.method == "uniform_soup"]
    parents = [(r["a_loss_test"] + r["b_loss_test"]) / 2 for r in trials.to_pylist()]
    assert sorted(g.gain for g in soups) == pytest.approx(sorted(p - 0.1 for p in parents))
    for gain in (g for g in gains if g.method == "ties"):
        curve = [m for m in merges.to_pylist() if (m["digest"], m["method"]) == (gain.digest, "ties")]
        best = min(curve, key=lambda m: m["loss_val"])
        assert gain.coefficient == best["coefficient"]
    drawn = draw_gains(gains, LABEL).figure
    assert {t.name for t in drawn.data} == {
        "linear", "slerp", "fisher", "task arithmetic", "ties", "dare", "uniform soup",
    }  # fmt: skip


def test_two_tasks_are_drawn_as_normalised_accuracy(tmp_path):
    trials, merges = _more_merges(tmp_path, normalised=True)
    curves = read_merge_curves(trials, merges, "paper", "normalised_accuracy_test")
    assert {c.method for c in curves} == {"linear", "slerp", "fisher", "task_arithmetic", "ties", "dare"}
    figure = draw_normalised(curves, LABEL).figure
    first = next(t for t in figure.data if t.mode == "lines")
    assert first.y[0] == 1.0
    assert first.y == pytest.approx([1 - 0.1 * x for x in first.x])
    assert {a.tickformat for a in figure.select_yaxes()} == {".0%"}


def test_measured_noise_is_compared_with_predicted_noise_by_rank(tmp_path):
    for number in range(8):
        for repeat, factor in enumerate((0.5, 2.0)):
            output = trial(number, repeat, outcome="ok")
            noises = {**output.result.noises, "paper_full": 3 * factor * (output.result.noises["paper"] or 0) ** 0.5}
            tables.write(tmp_path, replace(output, result=replace(output.result, noises=noises)))
    trials = tables.read_trials(tmp_path)
    found = compare_noises(trials, "paper")
    assert found is not None
    assert (found.predicted, found.measured, len(found.points)) == ("paper", "paper_full", 8)
    assert found.correlation == pytest.approx(1.0)
    assert found.values == pytest.approx([3 * (p.noise or 0) ** 0.5 for p in found.points])
    chart = draw_comparison(found)
    assert chart.title.endswith("rank correlation 1")
    assert len(chart.figure.data[0].x) == 8
    assert chart.figure.layout.xaxis.type == chart.figure.layout.yaxis.type == "log"
    same = compare_noises(trials, "paper_full")
    assert same is not None
    assert same.predicted == "paper"  # a measured noise is not compared with itself
    assert compare_noises(trials.slice(0, 6), "paper") is None  # three configurations


def test_out_of_memory_has_its_own_mark(tmp_path):
    for number in range(8):
        lost = number == 3
        tables.write(
            tmp_path, trial(number, outcome="out_of_memory" if lost else "ok", **({"scores": {}} if lost else {}))
        )
    points = group_configurations(tables.read_trials(tmp_path), "paper", [GAIN.column, GAIN.test_column])
    assert [p.can_win for p in points].count(False) == 1
    chart = draw_noise_fit(points, GAIN, LABEL, "t")
    assert "⧗ out of memory" in chart.caption
    assert {t.name for t in chart.figure.data} >= {"out of memory"}

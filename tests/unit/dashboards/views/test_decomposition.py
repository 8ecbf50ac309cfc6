import math
from dataclasses import replace

import numpy as np
import pytest

from dashboards.data.configurations import group_configurations
from dashboards.data.selection import Selection
from dashboards.views import choices, decomposition
from dashboards.views.decomposition import make_slices
from tests.support.fake_sweep import at_knobs, run_of, trial

GAIN = "gain_mean_loss_val"
HELD = {"momentum": 0.9, "weight_decay": 0.0, "augmentation_strength": 0.0}
RATES = (0.01, 0.03, 0.1, 0.3)


def _grid():
    cells = [(eta, b) for eta in RATES for b in (8, 16, 32)]
    return [at_knobs(i, learning_rate=eta, batch_size=b, **HELD) for i, (eta, b) in enumerate(cells)]


def _points(run):
    return group_configurations(run.tables["trials"], "paper", [GAIN])


def test_a_grid_has_exact_slices():
    run = run_of(_grid()[:-1])
    rate, batch = make_slices(_points(run), GAIN, maximize=True)
    assert (rate.knob, batch.knob) == ("learning_rate", "batch_size")
    assert rate.exact
    assert batch.exact
    # B = 32 lacks a learning rate, so it is not the commonest cell
    assert rate.fixed["batch_size"] in (8, 16)
    assert [p.knobs["learning_rate"] for p in rate.points] == list(RATES)
    assert {p.knobs["batch_size"] for p in rate.points} == {rate.fixed["batch_size"]}
    assert [p.knobs["batch_size"] for p in batch.points] == [8, 16, 32]


def test_among_equally_full_cells_that_with_the_best_score_is_taken():
    points = _points(run_of(_grid()))
    best = max(points, key=lambda p: p.values[GAIN].mean)
    for part in make_slices(points, GAIN, maximize=True):
        assert best in part.points
    worst = min(points, key=lambda p: p.values[GAIN].mean if p.can_win else math.inf)
    for part in make_slices(points, GAIN, maximize=False):
        assert worst in part.points


def test_both_values_of_a_knob_that_has_two_make_a_slice():
    points = [p for p in _points(run_of(_grid())) if p.knobs["batch_size"] != 32]
    found = make_slices(points, GAIN, maximize=True)
    assert [(s.knob, s.exact, len(s.points)) for s in found] == [("learning_rate", True, 4), ("batch_size", True, 2)]


def test_floats_that_differ_in_the_last_digits_share_a_cell():
    run = run_of(
        at_knobs(i, learning_rate=eta, batch_size=16, momentum=0.9 + 1e-12 * i, weight_decay=0.0,
                 augmentation_strength=0.0)
        for i, eta in enumerate(RATES)
    )  # fmt: skip
    (rate,) = make_slices(_points(run), GAIN, maximize=True)
    assert rate.exact
    assert len(rate.points) == 4


def test_random_designs_take_the_nearest_and_say_so():
    run = run_of(trial(i) for i in range(60))
    found = make_slices(_points(run), GAIN, maximize=True)
    assert [s.knob for s in found] == [
        "learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength",
    ]  # fmt: skip
    assert all(len(s.points) == 15 and s.total == 60 for s in found if not s.exact)
    rate = found[0]
    assert not rate.exact

    # the nearest lie closer to the medians than the others do
    def off(point):
        return abs(math.log(point.knobs["weight_decay"] / rate.fixed["weight_decay"]))

    inside = {p.config for p in rate.points}
    others = [off(p) for p in _points(run) if p.config not in inside]
    assert sum(map(off, rate.points)) / 15 < sum(others) / len(others)
    section = decomposition.build(run, Selection())
    assert "whose other knobs lie nearest to the medians" in section.charts[0].caption
    assert "shows the nearest configurations" in section.notes[-1]


def test_a_panel_of_the_nearest_has_no_line_where_no_configuration_lies():
    rates = [*np.geomspace(1e-3, 3e-3, 20), *np.geomspace(0.1, 0.3, 20)]
    section = decomposition.build(run_of(at_knobs(i, learning_rate=r) for i, r in enumerate(rates)), Selection())
    traces = [t for t in section.charts[0].figure.to_dict()["data"] if t["xaxis"] == "x" and t["mode"] == "lines"]
    assert "Curves are dotted where no data lie." in section.charts[0].caption
    faint, line = traces
    assert [t["line"].get("dash") for t in traces] == ["dot", None]
    inside = [i for i, x in enumerate(line["x"]) if 0.01 < x < 0.03]
    assert inside
    assert all(line["y"][i] is None and faint["y"][i] is not None for i in inside)


def test_panels_hold_the_values_of_their_slice():
    run = run_of(_grid())
    section = decomposition.build(run, Selection())
    figure = section.charts[0].figure.to_dict()
    assert figure["layout"]["xaxis"]["title"]["text"] == "learning rate η"
    assert figure["layout"]["xaxis2"]["title"]["text"] == "batch size B [examples]"
    rate = make_slices(_points(run), GAIN, maximize=True)[0]
    first = [t for t in figure["data"] if t["xaxis"] == "x" and t["mode"] == "markers"]
    drawn = {x: y for t in first if t["name"] == "value" for x, y in zip(t["x"], t["y"], strict=True)}
    for point in rate.points:
        x = float(f"{point.knobs['learning_rate']:.6g}")
        if x in drawn:
            assert drawn[x] == pytest.approx(point.values[GAIN].mean, rel=1e-5)
    assert sum(len(t["x"]) for t in first) == 4
    assert "dotted" not in section.charts[0].caption
    assert "λ is 0, augmentation strength is 0" in section.notes[0]
    assert "μ is 0.9" in section.notes[0]


def test_the_table_says_where_each_panel_is_best():
    run = run_of(_grid())
    rate = make_slices(_points(run), GAIN, maximize=True)[0]
    best = max(rate.points, key=lambda p: p.values[GAIN].mean)
    section = decomposition.build(run, Selection())
    row = [c.text for c in section.tables[0].table.rows[0]]
    assert row[0] == "η"
    assert row[1] == f"B {rate.fixed['batch_size']:g}"
    assert row[2:5] == ["4", f"{best.knobs['learning_rate']:.3g}", f"{best.noise:.3g}"]
    assert row[5] == f"{best.values[GAIN].mean:.3g}"
    # the best configuration of all is in both panels: one observation
    (said,) = section.verdicts
    assert said.startswith(f"One configuration, at noise {best.noise:.3g} (paper), is the best in all 2 panels")


def test_noises_that_agree_are_those_of_different_configurations():
    run = run_of(_grid())
    measure = choices.make_measure(run, "gain_mean", "val")
    rate, batch = make_slices(_points(run), GAIN, maximize=True)
    top = decomposition._find_best(rate, measure).config
    apart = replace(rate, points=tuple(p for p in rate.points if p.config != top))
    (said,) = decomposition._write_verdicts([apart, batch], measure, "paper")
    assert said.startswith("In 2 panels 2 different configurations are the best, at noise")


def test_a_loss_is_best_where_it_is_lowest():
    run = run_of(_grid(), "merged_loss")
    row = [c.text for c in decomposition.build(run, Selection()).tables[0].table.rows[0]]
    rate = make_slices(
        group_configurations(run.tables["trials"], "paper", ["merged_loss_val"]), "merged_loss_val", maximize=False
    )[0]
    best = min(rate.points, key=lambda p: p.values["merged_loss_val"].mean)
    assert row[3] == f"{best.knobs['learning_rate']:.3g}"


def test_what_is_not_known_is_said():
    assert "No trial has finished" in decomposition.build(run_of([]), Selection()).banners[0]
    same = run_of(at_knobs(i, learning_rate=0.1, batch_size=16, **HELD) for i in range(3))
    section = decomposition.build(same, Selection())
    assert section.banners == ("No knob varies, so there is nothing to draw.",)
    assert "η is 0.1" in section.notes[0]
    diverged = run_of(trial(i, outcome="diverged", scores={}) for i in range(8))
    section = decomposition.build(diverged, Selection())
    assert "No configuration has a value" in section.banners[0]
    assert section.tables == ()

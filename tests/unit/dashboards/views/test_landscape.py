import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from dashboards.charts.barriers import SHARPNESS, draw_plane, measure_flatness, read_plane
from dashboards.data.configurations import group_configurations
from dashboards.data.selection import Selection
from dashboards.views import landscape
from dashboards.views.choices import choose
from sweeper.formatting import method_words
from tests.support.fake_sweep import PARENT_LOSS, at_knobs, gain_at, run_of, trial
from trainables.result import PlaneRow

BARRIER = "barrier_frankle_loss_val"


def _measured(number, plane=False):
    output = at_knobs(number)
    noise = output.result.noises["paper"]
    sharp = {f"{name}_{who}": 2.0 / noise * (1 + (who == "b")) for name in SHARPNESS for who in "ab"}
    flat = {**sharp, "barrier_excess": -0.1 * noise}
    rows = tuple(
        PlaneRow(output.result.digest, output.result.config, x, y, 1 + x * x + 2 * y * y, 2 + x + y)
        for x in (0.0, 0.5, 1.0)
        for y in (1.0, 0.0)
    )
    return replace(output, result=replace(output.result, landscape=flat), plane=rows if plane else ())


@pytest.fixture(scope="module")
def measured():
    return run_of(_measured(i, plane=i in (3, 5)) for i in range(16))


def test_all_that_was_measured_is_drawn(measured):
    section = landscape.build(measured, Selection())
    assert [c.key for c in section.charts] == ["curves", "plane", "barriers", "flatness"]
    assert section.notes == ()


def test_barrier_and_excess_barrier_stand_at_their_noise(measured):
    chart = next(c for c in landscape.build(measured, Selection()).charts if c.key == "barriers")
    figure = chart.figure.to_dict()
    titles = [figure["layout"][a]["title"]["text"].replace("<br>", " ") for a in ("yaxis", "yaxis2")]
    assert titles == ["validation loss barrier [nat]", "excess barrier at α = ½ [nat]"]
    excess = next(t for t in figure["data"] if t["xaxis"] == "x2" and t["name"] == "value")
    for x, y in zip(excess["x"], excess["y"], strict=True):
        assert y == pytest.approx(-0.1 * x, rel=1e-4)
    drawn = {x: y for t in figure["data"] if t["xaxis"] == "x" and t["name"] == "value"
             for x, y in zip(t["x"], t["y"], strict=True)}  # fmt: skip
    for x, y in drawn.items():
        assert y == pytest.approx(max(0.0, -gain_at(x)), abs=1e-4)


def test_sharpness_is_the_mean_over_the_parents(measured):
    columns = [BARRIER, "lambda_max_a", "lambda_max_b", "a_accuracy_val", "b_accuracy_val"]
    points = group_configurations(measured.tables["trials"], "paper", columns)
    found = measure_flatness(points, "lambda_max", BARRIER)
    assert found is not None
    assert found.sharpness == pytest.approx([3.0 / p.noise for p in found.points])
    assert found.accuracy == pytest.approx([1 - 0.2 * PARENT_LOSS] * 16)
    # the noise orders the sharpness wholly, so given the noise nothing is left of it
    known, sharpness, barrier = found.control_for(found.log_noise)
    assert known.all()
    assert np.abs(sharpness).max() < 1e-9 * np.abs(np.log(found.sharpness)).max()
    assert len(barrier) == 16
    assert found.control_for(found.accuracy) is None  # it does not vary
    section = landscape.build(measured, Selection(sharpness="lambda_max"))
    chart = section.charts[-1]
    assert chart.figure.layout.xaxis.title.text.replace("<br>", " ") == SHARPNESS["lambda_max"]
    rank = spearmanr(found.sharpness, found.barrier)[0]
    assert f"as measured<br>ρ = {rank:.2g}, n = 16" in [a.text for a in chart.figure.layout.annotations]


def test_the_plane_is_of_the_selected_trial_or_of_the_best(measured):
    digests = landscape.read_planes(measured)
    rows = {r["digest"]: r for r in measured.tables["trials"].to_pylist()}
    assert [rows[d]["number"] for d in digests] == [3, 5]
    best = max(digests, key=lambda d: rows[d]["gain_mean_loss_val"])
    for wanted, expected in (("", best), (digests[0], digests[0]), ("absent", best)):
        chart = next(c for c in landscape.build(measured, Selection(trial=wanted)).charts if c.key == "plane")
        assert chart.caption.startswith(f"Trial {rows[expected]['number']} ({expected}, noise ")
    offered = next(c for c in landscape.make_controls(measured, Selection()) if c.field == "trial").options
    assert [value for value, _ in offered] == list(digests)


def test_a_plane_has_its_losses_at_their_coordinates(measured):
    found = read_plane(measured.tables["planes"], landscape.read_planes(measured)[0], "loss_train")
    assert found is not None
    assert found.x.tolist() == [0.0, 0.5, 1.0]
    assert found.y.tolist() == [0.0, 1.0]
    assert found.loss.tolist() == [[1.0, 1.25, 2.0], [3.0, 3.25, 4.0]]
    chart = draw_plane(found, "training loss [nat]", "A trial.")
    contour, _, marks = chart.figure.data
    assert contour.z[1][2] == pytest.approx(math.log10(4.0), abs=1e-4)
    assert contour.colorbar.title.text == "training loss [nat]"
    assert list(zip(marks.x, marks.y, marks.text, strict=True)) == [
        (0, 0, "<b>θ₀ base</b>"), (1, 0, "<b>θ_A</b>"), (0, 1, "<b>θ_B</b>"), (0.5, 0.5, "<b>merge at ½</b>"),
    ]  # fmt: skip
    assert read_plane(measured.tables["planes"], "absent", "loss_val") is None


def test_the_split_chooses_the_planes_loss(measured):
    for split, words in {"train": "training", "test": "validation", "val": "validation"}.items():
        selection = Selection(split=split)
        assert choose(measured, selection).split == split
        chart = next(c for c in landscape.build(measured, selection).charts if c.key == "plane")
        assert chart.figure.data[0].colorbar.title.text == f"{words} loss [nat]"


def test_what_was_not_measured_names_its_flag():
    section = landscape.build(run_of(trial(i) for i in range(12)), Selection())
    assert [c.key for c in section.charts] == ["curves", "barriers"]
    assert "--plane 15 stores one" in section.notes[0]
    assert "--landscape measures them" in section.notes[1]


def test_what_is_not_known_is_said():
    assert "No trial has finished" in landscape.build(run_of([]), Selection()).banners[0]
    section = landscape.build(run_of(trial(i, outcome="diverged", scores={}) for i in range(3)), Selection())
    assert {c.key for c in section.charts} == set()
    assert "no merge of a viable pair is stored" in section.notes[0]
    assert "No barrier: no pair" in section.notes[2]


def test_curves_without_a_noise_have_one_colour():
    output = trial(0)
    run = run_of([replace(output, result=replace(output.result, noises={}))], own_models=True)
    (chart,) = landscape.build(run, Selection()).charts
    assert chart.key == "curves"
    assert {t.line.color for t in chart.figure.data} == {"#0072b2"}
    assert "coloraxis" not in chart.figure.to_dict()["layout"]


def test_the_merge_methods_stand_in_a_table(measured):
    methods = {method_words(name) for name in measured.tables["merges"].column("method").to_pylist()}
    (card,) = landscape.build(measured, Selection()).tables
    assert {row[0].text for row in card.table.rows} == methods
    assert len(card.table.head) == 5


def test_windows_of_checkpoints_stand_in_a_table_and_in_no_curve(measured):
    merges = measured.tables["merges"]
    wide = merges.set_column(
        merges.column_names.index("window"), merges.schema.field("window"), pa.array([4] * merges.num_rows, pa.int64())
    )
    both = replace(measured, tables={**measured.tables, "merges": pa.concat_tables([merges, wide])}, version="both")
    card = next(c for c in landscape.build(both, Selection()).tables if c.key == "windows")
    assert [row[0].text for row in card.table.rows] == ["1", "4"]
    assert card.table.rows[1][5].text.startswith("+0")
    plain, found = ([c.figure.to_dict() for c in landscape.draw_merges(r, "paper")] for r in (measured, both))
    assert [len(f["data"]) for f in found] == [len(f["data"]) for f in plain]


def _with_other(number, field, column, ratio, **changes):
    output = at_knobs(number, **changes)
    own = {field: {"learning_rate": output.result.learning_rate * ratio}}
    return replace(output, result=replace(output.result, spec=json.dumps(own), **{column: ratio}))


def _trace(chart, name):
    return next(t for t in chart.figure.to_dict()["data"] if t["name"] == name)


def test_the_noise_of_the_trunk_stands_against_that_of_the_children():
    run = run_of(_with_other(i, "trunk", "trunk_noise_ratio", 2.0 ** (i % 3)) for i in range(6))
    (chart,) = [c for c in landscape.build(run, Selection()).charts if c.key == "trunk"]
    assert sum(int(text.split("n = ")[1]) for text in _trace(chart, "pairs")["text"]) == 6
    assert chart.figure.layout.xaxis.title.text.startswith("trunk: ")
    same = run_of(_with_other(i, "trunk", "trunk_noise_ratio", 1.0) for i in range(6))
    for other in (run_of(_measured(i) for i in range(6)), same):  # no trunk, or the children's noise
        assert "trunk" not in [c.key for c in landscape.build(other, Selection()).charts]


RATES = (0.01, 0.02, 0.04)


def _children_run():
    """Three by three learning rates, two pairs of the second; the last one of both children is not viable."""
    outputs = {}
    for i, (a, b) in enumerate(itertools.product(RATES, RATES)):
        for repeat in range(1 + (i == 1)):
            output = at_knobs(i, repeat, 1e-3 * i, learning_rate=a, batch_size=64, momentum=0.9, weight_decay=1e-3)
            result = output.result
            if a != b:
                own = json.dumps({"child_b": {"learning_rate": b}})
                result = replace(result, spec=own, child_noise_ratio=b / a)
            if a == b == RATES[-1]:
                result = replace(result, outcome="not_viable", scores={})
            outputs.setdefault((a, b), []).append(replace(output, result=result))
    return run_of(o for group in outputs.values() for o in group), outputs


def _children_map(run, **selection):
    return next((c for c in landscape.build(run, Selection(**selection)).charts if c.key == "children"), None)


def test_the_noises_of_the_children_make_a_map_of_test_scores():
    run, outputs = _children_run()
    chart = _children_map(run)
    assert chart is not None
    mean, pairs = _trace(chart, "mean"), _trace(chart, "pairs")
    noises = [rate / 64 / (1 - 0.9) for rate in RATES]
    for axis in "xy":
        assert [10**v for v in chart.figure.layout[f"{axis}axis"].tickvals] == pytest.approx(noises, rel=1e-4)
        edges = mean[axis]
        assert all(edges[i] < math.log10(level) < edges[i + 1] for i, level in enumerate(noises))
    assert chart.figure.layout.xaxis.ticktext == ("0.0016", "0.0031", "0.0063")
    found = {
        (np.searchsorted(mean["x"], x) - 1, np.searchsorted(mean["y"], y) - 1): text
        for x, y, text in zip(pairs["x"], pairs["y"], pairs["text"], strict=True)
    }
    cells = {
        (RATES.index(a), RATES.index(b)): [o.result.scores["gain_mean_loss_test"] for o in group if o.result.scores]
        for (a, b), group in outputs.items()
    }
    assert found == {at: f"{np.mean(v):.3g}<br>n = {len(v)}" for at, v in cells.items() if v}
    assert max(map(len, cells.values())) == 2
    assert _trace(chart, "not viable")["text"] == ["0 of 1"]
    assert _trace(chart, "no viable pair")["z"] == [[None] * 3, [None] * 3, [None, None, 0.0]]
    best = max((at for at in cells if cells[at]), key=lambda at: np.mean(cells[at]))
    assert mean["z"][best[1]][best[0]] == 1.0  # colours are by rank
    assert mean["hovertext"][2][0].startswith("child A: noise 0.0016<br>child B: noise 0.0063<br>")
    line = _trace(chart, "equal noises")  # the outlines of three cells
    assert line["x"][:2] == mean["x"][:2]
    assert line["x"].count(None) == 3
    assert {x for x in line["x"] if x} == set(mean["x"])


def test_the_reader_s_split_chooses_the_scores_of_the_map():
    run, _ = _children_run()
    means = [
        _children_map(run, split=split).figure.layout.coloraxis.colorbar.title.text for split in ("", "val", "test")
    ]
    assert means[0] == means[2] != means[1]
    assert "test" in means[0]


def test_a_map_follows_the_noise_of_the_page():
    run, _ = _children_run()
    for noise, exponent in (("paper", 1.0), ("wd_equilibrium", 0.5), ("paper_full", 1.0)):
        chart = _children_map(run, noise=noise)
        ticks = chart.figure.layout.yaxis.tickvals
        assert ticks[2] - ticks[0] == pytest.approx(exponent * math.log10(4), rel=1e-3)


def test_a_map_needs_two_noises_of_each_child():
    equal = run_of(at_knobs(i) for i in range(6))
    assert _children_map(equal) is None
    fixed = {"learning_rate": 0.01, "batch_size": 64, "momentum": 0.9}
    one_a = run_of(_with_other(i, "child_b", "child_noise_ratio", 2.0**i, **fixed) for i in range(4))
    assert _children_map(one_a) is None
    assert _children_map(run_of([])) is None


def test_many_noises_are_binned():
    outputs = [_with_other(i, "child_b", "child_noise_ratio", 1.0 + 0.1 * i) for i in range(25)]
    chart = _children_map(run_of(outputs))
    mean = _trace(chart, "mean")
    assert len(mean["x"]) == len(mean["y"]) == 6  # five bins
    assert sum(int(t.split("n = ")[1]) for t in _trace(chart, "pairs")["text"]) == 25
    assert "a bin of noises" in chart.caption
    line = _trace(chart, "equal noises")
    assert line["x"] == line["y"] == [max(mean["x"][0], mean["y"][0]), min(mean["x"][-1], mean["y"][-1])]

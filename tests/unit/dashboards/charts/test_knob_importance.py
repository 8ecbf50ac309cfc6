import json
import math
from dataclasses import replace

import numpy as np
import pytest

from dashboards.charts.chart import Measure
from dashboards.charts.knob_importance import draw_contour, draw_importance, measure_importance
from dashboards.data.configurations import ConfigPoint, Estimate

GAIN = Measure("gain_mean", "gain_mean_loss_val", "gain_mean_loss_test", "loss gain [nat]", True, 0.0)


def points(n: int = 60, seed: int = 0) -> list[ConfigPoint]:
    """The learning rate decides the score, the batch size a little, the momentum nothing; weight decay is constant."""
    rng = np.random.default_rng(seed)
    made: list[ConfigPoint] = []
    for i in range(n):
        rate, size = 10 ** rng.uniform(-3, 0), int(2 ** rng.integers(3, 8))
        knobs = {"learning_rate": rate, "batch_size": size, "momentum": float(rng.choice([0.0, 0.5, 0.9]))}
        score = 0.05 * math.exp(-((math.log10(rate) + 1.5) ** 2)) + 0.0005 * math.log2(size) + 0.001 * rng.normal()
        values = {GAIN.column: Estimate(score, None, 1)}
        knobs["weight_decay"] = 1e-4
        made.append(ConfigPoint(str(i), i, (f"d{i}",), rate / size, knobs, "ok", {"ok": 1}, "", values))
    return made


def test_the_knob_that_decides_comes_first_and_constants_are_left_out() -> None:
    found = measure_importance(points(), GAIN)
    assert found.shares[0][0] == "learning_rate"
    assert {name for name, _ in found.shares} == {"learning_rate", "batch_size", "momentum"}
    assert found.shares[0][1] > 0.7
    assert sum(share for _, share in found.shares) == pytest.approx(1.0)
    assert found == measure_importance(points(), GAIN)
    chart = draw_importance(found, "loss gain")
    assert chart.figure.data[0].y[0] == "learning rate η"
    assert "60 viable configurations" in chart.caption


def test_a_forest_of_many_configurations_takes_an_even_share_and_says_so() -> None:
    found = measure_importance(points(500), GAIN)
    assert (found.n, found.total) == (167, 500)
    assert found.shares == measure_importance(points(500)[::3], GAIN).shares
    words = "167 viable configurations of 500 of designed trials, evenly spread. Collapses"
    assert words in draw_importance(found, "loss gain", "designed trial").caption
    assert "167 viable configurations of 500, evenly spread. Coll" in draw_importance(found, "loss gain").caption


def test_a_loss_has_the_same_importance() -> None:
    lower = [replace(p, values={GAIN.column: Estimate(-p.values[GAIN.column].mean, None, 1)}) for p in points()]
    measure = Measure("loss", GAIN.column, GAIN.column, "loss [nat]", False, 0.0)
    assert measure_importance(lower, measure).shares[0][0] == "learning_rate"


def test_few_configurations_or_one_knob_have_none() -> None:
    assert measure_importance(points(8), GAIN) is None
    assert draw_contour(points(8), GAIN, ("learning_rate", "batch_size")) is None
    one = [replace(p, knobs={"learning_rate": p.knobs["learning_rate"]}) for p in points()]
    assert measure_importance(one, GAIN) is None
    assert draw_contour(one, GAIN, ("learning_rate", "batch_size")) is None


def test_the_contour_peaks_where_the_score_does_and_is_blank_without_data() -> None:
    some = [p for p in points(80) if not (p.knobs["learning_rate"] > 0.03 and p.knobs["batch_size"] > 16)]
    chart = draw_contour(some, GAIN, ("learning_rate", "batch_size"), some[3].config)
    figure = json.loads(chart.figure.to_json())
    surface = figure["data"][0]
    heights = np.array([[np.nan if v is None else v for v in row] for row in surface["z"]])
    _, column = np.unravel_index(np.nanargmax(heights), heights.shape)
    assert 0.01 < surface["x"][column] < 0.12
    assert np.isnan(heights[-1, -1])
    assert np.isfinite(heights[0, 0])
    assert [t.get("name") for t in figure["data"]][1:] == ["configuration", "the answer's"]
    assert "momentum counts as scatter" in chart.caption.replace("momentum, weight decay", "momentum")

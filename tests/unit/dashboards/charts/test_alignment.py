import numpy as np
import pytest

from dashboards.charts.alignment import draw_curve, find_support, smooth_curve, split_curve
from dashboards.charts.knob_axes import make_axis


def test_a_curve_rests_on_data_within_six_percent_of_the_range_or_three_quarters_of_the_usual_gap() -> None:
    grid = np.linspace(0.0, 100.0, 101)
    dense = np.array([*np.linspace(0, 20, 21), *np.linspace(80, 100, 21)])
    assert [i for i, held in enumerate(find_support(grid, dense)) if not held] == list(range(27, 74))
    # a design with wide gaps
    assert find_support(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0])) == [True, True, True]
    assert find_support(np.array([0.0, 0.8, 2.0]), np.array([1.0])) == [True, True, True]


def test_a_curve_is_a_line_with_data_and_faint_dots_without() -> None:
    faint, line = split_curve("curve", [1, 2, 3, 4, 5], [1, 4, 9, 16, 25], [True, True, False, False, True],
                              {"color": "#d55e00", "width": 3})  # fmt: skip
    assert (faint["name"], faint["line"]) == (
        "curve without data nearby", {"color": "rgba(213, 94, 0, 0.45)", "width": 1.5, "dash": "dot"}
    )  # fmt: skip
    assert (line["name"], line["line"]) == ("curve", {"color": "#d55e00", "width": 3})
    # both reach their neighbours, so that they meet
    assert faint["y"] == [None, 4, 9, 16, 25]
    assert line["y"] == [1, 4, 9, 16, 25]
    (whole,) = split_curve("curve", [1, 2], [3, 4], [True, True], {"color": "#d55e00", "width": 3})
    assert whole["y"] == [3, 4]


def test_a_smooth_curve_knows_where_it_has_no_data() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(np.concatenate([rng.uniform(-4, -3, 30), rng.uniform(-1, 0, 30)]))
    curve = smooth_curve(x, np.cos(x))
    gap = (curve.places > -2.7) & (curve.places < -1.3)
    assert gap.sum() > 15
    assert not np.array(curve.held)[gap].any()
    assert np.array(curve.held)[(curve.places < -3.1) | (curve.places > -0.9)].all()
    axis = make_axis("learning_rate", 10**x)
    faint, line = draw_curve(curve, axis, {"color": "#d55e00", "width": 1.2})
    assert line["x"] == pytest.approx(10**curve.places, rel=1e-5)  # a log axis takes the values
    drawn = np.array([y is not None for y in line["y"]])
    assert not drawn[gap].any()
    assert all(y is not None for y, inside in zip(faint["y"], gap, strict=True) if inside)


def test_a_curve_over_few_levels_is_drawn_through_all_of_them() -> None:
    curve = smooth_curve(np.array([0.0, 0.0, 10.0, 10.0, 11.0]), np.array([0.0, 2.0, 5.0, 7.0, 1.0]))
    assert curve.places.tolist() == [0.0, 10.0, 11.0]
    assert curve.held == [True, True, True]

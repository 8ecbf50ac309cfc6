import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.charts.axes import fit_window, place_ticks, round_to, shorten, wrap_title


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (1e-4, 1.0, ["0.0001", "0.001", "0.01", "0.1", "1"]),
        (1e-3, 1e-1, ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1"]),
        (8.0, 12.0, ["10"]),
        (1.2, 1.7, ["1.43"]),
        (1e-7, 1e-5, ["10⁻⁷", "2·10⁻⁷", "5·10⁻⁷", "10⁻⁶", "2·10⁻⁶", "5·10⁻⁶", "10⁻⁵"]),
    ],
)
def test_log_ticks_are_round_numbers(low, high, texts):
    assert place_ticks(low, high)[1] == texts


@given(st.floats(-12, 8), st.floats(0, 18))
def test_log_ticks_lie_inside_and_are_few(start, decades):
    low, high = 10**start, 10 ** (start + decades)
    values, texts = place_ticks(low, high)
    assert 1 <= len(values) <= 8
    assert 1 <= len(place_ticks(low, high, most=3)[0]) <= 3
    assert len(set(texts)) == len(texts)
    assert all(low * (1 - 1e-8) <= v <= high * (1 + 1e-8) for v in values)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_log_ticks_need_a_positive_range(low, high):
    with pytest.raises(ValueError, match="0 < low <= high"):
        place_ticks(low, high)


def test_numbers_are_short_and_honest_about_gaps():
    assert [shorten(v) for v in (0.0123456, 12.3456, None, math.nan, 123456.7)] == [
        "0.0123",
        "12.3",
        "–",
        "–",
        "123,457",
    ]
    assert round_to(0.123456789) == 0.123457
    assert round_to(math.inf) is None


def test_a_collapse_does_not_flatten_the_hump():
    gains = [0.03, 0.028, 0.02, 0.01, 0.0, -0.005, -4.0]
    view = fit_window(gains, 0.0, maximize=True)
    assert not view.shows(-4.0)
    assert all(view.shows(g) for g in gains[:-1])
    assert view.low < view.edge < -0.005
    assert view.high > 0.03
    # the hump takes at least half of the height
    assert 0.03 / (view.high - view.low) > 0.5


def test_losses_are_cut_above():
    losses = [0.25, 0.26, 0.28, 0.31, 0.33, 150.0]
    view = fit_window(losses, 0.32, maximize=False)
    assert not view.shows(150.0)
    assert view.shows(0.33)
    assert view.low < 0.25 < 0.33 < view.edge < view.high < 1.0


@given(st.lists(st.floats(-1e3, 1e3), max_size=30), st.booleans(), st.none() | st.floats(-10, 10))
def test_a_window_always_has_height_and_shows_the_best(values, maximize, anchor):
    view = fit_window(values, anchor, maximize)
    assert view.low < view.high
    assert view.low <= view.edge <= view.high
    if values:
        best = max(values) if maximize else min(values)
        assert view.shows(best)
        assert view.low <= best <= view.high


def test_long_titles_are_broken_between_words():
    assert wrap_title("loss gain over the mean parent [nat]") == "loss gain over the mean<br>parent [nat]"

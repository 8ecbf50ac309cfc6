import numpy as np
import pytest

from dashboards.charts.colours import QuantileScale, colour_along


def test_an_outlier_leaves_the_scale_to_the_others() -> None:
    scale = QuantileScale.of(np.array([1.0, 2.0, 3.0, 4.0, 1000.0]))
    assert scale.share(np.array([1.0, 2.0, 3.0, 4.0, 1000.0])) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert np.isnan(scale.share(np.array([np.nan]))[0])
    assert scale.pick(1.0) == "rgb(42, 120, 214)"
    assert scale.pick(1000.0) == "rgb(208, 100, 26)"


def test_ties_share_a_colour_and_few_levels_are_named() -> None:
    colouring = colour_along(np.array([8.0, 8.0, 8.0, 32.0, 128.0]), "batch size B [examples]")
    assert colouring.values == pytest.approx([0, 0, 0, 2 / 3, 1])
    bar = colouring.bar["colorbar"]
    assert bar["ticktext"] == ["8", "32", "128"]
    assert bar["tickvals"] == pytest.approx([0, 2 / 3, 1], abs=1e-5)
    assert bar["title"]["text"] == "batch size B [examples]"


def test_many_levels_get_quartiles() -> None:
    bar = colour_along(np.arange(101.0), "noise").bar["colorbar"]
    assert bar["ticktext"] == ["0", "25", "50", "75", "100"]


def test_one_value_or_none_is_no_error() -> None:
    assert colour_along(np.array([2.0, 2.0]), "x").values == pytest.approx([0.5, 0.5])
    assert np.isnan(colour_along(np.array([np.nan]), "x").values).all()

"""The map: even noises over the range in which pairs can merge, repeats, pilots that find the range."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from search_spaces import load
from sweeper.search.map_design import REPEAT_EVERY, MapDesign, Pilot

SPACE = load("synthetic")
CONSTANTS = {"examples": 720.0}


def make_design(seed: int = 0, repeats: bool = True) -> MapDesign:
    return MapDesign(SPACE.knobs, "paper", CONSTANTS, seed, repeats)


def paper_noise(params: dict[str, float]) -> float:
    return params["learning_rate"] / (params["batch_size"] * (1 - params["momentum"]))


def test_the_noises_of_a_map_fill_equal_strata_of_its_range() -> None:
    design, span = make_design(repeats=False), (math.log(1e-4), math.log(0.1))
    noises = [math.log(paper_noise(design.point(i, span))) for i in range(16)]
    strata = np.floor((np.array(noises) - span[0]) / (span[1] - span[0]) * 16 + 1e-6)
    assert (
        np.ptp(np.bincount(strata.clip(0, 15).astype(int), minlength=16)) <= 2
    )  # rounding of the batch size moves a few
    assert min(noises) > span[0] - 0.3
    assert max(noises) < span[1] + 0.3


def test_the_other_knobs_spread() -> None:
    design, span = make_design(), (math.log(1e-4), math.log(0.1))
    points = [design.point(i, span) for i in range(24)]
    sizes = np.log([p["batch_size"] for p in points])
    assert sizes.min() < math.log(16) < math.log(64) < sizes.max()
    assert len({p["momentum"] for p in points}) >= 3
    # no knob but the learning rate follows the noise
    noise = np.log([paper_noise(p) for p in points])
    assert abs(np.corrcoef(noise, [p["augmentation_strength"] for p in points])[0, 1]) < 0.5


def test_one_point_in_eight_repeats_another_one() -> None:
    design, span = make_design(), (math.log(1e-4), math.log(0.1))
    points = [repr(design.point(i, span)) for i in range(4 * REPEAT_EVERY)]
    assert Counter(Counter(points).values()) == {1: 24, 2: 4}
    repeated = [paper_noise(eval(p)) for p, n in Counter(points).items() if n == 2]
    assert max(repeated) / min(repeated) > 10
    assert len({repr(make_design(repeats=False).point(i, span)) for i in range(20)}) == 20


def test_a_map_is_a_function_of_its_seed() -> None:
    span = (-8.0, -2.0)
    assert make_design(3).point(7, span) == make_design(3).point(7, span)
    assert make_design(3).point(7, span) != make_design(4).point(7, span)


def test_pilots_cover_the_reachable_range() -> None:
    design = make_design()
    noises = [design.log_noise(design.pilot(i, 4)) for i in range(4)]
    low, high = design.range
    assert noises == sorted(noises)
    assert noises[0] < low + 0.3 * (high - low)
    assert noises[-1] > high - 0.3 * (high - low)


@pytest.mark.parametrize(
    ("losses", "collapsed", "ends"),
    [
        ((0.0, -1.0, -2.0, -3.0), (), (5.0, None)),  # four nats below the best
        ((-9.0, -1.0, -2.0, -3.0), (), (None, None)),
        ((-9.0, -1.0, -2.0, 5.0), (3,), (None, None)),  # beyond the collapse
        ((-9.0, -1.0, 5.0, None), (2,), (None, 8.25)),
        ((-9.0, -1.0, 5.0, 6.0), (2, 3), (None, 8.25)),
        ((-9.0, -1.0, -2.0, None), (), (None, 8.25)),  # three quarters of the way to unviable parents
        ((None, -1.0, -2.0, None), (), (2.0, 8.25)),
        ((None, -9.0, -2.0, None), (), (1.5, 8.25)),
        ((-9.0, None, -2.0, None), (), (None, 8.25)),
        ((None, None, None, None), (), (None, None)),
        ((5.0, 5.0, 5.0, 5.0), (0, 1, 2, 3), (None, None)),
    ],
)
def test_the_map_ends_beyond_a_collapse_and_not_far_below_the_best_pilot(
    losses: tuple[float | None, ...], collapsed: tuple[int, ...], ends: tuple[float | None, float | None]
) -> None:
    design = make_design()
    pilots = [Pilot(3.0 * i, loss, i in collapsed) for i, loss in enumerate(losses)]
    low, high = design.find_mergeable_range(pilots)
    reach = -4.0 if losses[0] == -9.0 else -math.inf  # the best pilot stands at 0
    assert low == max(reach, design.range[0] if ends[0] is None else ends[0])
    assert high == (design.range[1] if ends[1] is None else ends[1])


def test_a_space_without_a_noise_knob_gets_a_spread_of_points() -> None:
    from optuna.distributions import FloatDistribution

    design = MapDesign({"width": FloatDistribution(0, 1)}, "paper", {**CONSTANTS, "learning_rate": 0.1}, 0)
    values = sorted({design.point(i, design.range)["width"] for i in range(10)})
    assert len(values) == 9
    assert values[0] < 0.25 < 0.75 < values[-1]
    assert 0 <= design.pilot(0, 4)["width"] <= 1

"""Time left of a sweep: replays of its three stages on a virtual clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from sweeper.runner.cost.pace import Pace, make_pace
from sweeper.search.stages import CONFIRM, TITLES, plan_stages

PLAN = plan_stages(60, 0.6, 0.2)


def replay(
    pace: Pace, asks: Sequence[float], trials: Sequence[float], workers: int
) -> Iterator[tuple[int, str, float, float | None]]:
    """Yield (ended, stage, time, time left as said) at every end of a trial, on a driver that proposes in turn."""
    now, free, ended = 0.0, workers, 0
    running: list[tuple[float, int]] = []
    number, total = 0, len(trials)
    while ended < total:
        # a stage begins when the stage before it has ended
        barrier = number < total and number in starts() and running
        if free and number < total and not barrier:
            now += asks[number]
            pace.note_start(number, now, number, TITLES[PLAN.stage_of(number)], now - asks[number])
            heapq.heappush(running, (now + trials[number], number))
            free, number = free - 1, number + 1
            continue
        end, done = heapq.heappop(running)
        now = max(now, end)
        pace.note_end(done, now)
        free, ended = free + 1, ended + 1
        yield ended, TITLES[PLAN.stage_of(ended - 1)], now, pace.find_left(now, total, ended, workers)


def starts() -> set[int]:
    return {segment.start for segment in PLAN.segments}


def measure(workers: int, mean: float, slow: float, seed: int) -> dict[str, list[float]]:
    """Return stage -> true over said time left, from a tenth of the trials to the last 5 % of the time."""
    rng = np.random.default_rng(seed)
    pace = make_pace(PLAN, "noise")
    asks = [slow * (ask or 0.005) for ask in pace.asks]
    trials = mean * rng.lognormal(-0.08, 0.4, 60)
    steps = [*replay(pace, asks, trials.tolist(), workers)]
    end = steps[-1][2]
    out: dict[str, list[float]] = {}
    for ended, stage, now, said in steps:
        if ended >= 6 and (stage != CONFIRM or ended >= 50) and end - now > 0.05 * end:
            assert said is not None
            out.setdefault(stage, []).append((end - now) / said)
    return out


@pytest.mark.parametrize(("workers", "mean"), [(2, 5.0), (2, 20.0), (1, 0.02), (2, 0.3)])
@pytest.mark.parametrize("slow", [0.75, 1.0, 1.4])
def test_the_time_left_holds_in_every_stage(workers: int, mean: float, slow: float) -> None:
    for seed in range(5):
        for stage, ratios in measure(workers, mean, slow, seed).items():
            # at the end a single trial decides
            shown = ratios[:1] if stage == "confirm" else ratios
            assert max(shown) < 1.5, (stage, seed, max(shown))
            assert min(shown) > 1 / 1.5, (stage, seed, min(shown))


def test_the_time_left_counts_budgets() -> None:
    pace = Pace(work=[0.25] * 4 + [1.0] * 6)
    for number in range(4):
        pace.note_start(number, 2.0 * number, number)
        pace.note_end(number, 2.0 * number + 2.0)
    assert pace.find_left(8.0, 10, 4, 1) == pytest.approx(6 * 8.0)
    pace.note_start(4, 8.0, 4)
    assert pace.find_left(12.0, 10, 4, 1) == pytest.approx(6 * 8.0 - 4.0)


def test_proposals_of_a_slow_sampler_count_as_measured() -> None:
    pace = Pace(asks=[0.0, *[1.0] * 9])
    for number in range(5):
        pace.note_start(number, 5.0 * number, number, asked=5.0 * number - 4.0)
        pace.note_end(number, 5.0 * number + 1.0)
    # the four measured proposals took four times as long as expected
    assert pace.find_left(21.0, 10, 5, 1) == pytest.approx(5 * (1.0 + (16.0 + 1.0) / (4.0 + 1.0)))


def test_nothing_is_known_before_a_trial_ends_and_nothing_is_left_at_the_end() -> None:
    pace = Pace()
    assert pace.find_left(0.0, 2, 0, 1) is None
    pace.note_start("a", 0.0, 0)
    assert pace.find_left(1.0, 2, 0, 1) is None
    pace.note_end("a", 2.0)
    assert pace.find_left(2.0, 2, 1, 1) == pytest.approx(2.0)
    assert pace.find_left(4.0, 2, 2, 1) is None


def test_counts_alone_give_a_time_too() -> None:
    pace = Pace()
    for now, ended in ((10.0, 3), (12.0, 3), (20.0, 5), (20.5, 5)):
        pace.note_count(now, ended)
    assert pace.find_left(20.5, 9, 5, 1) == pytest.approx(4 * 5.0)

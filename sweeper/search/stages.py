"""Stages of a sweep: a map of the noise, a search from it, and fresh pairs that confirm the answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, count

PILOT, MAP, SEARCH, CHOOSE, REPORT = "pilot", "map", "search", "choose", "report"
"""Values of the column `stage`. A pilot finds the range of the map. `choose` and `report` are the halves of *confirm*:
fresh pairs that choose the winner on validation, and fresh pairs that report it on test."""
MAPPING = (PILOT, MAP)
"""Stages whose trials have a share of the training budget in a sweep with a proxy."""
STAGES = (PILOT, MAP, SEARCH, CHOOSE, REPORT)
CONFIRM = "confirm"
TITLES = {PILOT: MAP, MAP: MAP, SEARCH: SEARCH, CHOOSE: CONFIRM, REPORT: CONFIRM}
"""Value of the column `stage` -> the stage as people call it."""

DEFAULT_MAP, DEFAULT_CONFIRM = 0.6, 0.2
"""Shares of the trials of a sweep with the sampler `noise`."""
PILOTS = 4
_FEWEST_WITH_PILOTS = 16  # a smaller map has no trials to spare
_FEWEST_TO_CONFIRM = 4  # two candidates with a pair each, and two pairs that report the winner


@dataclass(frozen=True)
class Segment:
    """Consecutive configurations of one stage, with numbers in [start, end)."""

    stage: str
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class StagePlan:
    """The stages of a sweep in the order of its configurations.

    Attributes:
        sizes: Stage and number of configurations; a resume with more trials searches and confirms again.
    """

    sizes: tuple[tuple[str, int], ...]

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments that hold a configuration."""
        ends = list(accumulate(size for _, size in self.sizes))
        each = (Segment(stage, end - size, end) for (stage, size), end in zip(self.sizes, ends, strict=True))
        return tuple(segment for segment in each if len(segment))

    @property
    def total(self) -> int:
        """Number of all configurations."""
        return sum(size for _, size in self.sizes)

    @property
    def staged(self) -> bool:
        """Whether the sweep has another stage than the search."""
        return any(segment.stage != SEARCH for segment in self.segments)

    def segment_of(self, number: int) -> Segment:
        """Return the segment of a configuration by its number."""
        return self.segments[bisect_right(self.segments, number, key=lambda s: s.start) - 1]

    def stage_of(self, number: int) -> str:
        """Return the stage of a configuration by its number."""
        return self.segment_of(number).stage

    def measure_stage(self, number: int) -> tuple[str, int]:
        """Return the stage of a configuration as people call it, and its number of configurations."""
        title = TITLES[self.stage_of(number)]
        return title, sum(len(s) for s in self.segments if TITLES[s.stage] == title)


def plan_stages(
    trials: int, map_share: float, confirm_share: float, enqueued: int = 0, known: Mapping[int, str] | None = None
) -> StagePlan:
    """Return the plan of a sweep.

    Args:
        trials: Configurations of the sweep.
        map_share: Share of the trials for the map and its pilots, in [0, 1].
        confirm_share: Share of the trials that confirm the answer, in [0, 1].
        enqueued: Configurations of the user, at most `trials`. They belong to the search, run first, and shorten the
            rest of the search, then the map.
        known: Number -> stage of the configurations that the run folder holds. They keep their stages if `trials`
            changed.

    Returns:
        The plan; its total is `trials`. A share that is too small for its stage leaves the trials to the search.
    """
    free = trials - enqueued
    confirming = _count_confirming(free, trials, confirm_share)
    mapping = min(round(map_share * trials), free - confirming)
    pilots = PILOTS if mapping >= _FEWEST_WITH_PILOTS else 0
    start = ((SEARCH, enqueued), (PILOT, pilots), (MAP, mapping - pilots))
    plan = StagePlan((*start, *_split(free - mapping, confirming)))
    if not known or all(number >= trials or plan.stage_of(number) == stage for number, stage in known.items()):
        return plan
    return _continue_plan(trials, confirm_share, enqueued, known)


def _count_confirming(free: int, trials: int, share: float) -> int:
    confirming = min(round(share * trials), free)
    return confirming if confirming >= _FEWEST_TO_CONFIRM else 0


def find_fewest_to_confirm(trials: int, share: float, enqueued: int = 0) -> int:
    """Return how many trials a sweep needs to confirm its answer, at least `trials`.

    Args:
        trials: Configurations of the sweep.
        share: Share of the trials that confirm the answer, in (0, 1].
        enqueued: Configurations of the user.
    """
    return next(n for n in count(max(1, trials)) if _count_confirming(n - enqueued, n, share))


def _split(trials: int, confirming: int) -> tuple[tuple[str, int], ...]:
    choosing = (confirming + 1) // 2
    return (SEARCH, trials - confirming), (CHOOSE, choosing), (REPORT, confirming - choosing)


def _continue_plan(trials: int, share: float, enqueued: int, known: Mapping[int, str]) -> StagePlan:
    # what ran keeps its stage: a missing number is of the stage before it
    sizes: list[tuple[str, int]] = []
    stage = SEARCH if enqueued else known[min(known)]
    for number in range(max(known) + 1):
        stage = known.get(number, stage)
        if sizes and sizes[-1][0] == stage:
            sizes[-1] = stage, sizes[-1][1] + 1
        else:
            sizes.append((stage, 1))
    left = trials - max(known) - 1
    if stage == CHOOSE:  # the choice that began gets its report
        reporting = min(left, sizes[-1][1])
        sizes, left = [*sizes, (REPORT, reporting)], left - reporting
    return StagePlan((*sizes, *_split(left, _count_confirming(left, left, share))))

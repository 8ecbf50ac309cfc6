"""Courses and trained children from few arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainables.datasets.dataset import Data
from trainables.spec import PairSpec
from trainables.training import loop
from trainables.training.child import Child
from trainables.training.legs import Leg, child_leg
from trainables.training.loop import Course, Seeds, Training


def make_courses(
    spec: PairSpec,
    model: nn.Module,
    start: Mapping[str, Tensor],
    data: Data | Sequence[Data],
    seeds: Sequence[Seeds],
    leg: Leg | None = None,
    **more: Any,
) -> list[Course]:
    """Return the courses of one child per entry of `seeds`; `data` is one data set or one per child."""
    sets = [data] * len(seeds) if isinstance(data, Data) else data
    return loop.make_courses(
        Training(spec, model, start, sets, seeds, leg or child_leg(spec, sets[0].examples), **more)
    )


def finetune(*args: Any, **more: Any) -> list[Child]:
    """Train the courses that `make_courses` makes to their end, one after the other."""
    courses = make_courses(*args, **more)
    for course in courses:
        course.advance()
    return [child for course in courses for child in course.children]

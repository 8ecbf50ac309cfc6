"""Configurations in order of their objective, kept up trial by trial."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable

from sweeper.runner.jobs import Row
from sweeper.search.objectives import Objective
from trainables.result import NEVER_WINS


class Ranking:
    """Configurations by the mean of the objective over their repeats, best first; the rule of `best_trials`."""

    def __init__(self, objective: Objective, feasible: Callable[[Row], bool] = lambda _: True) -> None:
        self.objective, self.feasible = objective, feasible
        self.repeats: dict[str, list[tuple[float, str]]] = {}  # configuration -> (key, digest); smaller is better
        self.bad: set[str] = set()
        self.order: list[tuple[float, str]] = []  # (mean key, configuration), sorted

    def _key(self, config: str) -> tuple[float, str]:
        keys = [k for k, _ in self.repeats[config]]
        return math.fsum(keys) / len(keys), config

    def add(self, row: Row) -> None:
        """Take a trial's row into account."""
        config, value = row["config"], row.get(self.objective.column)
        if config in self.repeats and config not in self.bad:
            del self.order[bisect_left(self.order, self._key(config))]
        if row["outcome"] in NEVER_WINS or not self.feasible(row):
            self.bad.add(config)
        if row["outcome"] == "ok" and value is not None and math.isfinite(value):
            key = -value if self.objective.maximize else value
            self.repeats.setdefault(config, []).append((key, row["digest"]))
        if config in self.repeats and config not in self.bad:
            insort(self.order, self._key(config))

    @property
    def best(self) -> float | None:
        """Mean objective of the best configuration."""
        if not self.order:
            return None
        return -self.order[0][0] if self.objective.maximize else self.order[0][0]

    def leaders(self, count: int) -> list[str]:
        """Return the digest of the best repeat of each of the best configurations."""
        return [min(self.repeats[config])[1] for _, config in self.order[:count]]

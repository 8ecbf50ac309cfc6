"""Confirmed settings: configurations whose fresh pairs reported a score on test."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces import Space
from sweeper.analysis.settings.settings import SCORES, Confirmation, Estimate
from sweeper.analysis.stages.confirmation import estimate_mean, group_reports
from sweeper.search.objectives import OBJECTIVES
from trainables.spec import PairSpec


@dataclass(frozen=True)
class Confirmed:
    """Settings with fresh pairs: the values of the knobs that act, and what the pairs reported."""

    params: dict[str, Any]
    confirmation: Confirmation


def find_confirmed(space: Space, rows: Sequence[Mapping[str, Any]], columns: Collection[str]) -> list[Confirmed]:
    """Return the settings whose reporting pairs are all viable, in the order of the rows.

    Args:
        space: The search space.
        rows: Rows of the trials table with a spec.
        columns: Columns of the table; without `stage`, as in folders of earlier versions, nothing is confirmed.
    """
    if "stage" not in columns:
        return []

    def find_params(row: Mapping[str, Any]) -> dict[str, Any]:
        return dict(space.params_of(PairSpec.from_json(row["spec"])))

    groups = group_reports(rows, lambda row: repr(find_params(row))).values()
    return [Confirmed(find_params(group[0]), Confirmation(len(group), _score(group))) for group in groups]


def _score(rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    out: dict[str, Estimate] = {}
    for name in SCORES:
        values = [v for row in rows if (v := row.get(OBJECTIVES[name].on("test").column)) is not None]
        if values and all(map(math.isfinite, values)):
            out[name] = Estimate(*estimate_mean(values))
    return out

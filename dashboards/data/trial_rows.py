"""The list of trials: its columns, and its filtered and sorted rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from sweeper.formatting import add_unit, name_knob
from sweeper.search.objectives import Objective
from trainables.noise import NOISE
from trainables.result import Column, Outcome, trial_columns

pc: Any = pyarrow.compute  # it creates its functions at import, which hides them from type checkers

STAR = "star"
FIRST = ("number", "repeat", "outcome")
KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay", "augmentation", "augmentation_strength")
SCORES = (
    "gain_mean_loss_val", "gain_mean_loss_test", "merged_loss_val", "merged_loss_test", "a_loss_test", "b_loss_test",
    "chosen_loss_test", "ensemble_loss_test", "merged_accuracy_test", "chosen_accuracy_test",
)  # fmt: skip
LAST = ("chosen_merge", "chosen_coefficient", "chosen_window", "device_seconds", "outcome_detail", "warnings", "digest")
HEADS = {
    "number": "trial",
    **{knob: name_knob(knob).short for knob in KNOBS},
    "gain_mean_loss_val": "gain, validation",
    "gain_mean_loss_test": "gain, test",
    "device_seconds": "device time",
    "outcome_detail": "what happened",
}
_DOCS: Mapping[str, Column] = {c.name: c for c in trial_columns()}


@dataclass(frozen=True)
class Head:
    """A column of the list: name in the table, heading with unit, kind and description."""

    name: str
    text: str
    kind: str
    doc: str


def list_heads(trials: pa.Table, noise: str, column: str) -> tuple[Head, ...]:
    """Return the columns to show, without empty ones: identity, knobs, noise and scores of a trial.

    Args:
        trials: The trials table; its column `run` is shown if it exists.
        noise: Definition of the noise.
        column: Column of the objective.
    """
    names = [
        STAR,
        *(("run",) if "run" in trials.column_names else ()),
        *FIRST,
        column,
        f"noise_{noise}",
        *KNOBS,
        *SCORES,
    ]
    names += LAST
    filled = {n for n in trials.column_names if trials.column(n).null_count < trials.num_rows} | {STAR, *FIRST}
    return tuple(_make_head(n) for n in dict.fromkeys(names) if n in filled or not trials.num_rows)


def _make_head(name: str) -> Head:
    if name == STAR:
        return Head(STAR, "★", "str", "★ marks the configuration that the answer gives")
    if name == "run":
        return Head("run", "sweep", "str", "sweep of the trial")
    column = _DOCS[name]
    noise = name.removeprefix("noise_")
    doc = column.doc
    if name.startswith("noise_") and noise in NOISE:
        doc = f"{NOISE[noise].formula}, {NOISE[noise].source}"
    text = HEADS.get(name, name.replace("_", " "))
    return Head(name, add_unit(text, column.unit), column.kind, add_unit(f"{name}: {doc}", column.unit))


def rank_rows(trials: pa.Table, objective: Objective, starred: str | None = None) -> pa.Table:
    """Return the trials best first, with the column `STAR`: the starred configuration, then ok trials by score.

    Args:
        trials: The trials table.
        objective: The score, on its split.
        starred: Configuration to mark and to put first; None marks none.
    """
    score = np.asarray(trials.column(objective.column).to_numpy(), dtype=float) * (-1 if objective.maximize else 1)
    star = np.asarray(trials.column("config").to_numpy() == starred, dtype=bool)
    bad = np.asarray(trials.column("outcome").to_numpy() != Outcome.OK, dtype=bool)
    order = np.lexsort((np.where(np.isfinite(score), score, np.inf), bad, ~star))
    marked = trials.append_column(STAR, pa.array(np.where(star, "★", ""), pa.string()))
    return marked.take(pa.array(order))


_NUMBER: Mapping[str, Callable[[Any, Any], Any]] = {
    "equals": pc.equal,
    "notEqual": pc.not_equal,
    "lessThan": pc.less,
    "lessThanOrEqual": pc.less_equal,
    "greaterThan": pc.greater,
    "greaterThanOrEqual": pc.greater_equal,
}


def _filter_number(values: Any, rule: Mapping[str, Any]) -> Any:
    kind, limit = rule["type"], rule.get("filter")
    if kind == "inRange":
        return pc.and_(pc.greater_equal(values, limit), pc.less_equal(values, rule["filterTo"]))
    return _NUMBER[kind](values, limit)


def _filter_text(values: Any, rule: Mapping[str, Any]) -> Any:
    kind, wanted = rule["type"], str(rule.get("filter") or "").lower()
    lower = pc.utf8_lower(values)
    if kind in ("equals", "notEqual"):
        same = pc.equal(lower, wanted)
        return same if kind == "equals" else pc.invert(same)
    if kind in ("startsWith", "endsWith"):
        return (pc.starts_with if kind == "startsWith" else pc.ends_with)(lower, wanted)
    contains = pc.match_substring(lower, wanted)
    return (
        contains
        if kind == "contains"
        else pc.invert(contains)
        if kind == "notContains"
        else _NUMBER[kind](lower, wanted)
    )


def _make_mask(values: Any, rule: Mapping[str, Any]) -> Any:
    if "conditions" in rule:
        masks = [_make_mask(values, r) for r in rule["conditions"]]
        both = pc.and_ if rule.get("operator") == "AND" else pc.or_
        return both(masks[0], masks[1]) if len(masks) > 1 else masks[0]
    if rule["type"] in ("blank", "notBlank"):
        empty = pc.is_null(values, nan_is_null=True)
        return empty if rule["type"] == "blank" else pc.invert(empty)
    is_text = pa.types.is_string(values.type)
    return pc.fill_null((_filter_text if is_text else _filter_number)(values, rule), False)


def filter_rows(trials: pa.Table, rules: str, order: str) -> tuple[pa.Table, str]:
    """Return the filtered and sorted rows.

    Args:
        trials: The trials table.
        rules: Filter model of the grid as JSON: column -> rule; empty keeps all rows.
        order: Sort model as JSON: a list of `colId` and `sort` (`asc` or `desc`); empty keeps the order.

    Returns:
        The rows, and a sentence if the filter or the order is invalid, else an empty text. An invalid one is left out.
    """
    model, trouble = _parse(rules, {}, "filter")
    sorts, unsorted = _parse(order, [], "order")
    found, column = trials, ""
    try:
        for column, rule in model.items():
            found = found.filter(_make_mask(found.column(column), rule))
    except _INVALID:
        found, trouble = trials, _describe_trouble("filter", column, trials)
    try:
        for sort in sorts:
            column = sort["colId"]
        keys = [(s["colId"], "descending" if s["sort"] == "desc" else "ascending") for s in sorts]
        found = found.sort_by(keys) if keys else found
    except _INVALID:
        unsorted = _describe_trouble("order", column, trials)
    return found, trouble or unsorted


_INVALID = (ValueError, LookupError, TypeError, AttributeError, RecursionError, pa.ArrowException)
_IGNORED = {"filter": "so all trials are shown", "order": "so the best trials stand first"}
_ARTICLE = {"filter": "a filter", "order": "an order"}
_LONGEST = 40


def _parse(text: str, empty: Any, what: str) -> tuple[Any, str]:
    try:
        value = json.loads(text) if text else empty
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, type(empty)):
        return value, ""
    return empty, f"The {what} in the address is not valid JSON of {_ARTICLE[what]}, {_IGNORED[what]}."


def _describe_trouble(what: str, column: str, trials: pa.Table) -> str:
    name = repr(str(column)[:_LONGEST])
    if column not in trials.column_names:
        return f"The {what} in the address names {name}, which is no column, {_IGNORED[what]}."
    return f"The {what} in the address has no valid rule for column {name}, {_IGNORED[what]}."

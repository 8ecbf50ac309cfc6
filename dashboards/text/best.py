"""Tables of the best and of the recommended configurations, as cells of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from dashboards.charts.axes import shorten
from dashboards.data.configurations import KNOBS, ConfigPoint, Sweep, group_configurations
from sweeper.analysis.best import rank_configurations
from sweeper.analysis.posterior import Favourite
from sweeper.analysis.recommend import Recommendation
from sweeper.formatting import add_unit, merge_words, name_knob, pluralize
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE
from trainables.result import TASKS, trial_columns


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, hover text, and the class that colours it."""

    text: str
    title: str = ""
    look: str = ""


@dataclass(frozen=True)
class TextTable:
    """A table of text: a head with descriptions, and rows of cells."""

    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


DOCS = {c.name: add_unit(c.doc, c.unit) for c in trial_columns()}
_LOSSES = {"a_loss_test": "A", "b_loss_test": "B", "merged_loss_test": "merged", "chosen_loss_test": "chosen"}
_SHOWN = {
    **{k: f"{v} loss" for k, v in _LOSSES.items()},
    "ensemble_loss_test": "ensemble loss",
    "a_accuracy_test": "A acc.",
    "b_accuracy_test": "B acc.",
    "merged_accuracy_test": "merged acc.",
    "chosen_accuracy_test": "chosen acc.",
    "ensemble_accuracy_test": "ensemble acc.",
}
_SYMBOLS = {"linear": "α", "task_arithmetic": "s"}


def _list_shown(trials: pa.Table) -> dict[str, str]:
    """Return column -> heading of the test scores in the table: of further tasks' children, too, if there are any."""
    more = [t for t in TASKS[2:] if trials[f"{t}_loss_test"].null_count < trials.num_rows]
    words = {"loss": "loss", "accuracy": "acc."}
    shown: dict[str, str] = {}
    for column, heading in _SHOWN.items():
        shown[column] = heading
        who, kind, _ = column.split("_")
        shown |= {f"{t}_{kind}_test": f"{t.upper()} {words[kind]}" for t in more} if who == "b" else {}
    return shown


def format_percent(value: float | None) -> str:
    """Return a share as a percentage with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _make_estimate_cell(point: ConfigPoint, column: str) -> Cell:
    value = point.values.get(column)
    if value is None:
        return Cell("–", f"{column} was not measured")
    error = (
        f" ± {shorten(value.error, 2)} (standard error, {pluralize(value.n, 'repeat')})"
        if value.error is not None
        else ""
    )
    text = format_percent(value.mean) if "accuracy" in column else shorten(value.mean)
    return Cell(text, f"{column} = {shorten(value.mean, 5)}{error}")


def _make_chosen_cell(point: ConfigPoint) -> Cell:
    words = [merge_words(*choice) for choice in point.chosen]
    if len(set(words)) != 1:
        return Cell("differs" if words else "–", "; ".join(words))
    method, coefficient, window = point.chosen[0]
    plain = words[0].removesuffix(" (no merge)")
    brief = f"{_SYMBOLS[method]} = {shorten(coefficient)}" if plain == words[0] and method in _SYMBOLS else plain
    brief = f"{brief}, window {window}" if window and method in _SYMBOLS else brief
    return Cell(brief, words[0])


def make_best_table(
    trials: pa.Table,
    sweep: Sweep,
    n: int = 15,
    favourite: Favourite | None = None,
    lost: Collection[str] = frozenset(),
    answer: str | None = None,
) -> TextTable:
    """Return the `n` best configurations by the validation objective, with their test scores.

    Args:
        trials: The trials table.
        sweep: Names the objective and the noise definition.
        n: Maximum number of rows; favourite and answer get further ones if they rank lower.
        favourite: The best configuration by posterior mean; its row says so.
        lost: Configurations that may not win.
        answer: The configuration that the answer gives; it gets the star.
    """
    objective = OBJECTIVES[sweep.objective]
    columns = _list_shown(trials)
    points = group_configurations(trials, sweep.noise, [objective.column, *columns], lost)
    scale = NOISE[sweep.noise]
    head = [
        Cell("rank", "rank by the mean validation objective over the repeats; ★ the answer's configuration"),
        Cell("trial", f"{DOCS['number']}; hover over the number for the digest"),
        Cell(objective.label, DOCS[objective.column]),
        Cell("noise", f"{sweep.noise}: {add_unit(scale.formula, scale.unit)}, {scale.source}"),
        *(Cell(name_knob(k).short, DOCS[k]) for k in KNOBS),
        *(Cell(text, DOCS[c]) for c, text in columns.items()),
        Cell(
            "chosen", f"{DOCS['chosen_merge']}: α of linear, s of task arithmetic; a parent or the base is not a merge"
        ),
        Cell("repeats", "ok repeats and all repeats of the configuration"),
    ]
    if sweep.own_models:  # their training is unknown
        points = [replace(p, noise=None, knobs={}) for p in points]
    by_config = {p.config: p for p in points}
    ranked = [by_config[s.config] for s in rank_configurations(trials, objective, lost)]
    chosen = favourite.config if favourite else None
    shown = [(i, p) for i, p in enumerate(ranked, start=1) if i <= n or p.config in (chosen, answer)]
    rows = [
        (
            _make_rank_cell(i, favourite if p.config == chosen else None, p.config == answer),
            *_make_best_row(p, (objective.column, *columns)),
        )
        for i, p in shown
    ]
    return TextTable(tuple(head), tuple(rows))


def _make_rank_cell(rank: int, favourite: Favourite | None, answers: bool) -> Cell:
    text, titles = f"★ {rank}" if answers else str(rank), ["the answer's configuration"] if answers else []
    if favourite is not None:
        error = ", one trial: its error is unknown" if favourite.sd is None else f" ± {shorten(favourite.sd, 2)}"
        text += " (best by the model)"
        titles.append(f"posterior mean {shorten(favourite.mean)}{error}")
    return Cell(text, "; ".join(titles))


def _make_best_row(point: ConfigPoint, columns: Sequence[str]) -> tuple[Cell, ...]:
    outcomes = ", ".join(f"{n} {name}" for name, n in point.outcomes.items())
    done = sum(point.outcomes.values())
    return (
        Cell("–" if point.number is None else str(point.number), f"digest {', '.join(point.digests)}; {point.detail}"),
        _make_estimate_cell(point, columns[0]),
        Cell(shorten(point.noise), f"noise = {shorten(point.noise, 6)}"),
        *(Cell(shorten(point.knobs.get(k)), f"{k} = {shorten(point.knobs.get(k), 6)}") for k in KNOBS),
        *(_make_estimate_cell(point, c) for c in columns[1:]),
        _make_chosen_cell(point),
        Cell(f"{point.outcomes.get('ok', 0)}/{done}", outcomes),
    )


def make_recommendation_table(recommendations: Sequence[Recommendation]) -> TextTable:
    """Return hyperparameters that reach the best noise, one row per batch size."""
    head = (
        Cell("B", DOCS["batch_size"]),
        Cell("η", DOCS["learning_rate"]),
        Cell("η, 90 % interval", "learning rates at the ends of the 90 % interval of the best noise"),
        Cell("μ", DOCS["momentum"]),
        Cell("λ", DOCS["weight_decay"]),
        Cell("note", "whether the settings lie in the tried range and below the step size at which training failed"),
    )
    rows = [
        (
            Cell(str(r.batch_size)),
            Cell(shorten(r.learning_rate), f"learning_rate = {shorten(r.learning_rate, 6)}"),
            Cell(
                f"{shorten(r.learning_rate_low)}{' ▲' if r.low_beyond_stability else ''} to "
                f"{shorten(r.learning_rate_high)}{' ▲' if r.high_beyond_stability else ''}"
            ),
            Cell(shorten(r.momentum)),
            Cell(shorten(r.weight_decay), f"weight_decay = {shorten(r.weight_decay, 6)}"),
            Cell(("▲ " if r.beyond_stability else "") + r.note),
        )
        for r in recommendations
    ]
    return TextTable(head, tuple(rows))

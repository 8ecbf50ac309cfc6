"""The tables of the page, of the best and of the recommended configurations: records in, cells of text out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from dashboards.charts.axes import short
from dashboards.data.configurations import KNOBS, ConfigPoint, Sweep, config_points
from sweeper.analysis.best import rank_configurations
from sweeper.analysis.posterior import Favourite
from sweeper.analysis.recommend import Recommendation
from sweeper.formatting import merge_words, name_knob
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE
from trainables.result import trial_columns


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and what the mouse tells about it."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class TextTable:
    """A table of text: a head with the columns' descriptions, and rows of cells."""

    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


DOCS = {c.name: f"{c.doc} [{c.unit}]" if c.unit else c.doc for c in trial_columns()}
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


def percent(value: float | None) -> str:
    """Return a share as per cent with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _estimate_cell(point: ConfigPoint, column: str) -> Cell:
    found = point.values.get(column)
    if found is None:
        return Cell("–", f"{column} was not measured")
    spread = f" ± {short(found.error, 2)} (standard error, {found.n} repeats)" if found.error is not None else ""
    text = percent(found.mean) if "accuracy" in column else short(found.mean)
    return Cell(text, f"{column} = {short(found.mean, 5)}{spread}")


def _chosen_cell(point: ConfigPoint) -> Cell:
    words = [merge_words(*choice) for choice in point.chosen]
    if len(set(words)) != 1:
        return Cell("differs" if words else "–", "; ".join(words))
    method, coefficient = point.chosen[0]
    plain = words[0].removesuffix(" (no merge)")
    brief = f"{_SYMBOLS[method]} = {short(coefficient)}" if plain == words[0] and method in _SYMBOLS else plain
    return Cell(brief, words[0])


def best_table(
    trials: pa.Table,
    sweep: Sweep,
    n: int = 15,
    favourite: Favourite | None = None,
    lost: Collection[str] = frozenset(),
) -> TextTable:
    """Return the `n` best configurations by the validation objective, with their test scores.

    Args:
        trials: The trials table.
        sweep: Names the objective and the noise definition.
        n: At most so many rows; the favourite is added where it is not among them.
        favourite: The best configuration by posterior mean, which is marked.
        lost: Configurations that may not win.
    """
    objective = OBJECTIVES[sweep.objective]
    points = config_points(trials, sweep.noise, [objective.column, *_SHOWN], lost)
    scale = NOISE[sweep.noise]
    head = [
        Cell("rank", "order by the mean of the objective on validation over the repeats; ★ best by posterior mean"),
        Cell("trial", f"{DOCS['number']}; the digest is shown on the number"),
        Cell(objective.label, DOCS[objective.column]),
        Cell("noise", f"{sweep.noise}: {scale.formula} [{scale.unit}], {scale.source}"),
        *(Cell(name_knob(k).short, DOCS[k]) for k in KNOBS),
        *(Cell(text, DOCS[c]) for c, text in _SHOWN.items()),
        Cell("chosen", f"{DOCS['chosen_merge']}: α of linear, s of task arithmetic; a parent or the base is no merge"),
        Cell("repeats", "ok repeats of all repeats of the configuration"),
    ]
    if sweep.own:  # how they were trained is not known
        points = [replace(p, noise=None, knobs={}) for p in points]
    by_config = {p.config: p for p in points}
    ranked = [by_config[s.config] for s in rank_configurations(trials, objective, lost)]
    chosen = favourite.config if favourite else None
    shown = [(i, p) for i, p in enumerate(ranked, start=1) if i <= n or p.config == chosen]
    rows = [_best_row(i, p, objective.column, favourite if p.config == chosen else None) for i, p in shown]
    return TextTable(tuple(head), tuple(rows))


def _rank_cell(rank: int, favourite: Favourite | None) -> Cell:
    if favourite is None:
        return Cell(str(rank))
    error = ", one trial: its error is not known" if favourite.sd is None else f" ± {short(favourite.sd, 2)}"
    return Cell(f"★ {rank}", f"best by posterior mean, {short(favourite.mean)}{error}")


def _best_row(rank: int, point: ConfigPoint, column: str, favourite: Favourite | None) -> tuple[Cell, ...]:
    outcomes = ", ".join(f"{n} {name}" for name, n in point.outcomes.items())
    done = sum(point.outcomes.values())
    return (
        _rank_cell(rank, favourite),
        Cell("–" if point.number is None else str(point.number), f"digest {', '.join(point.digests)}; {point.detail}"),
        _estimate_cell(point, column),
        Cell(short(point.noise), f"noise = {short(point.noise, 6)}"),
        *(Cell(short(point.knobs.get(k)), f"{k} = {short(point.knobs.get(k), 6)}") for k in KNOBS),
        *(_estimate_cell(point, c) for c in _SHOWN),
        _chosen_cell(point),
        Cell(f"{point.outcomes.get('ok', 0)}/{done}", outcomes),
    )


def recommendation_table(found: Sequence[Recommendation]) -> TextTable:
    """Return hyperparameters that reach the best noise, one row per batch size."""
    head = (
        Cell("B", DOCS["batch_size"]),
        Cell("η", DOCS["learning_rate"]),
        Cell("η, 90 % interval", "learning rates at the ends of the 90 % interval of the best noise"),
        Cell("μ", DOCS["momentum"]),
        Cell("λ", DOCS["weight_decay"]),
        Cell("note", "whether it lies within what was tried and below the step size at which training failed"),
    )
    rows = [
        (
            Cell(str(r.batch_size)),
            Cell(short(r.learning_rate), f"learning_rate = {short(r.learning_rate, 6)}"),
            Cell(
                f"{short(r.learning_rate_low)}{' ▲' if r.low_beyond_stability else ''} to "
                f"{short(r.learning_rate_high)}{' ▲' if r.high_beyond_stability else ''}"
            ),
            Cell(short(r.momentum)),
            Cell(short(r.weight_decay), f"weight_decay = {short(r.weight_decay, 6)}"),
            Cell(("▲ " if r.beyond_stability else "") + r.note),
        )
        for r in found
    ]
    return TextTable(head, tuple(rows))

"""Results in a notebook: verdict, best settings, what to expect, and best trials as HTML, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sweeper.analysis.best import rank_trials
from sweeper.analysis.scorecard.answer import Answer, format_expected, format_scores
from sweeper.analysis.scorecard.badge import Word
from sweeper.analysis.summary import SHOWN_KNOBS
from sweeper.formatting import number, pluralize
from sweeper.search.objectives import resolve_objective
from trainables.io.printable import printable_line

_HUES = {Word.HUMP: "#007a59", Word.LIKELY: "#0072b2", Word.NO_OPTIMUM: "#c04f00", Word.UNDETERMINED: "#767c86"}
SHOWN = 5
"""Rows of the table of the best configurations."""


def format_results(
    trials: Any, objective: str, noise: str, answer: Answer, winner: Mapping[str, Any] | None, lost: frozenset[str]
) -> str:
    """Return the HTML of results.

    Args:
        trials: The trials table.
        objective: Name of the objective.
        noise: Name of the noise.
        answer: The answer of the sweep, for the verdict and what to expect.
        winner: Row of the winner, see `sweeper.analysis.best.choose_winner`; None without a viable trial.
        lost: Configurations that may not win.
    """
    goal = resolve_objective(objective, trials)
    hue = _HUES[Word(answer.verdict)]
    parts = [
        f'<p style="border-left: 6px solid {hue}; padding-left: 8px"><b>{_text(answer.verdict)}</b> '
        f"{_text(answer.reason)}. {pluralize(trials.num_rows, 'trial')}.</p>"
    ]
    if winner is not None:
        settings = ", ".join(f"{_text(_words(k))} {_value(winner[k])}" for k in SHOWN_KNOBS if winner[k] is not None)
        record = answer.record()
        scores = format_scores(record["scores"])
        parts.append(
            f"<p><b>Best settings:</b> {settings}. Trial <code>{_text(winner['digest'])}</code>"
            f"<br><b>Expect:</b> {_text(format_expected(record))}{'; on test: ' + _text(scores) if scores else ''}."
            f"<br><b>Sure?</b> {_text(answer.certainty)}.</p>"
        )
        columns = [*SHOWN_KNOBS, f"noise_{noise}", "config_mean", "config_repeats", "digest"]
        names = [_words(objective) if c == "config_mean" else "repeats" if c == "config_repeats" else _words(c)
                 for c in columns]  # fmt: skip
        rows = rank_trials(trials, objective, SHOWN, lost)
        parts.append(_table(names, ([_value(row[c]) for c in columns] for row in rows)))
        parts.append(
            f"<p><small>{_text(goal.label)}: {'larger' if goal.maximize else 'smaller'} is better.</small></p>"
        )
    return f"<div>{''.join(parts)}</div>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    return _text("–" if value is None else value if isinstance(value, str) else number(value))


def _text(text: str) -> str:
    return escape(printable_line(text))

"""The answer of a sweep on every tab: the winning row, the starred configuration, and the notes."""

from __future__ import annotations

from typing import Any

from dashboards.data.cache import cache_by_content
from dashboards.data.runs import Run
from dashboards.data.words import format_sentence
from dashboards.views import choices
from sweeper.analysis.best import choose_winner
from sweeper.analysis.posterior import Favourite, Posterior
from sweeper.analysis.scorecard.answer import COMMAND, find_remarks
from sweeper.errors import SpecError


@cache_by_content
def find_winner(run: Run, objective: str, favourite: Favourite | None, undecided: str) -> dict[str, Any] | None:
    """Return the winning row, see `sweeper.analysis.best.choose_winner`."""
    believed = Posterior(favourite=favourite, undecided=undecided)
    return choose_winner(run.tables["trials"], objective, believed, choices.find_lost(run))


def find_starred(run: Run, objective: str, believed: Posterior) -> str | None:
    """Return the configuration that the answer gives, which has the star on every tab; None without one."""
    winner = find_winner(run, objective, believed.favourite, believed.undecided)
    return winner["config"] if winner else None


@cache_by_content
def list_remarks(run: Run, objective: str, favourite: Favourite | None, undecided: str) -> tuple[str, ...]:
    """Return the answer's notes as sentences."""
    if run.spec is None:
        return ()
    from sweeper.storage.space_data import known_space

    trials, winner = run.tables["trials"], find_winner(run, objective, favourite, undecided)
    try:
        remarks = find_remarks(run.spec, known_space(run.spec).space, trials, winner, run.called, run.flags)
    except (SpecError, ValueError):  # the ends of the ranges are unknown
        remarks = find_remarks(run.spec, None, trials, winner, run.called, run.flags)
    return tuple(_format_remark(r) for r in remarks)


def _format_remark(remark: str) -> str:
    text, separator, command = remark.partition(COMMAND)
    return format_sentence(f"{text}: `{COMMAND.removeprefix(': ')}{command}`" if separator else text)

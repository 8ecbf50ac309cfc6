"""The card of settings to use: whole settings by the sweep's model, else those that reach the best noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dashboards.charts.axes import shorten
from dashboards.data.cache import cache_by_content
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import strip_label
from dashboards.text.settings import SettingsCard, make_noise_card, make_settings_card
from dashboards.views.verdicts import Judgement, advise
from sweeper.analysis.recommend import Recommendation, recommend
from sweeper.analysis.regime import Regime
from sweeper.errors import SpecError
from sweeper.search.objectives import OBJECTIVES

if TYPE_CHECKING:
    from sweeper.analysis.settings.settings import Settings


def make_card(
    run: Run,
    question: tuple[str, str, str] | None,
    fit: Regime | None,
    judgement: Judgement | None,
    best: Mapping[str, Any] | None,
    selection: Selection,
) -> tuple[list[Recommendation], SettingsCard | None, str]:
    """Return learning rates that reach the best noise, the card, and why there is no card.

    Args:
        run: The run.
        question: Objective, noise and split; None without trials or hyperparameters.
        fit: The fit of the objective.
        judgement: The judgement, with whole settings; None while it is computed.
        best: The winning row.
        selection: The reader's choices.
    """
    advice, trouble = _recommend(run, fit, best, selection)
    card = make_noise_card(advice, best, _describe_expected(fit))
    refused = bool(selection.batch_size) and bool(trouble)
    if question is not None and judgement is not None and judgement.settings and not refused:
        whole, trouble = _advise_whole(run, question, judgement, selection)
        card = make_settings_card(whole, fit)
    return advice, card, trouble


def _describe_expected(fit: Regime | None) -> str:
    if fit is None or fit.value is None:
        return ""
    goal = OBJECTIVES[fit.objective]
    unit = goal.label.partition("[")[2].rstrip("]")
    return f"Expect a {strip_label(goal.label)} of {shorten(fit.value)} {unit}".rstrip() + "."


def _recommend(
    run: Run, fit: Regime | None, best: Mapping[str, Any] | None, selection: Selection
) -> tuple[list[Recommendation], str]:
    """Return the recommended settings, and why there are none."""
    typed = selection.batch_size
    if typed and not (typed.isdecimal() and int(typed) >= 1):
        return [], f"The batch size must be a whole number >= 1, got {typed}; type another one."
    if fit is None:
        return [], "Still computing."
    if fit.optimum is None:
        return [], f"No settings yet: {fit.message}."
    try:
        return _advise(run, fit, best, (int(typed),) if typed else None), ""
    except ValueError as error:
        return [], f"No recommended settings: {error}."


def _advise_whole(
    run: Run, question: tuple[str, str, str], judgement: Judgement, selection: Selection
) -> tuple[tuple[Settings, ...], str]:
    """Return settings of every knob, and why the reader's batch size has none."""
    if not selection.batch_size or not judgement.settings:
        return judgement.settings, ""
    try:
        return _advise_at(run, *question[:2], int(selection.batch_size)), ""
    except (SpecError, ValueError) as error:
        return (), f"No recommended settings: {error}."


@cache_by_content
def _advise_at(run: Run, objective: str, noise: str, batch_size: int) -> tuple[Settings, ...]:
    return advise(run, objective, noise, batch_size)


def _advise(
    run: Run, fit: Regime, best: Mapping[str, Any] | None, sizes: tuple[int, ...] | None
) -> list[Recommendation]:
    return recommend(run.tables["trials"], fit, batch_sizes=sizes, best=best)

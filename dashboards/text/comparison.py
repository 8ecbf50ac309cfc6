"""Comparison of pooled sweeps: optimum, best merge and cost per sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute

from dashboards.charts.axes import shorten
from dashboards.data.cache import cache_by_content
from dashboards.data.configurations import make_overview, to_finite
from dashboards.data.runs import Run
from dashboards.text.best import Cell, TextTable, format_percent
from sweeper.analysis.best import choose_winner, find_over_limits
from sweeper.analysis.posterior import Posterior, fit_posterior
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.config.spec import SweepSpec
from sweeper.formatting import add_unit
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE

pc: Any = pyarrow.compute  # it creates its functions at import, which hides them from type checkers


@dataclass(frozen=True)
class ComparedRun:
    """One of several sweeps: fit, best merge, and cost.

    Attributes:
        loss, accuracy: Test scores of the best merge; None without a winner.
        parents: Mean test loss of its parents.
    """

    name: str
    trials: int
    ok: int
    regime: Regime
    loss: float | None
    accuracy: float | None
    parents: float | None
    device_seconds: float | None


@cache_by_content
def compare_runs(run: Run, objective: str, noise: str, split: str) -> tuple[ComparedRun, ...]:
    """Return one record per run that `run` joins; nothing for a single run."""
    trials = run.tables["trials"]
    if "run" not in trials.column_names:
        return ()
    compared: list[ComparedRun] = []
    for name in pc.unique(trials["run"]).to_pylist():
        rows = trials.filter(pc.equal(trials["run"], name))
        counts = make_overview(rows, None)
        best = _find_winner(run.specs.get(name), rows, objective)
        sides = [to_finite(best[f"{who}_loss_test"]) for who in "ab"] if best else []
        known = [s for s in sides if s is not None]
        compared.append(
            ComparedRun(
                name=name,
                trials=counts.trials,
                ok=counts.outcomes.get("ok", 0),
                regime=fit_regime(rows, objective, noise, split=split),
                loss=to_finite(best["chosen_loss_test"]) if best else None,
                accuracy=to_finite(best["chosen_accuracy_test"]) if best else None,
                parents=sum(known) / len(known) if known else None,
                device_seconds=counts.device_seconds,
            )
        )
    return tuple(compared)


def _find_winner(spec: SweepSpec | None, rows: pa.Table, objective: str) -> dict[str, Any] | None:
    if spec is None or objective != spec.objective:  # the model covers only the searched objective
        return choose_winner(rows, objective, Posterior())
    return choose_winner(rows, objective, fit_posterior(spec, rows, explain=False), find_over_limits(rows, spec))


def make_comparison_table(compared: tuple[ComparedRun, ...], objective: str, noise: str) -> TextTable:
    """Return a table with one row per sweep."""
    if not compared:
        return TextTable((), ())
    scale = NOISE[noise]
    head = (
        Cell("sweep"),
        Cell("trials", "finished trials; a trial of two sweeps counts once"),
        Cell(add_unit("best noise", scale.unit), f"of {OBJECTIVES[objective].label}; noise {noise} = {scale.formula}"),
        Cell("90 % interval", "of the best noise"),
        Cell(
            "inside",
            "whether the best noise lies inside the tried range: fewer than 5 % of resampled optima at an edge",
        ),
        Cell("loss [nat]", "test loss of the best merge"),
        Cell("parents [nat]", "mean test loss of its parents"),
        Cell("accuracy", "test accuracy of the best merge"),
        Cell("device time [s]", "all phases of all trials"),
    )
    return TextTable(head, tuple(_make_row(c) for c in compared))


def _make_row(run: ComparedRun) -> tuple[Cell, ...]:
    fit = run.regime
    known = fit.optimum is not None
    return (
        Cell(run.name),
        Cell(str(run.trials), f"{run.ok} of {run.trials} are ok"),
        Cell(shorten(fit.optimum), fit.message),
        Cell(f"{shorten(fit.low)} to {shorten(fit.high)}" if known else "–", fit.message),
        Cell(("yes" if fit.interior else "no") if known else "–", fit.message),
        Cell(shorten(run.loss, 4)),
        Cell(shorten(run.parents, 4)),
        Cell(format_percent(run.accuracy)),
        Cell(shorten(run.device_seconds, 4)),
    )

"""Several sweeps beside one another: what each one found and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute

from dashboards.charts.axes import short
from dashboards.data.cache import by_content
from dashboards.data.configurations import finite, overview
from dashboards.data.runs import Run
from dashboards.text.best import Cell, TextTable, percent
from sweeper.analysis.best import winner
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE

pc: Any = pyarrow.compute  # whose functions are made when it is imported


@dataclass(frozen=True)
class Beside:
    """One sweep of several: its fit, its best merge by observed mean, and its cost.

    Attributes:
        loss, accuracy: Of the best merge, on test; None where nothing has won.
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


@by_content
def beside(run: Run, objective: str, noise: str, split: str) -> tuple[Beside, ...]:
    """Return one record for each run that `run` was joined from; none for a single one."""
    trials = run.tables["trials"]
    if "run" not in trials.column_names:
        return ()
    found: list[Beside] = []
    for name in pc.unique(trials["run"]).to_pylist():
        rows = trials.filter(pc.equal(trials["run"], name))
        counts = overview(rows, None)
        best = winner(rows, objective, Posterior())
        sides = [finite(best[f"{who}_loss_test"]) for who in "ab"] if best else []
        known = [s for s in sides if s is not None]
        found.append(
            Beside(
                name=name,
                trials=counts.trials,
                ok=counts.outcomes.get("ok", 0),
                regime=fit_regime(rows, objective, noise, split=split),
                loss=finite(best["chosen_loss_test"]) if best else None,
                accuracy=finite(best["chosen_accuracy_test"]) if best else None,
                parents=sum(known) / len(known) if known else None,
                device_seconds=counts.device_seconds,
            )
        )
    return tuple(found)


def beside_table(found: tuple[Beside, ...], objective: str, noise: str) -> TextTable:
    """Return the sweeps as a table, one row each."""
    if not found:
        return TextTable((), ())
    scale = NOISE[noise]
    head = (
        Cell("sweep"),
        Cell("trials", "finished trials, and how many of them are ok; one that stands in two sweeps counts once"),
        Cell(f"best noise [{scale.unit}]", f"of {OBJECTIVES[objective].label}; noise {noise} = {scale.formula}"),
        Cell("90 % interval", "of the best noise"),
        Cell("inside", "whether the best noise lies inside the tried range: fewer than 5 % of resamples at an edge"),
        Cell("loss [nat]", "test loss of the best merge"),
        Cell("parents [nat]", "mean test loss of its parents"),
        Cell("accuracy", "test accuracy of the best merge"),
        Cell("device time [s]", "all phases of all trials"),
    )
    return TextTable(head, tuple(_row(b) for b in found))


def _row(b: Beside) -> tuple[Cell, ...]:
    fit = b.regime
    known = fit.optimum is not None
    return (
        Cell(b.name),
        Cell(str(b.trials), f"{b.ok} of {b.trials} are ok"),
        Cell(short(fit.optimum), fit.message),
        Cell(f"{short(fit.low)} to {short(fit.high)}" if known else "–", fit.message),
        Cell(("yes" if fit.interior else "no") if known else "–", fit.message),
        Cell(short(b.loss, 4)),
        Cell(short(b.parents, 4)),
        Cell(percent(b.accuracy)),
        Cell(short(b.device_seconds, 4)),
    )

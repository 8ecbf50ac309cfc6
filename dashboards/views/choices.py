"""What a view shows: noise, measure, split and points, from a run and a reader's selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dashboards.charts.chart import Measure
from dashboards.charts.measured_noise import Comparison, compare
from dashboards.data.cache import by_content
from dashboards.data.configurations import (
    Array,
    ConfigPoint,
    Sweep,
    anchor,
    config_noises,
    config_points,
    floats,
    sweep_of,
)
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import words
from dashboards.views.section import Control
from sweeper.analysis.best import over_limits
from sweeper.analysis.posterior import Posterior, fit_posterior
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS, Objective
from trainables.noise import NOISE
from trainables.result import SPLITS


def _measured(column: str, label: str, maximize: bool) -> Objective:
    # no search takes it: there is nothing to tell a study
    return Objective(column, label, maximize, lambda value, _: value)


METRICS: dict[str, Objective] = {
    **{name: OBJECTIVES[name] for name in ("gain_mean", "gain_best", "merged_loss", "merged_accuracy", "barrier")},
    "accuracy_gain": _measured(
        "gain_mean_accuracy_val", "validation accuracy gain over the mean parent [% points]", True
    ),
    "normalised_accuracy": _measured("merged_normalised_accuracy_val", "normalised validation accuracy [%]", True),
    "barrier_excess": _measured("barrier_excess", "excess barrier at α = ½ [nat]", False),
    "cost": OBJECTIVES["cost"],
}


@dataclass(frozen=True)
class Choice:
    """The selection of a reader, with the run's own choices where it says nothing.

    Attributes:
        sweep: What was asked for.
        noise: Name of the noise definition.
        name: Name of the metric, in `METRICS`.
        goal: The metric on the split that is shown.
        split: `train`, `val` or `test`.
    """

    sweep: Sweep
    noise: str
    name: str
    goal: Objective
    split: str

    @property
    def noise_label(self) -> str:
        """The noise with its formula and unit, as an axis says it."""
        scale = NOISE[self.noise]
        return f"noise {scale.formula} [{scale.unit}]"


@by_content
def sweep(run: Run) -> Sweep:
    """Return what the run asked for."""
    return sweep_of(run.settings, run.tables["trials"])


@by_content
def noises(run: Run) -> tuple[str, ...]:
    """Return the definitions of noise that any trial has a positive value of; the sweep's own is always there."""
    trials, own = run.tables["trials"], sweep(run).noise
    names = [n for n in NOISE if f"noise_{n}" in trials.column_names]
    with np.errstate(invalid="ignore"):
        return tuple(n for n in names if n == own or bool((floats(trials, f"noise_{n}") > 0).any()))


@by_content
def metrics(run: Run) -> tuple[str, ...]:
    """Return the metrics that have a value on any split; the sweep's objective is always there."""
    table = run.tables["trials"]
    full = {c for c in table.column_names if table.column(c).null_count < table.num_rows}
    found = [n for n, goal in METRICS.items() if any(goal.on(s).column in full for s in SPLITS)]
    return tuple(dict.fromkeys((sweep(run).objective, *found)))


def choose(run: Run, selection: Selection) -> Choice:
    """Return what is shown; a choice that this run does not have falls back on the run's own."""
    asked = sweep(run)
    name = selection.metric if selection.metric in METRICS else asked.objective
    goal = METRICS[name]
    split = selection.split if selection.split in SPLITS else goal.split_in(run.tables["trials"])
    goal = goal.on(split)
    if goal.column not in run.tables["trials"].column_names:  # normalised accuracy has no training split
        split, goal = "val", METRICS[name]
    noise = selection.noise if selection.noise in noises(run) else asked.noise
    return Choice(asked, noise, name, goal, split)


@by_content
def points(run: Run, noise: str, columns: tuple[str, ...]) -> list[ConfigPoint]:
    """Return one record per configuration, see `dashboards.data.configurations.config_points`."""
    return config_points(run.tables["trials"], noise, columns, lost(run))


@by_content
def levels(run: Run, noise: str) -> Array:
    """Return the noise of each configuration, nan without one, in the order of `points`."""
    return config_noises(run.tables["trials"], noise)


@by_content
def lost(run: Run) -> frozenset[str]:
    """Return the configurations that broke a limit of the sweep."""
    return frozenset(over_limits(run.tables["trials"], run.spec)) if run.spec else frozenset()


@by_content
def regime(run: Run, objective: str, noise: str, split: str) -> Regime:
    """Return the fit of an objective against the noise, see `sweeper.analysis.regime.fit_regime`."""
    return fit_regime(run.tables["trials"], objective, noise, split=split)


@by_content
def believed(run: Run, noise: str) -> Posterior:
    """Return what the model of the trials says about a noise, see `sweeper.analysis.posterior.fit_posterior`."""
    return fit_posterior(run.spec, run.tables["trials"], noise) if run.spec else Posterior()


@by_content
def measure(run: Run, name: str, split: str) -> Measure:
    """Return how a metric is drawn; its anchor comes from the parents."""
    goal = METRICS[name].on(split)
    label = goal.label if "[" in goal.label else f"{goal.label} [%]"
    return Measure(name, goal.column, METRICS[name].on("test").column, label, goal.maximize,
                   anchor(run.tables["trials"], goal.column))  # fmt: skip


@by_content
def comparison(run: Run, noise: str) -> Comparison | None:
    """Return measured beside predicted noise, see `dashboards.charts.measured_noise.compare`."""
    return compare(run.tables["trials"], noise)


@by_content
def runs(run: Run) -> dict[str, str]:
    """Return configuration -> name of its run, where several are read as one."""
    trials = run.tables["trials"]
    if "run" not in trials.column_names:
        return {}
    return dict(zip(trials.column("config").to_pylist(), trials.column("run").to_pylist(), strict=True))


def noise_control(run: Run) -> Control:
    """Return the choice of the noise definition."""
    return Control("noise", "noise", tuple((n, f"{n}: {NOISE[n].formula}") for n in noises(run)))


def metric_control(run: Run) -> Control:
    """Return the choice of the metric."""
    return Control("metric", "metric", tuple((n, words(METRICS[n].label)) for n in metrics(run)))


def split_control() -> Control:
    """Return the choice of the split."""
    return Control("split", "split", tuple((s, SPLIT_WORDS[s]) for s in ("val", "test", "train")))


def known(asked: Selection, controls: Sequence[Control]) -> tuple[Selection, tuple[str, ...]]:
    """Return a selection with values that the controls do not offer at their defaults, and a sentence on each."""
    said: list[str] = []
    for control in controls:
        value = getattr(asked, control.field)
        known = [v for v, _ in control.options]
        if value and known and value not in known:
            said.append(f"There is no {control.label} {value!r} here: the default is shown.")
            asked = replace(asked, **{control.field: ""})
    return asked, tuple(said)

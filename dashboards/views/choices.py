"""Noise, measure, split and points of a view, from a run and a reader's selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dashboards.charts.chart import Measure
from dashboards.charts.two_noises import Comparison, compare_noises
from dashboards.data.cache import cache_by_content
from dashboards.data.configurations import (
    Array,
    ConfigPoint,
    Sweep,
    average_noises,
    find_anchor,
    group_configurations,
    label_noise,
    list_further_knobs,
    read_floats,
    read_settings,
)
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import strip_label
from dashboards.views.section import Control
from sweeper.analysis.best import find_over_limits
from sweeper.analysis.posterior import Posterior, fit_posterior
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.analysis.stages.designed import find_adaptive, find_share, select_designed
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS, Objective
from trainables.noise import NOISE
from trainables.result import SPLITS


def _make_metric(column: str, label: str, maximize: bool) -> Objective:
    # no search uses it, so its value for a study does not matter
    return Objective(column, label, maximize, lambda value, _: value)


METRICS: dict[str, Objective] = {
    **{name: OBJECTIVES[name] for name in ("gain_mean", "gain_best", "merged_loss", "merged_accuracy", "barrier")},
    **{name: goal for name, goal in OBJECTIVES.items() if goal.several_tasks},
    "accuracy_gain": _make_metric(
        "gain_mean_accuracy_val", "validation accuracy gain over the mean parent [% points]", True
    ),
    "barrier_excess": _make_metric("barrier_excess", "excess barrier at α = ½ [nat]", False),
    "cost": OBJECTIVES["cost"],
}


@dataclass(frozen=True)
class Choice:
    """The selection of a reader, with the run's settings as defaults.

    Attributes:
        sweep: The sweep's settings.
        noise: Name of the noise definition.
        name: Name of the metric, in `METRICS`.
        goal: The metric on the split.
        split: `train`, `val` or `test`.
    """

    sweep: Sweep
    noise: str
    name: str
    goal: Objective
    split: str

    @property
    def noise_label(self) -> str:
        """Title of the noise axis, with formula and unit."""
        return label_noise(self.noise)


@cache_by_content
def read_sweep(run: Run) -> Sweep:
    """Return the settings of the run."""
    return read_settings(run.settings, run.tables["trials"])


@cache_by_content
def list_noises(run: Run) -> tuple[str, ...]:
    """Return the sweep's definition of noise, and those with a positive value in any trial."""
    trials, default = run.tables["trials"], read_sweep(run).noise
    names = [n for n in NOISE if f"noise_{n}" in trials.column_names]
    with np.errstate(invalid="ignore"):
        return tuple(n for n in names if n == default or bool((read_floats(trials, f"noise_{n}") > 0).any()))


@cache_by_content
def list_metrics(run: Run) -> tuple[str, ...]:
    """Return the sweep's objective, and the metrics that have a value on any split."""
    table = run.tables["trials"]
    filled = {c for c in table.column_names if table.column(c).null_count < table.num_rows}
    measured = [n for n, goal in METRICS.items() if any(goal.on(s).column in filled for s in SPLITS)]
    return tuple(dict.fromkeys((read_sweep(run).objective, *measured)))


def choose(run: Run, selection: Selection) -> Choice:
    """Return the choices to show; the run's settings replace unavailable ones."""
    sweep = read_sweep(run)
    name = selection.metric if selection.metric in METRICS else sweep.objective
    goal = METRICS[name]
    split = selection.split if selection.split in SPLITS else goal.split_in(run.tables["trials"])
    goal = goal.on(split)
    if goal.column not in run.tables["trials"].column_names:  # normalised accuracy has no training split
        split, goal = "val", METRICS[name]
    noise = selection.noise if selection.noise in list_noises(run) else sweep.noise
    return Choice(sweep, noise, name, goal, split)


@cache_by_content
def group_points(run: Run, noise: str, columns: tuple[str, ...]) -> list[ConfigPoint]:
    """Return one record per configuration, see `dashboards.data.configurations.group_configurations`."""
    further = list_further_knobs(run.tables["search"]) if "search" in run.tables else ()
    return group_configurations(run.tables["trials"], noise, columns, find_lost(run), further)


@cache_by_content
def compare_points(run: Run, noise: str, columns: tuple[str, ...]) -> list[ConfigPoint]:
    """Return the points of the training budget on which the verdict rests: two budgets do not share an axis."""
    points = group_points(run, noise, columns)
    if not any(p.proxy for p in points):
        return points
    short = find_share(select_designed(run.tables["trials"], noise)) is not None
    return [p for p in points if p.proxy == short]


@cache_by_content
def group_judged(run: Run, noise: str, columns: tuple[str, ...]) -> list[ConfigPoint]:
    """Return the points of the trials on which the verdict rests, see `select_designed`."""
    trials = run.tables["trials"]
    judged = select_designed(trials, noise)
    if judged.num_rows == trials.num_rows:
        return group_points(run, noise, columns)
    further = list_further_knobs(run.tables["search"]) if "search" in run.tables else ()
    return group_configurations(judged, noise, columns, find_lost(run), further)


@cache_by_content
def name_judged(run: Run, noise: str) -> str:
    """Return what the trials of the verdict are: `designed trial`, or `trial` if results chose some of them."""
    return "trial" if find_adaptive(select_designed(run.tables["trials"], noise)) else "designed trial"


@cache_by_content
def count_set_aside(run: Run, noise: str) -> int:
    """Return the number of trials on which the verdict does not rest."""
    trials = run.tables["trials"]
    return trials.num_rows - select_designed(trials, noise).num_rows


@cache_by_content
def read_levels(run: Run, noise: str) -> Array:
    """Return the noise per configuration in the order of `group_points`; nan without one."""
    return average_noises(run.tables["trials"], noise)


@cache_by_content
def find_lost(run: Run) -> frozenset[str]:
    """Return the configurations beyond a limit of the sweep."""
    return frozenset(find_over_limits(run.tables["trials"], run.spec)) if run.spec else frozenset()


@cache_by_content
def find_regime(run: Run, objective: str, noise: str, split: str) -> Regime:
    """Return the fit of an objective against the noise, see `sweeper.analysis.regime.fit_regime`."""
    return fit_regime(run.tables["trials"], objective, noise, split=split)


@cache_by_content
def find_posterior(run: Run, noise: str) -> Posterior:
    """Return the posterior of a run, see `sweeper.analysis.posterior.fit_posterior`."""
    return fit_posterior(run.spec, run.tables["trials"], noise) if run.spec else Posterior()


@cache_by_content
def make_measure(run: Run, name: str, split: str) -> Measure:
    """Return the measure of a metric; its anchor comes from the parents."""
    goal = METRICS[name].on(split)
    label = goal.label if "[" in goal.label else f"{goal.label} [%]"
    return Measure(name, goal.column, METRICS[name].on("test").column, label, goal.maximize,
                   find_anchor(run.tables["trials"], goal.column))  # fmt: skip


@cache_by_content
def compare_measured(run: Run, noise: str) -> Comparison | None:
    """Return measured and predicted noise, see `dashboards.charts.two_noises.compare_noises`."""
    return compare_noises(run.tables["trials"], noise)


@cache_by_content
def name_runs(run: Run) -> dict[str, str]:
    """Return configuration -> name of its run; empty for a single run."""
    trials = run.tables["trials"]
    if "run" not in trials.column_names:
        return {}
    return dict(zip(trials.column("config").to_pylist(), trials.column("run").to_pylist(), strict=True))


def make_noise_control(run: Run) -> Control:
    """Return the control of the noise definition."""
    return Control("noise", "noise", tuple((n, f"{n}: {NOISE[n].formula}") for n in list_noises(run)))


def make_metric_control(run: Run) -> Control:
    """Return the control of the metric."""
    return Control("metric", "metric", tuple((n, strip_label(METRICS[n].label)) for n in list_metrics(run)))


def make_split_control() -> Control:
    """Return the control of the split."""
    return Control("split", "split", tuple((s, SPLIT_WORDS[s]) for s in ("val", "test", "train")))


def check_choices(selection: Selection, controls: Sequence[Control]) -> tuple[Selection, tuple[str, ...]]:
    """Return the selection with defaults in place of values that no control offers, and a sentence on each."""
    notices: list[str] = []
    for control in controls:
        value = getattr(selection, control.field)
        known = [v for v, _ in control.options]
        if value and known and value not in known:
            notices.append(f"There is no {control.label} {value!r}: this page shows the default.")
            selection = replace(selection, **{control.field: ""})
    return selection, tuple(notices)

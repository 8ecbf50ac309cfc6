"""Search: how it went, what the sampler's model believes, all knobs at once, and which trials failed and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dashboards.charts.chart import Chart, Measure
from dashboards.charts.parallel_coordinates import parallel_chart
from dashboards.charts.posterior import exponents_chart, posterior_chart
from dashboards.charts.search_history import progress_chart
from dashboards.data.cache import by_content
from dashboards.data.curves import SearchStep, search_steps, thin_steps
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.text.failures import Failure, failure_table, failures
from dashboards.text.pareto import front_chart, front_table
from dashboards.views import choices
from dashboards.views.choices import choose
from dashboards.views.section import Control, Section, TableCard, View
from dashboards.views.verdicts import ask
from sweeper.analysis.best import pareto
from sweeper.analysis.posterior import Posterior
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE

STEPS = 800


@by_content
def broken(run: Run, noise: str) -> list[Failure]:
    """Return the trials that failed, see `dashboards.text.failures.failures`."""
    return failures(run.tables["trials"], noise)


@by_content
def front(run: Run) -> list[dict[str, Any]]:
    """Return the Pareto set of a sweep with several objectives; empty of one with a single one."""
    if run.spec is None or not run.spec.further_objectives:
        return []
    lost, objectives = choices.lost(run), run.spec.objectives
    names = ["config", "number", "digest", "outcome", *(OBJECTIVES[n].column for n in objectives)]
    rows = run.tables["trials"].select(list(dict.fromkeys(names))).to_pylist()
    return pareto(rows, objectives, lambda row: row["config"] not in lost)


def controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the choices: the noise; a search has one objective, on validation."""
    return (choices.noise_control(run),)


def build(run: Run, selection: Selection) -> Section:
    """Return the course of the search, beliefs, parallel coordinates, failures and the Pareto set."""
    chosen = choose(run, Selection(noise=selection.noise))
    measure = choices.measure(run, chosen.name, chosen.split)
    points = choices.points(run, chosen.noise, (measure.column,))
    if not points:
        return Section(banners=("No trial has finished yet: the search has not begun.",))
    judgement, _ = ask(run, (chosen.name, chosen.noise, chosen.split))
    believed = judgement.believed if judgement else Posterior(unexplained="it is being computed")
    steps = search_steps(points, run.tables["search"], chosen.goal)
    charts: list[Chart] = [_progress(steps, measure, chosen.noise_label)]
    tables: list[TableCard] = []
    explained = believed.explanation
    if explained is not None and len(explained.posterior) > 1:
        charts.append(posterior_chart(explained, chosen.noise_label))
    if explained is not None and explained.exponents:
        charts.append(exponents_chart(believed))
    if len(points) > 1 and any(measure.column in p.values for p in points):
        charts.append(parallel_chart(points, measure, NOISE[chosen.noise].unit))
    if (best := front(run)) and run.spec:
        columns = tuple(OBJECTIVES[name].column for name in run.spec.objectives)
        charts.append(front_chart(choices.points(run, chosen.noise, columns), best, run.spec.objectives))
        words = "No other configuration matches these in every objective and beats them in one; means over the repeats."
        tables.append(TableCard("front-table", "Pareto set", words, front_table(best, run.spec.objectives)))
    tables.append(_failed(run, broken(run, chosen.noise)))
    notes = (f"No model of the noise: {believed.unexplained}.",) if believed.unexplained else ()
    notes += (f"Warning: {believed.assumed}.",) if believed.assumed else ()
    return Section(charts=tuple(charts), tables=tuple(tables), notes=notes)


def _progress(steps: list[SearchStep], measure: Measure, noise_label: str) -> Chart:
    drawn = thin_steps(steps, STEPS)
    chart = progress_chart(drawn, measure, noise_label)
    said = "" if len(drawn) == len(steps) else f" {len(drawn)} of {len(steps)} configurations drawn, evenly spread."
    return replace(chart, caption=chart.caption + said, wide=True)


def _failed(run: Run, found: list[Failure]) -> TableCard:
    total, bad = run.tables["trials"].num_rows, sum(f.trials for f in found)
    words = f"{bad} of {pluralize(total, 'trial')} did not end ok." if bad else f"None: all {total} trials ended ok."
    return TableCard("failures", "Which trials failed, and why", words, failure_table(found if bad else []))


VIEW = View(
    "search",
    "Search",
    "How the search went, what its model believes, and which trials failed.",
    controls,
    build,
)

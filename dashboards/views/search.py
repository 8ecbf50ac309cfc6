"""Search: progress, the sampler's model, all knobs at once, and failed trials."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dashboards.charts.chart import Chart, Measure
from dashboards.charts.knob_importance import Importance, draw_contour, draw_importance, measure_importance
from dashboards.charts.parallel_coordinates import draw_parallel
from dashboards.charts.posterior import draw_exponents, draw_posterior
from dashboards.charts.search_history import draw_progress
from dashboards.data.cache import cache_by_content
from dashboards.data.curves import SearchStep, read_search_steps, thin_steps
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import strip_label
from dashboards.text.failures import Failure, group_failures, make_failure_table
from dashboards.text.pareto import draw_front, make_front_table
from dashboards.views import choices
from dashboards.views.answer import find_starred
from dashboards.views.choices import choose
from dashboards.views.section import Control, Section, TableCard, View
from dashboards.views.verdicts import ask
from sweeper.analysis.best import find_pareto_set
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.stages.noise_exponents import choose_exponents
from sweeper.analysis.trial_counts import count_warnings
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE

INERT = "inert_weight_decay"
"""Warning of a trial whose weight decay is too weak to act."""
STEPS = 800


@cache_by_content
def find_failures(run: Run, noise: str) -> list[Failure]:
    """Return the failed trials, see `dashboards.text.failures.group_failures`."""
    return group_failures(run.tables["trials"], noise)


@cache_by_content
def find_front(run: Run) -> list[dict[str, Any]]:
    """Return the Pareto set of a sweep with several objectives; empty with one objective."""
    if run.spec is None or not run.spec.further_objectives:
        return []
    lost, objectives = choices.find_lost(run), run.spec.objectives
    names = ["config", "number", "digest", "outcome", *(OBJECTIVES[n].column for n in objectives)]
    rows = run.tables["trials"].select(list(dict.fromkeys(names))).to_pylist()
    return find_pareto_set(rows, objectives, lambda row: row["config"] not in lost)


def make_controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the controls: only the noise, since a search has one objective, on validation."""
    return (choices.make_noise_control(run),)


def build(run: Run, selection: Selection) -> Section:
    """Return progress, posterior, parallel coordinates, Pareto set and failures."""
    chosen = choose(run, Selection(noise=selection.noise))
    measure = choices.make_measure(run, chosen.name, chosen.split)
    points = choices.group_points(run, chosen.noise, (measure.column,))
    if not points:
        return Section(banners=("No trial has finished yet, so the search has no progress.",))
    judgement, _ = ask(run, (chosen.name, chosen.noise, chosen.split))
    believed = judgement.believed if judgement else Posterior(unexplained="still computing")
    steps = read_search_steps(points, run.tables["search"], chosen.goal)
    charts: list[Chart] = [_draw_progress(steps, measure, chosen.noise_label)]
    tables: list[TableCard] = []
    explained = believed.explanation
    if explained is not None and len(explained.posterior) > 1:
        charts.append(draw_posterior(explained, chosen.noise_label))
    analysis = judgement.analysis if judgement else None
    exponents = choose_exponents(analysis, believed.record(), chosen.noise)
    if exponents.factors:
        charts.append(draw_exponents(exponents, chosen.noise))
    answer = find_starred(run, chosen.name, believed)
    charts += _draw_knobs(run, chosen.name, chosen.split, chosen.noise, answer)
    same = choices.compare_points(run, chosen.noise, (measure.column,))
    if len(same) > 1 and any(measure.column in p.values for p in same):
        charts.append(draw_parallel(same, measure, NOISE[chosen.noise].unit, answer))
    if (best := find_front(run)) and run.spec:
        columns = tuple(OBJECTIVES[name].column for name in run.spec.objectives)
        charts.append(draw_front(choices.group_points(run, chosen.noise, columns), best, run.spec.objectives))
        words = "No other configuration matches these in every objective and beats them in one. Means over the repeats."
        tables.append(TableCard("front-table", "Pareto set", words, make_front_table(best, run.spec.objectives)))
    tables.append(_make_failures(run, find_failures(run, chosen.noise)))
    notes = (f"No model of the noise: {believed.unexplained}.",) if believed.unexplained else ()
    notes += (f"Warning: {believed.assumed}.",) if believed.assumed else ()
    return Section(charts=tuple(charts), tables=tuple(tables), notes=notes)


@cache_by_content
def _draw_knobs(run: Run, name: str, split: str, noise: str, answer: str | None) -> list[Chart]:
    """Return the importance of the knobs, and a contour of the two most important ones."""
    measure = choices.make_measure(run, name, split)
    points = choices.compare_points(run, noise, (measure.column,))
    # where a search narrows the knobs together, a forest credits the wrong one
    designed = choices.count_set_aside(run, noise) and choices.name_judged(run, noise) != "trial"
    importance = measure_importance(choices.group_judged(run, noise, (measure.column,)), measure) if designed else None
    kind = choices.name_judged(run, noise) if importance else ""
    importance = importance or measure_importance(points, measure)
    if importance is None:
        return []
    first, second = (knob for knob, _ in importance.shares[:2])
    contour = draw_contour(points, measure, (first, second), answer)
    label = strip_label(measure.label)
    shares = draw_importance(importance, label, kind, _describe_inert(run, importance))
    return [shares, *([contour] if contour else [])]


def _describe_inert(run: Run, importance: Importance) -> str:
    """Return a sentence on a share of weight decay where it is too weak to change the weights' norm."""
    trials = run.tables["trials"]
    found = next((w for w in count_warnings(trials["warnings"].to_pylist()) if w.key == INERT), None)
    if found is None or "weight_decay" not in dict(importance.shares):
        return ""
    return (
        f"Weight decay is too weak to change the norm of the weights in {found.trials} of "
        f"{pluralize(trials.num_rows, 'trial')} ({INERT}), so a share of it is chance, or acts in another way."
    )


def _draw_progress(steps: list[SearchStep], measure: Measure, noise_label: str) -> Chart:
    drawn = thin_steps(steps, STEPS)
    chart = draw_progress(drawn, measure, noise_label)
    notice = "" if len(drawn) == len(steps) else f" Drawn: {len(drawn)} of {len(steps)} configurations, evenly spread."
    return replace(chart, caption=chart.caption + notice, wide=True)


def _make_failures(run: Run, failures: list[Failure]) -> TableCard:
    total, bad = run.tables["trials"].num_rows, sum(f.trials for f in failures)
    good = f"{pluralize(total, 'trial is', 'trials are all')} ok."
    words = f"{bad} of {pluralize(total, 'trial')} failed or cannot win." if bad else good
    return TableCard("failures", "Failed trials", words, make_failure_table(failures if bad else []))


VIEW = View("search", "Search", "Progress of the search, its model, and failed trials.", make_controls, build)

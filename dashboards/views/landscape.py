"""Landscape: losses along the merges, barriers, sharpness, and the loss plane through base and children."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from dashboards.charts.barriers import SHARPNESS, Plane, barrier_chart, flatness, flatness_chart, plane_chart, plane_of
from dashboards.charts.chart import Chart
from dashboards.charts.merge_curves import curves_chart, gains_chart, normalised_chart
from dashboards.data.cache import by_content
from dashboards.data.configurations import ConfigPoint
from dashboards.data.curves import merge_curves, merge_gains
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.views import choices
from dashboards.views.choices import METRICS, Choice, choose
from dashboards.views.section import Control, Section, View
from sweeper.search.objectives import SPLIT_WORDS
from trainables.result import Outcome

PLANES_OFFERED = 60
_PARENTS = ("a_accuracy_val", "b_accuracy_val")


@by_content
def merge_charts(run: Run, noise: str) -> tuple[Chart, ...]:
    """Return what the merges do along their coefficients, and what each of them gains."""
    trials, merges = run.tables["trials"], run.tables["merges"]
    label = replace(choices.sweep(run), noise=noise).noise_label
    charts: list[Chart] = []
    if curves := merge_curves(trials, merges, noise):
        charts.append(curves_chart(curves, label))
    two_tasks = merges.column("normalised_accuracy_test").null_count < merges.num_rows
    if two_tasks and (normalised := merge_curves(trials, merges, noise, "normalised_accuracy_test")):
        charts.append(normalised_chart(normalised, label))
    others = set(merges.column("method").unique().to_pylist()) - {"linear", "task_arithmetic"}
    if others and (gains := merge_gains(trials, merges, noise)):  # those two have their own curves
        charts.append(gains_chart(gains, label))
    return tuple(charts)


@by_content
def planes(run: Run) -> tuple[str, ...]:
    """Return the digests of the trials with a loss plane, in the order of the trials."""
    stored = set(run.tables["planes"].column("digest").to_pylist()) if "planes" in run.tables else set()
    return tuple(d for d in run.tables["trials"].column("digest").to_pylist() if d in stored)


def _points(run: Run, chosen: Choice) -> list[ConfigPoint]:
    columns = [METRICS["barrier"].on(chosen.split).column, "barrier_excess", *_PARENTS]
    columns += [f"{name}_{who}" for name in SHARPNESS for who in "ab"]
    trials = run.tables["trials"]
    columns = [c for c in columns if trials.column(c).null_count < trials.num_rows]
    return choices.points(run, chosen.noise, tuple(columns))


def _sharpness(points: list[ConfigPoint], selection: Selection) -> list[str]:
    # those that were measured, the selected one first
    known = [name for name in SHARPNESS if any(f"{name}_a" in p.values for p in points)]
    return sorted(known, key=lambda name: name != selection.sharpness)


def _shown_plane(run: Run, chosen: Choice, selection: Selection) -> tuple[Plane, str] | None:
    there = planes(run)
    if not there:
        return None
    digest = selection.trial if selection.trial in there else _best(run.tables["trials"], chosen, there)
    found = plane_of(run.tables["planes"], digest, f"loss_{_plane_split(chosen)}")
    return (found, _about(run, chosen, digest)) if found else None


def _plane_split(chosen: Choice) -> str:
    return "train" if chosen.split == "train" else "val"


def _best(trials: pa.Table, chosen: Choice, there: tuple[str, ...]) -> str:
    goal = METRICS[chosen.name]
    names = ["digest", "outcome", goal.column]
    rows = [r for r in trials.select(names).to_pylist() if r["digest"] in there and r[goal.column] is not None]
    viable = [r for r in rows if r["outcome"] == Outcome.OK]
    if not viable:
        return there[0]
    return (max if goal.maximize else min)(viable, key=lambda r: r[goal.column])["digest"]


def _about(run: Run, chosen: Choice, digest: str) -> str:
    point = next(p for p in choices.points(run, chosen.noise, ()) if digest in p.digests or not p.ok)
    number = "" if point.number is None else f" {point.number}"
    noise = f", noise {point.noise:.3g}" if point.noise else ""
    return f"Trial{number} ({digest}{noise})."


def controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the choices: noise, split, sharpness and the trial whose plane is drawn."""
    chosen = choose(run, selection)
    found: list[Control] = [choices.noise_control(run), choices.split_control()]
    if known := [n for n in SHARPNESS if n in _sharpness(_points(run, chosen), selection)]:
        found.append(Control("sharpness", "sharpness", tuple((n, SHARPNESS[n].split(" [")[0]) for n in known)))
    if there := planes(run):
        first = _best(run.tables["trials"], chosen, there)  # which is drawn where none is chosen
        there = (first, *(d for d in there if d != first))[:PLANES_OFFERED]
        words = {d: p for p in choices.points(run, chosen.noise, ()) for d in p.digests}
        options = tuple((d, _trial_words(words.get(d), d)) for d in there)
        found.append(Control("trial", "loss plane of trial", options))
    return tuple(found)


def _trial_words(point: ConfigPoint | None, digest: str) -> str:
    if point is None:
        return digest
    noise = f", noise {point.noise:.3g}" if point.noise else ""
    return f"{digest if point.number is None else point.number}{noise}"


def build(run: Run, selection: Selection) -> Section:
    """Return merge curves, barriers, sharpness and the loss plane: what was measured of them."""
    chosen = choose(run, selection)
    points = _points(run, chosen)
    if not points:
        return Section(banners=("No trial has finished yet: no landscape is known.",))
    charts, missing = list(merge_charts(run, chosen.noise)), list[str]()
    if not charts:
        missing.append("No merge of a viable pair is stored: there are no curves.")
    plane = _shown_plane(run, chosen, selection)
    if plane is not None:
        label = f"{SPLIT_WORDS[_plane_split(chosen)]} loss [nat]"
        charts.append(plane_chart(plane[0], label, plane[1]))
    else:
        missing.append("No loss plane is stored: --plane 15 stores one of each trial, 15 points a side.")
    barrier = choices.measure(run, "barrier", chosen.split)
    excess = choices.measure(run, "barrier_excess", chosen.split)
    placed = [p for p in points if p.noise]
    measures = [m for m in (barrier, excess) if any(m.column in p.values for p in placed)]
    if measures:
        charts.append(barrier_chart(points, measures, chosen.noise_label))
    elif not choices.sweep(run).own:
        missing.append("No barrier is known: no pair with a noise is viable, or its children have two tasks.")
    known = _sharpness(points, selection)
    found = flatness(points, known[0], barrier.column) if known else None
    if found is not None and placed:
        charts.append(flatness_chart(found, barrier.label, chosen.noise_label))
    if not known:
        missing.append("Sharpness, Hessian traces and the excess barrier were not measured: --landscape measures them.")
    return Section(charts=tuple(charts), notes=tuple(missing))


VIEW = View(
    "landscape",
    "Landscape",
    "Losses along the merges, barriers against noise and sharpness, and the loss plane.",
    controls,
    build,
)

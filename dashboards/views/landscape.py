"""Landscape: losses along merges, barriers, sharpness, and the loss plane through base and children."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from dashboards.charts.barriers import (
    SHARPNESS,
    Plane,
    draw_barriers,
    draw_flatness,
    draw_plane,
    measure_flatness,
    read_plane,
)
from dashboards.charts.chart import Chart
from dashboards.charts.merge_curves import draw_curves, draw_gains, draw_normalised
from dashboards.charts.two_noises import (
    CHILD_B,
    CHILDREN_MAP,
    TRUNK,
    TRUNK_MAP,
    OtherNoise,
    choose_predicted,
    draw_map,
    pair_children,
    pair_with_trunk,
)
from dashboards.data.cache import cache_by_content
from dashboards.data.configurations import ConfigPoint, label_noise
from dashboards.data.curves import read_merge_curves, read_merge_gains
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.text.merge_methods import make_methods_table, make_windows_table
from dashboards.views import choices
from dashboards.views.choices import METRICS, Choice, choose
from dashboards.views.section import Control, Section, TableCard, View
from sweeper.analysis.curve.merge_methods import MethodCurve, fit_merge_methods
from sweeper.analysis.curve.remedies import describe_remedies, find_remedies
from sweeper.analysis.curve.windows import compare_windows
from sweeper.search.objectives import SPLIT_WORDS
from trainables.result import Outcome

PLANES_OFFERED = 60
_PARENTS = ("a_accuracy_val", "b_accuracy_val")


@cache_by_content
def draw_merges(run: Run, noise: str) -> tuple[Chart, ...]:
    """Return figures of the merges: scores along the coefficients, and gains."""
    trials, merges = run.tables["trials"], run.tables["merges"]
    label = replace(choices.read_sweep(run), noise=noise).noise_label
    charts: list[Chart] = []
    if curves := read_merge_curves(trials, merges, noise):
        charts.append(draw_curves(curves, label))
    several_tasks = merges.column("normalised_accuracy_test").null_count < merges.num_rows
    if several_tasks and (normalised := read_merge_curves(trials, merges, noise, "normalised_accuracy_test")):
        charts.append(draw_normalised(normalised, label))
    others = set(merges.column("method").unique().to_pylist()) - {"linear", "task_arithmetic"}
    if others and (gains := read_merge_gains(trials, merges, noise)):  # these two have curves
        charts.append(draw_gains(gains, label))
    return tuple(charts)


@cache_by_content
def read_planes(run: Run) -> tuple[str, ...]:
    """Return the digests of the trials with a loss plane, in the order of the trials."""
    stored = set(run.tables["planes"].column("digest").to_pylist()) if "planes" in run.tables else set()
    return tuple(d for d in run.tables["trials"].column("digest").to_pylist() if d in stored)


def _group_points(run: Run, chosen: Choice) -> list[ConfigPoint]:
    columns = [METRICS["barrier"].on(chosen.split).column, "barrier_excess", *_PARENTS]
    columns += [f"{name}_{who}" for name in SHARPNESS for who in "ab"]
    trials = run.tables["trials"]
    columns = [c for c in columns if trials.column(c).null_count < trials.num_rows]
    return choices.compare_points(run, chosen.noise, tuple(columns))


def _list_sharpness(points: list[ConfigPoint], selection: Selection) -> list[str]:
    # measured ones, the selected one first
    known = [name for name in SHARPNESS if any(f"{name}_a" in p.values for p in points)]
    return sorted(known, key=lambda name: name != selection.sharpness)


def _find_plane(run: Run, chosen: Choice, selection: Selection) -> tuple[Plane, str] | None:
    digests = read_planes(run)
    if not digests:
        return None
    digest = selection.trial if selection.trial in digests else _find_best(run.tables["trials"], chosen, digests)
    plane = read_plane(run.tables["planes"], digest, f"loss_{_choose_split(chosen)}")
    return (plane, _describe_trial(run, chosen, digest)) if plane else None


def _choose_split(chosen: Choice) -> str:
    return "train" if chosen.split == "train" else "val"


def _find_best(trials: pa.Table, chosen: Choice, digests: tuple[str, ...]) -> str:
    goal = METRICS[chosen.name]
    names = ["digest", "outcome", goal.column]
    rows = [r for r in trials.select(names).to_pylist() if r["digest"] in digests and r[goal.column] is not None]
    viable = [r for r in rows if r["outcome"] == Outcome.OK]
    if not viable:
        return digests[0]
    return (max if goal.maximize else min)(viable, key=lambda r: r[goal.column])["digest"]


def _describe_trial(run: Run, chosen: Choice, digest: str) -> str:
    point = next(p for p in choices.group_points(run, chosen.noise, ()) if digest in p.digests or not p.ok)
    number = "" if point.number is None else f" {point.number}"
    noise = f", noise {point.noise:.3g}" if point.noise else ""
    return f"Trial{number} ({digest}{noise})."


@cache_by_content
def _read_factors(run: Run, other: OtherNoise, noise: str) -> dict[str, float]:
    return other.read_factors(run.tables["trials"], noise)


def _draw_maps(run: Run, chosen: Choice, selection: Selection) -> list[Chart]:
    noise = choose_predicted(chosen.noise)
    measure = choices.make_measure(run, chosen.name, chosen.split if selection.split else "test")
    charts: list[Chart | None] = []
    for other, pair, words in ((TRUNK, pair_with_trunk, TRUNK_MAP), (CHILD_B, pair_children, CHILDREN_MAP)):
        if factors := _read_factors(run, other, noise):
            points = choices.compare_points(run, noise, (measure.column,))
            charts.append(draw_map(pair(points, factors), measure, label_noise(noise), words))
    return [c for c in charts if c is not None]


def make_controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the controls: noise, split, sharpness, and the trial of the plane."""
    chosen = choose(run, selection)
    controls: list[Control] = [choices.make_noise_control(run), choices.make_split_control()]
    if known := [n for n in SHARPNESS if n in _list_sharpness(_group_points(run, chosen), selection)]:
        controls.append(Control("sharpness", "sharpness", tuple((n, SHARPNESS[n].split(" [")[0]) for n in known)))
    if digests := read_planes(run):
        first = _find_best(run.tables["trials"], chosen, digests)  # the default
        digests = (first, *(d for d in digests if d != first))[:PLANES_OFFERED]
        points = {d: p for p in choices.group_points(run, chosen.noise, ()) for d in p.digests}
        options = tuple((d, _label_trial(points.get(d), d)) for d in digests)
        controls.append(Control("trial", "loss plane of trial", options))
    return tuple(controls)


def _label_trial(point: ConfigPoint | None, digest: str) -> str:
    if point is None:
        return digest
    noise = f", noise {point.noise:.3g}" if point.noise else ""
    return f"{digest if point.number is None else point.number}{noise}"


def build(run: Run, selection: Selection) -> Section:
    """Return merge curves, barriers, sharpness and the loss plane, as far as they were measured."""
    chosen = choose(run, selection)
    points = _group_points(run, chosen)
    if not points:
        return Section(banners=("No trial has finished yet, so there is nothing to draw.",))
    charts, missing = list(draw_merges(run, chosen.noise)), list[str]()
    if not charts:
        missing.append("No merge curves: no merge of a viable pair is stored.")
    charts += _draw_maps(run, chosen, selection)
    plane = _find_plane(run, chosen, selection)
    if plane is not None:
        label = f"{SPLIT_WORDS[_choose_split(chosen)]} loss [nat]"
        charts.append(draw_plane(plane[0], label, plane[1]))
    else:
        missing.append("No loss plane is stored: --plane 15 stores one per trial, with 15 by 15 points.")
    barrier = choices.make_measure(run, "barrier", chosen.split)
    excess = choices.make_measure(run, "barrier_excess", chosen.split)
    placed = [p for p in points if p.noise]
    measures = [m for m in (barrier, excess) if any(m.column in p.values for p in placed)]
    if measures:
        charts.append(draw_barriers(points, measures, chosen.noise_label))
    elif not choices.read_sweep(run).own_models:
        missing.append("No barrier: no pair with a noise is viable, or the children have different tasks.")
    known = _list_sharpness(points, selection)
    flatness = measure_flatness(points, known[0], barrier.column) if known else None
    if flatness is not None and placed:
        charts.append(draw_flatness(flatness, barrier.label, chosen.noise_label))
    if not known:
        missing.append("Sharpness, Hessian traces and the excess barrier were not measured: --landscape measures them.")
    return Section(charts=tuple(charts), tables=_make_tables(run, chosen.noise), notes=tuple(missing))


@cache_by_content
def _fit_methods(run: Run, noise: str) -> tuple[MethodCurve, ...]:
    return fit_merge_methods(run.tables["trials"], run.tables["merges"], noise)


def _make_tables(run: Run, noise: str) -> tuple[TableCard, ...]:
    return (*_make_methods(run, noise), *_make_windows(run))


def _make_windows(run: Run) -> tuple[TableCard, ...]:
    effects = compare_windows(run.tables["trials"], run.tables["merges"])
    words = (
        "Test loss of children that average their last checkpoints, alone and merged: means over trials, "
        "and their changes against the last weights, paired by trial, with 90 % intervals."
    )
    return (TableCard("windows", "Windows of checkpoints", words, make_windows_table(effects)),) if effects else ()


def _make_methods(run: Run, noise: str) -> tuple[TableCard, ...]:
    methods = run.tables["merges"].column("method").unique()
    if len(methods) < 2 or choices.read_sweep(run).own_models:
        return ()
    curves = _fit_methods(run, noise)
    if not any(c.loss is not None for c in curves):
        return ()
    remedies = find_remedies(run.tables["trials"], run.tables["merges"], noise, curves)
    words = (
        *describe_remedies(remedies),
        "The table has the test loss of every method along the noise, with the coefficient that validation chooses.",
        "Its best noises minimise the test loss of a method; the one to use is the verdict's, on the overview.",
    )
    return (TableCard("merge-methods", "Noise and merge method", " ".join(words), make_methods_table(curves)),)


VIEW = View(
    "landscape",
    "Landscape",
    "Losses along the merges, barriers against noise and sharpness, and the loss plane.",
    make_controls,
    build,
)

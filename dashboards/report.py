"""What the page shows of one run: tables in, verdicts, numbers and charts out. No files, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sweeper.belief import Belief
from sweeper.doubts import doubts, lines
from sweeper.objective import OBJECTIVES
from sweeper.pareto import pareto
from sweeper.recommend import recommend
from sweeper.regime import Regime, fit_regime
from sweeper.report import counted
from sweeper.spec import SweepSpec
from sweeper.winners import over_limits, winner
from trainables.noise import NOISE

from .axes import short
from .believed import exponent_table, posterior_chart, share
from .best import TextTable, best_table, percent, recommendation_table
from .course import progress_chart
from .curves import merge_curves, merge_gains, search_steps
from .figures import noise_chart
from .fronts import front_chart, front_table
from .knobs import knobs_chart
from .marks import Chart, Measure
from .measured import compare, measured_chart
from .merging import curves_chart, gains_chart, normalised_chart
from .tables import FITTED, ConfigPoint, Overview, Sweep, anchor, config_points, finite, overview, sweep_of

CHOSEN = ("chosen_loss_test", "chosen_accuracy_test")
_PEERS = ("a", "b", "merged", "ensemble")
_ACCURACY = "gain_mean_accuracy_val"
NOTHING_BELIEVED = Belief()


@dataclass(frozen=True)
class Tile:
    """One number of the page's head: what it is, its value, a line of context."""

    title: str
    value: str
    context: str
    unit: str = ""


@dataclass(frozen=True)
class Report:
    """All that the page says and draws.

    Attributes:
        verdicts: One sentence per fitted objective.
        banners: What a reader must know before trusting a number.
        tiles: The numbers of the head.
        charts: Figures in reading order.
        best: The best configurations.
        exponents: Fitted exponents of the noise beside its definition's.
        front: The Pareto set of a sweep with several objectives.
        recommended: Fitted objective -> hyperparameters that reach its best noise; without those of undetermined ones.
        notes: Small print.
    """

    sweep: Sweep
    overview: Overview
    verdicts: tuple[str, ...]
    banners: tuple[str, ...]
    tiles: tuple[Tile, ...]
    charts: tuple[Chart, ...]
    best: TextTable
    exponents: TextTable
    front: TextTable
    recommended: Mapping[str, TextTable]
    notes: tuple[str, ...]


def report(
    settings: Mapping[str, Any] | None,
    tables: Mapping[str, pa.Table],
    spec: SweepSpec | None = None,
    believed: Belief = NOTHING_BELIEVED,
) -> Report:
    """Compute the report of one run.

    Args:
        settings: Contents of `sweep.yaml`; None where there is none.
        tables: `trials`, `merges` and `search` as `sweeper.store.read` yields them; any may be empty.
        spec: The sweep, where the settings are those of one: its limits and further objectives.
        believed: What the model of the trials says.
    """
    trials = tables["trials"]
    sweep = sweep_of(settings, trials)
    counts = overview(trials, sweep.trials)
    names = tuple(dict.fromkeys((*FITTED, sweep.objective)))
    regimes = {name: fit_regime(trials, name, sweep.noise) for name in names}
    measures = {name: measure_of(name, trials) for name in names}
    lost = over_limits(trials, spec) if spec else frozenset[str]()
    objectives = spec.objectives if spec and spec.further_objectives else ()
    columns = [c for m in measures.values() for c in (m.column, m.test_column)]
    columns += [OBJECTIVES[name].column for name in objectives]
    points = config_points(trials, sweep.noise, [*dict.fromkeys(columns), _ACCURACY, _test(_ACCURACY)], lost)
    best = winner(trials, sweep.objective, believed, lost)
    front = pareto(trials.to_pylist(), objectives, lambda row: row["config"] not in lost) if objectives else []
    further: list[Chart] = []
    if believed.explanation is not None and len(believed.explanation.posterior) > 1:
        further.append(posterior_chart(believed.explanation, sweep.noise_label))
    if front:
        further.append(front_chart(points, front, objectives))
    return Report(
        sweep=sweep,
        overview=counts,
        verdicts=tuple(f"{_name(m)}: {regimes[n].message}" for n, m in measures.items())
        if counts.trials and not sweep.own
        else (),
        banners=_banners(counts, sweep),
        tiles=_best_tiles(best)
        if sweep.own
        else (*_regime_tiles(regimes), *_best_tiles(best), *_belief_tiles(believed), *_count_tiles(counts)),
        charts=tuple(_charts(points, tables, sweep, measures, regimes, further)),
        best=best_table(trials, sweep, favourite=believed.favourite, lost=lost),
        exponents=exponent_table(believed),
        front=front_table(front, objectives),
        recommended={
            name: t
            for name, r in regimes.items()
            if (t := _recommended(trials, r, best if name == sweep.objective else None)).rows
        },
        notes=_notes(sweep, counts, trials, believed, best, len(lost)),
    )


def _test(column: str) -> str:
    return column.removesuffix("_val") + "_test"


def _recommended(trials: pa.Table, regime: Regime, best: Mapping[str, Any] | None) -> TextTable:
    if regime.optimum is None:
        return TextTable((), ())
    try:
        return recommendation_table(recommend(trials, regime, best=best))
    except ValueError:
        # no batch size or momentum of the tried ones reaches it
        return TextTable((), ())


def measure_of(objective: str, trials: pa.Table) -> Measure:
    """Return how an objective is drawn; its anchor comes from the parents in `trials`."""
    goal = OBJECTIVES[objective]
    return Measure(objective, goal.column, _test(goal.column), goal.label, goal.maximize, anchor(trials, goal.column))


def _name(measure: Measure) -> str:
    text = measure.label.split(" [")[0]
    return text[0].upper() + text[1:]


def _charts(
    points: list[ConfigPoint],
    tables: Mapping[str, pa.Table],
    sweep: Sweep,
    measures: Mapping[str, Measure],
    regimes: Mapping[str, Regime],
    further: Sequence[Chart],
) -> list[Chart]:
    label = sweep.noise_label
    if not any(p.noise for p in points):
        return [*further, *_merge_charts(tables, sweep)]
    drawn = [
        noise_chart(points, m, label, f"{_name(m)} against the noise", regimes[name]) for name, m in measures.items()
    ]
    charts = [*drawn, *further, knobs_chart(points, measures[sweep.objective], label)]
    if (found := compare(tables["trials"], sweep.noise)) is not None:
        charts.append(measured_chart(found))
    if any(abs(p.values[_ACCURACY].mean) > 0 for p in points if _ACCURACY in p.values):
        accuracy = Measure(
            "accuracy", _ACCURACY, _test(_ACCURACY), "accuracy gain over the mean parent [% points]", True, 0.0
        )
        charts.append(noise_chart(points, accuracy, label, "Accuracy gain against the noise"))
    steps = search_steps(points, tables["search"], OBJECTIVES[sweep.objective])
    charts.append(progress_chart(steps, measures[sweep.objective], label))
    return [*charts, *_merge_charts(tables, sweep)]


def _merge_charts(tables: Mapping[str, pa.Table], sweep: Sweep) -> list[Chart]:
    trials, merges = tables["trials"], tables["merges"]
    charts: list[Chart] = []
    if normalised := merge_curves(trials, merges, sweep.noise, "normalised_accuracy_test"):
        charts.append(normalised_chart(normalised, sweep.noise_label))
    gains = merge_gains(trials, merges, sweep.noise)
    if {g.method for g in gains} - {"linear", "task_arithmetic"}:  # those two have their own curves
        charts.append(gains_chart(gains, sweep.noise_label))
    if curves := merge_curves(trials, merges, sweep.noise):
        charts.append(curves_chart(curves, sweep.noise_label))
    return charts


def _banners(counts: Overview, sweep: Sweep) -> tuple[str, ...]:
    said: list[str] = []
    if counts.synthetic:
        which = "" if counts.synthetic == counts.trials else f" in {counts.synthetic} of {counts.trials} trials"
        said.append(f"Synthetic closed form: no network was trained{which}.")
    if not counts.trials:
        said.append("No trial has finished yet: there is nothing to show.")
    elif not counts.outcomes.get("ok"):
        said.append("No trial is ok so far: neither gain nor merged loss is known, only where training broke.")
    if counts.trials and counts.missing:
        said.append(f"Unfinished: {counts.configs} of {counts.budget} configurations have a result so far.")
    return (*said, *sweep.doubts)


def _regime_tiles(regimes: Mapping[str, Regime]) -> list[Tile]:
    tiles: list[Tile] = []
    for name, regime in regimes.items():
        title = f"Best noise for {OBJECTIVES[name].label.split(' [')[0]}"
        if regime.optimum is None:
            tiles.append(Tile(title, "not determined", f"{regime.n_configs} viable configurations so far"))
            continue
        where = "inside the tried range" if regime.interior else "not clearly inside the tried range"
        where += " of this search" if regime.interior and regime.adaptive else ""
        interval = f"90 % interval {short(regime.low)} to {short(regime.high)}, {where}"
        tiles.append(Tile(title, short(regime.optimum), interval, "" if regime.unit == "1" else regime.unit))
    return tiles


def _best_tiles(best: Mapping[str, Any] | None) -> tuple[Tile, ...]:
    tiles: list[Tile] = []
    for column, what, text, unit in ((CHOSEN[0], "loss", short, "nat"), (CHOSEN[1], "accuracy", percent, "")):
        title = f"Best merge, test {what}"
        score = finite(best[column]) if best else None
        if best is None or score is None:
            tiles.append(Tile(title, "–", "no viable merge so far"))
            continue
        peers = {who: text(finite(best[f"{who}_{what}_test"])) for who in _PEERS}
        context = f"parents {peers['a']} and {peers['b']}, linear ½ {peers['merged']}, ensemble {peers['ensemble']}"
        repeats = best["config_repeats"]
        context += f"; best of {repeats} repeats by validation" if repeats > 1 else ""
        tiles.append(Tile(title, text(score), context, unit))
    return tuple(tiles)


def _belief_tiles(believed: Belief) -> tuple[Tile, ...]:
    if believed.explanation is None or not believed.explanation.exponents:
        return ()
    context = f"of what the model explains of {counted(believed.explanation.trials, 'configuration')}"
    return (Tile("Explained by the noise", share(believed.explanation), context),)


def _count_tiles(counts: Overview) -> list[Tile]:
    outcomes = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.outcomes.items()) or "none finished"
    repeats = f"; {counted(counts.trials, 'trial')}" if counts.trials != counts.configs else ""
    done = f"{counts.configs} of {counts.budget}" if counts.budget else str(counts.configs)
    each = f"{short(counts.device_seconds / counts.trials)} s a trial" if counts.trials else "no trial yet"
    return [
        Tile("Configurations", done, outcomes + repeats),
        Tile("Device time", _duration(counts.device_seconds), each),
    ]


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{short(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.1f} h"


def _chosen_by(sweep: Sweep, believed: Belief, best: Mapping[str, Any] | None) -> str:
    column = OBJECTIVES[sweep.objective].column
    if best is None or best["posterior_mean"] is None:
        why = f" (no posterior mean: {believed.undecided})" if believed.undecided else ""
        return f"The best merge is chosen by the mean of {column} over its repeats{why} and reported on test"
    posterior = f"{short(best['posterior_mean'])} ± {short(best['posterior_sd'], 2)}"
    observed = f"observed {short(best['config_mean'])} over {counted(best['config_repeats'], 'repeat')}"
    said = f"The best merge is chosen by the posterior mean of {column}, {posterior}, {observed}, and reported on test"
    if luckiest := best["luckiest"]:
        said += f"; the luckiest observed is {short(luckiest['config_mean'])}, {luckiest['digest']}"
    return said


def _notes(
    sweep: Sweep, counts: Overview, trials: pa.Table, believed: Belief, best: Mapping[str, Any] | None, lost: int
) -> tuple[str, ...]:
    scale = NOISE[sweep.noise]
    goal = OBJECTIVES[sweep.objective]
    if sweep.own:
        return (f"The best merge is chosen on validation ({goal.column}) and reported on test.",)
    seed = "unknown" if sweep.seed is None else sweep.seed
    how = f"Sampler {sweep.sampler or 'unknown'}, objective {sweep.objective}, seed {seed}"
    return (
        f"{how}; noise {sweep.noise} = {scale.formula} [{scale.unit}], {scale.source}.",
        f"{_chosen_by(sweep, believed, best)}; only ok trials can win.",
        *((f"{counted(lost, 'configuration')} over the limits on memory or step time cannot win.",) if lost else ()),
        *((f"No model of the noise: {believed.unexplained}.",) if believed.unexplained else ()),
        "Gain is the paper's measure, merged loss what a user takes home: their best noises can differ.",
        *(f"Warning: {line}." for line in lines(doubts(trials["warnings"].to_pylist()), trials.num_rows)),
        *(f"First {name.replace('_', ' ')} trial: {text}" for name, text in counts.details.items()),
    )

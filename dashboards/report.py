"""The head of the page: verdicts, numbers, scores against the noise, the best configurations. No files, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sweeper.belief import Belief
from sweeper.doubts import doubts, lines
from sweeper.objective import OBJECTIVES
from sweeper.recommend import recommend
from sweeper.regime import Regime
from sweeper.report import counted
from sweeper.winners import winner
from trainables.noise import NOISE

from . import choices
from .axes import short
from .believed import share
from .best import TextTable, best_table, percent, recommendation_table
from .choices import heading
from .figures import noise_chart
from .marks import Chart, Measure
from .runs import Run
from .sections import Section, TableCard, Tile
from .tables import FITTED, ConfigPoint, Overview, Sweep, finite, overview

CHOSEN = ("chosen_loss_test", "chosen_accuracy_test")
_PEERS = ("a", "b", "merged", "ensemble")
_ACCURACY = "gain_mean_accuracy_val"


def head(run: Run, noise: str) -> Section:
    """Return verdicts, the numbers of the head, scores against the noise, and the best configurations of a run.

    Args:
        run: The run.
        noise: Name of the noise to show.
    """
    trials, believed = run.tables["trials"], choices.believed(run, noise)
    sweep = replace(choices.sweep(run), noise=noise)
    counts = overview(trials, sweep.trials)
    names = tuple(dict.fromkeys((*FITTED, sweep.objective)))
    measures = {name: choices.measure(run, name, OBJECTIVES[name].split_in(trials)) for name in names}
    regimes = {name: choices.regime(run, name, noise, OBJECTIVES[name].split_in(trials)) for name in names}
    lost = choices.lost(run)
    columns = dict.fromkeys(c for m in measures.values() for c in (m.column, m.test_column))
    points = choices.points(run, noise, (*columns, _ACCURACY, _test(_ACCURACY)))
    best = winner(trials, sweep.objective, believed, lost)
    recommended = {
        name: t
        for name, r in regimes.items()
        if (t := _recommended(trials, r, best if name == sweep.objective else None)).rows
    }
    return Section(
        verdicts=tuple(f"{heading(m.label)}: {regimes[n].message}" for n, m in measures.items())
        if counts.trials and not sweep.own
        else (),
        banners=_banners(counts, sweep),
        tiles=tuple(_best_tiles(best))
        if sweep.own
        else (*_regime_tiles(regimes), *_best_tiles(best), *_belief_tiles(believed), *_count_tiles(counts)),
        charts=tuple(_charts(points, sweep, measures, regimes)),
        tables=_tables(sweep, best_table(trials, sweep, favourite=believed.favourite, lost=lost), recommended),
        notes=_notes(sweep, counts, trials, believed, best, len(lost)),
    )


def _tables(sweep: Sweep, best: TextTable, recommended: Mapping[str, TextTable]) -> tuple[TableCard, ...]:
    words = (
        "Ordered by the objective on validation, ★ the best by posterior mean; losses [nat] and accuracies are of the "
        "test split, means over the ok repeats. Rest the mouse on a head or a number for its meaning."
        if best.rows
        else "No viable configuration yet."
    )
    cards = [TableCard("best", f"Best configurations by {sweep.objective}", words, best)]
    for name, found in recommended.items():
        words = (
            f"For {OBJECTIVES[name].label.split(' [')[0]}: learning rates at its best noise, with momentum and weight "
            "decay of its best trial; ▲ marks step sizes beyond the stability limit that was seen."
        )
        title = f"Hyperparameters that reach the best noise of {name}"
        cards.append(TableCard(f"recommended-{name}", title, words, found))
    return tuple(cards)


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


def _charts(
    points: list[ConfigPoint], sweep: Sweep, measures: Mapping[str, Measure], regimes: Mapping[str, Regime]
) -> list[Chart]:
    label = sweep.noise_label
    if not any(p.noise for p in points):
        return []
    charts = [
        noise_chart(points, m, label, f"{heading(m.label)} against the noise", regimes[name])
        for name, m in measures.items()
    ]
    if any(abs(p.values[_ACCURACY].mean) > 0 for p in points if _ACCURACY in p.values):
        accuracy = Measure(
            "accuracy", _ACCURACY, _test(_ACCURACY), "accuracy gain over the mean parent [% points]", True, 0.0
        )
        charts.append(noise_chart(points, accuracy, label, "Accuracy gain against the noise"))
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

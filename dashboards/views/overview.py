"""Overview: verdict, optimum, best merge and its parents, recommended settings, progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dashboards.charts.axes import shorten
from dashboards.charts.chart import Chart, Measure
from dashboards.charts.noise_fit import draw_noise_fit
from dashboards.data.cache import cache_by_content
from dashboards.data.configurations import Overview, make_overview
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import format_sentence, make_heading
from dashboards.text.best import Cell, TextTable, make_best_table, make_recommendation_table
from dashboards.text.comparison import compare_runs, make_comparison_table
from dashboards.views import choices
from dashboards.views.advice import make_card
from dashboards.views.answer import find_winner, list_remarks
from dashboards.views.choices import Choice
from dashboards.views.parents import (
    BestScores,
    describe_source,
    draw_scores,
    make_scores_table,
    make_tiles,
    read_scores,
)
from dashboards.views.section import Control, Hero, Section, TableCard, Tile, View
from dashboards.views.verdicts import Judgement, ask
from sweeper.analysis.evidence.needs import make_extend_command
from sweeper.analysis.evidence.plan import read_missing
from sweeper.analysis.evidence.sentences import name_aim
from sweeper.analysis.posterior import Favourite, Posterior
from sweeper.analysis.recommend import Recommendation
from sweeper.analysis.regime import Regime
from sweeper.analysis.scorecard.badge import Badge, summarize_verdict
from sweeper.analysis.scorecard.checks import list_checks
from sweeper.analysis.trial_counts import count_warnings, format_lines
from sweeper.formatting import add_unit, at_share, pluralize
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS
from trainables.noise import NOISE

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis

BATCH_SIZE = Control("batch_size", "batch size", in_card=True)
QUICK = 1200
"""Maximum number of trials for a fit in a fraction of a second."""
BEST_SHOWN = 5
DRAWN = 250
"""Maximum number of configurations in the figure; the tab on the collapse draws all."""


def choose_question(run: Run, selection: Selection) -> tuple[str, str, str] | None:
    """Return objective, noise and split of the verdict; None without trials or hyperparameters."""
    chosen = choices.choose(run, selection)
    if chosen.sweep.own_models or not run.tables["trials"].num_rows:
        return None
    name = chosen.name if chosen.name in OBJECTIVES else chosen.sweep.objective
    return name, chosen.noise, chosen.split


def make_controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the controls: metric, noise, split, and the reader's batch size."""
    if choices.read_sweep(run).own_models:
        return ()
    objectives = tuple(
        (n, choices.strip_label(OBJECTIVES[n].label)) for n in choices.list_metrics(run) if n in OBJECTIVES
    )
    return (
        Control("metric", "objective", objectives),
        choices.make_noise_control(run),
        choices.make_split_control(),
        BATCH_SIZE,
    )


def build(run: Run, selection: Selection) -> Section:
    """Return the tab."""
    chosen, counts = choices.choose(run, selection), _count(run)
    question = choose_question(run, selection)
    judgement, current = ask(run, question) if question else (None, True)
    fit = _find_fit(run, question, judgement if current else None)
    believed = judgement.believed if judgement else Posterior()
    best = find_winner(run, chosen.sweep.objective, believed.favourite, believed.undecided)
    scores, comparison = _find_scores(run, chosen.sweep.objective, believed.favourite, believed.undecided)
    advice, card, trouble = make_card(run, question, fit, judgement, best, selection)
    chart = _draw_noise_fit(run, chosen, question, fit) if question else None
    hero = None
    if question:
        hero = Hero(
            badge=_make_badge(judgement, fit),
            chart=chart,
            settings=card,
            trouble=trouble,
            scores=_make_scores_card(scores),
            notes=list_remarks(run, chosen.sweep.objective, believed.favourite, believed.undecided),
        )
    return Section(
        hero=hero,
        verdicts=_write_verdicts(run, fit, judgement, _make_command(run, selection, question)),
        banners=(*_write_banners(counts, chosen, run), *_describe_pending(question, judgement, current, counts)),
        tiles=(*_make_fit_tiles(fit, question, current), *make_tiles(scores), *_make_cost_tiles(run, counts)),
        charts=tuple(c for c in (comparison,) if c is not None),
        tables=tuple(_make_tables(run, chosen, question, advice, judgement, best)),
        notes=_write_notes(run, chosen, counts, best, believed.assumed),
    )


def _make_badge(judgement: Judgement | None, fit: Regime | None) -> Badge:
    if judgement is None:
        return summarize_verdict(None, f"still computing; so far, {fit.message}" if fit else "still computing")
    return summarize_verdict(judgement.analysis, judgement.doubt)


def _make_scores_card(scores: BestScores | None) -> TableCard | None:
    if scores is None:
        return None
    return TableCard("scores", "The best merge", format_sentence(describe_source(scores)), make_scores_table(scores))


@cache_by_content
def _count(run: Run) -> Overview:
    return make_overview(run.tables["trials"], choices.read_sweep(run).trials)


@cache_by_content
def _find_scores(
    run: Run, objective: str, favourite: Favourite | None, undecided: str
) -> tuple[BestScores | None, Chart | None]:
    scores = read_scores(find_winner(run, objective, favourite, undecided))
    return scores, draw_scores(scores) if scores else None


def prepare(run: Run, selection: Selection) -> None:
    """Compute in advance the slowest part of another noise's page."""
    if (question := choose_question(run, selection)) is None:
        return
    measure = choices.make_measure(run, question[0], question[2])
    for noise in choices.list_noises(run):
        choices.group_points(run, noise, _list_columns(measure))


def _list_columns(measure: Measure) -> tuple[str, ...]:
    return tuple(dict.fromkeys((measure.column, measure.test_column)))


def _find_fit(run: Run, question: tuple[str, str, str] | None, judgement: Judgement | None) -> Regime | None:
    if question is None:
        return None
    if judgement is not None:
        return judgement.regime
    return choices.find_regime(run, *question) if run.tables["trials"].num_rows <= QUICK else None


def _draw_noise_fit(run: Run, chosen: Choice, question: tuple[str, str, str], fit: Regime | None) -> Chart | None:
    name, noise, split = question
    measure = choices.make_measure(run, name, split)
    points = choices.compare_points(run, noise, _list_columns(measure))
    if not any(p.noise for p in points):
        return None
    stride = -(-len(points) // DRAWN)
    drawn = draw_noise_fit(
        points[::stride],
        measure,
        chosen.noise_label,
        f"{make_heading(measure.label)}{at_share(fit.proxy if fit else None)} against the noise",
        fit,
    )
    if stride > 1:
        few = f"Drawn: one configuration in {stride}, {len(points[::stride]):,} of {len(points):,}."
        drawn = replace(drawn, caption=f"{few} {drawn.caption}")
    return drawn


def _make_command(run: Run, selection: Selection, question: tuple[str, str, str] | None) -> str:
    """Return the command that runs the missing trials of this answer; empty if it would use other trials."""
    if question is None or run.spec is None or selection.split or "run" in run.tables["trials"].column_names:
        return ""
    objective, noise, _ = question
    command = make_extend_command(run.called, run.spec, noise, objective)
    return command and command + run.flags


def _write_verdicts(run: Run, fit: Regime | None, judgement: Judgement | None, extend: str) -> tuple[str, ...]:
    if judgement is None or judgement.analysis is None:
        return (format_sentence(fit.message),) if fit is not None else ()
    # the badge has the verdict in one word
    first = format_sentence(judgement.analysis.sentences[0].partition(": ")[2])
    return first, *_describe_needs(run, judgement.analysis, extend)


def _describe_needs(run: Run, analysis: Analysis, extend: str) -> tuple[str, ...]:
    if not analysis.needs:
        return ()
    why = "; ".join(dict.fromkeys(n.why for n in analysis.needs))
    plan = read_missing(run.spec, run.place, run.tables["trials"], analysis) if extend and run.spec else None
    aim = f"For {name_aim(analysis)}"
    if plan is not None:
        return (f"{aim}: {why}. `{extend}` runs {pluralize(len(plan.specs), 'further trial')}.",)
    most = f"at most {pluralize(sum(n.repeats for n in analysis.needs), 'further trial')}"
    return (f"{aim}: {why}. {f'`{extend}` runs' if extend else 'This needs'} {most}.",)


def _make_evidence_table(analysis: Analysis) -> TextTable:
    return TextTable((), tuple((Cell(format_sentence(s)),) for s in analysis.sentences[1:]))


def _make_checks_table(analysis: Analysis) -> TextTable:
    rows = [
        (Cell(c.claim), Cell(c.outcome, look=c.outcome.replace(" ", "-")), Cell(c.sentence))
        for c in list_checks(analysis)
    ]
    return TextTable((Cell("claim"), Cell("result"), Cell("why")), tuple(rows))


def _write_banners(counts: Overview, chosen: Choice, run: Run) -> tuple[str, ...]:
    sentences: list[str] = []
    if counts.synthetic:
        which = "" if counts.synthetic == counts.trials else f" in {counts.synthetic} of {counts.trials} trials"
        sentences.append(f"Synthetic closed form: no network was trained{which}.")
    if counts.imported:
        which = "These trials" if counts.imported == counts.trials else f"{counts.imported} of {counts.trials} trials"
        sentences.append(f"{which} were imported from a table and trained elsewhere.")
    if not counts.trials:
        sentences.append("No trial has finished yet.")
    elif not counts.outcomes.get("ok"):
        sentences.append("No trial is ok so far, so gain and merged loss are unknown.")
    if counts.trials and counts.missing:
        state = "running" if run.running else "not running"
        tried = f"{counts.tried} of {pluralize(counts.budget or 0, chosen.sweep.counted)}"
        sentences.append(f"Unfinished and {state}: {tried} {'has' if counts.tried == 1 else 'have'} a result.")
    if counts.trials and counts.trials == counts.configs and not chosen.sweep.own_models:
        sentences.append("No configuration has repeats, so the share of chance in the scatter is unknown.")
    return (*sentences, *chosen.sweep.doubts)


def _describe_pending(
    question: tuple[str, str, str] | None, judgement: Judgement | None, current: bool, counts: Overview
) -> tuple[str, ...]:
    if question is None:
        return ()
    if judgement is None:
        return ("Still computing the verdict; until then, this page shows only the fit.",)
    if not current:
        return (f"The verdict uses {judgement.trials} of {counts.trials} trials; still computing the new one.",)
    return (f"No verdict: {judgement.doubt}.",) if judgement.doubt else ()


def _make_fit_tiles(fit: Regime | None, question: tuple[str, str, str] | None, current: bool) -> tuple[Tile, ...]:
    if question is None:
        return ()
    title = f"Best noise for {OBJECTIVES[question[0]].on(question[2]).label.split(' [')[0]}"
    if fit is None:
        return (Tile(title, "…", "still computing"),)
    if fit.optimum is None:
        return (Tile(title, "not determined", f"{pluralize(fit.n_configs, 'viable configuration')} so far"),)
    place = "inside the tried range" if fit.interior else "not clearly inside the tried range"
    interval = f"90 % interval {shorten(fit.low)} to {shorten(fit.high)}, {place}"
    interval += "".join(f"; {moved.sentence}" for moved in fit.moved)
    return (Tile(title, shorten(fit.optimum), interval, "" if fit.unit == "1" else fit.unit),)


def _make_cost_tiles(run: Run, counts: Overview) -> tuple[Tile, ...]:
    outcomes = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.outcomes.items()) or "none finished"
    done = f"{counts.tried} of {counts.budget}" if counts.budget else str(counts.configs)
    done += f" + {counts.added}" if counts.budget and counts.added else ""
    in_progress = len(set(run.tables["search"]["number"].to_pylist()) - set(run.tables["trials"]["number"].to_pylist()))
    if run.running and in_progress:
        outcomes += f"; {in_progress} running now"
    spent = counts.device_seconds
    per_trial = f"{shorten(spent / counts.trials)} s per trial" if spent and counts.trials else "no trial records it"
    counted = choices.read_sweep(run).counted
    title = f"{counted.capitalize()}s"
    kinds = pluralize(counts.configs, "configuration") if counted == "trial" else pluralize(counts.trials, "trial")
    kinds = f", {kinds}" if counts.trials != counts.configs else ""
    return (
        Tile(title + (" · running" if run.running else ""), done, outcomes + kinds),
        Tile(
            "Device time",
            "–" if spent is None else format_duration(spent),
            "; ".join(filter(None, (per_trial, counts.costs))) if counts.trials else "no trial yet",
        ),
    )


def format_duration(seconds: float) -> str:
    """Return a time in s, min or h."""
    if seconds < 600:
        return f"{shorten(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.1f} h"


def _make_tables(
    run: Run,
    chosen: Choice,
    question: tuple[str, str, str] | None,
    advice: list[Recommendation],
    judgement: Judgement | None,
    answer: Mapping[str, Any] | None,
) -> list[TableCard]:
    cards: list[TableCard] = []
    analysis = judgement.analysis if judgement else None
    if question and analysis is not None:
        words = "The tests behind the verdict. Open: the test decided nothing."
        cards.append(TableCard("checks", "Evidence", words, _make_checks_table(analysis)))
    if question and (found := compare_runs(run, *question)):
        words = "One row per sweep; the figures and numbers above pool all of them."
        cards.append(
            TableCard("beside", "Comparison of the sweeps", words, make_comparison_table(found, *question[:2]))
        )
    favourite = judgement.believed.favourite if judgement else None
    best = _make_best_table(run, favourite, answer["config"] if answer else None)
    if best.rows:
        words = (
            f"Sorted by {chosen.sweep.objective} on validation; ★ marks the configuration that the answer gives. "
            "Scores are test means over the ok repeats. Hover over a head or a number for its meaning."
        )
        cards.append(TableCard("best", "Best configurations", words, best, folded=True))
    if question and advice and not (judgement and judgement.settings):  # the card has whole settings
        words = "▲ marks learning rates whose step size is beyond the observed stability limit."
        title = "Learning rates that reach the best noise, all else as in the best trial"
        cards.append(TableCard("learning-rates", title, words, make_recommendation_table(advice), True))
    if question and analysis is not None:
        words = "The tests behind the verdict, as `sweeper analyse` prints them."
        cards.append(TableCard("evidence", "All tests in full sentences", words, _make_evidence_table(analysis), True))
    return cards


@cache_by_content
def _make_best_table(run: Run, favourite: Favourite | None, answer: str | None) -> TextTable:
    trials, sweep = run.tables["trials"], choices.read_sweep(run)
    return make_best_table(trials, sweep, BEST_SHOWN, favourite, choices.find_lost(run), answer)


def _write_notes(
    run: Run, chosen: Choice, counts: Overview, best: Mapping[str, Any] | None, assumed: str
) -> tuple[str, ...]:
    if chosen.sweep.own_models:
        return ("Validation chooses the best merge; its scores are from test.",)
    sweep, scale = chosen.sweep, NOISE[chosen.noise]
    seed = "unknown" if sweep.seed is None else sweep.seed
    split = SPLIT_WORDS[OBJECTIVES[sweep.objective].split_in(run.tables["trials"])]
    sentences = (
        f"{sweep.objective} on {split} chooses the best merge; its scores are from test. Only ok trials can win."
    )
    if best is not None and best["undecided"]:
        sentences += f" The choice is by observed mean, since there is no posterior: {best['undecided']}."
    return (
        f"Sampler {sweep.sampler or 'unknown'}, objective {sweep.objective}, seed {seed}; noise {chosen.noise} = "
        f"{add_unit(scale.formula, scale.unit)}, {scale.source}.",
        sentences,
        *(
            f"Warning: {line}."
            for line in format_lines(count_warnings(run.tables["trials"]["warnings"].to_pylist()), counts.trials)
        ),
        *((f"Warning: {assumed}.",) if assumed else ()),
        *(f"First {name.replace('_', ' ')} trial: {text}" for name, text in counts.details.items()),
    )


VIEW = View("overview", "Overview", "Results so far, their certainty, and recommended settings.", make_controls, build)

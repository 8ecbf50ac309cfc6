"""Overview: the verdict, the optimum, the best merge beside its parents, what to use, how far the sweep is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dashboards.charts.axes import short
from dashboards.charts.chart import Chart, Measure
from dashboards.charts.noise_fit import noise_chart
from dashboards.data.cache import by_content
from dashboards.data.configurations import Overview, overview
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.words import heading
from dashboards.text.best import Cell, TextTable, best_table, recommendation_table
from dashboards.text.comparison import beside, beside_table
from dashboards.views import choices
from dashboards.views.choices import Choice
from dashboards.views.parents import Scored, best_tiles, parents_chart, scored
from dashboards.views.section import Control, Section, TableCard, Tile, View
from dashboards.views.verdicts import Judgement, ask
from sweeper.analysis.best import winner
from sweeper.analysis.evidence.needs import OBJECTIVE, make_extend_command
from sweeper.analysis.evidence.plan import read_missing
from sweeper.analysis.posterior import Favourite, Posterior
from sweeper.analysis.recommend import recommend
from sweeper.analysis.regime import Regime
from sweeper.analysis.trial_warnings import count_warnings, format_lines
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS
from trainables.noise import NOISE

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis

QUICK = 1200
"""Trials up to which the fit takes a fraction of a second."""
BEST_SHOWN = 5
DRAWN = 250
"""Configurations of the figure at most; the tab on the collapse draws them all."""


def question(run: Run, selection: Selection) -> tuple[str, str, str] | None:
    """Return what the verdict is asked about: objective, noise, split; None where there is nothing to ask."""
    chosen = choices.choose(run, selection)
    if chosen.sweep.own or not run.tables["trials"].num_rows:
        return None
    name = chosen.name if chosen.name in OBJECTIVES else chosen.sweep.objective
    return name, chosen.noise, chosen.split


def controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the choices: metric, noise, split, and the reader's batch size."""
    if choices.sweep(run).own:
        return ()
    objectives = tuple((n, choices.words(OBJECTIVES[n].label)) for n in choices.metrics(run) if n in OBJECTIVES)
    return (
        Control("metric", "objective", objectives),
        choices.noise_control(run),
        choices.split_control(),
        Control("batch_size", "your batch size"),
    )


def build(run: Run, selection: Selection) -> Section:
    """Return the tab."""
    chosen, counts = choices.choose(run, selection), _counts(run)
    asked = question(run, selection)
    judgement, current = ask(run, asked) if asked else (None, True)
    fit = _fit(run, asked, judgement if current else None)
    believed = judgement.believed if judgement else Posterior()
    best = _winner(run, chosen.sweep.objective, believed.favourite, believed.undecided)
    peers, beside_parents = _peers(run, chosen.sweep.objective, believed.favourite, believed.undecided)
    recommended, trouble = _recommended(run, fit, best, selection)
    charts = [_noise_chart(run, chosen, asked, fit)] if asked else []
    return Section(
        verdicts=_verdicts(run, fit, judgement, _extend(run, selection, asked)),
        banners=(*_banners(counts, chosen, run), *trouble, *_pending(asked, judgement, current, counts)),
        tiles=(*_fit_tiles(fit, asked, current), *best_tiles(peers), *_cost_tiles(run, counts)),
        charts=tuple(c for c in (*charts, beside_parents) if c is not None),
        tables=tuple(_tables(run, chosen, asked, recommended, believed.favourite, _evidence(judgement))),
        notes=_notes(run, chosen, counts, best, believed.assumed),
    )


@by_content
def _counts(run: Run) -> Overview:
    return overview(run.tables["trials"], choices.sweep(run).trials)


@by_content
def _winner(run: Run, objective: str, favourite: Favourite | None, undecided: str) -> dict[str, Any] | None:
    believed = Posterior(favourite=favourite, undecided=undecided)
    return winner(run.tables["trials"], objective, believed, choices.lost(run))


@by_content
def _peers(run: Run, objective: str, favourite: Favourite | None, undecided: str) -> tuple[Scored | None, Chart | None]:
    peers = scored(_winner(run, objective, favourite, undecided))
    return peers, parents_chart(peers) if peers else None


def prepare(run: Run, selection: Selection) -> None:
    """Compute what takes longest where a reader of this selection chooses another noise."""
    if (asked := question(run, selection)) is None:
        return
    measure = choices.measure(run, asked[0], asked[2])
    for noise in choices.noises(run):
        choices.points(run, noise, _columns(measure))


def _columns(measure: Measure) -> tuple[str, ...]:
    return tuple(dict.fromkeys((measure.column, measure.test_column)))


def _fit(run: Run, asked: tuple[str, str, str] | None, judgement: Judgement | None) -> Regime | None:
    if asked is None:
        return None
    if judgement is not None:
        return judgement.regime
    return choices.regime(run, *asked) if run.tables["trials"].num_rows <= QUICK else None


def _noise_chart(run: Run, chosen: Choice, asked: tuple[str, str, str], fit: Regime | None) -> Chart | None:
    name, noise, split = asked
    measure = choices.measure(run, name, split)
    points = choices.points(run, noise, _columns(measure))
    if not any(p.noise for p in points):
        return None
    stride = -(-len(points) // DRAWN)
    drawn = noise_chart(
        points[::stride], measure, chosen.noise_label, f"{heading(measure.label)} against the noise", fit
    )
    if stride > 1:
        few = f"Drawn is one configuration of {stride}, {len(points[::stride]):,} of {len(points):,}."
        drawn = replace(drawn, caption=f"{few} {drawn.caption}")
    return drawn


def _extend(run: Run, selection: Selection, asked: tuple[str, str, str] | None) -> str:
    """Return the command that runs what the shown answer lacks; empty where it would look at other trials."""
    if asked is None or run.spec is None or selection.split or "run" in run.tables["trials"].column_names:
        return ""
    objective, noise, _ = asked
    noise_, objective_ = (None if noise == run.spec.noise else noise), (None if objective == OBJECTIVE else objective)
    command = make_extend_command(run.called, run.spec, noise_, objective_)
    return command and command + run.flags


def _verdicts(run: Run, fit: Regime | None, judgement: Judgement | None, extend: str) -> tuple[str, ...]:
    if judgement is None or judgement.analysis is None:
        return (_sentence(fit.message),) if fit is not None else ()
    first = _sentence(judgement.analysis.sentences[0])
    return first, *_needed(run, judgement.analysis, extend)


def _needed(run: Run, analysis: Analysis, extend: str) -> tuple[str, ...]:
    if not analysis.needs:
        return ()
    why = "; ".join(dict.fromkeys(n.why for n in analysis.needs))
    plan = read_missing(run.spec, run.place, run.tables["trials"], analysis) if extend and run.spec else None
    if plan is not None:
        return (f"For a firm answer: {why}. `{extend}` runs {pluralize(len(plan.specs), 'further trial')}.",)
    most = f"at most {pluralize(sum(n.repeats for n in analysis.needs), 'further trial')}"
    return (f"For a firm answer: {why}. {f'`{extend}` runs' if extend else 'That takes'} {most}.",)


def _evidence(judgement: Judgement | None) -> TextTable:
    if judgement is None or judgement.analysis is None:
        return TextTable((), ())
    return TextTable((), tuple((Cell(_sentence(s)),) for s in judgement.analysis.sentences[1:]))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _banners(counts: Overview, chosen: Choice, run: Run) -> tuple[str, ...]:
    said: list[str] = []
    if counts.synthetic:
        which = "" if counts.synthetic == counts.trials else f" in {counts.synthetic} of {counts.trials} trials"
        said.append(f"Synthetic closed form: no network was trained{which}.")
    if counts.imported:
        which = "These trials" if counts.imported == counts.trials else f"{counts.imported} of {counts.trials} trials"
        said.append(f"{which} were imported from a table: trained elsewhere, not by this package.")
    if not counts.trials:
        said.append("No trial has finished yet: there is nothing to show.")
    elif not counts.outcomes.get("ok"):
        said.append("No trial is ok so far: neither gain nor merged loss is known, only where training broke.")
    if counts.trials and counts.missing:
        going = "running" if run.running else "not running"
        said.append(f"Unfinished and {going}: {counts.tried} of {counts.budget} configurations have a result so far.")
    if counts.trials and counts.trials == counts.configs and not chosen.sweep.own:
        said.append("No configuration was repeated: how much scatter is chance is not known.")
    return (*said, *chosen.sweep.doubts)


def _pending(
    asked: tuple[str, str, str] | None, judgement: Judgement | None, current: bool, counts: Overview
) -> tuple[str, ...]:
    if asked is None:
        return ()
    if judgement is None:
        return ("The verdict is being computed; what stands here until then is the fit alone.",)
    if not current:
        return (f"The verdict is of {judgement.trials} trials and is being computed for {counts.trials}.",)
    return (f"No verdict: {judgement.doubt}.",) if judgement.doubt else ()


def _fit_tiles(fit: Regime | None, asked: tuple[str, str, str] | None, current: bool) -> tuple[Tile, ...]:
    if asked is None:
        return ()
    title = f"Best noise for {OBJECTIVES[asked[0]].on(asked[2]).label.split(' [')[0]}"
    if fit is None:
        return (Tile(title, "…", "being computed"),)
    if fit.optimum is None:
        return (Tile(title, "not determined", f"{pluralize(fit.n_configs, 'viable configuration')} so far"),)
    where = "inside the tried range" if fit.interior else "not clearly inside the tried range"
    interval = f"90 % interval {short(fit.low)} to {short(fit.high)}, {where}"
    interval += "".join(f"; {moved.sentence}" for moved in fit.moved)
    return (Tile(title, short(fit.optimum), interval, "" if fit.unit == "1" else fit.unit),)


def _cost_tiles(run: Run, counts: Overview) -> tuple[Tile, ...]:
    outcomes = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.outcomes.items()) or "none finished"
    done = f"{counts.tried} of {counts.budget}" if counts.budget else str(counts.configs)
    done += f" + {counts.added}" if counts.budget and counts.added else ""
    open_now = len(set(run.tables["search"]["number"].to_pylist()) - set(run.tables["trials"]["number"].to_pylist()))
    if run.running and open_now:
        outcomes += f"; {open_now} running now"
    spent = counts.device_seconds
    each = f"{short(spent / counts.trials)} s a trial" if spent and counts.trials else "no trial says it"
    again = counts.tried - (counts.configs - counts.added)
    repeats = f", {again} tried again" if again > 0 else ""
    repeats += f", {pluralize(counts.trials, 'trial')}" if counts.trials != counts.configs else ""
    return (
        Tile("Configurations" + (" · running" if run.running else ""), done, outcomes + repeats),
        Tile("Device time", "–" if spent is None else duration(spent), each if counts.trials else "no trial yet"),
    )


def duration(seconds: float) -> str:
    """Return a time for people: in s, min or h."""
    if seconds < 600:
        return f"{short(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.1f} h"


def _recommended(
    run: Run, fit: Regime | None, best: Mapping[str, Any] | None, selection: Selection
) -> tuple[TextTable, tuple[str, ...]]:
    typed = selection.batch_size
    if typed and not (typed.isdecimal() and int(typed) >= 1):
        return TextTable((), ()), (f"Your batch size must be a whole number >= 1, got {typed!r}.",)
    if fit is None or fit.optimum is None:
        return TextTable((), ()), ()
    try:
        return recommendation_table(_advice(run, fit, best, (int(typed),) if typed else None)), ()
    except ValueError as error:
        return TextTable((), ()), (f"No recommended settings: {error}.",)


def _advice(run: Run, fit: Regime, best: Mapping[str, Any] | None, sizes: tuple[int, ...] | None) -> list[Any]:
    return recommend(run.tables["trials"], fit, batch_sizes=sizes, best=best)


def _tables(
    run: Run,
    chosen: Choice,
    asked: tuple[str, str, str] | None,
    recommended: TextTable,
    favourite: Favourite | None,
    evidence: TextTable,
) -> list[TableCard]:
    cards: list[TableCard] = []
    if asked and (found := beside(run, *asked)):
        words = "Each sweep by itself; the figures and numbers above are of all of them together."
        cards.append(TableCard("beside", "The sweeps beside one another", words, beside_table(found, *asked[:2])))
    if asked and recommended.rows:
        words = (
            "Learning rates that reach the best noise at a batch size, with momentum and weight decay of the best "
            "trial; ▲ marks learning rates whose step size lies beyond the stability limit that was seen."
        )
        cards.append(TableCard("recommended-settings", "Recommended settings", words, recommended))
    if evidence.rows:
        words = "What the verdict rests on, test by test, as `sweeper analyse` prints it."
        cards.append(TableCard("evidence", "The evidence", words, evidence))
    best = _best_table(run, favourite)
    if best.rows:
        words = (
            f"Ordered by {chosen.sweep.objective} on validation, ★ the best by posterior mean; scores are of the test "
            "split, means over the ok repeats. Rest the mouse on a head or a number for its meaning."
        )
        cards.append(TableCard("best", "Best configurations", words, best))
    return cards


@by_content
def _best_table(run: Run, favourite: Favourite | None) -> TextTable:
    return best_table(run.tables["trials"], choices.sweep(run), BEST_SHOWN, favourite, choices.lost(run))


def _notes(run: Run, chosen: Choice, counts: Overview, best: Mapping[str, Any] | None, assumed: str) -> tuple[str, ...]:
    if chosen.sweep.own:
        return ("The best merge is chosen on validation and reported on test.",)
    sweep, scale = chosen.sweep, NOISE[chosen.noise]
    seed = "unknown" if sweep.seed is None else sweep.seed
    split = SPLIT_WORDS[OBJECTIVES[sweep.objective].split_in(run.tables["trials"])]
    said = f"The best merge is chosen by {sweep.objective} on {split} and reported on test; only ok trials can win."
    if best is not None and best["undecided"]:
        said += f" By observed mean, there is no posterior one: {best['undecided']}."
    return (
        f"Sampler {sweep.sampler or 'unknown'}, objective {sweep.objective}, seed {seed}; noise {chosen.noise} = "
        f"{scale.formula} [{scale.unit}], {scale.source}.",
        said,
        *(
            f"Warning: {line}."
            for line in format_lines(count_warnings(run.tables["trials"]["warnings"].to_pylist()), counts.trials)
        ),
        *((f"Warning: {assumed}.",) if assumed else ()),
        *(f"First {name.replace('_', ' ')} trial: {text}" for name, text in counts.details.items()),
    )


VIEW = View("overview", "Overview", "What the sweep found so far, how sure it is, and what to use.", controls, build)

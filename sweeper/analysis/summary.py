"""Summary of a sweep: best noise, best configuration, warnings, advice."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from sweeper.analysis.text import format_front
from sweeper.analysis.trial_counts import (
    COUNTED,
    STAGE_COLUMNS,
    count_costs,
    count_gpus,
    count_trials,
    count_warnings,
    format_lines,
)
from sweeper.client.models import BestView, Cost, Progress, RegimeView, SweepRecord
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import finite_or_none, show_path, wrap
from sweeper.search.noise_targets import check_shown
from sweeper.search.stages import TITLES
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import PAGE
from trainables.noise import KNOBS, NOISE
from trainables.registry import UnknownName

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis
    from sweeper.analysis.posterior import Posterior

SHOWN_KNOBS = (*KNOBS, "augmentation_strength")


def check_shown_noise(noise: str) -> str:
    """Return the name of a noise if the trials table has a column for it.

    Raises:
        SpecError: The name is unknown, or the noise has no column.
    """
    try:
        check_shown(noise)
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None
    return noise


def count_sweep(spec: SweepSpec, trials: Any, budget: int) -> SweepRecord:
    """Return progress, cost and warnings of a sweep: the part of its record that needs no fit.

    Args:
        spec: The sweep.
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        budget: Number of proposals, see `sweeper.runner.proposers.search.count_configurations`.
    """
    rows = trials.select([*dict.fromkeys((*COUNTED, "device", "members", "warnings", *STAGE_COLUMNS))]).to_pylist()
    counts, costs = count_trials(rows, spec.repeats), count_costs(rows)
    seconds = ((r, s) for r in rows if (s := r["device_seconds"]) is not None and math.isfinite(s))
    gpu_seconds = math.fsum(count_gpus(r, spec.resources) * s for r, s in seconds)
    return SweepRecord(
        progress=Progress(
            budget=budget,
            done=counts.done,
            failed=counts.failed,
            repeats=spec.repeats,
            trials=counts.trials,
            outcomes=dict(counts.outcomes),
            stage=_find_stage(rows),
        ),
        cost=Cost(
            device_seconds=counts.device_seconds or 0.0,
            gpu_hours=gpu_seconds / 3600,
            stage_seconds=dict(costs.stages),
            proxy=costs.proxy,
            saved_seconds=costs.saved_by_proxy + costs.saved_by_pruning,
            summary=costs.describe(),
        ),
        warnings=tuple(format_lines(count_warnings(r["warnings"] for r in rows), len(rows))),
    )


def _find_stage(rows: Sequence[Mapping[str, Any]]) -> str | None:
    known = [(r["number"], r["stage"]) for r in rows if r["stage"] and r["number"] is not None]
    return TITLES.get(max(known)[1]) if known else None


def record_sweep(
    spec: SweepSpec, trials: Any, budget: int, noise: str | None = None, posterior: Posterior | None = None
) -> SweepRecord:
    """Return the record of a sweep: `count_sweep` with its best noise and its winner.

    Args:
        spec: The sweep.
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        budget: Number of proposals, see `sweeper.runner.proposers.search.count_configurations`.
        noise: Noise to show; the sweep's by default.
        posterior: Posterior that chooses the winner; fitted here by default.
    """
    from sweeper.analysis.best import choose_winner, find_over_limits
    from sweeper.analysis.posterior import fit_posterior

    noise = noise or spec.noise
    posterior = posterior or fit_posterior(spec, trials, noise, explain=False)
    row = choose_winner(trials, spec.objective, posterior, find_over_limits(trials, spec))
    best = _view_best(row, spec.objective, noise) if row else None
    return count_sweep(spec, trials, budget).model_copy(
        update={"regime": _view_regime(trials, spec.objective, noise), "best": best}
    )


def _view_regime(trials: Any, objective: str, noise: str) -> RegimeView | None:
    from sweeper.analysis.regime import fit_regime

    try:
        regime = fit_regime(trials, objective, noise)
    except ValueError:
        return None
    fields = {k: getattr(regime, k) for k in ("objective", "noise", "unit", "optimum", "low", "high", "message")}
    return RegimeView(**fields)


def _view_best(row: Mapping[str, Any], objective: str, noise: str) -> BestView:
    return BestView(
        digest=row["digest"],
        config=row["config"],
        objective=objective,
        value=finite_or_none(row["config_mean"]),
        repeats=row["config_repeats"],
        posterior_mean=finite_or_none(row["posterior_mean"]),
        posterior_sd=finite_or_none(row["posterior_sd"]),
        undecided=row["undecided"],
        noise=finite_or_none(row[f"noise_{noise}"]),
        knobs={k: row[k] for k in (*KNOBS, "augmentation", "augmentation_strength")},
    )


def summarize_sweep(
    folder: str | Path,
    trials: Any,
    noise: str,
    posterior: Posterior | None = None,
    analysis: Analysis | None = None,
    objective: str | None = None,
) -> dict[str, Any]:
    """Return a sweep's results: summary, Pareto set, recommendations, warnings and file paths.

    Args:
        folder: The run folder, or its URI.
        trials: Its trials table.
        noise: Noise to show.
        posterior: The model's posterior for that noise, if known; else it is fitted here.
        analysis: Analysis of the sweep's objective and the shown noise, if known; else the trials are analysed here.
        objective: Objective that chooses the winner; the sweep's by default. By another, the confirmed settings win
            where `recommend` gives them, too.
    """
    from sweeper.analysis.best import choose_winner, find_over_limits, judge_by
    from sweeper.analysis.evidence.analyse import find_analysis
    from sweeper.analysis.posterior import fit_posterior
    from sweeper.analysis.recommend import BOTH, summarize
    from sweeper.analysis.scorecard.answer import find_answer
    from sweeper.analysis.settings.advice import keeps_confirmed
    from sweeper.analysis.stages.confirmation import find_confirmation, ignore_confirmation
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import weights_of

    spec, flags = stored_spec(folder), ""
    if objective is not None and objective != spec.objective:
        # the fresh pairs measured this objective, too, though another one chose their settings
        if find_confirmation(trials, objective) and not keeps_confirmed(spec, trials, objective, noise):
            trials = ignore_confirmation(trials)
        spec = judge_by(spec, objective)
        flags = f" --objective {objective}"
    if noise != spec.noise and NOISE[noise].kind == "predicted":
        flags += f" --noise {noise}"
    place = place_of(folder)
    folder = place.local.absolute() if place.local else place.uri
    posterior, lost = posterior or fit_posterior(spec, trials, noise), find_over_limits(trials, spec)
    record = {**summarize(trials, spec.objective, noise, posterior, lost), "run": str(folder)}
    record["objectives"] = list(spec.objectives)
    record["front"] = _find_front(spec, trials)
    weights = weights_of(record["best"]["digest"]) if record["best"] else None
    record["page"] = _file(place, PAGE) if place.has(PAGE) else None
    record["first_details"] = dict(count_trials(trials.select(COUNTED).to_pylist()).first_details)
    record["warnings"] = [*format_warnings(trials), *([posterior.assumed] if posterior.assumed else [])]
    record["weights"] = _file(place, weights) if weights and place.has(weights) else None
    space = find_space(spec)
    shown = spec.model_copy(update={"noise": noise})  # the verdict is along the shown noise
    if analysis is None or analysis.noise != noise:
        analysis = find_analysis(trials, spec.objective, noise)[0]
    record["preferred"] = record_preferred(analysis, noise)
    found = find_answer(shown, space, trials, posterior, show_path(folder), record["page"], analysis, flags)
    record["answer"] = found.record()
    try:
        best = choose_winner(trials, spec.objective, posterior, lost)
        record["recommendations"] = _recommend_each(trials, noise, BOTH, dict.fromkeys(BOTH, best))
    except SpecError:
        record["recommendations"] = {}  # no optimum yet, or a noise without a learning rate; the summary states it
    return record


def record_preferred(analysis: Analysis | None, noise: str) -> dict[str, Any] | None:
    """Return the record of the definition that ranks before the shown one, with `sentence`; None without one."""
    from sweeper.analysis.evidence.ranking import find_preferred

    preferred = find_preferred(analysis.ranking, noise) if analysis else None
    return {**asdict(preferred), "sentence": preferred.compare_with(noise)} if preferred else None


def find_space(spec: SweepSpec) -> Space | None:
    """Return the search space of a sweep; None if it is unknown here."""
    from sweeper.storage.space_data import known_space

    try:
        return known_space(spec).space
    except SpecError:
        return None


def _find_front(spec: SweepSpec, trials: Any) -> list[dict[str, Any]]:
    from sweeper.analysis.best import find_pareto_set
    from sweeper.analysis.observations import is_feasible

    if not spec.further_objectives:
        return []
    return find_pareto_set(trials.to_pylist(), spec.objectives, lambda row: is_feasible(row, spec))


def format_sweep(record: Mapping[str, Any]) -> str:
    """Return the record of `summarize_sweep` as text for a terminal."""
    from sweeper.analysis.scorecard.answer import format_answer
    from sweeper.analysis.text import format_summary

    parts = [format_answer(record["answer"]), format_summary(record)]
    parts += [format_front(record["front"], record["objectives"])] if record["front"] else []
    parts += [f"first {outcome} trial: {detail}" for outcome, detail in record["first_details"].items()]
    parts += ["\n".join(wrap(f"warning: {line}", 0) for line in record["warnings"])] if record["warnings"] else []
    again = f"not saved; `sweeper best {shlex.quote(show_path(record['run']))} --save FILE` trains that trial again"
    trained_here = not (record["synthetic"] or record["imported"])
    places = {"results": record["run"], "page": record["page"], "best merged weights": record["weights"]}
    lines = [f"{name + ':':<21}{show_path(place)}" for name, place in places.items() if place]
    if record["best"] and trained_here and not record["weights"]:
        lines.append(f"{'best merged weights:':<21}{again}")
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


def format_warnings(trials: Any) -> list[str]:
    """Return the warnings of a trials table as lines of text."""
    return format_lines(count_warnings(trials["warnings"].to_pylist()), trials.num_rows)


def _recommend_each(
    trials: Any, noise: str, objectives: Iterable[str], best: Mapping[str, Any], **wanted: Any
) -> dict[str, Any]:
    """Return objective -> recommendations with their text, of the objectives that have an optimum.

    Args:
        trials: The trials table.
        noise: Name of the noise.
        objectives: Objectives to advise on.
        best: Objective -> row of the trial whose settings to keep; by default the best by observed mean.
        wanted: Settings that replace the kept ones.

    Raises:
        SpecError: No objective has an answer; the message gives the first reason.
    """
    from sweeper.analysis.recommend import recommend
    from sweeper.analysis.regime import fit_regime
    from sweeper.analysis.text import format_recommendations

    advice: dict[str, Any] = {}
    errors: list[str] = []
    for objective in objectives:
        try:
            regime = fit_regime(trials, objective, noise)
            settings = recommend(trials, regime, best=best.get(objective), **wanted)
        except (ValueError, UnknownName) as error:
            errors.append(str(error))
            continue
        text = format_recommendations(settings)
        advice[objective] = {"message": regime.message, "recommendations": [asdict(s) for s in settings], "text": text}
    if not advice and errors:
        raise SpecError(errors[0])
    return advice


def advise(
    spec: SweepSpec, trials: Any, objectives: Sequence[str] = (), noise: str | None = None, **wanted: Any
) -> dict[str, Any]:
    """Return objective -> recommendations with their text, of the objectives that have an optimum.

    Args:
        spec: The sweep.
        trials: Its trials.
        objectives: Objectives to advise on; by default gain and merged loss.
        noise: Noise to reach; the sweep's by default.
        wanted: Settings that replace the winner's; see `sweeper.analysis.recommend.recommend`.

    Raises:
        SpecError: No objective has an answer; the message gives the first reason.
    """
    from sweeper.analysis.best import find_winner
    from sweeper.analysis.recommend import BOTH

    try:
        if objectives:
            best = {name: find_winner(spec, trials, name) for name in objectives}
        else:  # the settings of one answer, in both tables
            winner = find_winner(spec, trials, spec.objective)
            best = {str(name): winner for name in BOTH}
    except UnknownName as error:
        raise SpecError(str(error)) from None
    return _recommend_each(trials, noise or spec.noise, objectives or BOTH, best, **wanted)


def _file(place: Place, name: str) -> str:
    return str(place.local.absolute() / name) if place.local else f"{place.text}/{name}"

"""Summary of a sweep: best noise, best configuration, warnings, advice."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.analysis.text import format_front
from sweeper.analysis.trial_counts import COUNTED, TrialWarning, count_trials, count_warnings, format_lines
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import wrap
from sweeper.search.noise_targets import check_shown
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import PAGE
from trainables.noise import KNOBS
from trainables.registry import UnknownName

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


def summarize_sweep(folder: str | Path, trials: Any, noise: str) -> dict[str, Any]:
    """Return a sweep's results: summary, Pareto set, recommendations, warnings and file paths."""
    from sweeper.analysis.best import choose_winner, find_over_limits
    from sweeper.analysis.posterior import fit_posterior
    from sweeper.analysis.recommend import BOTH, summarize
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import weights_of

    spec = stored_spec(folder)
    place = place_of(folder)
    folder = place.local.absolute() if place.local else place.uri
    posterior, lost = fit_posterior(spec, trials, noise), find_over_limits(trials, spec)
    record = {**summarize(trials, spec.objective, noise, posterior, lost), "run": str(folder)}
    record["objectives"] = list(spec.objectives)
    record["front"] = _find_front(spec, trials)
    weights = weights_of(record["best"]["digest"]) if record["best"] else None
    record["page"] = _file(place, PAGE) if place.has(PAGE) else None
    record["first_details"] = dict(count_trials(trials.select(COUNTED).to_pylist()).first_details)
    record["warnings"] = [*format_warnings(trials), *([posterior.assumed] if posterior.assumed else [])]
    record["weights"] = _file(place, weights) if weights and place.has(weights) else None
    try:
        best = choose_winner(trials, spec.objective, posterior, lost)
        record["recommendations"] = _recommend_each(trials, noise, BOTH, {spec.objective: best})
    except SpecError:
        record["recommendations"] = {}  # no optimum yet, or a noise without a learning rate; the summary states it
    return record


def _find_front(spec: SweepSpec, trials: Any) -> list[dict[str, Any]]:
    from sweeper.analysis.best import find_pareto_set
    from sweeper.analysis.observations import is_feasible

    if not spec.further_objectives:
        return []
    return find_pareto_set(trials.to_pylist(), spec.objectives, lambda row: is_feasible(row, spec))


def format_sweep(record: Mapping[str, Any]) -> str:
    """Return the record of `summarize_sweep` as text for a terminal."""
    from sweeper.analysis.text import format_summary

    parts = [format_summary(record)]
    parts += [format_front(record["front"], record["objectives"])] if record["front"] else []
    parts += [f"first {outcome} trial: {detail}" for outcome, detail in record["first_details"].items()]
    parts += ["\n".join(wrap(f"warning: {line}", 0) for line in record["warnings"])] if record["warnings"] else []
    for name, advice in record["recommendations"].items():
        parts.append(f"hyperparameters that reach the best noise for {name}\n{advice['text']}")
    again = f"not saved; `sweeper best {shlex.quote(record['run'])} --save FILE` trains that trial again"
    trained_here = not (record["synthetic"] or record["imported"])
    weights = record["weights"] or (again if record["best"] and trained_here else None)
    places = {"results": record["run"], "page": record["page"], "best merged weights": weights}
    parts.append("\n".join(f"{name + ':':<21}{place}" for name, place in places.items() if place))
    return "\n\n".join(parts)


def collect_warnings(trials: Any) -> list[TrialWarning]:
    """Return the warnings of a trials table, one per kind."""
    return count_warnings(trials["warnings"].to_pylist())


def format_warnings(trials: Any) -> list[str]:
    """Return the warnings of a trials table as lines of text."""
    return format_lines(collect_warnings(trials), trials.num_rows)


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
    from sweeper.analysis.best import choose_winner, find_over_limits
    from sweeper.analysis.posterior import fit_posterior
    from sweeper.analysis.recommend import BOTH

    best = {
        spec.objective: choose_winner(
            trials, spec.objective, fit_posterior(spec, trials), find_over_limits(trials, spec)
        )
    }
    return _recommend_each(trials, noise or spec.noise, objectives or BOTH, best, **wanted)


def _file(place: Place, name: str) -> str:
    return str(place.local.absolute() / name) if place.local else f"{place.text}/{name}"

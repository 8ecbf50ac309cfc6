"""Results as text for a terminal, at most 100 columns wide: summary, model and recommendations of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.client.models import BestView, SweepRecord
from sweeper.search.objectives import OBJECTIVES
from trainables.result import SPLITS

if TYPE_CHECKING:
    from sweeper.analysis.recommend import Recommendation
from sweeper.formatting import (
    ELSEWHERE,
    SYNTHETIC,
    add_unit,
    format_table,
    merge_words,
    name_knob,
    number,
    per_token,
    plain_text,
    pluralize,
    wrap,
)

_TEST_ROWS = {
    "parents": "parents, mean",
    "a": "parent A",
    "b": "parent B",
    "merged": "merged, linear 1/2",
    "chosen": "merged, chosen on validation",
    "ensemble": "ensemble of the parents",
}


def _format_per_token(loss: float | None, bytes_per_token: float) -> tuple[str, str]:
    found = per_token(loss, bytes_per_token)
    return (number(found[0]), number(found[1])) if found else ("-", "-")


def format_summary(record: Mapping[str, Any]) -> str:
    """Return the record of `sweeper.analysis.recommend.summarize` as text, at most `WIDTH` columns wide."""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in record["counts"].items()) or "none yet"
    head = f"{pluralize(record['trials'], 'trial')} of {pluralize(record['configs'], 'configuration')} ({counts})"
    seconds = record["device_seconds"]
    parts = [wrap(f"{head}, {'unknown' if seconds is None else f'{number(seconds)} s of'} device time", 0)]
    if record["synthetic"]:
        parts.append(SYNTHETIC)
    if record["imported"]:
        parts.append(ELSEWHERE)
    parts.append(_regimes(record))
    parts += [wrap(record["preferred"]["sentence"], 0)] if record.get("preferred") else []
    parts.append(format_best(record))
    return "\n\n".join(parts)


def _regimes(record: Mapping[str, Any]) -> str:
    title = add_unit(f"best noise {record['formula']}", record["unit"]) + " for"
    header = ("objective", "noise", "90 % interval", "at an edge", "interior", "predicted", "configs")
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for name, regime in record["regimes"].items():
        known = regime["optimum"] is not None
        rows.append(
            (
                name,
                number(regime["optimum"]),
                f"{number(regime['low'])} to {number(regime['high'])}" if known else "-",
                f"{regime['edge_share']:.0%}" if known else "-",
                _format_interior(regime) if known else "-",
                number(regime["value"]),
                str(regime["n_configs"]),
            )
        )
        notes.append(wrap(f"{name}: {regime['message']}", 2))
    labels = [f"{name} = {_label(name, regime['column'])}" for name, regime in record["regimes"].items()]
    return "\n".join((title, format_table(header, rows), *notes, wrap("; ".join(labels), 2)))


def _label(objective: str, column: str) -> str:
    goal, split = OBJECTIVES[objective], column.rpartition("_")[2]
    return goal.on(split).label if split in SPLITS else goal.label


def _format_interior(regime: Mapping[str, Any]) -> str:
    if not regime["interior"]:
        return "no"
    return "yes, in this search" if regime["adaptive"] else "yes"


def format_best(record: Mapping[str, Any]) -> str:
    """Return the winner of a record with the keys `best`, `objective` and `trials` as text."""
    best = record["best"]
    if not best and record.get("proxy_only"):
        return "no winner yet: no trial in full has ended"
    if not best:
        return "no winner yet: no pair is viable" if record["trials"] else "no winner yet: no trial has finished"
    knobs = {
        "learning rate": number(best["learning_rate"]),
        "batch size": str(best["batch_size"]),
        "momentum": number(best["momentum"]),
        "weight decay": number(best["weight_decay"]),
        f"augmentation {best['augmentation']}": number(best["augmentation_strength"]),
        "noise": number(best["noise"]),
    }
    tasks, size = best.get("tasks") or [], best.get("bytes_per_token")
    more = ("perplexity", "bits per byte") if size else ()
    # with several tasks, a child knows its own task alone
    shown = [who for who in _TEST_ROWS if not (tasks and who in ("a", "b", "ensemble"))]
    rows = [
        (
            "merged, linear" if tasks and who == "merged" else _TEST_ROWS[who],
            number(best["test"][who]["loss"]),
            _format_percent(best["test"][who]["accuracy"]),
            *(_format_per_token(best["test"][who]["loss"], size) if size else ()),
        )
        for who in shown
    ]
    lines = [
        wrap(f"best trial by {record['objective']} on {_split(best['column'])}: {best['digest']}", 0),
        *_describe_choice(best),
        wrap(", ".join(f"{name} {value}" for name, value in knobs.items()), 2),
        format_table(("on test", "loss [nat/token]" if size else "loss [nat]", "accuracy", *more), rows),
    ]
    if tasks:
        header = ("task", "its child's loss [nat]", "accuracy", "kept by the chosen merge")
        cells = [
            (t["task"], number(t["loss"]), _format_percent(t["accuracy"]), _format_percent(t["kept"])) for t in tasks
        ]
        lines.append(format_table(header, cells))
    if best["chosen_merge"] is not None:
        words = merge_words(best["chosen_merge"], best["chosen_coefficient"], best.get("chosen_window"))
        lines.append(f"  chosen on validation: {words}")
    return "\n".join(lines)


def _split(column: str) -> str:
    return "test (the only measured split)" if column.endswith("_test") else "validation"


def _describe_choice(best: Mapping[str, Any]) -> list[str]:
    view = BestView(
        digest=best["digest"],
        config=best["config"],
        objective="",
        value=best["config_mean"],
        repeats=best["config_repeats"],
        **{k: best[k] for k in ("posterior_mean", "posterior_sd", "undecided")},
    )
    lines = [wrap(f"chosen {describe_winner(view)}", 2)]
    if luckiest := best["luckiest"]:
        lines.append(wrap(f"luckiest observed: {_format_observed(luckiest)}, {luckiest['digest']}", 2))
    return lines


def describe_winner(best: BestView) -> str:
    """Return by which mean a winner was chosen, with its posterior and observed mean."""
    observed = f"{number(best.value)} over {pluralize(best.repeats, 'repeat')}"
    if best.posterior_mean is None:
        why = f"; no posterior mean: {best.undecided}" if best.undecided else ""
        return f"by the observed mean, {observed}{why}"
    error = " (one trial: error unknown)" if best.posterior_sd is None else f" ± {number(best.posterior_sd)}"
    return f"by the posterior mean, {number(best.posterior_mean)}{error}; observed {observed}"


def _format_observed(best: Mapping[str, Any]) -> str:
    return f"{number(best['config_mean'])} over {pluralize(best['config_repeats'], 'repeat')}"


def format_front(front: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> str:
    """Return the Pareto set of a sweep as a table, best by the first objective first."""
    rows = [
        (str(r["number"]), r["digest"], *(number(r[name]) for name in objectives), str(r["repeats"])) for r in front
    ]
    title = "Pareto set: no other configuration matches these in every objective and beats them in one"
    return f"{title}\n{format_table(('number', 'best repeat', *objectives, 'repeats'), rows)}"


def format_record(about: Mapping[str, Any], record: SweepRecord, more: Sequence[str] = ()) -> str:
    """Return a sweep's identity and record as text: counts, winner, cost, best noise, `more` sentences and warnings."""
    progress, cost, best = record.progress, record.cost, record.best
    done, budget, failed = (n * progress.repeats for n in (progress.done, progress.budget, progress.failed))
    counts = ", ".join(f"{n} {outcome}" for outcome, n in progress.outcomes.items()) or "none yet"
    lines = {
        **about,
        "progress": f"{done} of {pluralize(budget, 'trial') if budget else 'an unknown number of trials'}"
        + (f", {failed} failed" if failed else ""),
        "finished trials": f"{progress.trials} ({counts})" if progress.trials else counts,
        "device time": f"{number(cost.device_seconds)} s" + (f" ({cost.summary})" if cost.summary else ""),
        "GPU time": f"{number(cost.gpu_hours)} h" if cost.gpu_hours else None,
        "wall time": f"{number(cost.wall_seconds)} s" if cost.wall_seconds else None,
        "best": f"{best.digest} {describe_winner(best)}" if best else "none yet",
    }
    regime = [wrap(f"{record.regime.objective}: {record.regime.message}", 0)] if record.regime else []
    return "\n".join(
        (
            *(wrap(f"{k.replace('_', ' '):<21}{plain_text(v)}", 0) for k, v in lines.items() if v is not None),
            *regime,
            *(wrap(sentence, 0) for sentence in more),
            *(wrap(f"warning: {line}", 0) for line in record.warnings),
        )
    )


def format_posterior(record: Mapping[str, Any], noise: str) -> str:
    """Return a sweep's posterior (`sweeper.analysis.posterior.Posterior.record`) as text, without exponents."""
    if record["unexplained"]:
        return wrap(f"no model of noise {noise}: {record['unexplained']}", 0)
    share = noise_share(record, noise)
    lines = [wrap(f"the search's model of {count_fitted(record)}: {share}", 0)]
    lines += [wrap(f"warning: {record['assumed']}", 0)] if record.get("assumed") else []
    return "\n".join(lines)


def count_fitted(record: Mapping[str, Any]) -> str:
    """Return the number of trials in the model's fit, with that of their configurations if known."""
    trials, configs = record["trials"], record.get("configs")  # a service of an earlier version gives no `configs`
    words = pluralize(trials, "trial")
    return f"{words} of {pluralize(configs, 'configuration')}" if configs else words


def describe_bounds(ends: Mapping[str, str]) -> str:
    """Return a sentence on knobs at an end of their range (`sweeper.search.bounds.find_bounds`); empty without any."""
    if not ends:
        return ""
    each = [f"{name_knob(name).name} lies at the {end} end of its range" for name, end in ends.items()]
    return f"{' and '.join(each)}: a wider range may hold better settings"


def noise_share(record: Mapping[str, Any], noise: str) -> str:
    """Return a phrase on the share of the explained variance that noise explains, with its interval if known."""
    if record["variance_share"] is None:
        return "it does not predict unseen trials, so the share of the noise is unknown"
    share = f"{_format_share(record['variance_share'])} %"
    if record.get("share_low") is not None:
        share += f" (90 % interval {_format_share(record['share_low'])} to {_format_share(record['share_high'])} %)"
    return f"noise {noise} accounts for {share} of the explained variance"


def _format_share(share: float) -> str:
    # in per cent; no estimate is certain
    return "> 99" if share > 0.995 else "< 1" if share < 0.005 else f"{100 * share:.0f}"


def _format_percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"


def format_recommendations(recommendations: Sequence[Recommendation]) -> str:
    """Return recommendations as a table; `*` marks a knob outside the tried range, `!` a step beyond stability.

    A `!` in the last column belongs to the learning rate, and one in the interval to that end.
    """
    header = ("batch size", "learning rate", "interval", "momentum", "weight decay", "noise", "")
    rows = [
        (
            _mark(r, "batch_size"),
            _mark(r, "learning_rate"),
            f"{_format_end(r.learning_rate_low, r.low_beyond_stability)} to "
            f"{_format_end(r.learning_rate_high, r.high_beyond_stability)}",
            _mark(r, "momentum"),
            _mark(r, "weight_decay"),
            number(r.noise),
            "!" if r.beyond_stability else "",
        )
        for r in recommendations
    ]
    lines = [format_table(header, rows, indent=0)]
    if any(r.outside_tried for r in recommendations):
        lines.append("* outside the range of the viable trials")
    marked = [r for r in recommendations if r.beyond_stability] or [
        r for r in recommendations if r.high_beyond_stability
    ]
    if marked:
        lines.append(wrap(f"! beyond the observed stability limit: {marked[0].note}", 0))
    return "\n".join(lines)


def _format_end(rate: float, beyond: bool) -> str:
    return f"{number(rate)}{'!' if beyond else ''}"


def _mark(recommendation: Recommendation, knob: str) -> str:
    # a blank aligns the digits of rows with and without a mark
    return number(getattr(recommendation, knob)) + ("*" if knob in recommendation.outside_tried else " ")

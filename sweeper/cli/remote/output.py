"""Output of sweeps on a service, in the style of the local commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeper.cli.commands.inspect import format_saved
from sweeper.cli.output import emit
from sweeper.client import Client, ClientError
from sweeper.client.models import Advice, Estimate, Sweep, SweepDetail
from sweeper.formatting import format_table, number, plain_text, pluralize, wrap


def emit_status(as_json: bool, client: Client, sweep: SweepDetail) -> None:
    """Print the status of a sweep."""
    from sweeper.analysis.text import format_record

    about = {k: getattr(sweep, k) for k in ("id", "name", "owner", "shared", "space", "sampler", "objective")}
    about |= {"state": sweep.state.value, "reason": sweep.reason or None, "priority": sweep.priority}
    about |= {"place in the queue": sweep.position, "page": page_of(client, sweep)}
    emit(as_json, sweep.model_dump(mode="json"), format_record(about, sweep))


def _format_verdict(sweep: Sweep) -> list[str]:
    """Return the verdict and the warnings of a sweep for a terminal."""
    verdict = [wrap(f"{sweep.regime.objective}: {sweep.regime.message}", 0)] if sweep.regime else []
    return [*verdict, *(wrap(f"warning: {line}", 0) for line in sweep.warnings)]


def emit_results(as_json: bool, client: Client, sweep: SweepDetail, saved: Mapping[str, Any] | None = None) -> None:
    """Print the results of a sweep and what was saved, with the keys of `sweeper best --json` for a run folder."""
    from sweeper.analysis.scorecard.answer import format_answer
    from sweeper.analysis.scorecard.next_command import follow_save
    from sweeper.analysis.text import format_best
    from sweeper.search.stages import MAP

    winner = _or_none(lambda: client.best(sweep.id), 404)
    advice = _or_none(lambda: client.recommend(sweep.id), 409) or []
    record = {
        "id": sweep.id,
        "state": sweep.state.value,
        "objective": sweep.objective,
        "trials": sweep.progress.trials,
        "counts": sweep.progress.outcomes,
        "device_seconds": sweep.cost.device_seconds,
        "proxy_only": sweep.cost.proxy is not None and set(sweep.cost.stage_seconds) <= {MAP},
        "regimes": {sweep.regime.objective: sweep.regime.model_dump(mode="json")} if sweep.regime else {},
        "best": winner,
        "recommendations": by_objective(advice),
        "warnings": list(sweep.warnings),
        "page": page_of(client, sweep),
        **(saved or {}),
    }
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sweep.progress.outcomes.items()) or "none yet"
    parts = [
        f"{pluralize(sweep.progress.trials, 'trial')} ({counts}), {number(sweep.cost.device_seconds)} s of device time"
    ]
    parts += _format_verdict(sweep)
    parts.append(format_best(record))
    if winner and (answer := winner.get("answer")):
        if saved:
            answer["next"] = follow_save(answer["next"])
        parts.insert(0, format_answer(answer))
    else:  # an earlier service gives no whole settings
        parts += [f"hyperparameters that reach the best noise for {a.objective}\n{a.text}" for a in advice]
    places = {"sweep": sweep.id, "page": record["page"]}
    lines = [f"{name + ':':<21}{place}" for name, place in places.items() if place]
    parts.append("\n".join([*lines, *format_saved(record)]))
    emit(as_json, record, "\n\n".join(parts))


def _or_none(request: Callable[[], Any], status: int) -> Any:
    """Return the answer to a request; None if the service answers with this status, since it has none yet."""
    try:
        return request()
    except ClientError as error:
        if error.status != status:
            raise
        return None


def by_objective(advice: Sequence[Advice]) -> dict[str, Any]:
    """Return advice in the form of `sweeper recommend --json`."""
    return {a.objective: a.model_dump(mode="json", exclude={"objective"}) for a in advice}


def format_estimate(estimate: Estimate) -> str:
    """Return the estimated cost of a sweep as a line."""
    trials, configurations = pluralize(estimate.trials, "trial"), pluralize(estimate.configurations, "configuration")
    text = estimate.message or f"{trials} of {configurations}"
    seconds = estimate.wall_seconds if estimate.wall_seconds is not None else estimate.device_seconds
    if seconds is None:
        return text
    return f"{text}, about {number(seconds / 60)} min" if seconds > 90 else f"{text}, about {number(seconds)} s"


def sweep_table(sweeps: Sequence[Sweep]) -> str:
    """Return sweeps as a table."""
    header = ("sweep", "name", "owner", "state", "space", "done", "best", "noise", "created")
    rows = [
        (
            s.id,
            s.name if s.name != s.id else "–",
            s.owner,
            s.state.value,
            s.space,
            f"{s.progress.done * s.progress.repeats}/{s.progress.budget * s.progress.repeats}",
            plain_text(s.best and s.best.value),
            plain_text(s.regime and s.regime.optimum),
            s.created.astimezone().strftime("%Y-%m-%d %H:%M"),
        )
        for s in sweeps
    ]
    return format_table(header, rows, indent=0)


def page_of(client: Client, sweep: Sweep) -> str:
    """Return the URL of a sweep's dashboards."""
    page = f"{client.url}{sweep.page}" if sweep.page.startswith("/") else sweep.page
    # the browser must not open a file or another scheme
    return page if page.startswith(("http://", "https://")) else f"{client.url}/"

"""Commands that read a run folder: `status`, `list`, `best`, `pair` and `dashboard`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces._entries import find_entry
from sweeper.analysis.stages.designed import mark_proxy
from sweeper.analysis.text import describe_bounds, format_posterior, format_record
from sweeper.cli.options import COUNT, INTEGER, OBJECTIVE_HELP, RUN_DIR, SERVED, SHOWN_NOISE, objectives
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Option, command
from sweeper.config.spec import SweepSpec
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import format_table, number, pluralize, show_path, wrap
from sweeper.storage.location import is_uri
from trainables.registry import UnknownName

if TYPE_CHECKING:
    from trainables.result import PairOutput
from sweeper.analysis.summary import (
    SHOWN_KNOBS,
    check_shown_noise,
    find_space,
    format_sweep,
    record_preferred,
    record_sweep,
    summarize_sweep,
)


def read_run(args: Arguments) -> tuple[SweepSpec, Any, str]:
    """Return the spec, the trials and the noise to show of a run folder."""
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import read_trials

    spec = stored_spec(args.dir)
    noise = check_shown_noise(getattr(args, "noise", None) or spec.noise)
    return spec, read_trials(args.dir), noise


def show_status(args: Arguments) -> int:
    """`sweeper status DIR`."""
    from sweeper.analysis.best import choose_winner, find_over_limits
    from sweeper.analysis.evidence.analyse import find_analysis
    from sweeper.analysis.posterior import fit_posterior
    from sweeper.analysis.recommend import BOTH
    from sweeper.analysis.regime import fit_regime
    from sweeper.analysis.scorecard.answer import find_winner_bounds
    from sweeper.analysis.scorecard.badge import summarize_verdict
    from sweeper.analysis.stages.noise_exponents import choose_exponents, format_exponents
    from sweeper.storage.run_folder import is_running

    spec, trials, noise = read_run(args)
    budget, budget_error = _count_configurations(spec)
    posterior = fit_posterior(spec, trials, noise)
    record = record_sweep(spec, trials, budget, noise, posterior)
    about = {
        "run": args.dir if is_uri(args.dir) else str(Path(args.dir).absolute()),
        "space": spec.space,
        "sampler": ", ".join(sorted({s for s in trials["sampler"].to_pylist() if s})) or spec.sampler,
        "objective": spec.objective,
        "noise": noise,
        "running": is_running(args.dir),
    }
    # the record has the regime of the sweep's objective
    regimes = {name: fit_regime(trials, name, noise).message for name in BOTH if name != spec.objective}
    regimes |= {record.regime.objective: record.regime.message} if record.regime else {}
    winner = choose_winner(trials, spec.objective, posterior, find_over_limits(trials, spec))
    bounds = find_winner_bounds(winner, find_space(spec))
    belief = {**posterior.record(), "at_bounds": list(bounds)}
    analysis, doubt = find_analysis(trials, spec.objective, noise)
    badge, preferred = summarize_verdict(analysis, doubt), record_preferred(analysis, noise)
    exponents = choose_exponents(analysis, belief, noise)
    more = [f"{name}: {message}" for name, message in regimes.items() if name != spec.objective]
    more += [preferred["sentence"]] if preferred else []
    parts = [wrap(f"{badge.word}: {badge.reason}.", 0)]
    parts += [format_record({**about, "run": show_path(args.dir)}, record, more)]
    parts += [wrap(budget_error, 0)] if budget_error else []
    parts += [format_posterior(belief, noise), format_exponents(exponents)]
    parts += [wrap(describe_bounds(bounds), 0)] if bounds else []
    printed = {**about, **record.model_dump(mode="json"), "regimes": regimes, "belief": belief}
    printed |= {"verdict": badge.word, "reason": badge.reason}
    printed |= {"preferred": preferred, "exponents": asdict(exponents)}
    printed["progress"]["budget"] = budget or None
    emit(args.json, printed, "\n".join(parts))
    return ExitCode.DONE


def _count_configurations(spec: SweepSpec) -> tuple[int, str]:
    """Return the number of configurations of a sweep; 0 and the reason if the space is unknown."""
    from sweeper.runner.proposers.search import count_configurations
    from sweeper.storage.space_data import known_space

    try:
        space = known_space(spec).space
    except SpecError as error:
        return 0, f"the number of configurations is unknown: {error}"
    return count_configurations(spec, space), ""


_LIST_DIR = Argument("dir", "[DIR]", "Run folder, or its URI; with --server id of a sweep.", required=False)
_DIRS = Argument("dirs", "[DIR]...", "Run folders, or their URIs: s3://BUCKET/PATH, gs://..., file://...; with "
                 "--server id of a sweep, or nothing for all.", nargs=-1, required=False)  # fmt: skip
_SAVE = (
    Option("--save", "FILE|DIR", "Write the best merged weights with a model card: a file of safetensors, or for a "
           "language model a folder that from_pretrained loads."),
    Option("--rank", "R", "Write a merge of adapters as an adapter of rank R, not as a whole model.", type=COUNT),
)  # fmt: skip
_OBJECTIVE = Option(
    "--objective", "NAME", f"{OBJECTIVE_HELP} (default: the sweep's). By another, too, confirmed settings win "
    "unless the model is sure of better ones.",
    names=objectives,
)  # fmt: skip
_DIGEST = Argument("digest", "DIGEST", "Digest of the trial, or the start of it.")
_DATA = Option("--data", "ROOT", "Folder with the data sets (default: the sweep's).")
_LISTENING = (
    Option("--port", "N", "Port to listen on (default: 8050, or the next free one).", type=INTEGER, default=8050),
    Option("--host", "ADDR", "Address to listen on; the default serves this machine only.", default="127.0.0.1",
           show_default=True),
)  # fmt: skip


@command(_LIST_DIR, SHOWN_NOISE, SERVED)
def list_trials(args: Arguments) -> int:
    """`sweeper list DIR`."""
    spec, trials, noise = read_run(args)
    emit_trials(args.json, trials, spec.objective, noise, list_knobs(spec))
    return ExitCode.DONE


def list_knobs(spec: SweepSpec) -> list[str]:
    """Return the knobs of a sweep that `SHOWN_KNOBS` lacks, such as `optimizer_options.eps`; none if it is unknown."""
    from sweeper.storage.space_data import known_knobs

    try:
        return [name for name in known_knobs(spec) if name not in SHOWN_KNOBS]
    except SpecError:
        return []


def emit_trials(as_json: bool, trials: Any, objective: str, noise: str, knobs: Sequence[str] = ()) -> None:
    """Print the outcome, knobs, noise and objective of each trial.

    Args:
        as_json: Whether to print JSON.
        trials: The trials table.
        objective: Objective to show.
        noise: Noise to show.
        knobs: Knobs beside `SHOWN_KNOBS`.
    """
    from sweeper.search.objectives import resolve_objective

    column = resolve_objective(objective, trials).column
    first = ["number", "repeat", "outcome", *SHOWN_KNOBS]
    first += ["proxy"] if mark_proxy(trials).any() else []
    names = [*first, *knobs, f"noise_{noise}", column, "digest"]
    stored = trials.select([*(n for n in names if n not in knobs), *(["spec"] if knobs else [])]).to_pylist()
    rows: list[dict[str, Any]] = []
    for row in stored:
        trial = json.loads(row["spec"]) if knobs else {}
        values = {**row, **{k: find_entry(trial, k) for k in knobs}}
        rows.append({name: values[name] for name in names})
    cells = [[_cell(v) for v in r.values()] for r in rows]
    emit(as_json, rows, format_table(names, cells, indent=0) if rows else "no trials yet")


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return "–" if value is None else str(value)


@command(RUN_DIR, _SAVE, _OBJECTIVE, SHOWN_NOISE, SERVED)
def best(args: Arguments) -> int:
    """`sweeper best DIR [--save FILE|DIR]`."""
    check_rank(args)
    spec, trials, noise = read_run(args)
    if args.objective is not None:
        check_objective(args.objective)
    record = summarize_sweep(args.dir, trials, noise, objective=args.objective)
    if args.save:
        from sweeper.analysis.scorecard.next_command import follow_save
        from sweeper.runner.results.winner import find_row, save_winner

        if not record["best"]:
            why = "none is viable" if record["trials"] else "none has finished"
            raise SpecError(f"--save needs a viable trial, but of {pluralize(record['trials'], 'trial')} {why} yet")
        row = find_row(trials, record["best"]["digest"])
        saved = save_winner(args.dir, spec, row, Path(args.save).expanduser(), args.rank)
        record |= {"saved": str(saved.weights), "card": str(saved.card)}
        record["answer"]["next"] = follow_save(record["answer"]["next"])
        record |= {"discarded": saved.discarded} if saved.discarded is not None else {}
    emit(args.json, record, "\n".join([format_sweep(record), *format_saved(record)]))
    return ExitCode.DONE


def check_objective(name: str) -> None:
    """Check that an objective exists.

    Raises:
        SpecError: It does not; the message names similar ones.
    """
    from sweeper.search.objectives import OBJECTIVES

    try:
        OBJECTIVES[name]
    except UnknownName as error:
        raise SpecError(str(error)) from None


def check_rank(args: Arguments) -> None:
    """Check that `--rank` comes with `--save`.

    Raises:
        SpecError: It does not.
    """
    if args.rank is not None and not args.save:
        raise SpecError("--rank is for --save, which writes the adapter; give --save DIR, or leave --rank out")


def format_saved(record: Mapping[str, Any]) -> list[str]:
    """Return the lines on what `--save` wrote."""
    lines = [f"{k + ':':<21}{show_path(record[k])}" for k in ("saved", "card") if k in record]
    if "discarded" in record:
        lines.append(f"{'discarded:':<21}{number(100 * record['discarded'])} % of the merged update's squared norm")
    return lines


@command(RUN_DIR, _DIGEST, _DATA, SERVED)
def pair(args: Arguments) -> int:
    """`sweeper pair DIR DIGEST`."""
    from sweeper.runner.results.winner import find_row, rerun

    spec, trials, _ = read_run(args)
    row = find_row(trials, args.digest)
    return emit_pair(args.json, row, rerun(args.dir, spec, row, args.data))


def emit_pair(as_json: bool, row: Mapping[str, Any], output: PairOutput) -> int:
    """Print whether the output of a rerun equals the stored row, and return the exit code."""
    from trainables.result import SCORES

    again = output.result.to_row()
    worst, where = 0.0, ""
    for name in (c.name for c in SCORES):
        old, new = row[name], again[name]
        gap = 0.0 if old is None and new is None else math.inf if old is None or new is None else abs(old - new)
        if gap > worst:
            worst, where = gap, name
    record = {
        "digest": row["digest"],
        "agrees": worst == 0.0 and row["outcome"] == again["outcome"],
        "largest_difference": worst,
        "column": where,
        "outcome": {"stored": row["outcome"], "again": again["outcome"]},
        "versions": {
            k: {"stored": row[k], "again": again[k]} for k in ("torch", "version", "commit", "device", "threads")
        },
        "scores": {c.name: {"stored": row[c.name], "again": again[c.name]} for c in SCORES},
    }
    verdict = "agrees in every digit" if record["agrees"] else f"differs by up to {worst:.3g}, in {where or 'outcome'}"
    shown = ("a_loss_test", "b_loss_test", "merged_loss_test", "chosen_loss_test", "gain_mean_loss_test")
    table = [(n, number(row[n]), number(again[n])) for n in shown]
    text = f"trial {row['digest']} {verdict}\n{format_table(('', 'stored', 'again'), table)}"
    emit(as_json, record, text)
    return ExitCode.DONE if record["agrees"] else ExitCode.ERROR


@command(_DIRS, _LISTENING, SHOWN_NOISE, SERVED)
def dashboard(args: Arguments) -> int:
    """`sweeper dashboard DIR...`, until an interrupt."""
    if args.noise:
        check_shown_noise(args.noise)
    if not 0 <= args.port <= 65535:
        raise SpecError(f"--port must lie in 0 to 65535, got {args.port}")
    try:
        from dashboards.app.serve import serve
    except ImportError as error:
        raise SpecError(f"the dashboards need {error.name}: run `pip install 'sweeper[dashboard]'`") from None
    serve(args.dirs, args.host, args.port, args.noise, lambda line: print(line, flush=True))
    print("stopped", file=sys.stderr)
    return ExitCode.DONE

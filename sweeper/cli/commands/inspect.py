"""The commands that read a run folder: each takes the parsed arguments and returns the exit code."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.text import emit, format_belief, format_front, format_table, number, plain, wrap
from sweeper.analysis.trial_warnings import Doubt, doubts, lines
from sweeper.config.spec import SpecError, SweepSpec
from sweeper.search.noise_targets import check_shown
from sweeper.storage.location import Place, is_uri, place_of
from trainables.noise import KNOBS
from trainables.registry import UnknownName

if TYPE_CHECKING:
    from trainables.result import PairOutput

DONE, ERROR = 0, 1
PAGE = "dashboard.html"
SHOWN_KNOBS = (*KNOBS, "augmentation_strength")


def _rows(args: argparse.Namespace) -> tuple[SweepSpec, Any, str]:
    """Return the spec of a run folder, its trials, and the noise to show."""
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import read_trials

    spec = stored_spec(args.dir)
    noise = shown_noise(getattr(args, "noise", None) or spec.noise)
    return spec, read_trials(args.dir), noise


def shown_noise(noise: str) -> str:
    """Return the name of a noise that can be shown.

    Raises:
        SpecError: There is no such noise, or it has no column.
    """
    try:
        check_shown(noise)
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None
    return noise


def found(folder: str | Path, trials: Any, noise: str) -> dict[str, Any]:
    """Return what a sweep found: its summary, Pareto set, recommendations, warnings and where the files are."""
    from sweeper.analysis.best import over_limits, winner
    from sweeper.analysis.posterior import belief
    from sweeper.analysis.recommend import BOTH, summary
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import weights_of

    spec = stored_spec(folder)
    place = place_of(folder)
    folder = place.local.absolute() if place.local else place.uri
    believed, lost = belief(spec, trials, noise), over_limits(trials, spec)
    record = {**summary(trials, spec.objective, noise, believed, lost), "run": str(folder)}
    record["objectives"] = list(spec.objectives)
    record["front"] = _front(spec, trials)
    weights = weights_of(record["best"]["digest"]) if record["best"] else None
    record["page"] = _file(place, PAGE) if place.has(PAGE) else None
    record["first_details"] = _first_details(trials)
    record["warnings"] = [*_warned(trials), *([believed.assumed] if believed.assumed else [])]
    record["weights"] = _file(place, weights) if weights and place.has(weights) else None
    try:
        best = winner(trials, spec.objective, believed, lost)
        record["recommendations"] = _advice(trials, noise, BOTH, {spec.objective: best})
    except SpecError:
        record["recommendations"] = {}  # no optimum yet, or a noise without a learning rate: the summary says so
    return record


def _file(place: Place, name: str) -> str:
    return str(place.local.absolute() / name) if place.local else f"{place.text}/{name}"


def _front(spec: SweepSpec, trials: Any) -> list[dict[str, Any]]:
    from sweeper.analysis.constraints import feasible
    from sweeper.pareto import pareto

    if not spec.further_objectives:
        return []
    return pareto(trials.to_pylist(), spec.objectives, lambda row: feasible(row, spec))


def found_text(record: Mapping[str, Any]) -> str:
    """Return the record of `found` for a terminal."""
    from sweeper.analysis.recommend import format_summary

    parts = [format_summary(record)]
    parts += [format_front(record["front"], record["objectives"])] if record["front"] else []
    parts += [f"first {outcome} trial: {detail}" for outcome, detail in record["first_details"].items()]
    parts += ["\n".join(wrap(f"warning: {line}", 0) for line in record["warnings"])] if record["warnings"] else []
    for name, advice in record["recommendations"].items():
        parts.append(f"hyperparameters that reach the best noise for {name}\n{advice['text']}")
    again = f"not kept; `sweeper best {shlex.quote(record['run'])} --save FILE` trains that trial again"
    trained_here = not (record["synthetic"] or record["imported"])
    weights = record["weights"] or (again if record["best"] and trained_here else None)
    places = {"results": record["run"], "page": record["page"], "best merged weights": weights}
    parts.append("\n".join(f"{name + ':':<21}{place}" for name, place in places.items() if place))
    return "\n\n".join(parts)


def _doubts(trials: Any) -> list[Doubt]:
    return doubts(trials["warnings"].to_pylist())


def _warned(trials: Any) -> list[str]:
    return lines(_doubts(trials), trials.num_rows)


def _first_details(trials: Any) -> dict[str, str]:
    first: dict[str, str] = {}
    for row in trials.select(["outcome", "outcome_detail"]).to_pylist():
        if row["outcome"] != "ok":
            first.setdefault(row["outcome"], row["outcome_detail"])
    return first


def _advice(
    trials: Any, noise: str, objectives: Iterable[str], best: Mapping[str, Any], **wanted: Any
) -> dict[str, Any]:
    """Return recommendations and their text by objective; one without an optimum is left out.

    Args:
        trials: The trials table.
        noise: Name of the noise.
        objectives: What to advise on.
        best: Objective -> row of the trial whose settings are kept; the best by observed mean for others.
        wanted: Settings to keep instead.

    Raises:
        SpecError: None of them has an answer; the message is the first one's reason.
    """
    from sweeper.analysis.recommend import format_recommendations, recommend
    from sweeper.analysis.regime import fit_regime

    found: dict[str, Any] = {}
    errors: list[str] = []
    for objective in objectives:
        try:
            regime = fit_regime(trials, objective, noise)
            advice = recommend(trials, regime, best=best.get(objective), **wanted)
        except (ValueError, UnknownName) as error:
            errors.append(str(error))
            continue
        text = format_recommendations(advice)
        found[objective] = {"message": regime.message, "recommendations": [asdict(a) for a in advice], "text": text}
    if not found and errors:
        raise SpecError(errors[0])
    return found


def write_page(folder: str | Path, noise: str | None = None) -> Path | str:
    """Write the page of a run folder and return where it is."""
    from dashboards.page import page

    return page.write_page(folder, noise=noise)


def status(args: argparse.Namespace) -> int:
    """`sweeper status DIR`."""
    from sweeper.analysis.best import over_limits, winner
    from sweeper.analysis.posterior import belief
    from sweeper.analysis.recommend import BOTH
    from sweeper.analysis.regime import fit_regime
    from sweeper.storage.run_folder import is_running

    spec, trials, noise = _rows(args)
    budget, lacking = _budget(spec)
    light = trials.select(["number", "outcome"]).to_pylist()
    finished: dict[int, int] = {}
    for row in light:
        if row["outcome"] != "failed" and row["number"] is not None:
            finished[row["number"]] = finished.get(row["number"], 0) + 1
    done = sum(n >= spec.repeats for n in finished.values())
    believed = belief(spec, trials, noise)
    best = winner(trials, spec.objective, believed, over_limits(trials, spec)) or {}
    record = {
        "run": args.dir if is_uri(args.dir) else str(Path(args.dir).absolute()),
        "space": spec.space,
        "sampler": ", ".join(sorted({s for s in trials["sampler"].to_pylist() if s})) or spec.sampler,
        "objective": spec.objective,
        "running": is_running(args.dir),
        "budget": budget,
        "done": done,
        "trials": len(light),
        "failed": sum(r["outcome"] == "failed" for r in light),
        "best": best.get("config_mean"),
        "best_posterior_mean": best.get("posterior_mean"),
        "best_posterior_sd": best.get("posterior_sd"),
        "best_digest": best.get("digest"),
        "device_seconds": sum(s for s in trials["device_seconds"].to_pylist() if s is not None),
        "noise": noise,
    }
    shown = "\n".join(f"{k.replace('_', ' '):<21}{plain(v)}" for k, v in record.items())
    record["regimes"] = {name: fit_regime(trials, name, noise).message for name in BOTH}
    record["warnings"] = [asdict(d) for d in _doubts(trials)]
    record["belief"] = believed.record()
    parts = [shown, *(f"{name}: {message}" for name, message in record["regimes"].items())]
    parts += [*_warned(trials), *([wrap(lacking, 0)] if lacking else [])]
    emit(args.json, record, "\n".join((*parts, format_belief(record["belief"], noise))))
    return DONE


def _budget(spec: SweepSpec) -> tuple[int | None, str]:
    """Return the configurations of a sweep; None with the reason where its folder does not tell."""
    from sweeper.runner.proposer import budget_of
    from sweeper.storage.space_data import known_space

    try:
        known = known_space(spec)
    except SpecError as error:
        return None, f"the number of configurations is not known: {error}"
    return budget_of(spec, known.space), ""


def list_trials(args: argparse.Namespace) -> int:
    """`sweeper list DIR`."""
    spec, trials, noise = _rows(args)
    emit_trials(args.json, trials, spec.objective, noise)
    return DONE


def emit_trials(as_json: bool, trials: Any, objective: str, noise: str) -> None:
    """Print the trials of a sweep: outcome, knobs, noise and objective of each."""
    from sweeper.search.objectives import measured

    column = measured(objective, trials).column
    names = ["number", "repeat", "outcome", *SHOWN_KNOBS, f"noise_{noise}", column, "digest"]
    rows = trials.select(names).to_pylist()
    cells = [[v if isinstance(v, str) else "–" if v is None else number(v) for v in r.values()] for r in rows]
    emit(as_json, rows, format_table(names, cells, indent=0) if rows else "no trials yet")


def best(args: argparse.Namespace) -> int:
    """`sweeper best DIR [--save FILE]`."""
    spec, trials, noise = _rows(args)
    record = found(args.dir, trials, noise)
    if args.save:
        if not record["best"]:
            raise SpecError("no viable trial yet: there is nothing to save")
        record["saved"] = _save(args.dir, spec, trials, record["best"]["digest"], Path(args.save))
    text = found_text(record)
    emit(args.json, record, text + (f"\nsaved:               {record['saved']}" if args.save else ""))
    return DONE


def _save(folder: str, spec: SweepSpec, trials: Any, digest: str, target: Path) -> str:
    from sweeper.storage.tables import weights_of, write_weights

    if target.is_dir():
        raise SpecError(f"{target} is a folder; --save needs a file name")
    try:
        if not place_of(folder).fetch(weights_of(digest), target):
            output = rerun(folder, spec, row_of(trials, digest))
            if output.weights is None:
                raise SpecError(f"trial {digest} has no weights to save: it is synthetic or its outcome is not ok")
            write_weights(target, output.weights, output.result)
    except OSError as error:
        raise SpecError(f"cannot write {target}: {error.strerror or error}") from None
    return str(target.absolute())


def recommend(args: argparse.Namespace) -> int:
    """`sweeper recommend DIR`."""
    spec, trials, noise = _rows(args)
    wanted = {k: getattr(args, k) for k in ("momentum", "weight_decay", "learning_rate")}
    objectives = [args.objective] if args.objective else []
    found = advised(spec, trials, objectives, noise, batch_sizes=args.batch_size, **wanted)
    emit(args.json, found, "\n\n".join(f"{name}: {a['message']}\n{a['text']}" for name, a in found.items()))
    return DONE


def advised(
    spec: SweepSpec, trials: Any, objectives: Sequence[str] = (), noise: str | None = None, **wanted: Any
) -> dict[str, Any]:
    """Return recommendations and their text by objective; one without an optimum is left out.

    Args:
        spec: The sweep.
        trials: Its trials.
        objectives: What to advise on; by default gain and merged loss.
        noise: Noise to reach; the sweep's by default.
        wanted: Settings to keep instead of the winner's; see `sweeper.analysis.recommend.recommend`.

    Raises:
        SpecError: None of them has an answer; the message is the first one's reason.
    """
    from sweeper.analysis.best import over_limits, winner
    from sweeper.analysis.posterior import belief
    from sweeper.analysis.recommend import BOTH

    best = {spec.objective: winner(trials, spec.objective, belief(spec, trials), over_limits(trials, spec))}
    return _advice(trials, noise or spec.noise, objectives or BOTH, best, **wanted)


def row_of(trials: Any, digest: str) -> dict[str, Any]:
    """Return the row of the trial whose digest begins with this.

    Raises:
        SpecError: None does, or several do.
    """
    found = [i for i, d in enumerate(trials["digest"].to_pylist()) if d.startswith(digest)]
    if len(found) != 1:
        raise SpecError(f"{len(found)} trials have a digest that begins with {digest!r}; `sweeper list` shows them")
    return trials.slice(found[0], 1).to_pylist()[0]


def rerun(folder: str | Path, spec: SweepSpec, row: Mapping[str, Any], data: str | None = None) -> PairOutput:
    """Return the output of a trial that is run again here.

    Args:
        folder: Run folder, whose shared base weights are used.
        spec: The sweep.
        row: The trial's row.
        data: Folder with the data sets; None takes the sweep's.

    Raises:
        SpecError: The trial cannot be run here.
    """
    from sweeper.storage.checkpoints import on_node
    from trainables.spec import PairSpec
    from trainables.trial import run_trials

    pair_spec = PairSpec.from_json(row["spec"])
    place = place_of(folder)
    runtime = on_node(spec.runtime(place.local and place.local / "bases", row["device"]), place)
    runtime = replace(runtime, threads=row["threads"], landscape=False, plane=0, checkpoints=None)
    if data:
        runtime = replace(runtime, data_root=data)
    try:
        return run_trials([pair_spec], runtime)[0]
    except (ValueError, UnknownName, RuntimeError) as error:
        raise SpecError(f"trial {row['digest']} cannot be rerun here: {error}") from None


def pair(args: argparse.Namespace) -> int:
    """`sweeper pair DIR DIGEST`."""
    spec, trials, _ = _rows(args)
    row = row_of(trials, args.digest)
    return emit_pair(args.json, row, rerun(args.dir, spec, row, args.data))


def emit_pair(as_json: bool, row: Mapping[str, Any], output: PairOutput) -> int:
    """Print whether a trial that was run again has the numbers of its row; returns the exit code."""
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
    return DONE if record["agrees"] else ERROR


def dashboard(args: argparse.Namespace) -> int:
    """`sweeper dashboard DIR...`; it serves until it is interrupted."""
    if args.noise:
        shown_noise(args.noise)
    if not 0 <= args.port <= 65535:
        raise SpecError(f"--port must lie in 0 to 65535, got {args.port}")
    try:
        from dashboards.app.serve import serve
    except ImportError as error:
        raise SpecError(
            f"the dashboards need {error.name}: pip install -e '.[dashboard]' in sweeper's checkout"
        ) from None
    serve(args.dirs, args.host, args.port, args.noise, lambda line: print(line, flush=True))
    print("stopped", file=sys.stderr)
    return DONE

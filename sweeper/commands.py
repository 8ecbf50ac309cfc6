"""The commands of the command line: each takes the parsed arguments and returns the exit code."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.noise import KNOBS
from trainables.registry import UnknownName

from .listings import merges, noises, spaces
from .report import emit, format_table, number
from .spec import SpecError, SweepSpec, load_spec
from .specfile import assignments

if TYPE_CHECKING:
    from trainables.result import PairOutput

DONE, ERROR, NO_SUCCESS, INTERRUPTED = 0, 1, 3, 130
SHOWN_KNOBS = (*KNOBS, "augmentation_strength")
_RUN_KEYS = (
    "trials", "sampler", "objective", "noise", "repeats", "seed", "stack", "threads", "device", "out", "smoke",
    "measure", "landscape", "plane", "deterministic",
)  # fmt: skip
_MACHINE_KEYS = (
    "workers", "runner", "address", "max_seconds", "data", "download", "cache", "resident_share", "loader_workers",
)  # fmt: skip


def _flags(args: argparse.Namespace, keys: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k in keys if (v := getattr(args, k)) is not None}


def _rows(run: str) -> tuple[SweepSpec, Any]:
    from .runfolder import stored_spec
    from .store import read_trials

    return stored_spec(run), read_trials(run)


# -- running ----------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """`sweeper run SPACE|spec.yaml`."""
    flags = _flags(args, _RUN_KEYS + _MACHINE_KEYS)
    if args.set:
        flags["fixed"] = assignments(args.set)
    return _sweep(args, load_spec(args.target, flags), args.yes)


def resume(args: argparse.Namespace) -> int:
    """`sweeper resume DIR`."""
    from .runfolder import stored_spec

    flags = _flags(args, ("trials", *_MACHINE_KEYS))
    spec = SweepSpec.checked({**stored_spec(args.dir).model_dump(exclude_unset=True), **flags})
    return _sweep(args, spec, True)


def _sweep(args: argparse.Namespace, spec: SweepSpec, yes: bool) -> int:
    from . import launch
    from .progress import Progress

    def confirm(folder: Path, left: int) -> bool:
        if yes or not sys.stdin.isatty():
            return yes
        print(
            f"{folder} holds a part of this sweep; run the {left} configurations left? [y/N] ", end="", file=sys.stderr
        )
        return input().strip().lower() in ("y", "yes")

    with Progress(spec.objective) as progress:
        results = launch.run(spec, progress, confirm)
    rows = results.trials.num_rows
    if results.interrupted:
        print(
            f"interrupted: {rows} trials are in {results.run}; `sweeper resume {results.run}` continues",
            file=sys.stderr,
        )
        return INTERRUPTED
    if results.reason:
        print(f"stopped early: {results.reason}; `sweeper resume {results.run}` continues", file=sys.stderr)
    _write_page(results.run)
    record = _found(results.run, results.trials, spec)
    emit(args.json, record, _found_text(record))
    successful = any(o == "ok" for o in results.trials["outcome"].to_pylist())
    return DONE if successful and results.failed < spec.max_failed else NO_SUCCESS


def _found(folder: str | Path, trials: Any, spec: SweepSpec) -> dict[str, Any]:
    from .recommend import BOTH, summary

    folder = Path(folder).absolute()
    record = {**summary(trials, spec.objective, spec.noise), "run": str(folder)}
    page = folder / "dashboard.html"
    weights = folder / "weights" / f"{record['best']['digest']}.safetensors" if record["best"] else None
    record["page"] = str(page) if page.exists() else None
    record["first_details"] = _first_details(trials)
    record["weights"] = str(weights) if weights and weights.exists() else None
    try:
        record["recommendations"] = _advice(trials, spec.noise, BOTH)
    except SpecError:
        record["recommendations"] = {}  # no optimum yet, or a noise without a learning rate: the summary says so
    return record


def _found_text(record: Mapping[str, Any]) -> str:
    from .recommend import format_summary

    parts = [format_summary(record)]
    parts += [f"first {outcome} trial: {detail}" for outcome, detail in record["first_details"].items()]
    for name, advice in record["recommendations"].items():
        parts.append(f"hyperparameters that reach the best noise for {name}\n{advice['text']}")
    places = {"results": record["run"], "page": record["page"], "best merged weights": record["weights"]}
    parts.append("\n".join(f"{name + ':':<21}{place}" for name, place in places.items() if place))
    return "\n\n".join(parts)


def _first_details(trials: Any) -> dict[str, str]:
    first: dict[str, str] = {}
    for row in trials.select(["outcome", "outcome_detail"]).to_pylist():
        if row["outcome"] != "ok":
            first.setdefault(row["outcome"], row["outcome_detail"])
    return first


def _advice(trials: Any, noise: str, objectives: Iterable[str], **wanted: Any) -> dict[str, Any]:
    """Return recommendations and their text by objective; one without an optimum is left out.

    Raises:
        SpecError: None of them has an answer; the message is the first one's reason.
    """
    from .recommend import format_recommendations, recommend
    from .regime import fit_regime

    found: dict[str, Any] = {}
    errors: list[str] = []
    for objective in objectives:
        try:
            regime = fit_regime(trials, objective, noise)
            advice = recommend(trials, regime, **wanted)
        except (ValueError, UnknownName) as error:
            errors.append(str(error))
            continue
        text = format_recommendations(advice)
        found[objective] = {"message": regime.message, "recommendations": [asdict(a) for a in advice], "text": text}
    if not found and errors:
        raise SpecError(errors[0])
    return found


def _write_page(folder: Path) -> Path:
    from dashboards.page import write_page

    return write_page(folder)


# -- reading ----------------------------------------------------------------------------------------------------------


def status(args: argparse.Namespace) -> int:
    """`sweeper status DIR`."""
    from .recommend import best_trials
    from .runfolder import is_running
    from .samplers import budget

    spec, trials = _rows(args.dir)
    light = trials.select(["number", "outcome"]).to_pylist()
    finished: dict[int, int] = {}
    for row in light:
        if row["outcome"] != "failed" and row["number"] is not None:
            finished[row["number"]] = finished.get(row["number"], 0) + 1
    done = sum(n >= spec.repeats for n in finished.values())
    best = best_trials(trials, spec.objective)
    record = {
        "run": str(Path(args.dir).absolute()),
        "space": spec.space,
        "sampler": spec.sampler,
        "objective": spec.objective,
        "running": is_running(Path(args.dir)),
        "budget": budget(spec.sampler, spec.load_space().knobs, spec.trials),
        "done": done,
        "trials": len(light),
        "failed": sum(r["outcome"] == "failed" for r in light),
        "best": best[0]["config_mean"] if best else None,
        "best_digest": best[0]["digest"] if best else None,
        "device_seconds": sum(trials["device_seconds"].to_pylist()),
    }
    emit(args.json, record, "\n".join(f"{k.replace('_', ' '):<16}{'–' if v is None else v}" for k, v in record.items()))
    return DONE


def list_trials(args: argparse.Namespace) -> int:
    """`sweeper list DIR`."""
    from .objective import OBJECTIVES

    spec, trials = _rows(args.dir)
    column = OBJECTIVES[spec.objective].column
    names = ["number", "repeat", "outcome", *SHOWN_KNOBS, f"noise_{spec.noise}", column, "digest"]
    rows = trials.select(names).to_pylist()
    cells = [[v if isinstance(v, str) else "–" if v is None else number(v) for v in r.values()] for r in rows]
    emit(args.json, rows, format_table(names, cells, indent=0) if rows else "no trials yet")
    return DONE


def best(args: argparse.Namespace) -> int:
    """`sweeper best DIR [--save FILE]`."""
    spec, trials = _rows(args.dir)
    record = _found(args.dir, trials, spec)
    if args.save:
        if not record["best"]:
            raise SpecError("no viable trial yet: there is nothing to save")
        record["saved"] = _save(Path(args.dir), spec, trials, record["best"]["digest"], Path(args.save))
    text = _found_text(record)
    emit(args.json, record, text + (f"\nsaved:               {record['saved']}" if args.save else ""))
    return DONE


def _save(folder: Path, spec: SweepSpec, trials: Any, digest: str, target: Path) -> str:
    import shutil

    from .store import write_weights

    if target.is_dir():
        raise SpecError(f"{target} is a folder; --save needs a file name")
    kept = folder / "weights" / f"{digest}.safetensors"
    try:
        if kept.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.tmp")
            shutil.copyfile(kept, temporary)
            temporary.replace(target)
        else:
            output = _rerun(folder, spec, _row(trials, digest))
            if output.weights is None:
                raise SpecError(f"trial {digest} has no weights to save: it is synthetic or its outcome is not ok")
            write_weights(target, output.weights, output.result)
    except OSError as error:
        raise SpecError(f"cannot write {target}: {error.strerror or error}") from None
    return str(target.absolute())


def recommend(args: argparse.Namespace) -> int:
    """`sweeper recommend DIR`."""
    from .recommend import BOTH

    spec, trials = _rows(args.dir)
    found = _advice(
        trials,
        spec.noise,
        [args.objective] if args.objective else BOTH,
        batch_sizes=args.batch_size,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        learning_rate=args.learning_rate,
    )
    emit(args.json, found, "\n\n".join(f"{name}: {a['message']}\n{a['text']}" for name, a in found.items()))
    return DONE


def _row(trials: Any, digest: str) -> dict[str, Any]:
    found = [i for i, d in enumerate(trials["digest"].to_pylist()) if d.startswith(digest)]
    if len(found) != 1:
        raise SpecError(f"{len(found)} trials have a digest that begins with {digest!r}; `sweeper list` shows them")
    return trials.slice(found[0], 1).to_pylist()[0]


def _rerun(folder: Path, spec: SweepSpec, row: Mapping[str, Any], data: str | None = None) -> PairOutput:
    from trainables.spec import PairSpec
    from trainables.trial import run_trials

    pair_spec = PairSpec.from_json(row["spec"])
    runtime = replace(spec.runtime(folder / "bases", row["device"]), threads=row["threads"], landscape=False, plane=0)
    if data:
        runtime = replace(runtime, data_root=data)
    try:
        return run_trials([pair_spec], runtime)[0]
    except (ValueError, UnknownName, RuntimeError) as error:
        raise SpecError(f"trial {row['digest']} cannot be rerun here: {error}") from None


def pair(args: argparse.Namespace) -> int:
    """`sweeper pair DIR DIGEST`."""
    from trainables.result import SCORES

    spec, trials = _rows(args.dir)
    row = _row(trials, args.digest)
    output = _rerun(Path(args.dir), spec, row, args.data)
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
    emit(args.json, record, text)
    return DONE if record["agrees"] else ERROR


def export(args: argparse.Namespace) -> int:
    """`sweeper export DIR --format csv|parquet`."""
    import pyarrow.csv
    import pyarrow.parquet

    from .runfolder import stored_spec
    from .store import read, read_trials

    stored_spec(args.dir)
    table = read_trials(args.dir) if args.table == "trials" else read(args.dir, args.table)
    target = Path(args.out) if args.out else Path(args.dir) / f"{args.table}.{args.format}"
    try:
        if args.format == "csv":
            pyarrow.csv.write_csv(table, target)
        else:
            pyarrow.parquet.write_table(table, target)
    except OSError as error:
        raise SpecError(f"cannot write {target}: {error.strerror or error}") from None
    emit(args.json, {"file": str(target.absolute()), "rows": table.num_rows}, f"{table.num_rows} rows in {target}")
    return DONE


def dashboard(args: argparse.Namespace) -> int:
    """`sweeper dashboard DIR`."""
    from .runfolder import stored_spec

    stored_spec(args.dir)
    page = _write_page(Path(args.dir).absolute())
    emit(args.json, {"page": str(page)}, str(page))
    return DONE


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "resume": resume,
    "status": status,
    "list": list_trials,
    "best": best,
    "recommend": recommend,
    "pair": pair,
    "export": export,
    "dashboard": dashboard,
    "spaces": spaces,
    "noises": noises,
    "merges": merges,
}

"""`sweeper merge`: score and merge the user's checkpoints like the children of a trial."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from sweeper.cli.model_folders import are_model_folders, check_scored_folders, find_weights, merge_folders
from sweeper.cli.options import COMMON, COUNT, FLOAT, MERGE_FLAGS, SET, spaces, sweep_options
from sweeper.cli.output import emit
from sweeper.cli.parsing import Arguments, Option, command
from sweeper.config.plain_text import check_plain_values
from sweeper.config.space import corner_params, load_space
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_source import parse_assignments
from sweeper.errors import SpecError, StorageError
from sweeper.formatting import describe_per_token, format_table, merge_words, number, show_path, wrap
from sweeper.storage.location import is_uri
from trainables.registry import UnknownName, unknown
from trainables.result import TASKS
from trainables.spec import PairSpec
from trainables.trial import TRAINABLES

if TYPE_CHECKING:
    from trainables.result import MergeRow, PairOutput

_SPLITS = ("train", "val", "test")
# only the re-estimation of BatchNorm uses batches
_BATCH = 64


def _merge_names() -> Iterable[str]:
    from trainables.merging.methods import MERGES

    return MERGES


_OPTIONS = (
    Option("--models", "FILE|DIR", "Two or more checkpoints (safetensors or torch), Hugging Face model folders or LoRA "
           "adapters, of one architecture.", several=True, required=True),
    Option("--base", "FILE|DIR", "Checkpoint or folder before fine-tuning; task vectors and adapters need it."),
    Option("--space", "NAME", "Space with the model and the data set.", names=spaces),
    Option("--model", "NAME", "Name of the model, instead of --space."),
    Option("--data-set", "NAME", "Name of the data set (default: the images in the folder ROOT)."),
    Option("--merges", "NAME", "Merges (default: all possible ones but weight matching).", several=True,
           names=_merge_names),
    Option("--coefficient", "X", "Coefficient of the merge of model folders without data.", type=FLOAT),
    Option("--rank", "R", "Write a merge of adapters as an adapter of rank R, not as a whole model.", type=COUNT),
    Option("--out", "DIR", "Folder for tables and page (default: a new folder under runs/)."),
    Option("--save", "FILE|DIR", "Write the merge with the best validation loss as safetensors; without data, the "
           "merged model folder."),
)  # fmt: skip


@command(_OPTIONS, SET, sweep_options(only=MERGE_FLAGS), COMMON)
def merge(args: Arguments) -> int:
    """`sweeper merge --models A B ...`."""
    for flag, names in (("--models", args.models), ("--base", [args.base] if args.base else [])):
        _check_exist(flag, names)
    if not (args.space or args.model) and are_model_folders(args):
        return merge_folders(args)
    if given := [name for name in ("coefficient", "rank") if getattr(args, name) is not None]:
        raise SpecError(f"--{given[0]} is for model folders without data; with data, every coefficient is scored")
    settings = _read_settings(args)
    spec = _make_spec(args, settings)
    out = _choose_folder(args.out)
    score = getattr(import_module(TRAINABLES[spec.trainable]), "merge_checkpoints", None)
    if score is None:
        raise SpecError(f"space {args.space!r} trains no models, so it has none to merge")
    models = [find_weights(Path(m).expanduser()) for m in args.models]
    base = find_weights(Path(args.base).expanduser()) if args.base else None
    check_scored_folders(args)
    try:
        output: PairOutput = score(spec, settings.runtime(None), models, base)
    except (ValueError, UnknownName, OSError) as error:
        raise SpecError(" ".join(str(error).split())) from None
    if not _knows_training(args):
        output = replace(output, result=replace(output.result, noises={}))
    record = _write_results(args, spec, output, out)
    emit(args.json, record, _format_record(record))
    return 0


def read_fields(args: Arguments) -> dict[str, Any]:
    """Return the fields of the trial that `--set` fixes."""
    return parse_assignments(args.set or ())


def _knows_training(args: Arguments) -> bool:
    # without a learning rate, the training of the models is unknown
    return "learning_rate" in read_fields(args)


def _read_settings(args: Arguments) -> SweepSpec:
    if len(args.models) < 2:
        raise SpecError(f"--models must be at least two files, got {args.models[0]}")
    if bool(args.space) == bool(args.model):
        raise SpecError("give either --space, or --model with --data-set (or --data with a folder of images)")
    flags = {k: v for k in MERGE_FLAGS if (v := getattr(args, k)) is not None}
    given = {"space": args.space or "own models", "fixed": read_fields(args), **flags}
    check_plain_values({**given, "model": args.model, "data_set": args.data_set})
    return SweepSpec.checked(given)


def _make_spec(args: Arguments, settings: SweepSpec) -> PairSpec:
    """Return a spec with the model, the data and the merges of the checkpoints."""
    fields = {
        "protocol": "finetune",
        "branch_step": 0,
        "members": len(args.models),
        "base": {"steps": 0},
        "weights": "",
    }
    fields["merges"] = _choose_merges(args.merges, args.base, len(args.models))
    try:
        if args.space:
            space = load_space(settings)
            spec = space.build(next(corner_params(space)), **{**fields, "batch_size": _BATCH})
            return _fit_merges(spec, bool(args.merges))
        given = read_fields(args)
        data = {"dataset": args.data_set} if args.data_set else {}
        if not (args.data_set or "datasets" in given):
            data = _image_folder(args.data)
        rates = {"learning_rate": 1.0, "batch_size": _BATCH}
        spec = PairSpec.from_mapping({"model": args.model, **data, **rates, **fields, **given})
        return _fit_merges(spec, bool(args.merges))
    except (ValueError, KeyError) as error:
        raise SpecError(str(error)) from None


def _fit_merges(spec: PairSpec, chosen: bool) -> PairSpec:
    """Return the spec without the merges of two models, where there are more tasks and the user chose no merges."""
    from trainables.merging.methods import MERGES

    if chosen or len(spec.tasks) <= 2:
        return spec
    return replace(spec, merges=tuple(m for m in spec.merges if m not in MERGES or MERGES[m].arity != "pair"))


def _image_folder(data: str | None) -> dict[str, Any]:
    if not data:
        raise SpecError("--model needs --data-set NAME, or --data with a folder of images")
    return {"dataset": "image_folder", "dataset_options": {"path": str(Path(data).expanduser().absolute())}}


def _choose_merges(requested: Sequence[str] | None, base: str | None, models: int) -> list[str]:
    from trainables.merging.methods import BY_SCORE, GREEDY, MERGES, TASKWISE

    possible = [n for n, m in MERGES.items() if (base or not m.uses_base) and "moments" not in m.needs]
    possible += [TASKWISE] if base else []
    possible += [GREEDY] if models > 2 else []
    for name in requested or ():
        if name not in (*MERGES, *BY_SCORE):
            raise SpecError(str(unknown("merge", name, [*MERGES, *BY_SCORE])))
        if name != GREEDY and name not in possible:
            of_training = name in MERGES and "moments" in MERGES[name].needs
            needed = "the optimizer of the training" if of_training else "the base θ₀: give --base FILE"
            raise SpecError(f"merge {name!r} needs {needed}, or choose from {', '.join(possible)}")
    # few models have units that can be reordered, and models of one base need none of it
    usual = [n for n in possible if n not in MERGES or not MERGES[n].moves_units]
    # rows of trials have the linear merge of the first two models
    return list(dict.fromkeys(["linear", *(requested or usual)]))


def _check_exist(flag: str, names: Sequence[str]) -> None:
    if missing := [n for n in names if not Path(n).expanduser().exists()]:
        raise SpecError(f"{flag}: there is no file or folder {missing[0]}; give the path of a model on this machine")


def _choose_folder(out_option: str | None) -> Path:
    if out_option and is_uri(out_option):
        raise SpecError(f"--out must be a local or mounted folder, got {out_option}")
    out = Path(out_option or Path("runs") / f"merge-{time.strftime('%Y%m%d-%H%M%S')}").expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{show_path(out)} is not an empty folder; choose another --out")
    return out


def _write_results(args: Arguments, spec: PairSpec, output: PairOutput, out: Path) -> dict[str, Any]:
    from dashboards.page.page import write_page
    from sweeper.storage.tables import write, write_weights

    saved = Path(args.save).expanduser().absolute() if args.save else None
    try:
        write(out, output)
        if saved and output.weights is not None:
            write_weights(saved, output.weights, output.result)
        heading = {"space": f"{len(args.models)} models on {output.result.dataset}", "objective": "merged_loss"}
        page = write_page(out, settings={**heading, "own_models": not _knows_training(args)})
    except StorageError as error:
        raise SpecError(str(error)) from None
    result = output.result
    best = _find_best_rows(output.merges)
    weights = out / "weights" / f"{result.digest}.safetensors"
    return {
        "models": [str(m) for m in args.models],
        "base": args.base,
        "model": spec.model,
        "data_set": result.dataset,
        "outcome": result.outcome,
        "outcome_detail": result.outcome_detail,
        "chosen": {"merge": result.chosen_merge, "coefficient": result.chosen_coefficient},
        "scores": dict(result.scores),
        "bytes_per_token": result.bytes_per_token,
        "merges": [_describe_row(row) for row in best.values()],
        "not_finite": list(dict.fromkeys(row.method for row in output.merges if row.method not in best)),
        "run": str(out),
        "page": str(page),
        "weights": str(weights) if weights.exists() else None,
        "saved": str(saved) if saved and output.weights is not None else None,
    }


def _find_best_rows(rows: Iterable[MergeRow]) -> dict[str, MergeRow]:
    """Return each merge's row with the lowest validation loss."""
    best: dict[str, MergeRow] = {}
    for row in rows:
        if row.loss_val is not None and (row.method not in best or row.loss_val < (best[row.method].loss_val or 0.0)):
            best[row.method] = row
    return best


def _describe_row(row: MergeRow) -> dict[str, Any]:
    names = [f"{what}_{split}" for split in _SPLITS for what in ("loss", "accuracy")]
    return {"merge": row.method, "coefficient": row.coefficient, **{n: getattr(row, n) for n in names}}


def _format_record(record: Mapping[str, Any]) -> str:
    scores = record["scores"]
    header = ("", *(f"{split} {what}" for split in _SPLITS for what in ("loss", "acc.")))
    parents = [(f"model {who.upper()}", _format_scores(scores, f"{who}_")) for who in _list_scored(scores)]
    merges = [(_name_merge(m["merge"], m["coefficient"]), _format_scores(m, "")) for m in record["merges"]]
    merges += [(f"{method.replace('_', ' ')}: not finite", _format_scores({}, "")) for method in record["not_finite"]]
    rows = [(name, *cells) for name, cells in (*parents, *merges, ("ensemble", _format_scores(scores, "ensemble_")))]
    chosen = merge_words(record["chosen"]["merge"], record["chosen"]["coefficient"])
    lines = [
        *([wrap(f"{record['outcome']}: {record['outcome_detail']}", 0)] if record["outcome"] != "ok" else []),
        f"{len(record['models'])} models {record['model']} on {record['data_set']}; losses in nat",
        *(f"model {who}: {path}" for who, path in zip(ascii_uppercase, record["models"], strict=False)),
        format_table(header, rows, indent=0),
        wrap(f"coefficients and the chosen merge have the lowest validation loss; chosen: {chosen}", 0),
        *(f"{name:<44}{number(scores[c])}{unit}" for name, c, unit in _FACTS if scores.get(c) is not None),
        *_describe_text(record),
        *(f"{k + ':':<9}{show_path(record[k])}" for k in ("run", "page", "weights", "saved") if record[k]),
    ]
    return "\n".join(lines)


def _describe_text(record: Mapping[str, Any]) -> list[str]:
    named = {"linear ½": "merged_loss_test", "chosen merge": "chosen_loss_test"}
    words = {n: describe_per_token(record["scores"].get(c), record["bytes_per_token"]) for n, c in named.items()}
    return [f"{f'{name}, per token, test':<44}{text}" for name, text in words.items() if text]


def _list_scored(scores: Mapping[str, Any]) -> list[str]:
    """Return the letters of the models with scores of their own: the first two, or one per task."""
    return [who for who in TASKS if who in "ab" or scores.get(f"{who}_loss_test") is not None]


_FACTS = (
    ("linear, gain over the mean parent, test", "gain_mean_loss_test", " nat"),
    ("linear, gain over the better parent, test", "gain_best_loss_test", " nat"),
    ("linear path, barrier (Frankle), test", "barrier_frankle_loss_test", " nat"),
    ("linear path, barrier (Entezari), test", "barrier_entezari_loss_test", " nat"),
    ("barrier between two tasks, mean, test", "barrier_tasks_mean_loss_test", " nat"),
    ("chosen merge, normalised accuracy, test", "chosen_normalised_accuracy_test", ""),
    ("chosen merge, the same on the worst task", "chosen_normalised_accuracy_worst_test", ""),
)


def _name_merge(method: str, coefficient: float) -> str:
    words = merge_words(method, coefficient)
    return f"{method.replace('_', ' ')} at {number(coefficient)}" if words.endswith("(no merge)") else words


def _format_scores(scores: Mapping[str, Any], prefix: str) -> list[str]:
    cells: list[str] = []
    for split in _SPLITS:
        accuracy = scores.get(f"{prefix}accuracy_{split}")
        cells += [number(scores.get(f"{prefix}loss_{split}")), "-" if accuracy is None else f"{100 * accuracy:.2f} %"]
    return cells

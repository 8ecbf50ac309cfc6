"""`sweeper merge`: a user's own checkpoints, scored and merged like the children of a trial."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from sweeper.cli.options import COMMON, MERGE_FLAGS, SET, spaces, sweep_options
from sweeper.cli.output import emit
from sweeper.cli.parsing import Arguments, Option, command
from sweeper.config.plain_text import check_plain_values
from sweeper.config.space import corner_params
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_source import parse_assignments
from sweeper.errors import SpecError, StorageError
from sweeper.formatting import format_table, merge_words, number, wrap
from sweeper.storage.location import is_uri
from trainables.registry import UnknownName, unknown
from trainables.spec import PairSpec
from trainables.trial import TRAINABLES

if TYPE_CHECKING:
    from trainables.result import MergeRow, PairOutput

_SPLITS = ("train", "val", "test")
# only BatchNorm's re-estimation goes by batches here
_BATCH = 64


def _merge_names() -> Iterable[str]:
    from trainables.merging.methods import MERGES

    return MERGES


_OPTIONS = (
    Option("--models", "FILE", "Two or more checkpoints (safetensors or torch) of one architecture.", several=True,
           required=True),
    Option("--base", "FILE", "Checkpoint that the models were fine-tuned from; task vectors need it."),
    Option("--space", "NAME", "Space that names model and data set.", names=spaces),
    Option("--model", "NAME", "Name of the model, instead of --space."),
    Option("--data-set", "NAME", "Name of the data set (default: the images in the folder ROOT)."),
    Option("--merges", "NAME", "Merges (default: all possible ones).", several=True, names=_merge_names),
    Option("--out", "DIR", "Folder for tables and page (default: a new one under runs/)."),
    Option("--save", "FILE", "Write the merge chosen on validation as safetensors."),
)  # fmt: skip


@command(_OPTIONS, SET, sweep_options(only=MERGE_FLAGS), COMMON)
def merge(args: Arguments) -> int:
    """`sweeper merge --models A B ...`."""
    settings = _settings(args)
    spec = _task(args, settings)
    out = _folder(args.out)
    score = getattr(import_module(TRAINABLES[spec.trainable]), "merge_checkpoints", None)
    if score is None:
        raise SpecError(f"space {args.space!r} trains nothing: its models cannot be merged")
    models = [_file(m, "--models") for m in args.models]
    base = _file(args.base, "--base") if args.base else None
    try:
        output: PairOutput = score(spec, settings.runtime(None), models, base)
    except (ValueError, UnknownName, OSError) as error:
        raise SpecError(" ".join(str(error).split())) from None
    if not _told(args):
        output = replace(output, result=replace(output.result, noises={}))
    record = _written(args, spec, output, out)
    emit(args.json, record, _text(record))
    return 0


def spec_fields(args: Arguments) -> dict[str, Any]:
    """Return the fields of the trial that `--set` gives."""
    return parse_assignments(args.set or ())


def _told(args: Arguments) -> bool:
    # without its learning rate nothing is known of how the models were trained
    return "learning_rate" in spec_fields(args)


def _settings(args: Arguments) -> SweepSpec:
    if len(args.models) < 2:
        raise SpecError(f"--models needs at least two files, got {args.models[0]}")
    if bool(args.space) == bool(args.model):
        raise SpecError("give either --space, or --model with --data-set (or --data with a folder of images)")
    flags = {k: v for k in MERGE_FLAGS if (v := getattr(args, k)) is not None}
    given = {"space": args.space or "own models", "fixed": spec_fields(args), **flags}
    check_plain_values({**given, "model": args.model, "data_set": args.data_set})
    return SweepSpec.checked(given)


def _task(args: Arguments, settings: SweepSpec) -> PairSpec:
    """Return the spec that says on what and with which module the checkpoints are scored."""
    how = {"protocol": "finetune", "branch_step": 0, "members": len(args.models), "base": {"steps": 0}, "weights": ""}
    how["merges"] = _merges(args.merges, args.base, len(args.models))
    try:
        if args.space:
            space = settings.load_space()
            return space.build(next(corner_params(space)), **{**how, "batch_size": _BATCH})
        data = {"dataset": args.data_set} if args.data_set else _images(args.data)
        rates = {"learning_rate": 1.0, "batch_size": _BATCH}
        return PairSpec.from_mapping({"model": args.model, **data, **rates, **how, **spec_fields(args)})
    except (ValueError, KeyError) as error:
        raise SpecError(str(error)) from None


def _images(data: str | None) -> dict[str, Any]:
    if not data:
        raise SpecError("--model needs --data-set NAME, or --data with a folder of images")
    return {"dataset": "image_folder", "dataset_options": {"path": str(Path(data).expanduser().absolute())}}


def _merges(asked: Sequence[str] | None, base: str | None, models: int) -> list[str]:
    from trainables.merging.coefficient_grid import GREEDY
    from trainables.merging.methods import MERGES

    possible = [n for n, m in MERGES.items() if base or "base" not in m.ends.values()]
    possible += [GREEDY] if models > 2 else []
    for name in asked or ():
        if name not in (*MERGES, GREEDY):
            raise SpecError(str(unknown("merge", name, [*MERGES, GREEDY])))
        if name != GREEDY and name not in possible:
            raise SpecError(
                f"merge {name!r} adds task vectors θ_i − θ₀ to the base θ₀: give --base FILE, or choose from "
                f"{', '.join(possible)}"
            )
    # every row holds the linear merge of the first two
    return list(dict.fromkeys(["linear", *(asked or possible)]))


def _file(name: str, flag: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise SpecError(f"{flag}: there is no file {path}")
    return path


def _folder(asked: str | None) -> Path:
    if asked and is_uri(asked):
        raise SpecError(f"the tables are written to a folder of this machine or one that is mounted, got {asked}")
    out = Path(asked or Path("runs") / f"merge-{time.strftime('%Y%m%d-%H%M%S')}").expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} is not an empty folder; choose another --out")
    return out


def _written(args: Arguments, spec: PairSpec, output: PairOutput, out: Path) -> dict[str, Any]:
    from dashboards.page.page import write_page
    from sweeper.storage.tables import write, write_weights

    saved = Path(args.save).expanduser().absolute() if args.save else None
    try:
        write(out, output)
        if saved and output.weights is not None:
            write_weights(saved, output.weights, output.result)
        about = {"space": f"{len(args.models)} models on {spec.dataset}", "objective": "merged_loss"}
        page = write_page(out, settings={**about, "own_models": not _told(args)})
    except StorageError as error:
        raise SpecError(str(error)) from None
    result = output.result
    best = _best_of_each(output.merges)
    weights = out / "weights" / f"{result.digest}.safetensors"
    return {
        "models": [str(m) for m in args.models],
        "base": args.base,
        "model": spec.model,
        "data_set": spec.dataset,
        "outcome": result.outcome,
        "outcome_detail": result.outcome_detail,
        "chosen": {"merge": result.chosen_merge, "coefficient": result.chosen_coefficient},
        "scores": dict(result.scores),
        "merges": [_scores(row) for row in best.values()],
        "not_finite": list(dict.fromkeys(row.method for row in output.merges if row.method not in best)),
        "run": str(out),
        "page": str(page),
        "weights": str(weights) if weights.exists() else None,
        "saved": str(saved) if saved and output.weights is not None else None,
    }


def _best_of_each(rows: Iterable[MergeRow]) -> dict[str, MergeRow]:
    # each merge at the coefficient with the lowest validation loss
    best: dict[str, MergeRow] = {}
    for row in rows:
        if row.loss_val is not None and (row.method not in best or row.loss_val < (best[row.method].loss_val or 0.0)):
            best[row.method] = row
    return best


def _scores(row: MergeRow) -> dict[str, Any]:
    names = [f"{what}_{split}" for split in _SPLITS for what in ("loss", "accuracy")]
    return {"merge": row.method, "coefficient": row.coefficient, **{n: getattr(row, n) for n in names}}


def _text(record: Mapping[str, Any]) -> str:
    scores = record["scores"]
    header = ("", *(f"{split} {what}" for split in _SPLITS for what in ("loss", "acc.")))
    parents = [(f"model {who.upper()}", _cells(scores, f"{who}_")) for who in "ab"]
    merges = [(_name(m["merge"], m["coefficient"]), _cells(m, "")) for m in record["merges"]]
    merges += [(f"{method.replace('_', ' ')}: not finite", _cells({}, "")) for method in record["not_finite"]]
    rows = [(name, *cells) for name, cells in (*parents, *merges, ("ensemble", _cells(scores, "ensemble_")))]
    chosen = merge_words(record["chosen"]["merge"], record["chosen"]["coefficient"])
    lines = [
        *([wrap(f"{record['outcome']}: {record['outcome_detail']}", 0)] if record["outcome"] != "ok" else []),
        f"{len(record['models'])} models {record['model']} on {record['data_set']}; losses in nat",
        *(f"model {who}: {path}" for who, path in zip(ascii_uppercase, record["models"], strict=False)),
        format_table(header, rows, indent=0),
        wrap("each merge at its best coefficient on validation; chosen among them on validation: " + chosen, 0),
        *(f"{name:<44}{number(scores.get(column))} nat" for name, column in _FACTS.items()),
        *(f"{k + ':':<9}{record[k]}" for k in ("run", "page", "weights", "saved") if record[k]),
    ]
    return "\n".join(lines)


_FACTS = {
    "linear ½, gain over the mean parent, test": "gain_mean_loss_test",
    "linear ½, gain over the better parent, test": "gain_best_loss_test",
    "linear path, barrier (Frankle), test": "barrier_frankle_loss_test",
    "linear path, barrier (Entezari), test": "barrier_entezari_loss_test",
}


def _name(method: str, coefficient: float) -> str:
    words = merge_words(method, coefficient)
    return f"{method.replace('_', ' ')} at {number(coefficient)}" if words.endswith("(no merge)") else words


def _cells(scores: Mapping[str, Any], who: str) -> list[str]:
    cells: list[str] = []
    for split in _SPLITS:
        accuracy = scores.get(f"{who}accuracy_{split}")
        cells += [number(scores.get(f"{who}loss_{split}")), "-" if accuracy is None else f"{100 * accuracy:.2f} %"]
    return cells

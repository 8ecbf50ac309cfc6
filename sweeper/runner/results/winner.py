"""Trials of a run folder again: rerun one, and get the merged weights of the winner as a file or as a module."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.stages.confirmation import group_reports
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.runner.results.card import CARD, check_card, format_card
from sweeper.storage.location import place_of
from sweeper.storage.tables import read_trials, weights_of, write_weights
from trainables.registry import UnknownName
from trainables.result import TASKS
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.trial import TRAINABLES, run_trials

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainables.result import PairOutput


def find_row(trials: Any, digest: str) -> dict[str, Any]:
    """Return the row of the trial whose digest begins with a text.

    Raises:
        SpecError: No trial has such a digest, or several have.
    """
    indices = [i for i, d in enumerate(trials["digest"].to_pylist()) if d.startswith(digest)]
    if len(indices) != 1:
        raise SpecError(f"{len(indices)} trials have a digest that begins with {digest!r}; `sweeper list` shows all")
    return trials.slice(indices[0], 1).to_pylist()[0]


def rerun(folder: str | Path, spec: SweepSpec, row: Mapping[str, Any], data: str | None = None) -> PairOutput:
    """Run a trial again on this machine and return its output.

    Args:
        folder: Run folder with the base weights that trials share.
        spec: The sweep.
        row: Stored row of the trial.
        data: Folder with the data sets; None takes the sweep's.

    Raises:
        SpecError: This machine cannot run the trial.
    """
    try:
        return run_trials([PairSpec.from_json(row["spec"])], _make_runtime(folder, spec, row, data))[0]
    except (ValueError, UnknownName, RuntimeError) as error:
        raise SpecError(f"trial {row['digest']} cannot be rerun here: {error}") from None


def _make_runtime(folder: str | Path, spec: SweepSpec, row: Mapping[str, Any], data: str | None = None) -> Runtime:
    from sweeper.storage.checkpoints import on_node

    place = place_of(folder)
    runtime = on_node(spec.runtime(place.local and place.local / "bases", row["device"]), place)
    runtime = replace(runtime, threads=row["threads"], landscape=False, plane=0, checkpoints=None)
    return replace(runtime, data_root=data) if data else runtime


@dataclass(frozen=True)
class Saved:
    """Where the merged weights of a trial and their model card are.

    Attributes:
        weights: File, or folder for `from_pretrained`.
        card: The model card.
        discarded: Share of the merged update's squared norm that an adapter lacks; None for whole weights.
    """

    weights: Path
    card: Path
    discarded: float | None = None


def save_winner(
    folder: str | Path, spec: SweepSpec, row: Mapping[str, Any], target: Path, rank: int | None = None
) -> Saved:
    """Write the merged weights of a trial with a model card.

    A language model becomes a folder, see `export_winner`, unless the target ends in `.safetensors`; other weights
    become one file of safetensors with the card beside it. Weights that the folder does not keep are trained again.

    Args:
        folder: The run folder.
        spec: The sweep.
        row: Stored row of the trial.
        target: File or folder of the weights.
        rank: Rank of an adapter, as in `export_winner`.

    Raises:
        SpecError: The trial has no weights, this machine cannot run it, or a file cannot be written.
    """
    if PairSpec.from_json(row["spec"]).is_language_model and target.suffix != ".safetensors":
        return export_winner(folder, spec, row, target, rank)
    check_file(target, row["model"], rank)
    card = check_card(target)
    try:
        fetch_weights(folder, spec, row, target)
        card.write_text(format_card(target.name, spec, row, fresh=find_fresh(folder, row)))
    except OSError as error:
        raise SpecError(f"cannot write {target}: {error.strerror or error}") from None
    return Saved(target.absolute(), card.absolute())


def find_fresh(folder: str | Path, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of the pairs that report the settings of a trial; none unless all of them are viable."""
    trials = read_trials(folder)
    if "stage" not in trials.column_names:  # an earlier version
        return []
    rows = trials.select(["config", "stage", "outcome", "chosen_loss_test", "chosen_accuracy_test"]).to_pylist()
    return group_reports(rows, lambda r: r["config"]).get(row["config"], [])


def check_file(target: Path, model: str, rank: int | None) -> None:
    """Check that weights can become a file.

    Raises:
        SpecError: There is a rank, which needs a folder, or the target is a folder.
    """
    if rank is not None:
        raise SpecError(f"--rank needs a folder of a language model as --save, got {target} of model {model}")
    if target.is_dir():
        raise SpecError(f"--save must be a file, but {target} is a folder")


def fetch_weights(folder: str | Path, spec: SweepSpec, row: Mapping[str, Any], target: Path) -> None:
    """Write the merged weights of a trial as safetensors; train it again if the folder does not keep them.

    Raises:
        SpecError: The trial has no weights, or this machine cannot run it.
        OSError: The file cannot be written.
    """
    if place_of(folder).fetch(weights_of(row["digest"]), target):
        return
    output = rerun(folder, spec, row)
    if output.weights is None:
        raise SpecError(f"trial {row['digest']} has no weights to save: it is synthetic, or its outcome is not ok")
    write_weights(target, output.weights, output.result)


def load_winner(folder: str | Path, spec: SweepSpec, row: Mapping[str, Any], task: str | None = None) -> nn.Module:
    """Return the model of a trial with its merged weights, in eval mode on the CPU; see `fetch_weights`.

    Args:
        folder: The run folder.
        spec: The sweep.
        row: Stored row of the trial.
        task: Letter of the task whose head the model gets, of a trial with several tasks.

    Raises:
        SpecError: The trial has no weights, the task is missing or unknown, or this machine cannot run it.
    """
    trial = PairSpec.from_json(row["spec"])
    build = getattr(import_module(TRAINABLES[trial.trainable]), "build_model", None)
    if build is None:
        raise SpecError(
            f"trial {row['digest']} trains no models: `sweeper best --save FILE` writes the weights that there are"
        )
    index = _find_task(trial, task)
    weights = _load_weights(folder, spec, row)
    if task is not None:
        weights = {k.removeprefix(f"{task}/"): v for k, v in weights.items() if k.startswith(f"{task}/")}
    try:
        model = build(trial, replace(_make_runtime(folder, spec, row), device="cpu"), index)
        model.load_state_dict(weights)
    except (ValueError, UnknownName, RuntimeError) as error:
        raise SpecError(f"the model of trial {row['digest']} cannot be built here: {error}") from None
    return model.eval()


def _find_task(trial: PairSpec, task: str | None) -> int:
    letters = {TASKS[i]: name for i, (name, _) in enumerate(trial.tasks)}
    if len(letters) == 1:
        if task is not None:
            raise SpecError(f"task must be left out in a sweep with one task, got {task!r}")
        return 0
    if task not in letters:
        known = ", ".join(f"{letter!r} ({name})" for letter, name in letters.items())
        raise SpecError(f"task must be one of {known}, because each task has its own head, got {task!r}")
    return list(letters).index(task)


def _load_weights(folder: str | Path, spec: SweepSpec, row: Mapping[str, Any]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(prefix="sweeper-") as temporary:
        file = Path(temporary) / "best.safetensors"
        fetch_weights(folder, spec, row, file)
        return load_file(file)


def export_winner(folder: str | Path, spec: SweepSpec, row: Mapping[str, Any], target: Path, rank: int | None) -> Saved:
    """Write the merged language model of a trial as a folder with a model card; see `trainables.pair.export`.

    Raises:
        SpecError: As in `load_winner`, or the trial's model has no folder.
    """
    from trainables.models.model_folders import check_free
    from trainables.pair.export import NO_ADAPTER, Exported, export_model

    trial = PairSpec.from_json(row["spec"])
    if trial.trainable != "pair":
        raise SpecError(f"trial {row['digest']} trains no models, so it has none to save")
    runtime = replace(_make_runtime(folder, spec, row), device="cpu")

    def finish(path: Path, exported: Exported) -> None:
        (path / CARD).write_text(format_card(target.name, spec, row, exported, find_fresh(folder, row)))

    try:
        # before the trial is trained again
        check_free(target, 0)
        if rank is not None and not trial.adapter:
            raise ValueError(NO_ADAPTER)
        exported = export_model(trial, runtime, _load_weights(folder, spec, row), target, rank, finish)
    except (ValueError, UnknownName, RuntimeError, OSError) as error:
        raise SpecError(f"the model of trial {row['digest']} cannot be saved: {error}") from None
    return Saved(target.absolute(), target.absolute() / CARD, exported.discarded)

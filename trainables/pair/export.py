"""Merged weights of a trial as folders that transformers and peft load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainables.merging.adapter_folders import write_updates
from trainables.models.adapters import AdaptedModule
from trainables.models.language import quiet
from trainables.models.model_folders import Draft, copy_companions
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec

Weights = Mapping[str, Tensor]


def export_model(
    spec: PairSpec, runtime: Runtime, weights: Weights, target: Path, rank: int | None = None
) -> float | None:
    """Write merged weights of a language model as a folder.

    Args:
        spec: The trial.
        runtime: Where its data, and the base weights that trials share, are.
        weights: State dict of its merge.
        target: Folder to make.
        rank: Rank of an adapter of the merged update, by its singular values; a base that the trial trained stands in
            the folder `base` of the target. None writes the whole model.

    Returns:
        The discarded share of the update's squared norm; None for a whole model.

    Raises:
        ValueError: The trial's model is none of transformers, it has no adapter for a rank, or the target exists.
    """
    lab = prepare(spec, runtime, with_base=rank is not None)
    task = lab.tasks[0]
    if len(lab.tasks) > 1 or not hasattr(task.model, "save_pretrained"):
        raise ValueError(f"model {spec.model!r} is no language model of transformers, so it has no folder")
    source = Path(spec.model.removeprefix("hf:")).expanduser()
    origin = source.absolute() if spec.model.startswith("hf:") and source.is_dir() else None
    if rank is None:
        with Draft(target, sum(v.nbytes for v in weights.values())) as folder:
            _save(task.model, weights, folder, origin)
        return None
    if task.adapted is None:
        raise ValueError("rank is for trials whose children train adapters; leave it out for the whole model")
    own = origin is None or spec.base.steps > 0 or bool(spec.weights) or spec.protocol == "branch"
    _, discarded = _write_adapter(task.adapted, task.base, weights, target, rank, None if own else origin)
    if own:
        (target / "base").mkdir()
        _save(task.model, task.base, target / "base", origin)
    return discarded


def _save(model: Any, weights: Weights, folder: Path, origin: Path | None) -> None:
    model.load_state_dict(weights)
    with quiet():
        model.save_pretrained(folder)
    if origin:
        copy_companions(origin, folder)


def _write_adapter(
    adapted: AdaptedModule, base: Weights, merged: Weights, target: Path, rank: int, origin: Path | None
) -> tuple[object, float]:
    def update(name: str) -> Tensor:
        key = f"{name}.weight"
        change = merged[key].cpu().double() - base[key].cpu().double()
        return change.T if adapted.transposed[name] else change

    names = list(adapted.transposed)
    config = {
        "base_model_name_or_path": str(origin or target.absolute() / "base"),
        "target_modules": names,
        "fan_in_fan_out": any(adapted.transposed.values()),
    }
    return write_updates(target, names, update, config, rank, origin)

"""Merged weights of a trial as folders that transformers and peft load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.merging.adapter_folders import save_updates
from trainables.models.adapters import AdaptedModule
from trainables.models.language import quiet
from trainables.models.model_folders import TOKENIZER, Draft, copy_companions
from trainables.models.tensors import hold
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.tasks import split_by_task
from trainables.training.torch_settings import torch_settings

Weights = Mapping[str, Tensor]
BASE = "base"
"""Folder in an adapter's folder, with the base that the trial trained."""
NO_ADAPTER = "rank is for trials whose children train adapters; leave it out for the whole model"


@dataclass(frozen=True)
class Exported:
    """What a folder holds.

    Attributes:
        base: Name or path of an adapter's base, as `adapter_config.json` has it; empty for a whole model.
        own: Whether that base stands in the folder.
        tokenizer: Whether the folder has a tokenizer.
        discarded: Share of the merged update's squared norm that an adapter lacks; None for a whole model.
    """

    base: str = ""
    own: bool = False
    tokenizer: bool = False
    discarded: float | None = None


def export_model(
    spec: PairSpec,
    runtime: Runtime,
    weights: Weights,
    target: Path,
    rank: int | None = None,
    finish: Callable[[Path, Exported], None] = lambda folder, exported: None,
) -> Exported:
    """Write merged weights of a language model as a folder.

    Args:
        spec: The trial.
        runtime: Where its data, and the base weights that trials share, are.
        weights: State dict of its merge; of all tasks, if there are several.
        target: Folder to make.
        rank: Rank of an adapter of the merged update, by its singular values; a base that the trial trained stands in
            the folder `BASE` of the target. None writes the whole model.
        finish: Called with the folder before it gets its name, to add files.

    Raises:
        ValueError: The trial's model is none of transformers, it has no adapter for a rank, or the target exists.
    """
    with torch_settings(runtime):  # the base that is trained here is that of the trials
        lab = prepare(spec, runtime, with_base=rank is not None)
    task = lab.tasks[0]
    if any(t.head for t in lab.tasks) or not hasattr(task.model, "save_pretrained"):
        raise ValueError(f"model {spec.model!r} is no language model of transformers, so it has no folder")
    if rank is not None and task.adapted is None:
        raise ValueError(NO_ADAPTER)
    # tasks of text share the whole model
    merged = split_by_task(lab.tasks, weights)[0]
    source = Path(spec.model.removeprefix("hf:")).expanduser() if spec.model.startswith("hf:") else None
    origin = source if source and source.is_dir() else None
    tokenizer = Path(task.data.tokenizer) if task.data.tokenizer else None
    with Draft(target, sum(v.nbytes for v in merged.values())) as folder:
        if rank is None or task.adapted is None:
            _save(task.model, merged, folder, spec.dtype)
            exported = Exported()
        else:
            own = source is None or spec.base.steps > 0 or bool(spec.weights) or spec.protocol == "branch"
            where = target.absolute() / BASE if own else origin.absolute() if origin else source
            # peft looks a relative path up where it runs, so the path is absolute
            config = {"base_model_name_or_path": f"{where}", "revision": spec.model_options.get("revision")}
            discarded = _save_adapter(task.adapted, task.base, merged, folder, rank, config)
            if own:
                (folder / BASE).mkdir()
                _save(task.model, task.base, folder / BASE, spec.held_dtype)
                _copy_companions(origin, tokenizer, folder / BASE)
            exported = Exported(f"{where}", own, discarded=discarded)
        _copy_companions(origin, tokenizer, folder)
        exported = replace(exported, tokenizer=(folder / "tokenizer_config.json").is_file())
        finish(folder, exported)
    return exported


def _save(model: Any, weights: Weights, folder: Path, dtype: str) -> None:
    hold(model, getattr(torch, dtype))
    model.load_state_dict(weights)
    with quiet():
        model.save_pretrained(folder)


def _copy_companions(origin: Path | None, tokenizer: Path | None, folder: Path) -> None:
    if origin:
        copy_companions(origin, folder)
    if tokenizer and tokenizer.is_dir():  # that of the data may differ
        copy_companions(tokenizer, folder, TOKENIZER)


def _save_adapter(
    adapted: AdaptedModule, base: Weights, merged: Weights, folder: Path, rank: int, about: Mapping[str, Any]
) -> float:
    def update(name: str) -> Tensor:
        key = f"{name}.weight"
        change = merged[key].cpu().double() - base[key].cpu().double()
        return change.T if adapted.transposed[name] else change

    names = list(adapted.transposed)
    config = {**about, "target_modules": names, "fan_in_fan_out": any(adapted.transposed.values())}
    return save_updates(folder, names, update, config, rank)[1]

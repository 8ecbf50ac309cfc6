"""Merges of a user's checkpoints, scored like the children of a trial without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trainables.measurement.curvature import geometry, relief_columns
from trainables.merging.coefficient_grid import score_merges
from trainables.merging.methods import GREEDY, MERGES
from trainables.models.weights import load_start
from trainables.pair.record import record
from trainables.pair.setup import Lab, prepare, resolve_device
from trainables.result import Outcome, PairOutput
from trainables.runtime import Runtime
from trainables.spec import SEVERAL_TASKS, PairSpec
from trainables.tasks.evaluation import finite
from trainables.tasks.tasks import trained_names


def merge_checkpoints(spec: PairSpec, runtime: Runtime, models: Sequence[Path], base: Path | None) -> PairOutput:
    """Merge checkpoints of one architecture and score the merges.

    Args:
        spec: Only its data set, model, merges, augmentation (for the BatchNorm re-estimation) and seed matter.
        runtime: Where to run.
        models: Two or more files with weights.
        base: File with the base weights; merges of task vectors need it.

    Returns:
        Row, merge curves and the chosen merge's weights. If a parent or linear merge is not finite, the outcome is
        `not_viable` without weights. The row's training columns come from `spec`, although there was no training;
        `outcome_detail` names the files.

    Raises:
        UnknownName: No such model, data set or merge.
        ValueError: A file cannot be read or has another architecture, too few models, or a merge lacks its base.
    """
    if len(models) < 2:
        raise ValueError(f"a merge needs at least two models, got {len(models)}")
    if spec.pair_kind in SEVERAL_TASKS:
        raise ValueError("a merge of checkpoints needs one task; choose a space whose pair_kind is same_task")
    if runtime.plane:
        raise ValueError("a loss plane needs a trained trial; leave out --plane")
    if wrong := [m for m in spec.merges if m in MERGES and "moments" in MERGES[m].needs]:
        raise ValueError(f"merge {wrong[0]!r} needs the optimizer of the training; leave this merge out")
    if base is None and (wrong := [m for m in spec.merges if m != GREEDY and (m not in MERGES or MERGES[m].uses_base)]):
        raise ValueError(f"merge {wrong[0]!r} needs the base of the models; set --base, or leave this merge out")
    spec = replace(spec, members=len(models), stack=1, weights="", window={})
    lab = prepare(spec, resolve_device(runtime), with_base=False)
    task = lab.tasks[0]
    children = [_load_child(lab, path) for path in models]
    task.base = _load_child(lab, base) if base else children[0]
    with lab.clock.phase("recalibrate"):
        task.batches = lab.recalibration_batches(spec, task)
    curves = score_merges(spec, lab.tasks, children, lab.clock.phase)
    relief: dict[str, float | None] = {}
    if lab.runtime.landscape:
        with lab.clock.phase("landscape"):
            relief = relief_columns(task, curves, spec.stream("landscape"))
    about: dict[str, Any] = {
        **finite(geometry(task.base, children[0], children[1], trained_names(task.model))),
        "landscape": relief,
        "examples": task.data.examples,
        "classes": task.data.classes,
        "tokens_per_example": task.data.context,
        "bytes_per_token": task.data.bytes_per_token,
        "parameters": sum(p.numel() for p in task.model.parameters()),
    }
    detail = "merged " + ", ".join(str(p) for p in models) + (f" from base {base}" if base else "")
    fault, lost = curves.fault(), curves.lost()
    outcome = Outcome.NOT_VIABLE if fault else Outcome.OK
    result = record(
        spec, lab.runtime, outcome, "; ".join(part for part in (fault, detail, lost) if part), lab.started,
        scores=finite(curves.columns()), seconds=lab.clock.seconds, **about, **finite({"cka_val": curves.cka}),
        **curves.describe_choice(),
    )  # fmt: skip
    weights = None if fault else {k: v.cpu() for k, v in curves.weights.items()}
    return PairOutput(result, tuple(curves.rows(spec)), weights=weights)


def _load_child(lab: Lab, path: Path) -> dict[str, Tensor]:
    task = lab.tasks[0]
    # the head must match, because a checkpoint of another task has no scores on this one
    return load_start(task.model, path, head="")[0]

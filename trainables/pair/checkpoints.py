"""Merges of a user's checkpoints, scored like the children of a trial without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainables.measurement.curvature import geometry, relief_columns
from trainables.merging.coefficient_grid import score_merges
from trainables.merging.methods import GREEDY, MERGES
from trainables.models.weights import load_start
from trainables.pair.record import record
from trainables.pair.setup import prepare, resolve_device
from trainables.result import Outcome, PairOutput
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.evaluation import finite
from trainables.tasks.tasks import trained_names


def merge_checkpoints(spec: PairSpec, runtime: Runtime, models: Sequence[Path], base: Path | None) -> PairOutput:
    """Merge checkpoints of one architecture and score the merges.

    Args:
        spec: Only its data set, model, merges, augmentation (for the BatchNorm re-estimation) and seed matter.
        runtime: Where to run.
        models: Two or more files with weights; of several tasks, one per task, in their order.
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
    if runtime.plane:
        raise ValueError("a loss plane needs a trained trial; leave out --plane")
    if wrong := [m for m in spec.merges if m in MERGES and "moments" in MERGES[m].needs]:
        raise ValueError(f"merge {wrong[0]!r} needs the optimizer of the training; leave this merge out")
    if base is None and (wrong := [m for m in spec.merges if m != GREEDY and (m not in MERGES or MERGES[m].uses_base)]):
        raise ValueError(f"merge {wrong[0]!r} needs the base of the models; set --base, or leave this merge out")
    if len(spec.tasks) not in (1, len(models)):
        raise ValueError(f"models must be one per task, {len(spec.tasks)} in their order, got {len(models)}")
    spec = replace(spec, members=len(models), stack=1, weights="", window={})
    lab = prepare(spec.plain(), resolve_device(runtime), with_base=False)
    task = lab.tasks[0]
    # the head must match, because a checkpoint of another task has no scores on this one
    children = [load_start(t.model, path, head="")[0] for t, path in zip(lab.children, models, strict=True)]
    for own, child in zip(lab.tasks, children, strict=False):
        # the base's head is no part of a merge of several tasks
        own.base = load_start(own.model, base, own.head.removesuffix("."))[0] if base else child
        with lab.clock.phase("recalibrate"):
            own.batches = lab.recalibration_batches(spec, own)
    curves = score_merges(spec, lab.tasks, children, lab.clock.phase)
    relief: dict[str, float | None] = {}
    if lab.runtime.landscape:
        with lab.clock.phase("landscape"):
            relief = relief_columns(lab.tasks, children, curves.recalibrated, spec.stream("landscape"))
    names = [n for n in trained_names(task.model) if not task.is_own(n)]
    about: dict[str, Any] = {
        **finite(geometry(task.base, children[0], children[1], names)),
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
    weights = None if fault else dict(curves.weights)
    return PairOutput(result, tuple(curves.rows(spec)), weights=weights)

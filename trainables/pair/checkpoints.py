"""Merges of a user's own checkpoints: scored like the children of a trial, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trainables.measurement.curvature import geometry, relief_columns
from trainables.merging.coefficient_grid import GREEDY, score_merges
from trainables.merging.methods import MERGES
from trainables.models.weights import load_start
from trainables.pair.record import record
from trainables.pair.setup import Lab, prepare, resolve_device
from trainables.result import Outcome, PairOutput
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.evaluation import finite
from trainables.tasks.tasks import trained_names


def merge_checkpoints(spec: PairSpec, runtime: Runtime, models: Sequence[Path], base: Path | None) -> PairOutput:
    """Merge and score checkpoints of one architecture.

    Args:
        spec: Its data set, model, merges, augmentation (for the BatchNorm re-estimation) and seed are used.
        runtime: Where to run.
        models: Two or more files with weights.
        base: File with the base weights; without it merges of task vectors are refused.

    Returns:
        Row, merge curves and the chosen merge's weights, these where parents and linear merges are finite; else the
        outcome is `not_viable`. The row's training columns are those of `spec`, which nothing was trained with;
        `outcome_detail` names the files.

    Raises:
        UnknownName: No such model, data set or merge.
        ValueError: A file that cannot be read or has another architecture, too few models, a merge without its base.
    """
    if len(models) < 2:
        raise ValueError(f"merging takes two models or more, got {len(models)}")
    if spec.pair_kind == "two_task":
        raise ValueError("checkpoints are merged on one task; choose a space whose pair_kind is not two_task")
    if runtime.plane:
        raise ValueError("the loss plane is that of a trained trial; leave out --plane")
    if base is None and (wrong := [m for m in spec.merges if m != GREEDY and "base" in MERGES[m].ends.values()]):
        raise ValueError(f"merge {wrong[0]!r} needs the base that the models come from; give --base, or leave it out")
    spec = replace(spec, members=len(models), stack=1, weights="")
    lab = prepare(spec, resolve_device(runtime), with_base=False)
    task = lab.tasks[0]
    children = [_fitting(lab, path) for path in models]
    task.base = _fitting(lab, base) if base else children[0]
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
        "parameters": sum(p.numel() for p in task.model.parameters()),
    }
    detail = "merged " + ", ".join(str(p) for p in models) + (f" from base {base}" if base else "")
    fault, lost = curves.fault(), curves.lost()
    outcome = Outcome.NOT_VIABLE if fault else Outcome.OK
    result = record(
        spec, lab.runtime, outcome, "; ".join(part for part in (fault, detail, lost) if part), lab.started,
        scores=finite(curves.columns()), seconds=lab.clock.seconds, **about, **finite({"cka_val": curves.cka}),
        chosen_merge=curves.chosen[0], chosen_coefficient=curves.chosen[1],
    )  # fmt: skip
    weights = None if fault else {k: v.cpu() for k, v in curves.weights.items()}
    return PairOutput(result, tuple(curves.rows(spec)), weights=weights)


def _fitting(lab: Lab, path: Path) -> dict[str, Tensor]:
    task = lab.tasks[0]
    # no head is replaced: a checkpoint of another task cannot be scored on this one
    return load_start(task.model, path, head="")[0]

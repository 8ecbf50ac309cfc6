"""Columns of the tables: their names, units and descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

SPLITS = ("train", "val", "test")
MODELS_SCORED = {
    "a": "child A",
    "b": "child B",
    "merged": "linear merge at alpha = 1/2",
    "chosen": "merge chosen on validation",
    "ensemble": "mean of the children's logits",
}
TASKS = "abcdefgh"
"""Names of the tasks of a trial whose children have different tasks."""
_KINDS = {"str": "str", "int": "int", "float": "float"}


@dataclass(frozen=True)
class Column:
    """One column of a table: its name, kind (`str`, `int`, `float`), unit and description."""

    name: str
    kind: str
    unit: str
    doc: str


def col(doc: str, unit: str = "", **kwargs: Any) -> Any:
    """Return a dataclass field that is a column with this description and unit."""
    return field(metadata={"doc": doc, "unit": unit}, **kwargs)


def columns_of(row_type: type[Any]) -> tuple[Column, ...]:
    """Return the columns of a row type."""
    return tuple(
        Column(f.name, _KINDS[str(f.type).split(" ")[0]], f.metadata["unit"], f.metadata["doc"])
        for f in fields(row_type)
        if f.metadata
    )


def _scores() -> Iterator[Column]:
    for who, text in MODELS_SCORED.items():
        for split in SPLITS:
            yield Column(f"{who}_loss_{split}", "float", "nat", f"cross-entropy of {text} on {split}")
            yield Column(f"{who}_accuracy_{split}", "float", "1", f"accuracy of {text} on {split}")
    for split in SPLITS:
        for kind, text in {"mean": "mean of the parents", "best": "better parent"}.items():
            yield Column(f"gain_{kind}_loss_{split}", "float", "nat", f"loss of the {text} minus merged, {split}")
            yield Column(f"gain_{kind}_accuracy_{split}", "float", "1", f"accuracy merged minus the {text}, {split}")
        for kind, text in {
            "frankle": "max over alpha of L(alpha) - (L_A + L_B)/2, arXiv 1912.05671",
            "entezari": "max over alpha of L(alpha) - ((1 - alpha) L_A + alpha L_B), arXiv 2110.06296",
        }.items():
            yield Column(f"barrier_{kind}_loss_{split}", "float", "nat", f"barrier in loss, {split}: {text}")
            yield Column(f"barrier_{kind}_error_{split}", "float", "1", f"barrier in error, {split}: {text}")

    yield from _task_scores()


def _task_scores() -> Iterator[Column]:
    only = "only tasks and two_task"
    for split in ("val", "test"):
        for who in ("merged", "chosen"):
            ratio = f"{who} accuracy over that of the task's own child, {split}; {only}"
            yield Column(f"{who}_normalised_accuracy_{split}", "float", "1", f"mean over tasks of the {ratio}")
            yield Column(f"{who}_normalised_accuracy_worst_{split}", "float", "1", f"least over tasks of the {ratio}")
        for task in TASKS:
            text = f"chosen accuracy on task {task.upper()} over that of its own child, {split}; {only}"
            yield Column(f"chosen_normalised_accuracy_{task}_{split}", "float", "1", text)
        for task in TASKS[2:]:
            child = f"child {task.upper()} on its task, {split}; only tasks"
            yield Column(f"{task}_loss_{split}", "float", "nat", f"cross-entropy of {child}")
            yield Column(f"{task}_accuracy_{split}", "float", "1", f"accuracy of {child}")
        for kind, text in {"mean": "mean", "worst": "largest"}.items():
            pairs = (
                f"{text} over pairs of tasks of the pair's midpoint minus its children, mean over both tasks, {split}"
            )
            yield Column(f"barrier_tasks_{kind}_loss_{split}", "float", "nat", f"loss, {pairs}; {only}")
            yield Column(f"barrier_tasks_{kind}_error_{split}", "float", "1", f"error, {pairs}; {only}")
    for split in SPLITS:
        text = f"mean over tasks of the loss of the task's own child minus that of the chosen merge, {split}; {only}"
        yield Column(f"gain_tasks_loss_{split}", "float", "nat", text)


def _landscape() -> Iterator[Column]:
    for point, text in {"a": "child A", "b": "child B", "merged": "the linear merge at alpha = 1/2"}.items():
        loss = "nat/parameter^2"
        yield Column(f"hessian_trace_{point}", "float", loss, f"tr H at {text}, Hutchinson")
        yield Column(f"hessian_trace_se_{point}", "float", loss, f"standard error of tr H at {text}")
        yield Column(f"hessian_trace_scaled_{point}", "float", "nat", f"tr H |w|^2 at {text}, scale-free")
        yield Column(f"lambda_max_{point}", "float", loss, f"largest eigenvalue of the Hessian at {text}, Lanczos")
        yield Column(f"sharpness_worst_{point}", "float", "nat",
                     f"adaptive worst-case sharpness at {text}, arXiv 2302.07011")  # fmt: skip
        yield Column(f"sharpness_average_{point}", "float", "nat",
                     f"average-case sharpness E L(w + sigma |w| eps) - L(w) at {text}")  # fmt: skip
    for end in "ab":
        yield Column(f"curvature_{end}", "float", "nat", f"d'H d at child {end.upper()} with d = theta_B - theta_A")
    yield Column("barrier_quadratic", "float", "nat",
                 "barrier at alpha = 1/2 as second-order expansions from both ends predict it")  # fmt: skip
    yield Column("barrier_excess", "float", "nat", "barrier at alpha = 1/2 minus barrier_quadratic; 0 on quadratics")


SCORES: tuple[Column, ...] = tuple(_scores())
LANDSCAPE: tuple[Column, ...] = tuple(_landscape())

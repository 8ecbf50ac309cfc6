"""Rules that the fields of a trial obey, each with its message."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

from trainables.io.printable import show_value
from trainables.registry import unknown
from trainables.spec.digests import default_of

FEWEST_BETWEEN = 8
"""Steps between two measurements of a servo, at least; see `PairSpec.servo`."""

JSON = Mapping[str, Any]
T = TypeVar("T")
MOST_MEMBERS, MOST_MERGES, MOST_STEPS, MOST_TASKS = 1000, 64, 1_000_000_000, 8
"""Bounds of a trial, which catch mistakes and protect the machine. A service has lower ones."""
OF_OTHERS = frozenset({"channels", "classes", "pretrained", "weights"})
"""Arguments of a model's builder that other fields of a trial set."""
CHOICES = {
    "protocol": ("finetune", "branch", "scratch"),
    "pair_kind": ("same_task", "split_data", "two_task", "tasks"),
    "dtype": ("float32", "float64"),
    "autocast": ("", "bfloat16"),
    "pairing": ("independent", "antithetic"),
    "graphs": ("auto", "on", "off"),
}
_MAPPINGS = (
    "dataset_options", "dataset_b_options", "model_options", "optimizer_options", "noise_schedule", "child_b", "window",
    "trunk", "servo",
)  # fmt: skip
_WINDOW = ("size", "spacing", "kind")
_WINDOW_KINDS = ("mean", "ema")
MOST_WINDOWS = 8
_SCHEDULE = ("kind", "start", "end", "turn", "by")
_SERVO = ("every", "limit", "smoothing")
_CHILD = ("learning_rate", "batch_size")
SEVERAL_TASKS = ("two_task", "tasks")
"""Kinds of pairs whose children have different tasks."""


def about(description: str) -> dict[str, str]:
    """Return the metadata of a field with this description."""
    return {"description": description}


def coerce(value: Any) -> None:
    """Turn the values of a frozen dataclass into the types of its fields.

    Raises:
        ValueError: A value has another type.
    """
    for f in fields(value):
        now = getattr(value, f.name)
        if f.type == "float":
            object.__setattr__(value, f.name, _number(f.name, now))
        elif f.type == "int":
            if isinstance(now, bool) or int(_number(f.name, now)) != now:
                raise ValueError(f"{f.name} must be a whole number, got {show_value(now)}")
            object.__setattr__(value, f.name, int(now))
        elif f.type == "bool" and not isinstance(now, bool):
            raise ValueError(f"{f.name} must be true or false, got {show_value(now)}")
        elif f.type == "str" and not isinstance(now, str):
            raise ValueError(f"{f.name} must be text, got {show_value(now)}")


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, got {show_value(value)}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {show_value(value)}")
    return number


def check(name: str, value: float | str, rule: str, holds: bool) -> None:
    """Raise `ValueError` with the rule and the value unless the rule holds."""
    if not holds:
        raise ValueError(f"{name} must {rule}, got {show_value(value)}")


def check_optimizer(spec: Any) -> None:
    """Check the fields of plain SGD, which the base and the pair have.

    Raises:
        ValueError: A field breaks its rule.
    """
    check("learning_rate", spec.learning_rate, "be > 0", spec.learning_rate > 0)
    check("batch_size", spec.batch_size, "be >= 1", spec.batch_size >= 1)
    check("momentum", spec.momentum, "lie in [0, 1)", 0 <= spec.momentum < 1)
    check("weight_decay", spec.weight_decay, "be >= 0", spec.weight_decay >= 0)


def check_json(name: str, value: Any) -> None:
    """Raise `ValueError` unless the value is a mapping of JSON values."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold JSON values only, got {show_value(value)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, got {show_value(value)}")


def name_list(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of names as a tuple.

    Raises:
        ValueError: The value is not a list of names.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in cast(list[Any], value)):
        raise ValueError(f"{name} must be a list of names, got {show_value(cast(object, value))}")
    return tuple(cast(list[str], value))


def dataset_list(value: Any) -> tuple[dict[str, Any], ...]:
    """Return a list of data sets, names or mappings, as mappings with `name` and, where there are any, `options`.

    Raises:
        ValueError: An entry has another form.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"datasets must be a list of data sets, got {show_value(value)}")
    out: list[dict[str, Any]] = []
    for entry in cast(list[Any], value):
        given: Any = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(given, Mapping) or not {"name"} <= set(cast(JSON, given)) <= {"name", "options"}:
            raise ValueError(f"datasets must hold names, or mappings with `name` and `options`, got {entry!r}")
        name, options = cast(JSON, given)["name"], cast(JSON, given).get("options", {})
        if not isinstance(name, str):
            raise ValueError(f"datasets must hold names, or mappings with `name` and `options`, got {entry!r}")
        check_json(f"the options of data set {name}", options)
        out.append({"name": name, "options": dict(options)} if options else {"name": name})
    return tuple(out)


def read_fields(kind: type[T], what: str, data: Any) -> T:
    """Return the dataclass of this kind with these fields; `what` names it in messages.

    Raises:
        ValueError: A field is unknown or missing, or breaks its rule.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a {what} must be a mapping of fields, got {show_value(data)}")
    data = cast(Mapping[str, Any], data)
    needed = {f.name: default_of(f) is MISSING for f in fields(cast(Any, kind))}
    if wrong := sorted(str(name) for name in set(data) - set(needed)):
        raise ValueError(str(unknown(f"{what} field", wrong[0], needed)))
    if missing := [name for name, is_needed in needed.items() if is_needed and name not in data]:
        raise ValueError(f"a {what} must have {', '.join(missing)}; got only {', '.join(sorted(data)) or 'nothing'}")
    return kind(**data)


def check_pair(spec: Any) -> None:
    """Check the fields of a `PairSpec`.

    Raises:
        ValueError: A field breaks its rule; the message names rule and value.
    """
    for name in _MAPPINGS:
        check_json(name, getattr(spec, name))
    if reserved := sorted(OF_OTHERS & set(spec.model_options)):
        raise ValueError(
            f"model_options must not have {', '.join(sorted(OF_OTHERS))}, got {reserved[0]!r}: the data set gives "
            "classes and channels, `weights: pretrained` the start weights"
        )
    strength = spec.augmentation_strength
    check("augmentation_strength", strength, "lie in [0, 1]", 0 <= strength <= 1)
    check("epochs", spec.epochs, "be >= 1", spec.epochs >= 1)
    check("steps", spec.steps, "be >= 0", spec.steps >= 0)
    for name in ("beta1", "beta2"):
        check(name, getattr(spec, name), "lie in [0, 1)", 0 <= getattr(spec, name) < 1)
    check("betas_batch_size", spec.betas_batch_size, "be >= 0", spec.betas_batch_size >= 0)
    for name, beta in zip(("beta1", "beta2"), spec.betas, strict=True):
        if beta < 0:
            raise ValueError(
                f"{name} must lie in [0, 1), got {beta:.3g} at batch_size {spec.batch_size}, which follows from "
                f"{getattr(spec, name)} at betas_batch_size {spec.betas_batch_size}; raise {name} or betas_batch_size"
            )
    check("clip_norm", spec.clip_norm, "be >= 0", spec.clip_norm >= 0)
    check("members", spec.members, "be >= 2", spec.members >= 2)
    check("members", spec.members, f"be at most {MOST_MEMBERS}", spec.members <= MOST_MEMBERS)
    check("merges", len(spec.merges), f"name at most {MOST_MERGES} merges", len(spec.merges) <= MOST_MERGES)
    for name in ("epochs", "steps", "branch_step"):
        check(name, getattr(spec, name), f"be at most {MOST_STEPS}", getattr(spec, name) <= MOST_STEPS)
    check("warmup", spec.warmup, "lie in [0, 1]", 0 <= spec.warmup <= 1)
    # a sum, because 1 - 0.8 < 0.2 in floating point
    fits = spec.decay >= 0 and spec.warmup + spec.decay <= 1
    check("decay", spec.decay, "lie in [0, 1 - warmup]", fits)
    check("accuracy_floor", spec.accuracy_floor, "lie in [0, 1]", 0 <= spec.accuracy_floor <= 1)
    check("loss_ceiling", spec.loss_ceiling, "be >= 0", spec.loss_ceiling >= 0)
    check("stack", spec.stack, "be >= 1", spec.stack >= 1)
    check("repeat", spec.repeat, "be >= 0", spec.repeat >= 0)
    if "linear" not in spec.merges:
        raise ValueError(f"merges must contain 'linear', which defines the gains, got {list(spec.merges)}")
    for name, known in CHOICES.items():
        if getattr(spec, name) not in known:
            names = ", ".join(value or "empty" for value in known)
            raise ValueError(f"{name} must be one of {names}, got {getattr(spec, name)!r}")
    if spec.autocast and spec.dtype != "float32":
        raise ValueError(f"autocast must be empty unless dtype is float32, got {spec.autocast!r} with {spec.dtype}")
    _check_protocol(spec)


def check_dynamics(spec: Any) -> None:
    """Check the fields of a `PairSpec` that steer the noise of its children.

    Raises:
        ValueError: A field breaks its rule.
    """
    if spec.noise_schedule:
        _check_noise_schedule(spec)
    if spec.servo:
        _check_servo(spec)
    if spec.pairing == "antithetic":
        check("pair_kind", spec.pair_kind, "be same_task with pairing antithetic", spec.pair_kind == "same_task")
        check("child_b", spec.child_b, "be empty with pairing antithetic", not spec.child_b)
    _check_settings("child_b", spec.child_b)
    _check_settings("trunk", spec.trunk)
    if spec.trunk:
        check("trunk", spec.trunk, "be empty unless protocol is branch", spec.protocol == "branch")
    if spec.child_b:
        check("members", spec.members, "be 2 with child_b", spec.members == 2)
    _check_window(spec.window)
    if reason := find_apart(spec):
        check("stack", spec.stack, f"be 1 {reason}", spec.stack == 1)


def find_apart(spec: Any) -> str:
    """Return why the repeats of a trial cannot train as one stack, such as `with a servo`; empty if they can."""
    reasons = {"with child_b": spec.child_b, "with a servo": spec.servo}
    reasons["in protocol scratch"] = spec.protocol == "scratch"
    return next((reason for reason, holds in reasons.items() if holds), "")


def _check_entries(field: str, options: JSON, known: tuple[str, ...]) -> None:
    if wrong := sorted(set(options) - set(known)):
        raise ValueError(str(unknown(f"entry of {field}", wrong[0], known)))


def _check_servo(spec: Any) -> None:
    options = spec.servo
    _check_entries("servo", options, _SERVO)
    if "every" not in options:
        raise ValueError(f"servo must have every, the steps between two measurements, got {dict(options)}")
    every = _number("servo.every", options["every"])
    rule = f"be whole and >= {FEWEST_BETWEEN}"
    check("servo.every", options["every"], rule, every >= FEWEST_BETWEEN and every % 1 == 0)
    check("servo.limit", options.get("limit", 4), "be > 1", _number("servo.limit", options.get("limit", 4)) > 1)
    weight = options.get("smoothing", 0.5)
    check("servo.smoothing", weight, "lie in (0, 1]", 0 < _number("servo.smoothing", weight) <= 1)
    check("clip_norm", spec.clip_norm, "be 0 with a servo, which reads the gradients", spec.clip_norm == 0)
    stable = spec.schedule in ("wsd", "constant")
    check("schedule", spec.schedule, "be wsd or constant with a servo: it needs a stable phase", stable)


def _check_settings(field: str, options: JSON) -> None:
    for name, value in options.items():
        if name not in _CHILD:
            raise ValueError(str(unknown(f"field of {field}", name, _CHILD)))
        number = _number(f"{field}.{name}", value)
        whole = name != "batch_size" or number % 1 == 0
        check(f"{field}.{name}", value, "be > 0 and whole" if name == "batch_size" else "be > 0", number > 0 and whole)


def _check_window(options: JSON) -> None:
    _check_entries("window", options, _WINDOW)
    if options and "size" not in options:
        raise ValueError(f"window must have a size, the number of checkpoints, got {dict(options)}")
    if options.get("kind", "mean") not in _WINDOW_KINDS:
        raise ValueError(f"window.kind must be one of {', '.join(_WINDOW_KINDS)}, got {options['kind']!r}")
    size = options.get("size", 1)
    sizes = cast(list[Any], size) if isinstance(size, list | tuple) else [size]
    check("window.size", len(sizes), f"be one number or at most {MOST_WINDOWS}", 0 < len(sizes) <= MOST_WINDOWS)
    for name, value in [*(("window.size", s) for s in sizes), ("window.spacing", options.get("spacing", 1))]:
        number = _number(name, value)
        check(name, value, "be whole and >= 1", number >= 1 and number % 1 == 0 and not isinstance(value, bool))


def _check_noise_schedule(spec: Any) -> None:
    from trainables.training.noise_schedules import BY, NOISE_SCHEDULES

    options = spec.noise_schedule
    _check_entries("noise_schedule", options, _SCHEDULE)
    if "kind" not in options:
        raise ValueError(f"noise_schedule must have a kind ({', '.join(NOISE_SCHEDULES)}), got {dict(options)}")
    if not isinstance(options["kind"], str):
        raise ValueError(f"noise_schedule.kind must be text, got {show_value(options['kind'])}")
    if options["kind"] not in NOISE_SCHEDULES:
        raise ValueError(str(unknown("noise schedule", options["kind"], NOISE_SCHEDULES)))
    for name in ("start", "end"):
        value = options.get(name, 1)
        check(f"noise_schedule.{name}", value, "be > 0", _number(f"noise_schedule.{name}", value) > 0)
    turn = options.get("turn", 0.5)
    check("noise_schedule.turn", turn, "lie in [0, 1]", 0 <= _number("noise_schedule.turn", turn) <= 1)
    by = options.get("by", BY[0])
    if by not in BY:
        raise ValueError(f"noise_schedule.by must be one of {', '.join(BY)}, got {by!r}")
    if by == "batch_size":
        rule = "be independent with noise_schedule.by batch_size"
        check("pairing", spec.pairing, rule, spec.pairing == "independent")
    stable = spec.schedule in ("wsd", "constant")
    check("schedule", spec.schedule, "be wsd or constant with a noise_schedule: it needs a stable phase", stable)


def _check_protocol(spec: Any) -> None:
    if spec.protocol == "branch":
        check("branch_step", spec.branch_step, "be >= 1 in protocol branch", spec.branch_step >= 1)
    else:
        rule = "be 0 unless protocol is branch"
        check("branch_step", spec.branch_step, rule, spec.branch_step == 0)
    if spec.pair_kind == "two_task":
        check(
            "dataset_b",
            spec.dataset_b,
            "name the data set of the second task in pair_kind two_task",
            bool(spec.dataset_b),
        )
        check("members", spec.members, "be 2 in pair_kind two_task", spec.members == 2)
    else:
        check("dataset_b", spec.dataset_b, "be empty unless pair_kind is two_task", not spec.dataset_b)
    if spec.pair_kind == "tasks":
        _check_tasks(spec)
    else:
        named = [d["name"] for d in spec.datasets]
        if named:
            raise ValueError(f"datasets must be empty unless pair_kind is tasks, got {', '.join(named)}")
    if spec.protocol == "scratch":
        _check_scratch(spec)
    if spec.pair_kind in SEVERAL_TASKS:
        check("protocol", spec.protocol, f"be finetune in pair_kind {spec.pair_kind}", spec.protocol == "finetune")


def _check_scratch(spec: Any) -> None:
    from trainables.merging.methods import MERGES, TASKWISE

    for name in ("weights", "adapter"):
        check(name, getattr(spec, name), "be empty in protocol scratch: children draw their weights",
              not getattr(spec, name))  # fmt: skip
    if spec.model.startswith("hf:") and not spec.base.steps:
        raise ValueError(
            "base.steps must be > 0 in protocol scratch with a model folder, whose children would start alike, got 0; "
            "use protocol finetune"
        )
    of_base = [n for n in spec.merges if n == TASKWISE or (n in MERGES and MERGES[n].uses_base)]
    if of_base:
        raise ValueError(
            f"merges must not use a base in protocol scratch, whose children share none, got {of_base[0]!r}; "
            "set merges, such as [linear, weight_matching]"
        )


def _check_tasks(spec: Any) -> None:
    named = [d["name"] for d in spec.datasets]
    if not 2 <= len(named) <= MOST_TASKS:
        got = ", ".join(named) or "none"
        raise ValueError(f"datasets must name 2 to {MOST_TASKS} data sets in pair_kind tasks, got {got}")
    for name in ("dataset", "dataset_options"):
        if value := getattr(spec, name):
            raise ValueError(
                f"{name} must be empty in pair_kind tasks, whose data sets are in `datasets`, got {show_value(value)}"
            )
    for i, one in enumerate(spec.datasets):
        if one in spec.datasets[:i]:
            raise ValueError(
                f"datasets must differ, got {one['name']!r} twice with the same options; give one of them other options"
            )
    many = len(named)
    rule = f"be the number of data sets, {many}, in pair_kind tasks; leave it out"
    check("members", spec.members, rule, spec.members == many)

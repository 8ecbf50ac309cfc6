"""SweepSpec: what a user asks for, from YAML, flags or Python; wrong keys and values are named with their line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from search_spaces import Space, load
from search_spaces.space import SpaceError
from trainables.noise import NOISE
from trainables.registry import UnknownName, unknown
from trainables.spec import PairSpec

from .objective import OBJECTIVES
from .samplers import SAMPLERS

_SWEEPS_OWN = {"seed", "repeat", "stack"}


class SpecError(ValueError):
    """A sweep that cannot be run as asked: one clear line."""


class Parameter(BaseModel):
    """Range of one knob: `min` and `max` with a `distribution`, or `values`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)
    distribution: Literal["uniform", "log_uniform", "int_uniform", "int_log_uniform"] = "uniform"
    values: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Parameter:
        if self.values is not None:
            if self.min is not None or self.max is not None:
                raise ValueError("give either values or min and max, not both")
            if not self.values:
                raise ValueError("values must not be empty")
            if twice := [v for i, v in enumerate(self.values) if v in self.values[:i]]:
                raise ValueError(f"values must differ, got {twice[0]!r} twice")
            return self
        if self.min is None or self.max is None:
            raise ValueError("give values, or both min and max")
        if not self.min <= self.max:
            raise ValueError(f"min must be <= max, got min {self.min:g} and max {self.max:g}")
        if "log" in self.distribution and self.min <= 0:
            raise ValueError(f"min of a log distribution must be > 0, got {self.min:g}")
        if "int" in self.distribution and (self.min % 1 or self.max % 1):
            raise ValueError(f"min and max of {self.distribution} must be whole, got {self.min:g} and {self.max:g}")
        return self

    def to_optuna(self, kind: str) -> Any:
        """Return the Optuna distribution.

        Args:
            kind: Type of the trial's field, `float`, `int` or another: numbers in quotes become numbers where the
                field is one (YAML reads 1e-3 as text), and whole fields get whole distributions.

        Raises:
            ValueError: A value is no number where the field is one.
        """
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values is not None:
            return CategoricalDistribution([_number(v, kind) for v in self.values])
        assert self.min is not None
        assert self.max is not None
        log = "log" in self.distribution
        if "int" in self.distribution or kind == "int":
            if self.min % 1 or self.max % 1:
                raise ValueError(f"min and max must be whole, got {self.min:g} and {self.max:g}")
            return IntDistribution(int(self.min), int(self.max), log=log)
        return FloatDistribution(self.min, self.max, log=log)


def _number(value: Any, kind: str) -> Any:
    if kind not in ("float", "int"):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"values must be numbers, got {value!r}") from None
    if kind == "int" and number % 1:
        raise ValueError(f"values must be whole numbers, got {value!r}")
    return int(number) if kind == "int" else number


class SweepSpec(BaseModel):
    """One sweep.

    Attributes:
        space: Name of a search space, or path of a Python file that defines `SPACE`.
        trials: Number of configurations.
        workers: Trials at a time; `auto` is one per CPU (one per GPU where there are GPUs).
        sampler, objective, noise: Names; see `sweeper spaces`, `noises` and the README.
        repeats: Trials of each configuration, with different seeds.
        seed: Seed of the search and of the training randomness.
        out: Run folder; not stored in the run folder itself.
        runner: `ray` (Ray Tune, local or a cluster) or `inline` (this process).
        address: Ray cluster to connect to; None starts a local one.
        max_seconds: No configuration is started after that time.
        max_failed: The sweep is given up after that many failed configurations.
        data: Folder with the data sets.
        stack: Train the repeats of a configuration as one stack: `auto` decides by size.
        threads: torch threads per trial; they are part of the numbers.
        device: torch device of the trials; `auto` is a GPU where there is one.
        parameters: Knobs with other ranges than the space's.
        fixed: Fields of the trial with other values than the space's.

    Raises:
        SpecError: From `load_spec` and `SweepSpec.checked`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: str
    trials: int = Field(40, ge=1, le=1_000_000)
    workers: int | Literal["auto"] = "auto"
    sampler: str = "noise"
    objective: str = "merged_loss"
    noise: str = "paper"
    repeats: int = Field(1, ge=1, le=10_000)
    seed: int = Field(0, ge=0, lt=2**32)
    out: str | None = None
    runner: Literal["ray", "inline"] = "ray"
    address: str | None = None
    max_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_failed: int = Field(10, ge=1)
    data: str | None = None
    stack: Literal["auto", "on", "off"] = "auto"
    threads: int = Field(1, ge=1, le=1024)
    device: str = "auto"
    parameters: dict[str, Parameter] = {}
    fixed: dict[str, Any] = {}

    @field_validator("trials", "repeats", "seed", "threads", "max_failed", "workers", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be a whole number, got {value}")
        return value

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be >= 1 or auto, got {value}")
        return value

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser().absolute()) if value else None

    @field_validator("sampler", "objective", "noise")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        registry: Mapping[str, Any] = {"sampler": SAMPLERS, "objective": OBJECTIVES, "noise": NOISE}[info.field_name]
        if value not in registry:
            raise ValueError(str(unknown(info.field_name, value, registry)))
        return value

    @classmethod
    def checked(cls, values: Mapping[str, Any], lines: Mapping[str, int] | None = None, where: str = "") -> SweepSpec:
        """Build a spec; every error is one line that names the key, and the line of `where` it stands on.

        Raises:
            SpecError: An unknown key, a wrong type or a value that breaks its rule.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SpecError(_explain(error, cls, lines or {}, where)) from None

    def load_space(self) -> Space:
        """Return the search space with this sweep's own ranges and values.

        Raises:
            SpecError: No such space, a wrong field, or a value that breaks a rule.
        """
        try:
            kinds = {f.name: str(f.type) for f in fields(PairSpec)}
            if mine := sorted(_SWEEPS_OWN & (set(self.parameters) | set(self.fixed))):
                raise SpaceError(f"{mine[0]} is set by the sweep; use the keys seed, repeats and stack")
            knobs: dict[str, Any] = {}
            for name, parameter in self.parameters.items():
                try:
                    knobs[name] = parameter.to_optuna(kinds.get(name, ""))
                except ValueError as error:
                    raise SpaceError(f"parameters.{name}: {error}") from None
            space = load(self.space).override(knobs, self.fixed)
            if not space.knobs:
                raise SpaceError(f"space {self.space!r} has no knobs: nothing to search")
            for params in corners(space):
                space.build(params)
        except (SpaceError, UnknownName, ValueError) as error:
            raise SpecError(str(error)) from None
        return space

    def to_yaml(self) -> str:
        """Return the spec as YAML without `out`, so that it reproduces the sweep elsewhere."""
        data = self.model_dump(mode="json", exclude={"out"}, exclude_none=True)
        data["parameters"] = {k: v.model_dump(mode="json", exclude_none=True) for k, v in self.parameters.items()}
        return yaml.safe_dump({k: v for k, v in data.items() if v != {}}, sort_keys=False)

    def identity(self) -> dict[str, Any]:
        """Return what makes two sweeps the same search: all but budget, place and manner of running."""
        free = {"out", "workers", "runner", "address", "max_seconds", "max_failed", "data"}
        if self.sampler != "grid":  # whose levels follow from the number of trials
            free.add("trials")
        return self.model_dump(mode="json", exclude=free)


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield parameters that touch every bound and every choice of every knob, one knob off the first corner each.

    What breaks a rule at a bound shows before the first trial, not in the middle of the sweep.
    """

    def ends(distribution: Any) -> list[Any]:
        return list(getattr(distribution, "choices", None) or (distribution.low, distribution.high))

    # the rest at its largest: the largest batch is the one that may not fit
    first = {name: ends(d)[-1] for name, d in space.knobs.items()}
    yield first
    for name, distribution in space.knobs.items():
        for value in ends(distribution)[:-1]:
            yield {**first, name: value}


_RULES = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a finite number"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping"),
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


def _explain(error: ValidationError, model: type[BaseModel], lines: Mapping[str, int], where: str) -> str:
    texts: list[str] = []
    for item in error.errors():
        path = [str(p) for p in item["loc"] if not (isinstance(p, str) and ("[" in p or p in ("int", "literal")))]
        key = ".".join(path)
        if item["type"] == "extra_forbidden":
            known = Parameter.model_fields if len(path) > 1 and path[0] == "parameters" else model.model_fields
            text = str(unknown("key", path[-1], known))
        else:
            message = _RULES.get(item["type"], re.sub(r"^Value error, |^Input should be ", "", item["msg"]))
            if item["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error"):
                message = "must be " + message
            given = "" if "got " in message or message.startswith("unknown ") else f", got {item['input']!r}"
            message = message if message.startswith("unknown ") else f"{key}: {message[0].lower()}{message[1:]}"
            text = message + given if item["type"] != "missing" else f"{key} is missing"
        line = next((lines[".".join(path[:n])] for n in range(len(path), 0, -1) if ".".join(path[:n]) in lines), None)
        place = f"{where}, line {line}: " if where and line else f"{where}: " if where else ""
        if place + text not in texts:
            texts.append(place + text)
    return texts[0]


def _lines(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            if name in seen:
                raise SpecError(f"line {key.start_mark.line + 1}: the key {name} stands there twice")
            seen.add(name)
            yield name, key.start_mark.line + 1
            yield from _lines(value, name)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a sweep spec file: its values, and the line that each key (dotted) stands on.

    A relative path of a space or data root counts from the file's folder.

    Raises:
        SpecError: The file cannot be read, is not YAML or not a mapping.
    """
    try:
        text = path.read_text()
        data = yaml.safe_load(text)
        lines = dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except SpecError as error:
        raise SpecError(f"{path}, {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if data is None:
        raise SpecError(f"{path} is empty; it must name a space, such as `space: digits_cnn`")
    if not isinstance(data, dict):
        raise SpecError(f"{path} must be a mapping of keys to values, got {type(data).__name__}")
    for key in ("space", "data"):
        value = data.get(key)
        if isinstance(value, str) and (key == "data" or value.endswith(".py")):
            data[key] = os.path.normpath(path.parent / Path(value).expanduser())
    return data, lines


def load_spec(target: str, flags: Mapping[str, Any] | None = None) -> SweepSpec:
    """Build a sweep from `SPACE|spec.yaml` and flags; flags win.

    Args:
        target: Name of a space, path of a user's Python space file, or path of a YAML spec.
        flags: Keys of `SweepSpec`.

    Raises:
        SpecError: Anything wrong with it, in one line.
    """
    flags = dict(flags or {})
    if target.endswith((".yaml", ".yml")):
        values, lines = read_yaml(Path(target))
        for key in flags:
            lines.pop(key, None)
        spec = SweepSpec.checked({**values, **flags}, lines, target)
        try:
            spec.load_space()
        except SpecError as error:
            raise SpecError(_placed(str(error), spec, lines, target)) from None
    else:
        space = str(Path(target).resolve()) if target.endswith(".py") else target
        spec = SweepSpec.checked({"space": space, **flags})
        spec.load_space()
    return spec


def _placed(text: str, spec: SweepSpec, lines: Mapping[str, int], where: str) -> str:
    # the first key under parameters or fixed that the message is about
    for group, names in (("parameters", spec.parameters), ("fixed", spec.fixed)):
        for name in names:
            if re.search(rf"\b{re.escape(name)}\b", text) and f"{group}.{name}" in lines:
                return f"{where}, line {lines[f'{group}.{name}']}: {text}"
    return text

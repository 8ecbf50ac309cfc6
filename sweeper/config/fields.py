"""Field types of a sweep spec: ranges of knobs, priors over the noise, amounts of memory, options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from sweeper.formatting import exact_text

# pydantic's ByteSize cannot replace this: it refuses 16Gi, 1e9 and 0.5, and reads 1.2.3G as one byte
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_bytes(value: Any) -> Any:
    """Return a number of bytes; text may have a unit, such as 500MB (powers of 1000) or 8GiB (powers of 1024).

    Raises:
        ValueError: The text is not an amount of memory.
    """
    if not isinstance(value, str):
        return _refuse_boolean(value)
    match = re.fullmatch(r"\s*([\d.]+(?:e[-+]?\d+)?)\s*([KMGT]?)(i?)B?\s*", value, re.IGNORECASE)
    try:
        number, unit, binary = float(match[1]), match[2].upper(), bool(match[3])  # type: ignore[index]
    except (TypeError, ValueError):
        raise ValueError(f"must be an amount of memory such as 8GB or 500MB, got {value!r}") from None
    return number * (1024 if binary else 1000) ** _POWERS[unit]


def _refuse_boolean(value: Any, kind: str = "a number") -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be {kind}, got {value}")
    return value


# YAML's yes and no are 1 and 0 for pydantic
Whole = Annotated[int, BeforeValidator(partial(_refuse_boolean, kind="a whole number"))]
Amount = Annotated[float, BeforeValidator(partial(_refuse_boolean))]
Bytes = Annotated[float, BeforeValidator(parse_bytes)]


class PriorNoise(BaseModel):
    """Optimal noise of an earlier sweep.

    Attributes:
        best: The optimum, in the unit of the sweep's noise.
        low, high: 90 % interval of the optimum.
        source: Run folder or text that it comes from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    best: float = Field(gt=0, allow_inf_nan=False)
    low: float = Field(gt=0, allow_inf_nan=False)
    high: float = Field(gt=0, allow_inf_nan=False)
    source: str = ""

    @model_validator(mode="after")
    def _check_order(self) -> PriorNoise:
        if not self.low <= self.best <= self.high:
            low, best, high = map(exact_text, (self.low, self.best, self.high))
            raise ValueError(f"must have low <= best <= high, got {low}, {best} and {high}")
        return self


class Parameter(BaseModel):
    """Range of one knob: `min` and `max` with a `distribution`, or `values`.

    `when` names the values of other knobs with which the knob acts. `when` alone keeps the space's range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)
    distribution: Literal["uniform", "log_uniform", "int_uniform", "int_log_uniform"] = "uniform"
    values: tuple[Any, ...] | None = None
    when: dict[str, tuple[Any, ...]] | None = None

    @field_validator("when", mode="before")
    @classmethod
    def _make_lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: v if isinstance(v, list | tuple) else (v,) for k, v in value.items()}

    @property
    def has_range(self) -> bool:
        """Whether it replaces the range of the space."""
        return self.values is not None or self.min is not None

    @model_validator(mode="after")
    def _check_range(self) -> Parameter:
        if self.values is not None:
            if self.min is not None or self.max is not None:
                raise ValueError("give either values or min and max, not both")
            if not self.values:
                raise ValueError("values must not be empty")
            if twice := [v for i, v in enumerate(self.values) if v in self.values[:i]]:
                raise ValueError(f"values must differ, got {twice[0]!r} twice")
            return self
        if self.min is None and self.max is None and self.when:
            return self
        if self.min is None or self.max is None:
            raise ValueError("give values, or both min and max")
        if not self.min <= self.max:
            raise ValueError(f"min must be <= max, got min {exact_text(self.min)} and max {exact_text(self.max)}")
        if "log" in self.distribution and self.min <= 0:
            raise ValueError(f"min of a log distribution must be > 0, got {exact_text(self.min)}")
        if "int" in self.distribution and (self.min % 1 or self.max % 1):
            ends = f"{exact_text(self.min)} and {exact_text(self.max)}"
            raise ValueError(f"min and max of {self.distribution} must be whole, got {ends}")
        return self

    def to_optuna(self, kind: str) -> Any:
        """Return the Optuna distribution.

        Args:
            kind: Type of the trial's field. In a field of type `float` or `int`, text such as "1e-3" becomes a number;
                a field of type `int` gets a distribution of whole numbers.

        Raises:
            ValueError: The field is a number, and a value is not.
        """
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values is not None:
            return CategoricalDistribution([_number(v, kind) for v in self.values])
        assert self.min is not None
        assert self.max is not None
        log = "log" in self.distribution
        if "int" in self.distribution or kind == "int":
            if self.min % 1 or self.max % 1:
                raise ValueError(f"min and max must be whole, got {exact_text(self.min)} and {exact_text(self.max)}")
            return IntDistribution(int(self.min), int(self.max), log=log)
        return FloatDistribution(self.min, self.max, log=log)


def _number(value: Any, kind: str) -> Any:
    if kind not in ("float", "int"):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"values must be numbers, got {value!r}") from None
    if kind == "int" and number % 1:
        raise ValueError(f"values must be whole numbers, got {value!r}")
    return int(number) if kind == "int" else number


def option(
    default: Any,
    description: str,
    group: str,
    *,
    metavar: str = "",
    many: bool = False,
    several: bool = False,
    resumable: bool = False,
    runtime: bool = False,
    identity: bool = True,
    **rules: Any,
) -> Any:
    """Return a field of `SweepSpec` that is also an option of the command line.

    Args:
        default: Default of the field.
        description: One or two sentences for `--help`, the schema and the reference.
        group: Group of options: search, trial, budget or cluster.
        metavar: Placeholder of the value in `--help`; empty for choices and switches.
        many: Whether the option may be repeated, for several values.
        several: Whether one option may take several values.
        resumable: Whether a resume may change the field.
        runtime: Whether `trainables.runtime.Runtime` has the same field.
        identity: Whether a different value makes a different search.
        rules: Further arguments of pydantic's `Field`.
    """
    mark = {"flag": True, "group": group, "metavar": metavar, "many": many, "several": several, "resumable": resumable}
    extra: dict[str, Any] = {"x-option": {**mark, "runtime": runtime, "free": not identity}}
    return Field(default, description=description, json_schema_extra=extra, **rules)


def marks(field: FieldInfo) -> Mapping[str, Any]:
    """Return the marks that `option` sets on a field; empty for other fields."""
    extra = field.json_schema_extra
    return cast(Mapping[str, Any], extra.get("x-option", {})) if isinstance(extra, dict) else {}

"""SweepSpec: what a user asks for, from YAML, flags or Python; wrong keys and values are named with their line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from search_spaces import Space, load
from search_spaces._space import SpaceError
from sweeper.config.fields import Parameter, PriorNoise, parse_bytes
from sweeper.config.points import checked_points
from sweeper.config.resources import Resources
from sweeper.config.space import corners
from sweeper.config.yaml_source import explain
from sweeper.config.yaml_text import write_stored
from sweeper.errors import SpecError
from sweeper.search.objectives import OBJECTIVES
from sweeper.search.samplers import SAMPLERS
from trainables.noise import NOISE
from trainables.registry import UnknownName, unknown
from trainables.runtime import Runtime
from trainables.spec import PairSpec

# where data comes from: the same sweep on another machine has others
_PLACES = ("data", "download", "cache", "resident_share", "loader_workers")
_RUNTIME = (*_PLACES[1:], "threads", "measure", "landscape", "plane", "deterministic",
            "checkpoint_steps")  # fmt: skip
_SWEEPS_OWN = {"seed", "repeat", "stack"}
_MOST_WORKERS = 100_000


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
        max_gpu_hours: No configuration is started once the trials have held GPUs that long, all drivers together;
            trials on a CPU count nothing.
        until_interval: No configuration is started once the 90 % interval of the best noise is narrower than that
            factor; see `sweeper.runner.budgets`.
        max_failed: The sweep is given up after that many failed configurations.
        max_failures: So often a configuration is run again whose process or node died.
        checkpoint_steps: Optimizer steps after which a running trial is written so that it can go on from there; None
            is about a minute's, 0 writes none.
        resources: What each trial takes of the cluster; see `sweeper.config.resources.Resources`.
        further_objectives: Objectives beside the first, which ranks the trials; a list as `objective` sets both.
        prior: Optimal noises of earlier sweeps, or run folders from which the sweep's start reads them.
        enqueue: Configurations to try first, as values of knobs; the sampler fills in those that are left out.
        max_memory, max_step_time: Largest allocation on the device [bytes, or text such as 8GB] and longest optimizer
            step [s] of a trial that may win.
        prune, rungs: Whether hopeless trials are stopped at one of so many checks on their way.
        data: Folder with the data sets.
        download: Whether data sets may be fetched into it.
        cache: Folder for unpacked archives; None is `sweeper` in the user's cache folder.
        resident_share, loader_workers: Share of the device's free memory that a data set may take to be resident; a
            larger one is read by so many processes. The numbers are the same.
        stack: Train the repeats of a configuration as one stack: `auto` decides by size.
        threads: torch threads per trial; they are part of the numbers.
        device: torch device of the trials; `auto` is a GPU where there is one.
        deterministic: torch's deterministic algorithms only.
        measure: Gradient measurements of each child while training; None spends 2 % of the trial, 0 measures nothing.
        landscape: Hessian traces, sharpness and excess barrier of every trial.
        plane: Points a side of each trial's loss plane; 0 leaves it out.
        smoke: The space's small variant, which runs in seconds on a CPU.
        parameters: Knobs with other ranges than the space's.
        fixed: Fields of the trial with other values than the space's; `dataset_options.path` is one entry of a field.

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
    max_gpu_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    until_interval: float | None = Field(None, ge=1, allow_inf_nan=False)
    max_failed: int = Field(10, ge=1)
    max_failures: int = Field(2, ge=0, le=1000)
    checkpoint_steps: int | None = Field(None, ge=0, le=1_000_000_000)
    resources: Resources = Field(default_factory=lambda: Resources.model_validate({}))
    further_objectives: tuple[str, ...] = ()
    prior: tuple[PriorNoise | str, ...] = ()
    enqueue: tuple[dict[str, Any], ...] = ()
    max_memory: Annotated[float, BeforeValidator(parse_bytes)] | None = Field(None, gt=0, allow_inf_nan=False)
    max_step_time: float | None = Field(None, gt=0, allow_inf_nan=False)
    prune: bool = False
    rungs: int = Field(3, ge=1, le=16)
    data: str | None = None
    stack: Literal["auto", "on", "off"] = "auto"
    threads: int = Field(1, ge=1, le=1024)
    device: str = "auto"
    deterministic: bool = False
    measure: int | None = Field(None, ge=0, le=1_000_000)
    landscape: bool = False
    plane: int = Field(0, ge=0, le=501)
    smoke: bool = False
    download: bool = False
    cache: str | None = None
    resident_share: float = Field(0.5, ge=0, le=1)
    loader_workers: int = Field(2, ge=0, le=256)
    parameters: dict[str, Parameter] = {}
    fixed: dict[str, Any] = {}

    @field_validator(
        "trials", "repeats", "seed", "threads", "max_failed", "max_failures", "workers", "measure", "plane",
        "checkpoint_steps", "loader_workers", "rungs", mode="before",
    )  # fmt: skip
    @classmethod
    def _no_truth_values(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be a whole number, got {value}")
        return value

    @field_validator(
        "max_seconds", "max_gpu_hours", "until_interval", "max_memory", "max_step_time", "resident_share", mode="before"
    )
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be a number, got {value}")
        return value

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be >= 1 or auto, got {value}")
        if isinstance(value, int) and value > _MOST_WORKERS:
            raise ValueError(f"must be at most {_MOST_WORKERS}, got {value}")
        return value

    @field_validator("plane")
    @classmethod
    def _plane(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (no plane) or at least 2 points a side, got 1")
        return value

    @model_validator(mode="before")
    @classmethod
    def _several_objectives(cls, values: Any) -> Any:
        named = values.get("objective") if isinstance(values, dict) else None
        if not isinstance(named, list | tuple) or not named:
            return values
        return {**values, "objective": named[0], "further_objectives": tuple(named[1:])}

    @field_validator("further_objectives")
    @classmethod
    def _known_objectives(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for i, name in enumerate(value):
            if name not in OBJECTIVES:
                raise ValueError(str(unknown("objective", name, OBJECTIVES)))
            if name in (info.data.get("objective"), *value[:i]):
                raise ValueError(f"objectives must differ, got {name!r} twice")
        sampler = info.data.get("sampler")
        if value and sampler and not SAMPLERS[sampler].several:
            others = ", ".join(n for n, s in SAMPLERS.items() if s.several)
            raise ValueError(f"sampler {sampler} searches one objective; take one of {others}, got {len(value)} more")
        return value

    @field_validator("prior")
    @classmethod
    def _prior_is_used(cls, value: tuple[PriorNoise | str, ...], info: Any) -> tuple[PriorNoise | str, ...]:
        sampler = info.data.get("sampler")
        if value and sampler not in (None, "noise"):
            raise ValueError(f"only sampler noise takes one, and enqueue known good points for others; got {sampler}")
        return value

    @field_validator("enqueue")
    @classmethod
    def _enqueued_fit(cls, value: tuple[dict[str, Any], ...], info: Any) -> tuple[dict[str, Any], ...]:
        if len(value) > info.data.get("trials", math.inf):
            raise ValueError(f"must be at most trials = {info.data['trials']} configurations, got {len(value)}")
        return value

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of all objectives, the first one ranks."""
        return (self.objective, *self.further_objectives)

    @field_validator("data", "cache")
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
            raise SpecError(explain(error, cls, lines or {}, where)) from None

    def load_space(self, find: Callable[[str], Space] = load) -> Space:
        """Return the search space with this sweep's own ranges and values; a user's space file is executed.

        Args:
            find: Name or path -> the space; a server has one that executes nothing in its own process.

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
                    if parameter.ranged:
                        knobs[name] = parameter.to_optuna(kinds.get(name, ""))
                except ValueError as error:
                    raise SpaceError(f"parameters.{name}: {error}") from None
            space = find(self.space)
            space = space.small() if self.smoke else space
            when = self._conditions(space, {**space.knobs, **knobs})
            space = space.override(knobs, self.fixed, when)
            if not space.knobs:
                raise SpaceError(f"space {self.space!r} has no knobs: nothing to search")
            for params in corners(space):
                space.build(params)
            checked_points(space, self.enqueue)
        except (SpaceError, UnknownName, ValueError) as error:
            raise SpecError(str(error)) from None
        return space

    def _conditions(self, space: Space, knobs: Mapping[str, Any]) -> dict[str, Mapping[str, tuple[Any, ...]]]:
        for name, parameter in self.parameters.items():
            if not parameter.ranged and name not in space.knobs:
                raise SpaceError(f"parameters.{name}: give values, or both min and max: it is no knob of the space")
        # numbers in YAML's text become the choices' own
        return {
            name: {other: tuple(_choice(v, knobs.get(other)) for v in values) for other, values in p.when.items()}
            for name, p in self.parameters.items()
            if p.when is not None
        }

    def runtime(self, bases: Path | None, device: str | None = None) -> Runtime:
        """Return where and how the trials run: shared weights go to the folder `bases`, None keeps them in memory."""
        return Runtime(
            data_root=self.data,
            bases=None if bases is None else str(bases),
            device=device or self.device,
            rungs=self.rungs if self.prune else 0,
            **{name: getattr(self, name) for name in _RUNTIME},
        )

    def asked(self) -> dict[str, Any]:
        """Return the keys that were given, as JSON can hold them: defaults that are written down make another spec."""
        return self.model_dump(mode="json", exclude_unset=True)

    def to_yaml(self) -> str:
        """Return the spec as YAML without `out`, so that it reproduces the sweep elsewhere."""
        data = self.model_dump(mode="json", exclude={"out"}, exclude_none=True)
        data["parameters"] = {k: v.model_dump(mode="json", exclude_none=True) for k, v in self.parameters.items()}
        data["resources"] = self.resources.model_dump(mode="json", exclude_defaults=True)
        return write_stored({k: v for k, v in data.items() if v not in ({}, [])})

    def identity(self) -> dict[str, Any]:
        """Return what makes two sweeps the same search: all but budget, place and manner of running."""
        free = {
            "out", "workers", "runner", "address", "max_seconds", "max_gpu_hours", "until_interval", "max_failed",
            "max_failures", "resources", "checkpoint_steps", *_PLACES
        }  # fmt: skip
        if self.sampler != "grid":  # whose levels follow from the number of trials
            free.add("trials")
        found = self.model_dump(mode="json", exclude=free)
        # where a prior comes from changes nothing
        return {**found, "prior": [p if isinstance(p, str) else {**p, "source": ""} for p in found["prior"]]}


def _choice(value: Any, distribution: Any) -> Any:
    return next((c for c in getattr(distribution, "choices", ()) if c == value or str(c) == value), value)


RUN_KEYS = (
    "trials", "sampler", "objective", "noise", "repeats", "seed", "stack", "threads", "device", "out", "smoke",
    "measure", "landscape", "plane", "deterministic", "prior", "enqueue", "max_memory", "max_step_time", "prune",
    "rungs",
)  # fmt: skip


MACHINE_KEYS = (
    "workers", "runner", "address", "resources", "max_failures", "checkpoint_steps", "max_seconds", "max_gpu_hours",
    "until_interval", "max_failed", "data", "download", "cache", "resident_share", "loader_workers",
)  # fmt: skip

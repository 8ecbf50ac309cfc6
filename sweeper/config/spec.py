"""SweepSpec: the settings of a sweep, from YAML, flags or Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticUndefined

from sweeper.config.fields import Amount, Bytes, Parameter, PriorNoise, Whole, marks, option
from sweeper.config.resources import Resources
from sweeper.config.yaml_source import explain
from sweeper.config.yaml_text import write_stored
from sweeper.errors import SpecError
from sweeper.search.objectives import OBJECTIVES
from sweeper.search.samplers import SAMPLERS
from sweeper.search.stages import DEFAULT_CONFIRM, DEFAULT_MAP
from trainables.noise import NOISE
from trainables.registry import unknown
from trainables.runtime import Runtime

_MOST_WORKERS = 100_000


class SweepSpec(BaseModel):
    """Settings of one sweep; see the description of each field.

    Raises:
        SpecError: From `sweeper.config.load.load_sweep` and `SweepSpec.checked`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: str = Field(description="Search space: its name, or a Python file that defines `SPACE`.")
    trials: Whole = option(
        40, "Configurations to try.", "search", resumable=True, identity=False, metavar="N", ge=1, le=1_000_000
    )
    workers: Whole | Literal["auto"] = option(
        "auto", "Trials at a time; `auto` is one per CPU, or one per GPU.", "cluster", resumable=True, identity=False,
        metavar="N",
    )  # fmt: skip
    sampler: str = option(
        "noise",
        "`noise` targets the best noise; `tpe`, `gp` and `cmaes` are Optuna's; `qmc`, `random` and `grid` are designs.",
        "search",
        metavar="NAME",
    )
    objective: str = option(
        "merged_loss",
        "Score to optimise, on validation: `merged_loss`, `merged_accuracy`, `gain_mean`, `gain_best`, `barrier`, or "
        "`cost` in device seconds; with several tasks also `gain_tasks` (the default of text), `normalised_accuracy`, "
        "`chosen_normalised_accuracy` (of images) and `worst_normalised_accuracy`. The first of "
        "several objectives ranks the trials.",
        "search",
        metavar="NAME",
        many=True,
    )
    noise: str = option(
        "paper",
        "Predicted noise scale to target and to show (default: paper, and adam_sde with AdamW; where "
        "augmentation varies in trained networks with --measure above 0, paper_aug).",
        "search",
        metavar="NAME",
    )
    map: Amount | None = option(
        None,
        "Share of the trials that map the noise by a design, on which the evidence rests "
        f"(default: {DEFAULT_MAP:g} with sampler noise, else 0).",
        "search",
        metavar="SHARE",
        ge=0,
        le=1,
    )
    confirm: Amount | None = option(
        None,
        "Share of the trials that confirm the answer with fresh seeds: half of them choose the winner, the others "
        "report it. Fewer than 4 go to the search "
        f"(default: {DEFAULT_CONFIRM:g} with sampler noise and one objective, else 0).",
        "search",
        metavar="SHARE",
        ge=0,
        le=1,
    )
    proxy: Amount | None = option(
        None,
        "Share F of the training budget of the map, in (0, 1). Search and confirmation run in full "
        "(default: the map, too).",
        "search",
        metavar="F",
        gt=0,
        lt=1,
    )
    order: Literal["fixed", "free"] | None = option(
        None,
        "`fixed`: a proposal uses the results of a fixed number of earlier trials, so that the same command gives the "
        "same trials; `free`: it uses all results so far (default: fixed, free with --prune).",
        "search",
    )
    repeats: Whole = option(
        1, "Trials per configuration, with different seeds.", "search", metavar="N", ge=1, le=10_000
    )
    seed: Whole = option(
        0,
        "Seed of search and training. A trial is a function of its spec and device. With `--order free`, the proposals "
        "of an adaptive sampler also depend on the order in which workers finish.",
        "search",
        metavar="N",
        ge=0,
        lt=2**32,
    )
    out: str | None = option(
        None, "Run folder, or its URI: s3://BUCKET/PATH, gs://..., file://... (default: runs/SPACE-TIME).", "cluster",
        identity=False, metavar="DIR",
    )  # fmt: skip
    runner: Literal["ray", "inline"] = option(
        "ray", "`ray` runs trials on Ray; `inline` runs the same trials in this process.", "cluster", resumable=True,
        identity=False,
    )  # fmt: skip
    address: str | None = option(
        None, "Ray cluster: HOST:PORT, `auto` on a node of it, or `local` (default: RAY_ADDRESS, else local).",
        "cluster", resumable=True, identity=False, metavar="ADDR",
    )  # fmt: skip
    max_seconds: Amount | None = option(
        None, "Start no configuration after S seconds.", "budget", resumable=True, identity=False, metavar="S", gt=0,
        allow_inf_nan=False,
    )  # fmt: skip
    max_gpu_hours: Amount | None = option(
        None, "Start no configuration once the trials have held GPUs for H hours, in all sessions together.",
        "budget", resumable=True, identity=False, metavar="H", gt=0, allow_inf_nan=False,
    )  # fmt: skip
    until_interval: Amount | None = option(
        None, "Start no configuration once the 90 % interval of the best noise is narrower than a factor X.",
        "budget", resumable=True, identity=False, metavar="X", ge=1, allow_inf_nan=False,
    )  # fmt: skip
    max_failed: Whole = option(
        10, "Give up after N failed configurations, with exit code 3.", "budget", resumable=True, identity=False,
        metavar="N", ge=1,
    )  # fmt: skip
    max_failures: Whole = option(
        2, "Run a configuration again up to N times when its process or node dies.", "budget", resumable=True,
        identity=False, metavar="N", ge=0, le=1000,
    )  # fmt: skip
    checkpoint_steps: Whole | None = option(
        None, "Save running trials every K optimizer steps; 0 never does (default: about every minute).", "trial",
        resumable=True, identity=False, runtime=True, metavar="K", ge=0, le=1_000_000_000,
    )  # fmt: skip
    resources: Resources = option(
        PydanticUndefined, "Resources of a trial, such as gpus_per_member=1 or gpus_per_pair=0.25.", "cluster",
        resumable=True, identity=False, metavar="KEY=VALUE", many=True,
        default_factory=lambda: Resources.model_validate({}),
    )  # fmt: skip
    track: tuple[Literal["tensorboard", "wandb", "none"], ...] = option(
        (), "Program that also gets each finished trial: `tensorboard` or `wandb`; `none` ends that at a resume.",
        "cluster", resumable=True, identity=False, metavar="NAME", many=True,
    )  # fmt: skip
    further_objectives: tuple[str, ...] = Field(
        (), description="Objectives beside the first; a list as `objective` sets both."
    )
    prior: tuple[PriorNoise | str, ...] = option(
        (), "Run folders of finished sweeps: their best noise is the prior of sampler `noise`.", "search",
        metavar="DIR", many=True, several=True,
    )  # fmt: skip
    enqueue: tuple[dict[str, Any], ...] = option(
        (),
        "File of configurations to try first: YAML, JSON, or CSV as `sweeper export` writes it. The sampler fills in "
        "missing knobs.",
        "search",
        metavar="FILE",
    )
    max_memory: Bytes | None = option(
        None, "Largest allocation on the device of a trial that may win [bytes], such as 8GB.", "search",
        metavar="BYTES", gt=0, allow_inf_nan=False,
    )  # fmt: skip
    max_step_time: Amount | None = option(
        None, "Longest optimizer step of a trial that may win [s].", "search", metavar="S", gt=0, allow_inf_nan=False
    )
    prune: bool = option(False, "Stop hopeless trials at a rung.", "search")
    rungs: Whole = option(3, "Rungs: checks during a trial at which it may stop.", "search", metavar="N", ge=1, le=16)
    data: str | None = option(
        None, "Folder with the data sets, as torchvision lays them out.", "trial", resumable=True, identity=False,
        metavar="ROOT",
    )  # fmt: skip
    stack: Literal["auto", "on", "off"] = option(
        "auto", "Train the repeats of a configuration as one `torch.func` stack: `auto` decides by size.", "trial"
    )
    graphs: Literal["auto", "on", "off"] = option("off", "Replay each training step as one CUDA graph.", "trial")
    threads: Whole = option(
        1, "torch threads per trial; they are part of the numbers.", "trial", runtime=True, metavar="N", ge=1, le=1024
    )
    device: str = option("auto", "torch device of the trials; `auto` takes a GPU if there is one.", "trial",
                         metavar="NAME")  # fmt: skip
    deterministic: bool = option(
        False, "Use deterministic algorithms only; repeated trials on a GPU agree bit for bit.", "trial", runtime=True
    )
    measure: Whole | None = option(
        None, "Gradient measurements per child; 0 measures nothing (default: 2 % of the training).", "trial",
        runtime=True, metavar="K", ge=0, le=1_000_000,
    )  # fmt: skip
    landscape: bool = option(
        False, "Measure Hessian traces, sharpness and the excess barrier of every trial.", "trial", runtime=True
    )
    plane: Whole = option(
        0, "Loss plane through base and children, with N points a side.", "trial", runtime=True, metavar="N", ge=0,
        le=501,
    )  # fmt: skip
    smoke: bool = option(False, "Use the space's small variant, which runs in seconds on a CPU.", "search")
    download: bool = option(
        False, "Fetch missing data sets, and models of the hub.", "trial", resumable=True, identity=False, runtime=True
    )
    cache: str | None = option(
        None, "Folder for unpacked archives and decoded images (default: the user's cache folder).", "trial",
        resumable=True, identity=False, runtime=True, metavar="DIR",
    )  # fmt: skip
    resident_share: Amount = option(
        0.5, "Share of the device's free memory that a resident data set may take. The numbers stay the same.",
        "trial", resumable=True, identity=False, runtime=True, metavar="X", ge=0, le=1,
    )  # fmt: skip
    loader_workers: Whole = option(
        2, "Processes that read a data set that is not resident.", "trial", resumable=True, identity=False,
        runtime=True, metavar="N", ge=0, le=256,
    )  # fmt: skip
    parameters: dict[str, Parameter] = Field({}, description="Knobs with other ranges than the space's.")
    fixed: dict[str, Any] = Field(
        {},
        description="Fields of the trial with fixed values; `dataset_options.path` sets one entry of a field.",
    )

    @field_validator("workers")
    @classmethod
    def _check_workers(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be >= 1 or auto, got {value}")
        if isinstance(value, int) and value > _MOST_WORKERS:
            raise ValueError(f"must be at most {_MOST_WORKERS}, got {value}")
        return value

    @field_validator("plane")
    @classmethod
    def _check_plane(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (no plane) or at least 2 points a side, got 1")
        return value

    @model_validator(mode="before")
    @classmethod
    def _split_objectives(cls, values: Any) -> Any:
        names = values.get("objective") if isinstance(values, dict) else None
        if not isinstance(names, list | tuple) or not names:
            return values
        return {**values, "objective": names[0], "further_objectives": tuple(names[1:])}

    @field_validator("track", mode="before")
    @classmethod
    def _split_trackers(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("further_objectives")
    @classmethod
    def _check_objectives(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
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
    def _check_prior(cls, value: tuple[PriorNoise | str, ...], info: Any) -> tuple[PriorNoise | str, ...]:
        sampler = info.data.get("sampler")
        if value and sampler not in (None, "noise"):
            raise ValueError(
                f"only sampler noise takes a prior, got {sampler}; for other samplers enqueue good configurations"
            )
        return value

    @model_validator(mode="after")
    def _check_stages(self) -> SweepSpec:
        shares = {name: share for name in ("map", "confirm") if (share := getattr(self, name))}
        if sum(shares.values()) > 1:
            raise ValueError(f"map + confirm must be at most 1, got {self.map:g} + {self.confirm:g}")
        design = SAMPLERS[self.sampler].design is not None
        if self.map and design:
            raise ValueError(f"map needs an adaptive sampler, and {self.sampler} is a design itself: leave map out")
        if self.confirm and self.sampler == "grid":
            raise ValueError("confirm cannot follow sampler grid, whose size the levels decide: leave confirm out")
        if self.confirm and self.further_objectives:
            raise ValueError(f"confirm needs a single objective, got {len(self.objectives)}: leave confirm out")
        return self

    @model_validator(mode="after")
    def _check_proxy(self) -> SweepSpec:
        if self.proxy is None:
            return self
        if self.sampler != "noise":
            raise ValueError(f"proxy needs sampler noise, which compares the budgets, got {self.sampler}")
        if self.map == 0:
            raise ValueError("proxy shortens the trials of the map, and map is 0: give map a share, or leave proxy out")
        if self.further_objectives:
            raise ValueError(f"proxy needs a single objective, got {len(self.objectives)}: leave proxy out")
        if self.objective == "cost":
            raise ValueError("proxy changes the cost of a trial, which is the objective: leave proxy out")
        return self

    @field_validator("enqueue")
    @classmethod
    def _check_enqueue(cls, value: tuple[dict[str, Any], ...], info: Any) -> tuple[dict[str, Any], ...]:
        if len(value) > info.data.get("trials", math.inf):
            raise ValueError(f"must be at most trials = {info.data['trials']} configurations, got {len(value)}")
        return value

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of all objectives; the first one ranks the trials."""
        return (self.objective, *self.further_objectives)

    @field_validator("data", "cache")
    @classmethod
    def _make_absolute(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser().absolute()) if value else None

    @field_validator("sampler", "objective", "noise")
    @classmethod
    def _check_name(cls, value: str, info: Any) -> str:
        registry: Mapping[str, Any] = {"sampler": SAMPLERS, "objective": OBJECTIVES, "noise": NOISE}[info.field_name]
        if value not in registry:
            raise ValueError(str(unknown(info.field_name, value, registry)))
        return value

    @classmethod
    def checked(cls, values: Mapping[str, Any], lines: Mapping[str, int] | None = None, where: str = "") -> SweepSpec:
        """Return the spec with these values.

        Args:
            values: Keys and their values.
            lines: Dotted key -> its line in the file `where`.
            where: Name of that file, for messages.

        Raises:
            SpecError: A key is unknown, a type is wrong, or a value breaks its rule. The message is one line, with the
                key and its line in the file.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SpecError(explain(error, cls, lines or {}, where)) from None

    def runtime(self, bases: Path | None, device: str | None = None) -> Runtime:
        """Return the runtime of the trials.

        Args:
            bases: Folder for shared weights; None keeps them in memory.
            device: Device of the trials; None takes the sweep's.
        """
        return Runtime(
            data_root=self.data,
            bases=None if bases is None else str(bases),
            device=device or self.device,
            rungs=self.rungs if self.prune else 0,
            **{name: getattr(self, name) for name in keys("runtime")},
        )

    def dump_explicit(self) -> dict[str, Any]:
        """Return the keys that the user set, for JSON; a default that is written down makes another spec."""
        return self.model_dump(mode="json", exclude_unset=True)

    def to_yaml(self) -> str:
        """Return the spec as YAML without `out`, to reproduce the sweep in another folder."""
        data = self.model_dump(mode="json", exclude={"out"}, exclude_none=True)
        data["parameters"] = {k: v.model_dump(mode="json", exclude_none=True) for k, v in self.parameters.items()}
        data["resources"] = self.resources.model_dump(mode="json", exclude_defaults=True)
        return write_stored({k: v for k, v in data.items() if v not in ({}, [])})

    def identity(self) -> dict[str, Any]:
        """Return the keys that define the search: all but its budget, its place and the way it runs."""
        free = set(keys("free"))
        if self.sampler == "grid":  # the number of trials decides its levels
            free.remove("trials")
        values = self.model_dump(mode="json", exclude=free)
        # a spec of an earlier version has no stages
        values |= {"map": self.map or 0.0, "confirm": self.confirm or 0.0, "order": self.order or "free"}
        # the source of a prior changes nothing
        return {**values, "prior": [p if isinstance(p, str) else {**p, "source": ""} for p in values["prior"]]}


def keys(mark: str) -> tuple[str, ...]:
    """Return the names of the fields of `SweepSpec` with a mark of `sweeper.config.fields.option`, in their order.

    Args:
        mark: `flag` (an option of the command line), `resumable`, `runtime`, or `free` (not part of the search's
            identity).
    """
    return tuple(name for name, field in SweepSpec.model_fields.items() if marks(field).get(mark))

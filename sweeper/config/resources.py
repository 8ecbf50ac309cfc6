"""Resources of a trial."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sweeper.config.fields import Amount, Bytes, Whole
from sweeper.errors import SpecError


class Resources(BaseModel):
    """Resources of one trial; see the description of each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus_per_pair: Amount | None = Field(
        None,
        description="GPUs of one process that trains the children one after the other; a fraction shares a GPU among "
        "trials (default: one GPU if there are GPUs).",
        ge=0,
        le=1024,
        allow_inf_nan=False,
    )
    gpus_per_member: Whole | None = Field(
        None,
        description="GPUs per child. All children train at the same time, one process per GPU.",
        ge=1,
        le=1024,
    )
    ranks_per_member: Whole | None = Field(
        None, description="Processes per child on CPUs. All children train at the same time.", ge=1, le=1024
    )
    cpus_per_rank: Amount | None = Field(
        None, description="CPUs per process (default: the sweep's `threads`).", gt=0, allow_inf_nan=False
    )
    memory_per_rank: Bytes | None = Field(
        None, description="Memory that each process reserves [bytes], such as 8GB.", gt=0, allow_inf_nan=False
    )
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK", description="Placement of a trial's processes on nodes."
    )
    custom: dict[str, float] = Field({}, description="Custom Ray resources per process.")
    labels: dict[str, str] = Field({}, description="Labels of the nodes on which the processes run.")
    autoscaling: bool = Field(
        False, description="The cluster adds nodes on demand: the sweep waits for them instead of failing."
    )

    @model_validator(mode="after")
    def _check_layout(self) -> Resources:
        if self.gpus_per_pair is not None and self.ranks is not None:
            raise ValueError("give gpus_per_pair (one process per trial) or gpus_per_member, not both")
        pair = self.gpus_per_pair
        if pair is not None and pair > 1 and pair != int(pair):
            raise ValueError(f"gpus_per_pair must be a fraction up to 1 or a whole number, got {pair:g}")
        if self.gpus_per_member and self.ranks_per_member not in (None, self.gpus_per_member):
            raise ValueError(f"ranks_per_member must be gpus_per_member: leave it out, got {self.ranks_per_member}")
        wrong = [f"{name}: {amount:g}" for name, amount in self.custom.items() if not amount > 0]
        if wrong or {"CPU", "GPU", "memory"} & set(self.custom):
            raise ValueError(f"custom must give amounts > 0 of resources other than CPU, GPU and memory, got {wrong}")
        return self

    @property
    def ranks(self) -> int | None:
        """Number of processes that train one child; None if one process trains all children of a trial."""
        return self.gpus_per_member or self.ranks_per_member

    def gpus(self, members: int) -> float:
        """Return the number of GPUs that a trial with this number of children holds on a machine with GPUs."""
        return self.gpus_per_member * members if self.gpus_per_member else self.gpus_per_pair or 1.0

    @property
    def without_gpus(self) -> str:
        """The setting that keeps trials off GPUs, as `key: value`; empty without one."""
        if self.gpus_per_pair == 0:
            return "gpus_per_pair: 0"
        return f"ranks_per_member: {self.ranks_per_member}" if self.ranks and not self.gpus_per_member else ""

    def device(self, name: str) -> str:
        """Return the device of the trials for the sweep's key `device`; trials that reserve no GPU run on the CPU.

        Raises:
            SpecError: The sweep names a GPU, and its trials reserve none.
        """
        if self.without_gpus and name.startswith("cuda"):
            raise SpecError(
                f"device {name!r} needs GPUs, and resources.{self.without_gpus} reserves none: give gpus_per_pair or "
                "gpus_per_member instead, or --device cpu"
            )
        return "cpu" if self.without_gpus and name == "auto" else name

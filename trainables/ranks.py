"""The processes that train one child together: `torch.distributed` as far as training needs it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes of a child.

    Attributes:
        rank: From 0.
        size: Number of processes; 1 trains alone.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process scores and reports."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of `value` over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value


def ranks() -> Ranks:
    """Return this process's place in the group that is open, alone where there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def launched() -> Generator[str | None]:
    """Join the group that `torchrun` describes in the environment, for the block.

    Yields:
        The device of this process where the group runs on GPUs (NCCL), else None (gloo on CPUs, or no group).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    accelerated = torch.cuda.is_available() and local < torch.cuda.device_count()
    if accelerated:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if accelerated else "gloo")
    try:
        yield f"cuda:{local}" if accelerated else None
    finally:
        dist.destroy_process_group()

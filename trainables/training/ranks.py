"""The processes that train one child together: `torch.distributed` as far as training needs it."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore


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


def hosted(host: str, size: int) -> TCPStore:
    """Return the meeting point of a group on a free port of this machine; `.port` tells the others.

    Args:
        host: Address of this machine that the others reach.
        size: Number of processes.
    """
    # by itself it listens on every interface, and it asks for no token
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        port, handle = listening.getsockname()[1], listening.detach()
    return TCPStore(host, port, size, is_master=True, wait_for_workers=False, master_listen_fd=handle)


def join_group(host: str, port: int, rank: int, size: int, device: str, store: TCPStore | None = None) -> None:
    """Join a group of processes that train one child together; NCCL on GPUs, gloo on CPUs.

    Args:
        host: Address where the group meets.
        port: Its port.
        rank: Of this process.
        size: Number of processes.
        device: What this process trains on.
        store: The meeting point, in the process that hosts it.
    """
    store = store or TCPStore(host, port, size, is_master=False)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", store=store, rank=rank, world_size=size)

"""Groups of processes that train one child together, by `torch.distributed`."""

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
    """Position of this process among the processes of a child.

    Attributes:
        rank: From 0.
        size: Number of processes; 1 means no group.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this process scores and reports."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of `value` over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value


def ranks() -> Ranks:
    """Return the position of this process in the open group; without a group, rank 0 of 1."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def join_launched_group() -> Generator[str | None]:
    """Join the group that `torchrun` describes in the environment, during the block.

    Yields:
        The device of this process if the group runs on GPUs (NCCL), else None (gloo on CPUs, or no group).
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


def host_group(host: str, size: int) -> TCPStore:
    """Return the store of a group on a free port of this machine; `.port` is its port.

    Args:
        host: Address of this machine that the other processes can reach.
        size: Number of processes.
    """
    # by default TCPStore listens on every interface, without authentication
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        port, handle = listening.getsockname()[1], listening.detach()
    return TCPStore(host, port, size, is_master=True, wait_for_workers=False, master_listen_fd=handle)


def join_group(host: str, port: int, rank: int, size: int, device: str, store: TCPStore | None = None) -> None:
    """Join a group of processes that train one child together; NCCL on GPUs, gloo on CPUs.

    Args:
        host: Address of the group's store.
        port: Port of the store.
        rank: Rank of this process.
        size: Number of processes.
        device: Device of this process.
        store: The store, in the process that hosts it.
    """
    store = store or TCPStore(host, port, size, is_master=False)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", store=store, rank=rank, world_size=size)

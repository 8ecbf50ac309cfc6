"""The one place that seeds torch's global generators, which dropout draws from and model builders use."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Generator[None]:
    """Run the block with the global generators of the CPU and of `device` seeded; they come back as they were.

    Args:
        seed: Seed of the block.
        device: Device whose generator the block draws from besides the CPU's.
    """
    device = torch.device(device)
    accelerated = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if accelerated else []):  # pyright: ignore[reportUnknownMemberType]
        # torch.manual_seed would seed every GPU for good
        torch.default_generator.manual_seed(seed)
        if accelerated:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield

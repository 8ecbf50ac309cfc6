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


class Stream:
    """A block's draws from the global generators that can be left and taken up again.

    Args:
        seed: Seed of its start.
        device: As in `seeded`.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed, self.device = seed, torch.device(device)
        self.states: tuple[torch.Tensor, torch.Tensor | None] | None = None

    @contextmanager
    def entered(self) -> Generator[None]:
        """Run the block where the last one ended; the global generators come back as they were."""
        accelerated = self.device.type == "cuda"
        with seeded(self.seed, self.device):
            if self.states is not None:
                torch.default_generator.set_state(self.states[0])
                if self.states[1] is not None:
                    torch.cuda.set_rng_state(self.states[1], self.device)
            try:
                yield
            finally:
                of_device = torch.cuda.get_rng_state(self.device) if accelerated else None
                self.states = torch.default_generator.get_state(), of_device

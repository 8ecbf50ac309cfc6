"""Seeds of torch's global generators, which dropout and model builders use; no other module seeds them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def seed_generators(seed: int, device: torch.device | str = "cpu") -> Generator[None]:
    """Run the block with seeded global generators of the CPU and of `device`; restore their states afterwards.

    Args:
        seed: Seed of the block.
        device: Device whose generator is seeded besides the CPU's.
    """
    device = torch.device(device)
    accelerated = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if accelerated else []):  # pyright: ignore[reportUnknownMemberType]
        # torch.manual_seed would seed every GPU permanently
        torch.default_generator.manual_seed(seed)
        if accelerated:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class Stream:
    """A stream of draws from the global generators that can pause and resume.

    Args:
        seed: Seed of the first block.
        device: As in `seed_generators`.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed, self.device = seed, torch.device(device)
        self.states: tuple[torch.Tensor, torch.Tensor | None] | None = None

    @contextmanager
    def enter(self) -> Generator[None]:
        """Run the block with the generator states at the end of the last one; restore the global states afterwards."""
        accelerated = self.device.type == "cuda"
        with seed_generators(self.seed, self.device):
            if self.states is not None:
                torch.default_generator.set_state(self.states[0])
                if self.states[1] is not None:
                    torch.cuda.set_rng_state(self.states[1], self.device)
            try:
                yield
            finally:
                of_device = torch.cuda.get_rng_state(self.device) if accelerated else None
                self.states = torch.default_generator.get_state(), of_device

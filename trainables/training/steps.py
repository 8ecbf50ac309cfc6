"""Steps of an optimizer on members: launched call by call, or recorded once as a CUDA graph and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainables.spec import PairSpec
from trainables.tasks.batches import Batch
from trainables.training.members import Members
from trainables.training.optimizers import UNFUSED
from trainables.training.ranks import Ranks
from trainables.training.torch_settings import small_convolutions

Recorder = Callable[[Callable[[], None]], Callable[[], object]]
"""Records what a function launches, without running it; returns the function that runs the record."""

WARMUP = 3
"""Steps before the recorded one: the optimizer makes its state in the first, and cuDNN its choices."""
_RECORDED = ("sgd", "adamw")
"""Optimizers whose fused kernels take the learning rate from the device."""
_REASON = 200
"""Characters of torch's message, at most."""


def record_cuda_graph(launch: Callable[[], None]) -> Callable[[], object]:
    """Return the replay of what a function launches on the current GPU.

    Raises:
        RuntimeError: It does something that a graph cannot hold, such as waiting for the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    # other threads may use the GPU while this one records
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        launch()
    return graph.replay


def find_obstacle(spec: PairSpec, device: torch.device | None = None, ranks: Ranks | None = None) -> str:
    """Return what a trial needs before its steps can be recorded, and has not; empty if nothing.

    Args:
        spec: The trial.
        device: Device of its training; None is any GPU.
        ranks: Processes that share each batch; None is one process.
    """
    if device is not None and device.type != "cuda":
        return f"a GPU, got {device.type}"
    if spec.compile:
        return "compile false, got true"
    if spec.optimizer not in _RECORDED:
        return f"optimizer {' or '.join(_RECORDED)}, got {spec.optimizer}"
    if option := next((o for o in UNFUSED if spec.optimizer_options.get(o)), None):
        return f"optimizer_options without {option}, got {dict(spec.optimizer_options)}"
    if spec.noise_schedule.get("by") == "batch_size":
        return "batches of one size, got noise_schedule.by batch_size"
    if ranks is not None and ranks.size > 1:
        return f"one process a child, got {ranks.size}"
    return ""


def check_graphs(spec: PairSpec, device: torch.device | None = None, ranks: Ranks | None = None) -> bool:
    """Return whether the steps of a trial are recorded.

    Args:
        spec: The trial.
        device: See `find_obstacle`.
        ranks: See `find_obstacle`.

    Raises:
        ValueError: The trial has `graphs: on`, and its steps cannot be recorded.
    """
    if spec.graphs == "off":
        return False
    obstacle = find_obstacle(spec, device, ranks)
    if obstacle and spec.graphs == "on":
        raise ValueError(f"graphs on needs {obstacle}; use auto or off")
    return not obstacle


class Stepper:
    """Takes the steps of one optimizer.

    A recorded step reads its batch and its learning rate from tensors that stay where they are. `forget` must follow
    whatever moves the weights, the optimizer's state or the gradients.

    Args:
        members: The members.
        optimizer: Their optimizer.
        spec: The trial.
        record: Makes the record; None launches each step call by call.
    """

    def __init__(self, members: Members, optimizer: Any, spec: PairSpec, record: Recorder | None = None) -> None:
        self.members, self.optimizer, self.spec = members, optimizer, spec
        self._record = record
        self._small = members.members == 1 and not (spec.autocast or spec.compile)
        self._rate: Tensor | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the record, and its memory; the next steps make another one."""
        self._warm = 0
        self._replay: Callable[[], object] | None = None
        self._held: tuple[Tensor, ...] = ()

    def take(self, batches: Sequence[Batch], rate: float) -> Tensor:
        """Take one step on one batch per member; return the losses [members] before the step."""
        x, y = torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])
        if self._record is None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            return self._compute(x, y)
        with self._rate_on_device(rate, x.device):
            if self._warm >= WARMUP and self._replay is None:
                self._make_record(x, y)
            if self._replay is None:
                self._warm += 1
                with _beside(x.device):
                    return self._compute(x, y)
        held_x, held_y, losses = self._held
        held_x.copy_(x)
        held_y.copy_(y)
        self._replay()
        return losses.clone()

    def _compute(self, x: Tensor, y: Tensor) -> Tensor:
        with small_convolutions(x[0]) if self._small else nullcontext():
            losses = self.members.losses(x, y)
            self.optimizer.zero_grad(set_to_none=True)
            # the gradient of the sum with respect to a member's weights is the gradient of that member's loss
            losses.sum().backward()  # pyright: ignore[reportUnknownMemberType]
        if clip_norm := self.spec.clip_norm:
            self.members.unclipped_norm = nn.utils.clip_grad_norm_(self.members.parameters, clip_norm)
        self.optimizer.step()
        return losses.detach()

    @contextmanager
    def _rate_on_device(self, rate: float, device: torch.device) -> Generator[None]:
        """Give the optimizer its learning rate as a tensor, which a record reads at every replay."""
        if self._rate is None:
            # float32, since the fused kernels read it as such
            self._rate = torch.zeros((), dtype=torch.float32, device=device)
        self._rate.fill_(rate)
        self._set_groups(self._rate, True)
        try:
            yield
        finally:
            self._set_groups(rate, False)

    def _set_groups(self, rate: float | Tensor, capturable: bool) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = capturable

    def _make_record(self, x: Tensor, y: Tensor) -> None:
        assert self._record is not None
        held_x, held_y = x.clone(), y.clone()
        losses = torch.zeros(self.members.members, dtype=self.members.parameters[0].dtype, device=x.device)

        def launch() -> None:
            losses.copy_(self._compute(held_x, held_y))

        on_gpu = x.device.type == "cuda"
        draws = torch.cuda.get_rng_state(x.device) if on_gpu else None
        self.optimizer.zero_grad(set_to_none=True)  # the record has gradients of its own
        try:
            with torch.cuda.device(x.device) if on_gpu else nullcontext():
                self._replay = self._record(launch)
        except RuntimeError as error:
            if draws is not None:
                torch.cuda.set_rng_state(draws, x.device)
            reason = (" ".join(str(error).split()) or type(error).__name__)[:_REASON]
            if self.spec.graphs == "on":
                raise ValueError(
                    f"graphs on needs steps that a CUDA graph can hold: {reason}; use auto or off"
                ) from error
            warnings.warn(f"graphs auto records no step, since a CUDA graph cannot hold it: {reason}", stacklevel=2)
            self._record = None
            return
        self._held = held_x, held_y, losses


@contextmanager
def _beside(device: torch.device) -> Generator[None]:
    """Launch the block on a stream of its own, as recording will."""
    if device.type != "cuda":
        yield
        return
    side, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        yield
    main.wait_stream(side)

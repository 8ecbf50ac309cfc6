"""Window averages: means or moving averages of a child's last checkpoints, taken along while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

MEAN, EMA = "mean", "ema"
SPANS = 10
"""Sizes back from which on an exponential moving average begins: what lies before has a weight below e^-20."""


@dataclass(frozen=True)
class Window:
    """Which checkpoints the averages of a child hold.

    Attributes:
        sizes: Numbers of last checkpoints, ascending, each above 1.
        spacing: Steps between two checkpoints; the last one is the end of the training.
        kind: `mean` weighs the last checkpoints alike; `ema` weighs all by an exponential moving average, whose weights
            have the same mean age as those of a mean of this size.
    """

    sizes: tuple[int, ...] = ()
    spacing: int = 1
    kind: str = MEAN

    def find_segments(self, steps: int) -> dict[int, int]:
        """Return step -> segment: 0 holds the checkpoints of the first size, 1 the further ones of the next, and so on.

        Args:
            steps: Steps of the training.

        Raises:
            ValueError: The training is too short.
        """
        self.check_fit(steps)
        starts = (0, *self.sizes)
        return {
            steps - i * self.spacing: segment for segment, size in enumerate(self.sizes)
            for i in range(starts[segment], size)
        }  # fmt: skip

    def check_fit(self, steps: int) -> None:
        """Check that a training of this many steps has as many checkpoints.

        Raises:
            ValueError: It is too short.
        """
        if self.sizes and (self.sizes[-1] - 1) * self.spacing >= steps:
            raise ValueError(
                f"window must fit in the {steps} steps of a child, got {self.sizes[-1]} checkpoints every "
                f"{self.spacing} steps; lower window.size or window.spacing"
            )


LAST = Window()
"""No averages: the last weights alone."""


def read_window(options: Mapping[str, Any]) -> Window:
    """Return the window of a trial's field `window`: `size`, one number or several, `spacing` and `kind`."""
    size = options.get("size", 1)
    sizes = cast(Sequence[Any], size) if isinstance(size, list | tuple) else [size]
    kind = str(options.get("kind", MEAN))
    return Window(tuple(sorted({int(s) for s in sizes} - {1})), int(options.get("spacing", 1)), kind)


class WindowAverages:
    """Running means of the last checkpoints of some children, on the host: one copy of the weights per child and size.

    Args:
        window: Which checkpoints count.
        steps: Steps of the training.
        children: Number of children.

    Raises:
        ValueError: The training is too short.
    """

    def __init__(self, window: Window, steps: int, children: int) -> None:
        self.window, self._segments = window, window.find_segments(steps)
        self._means: list[list[dict[str, Tensor]]] = [[{} for _ in window.sizes] for _ in range(children)]
        self._counts = [0] * len(window.sizes)

    def add(self, step: int, weights: Callable[[], Sequence[Mapping[str, Tensor]]]) -> None:
        """Add the children's state dicts if the step is one of the checkpoints."""
        segment = self._segments.get(step)
        if segment is None:
            return
        self._counts[segment] += 1
        for means, own in zip(self._means, weights(), strict=True):
            for key, value in own.items():
                if value.is_floating_point():
                    _add(means[segment], key, value, self._counts[segment])

    def averages(self, child: int, end: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return size -> state dict of the mean of a child's last checkpoints, on the host.

        Args:
            child: Index of the child.
            end: Its last weights; entries that are no floating-point numbers come from them.

        Source: Izmailov et al. 2018, arXiv 1803.05407, equation of step 6 in algorithm 1, over the last checkpoints.
        """
        out: dict[int, dict[str, Tensor]] = {}
        for i, size in enumerate(self.window.sizes):
            parts, counts = self._means[child][: i + 1], self._counts[: i + 1]
            out[size] = {
                k: _combine([p[k] for p in parts], counts).to(v.dtype) if k in parts[0] else v.cpu()
                for k, v in end.items()
            }
        return out

    def snapshot(self) -> dict[str, Any]:
        """Return the state for `restore` as tensors and plain values."""
        return {"means": self._means, "counts": self._counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `snapshot`."""
        self._means, self._counts = state["means"], list(state["counts"])


class MovingAverages:
    """Exponential moving averages of the checkpoints of some children, with the interface of `WindowAverages`.

    With the weight a = 2/(w + 1) of a new checkpoint, the weights have the mean age (w - 1)/2, as in a mean of w. The
    first checkpoint counts in full.

    Args:
        window: Sizes w, and the spacing.
        steps: Steps of the training.
        children: Number of children.

    Raises:
        ValueError: The training is too short.

    Source: Morales-Brotons et al. 2024, arXiv 2411.18704, section 2, with the decay 1 - a.
    """

    def __init__(self, window: Window, steps: int, children: int) -> None:
        window.check_fit(steps)
        self.window, self.steps = window, steps
        self._means: list[list[dict[str, Tensor]]] = [[{} for _ in window.sizes] for _ in range(children)]

    def add(self, step: int, weights: Callable[[], Sequence[Mapping[str, Tensor]]]) -> None:
        """Add the children's state dicts if the step is one of the checkpoints."""
        back, rest = divmod(self.steps - step, self.window.spacing)
        if rest or back >= SPANS * max(self.window.sizes):
            return
        for means, own in zip(self._means, weights(), strict=True):
            for size, mean in zip(self.window.sizes, means, strict=True):
                if back >= SPANS * size:
                    continue
                for key, value in own.items():
                    if value.is_floating_point():
                        _add(mean, key, value, (size + 1) / 2)

    def averages(self, child: int, end: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return size -> state dict of a child's moving average, on the host; other entries come from its end."""
        return {
            size: {k: mean[k].to(v.dtype) if k in mean else v.cpu() for k, v in end.items()}
            for size, mean in zip(self.window.sizes, self._means[child], strict=True)
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the state for `restore` as tensors and plain values."""
        return {"means": self._means}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `snapshot`."""
        self._means = state["means"]


def make_averages(window: Window, steps: int, children: int) -> WindowAverages | MovingAverages:
    """Return the averages of a window, of its kind.

    Raises:
        ValueError: The training is too short.
    """
    kind = MovingAverages if window.kind == EMA and window.sizes else WindowAverages
    return kind(window, steps, children)


def _add(means: dict[str, Tensor], key: str, value: Tensor, divisor: float) -> None:
    """Move a mean by the share 1/divisor of the way to a value; the first value is the mean itself."""
    wide = value.detach().to("cpu", torch.promote_types(value.dtype, torch.float32), copy=True)
    if key in means:
        mean = means[key]
        # entries that stay are exact, infinite ones too
        wide = torch.where(wide == mean, mean, mean + (wide - mean) / divisor)
    means[key] = wide


def _combine(means: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    first, total = means[0], sum(counts)
    shift = sum(
        (torch.where(m == first, torch.zeros_like(m), m - first) * (n / total)
         for m, n in zip(means[1:], counts[1:], strict=True)), torch.zeros_like(first),
    )  # fmt: skip
    return torch.where(shift == 0, first, first + shift)

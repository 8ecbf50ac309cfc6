"""Loss on the plane through theta_0 (0, 0), theta_A (1, 0) and theta_B (0, 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from trainables.merging.formulas import is_variance, unmoved
from trainables.models.registry import has_batchnorm
from trainables.tasks.evaluation import score_weights

LOW, HIGH = -0.25, 1.25

Prepare = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def combine(
    base: Mapping[str, Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor], x: float, y: float
) -> dict[str, Tensor]:
    """Return theta_0 + x (theta_A - theta_0) + y (theta_B - theta_0).

    Integer buffers and entries that are equal in all models stay; running variances do not get below 0.
    """
    out: dict[str, Tensor] = {}
    for name, value in base.items():
        if not value.is_floating_point() or unmoved([a[name], b[name], value]):
            out[name] = a[name].clone()
            continue
        point = (1 - x - y) * value + x * a[name] + y * b[name]
        out[name] = point.clamp(min=0) if is_variance(name) else point
    return out


def plane(
    model: nn.Module,
    base: Mapping[str, Tensor],
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    points: int,
    prepare: Prepare | None = None,
) -> Iterator[tuple[float, float, float, float]]:
    """Yield (x, y, loss_train, loss_val) on a square grid from LOW to HIGH along both task vectors.

    Args:
        model: Module of the architecture, run in evaluation mode.
        base: State dict of theta_0, the origin.
        a: State dict of child A, at (1, 0).
        b: State dict of child B, at (0, 1).
        train: Inputs and labels of the training loss.
        val: Inputs and labels of the validation loss.
        points: Points per side; grids with 7, 13, 19… hold base, children and midpoint.
        prepare: Puts weights on the device and re-estimates their BatchNorm statistics; models with BatchNorm need it.

    Yields:
        Coordinates and mean cross-entropies in nat, infinite if the logits overflow; x varies slowest.

    Raises:
        ValueError: Fewer than two points, or BatchNorm without `prepare`.

    Source: planes through three models, Garipov et al. 2018, arXiv 1802.10026; here the task vectors are the axes.
    """
    if points < 2:
        raise ValueError(f"plane must be 0 or >= 2 points per side, got {points}")
    if prepare is None and has_batchnorm(model):
        raise ValueError("a plane of a model with BatchNorm needs re-estimated statistics at each point; set prepare")
    grid = [LOW + (HIGH - LOW) * i / (points - 1) for i in range(points)]
    for x in grid:
        for y in grid:
            weights = combine(base, a, b, x, y)
            weights = prepare(weights) if prepare else weights
            losses = [score_weights(model, weights, inputs, labels).loss for inputs, labels in (train, val)]
            yield x, y, losses[0], losses[1]

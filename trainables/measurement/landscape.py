"""Local flatness of children and merge, and the barrier of a quadratic landscape between the children.

All values use the weights' dtype, evaluation mode and fixed examples. Symbols: w trained parameters as
one vector [P], L mean cross-entropy [nat], g and H its gradient and Hessian, d = theta_B - theta_A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Generator, Tensor, nn

from trainables.measurement.derivatives import Objective, Product, objective
from trainables.models.tensors import HOST

Point = tuple[Objective, Tensor]
PROBES = 50  # Rademacher vectors of the trace
TOLERANCE = 1e-3  # relative residual of the eigenvector; the relative error of its eigenvalue is about the square
# middle of the ranges of adaptive sharpness in arXiv 2302.07011, and its number of steps
RHO, ASCENT_STEPS = 0.002, 20
SIGMA, PAIRS = 0.1, 10


def rademacher(like: Tensor, count: int, generator: Generator) -> Iterator[Tensor]:
    """Yield `count` vectors of independent signs +-1 in the shape, dtype and device of `like`."""
    for _ in range(count):
        signs = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=like.dtype)
        yield 2 * signs - 1


def hessian_trace(product: Product, vectors: Iterable[Tensor]) -> tuple[float, float]:
    """Return an unbiased estimate of tr H, the mean of v'Hv with E vv' = I, and its standard error.

    Args:
        product: From `Objective.hessian`.
        vectors: At least two probes v [P].

    Source: Hutchinson 1990, Communications in Statistics 19(2).
    """
    values = torch.stack([v.double() @ product(v).double() for v in vectors])
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def lambda_max(product: Product, like: Tensor, generator: Generator, tolerance: float = TOLERANCE) -> float:
    """Return the largest (algebraic) eigenvalue of H by Lanczos with restarts; NaN if H v is not finite.

    Args:
        product: From `Objective.hessian`.
        like: w [P], P >= 2.
        generator: Draws the start vector, on w's device.
        tolerance: Relative residual at which the iteration stops.

    Source: Lehoucq, Sorensen & Yang 1998, ARPACK Users' Guide, through `scipy.sparse.linalg.eigsh`.
    """
    from scipy.sparse import linalg  # pyright: ignore[reportMissingTypeStubs]

    arpack = cast(Any, linalg)

    def matvec(v: Any) -> Any:
        out = product(torch.as_tensor(np.asarray(v).ravel()).to(like)).cpu().numpy()
        if not np.isfinite(out).all():
            raise FloatingPointError
        return out

    size, start = like.numel(), next(rademacher(like, 1, generator)).cpu().numpy()
    operator = arpack.LinearOperator((size, size), matvec=matvec, dtype=start.dtype)
    try:
        eigenvalues = arpack.eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    except (FloatingPointError, arpack.ArpackNoConvergence):
        return math.nan
    return float(eigenvalues[0])


def sharpness_worst(loss: Objective, w: Tensor, rho: float = RHO, steps: int = ASCENT_STEPS) -> float:
    """Return adaptive worst-case sharpness, max L(w + delta) - L(w) over |delta_p| <= rho |w_p| for every p.

    Sign-gradient ascent with a step that shrinks linearly from 2 rho to 0 searches the maximum. The best point counts,
    w included, so that the value is a lower bound and >= 0. All examples are one batch (m = n in the paper).

    Args:
        loss: The objective.
        w: Point in weight space, [P].
        rho: Radius relative to each parameter.
        steps: Number of gradients.

    Source: Andriushchenko et al. 2023, arXiv 2302.07011, section 3, with p = infinity and c = |w|.
    """
    reach = rho * w.abs()
    at = w
    start, gradient = loss.gradient(w)
    best = start
    for i in range(steps):
        move = 2 * (1 - i / steps) * reach * gradient.sign()
        at = w + (at - w + move).clamp(-reach, reach)
        value, gradient = loss.gradient(at)
        best = torch.maximum(best, value)
    return float(best - start)


def sharpness_average(
    loss: Objective, w: Tensor, generator: Generator, sigma: float = SIGMA, pairs: int = PAIRS
) -> tuple[float, float]:
    """Return adaptive average-case sharpness E L(w + sigma |w| eps) - L(w), eps ~ N(0, 1), and its standard error.

    Draws come in pairs +-eps, whose odd orders cancel, which reduces the variance and keeps the expectation.

    Args:
        loss: The objective.
        w: Point in weight space, [P].
        generator: Draws eps, on w's device.
        sigma: Standard deviation relative to each parameter.
        pairs: Number of pairs, >= 2.

    Source: Andriushchenko et al. 2023, arXiv 2302.07011, section 3, with c = |w|.
    """
    start = loss.value(w)
    values: list[Tensor] = []
    for _ in range(pairs):
        eps = torch.randn(w.shape, generator=generator, device=w.device, dtype=w.dtype)
        move = sigma * w.abs() * eps
        values.append((loss.value(w + move) + loss.value(w - move)) / 2 - start)
    rises = torch.stack(values).double()
    return float(rises.mean()), float(rises.std()) / math.sqrt(pairs)


def line(
    loss_a: Objective, a: Tensor, loss_b: Objective, b: Tensor, midpoint: float, device: torch.device | None = None
) -> dict[str, float]:
    """Return the curvature along d at both ends, the barrier that it predicts, and the rest of the barrier.

    To second order, L(1/2) is L_A + g_A'd/2 + d'H_A d/8 from A and L_B - g_B'd/2 + d'H_B d/8 from B. Their mean minus
    (L_A + L_B)/2 is the predicted barrier (g_A - g_B)'d/4 + (d'H_A d + d'H_B d)/16, which is exact for quadratics.

    Args:
        loss_a: Objective with the buffers of A.
        a: theta_A, [P], on any device.
        loss_b: Objective with the buffers of B.
        b: theta_B, [P], on the device of A.
        midpoint: L(1/2), nat.
        device: Device of the losses; None is that of A and B.

    Returns:
        `curvature_a`, `curvature_b` (d'Hd), `barrier_quadratic` and `barrier_excess`, in nat.
    """
    d = b - a
    (value_a, g_a, curvature_a), (value_b, g_b, curvature_b) = (
        _describe_end(loss, w.to(device), d.to(device)) for loss, w in ((loss_a, a), (loss_b, b))
    )
    slope = float((g_a.double() - g_b.double()) @ d.to(HOST).double())
    predicted = slope / 4 + (curvature_a + curvature_b) / 16
    barrier = midpoint - float(value_a + value_b) / 2
    return {
        "curvature_a": curvature_a,
        "curvature_b": curvature_b,
        "barrier_quadratic": predicted,
        "barrier_excess": barrier - predicted,
    }


def _describe_end(loss: Objective, w: Tensor, d: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return L(w), its gradient on the host, and d'H(w)d."""
    value, gradient = loss.gradient(w)
    return value, gradient.to(HOST), float(d.double() @ loss.hessian(w)(d).double())


def landscape(
    model: nn.Module,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    midpoint: Mapping[str, Tensor],
    names: Sequence[str],
    x: Tensor,
    y: Tensor,
    seed: int,
) -> dict[str, float]:
    """Return every column of `trainables.result.LANDSCAPE`; overflows give non-finite numbers.

    Args:
        model: Module of the architecture.
        a: State dict of child A, with re-estimated BatchNorm statistics, on any device.
        b: State dict of child B, likewise.
        midpoint: State dict of the linear merge at alpha = 1/2, likewise.
        names: Trained parameters.
        x: Fixed training examples [n, ...], not augmented, in the weights' dtype.
        y: Labels [n].
        seed: Seed of the random vectors, which are equal for all three points.
    """
    points = {"a": a, "b": b, "merged": midpoint}
    return describe_points({k: lambda w=w: objective(model, w, names, x, y) for k, w in points.items()}, seed)


def describe_points(points: Mapping[str, Callable[[], Point]], seed: int) -> dict[str, float]:
    """Return every column of `trainables.result.LANDSCAPE`, as `landscape`.

    Args:
        points: `a`, `b` and `merged` -> function that returns a loss and the point [P] at which to describe it. The
            losses of the ends may be those of different tasks; that of `merged` is their mean. One point is on the
            device at a time.
        seed: Seed of the random vectors, which are equal for all three points.
    """
    out: dict[str, float] = {}
    ends: dict[str, Point] = {}
    middle, device = math.nan, HOST
    for point, make in points.items():
        loss, w = make()
        generator = Generator(device=w.device).manual_seed(seed)
        product = loss.hessian(w)
        trace, error = hessian_trace(product, rademacher(w, PROBES, generator))
        out[f"hessian_trace_{point}"] = trace
        out[f"hessian_trace_se_{point}"] = error
        out[f"hessian_trace_scaled_{point}"] = trace * float(w.double().square().sum())
        out[f"lambda_max_{point}"] = lambda_max(product, w, generator)
        out[f"sharpness_worst_{point}"] = sharpness_worst(loss, w)
        out[f"sharpness_average_{point}"], _ = sharpness_average(loss, w, generator)
        device = w.device
        if point == "merged":
            middle = float(loss.value(w))
        else:
            ends[point] = loss, w.to(HOST)
    return out | line(*ends["a"], *ends["b"], middle, device)

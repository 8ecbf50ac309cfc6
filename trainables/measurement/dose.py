"""Dose of noise of a training run: variance of the end weights from gradient noise alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def dose(
    rates: Sequence[float],
    batch_size: float | Sequence[float],
    momentum: float,
    trace_sigma: Sequence[float] | Mapping[int, float],
) -> float:
    """Return sum_t eta_t^2 / (B (1 - mu)^2) tr Sigma_t [parameter norm^2].

    This is the variance, summed over parameters, of a random walk of momentum steps with independent gradient noise:
    v <- mu v + g, w <- w - eta v moves the weights by eta / (1 - mu) times each gradient. Twice the dose is an upper
    reference for E |A - B|^2 of two children. Without replacement, the gradients of an epoch anti-correlate, so that
    children stay closer.

    Args:
        rates: Learning rate eta_t of every step.
        batch_size: B, global, in examples; one number, or one for every step.
        momentum: mu.
        trace_sigma: tr Sigma_t [nat^2/parameter^2] of every step, or measurements by step (from 0). It is linear
            between measurements and constant before the first and after the last.

    Raises:
        ValueError: A length or a range is wrong, or there is no measurement.

    Source: random walk; arXiv 2510.04686, first version, has the same exponent 2 of 1 - mu.
    """
    sizes = np.broadcast_to(np.asarray(batch_size, dtype=np.float64), len(rates))
    if not (sizes > 0).all():
        raise ValueError(f"batch_size must be > 0, got {batch_size!r}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}")
    if isinstance(trace_sigma, Mapping):
        if not trace_sigma:
            raise ValueError("trace_sigma must hold at least one measurement, got none")
        steps = sorted(trace_sigma)
        traces = np.interp(np.arange(len(rates)), steps, [trace_sigma[s] for s in steps])
    else:
        traces = np.asarray(trace_sigma, dtype=np.float64)
    if len(traces) != len(rates):
        raise ValueError(f"trace_sigma must have one value for each of the {len(rates)} steps, got {len(traces)}")
    squares, scale = np.square(np.asarray(rates, dtype=np.float64)), (1.0 - momentum) ** 2
    if isinstance(batch_size, int | float):  # another order of operations changes the last digit of stored rows
        return float(np.dot(squares, traces) / (batch_size * scale))
    return float(np.dot(squares, traces / sizes) / scale)

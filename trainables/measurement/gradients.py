"""Measured gradient noise: tr Sigma, |G|^2, B_simple and the share of augmentation, from gradients of micro-batches.

=========  ==============================================================================  =====================
symbol     meaning                                                                         unit
=========  ==============================================================================  =====================
``g_i``    gradient of the mean loss of micro-batch i, of b examples                       nat/parameter
``G``      gradient of the mean loss over all examples, E g_i                              nat/parameter
``Sigma``  covariance of the gradient of one example, so that Cov g_i = Sigma/b            nat^2/parameter^2
``S2_x``   trace of its part between examples; the rest is augmentation and dropout        nat^2/parameter^2
``N``      examples of the set from which the micro-batches are drawn                      examples
=========  ==============================================================================  =====================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.measurement.derivatives import loss_of, micro_gradients, twice_differentiable
from trainables.models.registry import has_batchnorm
from trainables.models.seeding import seed_generators

# least and most micro-batches of a measurement: more add little precision, and all of them are in memory
LEAST, MOST = 8, 32
MOST_TIMES = 8
# numbers in the gradients of one measurement (1 GiB in float32), unless LEAST micro-batches need more
_HELD_NUMBERS = 2**28
# a repeated gradient with a smaller difference, relative to its squared norm, has no random part
_SAME = 1e-6
_TOO_FEW = "the two-batch estimate needs >= 2 micro-batches, got {}; use more examples or smaller micro-batches"


@dataclass(frozen=True)
class Statistics:
    """Gradient noise at one point in weight space, or the mean over several points.

    Attributes:
        trace_sigma: tr Sigma, nat^2/parameter^2.
        trace_sigma_se: Standard error of `trace_sigma`; NaN with fewer than three micro-batches.
        norm2: |G|^2, nat^2/parameter^2; unbiased, so it may be below 0. NaN if unknown.
        preconditioned: tr(Sigma / v); None without v.
        examples: Number of examples in the gradients.
        between: S2_x, the part of tr Sigma between examples; NaN if unknown.
    """

    trace_sigma: float
    trace_sigma_se: float
    norm2: float
    preconditioned: float | None
    examples: int
    between: float = math.nan

    @property
    def b_simple(self) -> float:
        """Simple noise scale tr Sigma / |G|^2, in examples; NaN unless |G|^2 > 0.

        Source: McCandlish et al. 2018, arXiv 1812.06162, eq. 2.9.
        """
        return self.trace_sigma / self.norm2 if self.norm2 > 0 else math.nan


def two_batch(small: Sequence[float], big: float, b: int) -> tuple[float, float]:
    """Return the unbiased (|G|^2, tr Sigma) from squared norms at two batch sizes.

    Args:
        small: |g_i|^2 of n >= 2 micro-batches with `b` independent examples each.
        big: |mean_i g_i|^2, the squared norm at batch size n b.
        b: Examples per micro-batch.

    Raises:
        ValueError: Fewer than two micro-batches.

    Source: McCandlish et al. 2018, arXiv 1812.06162, appendix A.1, with B_small = b and B_big = n b.
    """
    n = len(small)
    if n < 2:
        raise ValueError(_TOO_FEW.format(n))
    mean = math.fsum(small) / n
    return (n * big - mean) / (n - 1), b * (mean - big) * n / (n - 1)


def between_examples(rows: Tensor, again: Tensor, b: int) -> float:
    """Return S2_x, the part of tr Sigma between examples, from two gradients per micro-batch.

    The two gradients use different draws of augmentation and dropout, so that only the examples contribute to their
    covariance: S2_x = b/(n - 1) sum_i <g_i - mean g, g'_i - mean g'>.

    Args:
        rows: Gradients g_i of n >= 2 micro-batches, [n, P].
        again: Gradients g'_i of the same examples with other draws, [n, P].
        b: Examples per micro-batch.

    Source: covariance of two replicates, which share the random effect alone; Searle, Casella & McCulloch 1992,
    Variance Components, section 3.6 (one-way random model).
    """
    first, second = (t.double() - t.mean(0, dtype=torch.float64) for t in (rows, again))
    return b * float((first * second).sum()) / (len(rows) - 1)


def correct_for_finite_set(norm2: float, between: float, examples: int | None) -> float:
    """Return |G|^2 of a finite set from the two-batch estimate with examples drawn without replacement.

    With S2_w for the random part, E |g_b|^2 = |G|^2 + S2_x (1/b - 1/N) + S2_w/b. The two-batch estimate subtracts
    (S2_x + S2_w)/b, so that it is too low by S2_x/N.

    Args:
        norm2: Estimate of `two_batch`.
        between: S2_x.
        examples: N; None for independent examples, which need no correction.

    Source: Cochran 1977, Sampling Techniques, theorem 2.2 (finite population correction), in McCandlish et al. 2018,
    arXiv 1812.06162, appendix A.1.
    """
    return norm2 if examples is None else norm2 + between / examples


def jackknife_se(deviations: Sequence[float], b: int) -> float:
    """Return the jackknife standard error of tr Sigma = b/(n - 1) sum_i d_i with d_i = |g_i - mean g|^2.

    Without micro-batch i, sum_j d_j becomes sum_j d_j - n/(n - 1) d_i, so that leave-one-out estimates deviate by
    b n/((n - 1)(n - 2)) |d_i - mean d|. The result is NaN for fewer than three micro-batches.

    Source: Efron & Stein 1981, Annals of Statistics 9(3), applied to this statistic.
    """
    n = len(deviations)
    if n < 3:
        return math.nan
    mean = math.fsum(deviations) / n
    spread = math.fsum((d - mean) ** 2 for d in deviations)
    return b / (n - 2) * math.sqrt(n * spread / (n - 1))


def pool(statistics: Sequence[Statistics]) -> Statistics:
    """Return the mean of several measurements, and the standard error of that mean.

    The errors of the measurements count as independent. If one of them is unknown, the spread between measurements
    replaces them. The `b_simple` of the result is the ratio of the means.

    Raises:
        ValueError: No measurement.
    """
    k = len(statistics)
    if k == 0:
        raise ValueError("pool needs at least one measurement, got none")
    trace = math.fsum(s.trace_sigma for s in statistics) / k
    se = math.sqrt(math.fsum(s.trace_sigma_se**2 for s in statistics)) / k
    if math.isnan(se) and k > 1:
        se = math.sqrt(math.fsum((s.trace_sigma - trace) ** 2 for s in statistics) / (k * (k - 1)))
    scaled = [s.preconditioned for s in statistics if s.preconditioned is not None]
    return Statistics(
        trace,
        se,
        math.fsum(s.norm2 for s in statistics) / k,
        math.fsum(scaled) / k if len(scaled) == k else None,
        sum(s.examples for s in statistics),
        math.fsum(s.between for s in statistics) / k,
    )


def from_ranks(
    local: Sequence[float], reduced: float, per_rank_batch: int, examples: int | None = None, random: bool = False
) -> Statistics:
    """Return the noise from the gradients that data-parallel ranks average in training.

    Args:
        local: |g_i|^2 of each rank's gradient before the all-reduce.
        reduced: |mean_i g_i|^2, squared norm after it.
        per_rank_batch: Examples per rank and step.
        examples: N of the set from which they are drawn without replacement; None for independent examples.
        random: Whether augmentation or dropout adds to the noise. Then the norms do not show the part of tr Sigma
            between examples, so that |G|^2 of a finite set stays unknown.

    Returns:
        The statistics of one step. Norms do not determine |g_i - mean g|^2; the standard error uses the spread of
        |g_i|^2 instead. It includes the spread of 2 g_i'G, so that it is too large while |G|^2 exceeds tr Sigma / b.

    Raises:
        ValueError: Fewer than two ranks.
    """
    norm2, trace = two_batch(local, reduced, per_rank_batch)
    between = math.nan if random else trace
    norm2 = correct_for_finite_set(norm2, between, examples)
    return Statistics(trace, jackknife_se(local, per_rank_batch), norm2, None, per_rank_batch * len(local), between)


def measure(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    x: Tensor,
    target: Tensor,
    micro: int,
    v: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    again: tuple[Tensor, Tensor] | None = None,
    population: int | None = None,
) -> Statistics:
    """Measure the gradient noise of training at `weights`, by the two-batch estimator.

    The model runs in training mode, with dropout. BatchNorm normalises each micro-batch separately, as in training.
    The result is then b Cov g_b at the micro-batch size b, with the noise of the batch statistics, so that b should be
    the batch size of one device. The model, running statistics included, stays unchanged.

    Args:
        model: Module of the architecture.
        weights: State dict.
        names: Trained parameters.
        x: Inputs [n b, ...], augmented as in training. Examples drawn without replacement from N give the covariance
            with divisor N - 1, and need `population` for |G|^2.
        target: Labels int64 [n b] or probabilities [n b, C].
        micro: b, examples per micro-batch; a last incomplete one is left out. All n gradients stay in memory.
        v: Squared denominator of Adam's step by name, (sqrt(v_hat) + eps)^2 with the bias-corrected second moment
            v_hat, on any device; `preconditioned` is then sum_p Sigma_pp / v_p.
        seed: Seed of the dropout masks.
        again: Inputs and targets of the same examples with other draws of the augmentation; None uses `x` and `target`
            again. Up to LEAST of these micro-batches measure S2_x, unless the first one shows no randomness.
        population: N of the set from which the examples are drawn without replacement; None for independent examples.

    Raises:
        ValueError: Fewer than two micro-batches.

    Source: McCandlish et al. 2018, arXiv 1812.06162, appendix A.1; the preconditioned form is the same estimator on
    g / (sqrt(v_hat) + eps), Malladi et al. 2022, arXiv 2205.10287.
    """
    n = len(x) // micro
    if n < 2:
        raise ValueError(_TOO_FEW.format(n))
    parameters = {k: weights[k].detach() for k in names}
    mapped = not has_batchnorm(model)

    def gradients(x: Tensor, target: Tensor, count: int) -> Tensor:
        xs, targets = (t[: count * micro].reshape(count, micro, *t.shape[1:]) for t in (x, target))
        return torch.cat(list(micro_gradients(loss, parameters, xs, targets, mapped=mapped)))

    with twice_differentiable(model, training=True), seed_generators(seed, x.device):
        loss = loss_of(model, weights, names)
        rows = gradients(x, target, n)
        few, (x_again, target_again) = min(n, LEAST), again or (x, target)
        first = gradients(x_again, target_again, 1)
        random = _norm2(first[0] - rows[0]) > _SAME * _norm2(rows[0])
        rest = gradients(x_again[micro:], target_again[micro:], few - 1) if random else rows[1:few]
    mean = rows.mean(0, dtype=torch.float64)
    norm2, trace = two_batch([_norm2(row) for row in rows], _norm2(mean), micro)
    between = between_examples(rows[:few], torch.cat([first, rest]), micro) if random else trace
    norm2 = correct_for_finite_set(norm2, between, population)
    scaled = None
    if v is not None:
        scale = torch.cat([v[k].detach().flatten() for k in names]).to(rows.device).double().rsqrt()
        _, scaled = two_batch([_norm2(row * scale) for row in rows], _norm2(mean * scale), micro)
    se = jackknife_se([_norm2(row - mean) for row in rows], micro)
    return Statistics(trace, se, norm2, scaled, n * micro, between)


def _norm2(vector: Tensor) -> float:
    return float(vector.double().square().sum())


@dataclass(frozen=True)
class Plan:
    """Number and size of the noise measurements of one child."""

    times: int
    micro_batches: int
    micro_size: int

    @property
    def examples(self) -> int:
        """Number of examples in the gradients of all measurements."""
        return self.times * self.micro_batches * self.micro_size


def plan(
    examples_trained: int, micro_size: int = 8, share: float = 0.02, times: int | None = None, parameters: int = 0
) -> Plan:
    """Return number and size of the measurements, which cost at most `share` of a child's training.

    The gradient of a micro-batch costs about as much per example as a training step. A growing budget pays first for
    2 x LEAST micro-batches, then for more measurements up to MOST_TIMES, then for more micro-batches up to MOST. Pooled
    measurements are as precise as one with the same examples, and they show how the noise changes.

    Args:
        examples_trained: Examples that the child trains on, steps x batch size.
        micro_size: Desired examples per micro-batch; a small budget reduces it. With BatchNorm the per-device batch.
        share: Share of `examples_trained` to spend.
        times: Number of measurements at any cost; None spends the share, 0 measures nothing.
        parameters: Numbers in one gradient; a large model gets fewer micro-batches, because they stay in memory.

    Returns:
        The plan; `times` is 0 if the share does not pay for LEAST micro-batches of one example.
    """
    most = max(LEAST, min(MOST, _HELD_NUMBERS // max(1, parameters)))
    usual = min(most, 2 * LEAST)
    if times is not None:
        return Plan(times, usual, micro_size) if times > 0 else Plan(0, 0, 0)
    budget = int(share * examples_trained)
    if budget < LEAST:
        return Plan(0, 0, 0)
    size = min(micro_size, budget // LEAST)
    count = min(MOST_TIMES, max(1, budget // (usual * size)))
    return Plan(count, min(most, budget // (count * size)), size)


def at_steps(total_steps: int, stable_start: int, stable_end: int, times: int) -> tuple[int, ...]:
    """Return the steps after which to measure: the middles of `times` equal parts of the stable phase.

    Args:
        total_steps: Steps T of the child; they count as the stable phase if the schedule has none.
        stable_start: First step of the stable phase.
        stable_end: Its end, exclusive.
        times: Number of measurements; a shorter phase has one per step.

    Raises:
        ValueError: The phase does not lie within the steps.
    """
    if not 0 <= stable_start <= stable_end <= total_steps:
        raise ValueError(f"the stable phase must lie in [0, {total_steps}], got [{stable_start}, {stable_end})")
    if stable_start == stable_end:
        stable_start, stable_end = 0, total_steps
    length = stable_end - stable_start
    middles = (stable_start + (2 * i + 1) * length // (2 * times) for i in range(times))
    return tuple(dict.fromkeys(middles)) if length else ()

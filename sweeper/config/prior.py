"""Prior of the best noise from several sweeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.config.fields import PriorNoise

if TYPE_CHECKING:
    from sweeper.search.noise_sampler.prior import NoisePrior


_Z = 1.645  # half a 90 % interval in standard deviations
_SHARPEST = 0.05  # smallest standard deviation of a log noise


def pool_priors(priors: Sequence[PriorNoise | str]) -> NoisePrior | None:
    """Return the prior of a further sweep's best noise; None without priors.

    The precisions weight a random-effects mean on the log axis. The interval is the prediction for one more sweep, so
    it includes the spread between sweeps.

    Source: DerSimonian & Laird 1986, Controlled Clinical Trials 7:177.
    """
    known = [p for p in priors if isinstance(p, PriorNoise)]
    if not known:
        return None
    from sweeper.search.noise_sampler.prior import NoisePrior

    if len(known) == 1:
        return NoisePrior(known[0].best, known[0].low, known[0].high)
    centre = [math.log(p.best) for p in known]
    variance = [max(math.log(p.high / p.low) / (2 * _Z), _SHARPEST) ** 2 for p in known]
    mean, total = _weigh(centre, variance)
    scatter = sum((c - mean) ** 2 / v for c, v in zip(centre, variance, strict=True)) - (len(known) - 1)
    between = max(0.0, scatter / (total - sum(v**-2 for v in variance) / total))
    mean, total = _weigh(centre, [v + between for v in variance])
    half = _Z * math.sqrt(1 / total + between)
    return NoisePrior(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _weigh(values: Sequence[float], variances: Sequence[float]) -> tuple[float, float]:
    # weighted mean, and the sum of the precisions
    total = sum(1 / v for v in variances)
    return sum(x / v for x, v in zip(values, variances, strict=True)) / total, total

"""Transform of losses for a Gaussian process, and a subsample of many losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeper.search.noise_sampler.encoding import Array, Rows


@dataclass(frozen=True)
class LossTransform:
    """A monotone map of losses to values of mean 0 and sd 1 without heavy tails.

    Losses of collapsed pairs are larger by orders of magnitude. The unit is the distance from the median to the 10 %
    quantile. Above the median, tanh limits values to 2; more than 5 below it, a logarithm compresses them. Bad losses
    keep their order but no longer dominate the good half.
    """

    scale: float
    middle: float
    spread: float
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def of(cls, losses: Array) -> LossTransform | None:
        """Return the map for these finite losses, shape (n,), smaller is better; None if all are equal."""
        scale = float(np.abs(losses).max())
        if scale == 0 or float(np.ptp(losses / scale)) <= 1e-12:
            return None
        x = losses / scale  # prevents overflow of differences
        middle = float(np.median(x))
        spread = middle - float(np.quantile(x, 0.1)) or middle - float(x.min()) or float(np.ptp(x))
        raw = cls(scale, middle, spread)
        z = raw(losses)
        return cls(scale, middle, spread, float(z.mean()), float(z.std()))

    def __call__(self, losses: Array) -> Array:
        """Return the transformed losses."""
        x = (losses / self.scale - self.middle) / self.spread
        x = np.where(x > 0, 2.0 * np.tanh(x / 2.0), np.maximum(x, -5.0) - np.log1p(np.maximum(-5.0 - x, 0.0)))
        return (x - self.mean) / self.sd

    def losses(self, values: Array) -> Array:
        """Return the losses of transformed values; unreachable values are clipped to the nearest reachable one."""
        x = np.asarray(values) * self.sd + self.mean
        bad = 2.0 * np.arctanh(np.clip(x / 2.0, 0.0, 0.995))
        good = np.maximum(x, -5.0) - np.expm1(np.maximum(-5.0 - x, 0.0))
        return (np.where(x > 0, bad, good) * self.spread + self.middle) * self.scale


def transform_losses(losses: Array) -> Array:
    """Return the losses under their `LossTransform`, shape (n,); zeros if all are equal."""
    transform = LossTransform.of(losses)
    return np.zeros_like(losses) if transform is None else transform(losses)


def subsample(losses: Array, limit: int) -> Rows:
    """Return at most `limit` indices, ascending: the best half of them and an even share of the other losses."""
    if len(losses) <= limit:
        return np.arange(len(losses))
    order = np.argsort(losses, kind="stable")
    best, rest = order[: limit // 2], order[limit // 2 :]
    even = rest[np.linspace(0, len(rest) - 1, limit - len(best)).round().astype(int)]
    return np.sort(np.concatenate([best, even]))

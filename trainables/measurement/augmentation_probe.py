"""Probe at theta_0: the effect of an augmentation policy on the gradient noise, known before training."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from trainables.datasets.augmentation import augment
from trainables.datasets.cache import make_once
from trainables.datasets.load import Data
from trainables.measurement.derivatives import (
    CHUNK_EXAMPLES,
    CHUNK_NUMBERS,
    loss_of,
    micro_gradients,
    twice_differentiable,
)
from trainables.spec import PairSpec, digest_of

STRENGTHS = (0.0, 0.5, 1.0)
EXAMPLES, LEAST_EXAMPLES, DRAWS = 256, 32, 2
# numbers in all gradients of a probe; larger models use fewer examples, on a CPU from 87,000 parameters
_NUMBERS = {"cpu": 2**27, "cuda": 2**34}
_MEMORY: dict[tuple[str, str | None], Probe] = {}


@dataclass(frozen=True)
class Variance:
    """Per-example gradient covariance, split by the law of total variance, nat^2/parameter^2.

    Attributes:
        between: Var_x E_A g, between examples, averaged over augmentation; unbiased, so it may be below 0.
        within: E_x Var_A g, of the augmentation draws.
        contributions: float64 [m] on the CPU, one per example; their mean is the trace.
    """

    between: float
    within: float
    contributions: Tensor

    @property
    def trace(self) -> float:
        """Total tr Sigma_A = between + within."""
        return self.between + self.within

    @property
    def share(self) -> float:
        """Share of augmentation, within / trace; NaN if all gradients are equal."""
        return self.within / self.trace if self.trace else math.nan


def augmentation_share(
    model: nn.Module, weights: Mapping[str, Tensor], names: Sequence[str], draws: Sequence[tuple[Tensor, Tensor]]
) -> Variance:
    """Return tr Sigma split into examples and augmentation by one-way analysis of variance over K draws per example.

    Per-example gradients need the model in evaluation mode: no dropout, BatchNorm with the statistics in `weights`.

    Args:
        model: Module of the architecture.
        weights: State dict.
        names: Trained parameters.
        draws: K batches (inputs [m, ...], labels [m] or probabilities [m, C]) of the same m >= 2 examples with
            independent augmentation. One batch (K = 1) gives `within` 0, which is correct without augmentation.

    Raises:
        ValueError: Fewer than two examples.

    Source: law of total variance; the unbiased components are those of the one-way random-effects model, Searle,
    Casella & McCulloch 1992, Variance Components, chapter 3.
    """
    k, m = len(draws), len(draws[0][0])
    if m < 2:
        raise ValueError(f"a covariance needs >= 2 examples, got {m}")
    parameters = {n: weights[n].detach() for n in names}
    size = sum(p.numel() for p in parameters.values())
    chunk = max(1, min(CHUNK_EXAMPLES, CHUNK_NUMBERS // (k * size)))
    norms: list[Tensor] = []
    spreads: list[Tensor] = []
    total = torch.zeros(size, dtype=torch.float64, device=draws[0][0].device)
    with twice_differentiable(model, training=False):
        loss = loss_of(model, weights, names)
        for i in range(0, m, chunk):
            parts = [(x[i : i + chunk, None], target[i : i + chunk, None]) for x, target in draws]
            rows = torch.stack([torch.cat(list(micro_gradients(loss, parameters, *part))) for part in parts])
            mean = rows.mean(0)
            spreads.append((rows - mean).square().sum((0, 2), dtype=torch.float64))
            norms.append(mean.square().sum(1, dtype=torch.float64))
            total += mean.sum(0, dtype=torch.float64)
    norm, spread = torch.cat(norms).cpu(), torch.cat(spreads).cpu()
    apart = (norm - float((total / m).square().sum())) * m / (m - 1)
    within = float(spread.mean()) / (k - 1) if k > 1 else 0.0
    # the variance of the mean of K draws includes 1/K of the variance within
    return Variance(float(apart.mean()) - within / k, within, apart + spread / k)


@dataclass(frozen=True)
class Probe:
    """Gradient noise at theta_0 under one augmentation policy, by strength.

    Attributes:
        policy: Name of the policy.
        strengths: Ascending, from 0 to 1.
        trace_sigma: tr Sigma_A at each strength, nat^2/parameter^2.
        share: Share of the trace within examples, from the augmentation draws.
        k_aug: tr Sigma_A divided by its value without augmentation; 1 at strength 0.
        k_aug_se: Standard error of `k_aug` over examples; all strengths share examples and random numbers.
        examples: Number of examples m.
        draws: Augmentation draws K per example.
    """

    policy: str
    strengths: tuple[float, ...]
    trace_sigma: tuple[float, ...]
    share: tuple[float, ...]
    k_aug: tuple[float, ...]
    k_aug_se: tuple[float, ...]
    examples: int
    draws: int

    def at(self, strength: float) -> float:
        """Return k_aug at any strength; ln k_aug is piecewise linear between the measured strengths.

        Raises:
            ValueError: The strength is not in [0, 1].
        """
        return math.exp(self._between([math.log(k) for k in self.k_aug], strength))

    def trace_at(self, strength: float) -> float:
        """Return tr Sigma_A at any strength: k_aug times its value without augmentation."""
        return self.at(strength) * self.trace_sigma[0]

    def share_at(self, strength: float) -> float:
        """Return the share of augmentation at any strength, piecewise linear."""
        return self._between(self.share, strength)

    def _between(self, values: Sequence[float], strength: float) -> float:
        if not 0 <= strength <= 1:
            raise ValueError(f"augmentation_strength must lie in [0, 1], got {strength!r}")
        right = max(1, bisect_left(self.strengths, strength))
        low, high = self.strengths[right - 1], self.strengths[right]
        t = (strength - low) / (high - low)
        return (1 - t) * values[right - 1] + t * values[right]

    def to_json(self) -> str:
        """Return the probe as JSON for `from_json`."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Probe:
        """Return the probe that `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        lists: dict[str, Any] = {k: tuple(cast("list[float]", v)) for k, v in data.items() if isinstance(v, list)}
        return cls(**{**data, **lists})


def probe(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    data: Data,
    policy: str,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    examples: int = EXAMPLES,
    draws: int = DRAWS,
) -> Probe:
    """Measure tr Sigma_A at `weights` for every strength of a policy, on the same training examples.

    All strengths use the same random numbers, so that their ratios are more precise than the traces. The model runs in
    evaluation mode: BatchNorm uses the statistics of theta_0, and dropout is off.

    Args:
        model: Module of the architecture.
        weights: State dict of theta_0.
        names: Trained parameters.
        data: Data set; the probe uses its training split.
        policy: Augmentation policy.
        seed: Seed of the examples and of the augmentation.
        strengths: Measured strengths, which ascend from 0 to 1.
        examples: Number of examples m, at most a quarter of the training split; large models use fewer, at least 32.
        draws: Augmentation draws K >= 2 of each example.

    Raises:
        UnknownName: No such policy.
        ValueError: Strengths do not ascend from 0 to 1, or fewer than two draws.
    """
    steps = tuple(strengths)
    if steps[:1] != (0,) or steps[-1:] != (1,) or any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"strengths must ascend from 0 to 1, got {list(steps)}")
    if draws < 2:
        raise ValueError(f"draws must be >= 2 to measure the noise within an example, got {draws}")
    y = data.y["train"]
    numbers = _NUMBERS.get(y.device.type, _NUMBERS["cpu"])
    affordable = numbers // (sum(weights[n].numel() for n in names) * draws * len(steps))
    m = min(examples, max(LEAST_EXAMPLES, affordable), max(2, data.examples // 4))
    index = torch.randperm(data.examples, generator=Generator().manual_seed(seed))[:m].to(y.device)
    x, y = data.x["train"][index], y[index]
    plain = augmentation_share(model, weights, names, [(x, y)])
    variances: list[Variance] = []
    for strength in steps:
        generator = Generator(device=x.device).manual_seed(seed)
        batches = [augment(policy, strength, x, y, data.classes, generator) for _ in range(draws)]
        unchanged = all(images is x and target is y for images, target in batches)
        variances.append(plain if unchanged else augmentation_share(model, weights, names, batches))
    ratios = [v.trace / plain.trace for v in variances]
    errors = [_ratio_se(v, plain, k) for v, k in zip(variances, ratios, strict=True)]
    return Probe(
        policy, steps, tuple(v.trace for v in variances), tuple(v.share for v in variances), tuple(ratios),
        tuple(errors), m, draws,
    )  # fmt: skip


def _ratio_se(value: Variance, plain: Variance, ratio: float) -> float:
    # delta method of a ratio of means over the same examples
    rest = value.contributions - ratio * plain.contributions
    return float(rest.std()) / math.sqrt(len(rest)) / plain.trace


def probe_digest(base_digest: str, policy: str) -> str:
    """Return the digest, 16 hex digits, of the probe of a policy at the base weights `base_digest`."""
    return digest_of({"base": base_digest, "policy": policy, "strengths": STRENGTHS, "size": (EXAMPLES, DRAWS)})


def cached_probe(
    spec: PairSpec, folder: str | Path | None, make: Callable[[], Probe], cache_key: Callable[[str], str] = str
) -> Probe:
    """Return the probe of the spec's policy at its base weights; `make` runs only if no cache holds it.

    Args:
        spec: The trial.
        folder: Folder that the workers of a run share, with one `<digest>.json` per probe; None means memory only.
        make: Measures the probe with the default strengths, examples and draws.
        cache_key: Digest -> key in memory and in `folder`, see `Task.cache_key`.
    """
    digest = cache_key(probe_digest(spec.base_digest, spec.augmentation))
    key = (digest, str(folder) if folder is not None else None)
    if key not in _MEMORY:
        if folder is None:
            _MEMORY[key] = make()
        else:

            def write(path: Path) -> None:
                path.write_text(make().to_json())

            _MEMORY[key] = Probe.from_json(make_once(Path(folder) / f"{digest}.json", write).read_text())
    return _MEMORY[key]

"""The probe at theta_0: what an augmentation policy does to the gradient noise, known before any training."""

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
from trainables.datasets.cache import made_once
from trainables.datasets.load import Data
from trainables.measurement.derivatives import CHUNK_EXAMPLES, CHUNK_NUMBERS, differentiating, loss_of, micro_gradients
from trainables.spec import PairSpec, digest_of

STRENGTHS = (0.0, 0.5, 1.0)
EXAMPLES, LEAST_EXAMPLES, DRAWS = 256, 32, 2
# numbers in all gradients of a probe: larger models are probed with fewer examples, on a CPU from 87,000 parameters
_NUMBERS = {"cpu": 2**27, "cuda": 2**34}
_MEMORY: dict[tuple[str, str | None], Probe] = {}


@dataclass(frozen=True)
class Variance:
    """Per-example gradient covariance, split by the law of total variance, nat^2/parameter^2.

    Attributes:
        between: Var_x E_A g, of examples whose augmentation is averaged out; unbiased, so it may come out below 0.
        within: E_x Var_A g, of the augmentation draws.
        contributions: [m] float64 on the CPU, one per example; their mean is the trace.
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
        """Share of augmentation, within / trace; NaN where all gradients are equal."""
        return self.within / self.trace if self.trace else math.nan


def augmentation_share(
    model: nn.Module, weights: Mapping[str, Tensor], names: Sequence[str], draws: Sequence[tuple[Tensor, Tensor]]
) -> Variance:
    """Split tr Sigma into examples and augmentation: one-way analysis of variance over K draws of the same examples.

    Per-example gradients need the model in evaluation mode: no dropout, BatchNorm with the statistics in `weights`.

    Args:
        model: Module of the architecture.
        weights: State dict.
        names: Trained parameters.
        draws: K batches (inputs [m, ...], labels [m] or probabilities [m, C]) of the same m >= 2 examples, each
            augmented anew. One batch (K = 1) leaves `within` at 0: right where nothing is drawn.

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
    with differentiating(model, training=False):
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
    # the variance of the mean of K draws holds 1/K of theirs
    return Variance(float(apart.mean()) - within / k, within, apart + spread / k)


@dataclass(frozen=True)
class Probe:
    """What one augmentation policy does to the gradient noise at theta_0, by strength.

    Attributes:
        policy: Name of the policy.
        strengths: Ascending, from 0 to 1.
        trace_sigma: tr Sigma_A at each strength, nat^2/parameter^2.
        share: Share of it within examples, from the augmentation draws.
        k_aug: tr Sigma_A over its value without augmentation; 1 at strength 0.
        k_aug_se: Its standard error over examples; the strengths share them and the random numbers.
        examples: Examples m.
        draws: Augmentation draws K of each.
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
        """Return k_aug at any strength: ln k_aug is piecewise linear between the measured strengths.

        Raises:
            ValueError: The strength is not in [0, 1].
        """
        return math.exp(self._between([math.log(k) for k in self.k_aug], strength))

    def trace_at(self, strength: float) -> float:
        """Return tr Sigma_A at any strength, k_aug times its value without augmentation."""
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
        """Return the probe as JSON that `from_json` reads back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Probe:
        """Read a probe from `to_json`'s text."""
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

    All strengths see the same random numbers, so that their ratios are more precise than the traces. The model runs in
    evaluation mode: BatchNorm uses theta_0's statistics, and dropout is off.

    Args:
        model: Module of the architecture.
        weights: State dict of theta_0.
        names: Trained parameters.
        data: Its training split is probed.
        policy: Augmentation policy.
        seed: Seed of the examples and of the augmentation.
        strengths: Measured strengths; must begin with 0 and ascend to 1.
        examples: Examples m, at most a quarter of the training split; fewer for large models, 32 at least.
        draws: Augmentation draws K >= 2 of each example.

    Raises:
        UnknownName: No such policy.
        ValueError: Strengths that do not ascend from 0 to 1, or fewer than two draws.
    """
    steps = tuple(strengths)
    if steps[:1] != (0,) or steps[-1:] != (1,) or any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"strengths must ascend from 0 to 1, got {list(steps)}")
    if draws < 2:
        raise ValueError(f"draws must be >= 2 (they tell the noise within an example), got {draws}")
    y = data.y["train"]
    numbers = _NUMBERS.get(y.device.type, _NUMBERS["cpu"])
    affordable = numbers // (sum(weights[n].numel() for n in names) * draws * len(steps))
    m = min(examples, max(LEAST_EXAMPLES, affordable), max(2, data.examples // 4))
    index = torch.randperm(data.examples, generator=Generator().manual_seed(seed))[:m].to(y.device)
    x, y = data.x["train"][index], y[index]
    plain = augmentation_share(model, weights, names, [(x, y)])
    found: list[Variance] = []
    for strength in steps:
        generator = Generator(device=x.device).manual_seed(seed)
        batches = [augment(policy, strength, x, y, data.classes, generator) for _ in range(draws)]
        untouched = all(images is x and target is y for images, target in batches)
        found.append(plain if untouched else augmentation_share(model, weights, names, batches))
    ratios = [v.trace / plain.trace for v in found]
    errors = [_ratio_se(v, plain, k) for v, k in zip(found, ratios, strict=True)]
    return Probe(
        policy, steps, tuple(v.trace for v in found), tuple(v.share for v in found), tuple(ratios), tuple(errors),
        m, draws,
    )  # fmt: skip


def _ratio_se(value: Variance, plain: Variance, ratio: float) -> float:
    # delta method of a ratio of means over the same examples
    rest = value.contributions - ratio * plain.contributions
    return float(rest.std()) / math.sqrt(len(rest)) / plain.trace


def probe_digest(base_digest: str, policy: str) -> str:
    """Return 16 hex digits that name the probe of a policy at the base weights of that digest."""
    return digest_of({"base": base_digest, "policy": policy, "strengths": STRENGTHS, "size": (EXAMPLES, DRAWS)})


def cached_probe(
    spec: PairSpec, folder: str | Path | None, make: Callable[[], Probe], kept_as: Callable[[str], str] = str
) -> Probe:
    """Return the probe of the spec's policy at its base weights; `make` runs only where none is kept.

    Args:
        spec: The trial.
        folder: Folder that the workers of a run share, `<digest>.json` each; None keeps probes in memory only.
        make: Measures it, with the default strengths, examples and draws.
        kept_as: Digest -> the name under which it is kept, see `Task.kept_as`.
    """
    digest = kept_as(probe_digest(spec.base_digest, spec.augmentation))
    key = (digest, str(folder) if folder is not None else None)
    if key not in _MEMORY:
        if folder is None:
            _MEMORY[key] = make()
        else:

            def write(path: Path) -> None:
                path.write_text(make().to_json())

            _MEMORY[key] = Probe.from_json(made_once(Path(folder) / f"{digest}.json", write).read_text())
    return _MEMORY[key]

"""Problems for samplers: real pairs by interpolation, and synthetic families with a known best noise.

A problem is a function of a configuration, smaller is better, seen with noise of a known size. Regret is
(value - best) / (random search's median best of 10 - best), so that a flat objective is not won by everybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.interpolate import RegularGridInterpolator

Params = Mapping[str, Any]
Space = dict[str, BaseDistribution]
PAIRS = Path(__file__).parents[2] / "data" / "digits_pairs.parquet"
CAP = 2.0 * math.log(10.0)  # of losses, as the sweeps tell them
FLOOR = 0.5  # accuracy below which a parent makes a pair not viable
_DRAWS, _POLISHED, _CHILDREN = 4000, 10, 60


def log_noise(params: Params) -> float:
    """Return ln(eta / (B (1 - mu)))."""
    return math.log(params["learning_rate"] / params["batch_size"] / (1.0 - params["momentum"]))


def draw(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """Return a random configuration."""
    return {name: _value(d, rng.random()) for name, d in space.items()}


def _value(d: Any, u: float) -> Any:
    if isinstance(d, CategoricalDistribution):
        return d.choices[min(int(u * len(d.choices)), len(d.choices) - 1)]
    low, high = (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)
    x = low + u * (high - low)
    x = math.exp(x) if d.log else x
    return min(max(round(x) if isinstance(d, IntDistribution) else x, d.low), d.high)


def _near(space: Space, params: Params, sd: float, rng: np.random.Generator) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, d in space.items():
        if isinstance(d, CategoricalDistribution):
            out[name] = params[name] if rng.random() > 0.1 else d.choices[int(rng.integers(len(d.choices)))]
            continue
        assert isinstance(d, FloatDistribution | IntDistribution)
        low, high = (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)
        u = ((math.log(params[name]) if d.log else params[name]) - low) / (high - low) + sd * rng.normal()
        out[name] = _value(d, min(max(u, 0.0), 1.0))
    return out


@dataclass
class Problem:
    """One problem.

    Attributes:
        space: Parameter -> distribution.
        true: Configuration -> noise-free value, smaller is better.
        noise_sd: Sd of one observation; None is `sigma` of the range.
        sigma: Observation noise as a share of the range, the distance of random search's median draw from the best.
        units: Observation noise in units of regret; counts where neither of the two above is given.
        best, scale: Least value, and the unit of regret above it; found by random search and local polish.
        best_noise: Log noise of the best configuration.
    """

    space: Space
    true: Callable[[Params], float]
    sigma: float = 0.0
    noise_sd: float | None = None
    units: float = 0.0
    best: float = field(init=False)
    scale: float = field(init=False)
    best_noise: float = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        points = [draw(self.space, rng) for _ in range(_DRAWS)]
        values = np.array([self.true(p) for p in points])
        tens = np.random.default_rng(1).choice(values, (2000, 10)).min(axis=1)
        middle = float(np.median(values))
        for sd in (0.1, 0.05, 0.02, 0.01):
            few = [points[i] for i in np.argsort(values, kind="stable")[:_POLISHED]]
            points = few + [_near(self.space, p, sd, rng) for p in few for _ in range(_CHILDREN)]
            values = np.array([self.true(p) for p in points])
        self.best, self.best_noise = float(values.min()), log_noise(points[int(values.argmin())])
        self.scale = float(np.median(tens)) - self.best
        if self.noise_sd is None:
            self.noise_sd = self.sigma * (middle - self.best) + self.units * self.scale

    def observe(self, params: Params, rng: np.random.Generator) -> float:
        """Return one noisy observation."""
        return self.true(params) + float(self.noise_sd or 0.0) * float(rng.standard_normal())

    def regret(self, params: Params) -> float:
        """Return how far the noise-free value is from the best."""
        return (self.true(params) - self.best) / self.scale


# ---- real pairs ----

_DECAYS = {0.0: 1e-4, 1e-3: 1e-3, 1e-2: 1e-2}  # a decay of 0 stands at the lower end of the knob


@dataclass(frozen=True)
class Cells:
    """Means over seeds on the grid momentum × batch size × weight decay × learning rate, before smoothing.

    Attributes:
        axes: ln B, ln lambda, ln eta of the grid.
        momenta: Values of momentum.
        mean: Cell means, one array over `axes` per momentum, shape (2, 5, 3, 13).
        noise_sd: Root mean square of the seeds' sd over the tenth of the cells that is best.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    momenta: tuple[float, ...]
    mean: np.ndarray
    noise_sd: float


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _loss(row: Params) -> float:
    return math.log(min(row["loss_merged"], CAP) if _finite(row["loss_merged"]) else CAP)


def _minus_gain(row: Params) -> float:
    if not all(_finite(row[k]) for k in ("loss_a", "loss_b", "loss_merged")) or min(row["acc_a"], row["acc_b"]) < FLOOR:
        return CAP
    return -max(-CAP, min(CAP, (row["loss_a"] + row["loss_b"]) / 2 - row["loss_merged"]))


OBJECTIVES: Mapping[str, Callable[[Params], float]] = {"loss": _loss, "gain": _minus_gain}


@cache
def cells(objective: str) -> Cells:
    """Return the table of real pairs on its grid, for `loss` (log merged loss) or `gain` (minus the mean gain)."""
    rows = pq.read_table(PAIRS).to_pylist()
    momenta, batches, decays, rates = (
        sorted({r[k] for r in rows}) for k in ("momentum", "batch_size", "weight_decay", "lr")
    )
    values: dict[tuple[float, ...], list[float]] = {}
    for r in rows:
        key = (r["momentum"], r["batch_size"], r["weight_decay"], r["lr"])
        values.setdefault(key, []).append(OBJECTIVES[objective](r))
    shape = (len(momenta), len(batches), len(decays), len(rates))
    grid = [(m, b, w, e) for m in momenta for b in batches for w in decays for e in rates]
    mean = np.array([np.mean(values[k]) for k in grid]).reshape(shape)
    spread = np.array([np.var(values[k], ddof=1) for k in grid]).reshape(shape)
    good = mean <= np.quantile(mean, 0.1)
    axes = (np.log(batches), np.log([_DECAYS[w] for w in decays]), np.log(rates))
    return Cells(axes, tuple(momenta), mean, float(np.sqrt(spread[good].mean())))


def smoothed(mean: np.ndarray) -> np.ndarray:
    """Return means smoothed along their last axis by (1/4, 1/2, 1/4), so that the best cell is no lucky draw."""
    padded = np.concatenate([mean[..., :1], mean, mean[..., -1:]], axis=-1)
    return 0.25 * padded[..., :-2] + 0.5 * padded[..., 1:-1] + 0.25 * padded[..., 2:]


@cache
def pairs(objective: str) -> Problem:
    """Return the problem of the real pairs: multilinear in ln eta, ln lambda and ln B, momentum as a choice."""
    table = cells(objective)
    surface = {
        m: RegularGridInterpolator(table.axes, own) for m, own in zip(table.momenta, smoothed(table.mean), strict=True)
    }
    batch, _, rate = table.axes
    space: Space = {
        "learning_rate": FloatDistribution(float(np.exp(rate[0])), float(np.exp(rate[-1])), log=True),
        "weight_decay": FloatDistribution(1e-4, 1e-2, log=True),
        "batch_size": IntDistribution(round(np.exp(batch[0])), round(np.exp(batch[-1])), log=True),
        "momentum": CategoricalDistribution(table.momenta),
    }

    def true(params: Params) -> float:
        at = [math.log(params[k]) for k in ("batch_size", "weight_decay", "learning_rate")]
        inside = [min(max(x, axis[0]), axis[-1]) for x, axis in zip(at, table.axes, strict=True)]
        return float(surface[params["momentum"]](inside)[0])

    return Problem(space, true, noise_sd=table.noise_sd)


# ---- synthetic families ----

_BASE: Space = {
    "learning_rate": FloatDistribution(3e-4, 3.0, log=True),
    "batch_size": IntDistribution(8, 128, log=True),
    "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
}
_UNTRAINED = 0.35  # merged loss of a pair that was not trained apart


@dataclass(frozen=True)
class Family:
    """A family of synthetic log merged losses; every seed draws another member.

    A hump over log noise, a cliff beyond it, a bowl over the knobs, and divergence beyond a limit of eta / (1 - mu).
    With `stable`, the loss also rises where eta / (1 + mu) passes a limit, as gradient descent with momentum does on a
    curvature (Goh 2017, "Why momentum really works"): small momentum meets it before the best noise at large batches.

    Attributes:
        knobs: Number of knobs, 3 to 8; from the fourth on: weight decay, augmentation's strength, knobs without a role.
        bowl: Size of what noise does not explain.
        tilt: Sd of the exponents around their values.
        exponents: Of eta, 1/B, 1/(1 - mu) and lambda in the noise that counts.
        width: Range of the hump's width in nats.
        cliff: Steepness of the loss beyond the hump.
        noise: Whether there is a hump at all.
        stable: Range of the limit of eta / (1 + mu); None for no such limit.
    """

    knobs: int = 4
    bowl: float = 0.15
    tilt: float = 0.1
    exponents: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)
    width: tuple[float, float] = (0.7, 1.5)
    cliff: float = 3.0
    noise: bool = True
    stable: tuple[float, float] | None = None

    def __call__(self, seed: int, sigma: float = 0.0, units: float = 0.0) -> Problem:
        """Return the member of a seed."""
        rng = np.random.default_rng([seed, self.knobs, 4711])
        space = dict(_BASE)
        more: Space = {"weight_decay": FloatDistribution(1e-5, 3e-2, log=True)}
        more |= {k: FloatDistribution(0.0, 1.0) for k in ("augmentation_strength", "x", "y", "z")}
        space |= dict(list(more.items())[: self.knobs - 3])
        exponents = np.array(self.exponents) + self.tilt * rng.normal(size=4) * [0, 1, 1, 0.4]
        best, width = rng.uniform(math.log(3e-3), math.log(4e-2)), rng.uniform(*self.width)
        weights = self.bowl * rng.dirichlet(np.full(len(space), 1.5)) * len(space) / 4
        weights[0] *= 0.2 if self.noise else 1.0
        centre, augmentation = rng.uniform(0.1, 0.9, len(space)), rng.uniform(0.0, 1.2)
        limit = 10.0 if self.noise else math.inf
        edge = math.exp(rng.uniform(*np.log(self.stable))) if self.stable else math.inf

        def true(params: Params) -> float:
            logs = [
                math.log(params["learning_rate"]),
                -math.log(params["batch_size"]),
                -math.log1p(-params["momentum"]),
            ]
            logs.append(math.log(params.get("weight_decay", 5e-4) / 5e-4))
            z = float(exponents @ logs) + augmentation * params.get("augmentation_strength", 0.0)
            z = (z - best) / width
            loss = _UNTRAINED + float(weights @ (_unit(space, params) - centre) ** 2)
            if self.noise:
                loss -= 0.15 * math.exp(-0.5 * z * z)
                loss *= math.exp(min(self.cliff * max(0.0, z - 1.8), 6.0))
            over = math.log(params["learning_rate"] / (1.0 + params["momentum"]) / edge) if self.stable else 0.0
            loss *= math.exp(min(2.0 * max(0.0, over), 6.0))
            if params["learning_rate"] / (1.0 - params["momentum"]) > limit:
                loss = 150.0
            return math.log(min(loss, CAP))

        return Problem(space, true, sigma, units=units)


def _unit(space: Space, params: Params) -> np.ndarray:
    out: list[float] = []
    for name, d in space.items():
        if name == "momentum":
            out.append(-math.log1p(-params[name]) / math.log(20))
        else:
            assert isinstance(d, FloatDistribution | IntDistribution)
            log = d.log
            span = math.log(d.high / d.low) if log else d.high - d.low
            out.append((math.log(params[name] / d.low) if log else params[name] - d.low) / span)
    return np.array(out)


FAMILIES: Mapping[str, Family] = {
    "all": Family(bowl=0.02, tilt=0.0),
    "most": Family(),
    "most_3": Family(knobs=3),
    "most_5": Family(knobs=5),
    "most_8": Family(knobs=8),
    "narrow": Family(width=(0.35, 0.5)),
    "wide": Family(width=(1.8, 2.5)),
    "cliff": Family(cliff=12.0),
    "limit": Family(stable=(0.1, 1.0)),
    "momentum_2": Family(exponents=(1, 1, 2, 0), tilt=0.0),
    # square-root scaling of the learning rate (Krizhevsky 2014, arXiv 1404.5997), of momentum, too
    "sqrt_batch": Family(exponents=(1, 0.5, 1, 0), tilt=0.0),
    "sqrt_both": Family(exponents=(1, 0.5, 0.5, 0), tilt=0.0),
    "decay_joins": Family(exponents=(1, 1, 1, 0.5), tilt=0.0),
    "nothing": Family(bowl=0.5, noise=False),
    "nothing_5": Family(knobs=5, bowl=0.5, noise=False),
}
REAL = ("pairs_loss", "pairs_gain")


def problem(name: str, seed: int) -> Problem:
    """Return a problem by name: `pairs_loss`, `pairs_gain`, or `<family>@<noise>`, such as `most@0.05` or `most@0.5u`.

    The observation noise is a share of the range, with `u` in units of regret.

    Raises:
        KeyError: No such problem.
    """
    if name in REAL:
        return pairs(name.removeprefix("pairs_"))
    family, _, sigma = name.partition("@")
    if sigma.endswith("u"):
        return FAMILIES[family](seed, units=float(sigma[:-1]))
    return FAMILIES[family](seed, float(sigma or 0.0))

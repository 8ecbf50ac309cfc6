"""Simple regret of samplers on synthetic merged losses with a known best noise.

    python tests/bench/bench_sampler_synthetic.py --seeds 10 --samplers noise,tpe,random

Regret: (true loss of the configuration with the best observed loss - least true loss) / (loss far from the optimum -
least true loss), both in log loss. Median over seeds, with the quartiles. Each seed is another problem of the family.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from sweeper.sampler import NoiseTargetedSampler

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "learning_rate": optuna.distributions.FloatDistribution(3e-4, 3.0, log=True),
    "batch_size": optuna.distributions.IntDistribution(8, 128, log=True),
    "momentum": optuna.distributions.CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
    "weight_decay": optuna.distributions.FloatDistribution(1e-5, 3e-2, log=True),
    "augmentation_strength": optuna.distributions.FloatDistribution(0.0, 1.0),
}
CAP = 2.0 * math.log(10.0)
FAR = math.log(0.35)  # a pair that was not trained apart


def unit(h: Mapping[str, float]) -> np.ndarray:
    return np.array(
        [
            math.log(h["learning_rate"] / 3e-4) / math.log(1e4),
            math.log(h["batch_size"] / 8) / math.log(16),
            -math.log(1 - h["momentum"]) / math.log(20),
            math.log(h["weight_decay"] / 1e-5) / math.log(3e3),
            h["augmentation_strength"],
        ]
    )


@dataclass(frozen=True)
class Problem:
    """One log loss over `SPACE`: hump over tilted log noise, cliff beyond it, bowl over the knobs, seed noise."""

    best: float
    width: float
    exponents: np.ndarray  # of eta, 1/B, 1/(1-mu), lambda
    bowl: np.ndarray
    centre: np.ndarray
    depth: float = 0.12
    limit: float = 10.0
    sd: float = 0.01

    def true(self, h: Mapping[str, float]) -> float:
        logs = np.log([h["learning_rate"], 1 / h["batch_size"], 1 / (1 - h["momentum"]), h["weight_decay"] / 5e-4])
        z = (float(self.exponents @ logs) - self.best) / self.width
        loss = 0.35 - self.depth * math.exp(-0.5 * z * z) + float(self.bowl @ (unit(h) - self.centre) ** 2)
        if self.depth:
            loss *= math.exp(min(3.0 * max(0.0, z - 1.8), 6.0))
        if h["learning_rate"] / (1 - h["momentum"]) > self.limit:
            loss = 150.0
        return math.log(min(loss, CAP))

    def least(self, draws: int = 20000) -> float:
        """Return the least true loss found by dense random search with local polish."""
        rng = np.random.default_rng(0)
        u = rng.random((draws, 5))
        values = [self.true(params_at(row)) for row in u]
        for _ in range(4):
            top = u[np.argsort(values)[:20]]
            more = np.clip(np.repeat(top, 100, axis=0) + 0.05 * rng.standard_normal((2000, 5)), 0, 1 - 1e-9)
            u, values = np.concatenate([u, more]), [*values, *(self.true(params_at(row)) for row in more)]
        return min(values)


def params_at(u: np.ndarray) -> dict[str, float]:
    return {
        "learning_rate": 3e-4 * 1e4 ** u[0],
        "batch_size": round(8 * 16 ** u[1]),
        "momentum": (0.0, 0.5, 0.9, 0.95)[int(u[2] * 4)],
        "weight_decay": 1e-5 * 3e3 ** u[3],
        "augmentation_strength": u[4],
    }


def _problem(seed: int, tilt: float, bowl: float, depth: float = 0.12, **more: Any) -> Problem:
    rng = np.random.default_rng([seed, 77])
    exponents = np.array([1.0, 1.0, 1.0, 0.0]) + tilt * rng.normal(size=4) * [0, 1, 1, 0.4]
    best = rng.uniform(math.log(3e-3), math.log(4e-2))
    weights = bowl * rng.dirichlet(np.ones(5) * 1.5) * [0.2 if depth else 1, 1, 1, 1, 1]
    return Problem(best, rng.uniform(0.7, 1.5), exponents, weights, rng.uniform(0.1, 0.9, 5), depth, **more)


FAMILIES: dict[str, Callable[[int], Problem]] = {
    "ridge": lambda seed: _problem(seed, 0.0, 0.1),
    "tilted": lambda seed: _problem(seed, 0.15, 0.1),
    "mixed": lambda seed: _problem(seed, 0.1, 0.4),
    "no_noise": lambda seed: _problem(seed, 0.0, 0.6, depth=0.0, limit=math.inf),
}

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "noise": lambda seed: NoiseTargetedSampler(seed=seed, search_space=SPACE),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def regrets(family: str, sampler: str, seed: int, at: tuple[int, ...]) -> tuple[list[float], float]:
    """Return the normalised regret after each number of trials, and the seconds per trial."""
    problem, rng = FAMILIES[family](seed), np.random.default_rng([seed, 99])
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed))
    least, values, truths = problem.least(), [], []
    start = time.perf_counter()
    for _ in range(max(at)):
        trial = study.ask(SPACE)
        truths.append(problem.true(trial.params))
        values.append(truths[-1] + problem.sd * rng.normal())
        study.tell(trial, values[-1])
    seconds = (time.perf_counter() - start) / max(at)
    far = FAR if problem.depth else math.log(0.35 + problem.bowl.sum() / 4)
    return [(truths[int(np.argmin(values[:n]))] - least) / (far - least) for n in at], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--samplers", default="noise,tpe,random")
    parser.add_argument("--families", default=",".join(FAMILIES))
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    at = (30, 60)
    columns = "".join(f"{f'regret@{n} [quartiles]':>28s}" for n in at)
    print(f"{'family':10s}{'sampler':9s}{columns}{'ms/trial':>10s}  n")
    for family in args.families.split(","):
        for sampler in args.samplers.split(","):
            runs = [regrets(family, sampler, seed, at) for seed in range(args.first, args.first + args.seeds)]
            table = np.quantile([r for r, _ in runs], [0.25, 0.5, 0.75], axis=0)
            cells = "".join(f"{f'{m:.3f} [{a:.3f}, {b:.3f}]':>28s}" for a, m, b in table.T)
            print(f"{family:10s}{sampler:9s}{cells}{1e3 * np.mean([s for _, s in runs]):10.1f}{len(runs):3d}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

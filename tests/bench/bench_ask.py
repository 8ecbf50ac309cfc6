"""Time of one ask of the noise sampler against the number of finished trials, one core."""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import optuna
from provenance import provenance
from race.problems import draw, problem

from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler


def asks(trials: int, count: int) -> list[float]:
    """Return the seconds of so many asks after `trials` random trials of a problem with five knobs."""
    task, rng = problem("most_5@0.05", 0), np.random.default_rng(0)
    study = optuna.create_study(sampler=NoiseTargetedSampler(search_space=task.space))
    done = [draw(task.space, rng) for _ in range(trials)]
    study.add_trials(
        [optuna.create_trial(params=p, distributions=task.space, value=task.observe(p, rng)) for p in done]
    )
    seconds: list[float] = []
    for _ in range(count + 1):
        start = time.perf_counter()
        trial = study.ask(task.space)
        seconds.append(time.perf_counter() - start)
        study.tell(trial, task.observe(trial.params, rng))
    return seconds[1:]  # the first one imports


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asks", type=int, default=15, help="default: %(default)s")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(provenance())
    print(f"{'finished trials':>15} {'median ms':>10} {'least':>7} {'most':>7}   n = {args.asks}")
    for trials in (20, 60, 200, 500, 2000):
        ms = [1e3 * s for s in asks(trials, args.asks)]
        print(f"{trials:>15} {statistics.median(ms):>10.0f} {min(ms):>7.0f} {max(ms):>7.0f}")


if __name__ == "__main__":
    main()

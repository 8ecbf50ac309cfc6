"""Maps drawn from quasi-random sweeps of real pairs: how often a map of n trials over a range of noises finds the hump.

    python tests/bench/bench_maps.py runs/qmc-1 runs/qmc-2 --ranges 1e-4:0.08 1e-4:0.2 --trials 22 32

Each map takes, for n even log noises with jitter, the nearest trial that it does not hold yet. Maps from the same
sweeps share trials, so the rates hold for these sweeps.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from provenance import provenance
from threadpoolctl import threadpool_limits

from sweeper.analysis.evidence.cells import collect, raise_tail_along
from sweeper.analysis.evidence.verdict import HUMP, Verdict, judge
from sweeper.analysis.regime import EDGE
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.tables import read_trials


def draw_map(log_noise: np.ndarray, span: tuple[float, float], n: int, rng: np.random.Generator) -> list[int]:
    """Return the positions of n trials whose log noises are nearly even over a span."""
    left = np.flatnonzero((log_noise > span[0]) & (log_noise < span[1])).tolist()
    strata = (np.arange(n) + rng.random(n)) / n
    taken: list[int] = []
    for target in rng.permutation(span[0] + strata * (span[1] - span[0])):
        nearest = min(left, key=lambda i: (abs(log_noise[i] - target), i))
        left.remove(nearest)
        taken.append(nearest)
    return taken


def judge_map(trials: pa.Table, objective: str, noise: str, draws: int) -> Verdict:
    """Return the verdict on a map."""
    goal = OBJECTIVES[objective]
    cells = raise_tail_along(collect(trials, goal), noise)
    return judge(cells, raise_tail_along(collect(trials, goal, broken=True), noise), noise, draws=draws)


def main() -> None:
    """Print the share of verdicts by range and number of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of quasi-random or random sweeps of one space")
    parser.add_argument("--ranges", nargs="+", default=["3e-4:0.08", "3e-4:0.2"], help="ends of the noise, LOW:HIGH")
    parser.add_argument("--trials", type=int, nargs="+", default=[22, 26, 32], help="trials of a map")
    parser.add_argument("--objective", default="gain_mean", choices=OBJECTIVES, help="default: %(default)s")
    parser.add_argument("--noise", default="paper_aug", help="default: %(default)s")
    parser.add_argument("-n", type=int, default=40, help="maps of each kind (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=200, help="bootstrap draws (default: %(default)s)")
    args = parser.parse_args()
    trials = pa.concat_tables([read_trials(run) for run in args.runs])
    noise = np.array([v or 0.0 for v in trials[f"noise_{args.noise}"].to_pylist()])
    with np.errstate(divide="ignore"):
        log_noise = np.log(noise)
    print(f"{provenance()}\n{len(trials)} trials, {args.n} maps each; likely: both lines significant, optimum inside")
    print(f"{'range':<16}{'trials':>6}{'viable':>8}{'hump':>7}{'likely or hump':>16}")
    with threadpool_limits(1):
        for text in args.ranges:
            low, high = map(float, text.split(":"))
            for n in args.trials:
                kinds, viable = Counter[str](), 0
                for seed in range(args.n):
                    rng = np.random.default_rng([seed, n])
                    drawn = trials.take(draw_map(log_noise, (math.log(low), math.log(high)), n, rng))
                    viable += drawn["outcome"].to_pylist().count("ok")
                    verdict = judge_map(drawn, args.objective, args.noise, args.draws)
                    share = 1.0 if verdict.edge_share is None else verdict.edge_share
                    kinds["hump"] += verdict.name == HUMP
                    kinds["likely"] += verdict.name == HUMP or (verdict.gate.passed and share < EDGE)
                rates = [kinds[k] / args.n for k in ("hump", "likely")]
                print(f"{text:<16}{n:>6}{viable / args.n:>8.1f}{rates[0]:>7.2f}{rates[1]:>16.2f}", flush=True)


if __name__ == "__main__":
    main()

"""The noise sampler against Optuna's: trials to a regret of the recommended configuration, over paired seeds.

    python tests/bench/bench_sampler.py --problems pairs_loss most@0.05 --seeds 30

Problems: `pairs_loss` and `pairs_gain` (1,170 real pairs, see tests/data/README.md) and the synthetic families
`<family>@<observation noise as a share of the range, with u in units of regret>`. Contestants with their defaults;
`noise-<part>` is ours without that part, and `--ablation` runs all four of them. Finished runs in --out are reused.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pyarrow.parquet as pq
from provenance import provenance
from race.contestants import CONTESTANTS
from race.course import Run, run_all
from race.problems import FAMILIES, REAL
from race.verdict import ablation, comparison, courses, figure, table

RIVALS = ("tpe", "gp", "gp5", "tpe_noise", "gp_noise", "cmaes", "qmc", "random")
WITHOUT = ("noise-level_sets", "noise-exponents", "noise-residual", "noise-repeats")
SLOW = ("gp", "gp5", "gp_noise")  # a third of a second an ask


def planned(args: argparse.Namespace) -> list[Run]:
    """Return the runs asked for; the slow contestants get a third of the seeds but on the pairs' merged losses."""
    runs: list[Run] = []
    for problem in args.problems:
        for name in dict.fromkeys([*args.samplers, *(WITHOUT if args.ablation else ())]):
            few = name in SLOW and problem != REAL[0] and not args.all_seeds
            seeds = range(args.first, args.first + (max(1, args.seeds // 3) if few else args.seeds))
            runs += [Run(problem, name, seed, args.trials, parallel) for seed in seeds for parallel in args.parallel]
    return sorted(runs, key=lambda r: (r.seed, r.contestant not in SLOW))


def main() -> None:
    """Run what is missing, print the tables, write Parquet and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*REAL, *(f"{f}@SIGMA" for f in FAMILIES)]
    parser.add_argument("--problems", nargs="+", default=[*REAL, "most@0.05", "nothing@0.05"],
                        help=f"of {', '.join(known)}")  # fmt: skip
    parser.add_argument("--samplers", nargs="+", default=["noise", *RIVALS], choices=list(CONTESTANTS), metavar="NAME",
                        help=f"of {', '.join(CONTESTANTS)}")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="first seed (default: %(default)s)")
    parser.add_argument("--all-seeds", action="store_true", help="also for the slow contestants")
    parser.add_argument("--trials", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--ablation", action="store_true", help="ours without each of its parts, too")
    parser.add_argument("--parallel", type=int, nargs="+", default=[1], help="trials at a time (default: 1)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time (default: one a core)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-sampler"), help="default: %(default)s")
    args = parser.parse_args()
    marks = run_all(planned(args), args.out / "runs", args.workers)
    found = courses(marks)
    pq.write_table(marks, args.out / "marks.parquet")
    figure(found).write_html(args.out / "regret.html", include_plotlyjs=True)
    print(f"{args.trials} trials; {provenance()}")
    print("trials until the regret of the recommended configuration is at most so much: median [quartiles]")
    print(table(found))
    print("\nours against the best other sampler of the table; Wilcoxon's signed-rank test over paired seeds")
    print(comparison(found))
    if any(name.startswith("noise") and name != "noise" for _, _, name in found):
        print("\nvariants minus ours, over paired seeds; above 0 is worse")
        print(ablation(found))
    print(f"\nmarks: {args.out / 'marks.parquet'}, figure: {args.out / 'regret.html'}")


if __name__ == "__main__":
    main()

"""The noise sampler against the others on real pairs: best merged validation loss at equal budget, by seed."""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from provenance import provenance

from sweeper.store import read_trials
from sweeper.winners import best_trials


def main() -> None:
    """Run what is missing (finished sweeps in --root are reused) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-search"), help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=60, help="configurations (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--samplers", nargs="+", default=["noise", "random"], help="default: noise random")
    parser.add_argument("--space", default="digits_cnn", help="default: %(default)s")
    args = parser.parse_args()
    budgets = [b for b in (15, 30, 60) if b <= args.trials]
    found: dict[tuple[str, int], list[float]] = {}
    for seed in args.seeds:
        for sampler in args.samplers:
            run = args.root / f"{args.space}-{sampler}-{seed}"
            command = [sys.executable, "-m", "sweeper", "run", args.space, "--sampler", sampler, "--seed", str(seed)]
            command += ["--trials", str(args.trials), "--out", str(run), "--yes"]
            subprocess.run(command, check=True, capture_output=True)
            trials = read_trials(run)
            for budget in budgets:
                # sorted by number: the first rows are the first configurations
                (best,) = best_trials(trials.slice(0, budget), "merged_loss")
                found.setdefault((sampler, budget), []).append(best["config_mean"])
    print(f"{args.space}, best merged validation loss [nat], n = {len(args.seeds)} seeds; {provenance()}")
    print(f"{'sampler':<8} {'trials':>6} {'median':>8} {'least':>8} {'most':>8}   by seed")
    for (sampler, budget), values in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        spread = f"{statistics.median(values):>8.4f} {min(values):>8.4f} {max(values):>8.4f}"
        print(f"{sampler:<8} {budget:>6} {spread}   {' '.join(f'{v:.4f}' for v in values)}")


if __name__ == "__main__":
    main()

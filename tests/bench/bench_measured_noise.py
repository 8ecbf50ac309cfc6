"""Measured against predicted noise over a sweep: rank correlations, with and without augmentation."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from provenance import provenance
from scipy.stats import spearmanr

from sweeper.storage.tables import read_trials

PREDICTED = ("paper", "paper_v1", "linear", "paper_aug")
MEASURED = ("paper_full", "dose", "effective_lr", "critical_ratio")


def correlations(run: Path) -> dict[tuple[str, str], tuple[float, float, float, int]]:
    """Return (predicted, measured) -> Spearman correlation with its 90 % bootstrap interval, and n."""
    rows = [r for r in read_trials(run).to_pylist() if r["outcome"] == "ok"]
    rng, found = np.random.default_rng(0), {}
    for p in PREDICTED:
        for m in MEASURED:
            pairs = np.array([(r[f"noise_{p}"], r[f"noise_{m}"]) for r in rows if r[f"noise_{m}"] is not None])
            if len(pairs) < 5:
                continue
            draws = [spearmanr(pairs[rng.integers(0, len(pairs), len(pairs))]).statistic for _ in range(500)]
            low, high = np.percentile(draws, [5, 95])
            found[p, m] = (float(spearmanr(pairs).statistic), low, high, len(pairs))
    return found


def main() -> None:
    """Run the two sweeps where they are missing (finished ones in --root are reused) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-noise"), help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=60, help="configurations (default: %(default)s)")
    parser.add_argument("--space", default="digits_cnn", help="default: %(default)s")
    args = parser.parse_args()
    print(f"{args.space}, quasi-random design of {args.trials}, Spearman correlation (90 % bootstrap); {provenance()}")
    for name, more in {
        "without augmentation": ["--set", "augmentation_strength=0.0"],
        "shift, strength 0…1": [],
        "crop_flip+mixup, strength 0…1": ["--set", "augmentation=crop_flip+mixup"],
    }.items():
        run = args.root / f"{args.space}-{name.partition(',')[0].replace(' ', '-')}"
        command = [
            sys.executable,
            "-m",
            "sweeper",
            "run",
            args.space,
            "--sampler",
            "qmc",
            "--seed",
            "1",
            "--measure",
            "4",
        ]
        command += ["--trials", str(args.trials), "--out", str(run), "--yes", *more]
        subprocess.run(command, check=True, capture_output=True)
        print(f"{name}\n{'predicted':<10} {'measured':<14} {'rank correlation':>22} {'n':>4}")
        for (p, m), (r, low, high, n) in correlations(run).items():
            print(f"{p:<10} {m:<14} {f'{r:.2f} ({low:.2f}–{high:.2f})':>22} {n:>4}")


if __name__ == "__main__":
    main()

"""Merges within the same trials: windows, Model Stock, Fisher of Adam, weight matching; noise of trunk and children.

    python tests/bench/bench_merges.py --pairs 20 --questions windows stock adam scratch trunk

Losses and accuracies are on test. Differences are paired by trial, with 90 % intervals of Student's t and Holm's
correction over all differences of a score. Rows of finished arms in --root are reused.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_dynamics import FIXED, NOISES, Tests, build, print_holm
from provenance import provenance
from scipy.stats import t, ttest_1samp

from search_spaces import load
from trainables.pair.run import run_pairs
from trainables.runtime import Runtime
from trainables.spec import PairSpec

GRID = (0.005, 0.015, 0.05, 0.15, 0.45)
SPACING = 4
Merge = dict[str, Any]  # one row of a merge
Place = tuple[str, float, int | None]  # method, coefficient, window


def run(root: Path, spec: PairSpec, pairs: int) -> list[list[Merge]]:
    """Return the merges of each viable repeat of a trial."""
    file = root / f"{spec.config}-{pairs}-merges.json"
    if not file.exists():
        specs = [PairSpec.from_mapping({**json.loads(spec.to_json()), "repeat": i}) for i in range(pairs)]
        outputs = run_pairs(specs, Runtime(measure=0))
        names = ("method", "coefficient", "window", "loss_test", "accuracy_test")
        kept = [[{n: getattr(m, n) for n in names} for m in o.merges] for o in outputs if o.result.outcome == "ok"]
        file.write_text(json.dumps(kept))
    return json.loads(file.read_text())


def read(trials: Sequence[Sequence[Merge]], places: Sequence[Place], score: str) -> np.ndarray:
    """Return the mean score over some merges, per trial."""
    found = [[m[score] for m in merges if (m["method"], m["coefficient"], m["window"]) in places] for merges in trials]
    return np.array(found, dtype=float).mean(1)


def compare(title: str, trials: Sequence[Sequence[Merge]], arms: Mapping[str, Sequence[Place]], tests: Tests) -> None:
    """Print the mean of the first arm, and the paired differences of the others to it."""
    print(f"\n{title}, {len(trials)} pairs")
    first = next(iter(arms))
    for name, places in arms.items():
        cells: list[str] = []
        for score in ("loss_test", "accuracy_test"):
            own = read(trials, places, score)
            if name == first:
                cells.append(f"{own.mean():.4f} ± {own.std(ddof=1) / math.sqrt(len(own)):.4f}")
                continue
            gaps = own - read(trials, arms[first], score)
            half = t.ppf(0.95, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
            cells.append(f"{gaps.mean():+.4f} [{gaps.mean() - half:+.4f}, {gaps.mean() + half:+.4f}]")
            tests.append((f"{title}: {name}", score, float(ttest_1samp(gaps, 0.0).pvalue)))
        print(f"{name:<28} " + " ".join(f"{c:>26}" for c in cells), flush=True)


def compare_windows(root: Path, pairs: int, tests: Tests) -> None:
    """Compare windows, alone and merged, with the last weights; with and without a decay."""
    for level, noise in NOISES.items():
        for decay in (0.2, 0.0):
            spec = build(noise, decay=decay, window={"size": [4, 8], "spacing": SPACING}, merges=("linear",))
            trials = run(root, spec, pairs)
            merged: dict[str, Sequence[Place]] = {
                f"merged, window {w or 1}": [("linear", 0.5, w)] for w in (None, 4, 8)
            }
            alone: dict[str, Sequence[Place]] = {
                f"alone, window {w or 1}": [("linear", 0.0, w), ("linear", 1.0, w)] for w in (None, 4, 8)
            }
            compare(f"decay {decay:g}, noise {noise:g} ({level})", trials, {**merged, **alone}, tests)


def compare_stock(root: Path, pairs: int, tests: Tests) -> None:
    """Compare Model Stock with the linear midpoint."""
    for level, noise in NOISES.items():
        trials = run(root, build(noise, merges=("linear", "model_stock")), pairs)
        arms: dict[str, Sequence[Place]] = {
            "linear ½": [("linear", 0.5, None)], "model_stock": [("model_stock", 1.0, None)],
            "parents": [("linear", 0.0, None), ("linear", 1.0, None)],
        }  # fmt: skip
        compare(f"noise {noise:g} ({level})", trials, arms, tests)


def compare_adam(root: Path, pairs: int, tests: Tests) -> None:
    """Compare Fisher averages at equal weights with the linear midpoint, of children of AdamW."""
    methods = ("linear", "fisher", "fisher_adam")
    for rate in (1e-3, 4e-3):
        space = load("digits_label_noise")
        settings = {**FIXED, "optimizer": "adamw", "momentum": 0.0, "merges": methods}
        trials = run(
            root, space.build({k: settings.pop(k) for k in FIXED} | {"learning_rate": rate}, seed=17, **settings), pairs
        )
        arms: dict[str, Sequence[Place]] = {m: [(m, 0.5, None)] for m in methods}
        compare(f"AdamW at {rate:g}", trials, arms, tests)


def compare_scratch(root: Path, pairs: int, tests: Tests) -> None:
    """Compare weight matching, with and without REPAIR, with the linear midpoint; children of different weights."""
    methods = ("linear", "weight_matching", "weight_matching_repair")
    for level, noise in NOISES.items():
        trials = run(root, build(noise, merges=methods, protocol="scratch"), pairs)
        arms: dict[str, Sequence[Place]] = {"linear ½": [("linear", 0.5, None)]}
        arms |= {f"{m} ½": [(m, 0.5, None)] for m in methods[1:]}
        arms |= {"parents": [("linear", 0.0, None), ("linear", 1.0, None)]}
        compare(f"scratch, noise {noise:g} ({level})", trials, arms, tests)


def print_trunks(root: Path, pairs: int) -> None:
    """Print the merged loss over the learning rates of trunk and children, and the variance that each explains."""
    space = load("digits_trunk")
    table = np.full((len(GRID), len(GRID)), np.nan)
    gains = table.copy()
    for i, trunk in enumerate(GRID):
        for j, rate in enumerate(GRID):
            spec = space.build({"trunk.learning_rate": trunk, "learning_rate": rate}, seed=17, merges=("linear",))
            if trials := run(root, spec, pairs):
                table[i, j] = read(trials, [("linear", 0.5, None)], "loss_test").mean()
                gains[i, j] = (
                    read(trials, [("linear", 0.0, None), ("linear", 1.0, None)], "loss_test").mean() - table[i, j]
                )
    for name, values in (("merged loss", table), ("gain", gains)):
        print(f"\n{name} by learning rate of the trunk (rows) and of the children (columns), {pairs} pairs a cell")
        print(f"{'':>8} " + " ".join(f"{g:>8g}" for g in GRID))
        for trunk, line in zip(GRID, values, strict=True):
            print(f"{trunk:>8g} " + " ".join(f"{v:>8.4f}" for v in line))
        whole = np.nanvar(values)
        shares = [np.nanvar(np.nanmean(values, axis=axis)) / whole for axis in (1, 0)]
        print(f"share of the variance over cells: trunk {shares[0]:.2f}, children {shares[1]:.2f}", flush=True)


def main() -> None:
    """Run the questions and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-merges"), help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=20, help="pairs per arm (default: %(default)s)")
    parser.add_argument("--cell", type=int, default=4, help="pairs per cell of the map of trunks")
    parser.add_argument("--questions", nargs="+", default=["windows", "stock", "adam", "scratch", "trunk"])
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    print(provenance())
    tests: Tests = []
    questions = {"windows": compare_windows, "stock": compare_stock, "adam": compare_adam, "scratch": compare_scratch}
    for name, ask in questions.items():
        if name in args.questions:
            ask(args.root, args.pairs, tests)
    print_holm(tests)
    if "trunk" in args.questions:
        print_trunks(args.root, args.cell)


if __name__ == "__main__":
    main()

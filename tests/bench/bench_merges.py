"""Merges within the same trials: windows, Model Stock, Fisher of Adam, weight matching; noise of trunk and children.

    python tests/bench/bench_merges.py --pairs 20 --questions windows ema fashion stock adam scratch trunk

Losses and accuracies are on test. Differences are paired by trial, with 90 % intervals of Student's t and Holm's
correction over all differences of a score. Rows of finished arms in --root are reused. Fashion-MNIST is read from
SWEEPER_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_dynamics import DIGITS, FIXED, NOISES, Tests, build, print_holm
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
MIDDLE: Sequence[Place] = [("linear", 0.5, None)]
ENDS: Sequence[Place] = [("linear", 0.0, None), ("linear", 1.0, None)]


def run(root: Path, spec: PairSpec, pairs: int) -> list[list[Merge]]:
    """Return the merges of each viable repeat of a trial."""
    file = root / f"{spec.config}-{pairs}-merges.json"
    if not file.exists():
        specs = [PairSpec.from_mapping({**json.loads(spec.to_json()), "repeat": i}) for i in range(pairs)]
        outputs = run_pairs(specs, Runtime(os.environ.get("SWEEPER_DATA"), measure=0))
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


def compare_windows(root: Path, pairs: int, tests: Tests, kind: str = "mean", fashion: bool = False) -> None:
    """Compare windows, alone and merged, with the last weights; with and without a decay."""
    # 88 steps a child on digits, 252 on Fashion-MNIST, where one setting has to do
    space, spacing = ("fashion_cnn", 3 * SPACING) if fashion else (DIGITS, SPACING)
    for level, noise in [*NOISES.items()][: 1 if fashion else None]:
        for decay in (0.2,) if fashion else (0.2, 0.0):
            window = {"size": [4, 8], "spacing": spacing} | ({} if kind == "mean" else {"kind": kind})
            spec = build(noise, space, decay=decay, window=window, merges=("linear",))
            trials = run(root, spec, pairs)
            merged: dict[str, Sequence[Place]] = {
                f"merged, window {w or 1}": [("linear", 0.5, w)] for w in (None, 4, 8)
            }
            alone: dict[str, Sequence[Place]] = {
                f"alone, window {w or 1}": [("linear", 0.0, w), ("linear", 1.0, w)] for w in (None, 4, 8)
            }
            compare(f"{space}, {kind}, decay {decay:g}, noise {noise:g} ({level})", trials, {**merged, **alone}, tests)


def compare_stock(root: Path, pairs: int, tests: Tests) -> None:
    """Compare Model Stock with the linear midpoint."""
    for level, noise in NOISES.items():
        trials = run(root, build(noise, merges=("linear", "model_stock")), pairs)
        arms: dict[str, Sequence[Place]] = {
            "linear ½": MIDDLE, "model_stock": [("model_stock", 1.0, None)],
            "parents": ENDS,
        }  # fmt: skip
        compare(f"noise {noise:g} ({level})", trials, arms, tests)


def compare_adam(root: Path, pairs: int, tests: Tests) -> None:
    """Compare Fisher averages at equal weights with the linear midpoint, of children of AdamW."""
    methods = ("linear", "fisher", "fisher_adam")
    for rate in (1e-3, 4e-3):
        space = load(DIGITS)
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
        arms: dict[str, Sequence[Place]] = {"linear ½": MIDDLE}
        arms |= {f"{m} ½": [(m, 0.5, None)] for m in methods[1:]}
        arms |= {"parents": ENDS}
        compare(f"scratch, noise {noise:g} ({level})", trials, arms, tests)


def print_trunks(root: Path, pairs: int) -> None:
    """Print scores over the learning rates of trunk and children, and the effects of both with intervals.

    Pair i of a cell has seed i, so that a learning rate of the trunk has as many trunks, which its cells share.
    """
    space, shape = load("digits_trunk"), (len(GRID), len(GRID), pairs)
    merged, parents, barrier = np.full((3, *shape), np.nan)
    accuracies = merged.copy()
    for i, trunk in enumerate(GRID):
        for k in range(pairs):
            for j, rate in enumerate(GRID):
                knobs = {"trunk.learning_rate": trunk, "learning_rate": rate}
                if trials := run(root, space.build(knobs, seed=17 + k, merges=("linear",)), 1):
                    ends = read(trials, ENDS, "loss_test")[0]
                    middle = read(trials, MIDDLE, "loss_test")[0]
                    merged[i, j, k], parents[i, j, k], barrier[i, j, k] = middle, ends, max(
                        m["loss_test"] for m in trials[0] if m["method"] == "linear"
                    ) - ends  # fmt: skip
                    accuracies[i, j, k] = read(trials, MIDDLE, "accuracy_test")[0]
    scores = {"merged loss": merged, "gain": parents - merged, "parents' loss": parents, "barrier": barrier,
              "merged accuracy": accuracies}  # fmt: skip
    for name, values in scores.items():
        print(f"\n{name} by learning rate of the trunk (rows) and of the children (columns), {pairs} pairs a cell")
        print(f"{'':>8} " + " ".join(f"{g:>8g}" for g in GRID) + "   mean [90 %]")
        rates = _describe(values, 1)
        for trunk, line, text in zip(GRID, np.nanmean(values, 2), rates, strict=True):
            print(f"{trunk:>8g} " + " ".join(f"{v:>8.4f}" for v in line) + f"   {text}")
        print(f"{'mean':>8} " + " ; ".join(_describe(values, 0)))
        print(f"viable: {int((~np.isnan(values)).sum())} of {values.size}")
        shares = _share(values)
        random = np.random.default_rng(0)
        draws = np.array([_share(values[:, :, random.integers(0, pairs, pairs)]) for _ in range(1000)])
        low, high = np.nanpercentile(draws, [5, 95], axis=0)
        parts = zip(("trunk", "children", "both together"), shares, low, high, strict=True)
        print(
            "share of the variance over cells: " + ", ".join(f"{n} {s:.2f} [{a:.2f}, {b:.2f}]" for n, s, a, b in parts)
        )


def _describe(values: np.ndarray, axis: int) -> list[str]:
    """Return the mean over an axis of the map with its interval over seeds, for every entry of the other axis."""
    by_seed = np.nanmean(values, axis)
    half = t.ppf(0.95, by_seed.shape[1] - 1) * by_seed.std(1, ddof=1) / math.sqrt(by_seed.shape[1])
    return [f"{m:.4f} ± {h:.4f}" for m, h in zip(by_seed.mean(1), half, strict=True)]


def _share(values: np.ndarray) -> np.ndarray:
    """Return the shares of trunk, children and their interaction in the variance of the cells' means."""
    cells = np.nanmean(values, 2)
    rows, columns = np.nanmean(cells, 1), np.nanmean(cells, 0)
    rest = cells - rows[:, None] - columns + np.nanmean(cells)
    return np.array([rows.var(), columns.var(), np.nanvar(rest)]) / np.nanvar(cells)


def main() -> None:
    """Run the questions and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-merges"), help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=20, help="pairs per arm (default: %(default)s)")
    parser.add_argument("--cell", type=int, default=4, help="pairs per cell of the map of trunks")
    parser.add_argument(
        "--questions", nargs="+", default=["windows", "ema", "fashion", "stock", "adam", "scratch", "trunk"]
    )
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    print(provenance())
    tests: Tests = []
    questions = {
        "windows": compare_windows,
        "ema": partial(compare_windows, kind="ema"),
        "fashion": partial(compare_windows, fashion=True),
        "stock": compare_stock,
        "adam": compare_adam,
        "scratch": compare_scratch,
    }
    for name, ask in questions.items():
        if name in args.questions:
            ask(args.root, args.pairs, tests)
    print_holm(tests)
    if "trunk" in args.questions:
        print_trunks(args.root, args.cell)


if __name__ == "__main__":
    main()

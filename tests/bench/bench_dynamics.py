"""Arms that shape the noise of children at equal steps and equal mean noise: merged loss, gain, parents, barrier.

    python tests/bench/bench_dynamics.py --pairs 20 --questions decay schedule batches servo pairing children

Every question compares arms with its first one: difference of means on test with a 90 % interval (Welch), and Holm's
correction over all arms of the questions. The map of unequal children then runs the best cell on and the best cell off
the diagonal again, with fresh pairs. Rows of finished arms in --root are reused. Fashion-MNIST is
read from SWEEPER_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from provenance import provenance
from race.verdict import holm
from scipy.stats import t, ttest_ind

from search_spaces import load
from trainables.pair.run import run_pairs
from trainables.runtime import Runtime
from trainables.spec import PairSpec

NOISES = {"best": 0.0087, "high": 0.02}
"""η/(B(1−μ)): the best noise of a 40-trial design of `digits_label_noise`, and one beyond it."""
FIXED: Mapping[str, Any] = {"batch_size": 64, "momentum": 0.9, "weight_decay": 1e-4, "augmentation_strength": 0.5}
DIGITS = "digits_label_noise"
SPACES: Mapping[str, Mapping[str, Any]] = {DIGITS: {}, "fashion_cnn": {"augmentation_strength": 0.0}}
"""Spaces, with their values beside `FIXED`. The best noise of `fashion_cnn` at this batch size is about the same."""
MERGED = "merged_loss_test"
SCORES = (MERGED, "gain_mean_loss_test", "parents_loss_test", "barrier_frankle_loss_test")
COURSE = ("schedule_mean", "servo_off_step")
GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
FACTOR = 4
ALL = ("decay", "schedule", "batches", "servo", "pairing", "children")
Rows = list[dict[str, float]]
Tests = list[tuple[str, str, float]]  # arm, score, p


def arms(question: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and fields of the arms of a question, the one to compare with first."""
    if question == "decay":
        for share in (0.2, 0.0, 0.4, 0.7, 0.95):
            yield f"decay {share:g}", {"decay": share}
    elif question == "schedule":
        for kind in ("linear", "cosine", "step"):
            if kind == "linear":
                yield "flat", {}
            yield f"{kind}, up {FACTOR}", {"noise_schedule": {"kind": kind, "start": 1, "end": FACTOR}}
            yield f"{kind}, down {FACTOR}", {"noise_schedule": {"kind": kind, "start": FACTOR, "end": 1}}
    elif question == "batches":
        yield "flat", {}
        for name, start, end in (("up", 1, FACTOR), ("down", FACTOR, 1)):
            course = {"kind": "linear", "start": start, "end": end}
            yield f"{name} {FACTOR}, by batch", {"noise_schedule": {**course, "by": "batch_size"}}
    elif question == "recipes":
        yield "flat", {}
        yield f"linear, up {FACTOR}", {"noise_schedule": {"kind": "linear", "start": 1, "end": FACTOR}}
        for share in (0.0, 0.4):
            yield f"decay {share:g}", {"decay": share}
    elif question == "servo":
        yield "open", {}
        yield "servo", {"servo": {"every": 16}}
    elif question == "pairing":
        yield "independent", {}
        yield "antithetic", {"pairing": "antithetic"}
    else:
        raise SystemExit(f"no question {question!r}")


def build(noise: float, space: str = DIGITS, **fields: Any) -> PairSpec:
    """Return the trial at a noise."""
    rate = noise * FIXED["batch_size"] * (1 - FIXED["momentum"])
    return load(space).build({**FIXED, **SPACES[space], "learning_rate": rate}, seed=17, **fields)


def run(root: Path, spec: PairSpec, pairs: int, first: int = 0) -> Rows:
    """Return the scores of some repeats of a trial, from number `first`; a pair that breaks is left out and counted."""
    file = root / (f"{spec.config}-{pairs}.json" if not first else f"{spec.config}-{first}-{pairs}.json")
    if not file.exists():
        specs = [replace(spec, repeat=first + i) for i in range(pairs)]
        rows = [o.result.to_row() for o in run_pairs(specs, Runtime(os.environ.get("SWEEPER_DATA"), measure=0))]
        for row in rows:
            a, b = row["a_loss_test"], row["b_loss_test"]
            row["parents_loss_test"] = None if a is None or b is None else (a + b) / 2
        kept = [{s: row[s] for s in (*SCORES, *COURSE)} for row in rows if row[MERGED] is not None]
        file.write_text(json.dumps(kept))
    return json.loads(file.read_text())


def main() -> None:
    """Run the arms and print a table per question and noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-dynamics"), help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=20, help="pairs per arm (default: %(default)s)")
    parser.add_argument("--cell", type=int, default=4, help="pairs per cell of the map of children")
    parser.add_argument("--questions", nargs="+", default=ALL, help="also recipes, a few arms of these")
    parser.add_argument("--space", default=DIGITS, choices=SPACES, help="of all but the map (default: %(default)s)")
    parser.add_argument("--levels", nargs="+", default=[*NOISES], choices=NOISES, help="noises (default: all)")
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    print(provenance())
    tests: Tests = []
    for question in (q for q in args.questions if q != "children"):
        for name, noise in ((n, NOISES[n]) for n in args.levels):
            print(f"\n{args.space}: {question} at noise {noise:g} ({name}), {args.pairs} pairs per arm")
            print(f"{'arm':<18} {'n':>3} " + " ".join(f"{s.removesuffix('_test'):>22}" for s in SCORES))
            first: Rows = []
            for arm, fields in arms(question):
                rows = run(args.root, build(noise, args.space, **fields), args.pairs)
                if arm == "servo":
                    shares = [r["schedule_mean"] for r in rows]
                    off = sum(r["servo_off_step"] is not None for r in rows)
                    print(f"mean noise of the servo over that of the trial: {np.mean(shares):.3f}, off in {off} pairs")
                    mean = build(noise * float(np.mean(shares)), args.space)
                    control = run(args.root, mean, args.pairs)
                    cells = [_compare(control, first, s)[0] for s in SCORES]
                    print(f"{'open, same mean':<18} {len(control):>3} " + " ".join(f"{c:>22}" for c in cells))
                    first = control
                cells = [_compare(rows, first, s) for s in SCORES]
                first = first or rows
                print(f"{arm:<18} {len(rows):>3} " + " ".join(f"{text:>22}" for text, _ in cells), flush=True)
                tests += [
                    (f"{question}, {name}, {arm}", s, p) for s, (_, p) in zip(SCORES, cells, strict=True) if p < 1
                ]
    print_holm(tests)
    if "children" in args.questions:
        _print_map(args.root, args.cell, args.pairs)


def _compare(rows: Rows, first: Rows, score: str) -> tuple[str, float]:
    own, other = (np.array([r[score] for r in part]) for part in (rows, first or rows))
    if not first or len(own) < 2:
        return f"{own.mean():.4f} ± {own.std(ddof=1) / math.sqrt(len(own)):.4f}", 1.0
    test = cast(Any, ttest_ind(own, other, equal_var=False))
    low, high = test.confidence_interval(0.9)
    return f"{own.mean() - other.mean():+.4f} [{low:+.4f}, {high:+.4f}]", float(test.pvalue)


def print_holm(tests: Tests) -> None:
    """Print which differences stay significant."""
    print("\np < .05 after Holm over the arms, by score")
    for score in dict.fromkeys(s for _, s, _ in tests):
        own = sorted((p, arm) for arm, s, p in tests if s == score)
        for (_, arm), p in zip(own, holm([p for p, _ in own]), strict=True):
            if p < 0.05:
                print(f"{score}: {arm} (p {p:.2g})")


def _print_map(root: Path, cell: int, pairs: int) -> None:
    cells = {(a, b): run(root, _unequal(a, b), cell) for a in GRID for b in GRID if a <= b}  # a pair has no order
    for score in (MERGED, "gain_mean_loss_test", "barrier_frankle_loss_test"):
        print(f"\n{score} by noise of child A (rows) and B (columns) over {NOISES['best']:g}, {cell} pairs a cell")
        print(f"{'':>6} " + " ".join(f"{b:>8g}" for b in GRID))
        for a in GRID:
            rows = [cells[min(a, b), max(a, b)] for b in GRID]
            print(f"{a:>6g} " + " ".join(f"{_mean(r, score):>8.4f}" if r else f"{'-':>8}" for r in rows), flush=True)
    spread = float(t.ppf(0.95, cell - 1))
    print(f"a 90 % interval of a cell is {spread:.2g} standard errors wide on either side", file=sys.stderr)
    whole = {k: r for k, r in cells.items() if len(r) == cell}
    for score, sign in ((MERGED, 1), ("gain_mean_loss_test", -1)):
        equal, unequal = (
            min((k for k in whole if (k[0] == k[1]) == same), key=lambda k: sign * _mean(whole[k], score))
            for same in (True, False)
        )
        middle = math.sqrt(unequal[0] * unequal[1])
        print(f"\nbest cells by {score}, {pairs} fresh pairs each; differences to the best cell of equal children")
        first: Rows = []
        for name, (a, b) in {"equal": equal, "unequal": unequal, "equal, middle": (middle, middle)}.items():
            rows = run(root, _unequal(a, b), pairs, cell)
            texts = " ".join(f"{_compare(rows, first, s)[0]:>26}" for s in SCORES)
            first = first or rows
            print(f"{name:<14} {a:>5.2f} {b:>5.2f} {len(rows):>3} {texts}", flush=True)


def _unequal(a: float, b: float) -> PairSpec:
    rate = NOISES["best"] * b * FIXED["batch_size"] * (1 - FIXED["momentum"])
    return build(NOISES["best"] * a, child_b={"learning_rate": rate})


def _mean(rows: Rows, score: str) -> float:
    return float(np.mean([r[score] for r in rows]))


if __name__ == "__main__":
    main()

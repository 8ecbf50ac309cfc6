"""Arms that shape the noise of children at equal steps and equal mean noise: merged loss, gain, parents, barrier.

    python tests/bench/bench_dynamics.py --pairs 20 --questions decay schedule servo pairing children

Every question compares arms with its first one: difference of means on test with a 90 % interval (Welch), and Holm's
correction over all arms of the questions. Rows of finished arms in --root are reused.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
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
SCORES = ("merged_loss_test", "gain_mean_loss_test", "parents_loss_test", "barrier_frankle_loss_test")
COURSE = ("schedule_mean", "servo_off_step")
GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
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
            yield f"{kind}, up 4", {"noise_schedule": {"kind": kind, "start": 1, "end": 4}}
            yield f"{kind}, down 4", {"noise_schedule": {"kind": kind, "start": 4, "end": 1}}
    elif question == "servo":
        yield "open", {}
        yield "servo", {"servo": {"every": 16}}
    elif question == "pairing":
        yield "independent", {}
        yield "antithetic", {"pairing": "antithetic"}
    else:
        raise SystemExit(f"no question {question!r}")


def build(noise: float, **fields: Any) -> PairSpec:
    """Return the trial at a noise."""
    space = load("digits_label_noise")
    rate = noise * FIXED["batch_size"] * (1 - FIXED["momentum"])
    return space.build({**FIXED, "learning_rate": rate}, seed=17, **fields)


def run(root: Path, spec: PairSpec, pairs: int) -> Rows:
    """Return the scores of some repeats of a trial; a pair that breaks is left out of the means and counted."""
    file = root / f"{spec.config}-{pairs}.json"
    if not file.exists():
        specs = [PairSpec.from_mapping({**json.loads(spec.to_json()), "repeat": i}) for i in range(pairs)]
        rows = [o.result.to_row() for o in run_pairs(specs, Runtime(measure=0))]
        for row in rows:
            a, b = row["a_loss_test"], row["b_loss_test"]
            row["parents_loss_test"] = None if a is None or b is None else (a + b) / 2
        kept = [{s: row[s] for s in (*SCORES, *COURSE)} for row in rows if row["merged_loss_test"] is not None]
        file.write_text(json.dumps(kept))
    return json.loads(file.read_text())


def main() -> None:
    """Run the arms and print a table per question and noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-dynamics"), help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=20, help="pairs per arm (default: %(default)s)")
    parser.add_argument("--cell", type=int, default=4, help="pairs per cell of the map of children")
    parser.add_argument("--questions", nargs="+", default=["decay", "schedule", "servo", "pairing", "children"])
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    print(provenance())
    tests: Tests = []
    for question in (q for q in args.questions if q != "children"):
        for name, noise in NOISES.items():
            print(f"\n{question} at noise {noise:g} ({name}), {args.pairs} pairs per arm")
            print(f"{'arm':<18} {'n':>3} " + " ".join(f"{s.removesuffix('_test'):>22}" for s in SCORES))
            first: Rows = []
            for arm, fields in arms(question):
                rows = run(args.root, build(noise, **fields), args.pairs)
                if arm == "servo":
                    shares = [r["schedule_mean"] for r in rows]
                    off = sum(r["servo_off_step"] is not None for r in rows)
                    print(f"mean noise of the servo over that of the trial: {np.mean(shares):.3f}, off in {off} pairs")
                    mean = build(noise * float(np.mean(shares)))
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
        _print_map(args.root, args.cell)


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


def _print_map(root: Path, pairs: int) -> None:
    for score in ("merged_loss_test", "gain_mean_loss_test"):
        print(f"\n{score} by noise of child A (rows) and B (columns) over {NOISES['best']:g}, {pairs} pairs a cell")
        print(f"{'':>6} " + " ".join(f"{b:>8g}" for b in GRID))
        for a in GRID:
            cells: list[str] = []
            for b in GRID:
                low, high = sorted((a, b))  # a pair has no order
                rate = NOISES["best"] * high * FIXED["batch_size"] * (1 - FIXED["momentum"])
                rows = run(root, build(NOISES["best"] * low, child_b={"learning_rate": rate}), pairs)
                cells.append(f"{np.mean([r[score] for r in rows]):>8.4f}" if rows else f"{'-':>8}")
            print(f"{a:>6g} " + " ".join(cells), flush=True)
    spread = float(t.ppf(0.95, pairs - 1))
    print(f"a 90 % interval of a cell is {spread:.2g} standard errors wide on either side", file=sys.stderr)


if __name__ == "__main__":
    main()

"""One search over everything that shapes the noise, against the plain space with as many trials.

    python tests/bench/bench_recipes.py --trials 120 --seeds 1 2

Both sweeps map, search and confirm `digits_label_noise` by the merged loss on validation. The answer of each runs again
with fresh pairs; differences are means over test pairs, with 90 % intervals (Welch). Finished sweeps in --root are
reused.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from provenance import provenance
from scipy.stats import ttest_ind

import sweeper
from sweeper.analysis.best import choose_winner
from sweeper.analysis.posterior import fit_posterior
from sweeper.config.spec import SweepSpec
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.tables import read_trials
from trainables.pair.run import run_pairs
from trainables.runtime import Runtime
from trainables.spec import PairSpec

FRESH = 1000
"""Repeats from here on were seen by no search."""
SCORES = ("merged_loss_test", "merged_accuracy_test", "gain_mean_loss_test", "chosen_loss_test")
COURSES = ("linear", "cosine", "step")
SPACES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "everything": {
        "parameters": {
            "decay": {"min": 0.0, "max": 0.7},
            "warmup": {"min": 0.0, "max": 0.2},
            "noise_schedule.kind": {"values": ["flat", *COURSES]},
            "noise_schedule.end": {
                "min": 0.25, "max": 8.0, "distribution": "log_uniform", "when": {"noise_schedule.kind": COURSES},
            },
            "pairing": {"values": ["independent", "antithetic"]},
        },
        "fixed": {"noise_schedule.start": 1, "window": {"size": [4, 8], "spacing": 4}},
    },
}  # fmt: skip


def answer(root: Path, name: str, seed: int, trials: int, data: str | None) -> dict[str, Any]:
    """Run one sweep, unless it is finished, and return its answer and its seconds."""
    run, started = root / f"{name}-{seed}", time.perf_counter()
    spec = SweepSpec(
        space="digits_label_noise", objective="merged_loss", seed=seed, trials=trials, runner="inline", out=str(run),
        data=data, **SPACES[name],
    )  # fmt: skip
    sweeper.run(spec)
    rows, stored = read_trials(run), stored_spec(run)
    winner = choose_winner(rows, "merged_loss", fit_posterior(stored, rows))
    if winner is None:
        raise SystemExit(f"{run} recommends nothing")
    return {"seconds": time.perf_counter() - started, "spec": winner["spec"], "confirmed": bool(winner["confirmed"])}


def rerun(text: str, fresh: int, data: str | None) -> list[dict[str, float | None]]:
    """Return the scores of fresh pairs of a configuration."""
    spec = replace(PairSpec.from_json(text), stack=1)
    outputs = run_pairs([replace(spec, repeat=FRESH + i) for i in range(fresh)], Runtime(data_root=data, measure=0))
    return [{s: o.result.to_row()[s] for s in SCORES} for o in outputs]


def main() -> None:
    """Run what is missing and print the answers and their differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-recipes"), help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=120, help="pairs of a sweep (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--fresh", type=int, default=8, help="fresh pairs of an answer (default: %(default)s)")
    parser.add_argument("--data", default=os.environ.get("SWEEPER_DATA"), help="data root (default: SWEEPER_DATA)")
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    print(provenance())
    found: dict[str, list[list[dict[str, float | None]]]] = {name: [] for name in SPACES}
    for seed in args.seeds:
        for name in SPACES:
            file = args.root / f"{name}-{seed}-{args.trials}.json"
            if not file.exists():
                one = answer(args.root, name, seed, args.trials, args.data)
                file.write_text(json.dumps(one | {"rows": rerun(one["spec"], args.fresh, args.data)}))
            one = json.loads(file.read_text())
            found[name].append(one["rows"])
            spec = json.loads(one["spec"])
            shown = ("learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength", "decay",
                     "warmup", "noise_schedule", "pairing")  # fmt: skip
            print(f"\n{name}, seed {seed}: {one['seconds']:.0f} s, confirmed {one['confirmed']}")
            print({k: spec[k] for k in shown})
            print("  ".join(f"{s} {_values(one['rows'], s).mean():.4f}" for s in SCORES), flush=True)
        print(f"\neverything minus plain, seed {seed}, {args.fresh} fresh pairs each")
        _compare(found["everything"][-1], found["plain"][-1])
    # pairs of one answer are no sample of answers: the seeds are
    print(f"\neverything minus plain, mean over {len(args.seeds)} seeds")
    for score in SCORES:
        own, plain = (np.array([_values(r, score).mean() for r in found[n]]) for n in ("everything", "plain"))
        print(f"{score}: {(own - plain).mean():+.4f}, by seed {', '.join(f'{g:+.4f}' for g in own - plain)}")


def _values(rows: list[dict[str, float | None]], score: str) -> np.ndarray:
    return np.array([r[score] for r in rows if r[score] is not None], dtype=float)


def _compare(own: list[dict[str, float | None]], plain: list[dict[str, float | None]]) -> None:
    for score in SCORES:
        a, b = _values(own, score), _values(plain, score)
        test = cast(Any, ttest_ind(a, b, equal_var=False))
        low, high = test.confidence_interval(0.9)
        print(f"{score}: {a.mean() - b.mean():+.4f} [{low:+.4f}, {high:+.4f}], n {len(a)} and {len(b)}", flush=True)


if __name__ == "__main__":
    main()

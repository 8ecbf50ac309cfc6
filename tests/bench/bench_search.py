"""Live sweeps of real pairs: what each search recommends at its end, run again with fresh seeds.

    python tests/bench/bench_search.py --space digits_label_noise --objective gain_mean --seeds 1 2 3

Every sampler spends the same number of trials, one at a time in this process. Ours maps, searches and confirms; the
others search to the end. `sweeper best` chooses for each of them: the confirmed configuration, else the one with the
best posterior mean. Finished sweeps and reruns in --root are reused; `--report` only prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from provenance import provenance
from race.verdict import holm
from scipy.stats import wilcoxon

import sweeper
from sweeper.analysis.best import choose_winner
from sweeper.analysis.posterior import fit_posterior
from sweeper.config.spec import SweepSpec
from sweeper.search.samplers import SAMPLERS, Sampler
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.tables import read_trials
from trainables.noise import KNOBS, NOISE
from trainables.pair.run import run_pairs
from trainables.runtime import Runtime
from trainables.spec import PairSpec

OURS, FRESH = "noise", 1000  # repeats from FRESH on were seen by no search
COLUMNS = {"gain_mean": "gain_mean_loss_test", "merged_loss": "merged_loss_test"}
SCORES = ("gain_mean_loss_test", "merged_loss_test", "merged_accuracy_test")
COLLAPSED = {"gain_mean_loss_test": -1.0, "merged_loss_test": 2.302585092994046, "merged_accuracy_test": 0.1}
Answers = dict[tuple[str, str, str, int], dict[str, Any]]  # space, objective, sampler, seed


def _gp(startup: int) -> Callable[..., optuna.samplers.BaseSampler]:
    def make(seed: int, **_: Any) -> optuna.samplers.BaseSampler:
        return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False, n_startup_trials=startup)

    return make


for _startup in (5, 10):
    SAMPLERS.add(f"gp{_startup}", Sampler(f"GPSampler with {_startup} start-up trials", make=_gp(_startup)))
CONTESTANTS: Mapping[str, Mapping[str, Any]] = {
    OURS: {"sampler": "noise"},
    # the whole budget goes to the search: the same model without map and confirmation
    "noise-search": {"sampler": "noise", "map": 0.0, "confirm": 0.0},
    **{name: {"sampler": name} for name in ("tpe", "gp5", "gp10", "qmc", "random")},
}


def answer(
    root: Path, space: str, objective: str, name: str, seed: int, trials: int, data: str | None
) -> dict[str, Any]:
    """Run one sweep, unless it is finished, and return its recommendation and its seconds."""
    run = root / f"{space}-{objective}-{name}-{seed}"
    started = time.perf_counter()
    given = {"space": space, "objective": objective, "seed": seed, "trials": trials, "runner": "inline"}
    spec = SweepSpec(out=str(run), data=data, **given, **CONTESTANTS[name])
    sweeper.run(spec)  # a finished sweep returns at once
    seconds = time.perf_counter() - started
    rows, stored = read_trials(run), stored_spec(run)
    winner = choose_winner(rows, objective, fit_posterior(stored, rows))
    if winner is None:
        raise SystemExit(f"{run} recommends nothing")
    return {"seconds": seconds, "spec": winner["spec"], "confirmed": bool(winner["confirmed"]), "trials": len(rows)}


def rerun(text: str, fresh: int, data: str | None) -> dict[str, Any]:
    """Return the scores of fresh pairs of a configuration, by column; a pair that breaks counts as collapsed."""
    spec = PairSpec.from_json(text)
    outputs = run_pairs(
        [replace(spec, stack=1, repeat=FRESH + i) for i in range(fresh)], Runtime(data_root=data, measure=0)
    )
    rows = [o.result.to_row() for o in outputs]
    values = {c: [COLLAPSED[c] if r[c] is None else r[c] for r in rows] for c in SCORES}
    noise = NOISE["paper"].predict({k: getattr(spec, k) for k in KNOBS})
    return {**values, "batch_size": spec.batch_size, "noise": noise}


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-search"), help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=60, help="pairs of a sweep (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 9)), help="default: 1 to 8")
    parser.add_argument("--samplers", nargs="+", default=[OURS, "tpe", "gp5", "gp10", "qmc"], choices=CONTESTANTS)
    parser.add_argument("--space", default="digits_label_noise", help="default: %(default)s")
    parser.add_argument("--objective", default="gain_mean", choices=COLUMNS, help="default: %(default)s")
    parser.add_argument("--fresh", type=int, default=8, help="fresh pairs of an answer (default: %(default)s)")
    parser.add_argument("--data", default=os.environ.get("SWEEPER_DATA"), help="data root (default: SWEEPER_DATA)")
    parser.add_argument("--report", action="store_true", help="print the table of all answers in --root")
    args = parser.parse_args()
    if not args.report:
        args.root.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            for name in args.samplers:
                file = args.root / f"{args.space}-{args.objective}-{name}-{seed}.json"
                if file.exists():
                    continue
                found = answer(args.root, args.space, args.objective, name, seed, args.trials, args.data)
                found |= rerun(found["spec"], args.fresh, args.data)
                file.write_text(json.dumps(found))
                print(f"{file.stem}: {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    report(read_answers(args.root))


def read_answers(root: Path) -> Answers:
    """Return all answers in a folder."""
    out: Answers = {}
    for file in sorted(root.glob("*.json")):
        rest, seed = file.stem.rsplit("-", 1)
        space, objective, name = rest.split("-", 2)
        out[space, objective, name, int(seed)] = json.loads(file.read_text())
    return out


def report(answers: Answers) -> None:
    """Print a table by space, and the tests of ours against each other sampler over all spaces."""
    print(provenance())
    problems = sorted({key[:2] for key in answers})
    gaps: dict[str, list[float]] = {}
    for space, objective in problems:
        column, sign = COLUMNS[objective], 1.0 if objective == "gain_mean" else -1.0
        own = {(n, s): a for (sp, ob, n, s), a in answers.items() if (sp, ob) == (space, objective)}
        names = [n for n in CONTESTANTS if any(n == key[0] for key in own)]
        print(f"\n{space}, {objective}: mean of fresh pairs on test, over seeds")
        print(f"{'sampler':<14} {'n':>2} {'median':>8} {'quartiles':>18} {'merged loss':>12} {'accuracy':>9} {'s':>6}")
        spread = np.std([sign * statistics.mean(a[column]) for a in own.values()]) or 1.0
        for name in names:
            rows = [a for (n, _), a in sorted(own.items()) if n == name]
            low, mid, high = np.percentile([statistics.mean(a[column]) for a in rows], [25, 50, 75])
            loss, accuracy = (np.median([statistics.mean(a[c]) for a in rows]) for c in SCORES[1:])
            seconds = np.median([a["seconds"] for a in rows])
            between = f"[{low:.4f}, {high:.4f}]"
            print(f"{name:<14} {len(rows):>2} {mid:>8.4f} {between:>18} {loss:>12.4f} {accuracy:>9.4f} {seconds:>6.0f}")
            for (other, seed), a in own.items():
                if other == name != OURS and (OURS, seed) in own:
                    ours, theirs = (statistics.mean(x[column]) for x in (own[OURS, seed], a))
                    gaps.setdefault(name, []).append(sign * (ours - theirs) / spread)
    print("\nours minus the other, in sds of all answers of a space, paired by seed (Wilcoxon, Holm)")
    tests = {n: float(cast(Any, wilcoxon(g)).pvalue) for n, g in gaps.items() if len(g) > 1 and any(g)}
    adjusted = dict(zip(tests, holm([*tests.values()]), strict=True))
    for name in sorted(tests, key=tests.__getitem__):
        mean, error = np.mean(gaps[name]), np.std(gaps[name], ddof=1) / len(gaps[name]) ** 0.5
        p = f"p {tests[name]:.3f}  Holm {adjusted[name]:.3f}"
        print(f"{name:<14} n {len(gaps[name]):>2}  {mean:+.2f} ± {error:.2f}  {p}")


if __name__ == "__main__":
    main()

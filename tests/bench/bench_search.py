"""Live sweeps of real pairs: the configuration that each search recommends, run again with fresh seeds.

`sweeper best` chooses for every sampler, by posterior mean on validation, after each budget; its mean over `--fresh`
new repeats counts, on validation and on test. Regret is above the best of all recommendations, in units of the median
one after the first budget.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from provenance import provenance
from scipy.stats import wilcoxon

from sweeper.analysis.best import rank_trials
from sweeper.analysis.posterior import fit_posterior
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.tables import read_trials
from trainables.pair.run import run_pairs
from trainables.runtime import Runtime
from trainables.spec import PairSpec

LEVELS = (0.5, 0.25, 0.1)
FRESH = 1000  # repeats from here on were seen by no search
Found = dict[tuple[str, int, int], tuple[float, float]]  # sampler, seed, budget -> validation and test loss


def swept(folder: Path, space: str, sampler: str, seed: int, trials: int) -> Path:
    """Run a sweep, or continue what is there, and return its folder."""
    run = folder / f"{space}-{sampler}-{seed}"
    command = [sys.executable, "-m", "sweeper", "run", space, "--sampler", sampler, "--seed", str(seed)]
    subprocess.run([*command, "--trials", str(trials), "--out", str(run), "--yes"], check=True, capture_output=True)
    return run


def recommended(run: Path, budgets: list[int]) -> dict[int, str]:
    """Return budget -> spec of the configuration that is recommended after so many."""
    trials, spec = read_trials(run), stored_spec(run)
    out: dict[int, str] = {}
    for budget in budgets:
        part = trials.slice(0, budget)  # sorted by number: the first rows are the first configurations
        liked = fit_posterior(spec, part).favourite
        rows = [r for r in part.to_pylist() if liked and r["config"] == liked.config] or rank_trials(
            part, spec.objective
        )
        out[budget] = rows[0]["spec"]
    return out


def rerun(text: str, fresh: int, known: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """Return mean merged loss on validation and test over fresh repeats; a pair that breaks counts as chance."""
    spec = PairSpec.from_json(text)
    if spec.config not in known:
        outputs = run_pairs([replace(spec, stack=1, repeat=FRESH + i) for i in range(fresh)], Runtime(measure=0))
        rows = [o.result.to_row() for o in outputs]
        scores = [[r[f"merged_loss_{s}"] for s in ("val", "test")] for r in rows]
        chance = 2.302585092994046  # ln 10
        val, test = zip(*([chance if v is None else v for v in own] for own in scores), strict=True)
        known[spec.config] = statistics.mean(val), statistics.mean(test)
    return known[spec.config]


def main() -> None:
    """Run what is missing (finished sweeps in --root are reused) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-search"), help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=40, help="configurations (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4], help="default: 1 2 3 4")
    parser.add_argument("--samplers", nargs="+", default=["noise", "tpe", "gp"], help="default: noise tpe gp")
    parser.add_argument("--space", default="digits_cnn", help="default: %(default)s")
    parser.add_argument("--fresh", type=int, default=5, help="fresh repeats of a recommendation (default: %(default)s)")
    args = parser.parse_args()
    budgets = list(range(8, args.trials + 1, 4))
    found: Found = {}
    known: dict[str, tuple[float, float]] = {}
    for seed in args.seeds:
        for sampler in args.samplers:
            specs = recommended(swept(args.root, args.space, sampler, seed, args.trials), budgets)
            for budget, text in specs.items():
                found[sampler, seed, budget] = rerun(text, args.fresh, known)
            print(f"{sampler}, seed {seed}: done", file=sys.stderr, flush=True)
    print(f"{args.space}, {len(args.seeds)} seeds, {args.fresh} fresh repeats; {provenance()}")
    print(f"{'sampler':<8} {'trials':>6} {'val [nat]':>10} {'least':>8} {'most':>8} {'test':>8}")
    for sampler in args.samplers:
        for budget in (b for b in budgets if b % 16 == 8 or b == budgets[-1]):
            val, test = zip(*(found[sampler, s, budget] for s in args.seeds), strict=True)
            spread = f"{statistics.median(val):>10.4f} {min(val):>8.4f} {max(val):>8.4f}"
            print(f"{sampler:<8} {budget:>6} {spread} {statistics.median(test):>8.4f}")
    _compare(found, args.samplers, args.seeds, budgets)


def _compare(found: Found, samplers: list[str], seeds: list[int], budgets: list[int]) -> None:
    least = min(v for v, _ in found.values())
    scale = statistics.median(found[s, seed, budgets[0]][0] for s in samplers for seed in seeds) - least
    print(f"\nregret in units of the median recommendation after {budgets[0]} trials, {scale:.4f} nat above the best")
    for level in LEVELS:
        reached = {
            s: [
                next((b for b in budgets if found[s, seed, b][0] - least <= level * scale), budgets[-1] + 1)
                for seed in seeds
            ]
            for s in samplers
        }
        cells = "  ".join(f"{s} {statistics.median(r):g}" for s, r in reached.items())
        print(f"median trials to regret {level:g}: {cells}")
    for rival in samplers[1:]:
        gaps = [found[samplers[0], s, b][0] - found[rival, s, b][0] for s in seeds for b in budgets[-1:]]
        p = wilcoxon(gaps).pvalue if any(gaps) else 1.0
        print(f"{samplers[0]} against {rival} after {budgets[-1]} trials: p {p:.3f} over {len(seeds)} seeds")


if __name__ == "__main__":
    main()

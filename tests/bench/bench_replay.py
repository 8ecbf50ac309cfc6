"""Searches replayed on emulated tables of trained pairs: the true score of what each search recommends.

    python tests/bench/bench_replay.py --table runs/design --problems trees:table_gain basins --seeds 12

Problems: closed forms over the knobs of digits_cnn (ridge, cliff, basins, knobs) and emulators, `trees:TABLE` or
`smooth:TABLE`, of pairs, rungs and label (tests/data) or table (--table), with _gain or _loss: `trees:label_gain`.
Contestants: `noise`, also with options (`noise:n_startup=24:residual=False`), `tpe`, `gp` and `gp5` (10 and 5 start-up
trials), `qmc`, `random`. Each row also says what the other recommendation makes of the same trials: ours is the
sampler's, plain that of a Gaussian process over the knobs. Finished runs in --out are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import optuna
from provenance import provenance
from race.contestants import posterior_means
from race.tables import Replay, replay
from scipy.stats import wilcoxon

from sweeper.search.noise_sampler.fit import Parts
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler


@dataclass(frozen=True)
class Search:
    """One search: a contestant on a problem with a seed."""

    problem: str
    contestant: str
    seed: int
    trials: int
    workers: int

    @property
    def name(self) -> str:
        """Name of the search's file."""
        return "-".join(str(v) for v in asdict(self).values()).replace(":", "_").replace("/", "_")


@dataclass(frozen=True)
class Found:
    """Result of a search, in the problem's score, larger is better.

    Attributes:
        best: The largest possible true score.
        visited: Largest true score of a tried configuration.
        ours, plain: True score of the recommendation of the noise sampler and of a plain Gaussian process.
        said: Score that the sampler's recommendation expects of itself.
        repeats: Share of the trials that repeat a configuration.
        ask_ms: Mean time of an ask [ms].
    """

    best: float
    visited: float
    ours: float
    plain: float
    said: float
    repeats: float
    ask_ms: float


def noise_sampler(problem: Replay, seed: int, options: Mapping[str, Any]) -> NoiseTargetedSampler:
    """Return our sampler with options: fields of `Parts`, or arguments of the sampler."""
    parts = {f.name: options[f.name] for f in fields(Parts) if f.name in options}
    rest = {k: v for k, v in options.items() if k not in parts}
    if rest.get("noise") == "paper_aug":
        rest["k_aug"] = problem.k_aug
    sampler = NoiseTargetedSampler(seed=seed, search_space=problem.space, **rest)
    if parts:
        sampler._parts = Parts(**parts)
    return sampler


def parse_options(contestant: str) -> dict[str, Any]:
    """Return the options of `noise:key=value:...`; values are JSON, Python's True and False, or text."""
    out: dict[str, Any] = {}
    for part in contestant.split(":")[1:]:
        key, _, text = part.partition("=")
        try:
            out[key] = json.loads({"True": "true", "False": "false"}.get(text, text))
        except ValueError:
            out[key] = text
    return out


def make_sampler(problem: Replay, contestant: str, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of a contestant.

    Raises:
        ValueError: The contestant is unknown.
    """
    if contestant.startswith("noise"):
        return noise_sampler(problem, seed, parse_options(contestant))
    if contestant == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    if contestant in ("gp", "gp5"):
        startup = 5 if contestant == "gp5" else 10
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
    if contestant == "qmc":
        return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
    if contestant == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    raise ValueError(f"unknown contestant {contestant!r}")


def search(run: Search, table: str | None) -> Found:
    """Run one search with `workers` trials at a time; which of them finishes next is drawn at random."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = replay(run.problem, run.seed, table)
    sampler = make_sampler(problem, run.contestant, run.seed)
    study = optuna.create_study(sampler=sampler)
    noise, order = np.random.default_rng([run.seed, 1]), np.random.default_rng([run.seed, 2])
    running: list[optuna.Trial] = []
    seconds, asked = 0.0, 0
    for _ in range(run.trials):
        while len(running) < run.workers and asked < run.trials:
            start = time.perf_counter()
            running.append(study.ask(problem.space))
            seconds, asked = seconds + time.perf_counter() - start, asked + 1
        trial = running.pop(int(order.integers(len(running))))
        study.tell(trial, -problem.observe(trial.params, noise))
    trials = study.get_trials(deepcopy=False)
    true = [problem.true(t.params) for t in trials]
    options = parse_options(run.contestant) if run.contestant.startswith("noise") else {}
    found = noise_sampler(problem, run.seed, options).recommend(trials)
    return Found(
        best=problem.best,
        visited=max(true),
        ours=true[found.number] if found else float("nan"),
        plain=true[int(posterior_means(problem.space, trials).argmin())],
        said=-found.mean if found else float("nan"),
        repeats=1.0 - len({tuple(t.params.values()) for t in trials}) / len(trials),
        ask_ms=1e3 * seconds / asked,
    )


def _kept(run: Search, folder: str, table: str | None) -> None:
    text = json.dumps({**asdict(run), **asdict(search(run, table))})
    target = Path(folder) / f"{run.name}.json"
    partial = target.with_suffix(".part")
    partial.write_text(text)
    partial.replace(target)


def run_all(runs: list[Search], folder: Path, workers: int, table: str | None) -> list[dict[str, Any]]:
    """Run what is missing in `folder` and return a record per search."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [r for r in runs if not (folder / f"{r.name}.json").exists()]
    start = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        pending = [pool.submit(_kept, r, str(folder), table) for r in missing]
        for count, each in enumerate(as_completed(pending), 1):
            each.result()
            if count % 12 == 0 or count == len(pending):
                left = (time.monotonic() - start) / count * (len(pending) - count)
                print(f"{count} of {len(pending)} searches, {left / 60:.0f} minutes left", file=sys.stderr, flush=True)
    return [json.loads((folder / f"{r.name}.json").read_text()) for r in runs]


def print_tables(rows: list[dict[str, Any]], contestants: list[str]) -> None:
    """Print one table per problem: median [quartiles] over the seeds, and p against the first contestant."""
    for problem in dict.fromkeys(r["problem"] for r in rows):
        own = {c: [r for r in rows if r["problem"] == problem and r["contestant"] == c] for c in contestants}
        print(f"\n{problem}, best {own[contestants[0]][0]['best']:.4f}, n = {len(own[contestants[0]])}")
        print(
            f"{'contestant':<44}{'recommended':>25}{'regret':>8}{'other':>8}{'visited':>9}{'said':>8}{'repeats':>8}{'ms':>5}{'p':>7}"
        )
        scores = {c: np.array([r[_own(c)] for r in own[c]]) for c in contestants}
        for c in contestants:
            regret = np.median([r["best"] for r in own[c]] - scores[c])
            other = np.median([r["plain" if _own(c) == "ours" else "ours"] for r in own[c]])
            middle = {k: np.median([r[k] for r in own[c]]) for k in ("visited", "said", "repeats", "ask_ms")}
            low, mid, high = np.quantile(scores[c], [0.25, 0.5, 0.75])
            gaps = scores[c] - scores[contestants[0]]
            p = float(wilcoxon(gaps)[1]) if len(gaps) > 4 and gaps.any() else 1.0
            print(
                f"{c:<44}{f'{mid:.4f} [{low:.4f}, {high:.4f}]':>25}{regret:>8.4f}{other:>8.4f}"
                f"{middle['visited']:>9.4f}{middle['said']:>8.4f}{middle['repeats']:>8.0%}{middle['ask_ms']:>5.0f}{p:>7.3f}"
            )


def _own(contestant: str) -> str:
    return "ours" if contestant.startswith("noise") else "plain"


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="run folder or Parquet file with trials of digits_label_noise")
    parser.add_argument("--problems", nargs="+", default=["ridge", "cliff", "basins", "knobs", "trees:rungs_gain"])
    parser.add_argument("--contestants", nargs="+", default=["noise", "tpe", "gp", "gp5", "qmc"])
    parser.add_argument("--trials", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--at-once", type=int, default=2, help="trials at a time (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=100, help="first seed (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="searches at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-replay"), help="default: %(default)s")
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds)
    runs = [Search(p, c, s, args.trials, args.at_once) for p in args.problems for s in seeds for c in args.contestants]
    rows = run_all(runs, args.out, args.workers, args.table)
    print(f"{args.trials} trials, {args.at_once} at a time; {provenance()}")
    print_tables(rows, args.contestants)


if __name__ == "__main__":
    main()

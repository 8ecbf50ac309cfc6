"""Maps at a share of the training budget, on closed forms: what they save, and what a wrong one costs.

    python tests/bench/bench_proxy.py --problems ridge basins knobs --seeds 8
    python tests/bench/bench_proxy.py --predict digits_label_noise digits_cnn ridge:1 ridge:4 --seeds 20

The proxy's best noise lies a factor away from that of the full budget, by its learning rate. A search makes a map, of
the proxy or in full, then asks the sampler; after every few trials in full it recommends one of them. A cost is that of
the trials in units of a full one; a regret is (best - true score) / (best - median of random points).
Contestants: `full` (map and search in full), `proxy:FACTOR`, `tpe` and `gp` of Optuna. Finished runs in --out are kept.

`--predict` compares ways to treat two budgets, on real pairs of the table of rungs and on closed forms, by what a model
of both predicts for pairs in full.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import optuna
import pyarrow.parquet as pq
from provenance import provenance
from race.contestants import posterior_means
from race.tables import DIGITS, RUNGS, Replay, replay, units
from scipy.stats import spearmanr

from sweeper.search.map_design import MapDesign
from sweeper.search.noise_sampler.fit import Parts, fit_surrogate, predict_mixture
from sweeper.search.noise_sampler.level_sets import KnobSpace
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler
from sweeper.search.noise_sampler.study_attrs import PROXY_KEY, Observations, read_observations
from sweeper.search.noise_sampler.surrogate import one_thread

SHORT, FULL, SHARE, PAIRS, SPAN = 24, 12, 0.25, 36, (np.log(1e-4), np.log(0.1))
"""Trials of a map by the proxy and in full, budget of the proxy, its pairs in a prediction, log noises of the map."""
TARGET = 0.25


def shift_rate(problem: Replay, unit: np.ndarray, factor: float) -> np.ndarray:
    """Return coordinates whose learning rate is larger by a factor: the proxy's best noise is lower by it."""
    knob: Any = problem.space["learning_rate"]
    out = unit.copy()
    out[:, list(problem.space).index("learning_rate")] += np.log(factor) / np.log(knob.high / knob.low)
    return out


def observe(problem: Replay, params: dict[str, Any], rng: np.random.Generator, factor: float | None = None) -> float:
    """Return the score of one pair, of a proxy if there is a factor; its scores are lower and less spread."""
    unit = units(problem.space, [params])
    unit = unit if factor is None else shift_rate(problem, unit, factor)
    shift, falls = rng.standard_normal(), rng.random()
    if problem.collapse is not None and falls < float(problem.collapse(unit)[0]):
        return problem.penalty
    score = float((problem.fine or problem.mean)(unit)[0]) + float(problem.sd(unit)[0]) * shift
    return score if factor is None else 0.7 * score - 0.05


def median_random(problem: Replay) -> float:
    """Return the median true score of random points."""
    return float(np.median(problem.mean(np.random.default_rng(1).random((2000, len(problem.space))))))


def run(name: str, contestant: str, seed: int, trials: int, every: int) -> dict[str, Any]:
    """Return costs and regrets of one search, after every few trials in full."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem, rng = replay(name, seed), np.random.default_rng([seed, 1])
    own = contestant.partition(":")[0] in ("full", "proxy")
    factor = float(contestant.partition(":")[2]) if contestant.startswith("proxy") else None
    design = MapDesign(problem.space, "paper", {}, seed, repeats=False)
    ours = NoiseTargetedSampler(seed=seed, search_space=problem.space, n_startup=0)
    others = {"tpe": lambda: optuna.samplers.TPESampler(seed=seed),
              "gp": lambda: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)}  # fmt: skip
    study = optuna.create_study(sampler=ours if own else others[contestant]())
    cost, full = 0.0, 0
    if factor is not None:
        for i in range(SHORT):
            params, cost = design.point(i, SPAN), cost + SHARE
            study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions=dict(problem.space),
                    value=-observe(problem, params, rng, factor),
                    system_attrs={PROXY_KEY: True},
                )
            )
    best, usual = problem.best, median_random(problem)
    costs, regrets = list[float](), list[float]()
    while full < trials:
        if own and factor is None and full < FULL:
            study.enqueue_trial(design.point(full, SPAN))
        trial = study.ask(dict(problem.space))
        study.tell(trial, -observe(problem, trial.params, rng))
        full, cost = full + 1, cost + 1.0
        if full % every == 0:
            chosen = recommend(problem, study.get_trials(deepcopy=False), ours if own else None)
            costs.append(cost)
            regrets.append((best - problem.true(chosen)) / (best - usual))
    return {"problem": name, "contestant": contestant, "seed": seed, "costs": costs, "regrets": regrets}


def recommend(
    problem: Replay, trials: Sequence[optuna.trial.FrozenTrial], ours: NoiseTargetedSampler | None
) -> dict[str, Any]:
    """Return the parameters of the trial in full with the best posterior mean."""
    if ours is None:
        return trials[int(posterior_means(problem.space, list(trials)).argmin())].params
    space = ours._space(problem.space)
    seen = read_observations(space, trials, [optuna.study.StudyDirection.MINIMIZE])
    with one_thread():
        fit = fit_surrogate(space, seen, np.ones(1), np.zeros((0, len(space.knobs))), Parts())
        mean, _ = predict_mixture(fit.draw_models(np.random.default_rng(0)), space, seen.unit)
    return trials[int(seen.numbers[np.where(seen.proxy, np.inf, mean).argmin()])].params


def cost_to(row: dict[str, Any]) -> float:
    """Return the cost from which on all regrets of a search stay at the target or below; inf without one."""
    late = [i for i, r in enumerate(row["regrets"]) if r > TARGET]
    first = late[-1] + 1 if late else 0
    return row["costs"][first] if first < len(row["costs"]) else float("inf")


WAYS = ("in full", "as the same", "as another fidelity")


def predict(
    space: KnobSpace, unit: np.ndarray, early: np.ndarray, end: np.ndarray, full: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return what models of two budgets predict for pairs in full, per way to treat the budgets.

    Args:
        space: The knob space.
        unit: Coordinates of the pairs, shape (n, d).
        early: Losses with a share of the budget, shape (n,).
        end: Losses in full, shape (n,).
        full: Number of pairs in full that the model sees, beside `PAIRS` of the proxy; the others are predicted.
        seed: Seed of the draw.

    Returns:
        Way -> regret of the best predicted pair, and rank correlation of prediction and loss.
    """
    order = np.random.default_rng(seed).permutation(len(unit))
    short, whole, left = order[:PAIRS], order[PAIRS : PAIRS + full], order[PAIRS + full :]
    best, usual = float(end[left].min()), float(np.median(end[left]))
    found: dict[str, tuple[float, float]] = {}
    for way in WAYS:
        used = whole if way == "in full" else np.concatenate([short, whole])
        proxy = np.isin(used, short)
        losses = np.where(proxy, early[used], end[used])[:, None]
        seen = Observations(unit[used], losses, np.arange(len(used)), proxy & (way == "as another fidelity"))
        with one_thread():
            fit = fit_surrogate(space, seen, np.ones(1), np.zeros((0, unit.shape[1])), Parts())
            mean, _ = predict_mixture(fit.draw_models(np.random.default_rng(0)), space, unit[left])
        regret = (float(end[left][mean.argmin()]) - best) / (usual - best)
        rank: Any = spearmanr(mean, end[left])
        found[way] = regret, float(rank[0])
    return found


def read_pairs(name: str, seed: int) -> tuple[KnobSpace, np.ndarray, np.ndarray, np.ndarray]:
    """Return knob space, coordinates, and losses with a share of the budget and in full.

    Args:
        name: A space in the table of rungs (real pairs of 4 epochs; the share is their first rung, a quarter), or a
            closed form with the factor by which the proxy's best noise is lower, such as `ridge:4`.
        seed: Seed of a closed form.
    """
    problem, _, factor = name.partition(":")
    sampler = NoiseTargetedSampler(search_space=DIGITS)
    if not factor:
        rows = [r for r in pq.read_table(RUNGS).to_pylist() if r["space"] == name and r["outcome"] == "ok"]
        knobs = {**DIGITS, "batch_size": optuna.distributions.IntDistribution(16, 128, log=True)}
        space = sampler._space(knobs)
        unit = space.units_of([{k: r[k] for k in knobs} for r in rows])[0]
        early, end = (np.log([r[c] for r in rows]) for c in ("rung_1_merged_loss_val", "merged_loss_val"))
        return space, unit, early, end
    form, rng = replay(problem, seed), np.random.default_rng([seed, 3])
    design = MapDesign(form.space, "paper", {}, seed, repeats=False)
    points = [design.point(i, SPAN) for i in range(2 * PAIRS + 80)]
    early, end = (np.array([-observe(form, p, rng, f) for p in points]) for f in (float(factor), None))
    fine = np.maximum(early, end) < -form.penalty  # neither collapsed
    space = sampler._space(form.space)
    return space, space.units_of(points)[0][fine], early[fine], end[fine]


def print_predictions(names: Sequence[str], seeds: int) -> None:
    """Print what the ways to treat two budgets predict."""
    print(f"{provenance()}\n{PAIRS} pairs at a quarter of the budget and some in full predict others; n = {seeds}")
    print(f"{'pairs':<20}{'in full':>8}  {'budgets':<20}{'regret [quartiles]':>22}{'rank correlation':>18}")
    for name in names:
        for full in (6, 12):
            found = [predict(*read_pairs(name, 100 + seed), full, seed) for seed in range(seeds)]
            for way in WAYS:
                regret, rank = np.array([f[way] for f in found]).T
                low, mid, high = np.quantile(regret, [0.25, 0.5, 0.75])
                text = f"{mid:.2f} [{low:.2f}, {high:.2f}]"
                print(f"{name:<20}{full:>8}  {way:<20}{text:>22}{np.nanmedian(rank):>18.2f}", flush=True)


def main() -> None:
    """Run what is missing and print one table per problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["ridge", "basins", "knobs"])
    parser.add_argument("--contestants", nargs="+", default=["full", "proxy:1", "proxy:4"])
    parser.add_argument("--trials", type=int, default=24, help="trials in full (default: %(default)s)")
    parser.add_argument("--every", type=int, default=4, help="trials between recommendations (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=100, help="first seed (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-proxy"), help="default: %(default)s")
    parser.add_argument("--predict", nargs="+", metavar="PAIRS", help="compare ways to treat two budgets instead")
    args = parser.parse_args()
    if args.predict:
        print_predictions(args.predict, args.seeds)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(args.first, args.first + args.seeds):
        for problem in args.problems:
            for contestant in args.contestants:
                file = args.out / f"{problem}-{contestant.replace(':', '_')}-{seed}-{args.trials}.json"
                if not file.exists():
                    file.write_text(json.dumps(run(problem, contestant, seed, args.trials, args.every)))
                rows.append(json.loads(file.read_text()))
    print(f"{provenance()}\n{args.trials} trials in full; map: {SHORT} by a proxy at {SHARE:g}, else {FULL} in full")
    for problem in args.problems:
        print(f"\n{problem}, n = {args.seeds}: median regret after {args.every} to {args.trials} trials in full")
        steps = range(args.every, args.trials + 1, args.every)
        print(f"{'contestant':<12}" + "".join(f"{s:>7}" for s in steps) + f"{f'cost to {TARGET:g}':>14}{'reached':>9}")
        for contestant in args.contestants:
            own = [r for r in rows if r["problem"] == problem and r["contestant"] == contestant]
            middle = np.median([r["regrets"] for r in own], axis=0)
            costs = np.array([cost_to(r) for r in own])
            low, mid, high = (np.quantile(costs, q, method="nearest") for q in (0.25, 0.5, 0.75))
            cells = "".join(f"{m:>7.2f}" for m in middle)
            print(f"{contestant:<12}{cells}{f'{mid:g} [{low:g}, {high:g}]':>14}{np.isfinite(costs).sum():>9}")


if __name__ == "__main__":
    main()

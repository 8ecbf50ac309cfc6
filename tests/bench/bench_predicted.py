"""Predicted scores of recommended settings against known truths: how often do their 90 % intervals cover?

A sweep of a replayed problem (`bench_replay`) has a map of 30 trials and 18 trials of the search, of one pair each. The
settings are those of `recommend` at a free batch size and at two fixed ones. Finished sweeps in --out are reused.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import optuna
import pyarrow as pa
from optuna.trial import create_trial
from provenance import provenance
from race.tables import DIGITS, Replay, replay

from search_spaces import Space, load
from sweeper.analysis.settings.recommendation import fit_model
from sweeper.analysis.settings.settings import Settings
from sweeper.config.spec import SweepSpec
from sweeper.search.map_design import MapDesign
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler
from sweeper.storage.schema import SCHEMAS
from trainables.noise import predict_all

MAP, SEARCH, EXAMPLES = 30, 18, 720
FIXED: list[dict[str, float]] = [{}, {"batch_size": 24}, {"batch_size": 64}]
Z90 = 1.645


def space_of(problem: Replay) -> Space:
    """Return the space of a problem, over the fixed values of `digits_label_noise`."""
    space = load("digits_label_noise")
    return space if problem.space == DIGITS else space.override(parameters=dict(problem.space), fixed={})


def simulate(problem: Replay, seed: int) -> list[dict[str, Any]]:
    """Return parameters and scores of one sweep, a map and a search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, rng = space_of(problem), np.random.default_rng([seed, 3])
    design = MapDesign(space.knobs, "paper", {"examples": EXAMPLES}, seed)
    sampler = NoiseTargetedSampler(seed=seed, search_space=problem.space, n_startup=0)
    study, found = optuna.create_study(sampler=sampler), list[dict[str, Any]]()

    def observe(params: dict[str, Any]) -> float:
        found.append({"params": params, "score": problem.observe(params, rng)})
        return -found[-1]["score"]

    for index in range(MAP):
        params = design.point(index, design.range)
        value = observe(params)
        study.add_trial(create_trial(params=params, distributions=dict(problem.space), value=value))
    for _ in range(SEARCH):
        trial = study.ask(problem.space)
        study.tell(trial, observe(trial.params))
    return found


def make_table(space: Space, found: list[dict[str, Any]]) -> pa.Table:
    """Return the trials table of a sweep."""
    rows: list[dict[str, Any]] = []
    configs: dict[str, int] = {}
    for number, trial in enumerate(found):
        params, score = trial["params"], trial["score"]
        config = repr(params)
        repeat = configs[config] = configs.get(config, -1) + 1
        spec = space.build(params, seed=0, repeat=repeat)
        knobs = {**params, "examples": EXAMPLES}
        row = {"digest": str(number), "config": config, "repeat": repeat, "number": number, "sampler": "noise",
               "outcome": "ok", "classes": 10, "spec": spec.to_json(), "augmentation": spec.augmentation,
               "augmentation_strength": spec.augmentation_strength, "optimizer": "sgd",
               "gain_mean_loss_val": score, **knobs}  # fmt: skip
        rows.append(row | {f"noise_{name}": v for name, v in predict_all(knobs).items()})
    return pa.Table.from_pylist(rows, schema=SCHEMAS["trials"])


def settings_of(problem: Replay, found: list[dict[str, Any]], seed: int) -> list[Settings]:
    """Return the settings that `recommend` gives at the values of `FIXED`."""
    space = space_of(problem)
    given = {"space": "digits_label_noise", "objective": "gain_mean", "noise": "paper"}
    spec = SweepSpec.checked({**given, "trials": len(found), "seed": seed})
    model = fit_model(spec, space, make_table(space, found), FIXED, noise="paper", seed=seed)
    return [model.recommend(fixed, seed) for fixed in FIXED]


def main() -> None:
    """Print coverage and error of the predicted gain, for each problem and over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["ridge", "cliff", "basins", "knobs"])
    parser.add_argument("--seeds", type=int, default=8, help="sweeps of each problem (default: %(default)s)")
    parser.add_argument("--first", type=int, default=500, help="first seed (default: %(default)s)")
    parser.add_argument("--table", help="run folder or Parquet file with trials of digits_label_noise")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-predicted"), help="default: %(default)s")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{MAP} + {SEARCH} trials, settings at {FIXED}; {provenance()}")
    print(f"{'problem':<18}{'n':>4}{'covered':>9}{'mean z':>8}{'rms z':>7}{'too high':>10}{'error':>8}{'sd':>8}")
    every: list[tuple[float, float, float]] = []
    for name in args.problems:
        each: list[tuple[float, float, float]] = []
        for seed in range(args.first, args.first + args.seeds):
            problem, file = replay(name, seed, args.table), args.out / f"{name.replace(':', '_')}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(simulate(problem, seed)))
            for settings in settings_of(problem, json.loads(file.read_text()), seed):
                mean, sd = settings.predicted.mean, settings.predicted.sd
                assert sd is not None
                each.append((problem.true(settings.params), mean, sd))
        _report(name, each)
        every += each
    _report("all", every)


def _report(name: str, each: list[tuple[float, float, float]]) -> None:
    true, mean, sd = np.array(each).T
    z = (true - mean) / sd
    covered, error = np.abs(z) <= Z90, np.abs(true - mean)
    print(
        f"{name:<18}{len(z):>4}{covered.mean():>9.2f}{z.mean():>8.2f}{math.sqrt((z * z).mean()):>7.2f}"
        f"{(z < 0).mean():>10.2f}{np.median(error):>8.4f}{np.median(sd):>8.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""One run of the race, and many of them on all cores; finished runs are kept, so a stopped race goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from .contestants import CONTESTANTS
from .problems import problem
from .verdict import NOISE_AT


@dataclass(frozen=True)
class Run:
    """One run: a contestant on a problem."""

    problem: str
    contestant: str
    seed: int
    trials: int
    parallel: int = 1

    @property
    def name(self) -> str:
        """Name of the run's file."""
        return f"{self.problem}-{self.contestant}-{self.seed}-{self.trials}-{self.parallel}".replace("@", "_at_")


@dataclass(frozen=True)
class Mark:
    """Where a run stands after `done` trials.

    Attributes:
        regret: Regret of the recommended configuration, by its noise-free value.
        noise_error: Estimated minus true best log noise; that of the recommended configuration but after `NOISE_AT`
            and the last trial.
        covered: Whether the 90 % interval holds the true one; None without interval.
        ask_seconds: Mean time of an ask so far.
    """

    done: int
    regret: float
    noise_error: float
    covered: bool | None
    ask_seconds: float


def checkpoints(trials: int) -> set[int]:
    """Return after which trials a run is judged: each up to 30, then every second."""
    return {n for n in range(1, trials + 1) if n <= 30 or n % 2 == 0}


def race(run: Run) -> list[Mark]:
    """Return the marks of one run.

    With `parallel` > 1 so many trials run at a time, and which of them finishes next is drawn at random.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = problem(run.problem, run.seed)
    contestant = CONTESTANTS[run.contestant](task, run.seed)
    study = optuna.create_study(sampler=contestant.sampler())
    noise, order = np.random.default_rng([run.seed, 1]), np.random.default_rng([run.seed, 2])
    judged, marks, seconds, asked = checkpoints(run.trials), [], 0.0, 0
    running: list[optuna.Trial] = []
    for done in range(1, run.trials + 1):
        while len(running) < run.parallel and asked < run.trials:
            start = time.perf_counter()
            running.append(study.ask(contestant.space))
            seconds, asked = seconds + time.perf_counter() - start, asked + 1
        trial = running.pop(int(order.integers(len(running))))
        study.tell(trial, task.observe(contestant.params(trial.params), noise))
        if done in judged:
            finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            answer = contestant.answer(finished, done in (NOISE_AT, run.trials))
            covered = None if np.isnan(answer.low) else bool(answer.low <= task.best_noise <= answer.high)
            error = answer.noise - task.best_noise
            marks.append(Mark(done, task.regret(answer.params), error, covered, seconds / asked))
    return marks


def _kept(run: Run, folder: str) -> None:
    rows = [{**asdict(run), **asdict(mark)} for mark in race(run)]
    target = Path(folder) / f"{run.name}.parquet"
    partial = target.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial)
    partial.replace(target)


SCHEMA = pa.schema(
    {
        "problem": pa.string(), "contestant": pa.string(), "seed": pa.int64(), "trials": pa.int64(),
        "parallel": pa.int64(), "done": pa.int64(), "regret": pa.float64(), "noise_error": pa.float64(),
        "covered": pa.bool_(), "ask_seconds": pa.float64(),
    }
)  # fmt: skip


def _alone() -> None:
    # one thread a run: as many runs as cores, and the same numbers on any machine
    torch.set_num_threads(1)
    threadpool_limits(1)  # the forked libraries do not look at the environment any more


def run_all(runs: Iterable[Run], folder: Path, workers: int) -> pa.Table:
    """Run what is missing in `folder` and return the marks of all the runs."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(runs)
    missing = [r for r in wanted if not (folder / f"{r.name}.parquet").exists()]
    start = time.monotonic()
    with ProcessPoolExecutor(workers, initializer=_alone) as pool:
        pending = [pool.submit(_kept, r, str(folder)) for r in missing]
        for count, each in enumerate(as_completed(pending), 1):
            each.result()
            if count % 20 == 0 or count == len(pending):
                left = (time.monotonic() - start) / count * (len(pending) - count)
                print(
                    f"{count} of {len(pending)} runs, about {left / 60:.0f} minutes left", file=sys.stderr, flush=True
                )
    return pa.concat_tables(_tables(wanted, folder))


def _tables(runs: Iterable[Run], folder: Path) -> Iterator[pa.Table]:
    for run in runs:
        yield pq.read_table(folder / f"{run.name}.parquet")

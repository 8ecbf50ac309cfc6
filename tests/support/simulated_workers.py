"""Workers in one process that finish the jobs of a session in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sweeper import SweepSpec
from sweeper.config.prepared import prepare, set_defaults
from sweeper.runner.jobs import Job, execute
from sweeper.runner.session import Session
from sweeper.storage.run_folder import stored_keys, write_start
from trainables.runtime import Runtime


def open_session(run: Path, workers: int = 1, **more: Any) -> Session:
    values = {"space": "synthetic", "runner": "inline", "trials": 24, "objective": "gain_mean", "out": str(run), **more}
    spec = SweepSpec.checked(values)
    sweep = set_defaults(prepare(spec), stored_keys(spec)).with_constants(examples=720)
    run.mkdir(exist_ok=True)
    write_start(run, sweep.spec, sweep.space)
    session = Session(sweep, run, Runtime())
    session.set_workers(workers)
    return session


def run_workers(session: Session, workers: int, order: int, stop_after: int | None = None) -> int:
    """Run a session; the running jobs finish in random order. Returns how many jobs waited for results of others.

    Args:
        session: The session.
        workers: Jobs at a time.
        order: Seed of the order.
        stop_after: Number of jobs after which the rest is dropped, as in a crash.
    """
    rng, running, waited, ended = np.random.default_rng(order), [], 0, 0
    jobs: list[Job] = running
    while True:
        while len(jobs) < workers and (job := session.next_job()):
            jobs.append(job)
        if not jobs:
            return waited
        waited += len(jobs) < workers and session.waiting
        job = jobs.pop(int(rng.integers(len(jobs))))
        session.finish(job, execute(job, session.runtime, session.run))
        ended += 1
        if ended == stop_after:
            return waited

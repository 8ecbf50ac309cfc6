"""Ray runner: Tune experiments whose trials are the jobs of a sweep, on a local Ray or a cluster.

The run folder is the source of truth. A Tune experiment is disposable: it uses a temporary folder and is never
restored. The next experiment, in this driver or after a resume, starts with the remaining jobs. Ray and Tune print
nothing.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no result.json, CSV or TensorBoard: the Parquet tables hold everything
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `TuneSignals` also catches SIGTERM and remembers it
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # no snapshots of the experiment, which is never restored
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _key, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

import psutil  # noqa: E402
import ray  # noqa: E402  (reads the environment on import)
from ray import tune  # noqa: E402
from ray._private import worker as ray_worker  # noqa: E402
from ray.tune.schedulers import FIFOScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from sweeper.config.spec import SweepSpec  # noqa: E402
from sweeper.errors import SpecError, StorageError  # noqa: E402
from sweeper.runner.jobs import Job, give_up, prune, was_stopped  # noqa: E402
from sweeper.runner.ray_tune.oom import describe_memory_kill, translate_memory_kills  # noqa: E402
from sweeper.runner.ray_tune.own_ray import check_closed, own_ray  # noqa: E402
from sweeper.runner.ray_tune.placement import Layout, Node, capacity, check_fits, cpus, describe_lack, layout, request  # noqa: E402
from sweeper.runner.ray_tune.reattempts import Attempts  # noqa: E402
from sweeper.runner.ray_tune.trainable import run_job  # noqa: E402
from sweeper.runner.ray_tune.watchdog import GROWING_SECONDS, PATIENCE_SECONDS, Room, watch_ray  # noqa: E402
from sweeper.runner.session import Session  # noqa: E402
from sweeper.runner.signals import TuneSignals  # noqa: E402

WAVE, ROUNDS = 1000, 32
"""A Tuner runs at most max(WAVE, ROUNDS x workers) trials."""


class RungScheduler(FIFOScheduler):
    """Tune scheduler that stops a trial at a rung on the decision of the session's judge."""

    def __init__(self, searcher: SessionSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP or CONTINUE for the report of a trial."""
        return self.STOP if "look" in result and self.searcher.judge(trial.trial_id, result["look"]) else self.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass a memory kill to the searcher, which Tune informs only of the trial's end."""
        if message := describe_memory_kill(trial):
            self.searcher.killed[trial.trial_id] = message


class RoomWatcher(tune.Callback, tune.Stopper):
    """Part of Tune's loop that ends a sweep whose cluster has no node for a trial."""

    def __init__(self, session: Session | None, room: Room | None) -> None:
        self.session, self.room, self.over = session, room, False

    def __getstate__(self) -> dict[str, Any]:
        return {"session": None, "room": None, "over": False}  # see `SessionSearcher`

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Check the cluster while no trial runs."""
        if self.session and self.room and not self.over:
            why = self.room.look(any(t.status == "RUNNING" for t in trials))
            if why:
                self.session.halt(why)
                self.over = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: a report stops no trial here."""
        return False

    def stop_all(self) -> bool:
        """Return whether the experiment ends although trials wait."""
        return self.over


class SessionSearcher(Searcher):
    """Tune searcher that takes jobs from the session and returns their rows to it."""

    def __init__(self, session: Session | None, attempts: Attempts, ranks: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.session, self.attempts, self.ranks = session, attempts, ranks
        self.jobs: dict[str, Job] = {}
        self.started = 0
        self.killed: dict[str, str] = {}  # trial that Ray's memory monitor killed -> its message
        self.stopped: dict[str, tuple[Mapping[str, Any], str]] = {}  # pruned trial -> its last rung, and the reason

    def judge(self, trial_id: str, look: bytes) -> bool:
        """Pass a rung to the session's judge; returns whether the trial stops."""
        assert self.session is not None
        record = pickle.loads(look)
        reason = self.session.look(self.jobs[trial_id], record)
        if reason:
            self.stopped[trial_id] = record, reason
        return bool(reason)

    def __getstate__(self) -> dict[str, Any]:
        # Tune snapshots its searcher, but a resume rebuilds this one from the run folder
        return {"session": None, "attempts": None, "ranks": None, "jobs": {}, "stopped": {}, "killed": {}, "started": 0,
                "_metric": None, "_mode": None}  # fmt: skip

    def suggest(self, trial_id: str) -> Any:
        """Return the next job as a Tune configuration, or FINISHED."""
        assert self.session is not None
        try:
            job = None if self.session.is_over() else self.attempts.pop_due() or self.session.next_job()
        except StorageError as error:
            self.session.break_off(error)
            job = None
        if job is None:
            # after None, Tune asks again soon: a job still pauses, or the next one needs results of running ones
            waits = self.attempts.waiting or (self.jobs and self.session.waiting)
            return None if waits and not self.session.is_over() else Searcher.FINISHED
        self.jobs[trial_id] = job
        self.started += 1
        runtime = vars(self.session.runtime)
        return {"job": job.to_json(), "run": self.session.run.uri, "runtime": runtime, "ranks": self.ranks}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the rows of a finished job to the session; a job without rows lost its worker."""
        assert self.session is not None
        try:
            self._complete(trial_id, result, error)
        except StorageError as storage_error:
            self.session.break_off(storage_error)

    def _complete(self, trial_id: str, result: dict[str, Any] | None, error: bool) -> None:
        assert self.session is not None
        job = self.jobs.pop(trial_id, None)
        if job is None:
            return
        if trial_id in self.stopped:
            record, reason = self.stopped.pop(trial_id)
            rows = prune(job, self.session.run, record["outputs"], reason, record["before"])
        elif result and "rows" in result:
            rows = json.loads(result["rows"])
            place = self.session.run
            if place.local and not place.has(f"trials/{rows[0]['digest']}.parquet"):
                self.session.halt(f"the driver does not see a worker's results in {place.text}: --out must be on "
                                  "storage that all nodes share, or the URI of a store")  # fmt: skip
        elif result and "storage" in result:
            self.session.break_off(StorageError(result["storage"]))
            return
        elif error:
            done = self.session.rows_on_disk(job)
            left = tuple(s for s in job.specs if s.digest not in {r["digest"] for r in done})
            kill = self.killed.pop(trial_id, "")
            if not kill and left and not was_stopped(done) and self.attempts.retry(replace(job, specs=left)):
                self.session.keep_partial(job, done)
                return
            why = MemoryError(kill) if kill else RuntimeError("the worker process died")
            rows = give_up(job, self.session.runtime, self.session.run, why, done)
        else:
            return  # stopped before its end: a resume runs it again
        self.session.finish(job, rows)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file, see `__getstate__`."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see `__getstate__`."""


def connect(spec: SweepSpec, members: int) -> tuple[int, Layout]:
    """Start a local Ray or connect to the cluster at `spec.address`.

    Args:
        spec: The sweep.
        members: Children of a trial.

    Returns:
        Number of trials at a time, and the layout of a trial.

    Raises:
        SpecError: Ray cannot be reached, a trial never fits, or the number of workers or the device is missing for a
            cluster that adds nodes.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if spec.address is None:
        needed = layout(spec.resources, spec.threads, 0, members).cpus
        workers = spec.workers if isinstance(spec.workers, int) else max(1, int(cpus() // needed))
        # without "local", Ray would join a cluster that runs on this machine
        ray.init(address="local", num_cpus=math.ceil(workers * needed), include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address=spec.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SpecError(f"cannot connect to Ray at {spec.address}: {reason}") from None
    _silence()
    nodes = _nodes()
    grows = spec.resources.autoscaling and spec.address is not None  # a local Ray adds none
    if grows and not isinstance(spec.workers, int):
        raise SpecError(
            "resources.autoscaling needs workers, the number of trials at a time, to know how many nodes to add, got "
            f"{spec.workers}: --workers N"
        )
    has_gpus = any(n.total.get("GPU", 0) >= 1 for n in nodes)
    gpus = 1 if spec.device.startswith("cuda") or (spec.device == "auto" and has_gpus) else 0
    if grows and spec.device == "auto" and not has_gpus and not layout(spec.resources, spec.threads, 0, members).gpus:
        raise SpecError(
            "device auto is undecided on a cluster that has no nodes yet: give --device cpu, or --resources "
            "gpus_per_pair=1"
        )
    if gpus and not has_gpus and not grows:
        raise SpecError(f"device {spec.device!r} needs a GPU and the cluster has none; use --device cpu or auto")
    trial = layout(spec.resources, spec.threads, gpus, members)
    if not grows:
        check_fits(nodes, trial)
    return spec.workers if isinstance(spec.workers, int) else max(1, capacity(nodes, trial)), trial


def _nodes() -> list[Node]:
    return [Node(n["Resources"], n.get("Labels") or {}) for n in ray.nodes() if n["Alive"]]


def _silence() -> None:
    for name in ("ray", "ray.tune", "ray.data", "ray.train", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Ray prints the log of a dead raylet on stdout, whatever log_to_driver says
    ray_worker.print_to_stdstream = lambda *_, **__: None


def run_cluster(session: Session) -> None:
    """Run a session to its end on Ray Tune, in consecutive Tuners: a Tuner's end frees what Tune holds of its trials.

    Raises:
        KeyboardInterrupt: The driver got SIGINT or SIGTERM; finished trials are on disk.
        RayLostError: Ray died; finished trials are on disk.
        SpecError: The cluster cannot be reached, or other accounts could use the local Ray.
        StorageError: The run folder cannot be written to.
    """
    signals = TuneSignals(session.halt)
    local = session.spec.address is None
    with signals.installed(), own_ray() if local else nullcontext():
        try:
            workers, trial = connect(session.spec, session.sweep.members)
            if local:
                _check_closed()
            if not trial.gpus and session.runtime.device == "auto":
                # a node may have GPUs that do not belong to the cluster
                session.runtime = replace(session.runtime, device="cpu")
            if threading.current_thread() is threading.main_thread():
                signals.install()
            session.set_workers(workers)
            attempts = Attempts(session.spec.max_failures)
            with watch_ray(_find_dead), translate_memory_kills():
                for size in iter(lambda: wave_size(len(session.open) + len(attempts.waiting), workers), 0):
                    started = not session.is_over() and _run_wave(session, size, workers, trial, attempts)
                    if session.is_over() or signals.seen or not started:
                        break
                    session.compact()
        finally:
            ray.shutdown()
        if session.broken:
            raise session.broken
        if signals.seen:
            raise KeyboardInterrupt


def wave_size(left: int, workers: int) -> int:
    """Return the number of trials of the next Tuner.

    At the end of a Tuner, workers wait for its last trials, for half a trial on average. Over `ROUNDS` trials per
    worker this costs 1.6 %.
    """
    limit = max(WAVE, ROUNDS * workers)
    # equal sizes avoid a last Tuner of a few trials
    return math.ceil(left / math.ceil(left / limit)) if left else 0


def _run_wave(session: Session, size: int, workers: int, trial: Layout, attempts: Attempts) -> bool:
    """Run `size` jobs in one Tuner; returns whether it started any."""
    storage = tempfile.mkdtemp(prefix="sweeper-tune-")
    ranks = {"members": trial.members, "bundles": trial.bundles} if trial.members else None
    searcher = SessionSearcher(session, attempts, ranks)
    bundles, options = request(trial)
    patience = GROWING_SECONDS if session.spec.resources.autoscaling else PATIENCE_SECONDS
    room = Room(lambda: describe_lack(_nodes(), trial), patience=patience) if session.spec.address is not None else None
    watcher = RoomWatcher(session, room)
    try:
        tuner = tune.Tuner(
            tune.with_resources(run_job, tune.PlacementGroupFactory(bundles, **options)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=RungScheduler(searcher),
                num_samples=size,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                name=Path(storage).name,
                verbose=0,
                log_to_file=False,
                stop=watcher,
                callbacks=[watcher],
            ),
        )
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        _remove_artifacts(Path(storage).name)
        gc.collect()  # Tune's objects form reference cycles
    return searcher.started > 0


def _remove_artifacts(name: str) -> None:
    # Tune also keeps a folder per trial in Ray's session folder until Ray ends
    node = ray_worker._global_node
    if node is not None:
        for folder in Path(node.get_session_dir_path()).glob(f"artifacts/*/{name}"):
            shutil.rmtree(folder, ignore_errors=True)


def _check_closed() -> None:
    """Check that other accounts cannot use the Ray of this driver."""
    node: Any = ray_worker._global_node
    started = [info.process.pid for kind in node.all_processes.values() for info in kind]
    check_closed(node.gcs_address, [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)])


def _find_dead() -> str:
    """Return the dead processes of the Ray of this driver; empty while all live."""
    node = ray_worker._global_node
    dead: list[Any] = [] if node is None else node.dead_processes()
    return ", ".join(str(kind) for kind, _ in dead)

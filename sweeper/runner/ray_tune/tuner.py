"""The Ray runner: a Tune experiment whose trials are this sweep's jobs, on a local Ray or a cluster.

Our run folder is the truth. A Tune experiment is disposable: it lives in a temporary folder and is never restored; the
next one starts with what is left, in this driver or after a resume. Ray and Tune print nothing; the sweep's own
progress does.
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
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # result.json, csv, tensorboard: our Parquet holds all of it
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours below also catches SIGTERM and knows that it happened
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # no snapshots of the experiment on the way: it is never restored
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
from sweeper.runner.jobs import Job, execute, give_up, prune, was_stopped  # noqa: E402
from sweeper.runner.ray_tune.oom import killed_for_memory, known_to_tune  # noqa: E402
from sweeper.runner.ray_tune.own_ray import check_closed, own_ray  # noqa: E402
from sweeper.runner.ray_tune.placement import Layout, Node, capacity, check_fits, cpus, lack, layout, request  # noqa: E402
from sweeper.runner.ray_tune.reattempts import Attempts  # noqa: E402
from sweeper.runner.ray_tune.watchdog import GROWING_SECONDS, PATIENCE_SECONDS, Room, watched  # noqa: E402
from sweeper.runner.session import Session  # noqa: E402
from sweeper.runner.signals import TuneSignals  # noqa: E402
from trainables.runtime import Runtime  # noqa: E402

WAVE, ROUNDS = 1000, 32
"""Trials of a Tuner: so many, or so many of each worker where that is more."""


def _trainable(config: dict[str, Any]) -> None:
    # runs in a Tune actor that is reused: no global state may be left behind
    warnings.simplefilter("ignore")
    job, trials = Job.from_json(config["job"]), None
    if config["ranks"]:
        from sweeper.runner.ray_tune.ranks import run_apart

        trials = partial(run_apart, run=config["run"], **config["ranks"])
    try:
        rows = execute(job, Runtime(**config["runtime"]), config["run"], _report_rung, trials)
    except StorageError as error:
        tune.report({"storage": str(error)})
        return
    tune.report({"rows": json.dumps(rows)})


def _report_rung(record: Mapping[str, Any]) -> None:
    # of a trial that the driver stops this does not return: the thread ends here, and the driver writes the trial
    if "rung" in record:
        plain = {k: record[k] for k in ("rung", "epoch", "step", "merged_loss_val", "merged_accuracy_val")}
        tune.report({**plain, "look": pickle.dumps(dict(record))})


class RungScheduler(FIFOScheduler):
    """Tune's scheduler as a view of the session, too: stops a trial at a rung where the session's judge says so."""

    def __init__(self, searcher: SessionSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP or CONTINUE."""
        return self.STOP if "look" in result and self.searcher.judge(trial.trial_id, result["look"]) else self.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the searcher, which is told next that the trial ended, of what it does not get to know."""
        if said := killed_for_memory(trial):
            self.searcher.killed[trial.trial_id] = said


class Waiting(tune.Callback, tune.Stopper):
    """Ends a sweep that waits for nodes which do not come back; part of Tune's loop."""

    def __init__(self, session: Session | None, room: Room | None) -> None:
        self.session, self.room, self.over = session, room, False

    def __getstate__(self) -> dict[str, Any]:
        return {"session": None, "room": None, "over": False}  # as of `SessionSearcher`

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look at the cluster where no trial runs."""
        if self.session and self.room and not self.over:
            why = self.room.look(any(t.status == "RUNNING" for t in trials))
            if why:
                self.session.halt(why)
                self.over = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped by what it reports."""
        return False

    def stop_all(self) -> bool:
        """Whether the experiment is to end with its trials waiting."""
        return self.over


class SessionSearcher(Searcher):
    """Tune's searcher as a view of the session: suggests its jobs, hands it their rows."""

    def __init__(self, session: Session | None, attempts: Attempts, ranks: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.session, self.attempts, self.ranks = session, attempts, ranks
        self.jobs: dict[str, Job] = {}
        self.started = 0
        self.killed: dict[str, str] = {}  # trials that the memory of their node was too small for: what Ray said
        self.stopped: dict[str, tuple[Mapping[str, Any], str]] = {}  # last rung of a trial, and why it ends there

    def judge(self, trial_id: str, look: bytes) -> bool:
        """Show a rung to the session's judge; returns whether the trial is to stop."""
        assert self.session is not None
        record = pickle.loads(look)
        reason = self.session.look(self.jobs[trial_id], record)
        if reason:
            self.stopped[trial_id] = record, reason
        return bool(reason)

    def __getstate__(self) -> dict[str, Any]:
        # Tune snapshots its searcher; ours is rebuilt from the run folder instead
        return {"session": None, "attempts": None, "ranks": None, "jobs": {}, "stopped": {}, "killed": {}, "started": 0,
                "_metric": None, "_mode": None}  # fmt: skip

    def suggest(self, trial_id: str) -> Any:
        """Return the next job as a Tune configuration, or FINISHED."""
        assert self.session is not None
        try:
            job = None if self.session.over() else self.attempts.due() or self.session.next_job()
        except StorageError as error:
            self.session.break_off(error)
            job = None
        if job is None:
            # None: asked again soon, for a job whose pause is not over
            return None if self.attempts.waiting and not self.session.over() else Searcher.FINISHED
        self.jobs[trial_id] = job
        self.started += 1
        runtime = vars(self.session.runtime)
        return {"job": job.to_json(), "run": self.session.run.uri, "runtime": runtime, "ranks": self.ranks}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand the rows of a finished job to the session; a job without rows lost its worker."""
        assert self.session is not None
        try:
            self._complete(trial_id, result, error)
        except StorageError as lost:
            self.session.break_off(lost)

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
                self.session.halt(f"a worker's results are not in {place.text} here: --out must be on storage that "
                                  "all nodes share, or the URI of a store")  # fmt: skip
        elif result and "storage" in result:
            self.session.break_off(StorageError(result["storage"]))
            return
        elif error:
            done = self.session.rows_on_disk(job)
            left = tuple(s for s in job.specs if s.digest not in {r["digest"] for r in done})
            short = self.killed.pop(trial_id, "")
            if not short and left and not was_stopped(done) and self.attempts.again(replace(job, specs=left)):
                self.session.keep_partial(job, done)
                return
            why = MemoryError(short) if short else RuntimeError("the worker process died")
            rows = give_up(job, self.session.runtime, self.session.run, why, done)
        else:
            return  # stopped before its end: a resume does it
        self.session.finish(job, rows)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: see `__getstate__`."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to read: see `__getstate__`."""


def connect(spec: SweepSpec, members: int) -> tuple[int, Layout]:
    """Start a local Ray or connect to the cluster at `spec.address`.

    Args:
        spec: The sweep.
        members: Children of a trial.

    Returns:
        Trials at a time, and what each takes.

    Raises:
        SpecError: The address cannot be reached or is of a kind that Tune cannot use, a trial can never be placed, or
            the cluster adds nodes and nothing says for how many trials.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if spec.address is None:
        own = layout(spec.resources, spec.threads, 0, members).cpus
        workers = spec.workers if isinstance(spec.workers, int) else max(1, int(cpus() // own))
        # without "local", Ray would join a cluster that was started on this machine
        ray.init(address="local", num_cpus=math.ceil(workers * own), include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address=spec.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SpecError(f"cannot connect to Ray at {spec.address}: {reason}") from None
    _silence()
    nodes = _nodes()
    grows = spec.resources.autoscaling and spec.address is not None  # a Ray of its own adds none
    if grows and not isinstance(spec.workers, int):
        raise SpecError(
            "resources.autoscaling needs workers, the trials at a time for which the cluster is to add nodes, got "
            f"{spec.workers}: --workers N"
        )
    has = any(n.has.get("GPU", 0) >= 1 for n in nodes)
    gpus = 1 if spec.device.startswith("cuda") or (spec.device == "auto" and has) else 0
    if grows and spec.device == "auto" and not has and not layout(spec.resources, spec.threads, 0, members).gpus:
        raise SpecError(
            "device auto is not decided on a cluster whose nodes are still to come: --device cpu, or --resources "
            "gpus_per_pair=1"
        )
    if gpus and not has and not grows:
        raise SpecError(f"device {spec.device!r} asks for a GPU and the cluster has none; use --device cpu or auto")
    found = layout(spec.resources, spec.threads, gpus, members)
    if not grows:
        check_fits(nodes, found)
    return spec.workers if isinstance(spec.workers, int) else max(1, capacity(nodes, found)), found


def _nodes() -> list[Node]:
    return [Node(n["Resources"], n.get("Labels") or {}) for n in ray.nodes() if n["Alive"]]


def _silence() -> None:
    for name in ("ray", "ray.tune", "ray.data", "ray.train", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # it prints the log of a raylet that died on stdout, whatever log_to_driver says
    ray_worker.print_to_stdstream = lambda *_, **__: None


def run_cluster(session: Session) -> None:
    """Run a session to its end on Ray Tune, in consecutive Tuners: what Tune holds of a trial ends with its Tuner.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; finished trials are on disk.
        RayLostError: Ray died; finished trials are on disk.
        SpecError: The cluster cannot be reached, or others could use the Ray that was started.
        StorageError: The run folder cannot be written to.
    """
    signals = TuneSignals(session.halt)
    own = session.spec.address is None
    with signals.installed(), own_ray() if own else nullcontext():
        try:
            workers, found = connect(session.spec, session.sweep.members)
            if own:
                _check_own()
            if not found.gpus and session.runtime.device == "auto":
                # a node may have GPUs that are not this cluster's to give
                session.runtime = replace(session.runtime, device="cpu")
            if threading.current_thread() is threading.main_thread():
                signals.install()
            attempts = Attempts(session.spec.max_failures)
            with watched(_ray_is_dead), known_to_tune():
                for size in iter(lambda: wave_size(len(session.open) + len(attempts.waiting), workers), 0):
                    started = not session.over() and _run_wave(session, size, workers, found, attempts)
                    if session.over() or signals.seen or not started:
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

    At a Tuner's end workers wait for its last trials, half a trial's time each; over `ROUNDS` trials of each worker
    that is 1.6 %.
    """
    most = max(WAVE, ROUNDS * workers)
    return math.ceil(left / math.ceil(left / most)) if left else 0  # even ones: no Tuner for a rest of three trials


def _run_wave(session: Session, size: int, workers: int, found: Layout, attempts: Attempts) -> bool:
    """Run so many jobs in one Tuner; returns whether it started any."""
    storage = tempfile.mkdtemp(prefix="sweeper-tune-")
    ranks = {"members": found.members, "bundles": found.bundles} if found.members else None
    searcher = SessionSearcher(session, attempts, ranks)
    bundles, options = request(found)
    patience = GROWING_SECONDS if session.spec.resources.autoscaling else PATIENCE_SECONDS
    room = Room(lambda: lack(_nodes(), found), patience=patience) if session.spec.address is not None else None
    waiting = Waiting(session, room)
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable, tune.PlacementGroupFactory(bundles, **options)),
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
                stop=waiting,
                callbacks=[waiting],
            ),
        )
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        _forget_artifacts(Path(storage).name)
        gc.collect()  # Tune's objects refer to each other in circles
    return searcher.started > 0


def _forget_artifacts(name: str) -> None:
    # Tune keeps a folder of each trial in Ray's session folder, too, for as long as Ray runs
    node = ray_worker._global_node
    if node is not None:
        for folder in Path(node.get_session_dir_path()).glob(f"artifacts/*/{name}"):
            shutil.rmtree(folder, ignore_errors=True)


def _check_own() -> None:
    """Check that nobody else can use the Ray that this driver started."""
    node: Any = ray_worker._global_node
    started = [info.process.pid for kind in node.all_processes.values() for info in kind]
    check_closed(node.gcs_address, [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)])


def _ray_is_dead() -> str:
    """Return which process of the Ray that this driver started is dead; empty where all live."""
    node = ray_worker._global_node
    dead: list[Any] = [] if node is None else node.dead_processes()
    return ", ".join(str(kind) for kind, _ in dead)

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
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
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

import ray  # noqa: E402  (reads the environment on import)
from ray import tune  # noqa: E402
from ray._private import worker as ray_worker  # noqa: E402
from ray.tune.schedulers import FIFOScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from trainables.runtime import Runtime  # noqa: E402

from .jobs import Job, execute, give_up, prune  # noqa: E402
from .session import Session  # noqa: E402
from .spec import SpecError, SweepSpec  # noqa: E402
from .watch import watched  # noqa: E402

WAVE, ROUNDS = 1000, 32
"""Trials of a Tuner: so many, or so many of each worker where that is more."""


def _trainable(config: dict[str, Any]) -> None:
    # runs in a Tune actor that is reused: no global state may be left behind
    warnings.simplefilter("ignore")
    job = Job.from_json(config["job"])
    rows = execute(job, Runtime(**config["runtime"]), Path(config["run"]), _report_rung)
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


class SessionSearcher(Searcher):
    """Tune's searcher as a view of the session: suggests its jobs, hands it their rows."""

    def __init__(self, session: Session | None) -> None:
        super().__init__()
        self.session = session
        self.jobs: dict[str, Job] = {}
        self.started = 0
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
        return {"session": None, "jobs": {}, "stopped": {}, "started": 0, "_metric": None, "_mode": None}

    def suggest(self, trial_id: str) -> Any:
        """Return the next job as a Tune configuration, or FINISHED."""
        assert self.session is not None
        job = self.session.next_job()
        if job is None:
            return Searcher.FINISHED
        self.jobs[trial_id] = job
        self.started += 1
        runtime = self.session.runtime
        return {"job": job.to_json(), "run": str(self.session.run), "runtime": vars(runtime)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand the rows of a finished job to the session; a job without rows lost its worker."""
        assert self.session is not None
        job = self.jobs.pop(trial_id, None)
        if job is None:
            return
        if trial_id in self.stopped:
            record, reason = self.stopped.pop(trial_id)
            rows = prune(job, self.session.run, record["outputs"], reason, record["before"])
        elif result and "rows" in result:
            rows = json.loads(result["rows"])
            if not (self.session.run / "trials" / f"{rows[0]['digest']}.parquet").exists():
                self.session.halt(f"a worker's results are not in {self.session.run} here: --out must be on storage "
                                  "that all nodes share")  # fmt: skip
        elif error:
            done = self.session.rows_on_disk(job)
            rows = give_up(job, self.session.runtime, self.session.run, "the worker process died", done)
        else:
            return  # stopped before its end: a resume does it
        self.session.finish(job, rows)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: see `__getstate__`."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to read: see `__getstate__`."""


class _Signals:
    """Turns SIGINT and SIGTERM into Tune's own graceful stop; a second one raises KeyboardInterrupt."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.seen: list[int] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.seen.append(number)
        if len(self.seen) > 1:
            raise KeyboardInterrupt
        print("stopping; finished trials are kept (again: at once)", file=sys.stderr, flush=True)
        self.session.halt("interrupted")
        # Tune listens to SIGUSR1 while it runs; Ray's start is not to be interrupted, it is over in seconds
        if signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            os.kill(os.getpid(), signal.SIGUSR1)

    def install(self) -> None:
        """Take the signals over; to be called again once Ray has started, which takes SIGTERM for itself."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the signals over for the block, in the main thread; elsewhere they stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        self.install()
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def connect(spec: SweepSpec) -> tuple[int, int]:
    """Start a local Ray or connect to the cluster at `spec.address`.

    Returns:
        Trials at a time, and GPUs per trial.

    Raises:
        SpecError: The address cannot be reached or is of a kind that Tune cannot use.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if spec.address is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = spec.workers if isinstance(spec.workers, int) else max(1, cpus // spec.threads)
        # without "local", Ray would join a cluster that was started on this machine
        ray.init(address="local", num_cpus=workers * spec.threads, include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address=spec.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SpecError(f"cannot connect to Ray at {spec.address}: {reason}") from None
    _silence()
    has = ray.cluster_resources()
    gpus = 1 if spec.device.startswith("cuda") or (spec.device == "auto" and has.get("GPU", 0) >= 1) else 0
    if gpus and has.get("GPU", 0) < 1:
        raise SpecError(f"device {spec.device!r} asks for a GPU and the cluster has none; use --device cpu or auto")
    widest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if spec.threads > widest:
        raise SpecError(f"threads must be <= {widest}, the CPUs of the cluster's largest node, got {spec.threads}")
    slots = int(has.get("GPU", 0)) if gpus else int(has.get("CPU", 1)) // spec.threads
    return spec.workers if isinstance(spec.workers, int) else max(1, slots), gpus


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
        SpecError: The cluster cannot be reached.
        OSError: The run folder cannot be written to.
    """
    signals = _Signals(session)
    with signals.installed():
        try:
            workers, gpus = connect(session.spec)
            if threading.current_thread() is threading.main_thread():
                signals.install()
            with watched(_ray_is_dead):
                for size in iter(lambda: wave_size(len(session.open), workers), 0):
                    if session.over() or signals.seen or not _run_wave(session, size, workers, gpus):
                        break
        finally:
            ray.shutdown()
        if signals.seen:
            raise KeyboardInterrupt


def wave_size(left: int, workers: int) -> int:
    """Return the number of trials of the next Tuner.

    At a Tuner's end workers wait for its last trials, half a trial's time each; over `ROUNDS` trials of each worker
    that is 1.6 %.
    """
    most = max(WAVE, ROUNDS * workers)
    return math.ceil(left / math.ceil(left / most)) if left else 0  # even ones: no Tuner for a rest of three trials


def _run_wave(session: Session, size: int, workers: int, gpus: int) -> bool:
    """Run so many jobs in one Tuner; returns whether it started any."""
    storage = tempfile.mkdtemp(prefix="sweeper-tune-")
    searcher = SessionSearcher(session)
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable, {"cpu": session.spec.threads, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=RungScheduler(searcher),
                num_samples=size,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(storage_path=storage, name=Path(storage).name, verbose=0, log_to_file=False),
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


def _ray_is_dead() -> str:
    """Return which process of the Ray that this driver started is dead; empty where all live."""
    node = ray_worker._global_node
    dead: list[Any] = [] if node is None else node.dead_processes()
    return ", ".join(str(kind) for kind, _ in dead)

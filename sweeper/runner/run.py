"""Driver of a sweep: locks the run folder, runs a session in it, and returns the results."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.analysis.curve.prior import read_priors
from sweeper.config.prepared import PreparedSweep, prepare, set_defaults
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError, StorageError
from sweeper.runner.preflight import check_sweep, describe_shortage, fit_to_ranks, measure_k_aug
from sweeper.runner.ray_tune.address import check_reachable, resolve_address
from sweeper.runner.results.results import Results, path_or_uri
from sweeper.runner.session import Session
from sweeper.runner.signals import sigterm_as_sigint
from sweeper.runner.status import QUIET, Callbacks, Status
from sweeper.runner.tracking.tracking import check_trackers, tracked, tracker_names
from sweeper.storage.checkpoints import CHECKPOINTS, clear, on_node
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import claim, locked, stored_keys, withdraw, write_start
from sweeper.storage.space_data import write_space
from sweeper.storage.tables import read_trials
from trainables.runtime import Runtime

if TYPE_CHECKING:
    from sweeper.analysis.evidence.plan import Plan

_MUCH = 0.05
"""Share of the time that is worth a line."""


def run(
    spec: SweepSpec,
    listener: Callable[[Status], None] = QUIET.listener,
    confirm: Callable[[Path | str, int], bool] = QUIET.confirm,
    say: Callable[[str], None] = QUIET.say,
    stop: Callable[[], str] = QUIET.stop,
) -> Results:
    """Run a sweep to its end, or continue it if its run folder holds a part of it.

    Args:
        spec: The sweep; `out` names the run folder.
        listener: Called with the status after every change.
        confirm: Returns whether to continue an unfinished sweep; called with its run folder and the number of
            configurations left.
        say: Called with a line about what happens before the search.
        stop: Returns why the sweep starts no further configuration; empty while it may.

    Returns:
        The results. SIGINT and SIGTERM end the sweep early: `interrupted` is then True, and finished trials stay.

    Raises:
        SpecError: The sweep cannot run; nothing was started.
        StorageError: The run folder cannot be written to; finished trials stay.
    """
    return run_prepared(prepare(spec), Callbacks(listener, confirm, say, stop))


def run_prepared(sweep: PreparedSweep, callbacks: Callbacks = QUIET) -> Results:
    """Run a prepared sweep; see `run`."""
    address = sweep.spec.address
    stored = stored_keys(sweep.spec)
    sweep = set_defaults(_resolve_address(sweep, callbacks), stored)
    sweep = _check(_read_priors(sweep, callbacks))
    if stored is None:
        for line in describe_shortage(sweep.spec):
            callbacks.say(line)
    folder, held = claim(sweep.spec, sweep.space)
    command = f"sweeper resume {shlex.quote(folder.uri)}"
    with _open_session(sweep, folder, callbacks, command) as session:
        unfinished = held and session.open and session.status.done
        if unfinished and not callbacks.confirm(path_or_uri(folder), len(session.open)):
            raise SpecError(f"{folder.text} holds a part of this sweep; `{command}` continues it")
        # an address from RAY_ADDRESS is not the sweep's: a resume may have another one
        write_start(session.run, sweep.spec if address else sweep.with_spec(address=None).spec, sweep.space)
        try:
            interrupted = _drive(session)
        except SpecError:  # the cluster cannot run it
            if not held and not session.finished:
                withdraw(session.run, sweep.spec)
            raise
        return _collect_results(session, interrupted)


def extend(sweep: PreparedSweep, plan: Plan, callbacks: Callbacks = QUIET) -> Results:
    """Run the trials of a plan in the folder of a sweep; see `sweeper.runner.extension`.

    Args:
        sweep: The sweep, of a spec from `sweeper.storage.run_folder.runnable_spec`.
        plan: The trials.
        callbacks: Functions of the caller.

    Returns:
        The results of the whole sweep; `failed` counts trials.

    Raises:
        SpecError: The plan cannot run; nothing was started.
        StorageError: The run folder cannot be written to; finished trials stay.
    """
    from sweeper.analysis.evidence.plan import PLAN_FILE, save_plan
    from sweeper.runner.extension import Extension

    sweep = _check(_resolve_address(sweep, callbacks))
    assert sweep.spec.out is not None
    folder = place_of(sweep.spec.out)
    if folder.local:
        folder = place_of(folder.local.absolute())
    command = f"sweeper extend {shlex.quote(folder.uri)}"
    with _open_session(sweep, folder, callbacks, command, partial(Extension, plan)) as session:
        write_space(session.run, sweep.space)  # an earlier version wrote none
        save_plan(plan, session.run)
        interrupted = _drive(session)
        if not session.open and not interrupted and not session.status.failed:
            session.run.remove(PLAN_FILE)
        return _collect_results(session, interrupted)


def _resolve_address(sweep: PreparedSweep, callbacks: Callbacks) -> PreparedSweep:
    return replace(sweep, spec=resolve_address(sweep.spec, callbacks.say))


def _check(sweep: PreparedSweep) -> PreparedSweep:
    check_trackers(tracker_names(sweep.spec))
    sweep = check_sweep(fit_to_ranks(sweep))
    if sweep.spec.runner == "ray" and sweep.spec.address:
        check_reachable(sweep.spec.address)
    return sweep


@contextmanager
def _open_session(
    sweep: PreparedSweep,
    folder: Place,
    callbacks: Callbacks,
    command: str,
    make: Callable[..., Session] = Session,
) -> Iterator[Session]:
    """Hold the lock of a run folder, and yield a session in it.

    Raises:
        StorageError: The folder cannot be written to; the message names the command that continues.
    """
    try:
        with locked(folder) as hold:
            folder = folder.patient()
            folder.tidy()
            runtime = _make_runtime(sweep.spec, folder)
            k_aug = measure_k_aug(sweep, runtime, callbacks.say)
            with tracked(sweep, folder, callbacks) as callbacks:
                session = make(sweep, folder, runtime, callbacks, k_aug)
                hold.lost = lambda why: session.break_off(StorageError(why))
                yield session
    except StorageError as error:
        raise StorageError(f"{error}; finished trials are kept, `{command}` continues") from None


def _make_runtime(spec: SweepSpec, folder: Place) -> Runtime:
    device = spec.resources.device(spec.device) if spec.runner == "ray" else spec.device
    if folder.local is None:
        return on_node(spec.runtime(None, device), folder)
    return replace(spec.runtime(folder.local / "bases", device), checkpoints=str(folder.local / CHECKPOINTS))


def _collect_results(session: Session, interrupted: bool) -> Results:
    if not session.open:
        session.compact()
    folder, spec = session.run, session.spec
    trials = read_trials(folder)
    rows = trials.select(["digest", "outcome"]).to_pylist()
    with suppress(SpecError, StorageError):  # a checkpoint that stays only takes up space
        clear(folder, [r["digest"] for r in rows if r["outcome"] != "failed"])  # a resume tries failed trials again
    failed = session.status.failed
    reason = session.halted if session.open or failed or session.broken else ""  # nothing is left to stop
    return Results(path_or_uri(folder), trials, spec.objective, spec.noise, interrupted, reason, failed)


def _drive(session: Session) -> bool:
    """Run a session to its end; returns whether the user interrupted it."""
    session.report()
    if not session.open:
        return False
    try:
        if session.spec.runner == "ray":
            from sweeper.runner.ray_tune.tuner import run_cluster

            run_cluster(session)
        else:
            from sweeper.runner.inline import run_inline

            with sigterm_as_sigint():
                run_inline(session)
    except KeyboardInterrupt:
        if session.broken:
            raise session.broken from None
        return session.status.done < session.status.budget
    _report_waiting(session)
    return False


def _report_waiting(session: Session) -> None:
    """Say what a fixed order costs, if it costs much."""
    status = session.status
    elapsed = time.monotonic() - (status.pace.begun or time.monotonic())
    if status.waited > _MUCH * elapsed:
        session.callbacks.say(
            f"a worker was free for {status.waited:.0f} of {elapsed:.0f} s, since it waited for the results of earlier "
            "trials; --order free does not wait"
        )


def _read_priors(sweep: PreparedSweep, callbacks: Callbacks) -> PreparedSweep:
    return sweep.with_spec(prior=read_priors(sweep, callbacks.say)) if sweep.spec.prior else sweep

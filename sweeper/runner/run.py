"""run(SweepSpec): the whole main job, for Python and the command line alike."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces import Space
from sweeper.analysis.prior import read_prior
from sweeper.config.fields import PriorNoise
from sweeper.config.space import corners
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError, StorageError
from sweeper.runner.ray_tune.address import check_reachable, joined
from sweeper.runner.results import Status
from sweeper.runner.session import Session
from sweeper.runner.signals import sigterm_as_sigint
from sweeper.search.k_aug import KAug
from sweeper.storage.checkpoints import CHECKPOINTS, clear, on_node
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import claim, locked, withdraw, write_start
from sweeper.storage.space_data import write_space
from sweeper.storage.tables import read_trials
from trainables.noise import NOISE
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.trial import TRAINABLES

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.evidence.plan import Plan
from sweeper.config.noise_default import with_usual_noise
from sweeper.runner.preflight import AUGMENTED, check_sweep, fit_to_ranks
from sweeper.runner.results import Results, path_or_uri


def run(
    spec: SweepSpec,
    listener: Callable[[Status], None] = lambda _: None,
    confirm: Callable[[Path | str, int], bool] = lambda run, left: True,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], str] = lambda: "",
) -> Results:
    """Run a sweep to its end, or continue it where its run folder holds a part of it.

    Args:
        spec: The sweep; `out` names the run folder.
        listener: Called with the status after every change.
        confirm: Asked with (run folder, configurations left) before an unfinished sweep is continued.
        say: Called with a line on what was found before the search.
        stop: Returns why no further configuration is to be started; empty where one may be.

    Returns:
        The results. SIGINT and SIGTERM end the sweep early: `interrupted` is then True, finished trials are kept.

    Raises:
        SpecError: The sweep cannot be run as asked; nothing was started.
        StorageError: The run folder cannot be written to; what is finished is kept.
    """
    asked, spec = spec.address, joined(spec, say)
    space = spec.load_space()
    spec = fit_to_ranks(_with_prior(with_usual_noise(spec, space), space, say), space)
    constants = check_sweep(spec, space)
    if spec.runner == "ray" and spec.address:
        check_reachable(spec.address)
    folder, held = claim(spec)
    again = f"`sweeper resume {shlex.quote(folder.uri)}` continues"
    with locked(folder) as hold, _kept(again):
        folder = folder.patient()
        folder.tidy()
        runtime = _runtime(spec, folder)
        k_aug = _probed(spec, space, runtime, say) if "k_aug" in NOISE[spec.noise].needs else None
        session = Session(spec, space, folder, runtime, constants, listener, k_aug)
        session.stop = stop
        hold.lost = lambda why: session.break_off(StorageError(why))
        if held and session.open and session.status.done and not confirm(path_or_uri(folder), len(session.open)):
            raise SpecError(f"{folder.text} holds a part of this sweep; {again} it")
        # what RAY_ADDRESS says is not the sweep's: it may be another at a resume
        write_start(folder, spec if asked else spec.model_copy(update={"address": None}), space)
        try:
            interrupted = _run_to_end(session)
        except SpecError:  # the cluster cannot run it
            if not held and not session.finished:
                withdraw(folder, spec)
            raise
        trials = _read_at_end(session)
    return Results(
        path_or_uri(folder), trials, spec.objective, spec.noise, interrupted, session.halted, session.status.failed
    )


def extend(
    spec: SweepSpec,
    plan: Plan,
    listener: Callable[[Status], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], str] = lambda: "",
) -> Results:
    """Run the trials of a plan in the folder of a sweep, beside its own; see `sweeper.runner.extension`.

    Args:
        spec: The sweep, as `sweeper.storage.run_folder.runnable_spec` yields it.
        plan: What to run.
        listener: Called with the status after every change.
        say: Called with a line on what was found before.
        stop: Returns why no further trial is to be started; empty where one may be.

    Returns:
        The results of the whole sweep; `failed` counts trials.

    Raises:
        SpecError: It cannot be run; nothing was started.
    """
    from sweeper.analysis.evidence.plan import PLAN_FILE, save_plan
    from sweeper.runner.extension import Extension

    spec = joined(spec, say)
    assert spec.out is not None
    space, folder = spec.load_space(), place_of(spec.out)
    if folder.local:
        folder = place_of(folder.local.absolute())
    spec = fit_to_ranks(spec, space)
    constants = check_sweep(spec, space)
    if spec.runner == "ray" and spec.address:
        check_reachable(spec.address)
    with locked(folder) as hold, _kept(f"`sweeper extend {shlex.quote(folder.uri)}` continues"):
        folder = folder.patient()
        runtime = _runtime(spec, folder)
        k_aug = _probed(spec, space, runtime, say) if "k_aug" in NOISE[spec.noise].needs else None
        session = Extension(plan, spec, space, folder, runtime, constants, listener, k_aug)
        session.stop = stop
        hold.lost = lambda why: session.break_off(StorageError(why))
        write_space(folder, space)  # an earlier version wrote none
        save_plan(plan, folder)
        interrupted = _run_to_end(session)
        if not session.open and not interrupted and not session.status.failed:
            folder.remove(PLAN_FILE)
        trials = _read_at_end(session)
    return Results(
        path_or_uri(folder), trials, spec.objective, spec.noise, interrupted, session.halted, session.status.failed
    )


def _runtime(spec: SweepSpec, folder: Place) -> Runtime:
    device = spec.resources.device(spec.device) if spec.runner == "ray" else spec.device
    if folder.local is None:
        return on_node(spec.runtime(None, device), folder)
    return replace(spec.runtime(folder.local / "bases", device), checkpoints=str(folder.local / CHECKPOINTS))


@contextmanager
def _kept(again: str) -> Iterator[None]:
    """Say of storage that fails that what is finished is kept, and how to go on."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}; finished trials are kept, {again}") from None


def _read_at_end(session: Session) -> pa.Table:
    if not session.open:
        session.compact()
    trials = read_trials(session.run)
    rows = trials.select(["digest", "outcome"]).to_pylist()
    with suppress(SpecError, StorageError):  # what is left costs room only
        clear(session.run, [r["digest"] for r in rows if r["outcome"] != "failed"])  # those are tried again
    return trials


def _run_to_end(session: Session) -> bool:
    session.listener(session.status)
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
    return False


def _with_prior(spec: SweepSpec, space: Space, say: Callable[[str], None]) -> SweepSpec:
    trainable = space.build(next(corners(space))).trainable
    read = [
        p if isinstance(p, PriorNoise) else read_prior(p, spec.objective, spec.noise, trainable, say)
        for p in spec.prior
    ]
    return spec.model_copy(update={"prior": tuple(read)}) if read else spec


def _probed(spec: SweepSpec, space: Space, runtime: Runtime, say: Callable[[str], None]) -> KAug:
    """Measure what the space's augmentation policies do to the noise at the base weights, before the search.

    Raises:
        SpecError: Nothing is trained, or the probe cannot be run.
    """
    some = space.build(next(corners(space)))
    tables = getattr(import_module(TRAINABLES[some.trainable]), "probe_tables", None)
    if tables is None:
        raise SpecError(f"noise {spec.noise!r} needs a probe of gradients, and space {spec.space!r} trains nothing")
    some = replace(some, **{k: getattr(PairSpec, k) for k in AUGMENTED if k in space.conditions})
    policies = getattr(space.knobs.get("augmentation"), "choices", (some.augmentation,))
    specs = [replace(some, augmentation=policy) for policy in dict.fromkeys((*policies, some.augmentation))]
    try:
        k_aug = KAug(tables(specs, runtime), some.augmentation, some.augmentation_strength)
    except ValueError as error:
        raise SpecError(str(error)) from None
    strongest = [f"{policy} {max(t):.1f} -> x{t[max(t)]:.2f}" for policy, t in k_aug.tables.items()]
    say(f"augmentation on the noise axis: {', '.join(strongest)}")
    return k_aug

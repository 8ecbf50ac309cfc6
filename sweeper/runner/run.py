"""run(SweepSpec): the whole main job, for Python and the command line alike."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces import Space
from search_spaces._conditions import in_order
from sweeper.config.fields import PriorNoise
from sweeper.config.points import checked_points, read_prior
from sweeper.config.spec import SpecError, SweepSpec, corners
from sweeper.runner.proposer import make_proposer
from sweeper.runner.ray_tune.address import check_reachable, joined
from sweeper.runner.session import Session, Status, build, noise_constants
from sweeper.runner.signals import sigterm_as_sigint
from sweeper.search.k_aug import KAug
from sweeper.search.noise_targets import (
    MEASURED_USUAL,
    check_defined,
    check_shown,
    check_target,
    default_noise,
    targets,
)
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.checkpoints import CHECKPOINTS, clear, on_node
from sweeper.storage.location import Place, place_of
from sweeper.storage.retry import StorageError
from sweeper.storage.run_folder import claim, locked, withdraw, write_start
from sweeper.storage.space_data import write_space
from sweeper.storage.tables import read_trials
from trainables.noise import KNOBS, NOISE
from trainables.pair.plugin import line_in
from trainables.pair.record import is_out_of_memory
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.training.optimizers import family
from trainables.trial import TRAINABLES, inspect

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.regime import Regime
    from sweeper.runner.extension import Plan


AUGMENTED = ("augmentation", "augmentation_strength")


@dataclass(frozen=True)
class Results:
    """What a sweep found.

    Attributes:
        run: The run folder; text where it is a URI.
        trials: The trials table, one row per trial.
        objective, noise: Of the sweep.
        interrupted: Whether it was stopped by the user; `resume` continues it.
        reason: Why it ended early; empty where it did not.
        failed: Configurations that failed in this session.
    """

    run: Path | str
    trials: pa.Table
    objective: str
    noise: str
    interrupted: bool = False
    reason: str = ""
    failed: int = 0

    @property
    def regime(self) -> Regime:
        """The objective as a function of noise: optimum, interval, curve."""
        from sweeper.analysis.regime import fit_regime

        return fit_regime(self.trials, self.objective, self.noise)


def load_results(run: str | Path) -> Results:
    """Return the results that a run folder holds so far.

    Raises:
        SpecError: The folder holds no sweep.
    """
    from sweeper.storage.run_folder import stored_spec

    spec, place = stored_spec(run), place_of(run)
    return Results(_where(place), read_trials(place), spec.objective, spec.noise)


def _where(place: Place) -> Path | str:
    return place.local.absolute() if place.local else place.uri


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
    spec = _apart(_with_prior(with_usual_noise(spec, space), space, say), space)
    constants = _preflight(spec, space)
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
        if held and session.open and session.status.done and not confirm(_where(folder), len(session.open)):
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
        _where(folder), trials, spec.objective, spec.noise, interrupted, session.halted, session.status.failed
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
    from sweeper.runner.extension import PLAN_FILE, Extension, keep

    spec = joined(spec, say)
    assert spec.out is not None
    space, folder = spec.load_space(), place_of(spec.out)
    if folder.local:
        folder = place_of(folder.local.absolute())
    spec = _apart(spec, space)
    constants = _preflight(spec, space)
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
        keep(plan, folder)
        interrupted = _run_to_end(session)
        if not session.open and not interrupted and not session.status.failed:
            folder.remove(PLAN_FILE)
        trials = _read_at_end(session)
    return Results(
        _where(folder), trials, spec.objective, spec.noise, interrupted, session.halted, session.status.failed
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


def _preflight(spec: SweepSpec, space: Space) -> Mapping[str, float]:
    """Build data, models and the sampler once, so that what is missing or wrong shows before anything starts.

    Returns:
        Constants for the noise formulas: `examples`.

    Raises:
        SpecError: Data, a model or the sampler cannot be built; a batch is larger than the training set.
    """
    try:
        first = next(corners(space))
        points = [*corners(space), *({**first, **point} for point in checked_points(space, spec.enqueue))]
        specs = [space.build(params) for params in points]
        _check_noise(spec, specs)
        _check_objectives(spec, specs)
        # a cluster's devices are not this machine's
        runtime = spec.runtime(None, "auto" if spec.address else None)
        constants = {"examples": inspect(specs, runtime)}
        # k_aug is probed once the run folder is there
        k_aug = KAug({s.augmentation: {0.0: 1.0, 1.0: 1.0} for s in specs}, specs[0].augmentation)
        needs = "k_aug" in NOISE[spec.noise].needs
        make_proposer(spec, space, noise_constants(space, constants), k_aug if needs else None)
    except (ValueError, KeyError) as error:
        raise SpecError(str(error)) from None
    except Exception as error:  # of a user's own model or data set
        if is_out_of_memory(error):
            raise SpecError(
                "a trial needs more memory than this process may take, before it trains: lower its model or its data "
                f"set ({' '.join(str(error).split()) or 'MemoryError'})"
            ) from None
        line = line_in(error, spec.space)
        text = " ".join(str(error).split())
        raise SpecError(f"a trial cannot be set up: {spec.space}{line}: {type(error).__name__}: {text}") from error
    _check_positive(spec, specs, constants)
    return constants


def with_usual_noise(spec: SweepSpec, space: Space) -> SweepSpec:
    """Return a sweep with the noise definition that it names, or the one that follows from the optimizers."""
    if "noise" in spec.model_fields_set:
        return spec
    return spec.model_copy(update={"noise": _usual_noise(spec, space)})


def _usual_noise(spec: SweepSpec, space: Space) -> str:
    families = {family(name) for name in _optimizers(space)}
    usual = {default_noise(f) for f in families}
    known = targets(families)
    if len(usual) == 1:
        return usual.pop()
    # no definition holds for all of them: one that is measured can at least be shown
    return next(iter(known), MEASURED_USUAL if spec.sampler != "noise" else sorted(usual)[0])


def _optimizers(space: Space) -> set[str]:
    """Return the optimizers of a space's trials."""
    if "optimizer" not in space.knobs:
        return {space.build(next(corners(space))).optimizer}
    deciding = in_order(["optimizer"], space.conditions)
    corner = {tuple(params.get(k) for k in deciding): params for params in corners(space)}
    return {space.build(params).optimizer for params in corner.values()}


def _with_prior(spec: SweepSpec, space: Space, say: Callable[[str], None]) -> SweepSpec:
    trainable = space.build(next(corners(space))).trainable
    read = [
        p if isinstance(p, PriorNoise) else read_prior(p, spec.objective, spec.noise, trainable, say)
        for p in spec.prior
    ]
    return spec.model_copy(update={"prior": tuple(read)}) if read else spec


def _apart(spec: SweepSpec, space: Space) -> SweepSpec:
    """Check what a sweep asks of the cluster, and return it without stacks where children have processes of their own.

    Raises:
        SpecError: Its trials cannot be run so.
    """
    ranks = spec.resources.ranks
    if spec.runner == "ray":
        spec.resources.device(spec.device)
    if ranks is None:
        return spec
    key = "gpus_per_member" if spec.resources.gpus_per_member else "ranks_per_member"
    if spec.runner != "ray":
        raise SpecError(f"resources.{key} needs runner ray, got {spec.runner}")
    if spec.stack == "on" and spec.repeats > 1:
        raise SpecError(f"stack on trains repeats as one, and resources.{key} each child apart: use --stack off")
    if spec.prune and ranks > 1:
        raise SpecError(f"prune needs one process a child, and resources.{key} is {ranks}: leave one of them out")
    specs = [space.build(params) for params in corners(space)]
    if len({s.members for s in specs}) > 1:
        raise SpecError(f"members must be fixed with resources.{key}: --set members=2")
    rule = f"batch_size must be a multiple of the {ranks} processes that share it (resources.{key})"
    sizes = space.knobs.get("batch_size")
    if sizes is not None and not hasattr(sizes, "choices") and getattr(sizes, "step", 1) % ranks:
        raise SpecError(f"{rule}, and the space's range holds others: give its values, or --set batch_size=N")
    if wrong := sorted({s.batch_size for s in specs if s.batch_size % ranks}):
        raise SpecError(f"{rule}, got {wrong[0]}")
    # what would not be stacked anyway stays the same sweep with other resources
    stacks = any(build(spec, space, params).stack > 1 for params in corners(space))
    return spec.model_copy(update={"stack": "off"}) if stacks else spec


def _check_noise(spec: SweepSpec, specs: Sequence[PairSpec]) -> None:
    # a search that aims at no noise may show a measured one
    if spec.noise == "paper_aug" and spec.measure == 0:
        raise SpecError("noise 'paper_aug' is measured by a probe; leave out --measure 0, or take another --noise")
    if spec.sampler == "noise":
        check_target(spec.noise)
    else:
        check_shown(spec.noise)
    check_defined(spec.noise, {s.optimizer: family(s.optimizer) for s in specs})


def _check_objectives(spec: SweepSpec, specs: Sequence[PairSpec]) -> None:
    two = any(s.pair_kind == "two_task" for s in specs)
    if two and (undefined := [name for name in spec.objectives if OBJECTIVES[name].one_task]):
        others = ", ".join(name for name, goal in OBJECTIVES.items() if not goal.one_task)
        raise SpecError(f"objective {undefined[0]!r} is not defined in pair_kind two_task; use one of {others}")


def _check_positive(spec: SweepSpec, specs: Sequence[PairSpec], constants: Mapping[str, float]) -> None:
    scale = NOISE[spec.noise]
    if scale.kind != "predicted":
        return
    settings = [{"k_aug": 1.0, **constants, **{k: getattr(s, k) for k in (*KNOBS, "beta1")}} for s in specs]
    if not any(scale.defined_at(s) and scale.predict(s) > 0 for s in settings):
        raise SpecError(
            f"noise {spec.noise!r} is 0 for every configuration, or undefined: {scale.formula}; choose another --noise"
        )


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

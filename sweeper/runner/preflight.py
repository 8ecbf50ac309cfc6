"""Checks of a sweep before its first trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import count
from pathlib import Path

from sweeper.analysis.stages.designed import MIN_LEVELS
from sweeper.config.points import convert_points
from sweeper.config.prepared import AUGMENTED, PreparedSweep
from sweeper.config.space import corner_params
from sweeper.config.spec import SweepSpec
from sweeper.config.trials import blame_proxy, is_stacked, shorten_all
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.runner.proposers.staged import make_proposer
from sweeper.search.k_aug import KAug
from sweeper.search.noise_targets import (
    check_defined,
    check_shown,
    check_target,
)
from sweeper.search.objectives import OBJECTIVES
from sweeper.search.stages import MAP, find_fewest_to_confirm, plan_stages
from trainables.noise import KNOBS, NOISE
from trainables.pair.plugin import line_in
from trainables.pair.record import is_out_of_memory
from trainables.runtime import Runtime
from trainables.spec import SEVERAL_TASKS, PairSpec
from trainables.training.optimizers import family
from trainables.trial import TRAINABLES, inspect

_NOISES = MIN_LEVELS * 3 // 2
"""Noises of a map that suffice for a verdict although a third of them may diverge."""


def check_sweep(sweep: PreparedSweep) -> PreparedSweep:
    """Build data, models and the sampler once, so that an error shows before anything starts.

    Returns:
        The sweep, with the noise constant `examples`.

    Raises:
        SpecError: The folder of the data is missing. Data, a model or the sampler cannot be built. A batch is larger
            than the training set, or the training budget of the proxy is too small.
    """
    spec, space = sweep.spec, sweep.space
    _check_data(spec)
    try:
        first = next(corner_params(space))
        enqueued = [space.build({**first, **point}) for point in convert_points(space, spec.enqueue)]
        trials = [replace(t, graphs=spec.graphs) for t in (*sweep.corners, *enqueued)]
        for trial in trials:
            is_stacked(spec, trial)  # the sweep may ask for what the trial cannot do
        _check_noise(spec, trials)
        _check_objectives(spec, trials)
        # this machine may lack the devices of a cluster
        runtime = spec.runtime(None, "auto" if spec.address else None)
        if not spec.address and spec.graphs == "on":
            from trainables.pair.setup import resolve_device

            runtime = resolve_device(runtime)
        sweep = sweep.with_constants(examples=_inspect(sweep, trials, runtime))
        # `measure_k_aug` needs the run folder, so the sampler is checked with a stand-in
        k_aug = KAug({t.augmentation: {0.0: 1.0, 1.0: 1.0} for t in trials}, trials[0].augmentation)
        make_proposer(sweep, k_aug if _needs_k_aug(spec) else None)
    except (ValueError, KeyError) as error:
        raise SpecError(str(error)) from None
    except Exception as error:  # of a user's model or data set
        if is_out_of_memory(error):
            raise SpecError(
                "a trial needs more memory than this process may take, before it trains: lower its model or its data "
                f"set ({' '.join(str(error).split()) or 'MemoryError'})"
            ) from None
        line = line_in(error, spec.space)
        text = " ".join(str(error).split())
        raise SpecError(f"a trial cannot be set up: {spec.space}{line}: {type(error).__name__}: {text}") from error
    _check_positive(spec, trials, sweep.constants)
    return sweep


def describe_shortage(spec: SweepSpec) -> tuple[str, ...]:
    """Return what a sweep has too few trials for, as sentences; empty if they suffice."""
    return tuple(filter(None, (describe_unconfirmed(spec), describe_undecided(spec))))


def describe_unconfirmed(spec: SweepSpec) -> str:
    """Return a sentence for a sweep that has too few trials to confirm its answer; empty for any other."""
    if not spec.confirm:
        return ""
    needed = find_fewest_to_confirm(spec.trials, spec.confirm, len(spec.enqueue))
    if needed == spec.trials:
        return ""
    return f"{pluralize(spec.trials, 'trial')} cannot spare fresh pairs to confirm the answer: --trials {needed} can"


def describe_undecided(spec: SweepSpec) -> str:
    """Return a sentence for a sweep whose map has too few noises for a verdict; empty for any other."""
    if not spec.map:
        return ""
    mapped = _count_mapped(spec, spec.trials)
    if mapped >= _NOISES:
        return ""
    needed = next(n for n in count(spec.trials) if _count_mapped(spec, n) >= _NOISES)
    return (
        f"a verdict needs {MIN_LEVELS} designed noises whose pairs train, and the map of "
        f"{pluralize(spec.trials, 'trial')} has {mapped}: --trials {needed} gives it {_count_mapped(spec, needed)}"
    )


def _count_mapped(spec: SweepSpec, trials: int) -> int:
    plan = plan_stages(trials, spec.map or 0.0, spec.confirm or 0.0, min(len(spec.enqueue), trials))
    return sum(len(s) for s in plan.segments if s.stage == MAP)


def _check_data(spec: SweepSpec) -> None:
    # the folders of a cluster's nodes are unknown here
    if spec.data and not spec.address and not spec.download and not Path(spec.data).is_dir():
        raise SpecError(f"data must be a folder that exists, got {spec.data}; create it, or leave --data out")


def _inspect(sweep: PreparedSweep, trials: Sequence[PairSpec], runtime: Runtime) -> int:
    """Return the training examples of the first trial; the trials, and the corners at the proxy's budget, can run."""
    share = sweep.spec.proxy
    if share is None:
        return inspect(trials, runtime)
    try:
        return inspect([*trials, *shorten_all(sweep.corners, share)], runtime)
    except ValueError as error:
        inspect(trials, runtime)  # what fails in full, too, is no fault of the proxy
        raise SpecError(blame_proxy(share, error)) from None


def measure_k_aug(sweep: PreparedSweep, runtime: Runtime, say: Callable[[str], None]) -> KAug | None:
    """Measure at the base weights how the augmentation policies of a sweep change its noise.

    Returns:
        Parameters -> k_aug; None if the sweep's noise does not depend on it.

    Raises:
        SpecError: The trials train nothing, or the measurement fails.
    """
    spec, space = sweep.spec, sweep.space
    if not _needs_k_aug(spec):
        return None
    trial = sweep.corners[0]
    tables = getattr(import_module(TRAINABLES[trial.trainable]), "probe_tables", None)
    if tables is None:
        raise SpecError(f"noise {spec.noise!r} needs a probe of gradients, and space {spec.space!r} trains nothing")
    trial = replace(trial, **{k: getattr(PairSpec, k) for k in AUGMENTED if k in space.conditions})
    policies = getattr(space.knobs.get("augmentation"), "choices", (trial.augmentation,))
    trials = [replace(trial, augmentation=policy) for policy in dict.fromkeys((*policies, trial.augmentation))]
    try:
        k_aug = KAug(tables(trials, runtime), trial.augmentation, trial.augmentation_strength)
    except ValueError as error:
        raise SpecError(str(error)) from None
    for policy, table in k_aug.tables.items():
        say(f"augmentation {policy} at strength {max(table):.1f} multiplies the noise by {table[max(table)]:.2f}")
    return k_aug


def _needs_k_aug(spec: SweepSpec) -> bool:
    return "k_aug" in NOISE[spec.noise].needs


def fit_to_ranks(sweep: PreparedSweep) -> PreparedSweep:
    """Check the resources of a sweep, and return it without stacks if every child has processes of its own.

    Raises:
        SpecError: The trials cannot run with these resources.
    """
    spec = sweep.spec
    ranks = spec.resources.ranks
    if spec.runner == "ray":
        spec.resources.device(spec.device)
    if ranks is None:
        return sweep
    key = "gpus_per_member" if spec.resources.gpus_per_member else "ranks_per_member"
    if spec.runner != "ray":
        raise SpecError(f"resources.{key} needs runner ray, got {spec.runner}")
    if spec.stack == "on" and spec.repeats > 1:
        raise SpecError(f"stack on trains repeats as one, and resources.{key} each child apart: use --stack off")
    if spec.prune and ranks > 1:
        raise SpecError(f"prune needs one process a child, and resources.{key} is {ranks}: leave one of them out")
    if ranks > 1 and any(t.noise_schedule.get("by") == "batch_size" for t in sweep.corners):
        raise SpecError(f"noise_schedule.by must be learning_rate with resources.{key} {ranks}, got batch_size")
    if len({t.members for t in sweep.corners}) > 1:
        raise SpecError(f"members must be fixed with resources.{key}: --set members=2")
    rule = f"batch_size must be a multiple of the {ranks} processes that share it (resources.{key})"
    sizes = sweep.space.knobs.get("batch_size")
    if sizes is not None and not hasattr(sizes, "choices") and getattr(sizes, "step", 1) % ranks:
        raise SpecError(f"{rule}, and the space's range holds others: give its values, or --set batch_size=N")
    if wrong := sorted({t.batch_size for t in sweep.corners if t.batch_size % ranks}):
        raise SpecError(f"{rule}, got {wrong[0]}")
    # a sweep that would not stack anyway stays the same sweep with other resources
    stacks = spec.repeats > 1 and any(is_stacked(spec, trial) for trial in sweep.corners)
    return sweep.with_spec(stack="off") if stacks else sweep


def _check_noise(spec: SweepSpec, trials: Sequence[PairSpec]) -> None:
    if spec.noise == "paper_aug" and spec.measure == 0:
        raise SpecError("noise 'paper_aug' is measured by a probe; leave out --measure 0, or take another --noise")
    if spec.sampler == "noise":
        check_target(spec.noise)
    else:  # a measured noise can be shown, but no target
        check_shown(spec.noise)
    check_defined(spec.noise, {t.optimizer: family(t.optimizer) for t in trials})


def _check_objectives(spec: SweepSpec, trials: Sequence[PairSpec]) -> None:
    for trial in trials:
        several = trial.pair_kind in SEVERAL_TASKS
        goals = {name: goal.one_task if several else goal.several_tasks for name, goal in OBJECTIVES.items()}
        if undefined := [name for name in spec.objectives if goals[name]]:
            others = ", ".join(name for name, wrong in goals.items() if not wrong)
            raise SpecError(
                f"objective {undefined[0]!r} is not defined in pair_kind {trial.pair_kind}; use one of {others}"
            )


def _check_positive(spec: SweepSpec, trials: Sequence[PairSpec], constants: Mapping[str, float]) -> None:
    scale = NOISE[spec.noise]
    if scale.kind != "predicted":
        return
    settings = [{"k_aug": 1.0, **constants, **{k: getattr(t, k) for k in KNOBS}, "beta1": t.betas[0]} for t in trials]
    if not any(scale.defined_at(s) and scale.predict(s) > 0 for s in settings):
        raise SpecError(
            f"noise {spec.noise!r} is 0 for every configuration, or undefined: {scale.formula}; choose another --noise"
        )

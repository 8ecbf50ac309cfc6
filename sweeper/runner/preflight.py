"""Checks of a sweep before its first trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_spaces import Space
from sweeper.config.points import checked_points
from sweeper.config.space import corners, noise_constants
from sweeper.config.spec import SweepSpec
from sweeper.config.trials import build
from sweeper.errors import SpecError
from sweeper.runner.proposer import make_proposer
from sweeper.search.k_aug import KAug
from sweeper.search.noise_targets import (
    check_defined,
    check_shown,
    check_target,
)
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import KNOBS, NOISE
from trainables.pair.plugin import line_in
from trainables.pair.record import is_out_of_memory
from trainables.spec import PairSpec
from trainables.training.optimizers import family
from trainables.trial import inspect

AUGMENTED = ("augmentation", "augmentation_strength")


def check_sweep(spec: SweepSpec, space: Space) -> Mapping[str, float]:
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


def fit_to_ranks(spec: SweepSpec, space: Space) -> SweepSpec:
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
